"""The alias-free activation of StyleGAN3."""

from __future__ import annotations

import math

from torch import Tensor

from tenfold import ref

__all__ = ["filtered_lrelu"]


def filtered_lrelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    up_filter: Tensor | None = None,
    down_filter: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | tuple[int, int, int, int] = 0,
    slope: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
    flip: bool = False,
) -> Tensor:
    """Upsample, apply leaky ReLU, downsample."""
    one = x.new_ones(1)
    four = (padding,) * 4 if isinstance(padding, int) else padding
    fu, fd = one if up_filter is None else up_filter, one if down_filter is None else down_filter
    limit = -1.0 if clamp is None else clamp
    return ref.filtered_lrelu(x, bias, fu, fd, up, down, four, flip, slope, gain, limit)
