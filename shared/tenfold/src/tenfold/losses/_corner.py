"""Loss of the corners of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tenfold.geometry import box_corners
from tenfold.ops._checks import require, require_float, require_shape

__all__ = ["corner_loss"]


def corner_loss(pred: Tensor, target: Tensor, *, beta: float = 1.0) -> Tensor:
    """Huber loss of the distances between corners, to the box or to its turned twin (Qi et al. 2018, eq. 3).

    Each corner takes the nearer of its partner in ``target`` and its partner in ``target`` turned by pi.

    Args:
        pred: (N, 7) boxes.
        target: (N, 7).
        beta: distance, metres, from which the loss is linear; above 0.

    Returns:
        (N,) mean over the eight corners.

    Raises:
        ValueError: other shapes, or a beta that is not positive.
        TypeError: not floating point.

    Example:
        >>> box = torch.tensor([[9.0, 2.0, -1.0, 4.0, 1.8, 1.5, 0.3]])
        >>> turned = box + torch.tensor([0.0, 0, 0, 0, 0, 0, math.pi])
        >>> bool(corner_loss(box, turned) < 1e-9)
        True
    """
    op = "corner_loss"
    for name, value in (("pred", pred), ("target", target)):
        require_float(op, name, value)
        require_shape(op, name, value, (pred.shape[0], 7), "slice velocity and label off")
    require(beta > 0, f"{op}: beta: got {beta}; expected a number > 0")
    turned = torch.cat((target[:, :6], target[:, 6:] + math.pi), 1)
    corners = box_corners(pred)
    squared = torch.minimum(
        (corners - box_corners(target)).square().sum(-1), (corners - box_corners(turned)).square().sum(-1)
    )
    # The root has no gradient at 0; below beta it cancels anyway.
    linear = beta * (squared.clamp(min=beta * beta).sqrt() - 0.5 * beta)
    return torch.where(squared < beta * beta, 0.5 * squared, linear).mean(1) / beta
