"""NVIDIA's PyTorch pickles (stylegan2-ada-pytorch, stylegan3): records to networks of ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_distill.checkpoints.record import Checkpoint, build
from stylegan_distill.checkpoints.unpickle import Recorded
from stylegan_distill.config import DiscriminatorConfig, StyleGAN2Config, StyleGAN3Config
from tenfold._errors import UserInputError
from tenfold.io import load_strict

__all__ = ["from_nvidia"]

_FILTERS = r".*(resample_filter|up_filter|down_filter)"
_LAYER = re.compile(r"synthesis\.L(\d+)_\d+_\d+\.(.+)")


def from_nvidia(content: Mapping[str, Any], path: str | Path) -> Checkpoint:
    """Networks of the dictionary that the restricted unpickler gave.

    Raises:
        UserInputError: no generator in it, an architecture that is not ours, or tensors that do not fit.
    """
    nets = {name: content.get(name) for name in ("G", "D", "G_ema")}
    if not any(isinstance(net, Recorded) for net in nets.values()):
        raise UserInputError(f"{path}: checkpoint: expected networks named G, D or G_ema")
    notes: list[str] = []
    found: dict[str, Any] = {}
    for name, net in nets.items():
        if isinstance(net, Recorded):
            found[name] = _network(net, name == "D", f"{path}: {name}", notes)
    meta = {"training_set": _plain(content.get("training_set_kwargs")), "notes": notes}
    return Checkpoint(**found, source_format="nvidia", meta=meta)


def _plain(value: Any) -> Any:
    """What JSON can hold of a value."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(type(value).__name__)


def _network(net: Recorded, is_discriminator: bool, where: str, notes: list[str]) -> nn.Module:
    state = {k: v.detach() for k, v in net.tensors().items() if isinstance(v, Tensor)}
    try:
        if is_discriminator:
            module = build(_discriminator_config(net, state))
        elif "synthesis.b4.const" in state:
            module = build(_stylegan2_config(net, state))
        elif "synthesis.input.freqs" in state:
            module = build(_stylegan3_config(net, state))
            state = _renamed(state, module)
        else:
            raise UserInputError(
                "network: neither synthesis.b4.const nor synthesis.input.freqs: no StyleGAN2 or 3"
            )
    except ValueError as error:  # of a configuration, or ours
        raise UserInputError(f"{where}: {error}") from error
    designed = {k: v.clone() for k, v in module.state_dict().items() if re.fullmatch(_FILTERS, k)}
    load_strict(module, state, source=where)
    for key, value in designed.items():
        if not torch.allclose(value, state[key].float(), rtol=1e-4, atol=1e-6):
            note = f"{where}: {key}: differs from the designed filter; the file's is used"
            warnings.warn(note, stacklevel=4)
            notes.append(note)
    return module  # type: ignore[no-any-return]


def _renamed(state: Mapping[str, Tensor], module: Any) -> dict[str, Tensor]:
    """StyleGAN3's layers are matched by their number: names hold sizes and widths."""
    names = dict(enumerate(module.synthesis.layer_names))
    renamed = {}
    for key, value in state.items():
        match = _LAYER.fullmatch(key)
        renamed[
            f"synthesis.{names[int(match[1])]}.{match[2]}" if match and int(match[1]) in names else key
        ] = value
    return renamed


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserInputError(message)


def _nested(net: Recorded) -> dict[str, Any]:
    """Constructor's keywords, those of ada's ``synthesis_kwargs`` among them."""
    keywords = net.keywords()
    return {**keywords, **(keywords.get("synthesis_kwargs") or {})}


def _mapping_fields(net: Recorded, state: Mapping[str, Tensor], layers: int) -> dict[str, Any]:
    """Sizes from the tensors, the rest from the module itself or from its keywords."""
    mapping = net.child("mapping") or Recorded("", {})
    options = net.keywords().get("mapping_kwargs") or {}
    keys = [k for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)]
    _require(bool(keys), "mapping: no layers fc0, fc1, ...")
    widths = tuple(len(state[f"mapping.fc{i}.weight"]) for i in range(len(keys)))
    w_dim = widths[-1]
    embed = state.get("mapping.embed.weight")
    c_dim = 0 if embed is None else embed.shape[1]
    first = mapping.child("fc0") or Recorded("", {})
    multiplier = first.attribute("bias_gain", options.get("lr_multiplier", 0.01))
    beta = mapping.attribute("w_avg_beta", options.get("w_avg_beta", 0.998))
    return {
        "z_dim": state["mapping.fc0.weight"].shape[1] - (0 if embed is None else len(embed)),
        "c_dim": int(net.attribute("c_dim", c_dim)),
        "w_dim": int(w_dim),
        "mapping_layers": len(keys),
        "mapping_widths": None if set(widths) == {w_dim} else widths,
        "mapping_lr_multiplier": float(multiplier),
        "w_avg_beta": float(beta),
    }


def _clamp(net: Recorded, default: float | None) -> float | None:
    """Of the layers themselves, which is what is run; else of the keywords."""

    def inside(module: Recorded) -> list[Any]:
        children = (module.state.get("_modules") or {}).values()
        own = [module.state["conv_clamp"]] if "conv_clamp" in module.state else []
        return own + [v for child in children if isinstance(child, Recorded) for v in inside(child)]

    values = inside(net)
    value = values[0] if values else _nested(net).get("conv_clamp", default)
    return None if value is None else float(value)


def _stylegan2_config(net: Recorded, state: Mapping[str, Tensor]) -> StyleGAN2Config:
    options = _nested(net)
    architecture = options.get("architecture", "skip")
    _require(architecture == "skip", f"architecture: got {architecture!r}; only 'skip' is supported")
    _require(options.get("activation", "lrelu") == "lrelu", "activation: only lrelu is supported")
    sides = sorted(int(m[1]) for k in state if (m := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", k)))
    widths = [state["synthesis.b4.const"].shape[0]]
    for side in sides:
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            key = f"synthesis.b{side}.{conv}.weight"
            _require(key in state, f"{key}: missing")
            widths.append(len(state[key]))
    image = state.get(f"synthesis.b{sides[-1]}.torgb.weight")
    _require(image is not None, "architecture: the last block has no torgb")
    assert image is not None
    kernel = state[f"synthesis.b{sides[-1]}.conv1.weight"].shape[2] if len(sides) > 1 else 3
    return StyleGAN2Config(
        sides[-1], img_channels=len(image), widths=tuple(widths), conv_clamp=_clamp(net, None),
        second_conv_kernel=kernel, **_bases(options), **_mapping_fields(net, state, 8),
    )  # fmt: skip


def _bases(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: int(options[name]) for name in ("channel_base", "channel_max") if name in options}


def _stylegan3_config(net: Recorded, state: Mapping[str, Tensor]) -> StyleGAN3Config:
    options = _nested(net)
    weights = {int(m[1]): v for k, v in state.items() if (m := _LAYER.fullmatch(k)) and m[2] == "weight"}
    _require(
        sorted(weights) == list(range(len(weights))) and len(weights) > 1, "synthesis: layers are missing"
    )
    last = len(weights) - 1
    names = (
        "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel", "margin_size", "output_scale",
        "filter_size", "lrelu_upsampling", "use_radial_filters", "magnitude_ema_beta",
    )  # fmt: skip
    channels, frequencies = state["synthesis.input.weight"].shape
    return StyleGAN3Config(
        int(net.attribute("img_resolution", 0)),
        img_channels=len(weights[last]),
        widths=(channels, *(len(weights[i]) for i in range(last))),
        fourier_channels=frequencies,
        num_layers=last,
        conv_kernel=weights[0].shape[2],
        conv_clamp=_clamp(net, 256.0),
        **{name: options[name] for name in names if name in options},
        **_bases(options),
        **_mapping_fields(net, state, 2),
    )


def _discriminator_config(net: Recorded, state: Mapping[str, Tensor]) -> DiscriminatorConfig:
    options = net.keywords()
    options = {**options, **(options.get("block_kwargs") or {})}
    architecture = options.get("architecture", "resnet")
    _require(architecture == "resnet", f"architecture: got {architecture!r}; only 'resnet' is supported")
    return discriminator_config(
        state,
        conv_clamp=_clamp(net, None),
        c_dim=int(net.attribute("c_dim", 0)),
        mbstd_group=(options.get("epilogue_kwargs") or {}).get("mbstd_group_size", 4),
        **_bases(options),
    )


def discriminator_config(state: Mapping[str, Tensor], **fields: Any) -> DiscriminatorConfig:
    """Sizes of a discriminator from its tensors, in our names."""
    sides = sorted(int(m[1]) for k in state if (m := re.fullmatch(r"b(\d+)\.conv0\.weight", k)))
    _require(bool(sides) and "b4.fc.weight" in state, "D: blocks are missing")
    width = len(state["b4.fc.weight"])
    widths = (width, *(len(state[f"b{side}.conv0.weight"]) for side in sides))
    return DiscriminatorConfig(
        sides[-1],
        img_channels=state[f"b{sides[-1]}.fromrgb.weight"].shape[1],
        widths=widths,
        mbstd_channels=state["b4.conv.weight"].shape[1] - state["b4.conv.weight"].shape[0],
        mapping_layers=sum(1 for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)) or 8,
        **fields,
    )
