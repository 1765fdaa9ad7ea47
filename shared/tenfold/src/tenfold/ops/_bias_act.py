"""Bias and leaky ReLU in one pass."""

from __future__ import annotations

import math

from torch import Tensor

from tenfold import ref

__all__ = ["bias_act"]


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    slope: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    """Add a bias, apply leaky ReLU, gain and clamp."""
    return ref.bias_act(x, bias, slope, gain, -1.0 if clamp is None else clamp)
