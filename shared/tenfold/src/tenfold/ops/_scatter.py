"""Reduction of rows that share a segment."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import HALVES, as_compute, require, require_float, require_integers, require_shape
from tenfold.ops._library import define, invoke, no_second_derivative

__all__ = ["scatter"]

_REDUCE = {"sum": 0, "mean": 1, "max": 2, "min": 3}


def _fake_scatter(
    feats: Tensor, index: Tensor, num: int, reduce: int, need_arg: bool, validate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    channels = feats.shape[1]
    rows = num if need_arg and reduce >= _REDUCE["max"] else 0
    return (
        feats.new_empty((num, channels)),
        feats.new_empty((rows, channels), dtype=torch.int32),
        feats.new_empty((num,), dtype=torch.int32),
    )


def _fake_backward(grad: Tensor, index: Tensor, arg: Tensor, count: Tensor, reduce: int) -> Tensor:
    return grad.new_empty((index.shape[0], grad.shape[1]))


_scatter_backward = define(
    "scatter_backward(Tensor grad, Tensor index, Tensor arg, Tensor count, int reduce) -> Tensor",
    contract=1,
    reference=ref.scatter_backward,
    fake=_fake_backward,
    backward=no_second_derivative("scatter"),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.reduce = inputs[3]
    ctx.save_for_backward(inputs[1], *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    index, arg, count = ctx.saved_tensors
    return (invoke(_scatter_backward, grad, index, arg, count, ctx.reduce), *([None] * 5))


_scatter = define(
    "scatter(Tensor feats, Tensor index, SymInt num, int reduce, bool need_arg, bool validate) "
    "-> (Tensor result, Tensor arg, Tensor count)",
    contract=1,
    reference=ref.scatter,
    fake=_fake_scatter,
    backward=_backward,
    setup_context=_setup_context,
)


def _check(feats: Tensor, index: Tensor, num: int, reduce: str) -> None:
    op = "scatter"
    require_float(op, "feats", feats)
    require_shape(
        op, "feats", feats, ("N", "C"), "add a channel dimension with feats[:, None]" * (feats.dim() == 1)
    )
    require_integers(op, "index", index)
    require_shape(op, "index", index, (feats.shape[0],), "one segment per row of feats")
    require(
        index.device == feats.device,
        f"{op}: index: on {index.device}; expected the device of feats, {feats.device}",
    )
    require(num >= 0, f"{op}: num: got {num}; expected a count of segments >= 0")
    require(reduce in _REDUCE, f"{op}: reduce: got {reduce!r}; expected one of {', '.join(_REDUCE)}")


def scatter(
    feats: Tensor,
    index: Tensor,
    num: int,
    reduce: Literal["sum", "mean", "max", "min"] = "sum",
) -> Tensor:
    """Reduce the rows of every segment to one row.

    Sums run over ascending rows, in float32 (float64 for float64). A segment without rows is 0. NaN wins in
    max and min. The result has the same bits for any number of threads. Under autocast the dtype of
    ``feats`` is kept: reductions are not cast down.

    Args:
        feats: (N, C) float32, float64, float16 or bfloat16.
        index: (N,) int64 or int32 segment of every row in any order; -1 leaves a row out.
        num: number of segments.
        reduce: "sum", "mean", "max" or "min".

    Returns:
        (num, C) in the dtype of ``feats``. Its gradient reaches every row (sum), divided by the number of
        rows of the segment (mean), or the first row that attains the extremum (max, min).

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" an index below -1 or above num - 1
            (below that level such rows are left out).
        TypeError: wrong dtypes.

    Example:
        >>> import torch
        >>> from tenfold.ops import scatter
        >>> feats = torch.tensor([[1.0], [2.0], [3.0], [9.0]])
        >>> scatter(feats, torch.tensor([1, 0, 1, -1]), 3, "mean").flatten()
        tensor([2., 2., 0.])
    """
    _check(feats, index, num, reduce)
    need_arg = reduce in ("max", "min") and feats.requires_grad and torch.is_grad_enabled()
    result: Tensor = invoke(
        _scatter, as_compute(feats), index, num, _REDUCE[reduce], need_arg, checks_content(feats.is_cpu)
    )[0]
    return result.to(feats.dtype) if feats.dtype in HALVES else result
