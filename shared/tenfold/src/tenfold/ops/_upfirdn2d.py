"""Resampling of feature maps by FIR filters: up, filter, down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tenfold import ref
from tenfold.ops._checks import HALVES, as_compute, require, require_float, require_shape
from tenfold.ops._library import define, invoke

__all__ = ["upfirdn2d"]

MOST_TAPS = 1024
MOST_FACTOR = 64


def taps_of(filter: Tensor) -> tuple[int, int]:
    """Taps along y and along x."""
    return (filter.shape[0], filter.shape[0]) if filter.dim() == 1 else (filter.shape[0], filter.shape[1])


def out_size(size: int, up: int, down: int, low: int, high: int, taps: int) -> int:
    """Samples along an axis behind the filter."""
    return (size * up + low + high - taps) // down + 1


def map_size(
    shape: Sequence[int], filter: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """Height and width behind the filter of a map whose shape ends with its own."""
    left, right, top, bottom = padding
    ky, kx = taps_of(filter)
    height = out_size(shape[-2], up[0], down[0], top, bottom, ky)
    return height, out_size(shape[-1], up[1], down[1], left, right, kx)


def transposed_padding(
    size: tuple[int, int],
    out: tuple[int, int],
    filter: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
) -> list[int]:
    """Padding with which the turned filter, up and down exchanged, takes gradients (out) back to inputs (size)."""
    (ky, kx), (height, width) = taps_of(filter), size
    left, top = kx - 1 - padding[0], ky - 1 - padding[2]
    right = (width - 1) * up[1] + kx - out[1] * down[1] - left
    bottom = (height - 1) * up[0] + ky - out[0] * down[0] - top
    return [left, right, top, bottom]


def _fake(
    x: Tensor,
    filter: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    return x.new_empty((*x.shape[:2], *map_size(x.shape, filter, up, down, padding)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filter, ctx.up, ctx.down, ctx.padding, ctx.flip, ctx.gain = inputs
    ctx.size = tuple(x.shape[2:])
    ctx.save_for_backward(filter)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (filter,) = ctx.saved_tensors
    out = (grad.shape[2], grad.shape[3])
    back = transposed_padding(ctx.size, out, filter, ctx.up, ctx.down, ctx.padding)
    grad_x = invoke(_upfirdn2d, grad, filter, ctx.down, ctx.up, back, not ctx.flip, ctx.gain)
    return grad_x, None, None, None, None, None, None


_upfirdn2d = define(
    "upfirdn2d(Tensor x, Tensor filter, int[] up, int[] down, SymInt[] padding, bool flip, float gain) -> Tensor",
    contract=1,
    reference=ref.upfirdn2d,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def check_map(op: str, name: str, x: Tensor) -> None:
    """Raise unless x is a batch of feature maps."""
    require_float(op, name, x)
    require_shape(op, name, x, ("B", "C", "H", "W"))


def check_filter(op: str, name: str, filter: Tensor, x: Tensor) -> None:
    """Raise unless filter holds taps for x."""
    require_float(op, name, filter)
    fine = filter.dim() in (1, 2) and all(1 <= n <= MOST_TAPS for n in filter.shape)
    require(
        fine,
        f"{op}: {name}: got shape {tuple(filter.shape)}; expected (K,) or (KH, KW), each from 1 to {MOST_TAPS}",
    )
    require(filter.device == x.device, f"{op}: {name}: on {filter.device}; expected {x.device}")
    if filter.requires_grad:
        raise ValueError(f"{op}: {name}: requires a gradient; filters receive none, detach it")


def factors(op: str, name: str, value: int | Sequence[int]) -> list[int]:
    """(vertical, horizontal) factors of one number or two."""
    both = [value, value] if isinstance(value, int) else list(value)
    fine = len(both) == 2 and all(1 <= f <= MOST_FACTOR for f in both)
    require(fine, f"{op}: {name}: got {value}; expected one or two numbers from 1 to {MOST_FACTOR}")
    return both


def four(op: str, value: int | Sequence[int]) -> list[int]:
    """(left, right, top, bottom) of one number or four."""
    all_four = list(value) if isinstance(value, Sequence) else [value] * 4
    require(len(all_four) == 4, f"{op}: padding: got {value}; expected one number or four")
    return all_four


def check_size(op: str, size: tuple[int, int], x: Tensor) -> None:
    """Raise where a padded map is smaller than the filter."""
    require(
        size[0] >= 1 and size[1] >= 1,
        f"{op}: x: got shape {tuple(x.shape)}; expected maps that are, padded, as large as the filter",
    )


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Resample maps: put zeros between the pixels, pad, convolve with a FIR filter, keep every down-th pixel.

    ``y[j] = gain * sum over k of c[k] s[down j + k - left]`` along both axes, where s holds x at every up-th place and
    zeros elsewhere, and c is the filter turned round. Zeros are never multiplied, and the steps in between are never
    written to memory. A 2-D filter that is the outer product of two runs as these two.

    Args:
        x: (B, C, H, W) float32, float64 or half precision (then computed in float32).
        filter: (K,) taps for both axes or (KH, KW), at most 1024 along an axis. It receives no gradient.
        up: zeros behind each pixel plus one, for both axes or (vertical, horizontal), up to 64. Put there behind the
            last pixel too.
        down: one of so many pixels is kept; likewise.
        padding: zeros around the stuffed map: left, right, top, bottom, or one number. Negative ones crop.
        flip: correlate with the filter as it is, instead of convolving.
        gain: factor of the result; up * up keeps the mean where the filter's sum is 1.

    Returns:
        (B, C, H', W') in the dtype of x, H' = floor((H up + top + bottom - KH) / down) + 1. Differentiable in x any
        number of times: its gradient is upfirdn2d with ``up`` and ``down`` exchanged.

    Raises:
        ValueError: wrong shapes or factors, or a padded map smaller than the filter.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> from tenfold.ops import upfirdn2d
        >>> taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        >>> upfirdn2d(torch.tensor([[[[1.0, 5.0]]]]), taps, up=2, padding=(1, 0, 1, 1), gain=4.0)
        tensor([[[[1.0000, 3.0000, 5.0000],
                  [0.5000, 1.5000, 2.5000]]]])
    """
    op = "upfirdn2d"
    check_map(op, "x", x)
    check_filter(op, "filter", filter, x)
    both_up, both_down, pads = factors(op, "up", up), factors(op, "down", down), four(op, padding)
    check_size(op, map_size(x.shape, filter, both_up, [1, 1], pads), x)
    wide = as_compute(x)
    result: Tensor = invoke(
        _upfirdn2d, wide, filter.to(wide.dtype), both_up, both_down, pads, flip, float(gain)
    )
    return result.to(x.dtype) if x.dtype in HALVES else result
