"""Weights of spconv models: three layouts, and the 1x1x1 layers that spconv reads in its own way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tenfold.io import KeyReport, load_strict
from tenfold.sparse._layers import SparseConv3d, SparseInverseConv3d, _Convolution

__all__ = ["convert_spconv_state_dict", "load_spconv_state_dict"]

# Axes of the stored tensor that give (C_out, kz, ky, kx, C_in).
_LAYOUTS = {"KRSC": (0, 1, 2, 3, 4), "RSCK": (4, 0, 1, 2, 3), "RSKC": (3, 0, 1, 2, 4)}


def _layers(model: nn.Module) -> dict[str, _Convolution]:
    """Sparse layers by the name of their weight."""
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, _Convolution)
    }


def _fitting(layer: _Convolution, stored: Any) -> set[str]:
    """Layouts in which a stored tensor has the shape of the layer's weight."""
    shape = tuple(getattr(stored, "shape", ()))
    wanted = tuple(layer.weight.shape)
    return {
        key for key, axes in _LAYOUTS.items() if len(shape) == 5 and tuple(shape[a] for a in axes) == wanted
    }


def _choose(fits: Mapping[str, set[str]], shapes: Mapping[str, Any]) -> str:
    """The one layout that fits all layers together: one of them alone often fits several."""
    common = set(_LAYOUTS).intersection(*fits.values())
    if len(common) == 1:
        return common.pop()
    names = sorted(common)
    first = next(iter(fits))
    if not common:
        raise ValueError(
            "load_spconv_state_dict: layout: no single layout fits all sparse weights: "
            + "; ".join(
                f"{name} {tuple(shapes[name].shape)} fits {' or '.join(sorted(f))}"
                for name, f in fits.items()
            )
        )
    raise ValueError(
        f"load_spconv_state_dict: layout: the shapes fit {' and '.join(names)} (as {first}, "
        f"{tuple(shapes[first].shape)}); pass the layout: KRSC for spconv 2, RSCK for spconv 1"
    )


def _is_pointwise(layer: _Convolution) -> bool:
    """Whether spconv computes the layer as one matrix product."""
    if isinstance(layer, SparseInverseConv3d) or math.prod(layer.kernel_size) != 1:
        return False
    return not isinstance(layer, SparseConv3d) or math.prod(layer.geometry[1]) == 1


def _convert(layer: _Convolution, stored: Tensor, layout: str) -> Tensor:
    if _is_pointwise(layer):
        # spconv multiplies by this memory read as (C_in, C_out), in whatever order its axes claim to be.
        return stored.reshape(layer.in_channels, layer.out_channels).t().reshape(layer.weight.shape)
    return stored.permute(_LAYOUTS[layout])


def _converted(model: nn.Module, state: Mapping[str, Any], layout: str) -> tuple[dict[str, Any], list[str]]:
    """The state dict in our layout, and the sparse weights that fit no layout (left as they are)."""
    if layout != "auto" and layout not in _LAYOUTS:
        raise ValueError(
            f"load_spconv_state_dict: layout: got {layout!r}; expected auto, {', '.join(_LAYOUTS)}"
        )
    layers = {name: layer for name, layer in _layers(model).items() if name in state}
    fits = {name: _fitting(layer, state[name]) for name, layer in layers.items()}
    misfits = [name for name, found in fits.items() if not found]
    fits = {name: found for name, found in fits.items() if found}
    if layout == "auto" and fits:
        layout = _choose(fits, state)
    wrong = [name for name, found in fits.items() if layout not in found]
    if wrong:
        raise ValueError(
            f"load_spconv_state_dict: layout: {layout} does not fit "
            + ", ".join(f"{name} {tuple(state[name].shape)}" for name in wrong)
            + f"; {' or '.join(sorted(fits[wrong[0]]))} fits the first"
        )
    ours = {name: _convert(layers[name], state[name], layout) for name in fits}
    return {**state, **ours}, misfits


def convert_spconv_state_dict(
    model: nn.Module, state: Mapping[str, Tensor], layout: str = "auto"
) -> dict[str, Tensor]:
    """Bring the weights of an spconv model into the layout of our layers; other entries pass through.

    Args:
        model: holds our sparse layers under the same names.
        state: the state dict of the spconv model.
        layout: see `load_spconv_state_dict`, which also copies the result.

    Returns:
        A state dict for ``model.load_state_dict``.

    Raises:
        ValueError: as `load_spconv_state_dict`; also a weight that fits no layout.
    """
    converted, misfits = _converted(model, state, layout)
    if misfits:
        wanted = {name: tuple(_layers(model)[name].weight.shape) for name in misfits}
        raise ValueError(
            "convert_spconv_state_dict: state: "
            + "; ".join(
                f"{n}: got shape {tuple(state[n].shape)}, expected {w} in some layout"
                for n, w in wanted.items()
            )
        )
    return converted


def load_spconv_state_dict(
    model: nn.Module, state: Mapping[str, Any], layout: str = "auto", *, source: str = "spconv state dict"
) -> KeyReport:
    """Copy the state dict of an spconv model into a module of our layers; every key of both sides must fit.

    Args:
        model: holds our sparse layers under the names that the state dict uses; other modules load as usual.
        state: names and tensors.
        layout: axes of the stored sparse weights: "KRSC" (C_out, kz, ky, kx, C_in), spconv 2; "RSCK"
            (kz, ky, kx, C_in, C_out), spconv 1; "RSKC" (kz, ky, kx, C_out, C_in); or "auto", the one that
            fits the shapes of all layers together.
        source: what messages call the state dict.

    Returns:
        The report, with every key loaded.

    Raises:
        CheckpointMismatchError: missing, unexpected or reshaped keys; nothing is copied.
        ValueError: several layouts fit all shapes, or no single one does.

    Source:
        Layers of kernel volume 1 (and stride 1) are one matrix product in spconv, which reads the stored
        memory as (C_in, C_out) whatever the layout; that is undone here. spconv issue 556 is what forgetting
        it looks like: a model that loads without an error and performs badly.

    Example:
        >>> import torch
        >>> from tenfold.sparse import SparseSequential, SubMConv3d
        >>> model = SparseSequential(SubMConv3d(2, 5, 3, bias=False))
        >>> load_spconv_state_dict(model, {"0.weight": torch.zeros(3, 3, 3, 2, 5)}).loaded
        ['0.weight']
    """
    converted, _ = _converted(model, state, layout)
    return load_strict(model, converted, source=source)
