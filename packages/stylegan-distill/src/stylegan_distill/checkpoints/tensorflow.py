"""TensorFlow pickles of StyleGAN2 (2019, ADA): variables to networks of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan_distill.checkpoints.nvidia import discriminator_config
from stylegan_distill.checkpoints.record import Checkpoint, build, checked
from stylegan_distill.checkpoints.unpickle import TFNetwork
from stylegan_distill.config import DiscriminatorConfig, StyleGAN2Config
from tenfold._errors import UserInputError
from tenfold.io import load_strict

__all__ = ["from_tensorflow"]

_MIN_VERSION = 4

Array = np.ndarray[Any, Any]


def from_tensorflow(content: Sequence[Any], path: str | Path) -> Checkpoint:
    """Networks of the tuple (G, D, Gs) that the restricted unpickler gave.

    Raises:
        UserInputError: not such a tuple, too old a version, an architecture that is not ours, or unfitting variables.
    """
    if len(content) != 3 or not all(isinstance(net, TFNetwork) for net in content):
        raise UserInputError(f"{path}: checkpoint: expected a tuple of three networks G, D, Gs")
    g, d, gs = content
    nets = {
        "G": _generator(g, f"{path}: G"),
        "D": _discriminator(d, f"{path}: D"),
        "G_ema": _generator(gs, f"{path}: G_ema"),
    }
    return Checkpoint(**nets, source_format="tensorflow", meta={"notes": []})


def _variables(net: TFNetwork, where: str, prefix: str = "") -> dict[str, Array]:
    """All variables, those of components under the component's name."""
    state = net.state
    version = state.get("version")
    if not isinstance(version, int) or version < _MIN_VERSION:
        raise UserInputError(f"{where}: version: got {version}; expected at least {_MIN_VERSION}")
    found = {}
    for pair in state.get("variables") or ():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], np.ndarray):
            raise UserInputError(f"{where}: variables: expected names and arrays")
        found[f"{prefix}{pair[0]}"] = pair[1]
    for name, component in (state.get("components") or {}).items():
        if isinstance(component, TFNetwork):
            found.update(_variables(component, where, f"{prefix}{name}/"))
    return found


class _Source:
    """Variables by name, each to be used."""

    def __init__(self, variables: dict[str, Array], where: str) -> None:
        self.variables = variables
        self.where = where
        self.used: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.variables

    def get(self, name: str, *, transform: Callable[[Array], Array] | None = None) -> Tensor:
        if name not in self.variables:
            raise UserInputError(f"{self.where}: {name}: missing")
        self.used.add(name)
        value = self.variables[name]
        return torch.from_numpy(np.array(transform(value) if transform else value, order="C")).float()

    def dense(self, name: str) -> Tensor:
        return self.get(name, transform=lambda v: v.T)

    def conv(self, name: str, flip: bool = False) -> Tensor:
        """(k, k, I, O) to (O, I, k, k); TensorFlow's transposed convolutions store their kernels turned."""
        return self.get(name, transform=lambda v: (v[::-1, ::-1] if flip else v).transpose(3, 2, 0, 1))


def _scalar(options: dict[str, Any], name: str, default: Any) -> Any:
    value = options.get(name, default)
    return default if value is None else value


def _generator(net: TFNetwork, where: str) -> Any:
    source = _Source(_variables(net, where), where)
    options = dict(net.state.get("static_kwargs") or {})
    old = sorted(n for n in source.variables if "ToRGB_lod" in n or n.endswith("/Skip/weight"))
    architecture = options.get("architecture", "skip")
    if old or architecture != "skip":
        raise UserInputError(
            f"{where}: architecture: {'variable ' + old[0] if old else repr(architecture)}: the 'orig' and 'resnet' "
            "generators are not supported; only 'skip' is"
        )
    sides = _sides(source, "synthesis/", "Conv1")
    layers = 0
    while source.has(f"mapping/Dense{layers}/weight"):
        layers += 1
    if not layers:
        raise UserInputError(f"{where}: mapping/Dense0/weight: missing")
    state = _mapping_state(source, layers)
    for side in sides:
        state.update(_block_state(source, side))
    widths = [len(state["synthesis.b4.const"])]
    for side in sides:
        parts = ("conv0", "conv1") if side > 4 else ("conv1",)
        widths += [len(state[f"synthesis.b{side}.{part}.weight"]) for part in parts]
    sizes = [len(state[f"mapping.fc{i}.weight"]) for i in range(layers)]
    embed = state.get("mapping.embed.weight")
    cfg = checked(
        where,
        lambda: StyleGAN2Config(
            sides[-1],
            z_dim=state["mapping.fc0.weight"].shape[1] - (0 if embed is None else len(embed)),
            c_dim=0 if embed is None else embed.shape[1],
            w_dim=sizes[-1],
            img_channels=len(state["synthesis.b4.torgb.weight"]),
            channel_base=int(_scalar(options, "fmap_base", 16384)) * 2,
            channel_max=int(_scalar(options, "fmap_max", 512)),
            mapping_layers=layers,
            mapping_widths=None if set(sizes) == {sizes[-1]} else tuple(sizes),
            mapping_lr_multiplier=float(_scalar(options, "mapping_lrmul", 0.01)),
            w_avg_beta=float(_scalar(options, "w_avg_beta", 0.995)),
            widths=tuple(widths),
            conv_clamp=options.get("conv_clamp"),
        ),
    )
    return _loaded(cfg, state, source)


def _sides(source: _Source, prefix: str, conv: str) -> list[int]:
    side, sides = 8, [4]
    while source.has(f"{prefix}{side}x{side}/{conv}/weight"):
        sides.append(side)
        side *= 2
    return sides


def _mapping_state(source: _Source, layers: int) -> dict[str, Tensor]:
    state = {"mapping.w_avg": source.get("dlatent_avg")}
    for i in range(layers):
        state[f"mapping.fc{i}.weight"] = source.dense(f"mapping/Dense{i}/weight")
        state[f"mapping.fc{i}.bias"] = source.get(f"mapping/Dense{i}/bias")
    if source.has("mapping/LabelEmbed/weight"):
        state["mapping.embed.weight"] = source.dense("mapping/LabelEmbed/weight")
        state["mapping.embed.bias"] = source.get("mapping/LabelEmbed/bias")
    return state


def _block_state(source: _Source, side: int) -> dict[str, Tensor]:
    block, theirs = f"synthesis.b{side}", f"synthesis/{side}x{side}"
    state: dict[str, Tensor] = {}
    level = int(math.log2(side))
    if side == 4:
        state[f"{block}.const"] = source.get(f"{theirs}/Const/const", transform=lambda v: v[0])
        convs = [("conv1", "Conv", 0, False)]
    else:
        convs = [("conv0", "Conv0_up", 2 * level - 5, True), ("conv1", "Conv1", 2 * level - 4, False)]
    for ours, name, noise, flip in convs:
        state[f"{block}.{ours}.weight"] = source.conv(f"{theirs}/{name}/weight", flip)
        state[f"{block}.{ours}.bias"] = source.get(f"{theirs}/{name}/bias")
        state[f"{block}.{ours}.noise_strength"] = source.get(
            f"{theirs}/{name}/noise_strength", transform=lambda v: v.reshape(())
        )
        maps = f"synthesis/noise{noise}"
        state[f"{block}.{ours}.noise_const"] = source.get(maps, transform=lambda v: v[0, 0])
        state.update(_affine(source, f"{block}.{ours}", f"{theirs}/{name}"))
    state[f"{block}.torgb.weight"] = source.conv(f"{theirs}/ToRGB/weight")
    state[f"{block}.torgb.bias"] = source.get(f"{theirs}/ToRGB/bias")
    state.update(_affine(source, f"{block}.torgb", f"{theirs}/ToRGB"))
    return state


def _affine(source: _Source, ours: str, theirs: str) -> dict[str, Tensor]:
    """TensorFlow adds the 1 at run time."""
    bias = source.get(f"{theirs}/mod_bias", transform=lambda v: v + 1)
    return {f"{ours}.affine.weight": source.dense(f"{theirs}/mod_weight"), f"{ours}.affine.bias": bias}


def _discriminator(net: TFNetwork, where: str) -> Any:
    source = _Source(_variables(net, where), where)
    options = dict(net.state.get("static_kwargs") or {})
    architecture = options.get("architecture", "resnet")
    sides = _sides(source, "", "Conv0")
    last = f"{sides[-1]}x{sides[-1]}"
    if architecture != "resnet" or not source.has(f"{last}/FromRGB/weight") or len(sides) < 2:
        raise UserInputError(f"{where}: architecture: got {architecture!r}; only 'resnet' is supported")
    if source.has("LabelEmbed/weight"):
        raise UserInputError(f"{where}: conditional discriminators of TensorFlow files are not supported")
    names = {
        f"b{sides[-1]}.fromrgb": f"{last}/FromRGB",
        **{f"b{s}.conv0": f"{s}x{s}/Conv0" for s in sides[1:]},
        **{f"b{s}.conv1": f"{s}x{s}/Conv1_down" for s in sides[1:]},
        "b4.conv": "4x4/Conv",
    }
    state = {}
    for ours, theirs in names.items():
        state[f"{ours}.weight"] = source.conv(f"{theirs}/weight")
        state[f"{ours}.bias"] = source.get(f"{theirs}/bias")
    for s in sides[1:]:
        state[f"b{s}.skip.weight"] = source.conv(f"{s}x{s}/Skip/weight")
    for ours, theirs in (("b4.fc", "4x4/Dense0"), ("b4.out", "Output")):
        state[f"{ours}.weight"] = source.dense(f"{theirs}/weight")
        state[f"{ours}.bias"] = source.get(f"{theirs}/bias")
    group = int(_scalar(options, "mbstd_group_size", 4))

    def config() -> DiscriminatorConfig:
        return discriminator_config(state, conv_clamp=options.get("conv_clamp"), mbstd_group=group)

    return _loaded(checked(where, config), state, source)


def _loaded(cfg: Any, state: dict[str, Tensor], source: _Source) -> Any:
    left = sorted(set(source.variables) - source.used - {"lod", "synthesis/lod"})
    if left:
        raise UserInputError(f"{source.where}: {left[0]}: unexpected variable ({len(left)} in all)")
    module = build(cfg)
    # The low-pass filters are no variables there.
    load_strict(module, state, allow_missing=(r".*resample_filter",), source=source.where)
    return module
