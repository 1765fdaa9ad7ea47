"""Features between points: weighted sums of neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import as_compute, require, require_float
from tenfold.ops._group import check_idx
from tenfold.ops._library import define, invoke, no_second_derivative

__all__ = ["three_interpolate"]


def _fake(feats: Tensor, idx: Tensor, weight: Tensor, validate: bool) -> Tensor:
    return feats.new_empty((*idx.shape[:-1], feats.shape[-1]))


def _fake_backward(
    grad: Tensor, feats: Tensor, idx: Tensor, weight: Tensor, need_feats: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    return (
        feats.new_empty(feats.shape if need_feats else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


_interpolate_backward = define(
    "interpolate_backward(Tensor grad, Tensor feats, Tensor idx, Tensor weight, bool need_feats, "
    "bool need_weight) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.interpolate_backward,
    fake=_fake_backward,
    backward=no_second_derivative("three_interpolate"),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, idx, weight, _ = inputs
    ctx.save_for_backward(feats, idx, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    feats, idx, weight = ctx.saved_tensors
    need_feats, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    grad_feats, grad_weight = invoke(_interpolate_backward, grad, feats, idx, weight, need_feats, need_weight)
    return grad_feats if need_feats else None, None, grad_weight if need_weight else None, None


_interpolate = define(
    "interpolate(Tensor feats, Tensor idx, Tensor weight, bool validate) -> Tensor",
    contract=1,
    reference=ref.interpolate,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def three_interpolate(feats: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of neighbours' features, channels last.

    Args:
        feats: (M, C), or padded (B, M, C) with indices that count from the start of an element. float32,
            float64, float16 or bfloat16; sums are formed in float32 (float64 for float64).
        idx: (..., k) int32 or int64 rows, for instance of `three_nn`; (B, ..., k) with padded feats. Any k
            will do. -1 is left out.
        weight: (..., k) floating point, for instance of `interpolation_weights`.

    Returns:
        (..., C) in the dtype of feats. Gradients to feats, summed over rows and then slots in ascending order,
        and to weight.

    Raises:
        ValueError: wrong shapes; at validation level "cheap" an index outside -1 ... M - 1.
        TypeError: wrong dtypes.

    Example:
        >>> import torch
        >>> from tenfold.ops import three_interpolate
        >>> feats = torch.tensor([[1.0], [2.0], [5.0]])
        >>> three_interpolate(feats, torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.25, 0.25]]))
        tensor([[2.2500]])
    """
    op = "three_interpolate"
    check_idx(op, feats, idx, per_row=True)
    require_float(op, "weight", weight)
    require(
        weight.shape == idx.shape,
        f"{op}: weight: got shape {tuple(weight.shape)}; expected that of idx, {tuple(idx.shape)}",
    )
    require(
        weight.device == feats.device,
        f"{op}: weight: on {weight.device}; expected the device of feats, {feats.device}",
    )
    wide = as_compute(feats)
    if weight.dtype == torch.float64 and wide.dtype == torch.float32:
        wide = wide.double()
    result: Tensor = invoke(_interpolate, wide, idx, weight.to(wide.dtype), checks_content(feats.is_cpu))
    return result.to(feats.dtype)
