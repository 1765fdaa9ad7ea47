"""Reference of the alias-free activation: up by a FIR filter, leaky ReLU, down by a FIR filter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tenfold.ref._bias_act import activate, activation_slope
from tenfold.ref._upfirdn2d import upfirdn2d

__all__ = ["filtered_lrelu", "filtered_lrelu_gate"]


def _up(
    x: Tensor, bias: Tensor | None, filter: Tensor, up: int, padding: Sequence[int], flip: bool
) -> Tensor:
    if bias is not None:
        x = x + bias[:, None, None]
    return upfirdn2d(x, filter, (up, up), (1, 1), padding, flip, float(up * up))


def filtered_lrelu(
    x: Tensor,
    bias: Tensor | None,
    up_filter: Tensor,
    down_filter: Tensor,
    up: int,
    down: int,
    padding: Sequence[int],
    flip: bool,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """Return (B, C, H', W') of x (B, C, H, W) and bias (C,)."""
    u = activate(_up(x, bias, up_filter, up, padding, flip), slope, gain, clamp)
    return upfirdn2d(u, down_filter, (1, 1), (down, down), (0, 0, 0, 0), flip, 1.0)


def filtered_lrelu_gate(
    v: Tensor,
    x: Tensor,
    bias: Tensor | None,
    v_filter: Tensor,
    x_filter: Tensor,
    down_filter: Tensor,
    v_up: int,
    x_up: int,
    down: int,
    v_padding: Sequence[int],
    x_padding: Sequence[int],
    down_padding: Sequence[int],
    flips: Sequence[bool],
    scale: float,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """Return v, brought to the activation, times its derivative there, brought down.

    This one form is the derivative of `filtered_lrelu` along v, its transpose (the gradient), and the derivative of
    either in v. ``flips`` are those of v's, of x's and of the filter down; ``scale`` multiplies v.
    """
    u = _up(x, bias, x_filter, x_up, x_padding, flips[1])
    raised = upfirdn2d(v, v_filter, (v_up, v_up), (1, 1), v_padding, flips[0], scale)
    gated = raised * activation_slope(u, slope, gain, clamp)
    return upfirdn2d(gated, down_filter, (1, 1), (down, down), down_padding, flips[2], 1.0)
