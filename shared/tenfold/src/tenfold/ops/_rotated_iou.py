"""Differentiable overlap of paired rotated boxes, for regression losses."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import as_compute, require, require_float
from tenfold.ops._iou import require_boxes
from tenfold.ops._library import define, invoke, no_second_derivative

__all__ = ["rotated_iou"]

_KINDS = {"iou": 0, "giou": 1, "diou": 2}


def _fake_value(pred: Tensor, target: Tensor, kind: int, validate: bool) -> Tensor:
    return pred.new_empty((pred.shape[0],))


def _fake_backward(grad: Tensor, pred: Tensor, target: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    return pred.new_empty(pred.shape), target.new_empty(target.shape)


_backward_op = define(
    "rotated_iou_backward(Tensor grad, Tensor pred, Tensor target, int kind) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.rotated_iou_backward,
    fake=_fake_backward,
    backward=no_second_derivative("rotated_iou"),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pred, target, ctx.kind, _ = inputs
    ctx.save_for_backward(pred, target)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_pred, grad_target = invoke(_backward_op, grad, *ctx.saved_tensors, ctx.kind)
    return grad_pred, grad_target, None, None


_rotated_iou = define(
    "rotated_iou(Tensor pred, Tensor target, int kind, bool validate) -> Tensor",
    contract=1,
    reference=ref.rotated_iou,
    fake=_fake_value,
    backward=_backward,
    setup_context=_setup_context,
)


def rotated_iou(pred: Tensor, target: Tensor, kind: Literal["iou", "giou", "diou"] = "iou") -> Tensor:
    """Overlap of rotated boxes row by row, with gradients to both; one minus it is the usual loss.

    The value of "iou" and "giou" is that of `box_iou_bev` and `box_iou_3d`, computed in float64. The gradient
    is exact and needs no sorting: a side of one box changes the intersection by the length of its part inside
    the other box. Where both boxes have a side on the same line (identical boxes), the two one-sided values
    are averaged. Boxes that do not overlap have the IoU gradient 0; "giou" (Rezatofighi et al. 2019) and
    "diou" (Zheng et al. 2020) pull them together.

    Args:
        pred: (N, 5) boxes (x, y, dx, dy, yaw) or (N, 7) boxes (x, y, z, dx, dy, dz, yaw); metres and radians.
        target: as ``pred``, with as many columns.
        kind: "iou"; "giou", with the convex hull as enclosing shape (times the z extent); or "diou", IoU minus
            the squared distance of the centres over the squared diagonal of the smallest axis-aligned box
            around both, which depends on the axes for rotated boxes.

    Returns:
        (N,) in the common dtype (float32 for half precision); 0 and without gradient where a box has a size
        <= 0.

    Raises:
        ValueError: wrong shapes or kind; at validation level "cheap" also a box that is not finite (below that
            level its row is 0).
        TypeError: not floating-point tensors.
        NotImplementedError: a second derivative is asked for.

    Example:
        >>> import torch
        >>> from tenfold.ops import rotated_iou
        >>> pred = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]], requires_grad=True)
        >>> iou = rotated_iou(pred, torch.tensor([[1.0, 0.0, 2.0, 2.0, 0.0]]))
        >>> iou.sum().backward()
        >>> iou.detach(), pred.grad[0, 0]
        (tensor([0.3333]), tensor(0.4444))
    """
    op = "rotated_iou"
    require_float(op, "pred", pred)
    require_float(op, "target", target)
    require_boxes(op, "pred", pred, (5, 7))
    require_boxes(op, "target", target, (5, 7))
    require(
        pred.shape == target.shape,
        f"{op}: target: got shape {tuple(target.shape)}; expected that of pred, {tuple(pred.shape)}",
    )
    require(
        pred.device == target.device,
        f"{op}: target: on {target.device}; expected the device of pred, {pred.device}",
    )
    require(kind in _KINDS, f"{op}: kind: got {kind!r}; expected one of {', '.join(_KINDS)}")
    pred, target = as_compute(pred), as_compute(target)
    common = torch.promote_types(pred.dtype, target.dtype)
    result: Tensor = invoke(
        _rotated_iou, pred.to(common), target.to(common), _KINDS[kind], checks_content(pred.is_cpu)
    )
    return result
