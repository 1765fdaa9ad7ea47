"""The alias-free activation of StyleGAN3: leaky ReLU at a higher resolution, between two FIR filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tenfold import ref
from tenfold.ops._bias_act import check_activation, check_bias
from tenfold.ops._checks import HALVES, as_compute, require
from tenfold.ops._library import define, invoke
from tenfold.ops._upfirdn2d import (
    MOST_FACTOR,
    check_filter,
    check_map,
    check_size,
    four,
    map_size,
    transposed_padding,
)

__all__ = ["filtered_lrelu"]

_NO_PADDING = (0, 0, 0, 0)


def _fake_gate(
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
    mid = map_size(v.shape, v_filter, (v_up, v_up), (1, 1), v_padding)
    return v.new_empty((*v.shape[:2], *map_size(mid, down_filter, (1, 1), (down, down), down_padding)))


def _setup_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    v, x, bias, v_filter, x_filter, down_filter, *ctx.rest = inputs
    ctx.size = tuple(v.shape[2:])
    ctx.save_for_backward(x, bias, v_filter, x_filter, down_filter)


def _backward_gate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Linear in v: the transpose goes up by the turned filter down, and down by v's; the derivative stays."""
    x, bias, v_filter, x_filter, down_filter = ctx.saved_tensors
    v_up, x_up, down, v_padding, x_padding, down_padding, flips, *tail = ctx.rest
    g = _transposed(
        grad,
        x,
        bias,
        (v_filter, x_filter, down_filter),
        (v_up, x_up, down),
        (v_padding, x_padding, down_padding),
        flips,
        tail,
        ctx.size,
    )
    return (g, *[None] * 16)


def _transposed(
    grad: Tensor,
    x: Tensor,
    bias: Tensor | None,
    filters: tuple[Tensor, Tensor, Tensor],
    factors: tuple[int, int, int],
    paddings: tuple[Sequence[int], Sequence[int], Sequence[int]],
    flips: Sequence[bool],
    tail: Sequence[float],
    size: tuple[int, int],
) -> Tensor:
    """The gate's transpose, which is a gate: from the size of its result to that of v, given here."""
    v_filter, x_filter, down_filter = filters
    v_up, x_up, down = factors
    v_padding, x_padding, down_padding = paddings
    mid = map_size(size, v_filter, (v_up, v_up), (1, 1), v_padding)
    out = (grad.shape[2], grad.shape[3])
    up = transposed_padding(mid, out, down_filter, (1, 1), (down, down), down_padding)
    back = transposed_padding(size, mid, v_filter, (v_up, v_up), (1, 1), v_padding)
    turned = [not flips[2], flips[1], not flips[0]]
    args = (down_filter, x_filter, v_filter, down, x_up, v_up, up, x_padding, back, turned, *tail)
    result: Tensor = invoke(_gate, grad, x, bias, *args)
    return result


_gate = define(
    "filtered_lrelu_gate(Tensor v, Tensor x, Tensor? bias, Tensor v_filter, Tensor x_filter, Tensor down_filter, "
    "int v_up, int x_up, int down, SymInt[] v_padding, SymInt[] x_padding, SymInt[] down_padding, bool[] flips, "
    "float scale, float slope, float gain, float clamp) -> Tensor",
    contract=1,
    reference=ref.filtered_lrelu_gate,
    fake=_fake_gate,
    backward=_backward_gate,
    setup_context=_setup_gate,
)


def _fake(
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
    mid = map_size(x.shape, up_filter, (up, up), (1, 1), padding)
    return x.new_empty((*x.shape[:2], *map_size(mid, down_filter, (1, 1), (down, down), _NO_PADDING)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, up_filter, down_filter, *ctx.rest = inputs
    ctx.save_for_backward(x, bias, up_filter, down_filter)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, up_filter, down_filter = ctx.saved_tensors
    up, down, padding, flip, *shape = ctx.rest
    g = _transposed(
        grad,
        x,
        bias,
        (up_filter, up_filter, down_filter),
        (up, up, down),
        (padding, padding, _NO_PADDING),
        [flip] * 3,
        [float(up * up), *shape],
        (x.shape[2], x.shape[3]),
    )
    grad_bias = g.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[1] else None
    return (g, grad_bias, *[None] * 9)


_filtered_lrelu = define(
    "filtered_lrelu(Tensor x, Tensor? bias, Tensor up_filter, Tensor down_filter, int up, int down, "
    "SymInt[] padding, bool flip, float slope, float gain, float clamp) -> Tensor",
    contract=1,
    reference=ref.filtered_lrelu,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def filtered_lrelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    up_filter: Tensor | None = None,
    down_filter: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    slope: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
    flip: bool = False,
) -> Tensor:
    """Leaky ReLU that makes no alias frequencies (Karras et al., 2021, section 3.1).

    Adds the bias, goes ``up`` by a filter with gain up^2, applies leaky ReLU, gain and clamp, and goes ``down`` by a
    second filter. The map at the higher resolution is never written to memory: rows of it live while they are needed.

    Args:
        x: (B, C, H, W) float32, float64 or half precision (then computed in float32).
        bias: (C,) or None. Padding lies around x + bias.
        up_filter: (K,) or (KH, KW) taps, at most 1024 along an axis; None: no filter. It receives no gradient.
        down_filter: likewise.
        up: factor, up to 64.
        down: factor, up to 64.
        padding: zeros around the stuffed map: left, right, top, bottom, or one number. Negative ones crop.
        slope: of the leaky ReLU below 0.
        gain: factor behind it.
        clamp: bound behind that, or None.
        flip: correlate with the filters as they are, instead of convolving.

    Returns:
        (B, C, H', W') in the dtype of x; sizes as two calls of `upfirdn2d`. Differentiable in x and bias any number of
        times; the gradient recomputes the activation's input instead of keeping it.

    Raises:
        ValueError: wrong shapes or numbers, or a padded map smaller than its filter.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> from tenfold.ops import filtered_lrelu
        >>> taps = torch.ones(2) / 2
        >>> x = torch.tensor([[[[4.0, -4.0]]]])
        >>> filtered_lrelu(x, up_filter=taps, down_filter=taps, up=2, down=2, padding=(1, 0, 1, 0), gain=1.0)
        tensor([[[[ 4.0000, -0.8000]]]])
    """
    op = "filtered_lrelu"
    check_map(op, "x", x)
    check_bias(op, bias, x)
    for name, factor in (("up", up), ("down", down)):
        require(
            1 <= factor <= MOST_FACTOR,
            f"{op}: {name}: got {factor}; expected a number from 1 to {MOST_FACTOR}",
        )
    wide, pads = as_compute(x), four(op, padding)
    one = wide.new_ones(1)
    filters = []
    for name, filter in (("up_filter", up_filter), ("down_filter", down_filter)):
        if filter is not None:
            check_filter(op, name, filter, x)
        filters.append(one if filter is None else filter.to(wide.dtype))
    check_activation(op, slope, gain, clamp)
    mid = map_size(x.shape, filters[0], (up, up), (1, 1), pads)
    check_size(op, mid, x)
    check_size(op, map_size(mid, filters[1], (1, 1), (1, 1), _NO_PADDING), x)
    shift = None if bias is None else bias.to(wide.dtype)
    limit = -1.0 if clamp is None else float(clamp)
    result: Tensor = invoke(
        _filtered_lrelu, wide, shift, *filters, up, down, pads, flip, float(slope), float(gain), limit
    )
    return result.to(x.dtype) if x.dtype in HALVES else result
