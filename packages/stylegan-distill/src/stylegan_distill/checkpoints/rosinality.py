"""Checkpoints of the PyTorch StyleGAN2 that CAGAN and StyleKD build on; no kernels are turned between the two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stylegan_distill.checkpoints.nvidia import discriminator_config
from stylegan_distill.checkpoints.record import Checkpoint, build, checked
from stylegan_distill.config import StyleGAN2Config
from tenfold._errors import UserInputError
from tenfold.io import convert_state_dict, load_strict

__all__ = ["from_rosinality", "is_rosinality"]


def is_rosinality(content: Any) -> bool:
    """Whether a loaded file looks like one."""
    return isinstance(content, Mapping) and any(isinstance(content.get(k), Mapping) for k in ("g", "g_ema"))


def from_rosinality(content: Mapping[str, Any], path: str | Path) -> Checkpoint:
    """Networks of {g, d, g_ema, latent_avg}; widths come from the tensors, so that pruned files load too.

    Raises:
        UserInputError: tensors that are missing or do not fit.
    """
    average = content.get("latent_avg")
    nets: dict[str, Any] = {}
    for ours, theirs in (("G", "g"), ("G_ema", "g_ema")):
        if isinstance(content.get(theirs), Mapping):
            nets[ours] = _generator(content[theirs], average, f"{path}: {theirs}")
    if isinstance(content.get("d"), Mapping):
        nets["D"] = _discriminator(content["d"], f"{path}: d")
    notes = (
        []
        if isinstance(average, Tensor)
        else [f"{path}: latent_avg: missing; w_avg is estimated from 10,000 codes"]
    )
    return Checkpoint(**nets, source_format="rosinality", meta={"notes": notes})


def _tensors(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    bad = [k for k, v in state.items() if not isinstance(v, Tensor)]
    if bad:
        raise UserInputError(f"{where}: {bad[0]}: expected a tensor")
    return {k.removeprefix("module."): v for k, v in state.items()}


def _styled(pattern: str, ours: str) -> list[Any]:
    """Rules of one convolution with style: weight, modulation, noise strength, bias."""
    return [
        (rf"{pattern}\.conv\.weight", f"{ours}.weight", lambda v: v[0]),
        (rf"{pattern}\.conv\.modulation\.(weight|bias)", rf"{ours}.affine.\1"),
        (rf"{pattern}\.noise\.weight", f"{ours}.noise_strength", lambda v: v.reshape(())),
        (rf"{pattern}\.activate\.bias", f"{ours}.bias"),
        (rf"{pattern}\.conv\.blur\.kernel", None),
    ]


def _image(pattern: str, ours: str) -> list[Any]:
    return [
        (rf"{pattern}\.conv\.weight", f"{ours}.weight", lambda v: v[0]),
        (rf"{pattern}\.conv\.modulation\.(weight|bias)", rf"{ours}.affine.\1"),
        (rf"{pattern}\.bias", f"{ours}.bias", lambda v: v.reshape(-1)),
        (rf"{pattern}\.upsample\.kernel", None),
    ]


def _used(rules: list[Any], state: Mapping[str, Tensor]) -> list[Any]:
    """Rules that match something: not every file keeps its filters or noise maps."""
    return [rule for rule in rules if any(re.fullmatch(rule[0], key) for key in state)]


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len([k for k in state if re.fullmatch(pattern, k)])


def _generator(given: Mapping[str, Any], average: Any, where: str) -> Any:
    state = _tensors(given, where)
    blocks = _count(state, r"to_rgbs\.\d+\.conv\.weight")
    layers = _count(state, r"style\.\d+\.weight")
    if not layers or "input.input" not in state or "conv1.conv.weight" not in state:
        raise UserInputError(f"{where}: expected the keys style.1.weight, input.input and conv1.conv.weight")
    rules: list[Any] = [(rf"style\.{i + 1}\.(weight|bias)", rf"mapping.fc{i}.\1") for i in range(layers)]
    rules += [("input\\.input", "synthesis.b4.const", lambda v: v[0])]
    rules += [*_styled("conv1", "synthesis.b4.conv1"), *_image("to_rgb1", "synthesis.b4.torgb")]
    rules += [(r"noises\.noise_0", "synthesis.b4.conv1.noise_const", lambda v: v[0, 0])]
    for j in range(blocks):
        block = f"synthesis.b{8 * 2**j}"
        for part in (0, 1):
            rules += _styled(rf"convs\.{2 * j + part}", f"{block}.conv{part}")
            noise = rf"noises\.noise_{2 * j + 1 + part}"
            rules.append((noise, f"{block}.conv{part}.noise_const", lambda v: v[0, 0]))
        rules += _image(rf"to_rgbs\.{j}", f"{block}.torgb")
    converted = convert_state_dict(state, _used(rules, state))
    widths = [len(converted["synthesis.b4.const"]), len(converted["synthesis.b4.conv1.weight"])]
    for j in range(blocks):
        for part in (0, 1):
            key = f"synthesis.b{8 * 2**j}.conv{part}.weight"
            if key not in converted:
                raise UserInputError(f"{where}: convs.{2 * j + part}.conv.weight: missing")
            widths.append(len(converted[key]))
    sizes = [len(converted[f"mapping.fc{i}.weight"]) for i in range(layers)]
    last = f"synthesis.b{4 * 2**blocks}.conv1.weight"
    cfg = checked(
        where,
        lambda: StyleGAN2Config(
            4 * 2**blocks,
            z_dim=converted["mapping.fc0.weight"].shape[1],
            w_dim=sizes[-1],
            mapping_layers=layers,
            mapping_widths=None if set(sizes) == {sizes[-1]} else tuple(sizes),
            widths=tuple(widths),
            second_conv_kernel=converted[last].shape[2] if blocks else 3,
        ),
    )
    module = build(cfg)
    # Filters are designed; stored noise maps are missing in old files, and then stay our random ones.
    optional = (r".*resample_filter", r".*noise_const", r"mapping\.w_avg")
    load_strict(module, converted, allow_missing=optional, source=where)
    _set_average(module, average)
    return module


def _set_average(module: Any, average: Any) -> None:
    """Truncation needs the mean of w: the file's, or the mean over codes of a fixed seed."""
    import torch

    with torch.no_grad():
        if isinstance(average, Tensor):
            module.mapping.w_avg.copy_(average.reshape(-1))
            return
        z = torch.randn(10_000, module.z_dim, generator=torch.Generator().manual_seed(0))
        module.mapping.w_avg.copy_(module.mapping.style(z).mean(dim=0))


def _discriminator(given: Mapping[str, Any], where: str) -> Any:
    state = _tensors(given, where)
    blocks = _count(state, r"convs\.\d+\.conv1\.0\.weight")
    if not blocks:
        raise UserInputError(f"{where}: convs.1.conv1.0.weight: missing")
    side = 4 * 2**blocks
    rules: list[Any] = [
        (r"convs\.0\.0\.weight", f"b{side}.fromrgb.weight"),
        (r"convs\.0\.1\.bias", f"b{side}.fromrgb.bias"),
    ]
    for i in range(1, blocks + 1):
        block = f"b{side // 2 ** (i - 1)}"
        rules += [
            (rf"convs\.{i}\.conv1\.0\.weight", f"{block}.conv0.weight"),
            (rf"convs\.{i}\.conv1\.1\.bias", f"{block}.conv0.bias"),
            (rf"convs\.{i}\.conv2\.1\.weight", f"{block}.conv1.weight"),
            (rf"convs\.{i}\.conv2\.2\.bias", f"{block}.conv1.bias"),
            (rf"convs\.{i}\.skip\.1\.weight", f"{block}.skip.weight"),
        ]
    rules += [
        (r"convs\.\d+\.\w+\.0\.kernel", None),
        (r"final_conv\.0\.weight", "b4.conv.weight"),
        (r"final_conv\.1\.bias", "b4.conv.bias"),
        (r"final_linear\.0\.(weight|bias)", r"b4.fc.\1"),
        (r"final_linear\.1\.(weight|bias)", r"b4.out.\1"),
    ]
    converted = convert_state_dict(state, _used(rules, state))
    module = build(checked(where, lambda: discriminator_config(converted)))
    load_strict(module, converted, allow_missing=(r".*resample_filter",), source=where)
    return module
