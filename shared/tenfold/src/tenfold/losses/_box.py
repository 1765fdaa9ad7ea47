"""Losses of box codes and headings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.geometry import direction_bin
from tenfold.ops._checks import require, require_float, require_shape

__all__ = ["direction_loss", "sin_difference", "smooth_l1"]


def smooth_l1(
    pred: Tensor, target: Tensor, *, beta: float = 1 / 9, code_weights: Sequence[float] | None = None
) -> Tensor:
    """Huber loss scaled to slope 1: ``d^2 / (2 beta)`` below beta, ``d - beta / 2`` from there on.

    Args:
        pred: (..., K) codes.
        target: the same shape; a NaN means "unknown" and costs nothing.
        beta: width of the quadratic part; 0 is plain L1.
        code_weights: K factors on the difference of each code (not on its loss), as SECOND applies them.

    Returns:
        The loss of each element, in the shape of ``pred``.

    Raises:
        ValueError: shapes that differ, a negative beta, a wrong number of weights.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> smooth_l1(torch.tensor([0.5, 2.0, 3.0]), torch.tensor([0.0, 0.0, float("nan")]), beta=1.0)
        tensor([0.1250, 1.5000, 0.0000])
    """
    op = "smooth_l1"
    require_float(op, "pred", pred)
    require_float(op, "target", target)
    require_shape(op, "target", target, tuple(pred.shape))
    require(beta >= 0, f"{op}: beta: got {beta}; expected a number >= 0")
    difference = pred - torch.where(target.isnan(), pred, target)
    if code_weights is not None:
        require(
            pred.dim() > 0 and len(code_weights) == pred.shape[-1],
            f"{op}: code_weights: got {len(code_weights)} numbers; expected one per column of pred, "
            f"which has shape {tuple(pred.shape)}",
        )
        difference = difference * difference.new_tensor(list(code_weights))
    size = difference.abs()
    if beta == 0:
        return size
    return torch.where(size < beta, size.square() * (0.5 / beta), size - 0.5 * beta)


def sin_difference(pred: Tensor, target: Tensor, column: int = 6) -> tuple[Tensor, Tensor]:
    """Replace an angle column so that the two results differ by ``sin(pred - target)`` (SECOND, eq. 5).

    The sine does not tell a heading from its opposite; `direction_loss` does.

    Args:
        pred: (..., K) codes.
        target: the same shape.
        column: which column holds the angle, radians.

    Returns:
        ``pred`` with ``sin a cos b`` and ``target`` with ``cos a sin b`` in that column.

    Raises:
        ValueError: shapes that differ, or no such column.

    Example:
        >>> import torch
        >>> a, b = sin_difference(torch.tensor([[3.0]]), torch.tensor([[3.0 - torch.pi]]), column=0)
        >>> (a - b).abs().item() < 1e-6
        True
    """
    op = "sin_difference"
    require_shape(op, "target", target, tuple(pred.shape))
    require(
        pred.dim() > 0 and 0 <= column < pred.shape[-1],
        f"{op}: column: got {column}; expected one of the columns of shape {tuple(pred.shape)}",
    )
    a, b = pred[..., column : column + 1], target[..., column : column + 1]

    def with_angle(codes: Tensor, angle: Tensor) -> Tensor:
        return torch.cat((codes[..., :column], angle, codes[..., column + 1 :]), -1)

    return with_angle(pred, a.sin() * b.cos()), with_angle(target, a.cos() * b.sin())


def direction_loss(logits: Tensor, heading: Tensor, *, offset: float = math.pi / 4) -> Tensor:
    """Cross entropy of the direction class of headings (see `tenfold.geometry.direction_bin`).

    Args:
        logits: (N, bins).
        heading: (N,) radians.
        offset: where bin 0 begins, radians.

    Returns:
        (N,) losses.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> direction_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1.0]))
        tensor([0.6931])
    """
    op = "direction_loss"
    require_float(op, "logits", logits)
    require_shape(op, "logits", logits, ("N", "bins"))
    require_shape(op, "heading", heading, (logits.shape[0],))
    return F.cross_entropy(logits, direction_bin(heading, offset, logits.shape[1]), reduction="none")
