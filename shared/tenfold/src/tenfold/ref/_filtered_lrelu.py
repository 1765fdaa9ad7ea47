"""Reference of the alias-free activation: up by a FIR filter, leaky ReLU, down by a FIR filter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tenfold.ref._bias_act import activate
from tenfold.ref._upfirdn2d import upfirdn2d

__all__ = ["filtered_lrelu"]


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
