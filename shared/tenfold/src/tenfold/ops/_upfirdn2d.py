"""Resampling of feature maps by FIR filters: up, filter, down."""

from __future__ import annotations

from torch import Tensor

from tenfold import ref

__all__ = ["upfirdn2d"]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _four(value: int | tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (value, value, value, value) if isinstance(value, int) else value


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    *,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
    padding: int | tuple[int, int, int, int] = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Resample maps by a FIR filter."""
    return ref.upfirdn2d(x, filter, _pair(up), _pair(down), _four(padding), flip, gain)
