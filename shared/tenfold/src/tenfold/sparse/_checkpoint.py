"""Weights of spconv models: three layouts, and the 1x1x1 layers that spconv reads in its own way."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from tenfold.sparse._layers import SparseInverseConv3d, _Convolution

__all__ = ["convert_spconv_state_dict"]

# Axes of the stored tensor that give (C_out, kz, ky, kx, C_in).
_LAYOUTS = {"KRSC": (0, 1, 2, 3, 4), "RSCK": (4, 0, 1, 2, 3), "RSKC": (3, 0, 1, 2, 4)}


def _convert(name: str, layer: _Convolution, stored: Tensor, layout: str) -> Tensor:
    wanted = layer.weight.shape
    fitting = [
        key
        for key, axes in _LAYOUTS.items()
        if layout in ("auto", key) and stored.dim() == 5 and tuple(stored.shape[a] for a in axes) == tuple(wanted)
    ]
    if not fitting:
        raise ValueError(
            f"convert_spconv_state_dict: {name}: got shape {tuple(stored.shape)}; no layout of {layout} gives "
            f"{tuple(wanted)} (C_out, kz, ky, kx, C_in)"
        )
    if len(fitting) > 1:
        raise ValueError(
            f"convert_spconv_state_dict: {name}: shape {tuple(stored.shape)} fits {' and '.join(fitting)}; "
            "pass the layout: KRSC for spconv 2, RSCK for spconv 1"
        )
    pointwise = math.prod(layer.kernel_size) == 1 and not isinstance(layer, SparseInverseConv3d)
    if fitting[0] == "KRSC" and pointwise:
        # spconv 2 multiplies by this memory read as (C_in, C_out), not by the transpose of (C_out, C_in).
        return stored.reshape(layer.in_channels, layer.out_channels).t().reshape(wanted)
    return stored.permute(_LAYOUTS[fitting[0]])


def convert_spconv_state_dict(model: nn.Module, state: Mapping[str, Tensor], layout: str = "auto") -> dict[str, Tensor]:
    """Bring the weights of an spconv model into the layout of our layers; other entries pass through.

    Args:
        model: holds our sparse layers under the same names.
        state: the state dict of the spconv model.
        layout: "KRSC" (spconv 2), "RSCK" (spconv 1), "RSKC", or "auto", which decides by shape.

    Returns:
        A state dict for ``model.load_state_dict``.

    Raises:
        ValueError: a weight fits no layout, or, for "auto", more than one.

    Source:
        spconv 2 stores (C_out, kz, ky, kx, C_in); its layers of kernel volume 1 read that memory as a
        (C_in, C_out) matrix, which is undone here (spconv issue 556 is what forgetting it looks like).
    """
    if layout != "auto" and layout not in _LAYOUTS:
        raise ValueError(f"convert_spconv_state_dict: layout: got {layout!r}; expected auto, {', '.join(_LAYOUTS)}")
    layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, _Convolution)}
    return {
        name: _convert(name, layers[name], value, layout) if name in layers else value for name, value in state.items()
    }
