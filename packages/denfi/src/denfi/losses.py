"""The losses of the boundary proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from denfi.targets import IGNORED, BoundaryTargets
from tenfold.losses import mean_count, sigmoid_focal_loss, smooth_l1
from tenfold.ops._checks import as_compute, require_float, require_shape

__all__ = [
    "BoundaryWeights",
    "StackedTargets",
    "boundary_iou_loss",
    "focal_over_pixels",
    "heading_losses",
    "stack",
]

_EPSILON = 1e-6


@dataclass(frozen=True)
class BoundaryWeights:
    """Weights of the four losses of the boundary proposals, and of their sum beside the head's."""

    classes: float = 1.0
    iou: float = 1.0
    bins: float = 1.0
    residual: float = 1.0
    total: float = 1.0


def boundary_iou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Minus the logarithm of the overlap of two rectangles of one orientation that share a pixel.

    Both rectangles hold the pixel from which the distances are measured, so they always overlap, and the
    overlap is exact when the headings are equal.

    Args:
        pred: (N, 4) left, front, right, rear, at least 0, one unit for both.
        target: (N, 4).

    Returns:
        (N,) losses.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: not floating point.

    Source:
        UnitBox (Yu et al. 2016), eq. 3, on the paper's four distances.

    Example:
        >>> boundary_iou_loss(torch.ones(1, 4), torch.full((1, 4), 2.0))
        tensor([1.3863])
    """
    op = "boundary_iou_loss"
    require_float(op, "pred", pred)
    require_shape(op, "pred", pred, ("N", 4))
    require_shape(op, "target", target, tuple(pred.shape))
    pred, target = as_compute(pred), as_compute(target)

    def area(d: Tensor) -> Tensor:
        return (d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3])

    shared = area(torch.minimum(pred, target))
    union = area(pred) + area(target) - shared
    return -torch.log((shared + _EPSILON) / (union + _EPSILON))


def heading_losses(
    bin_logits: Tensor, bin_res: Tensor, index: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the bins, and smooth L1 of the residual of the true bin alone.

    Args:
        bin_logits: (N, n).
        bin_res: (N, n) residuals, one per bin.
        index: (N,) true bins.
        residual: (N,) true residuals.

    Returns:
        Two tensors (N,).

    Example:
        >>> sharp = torch.tensor([[99.0, 0.0]])
        >>> a, b = heading_losses(sharp, torch.tensor([[0.5, 7.0]]), torch.tensor([0]), torch.tensor([0.5]))
        >>> (a + b).item()
        0.0
    """
    own = bin_res.gather(1, index[:, None])[:, 0]
    return F.cross_entropy(bin_logits, index, reduction="none"), smooth_l1(own, residual, beta=1.0)


@dataclass(frozen=True, eq=False)
class StackedTargets:
    """Targets of a batch, and its positive pixels.

    Attributes:
        labels: (B, H, W).
        where: frame, row and column of each positive pixel, three tensors (P,).
        classes: (P,) their classes.
        dist: (P, 4) metres.
        heading: (P,) radians.
        owner: (P,) row of the box within its frame.
        count: positive pixels, averaged over processes, at least one in all.
    """

    labels: Tensor
    where: tuple[Tensor, Tensor, Tensor]
    classes: Tensor
    dist: Tensor
    heading: Tensor
    owner: Tensor
    count: Tensor


def stack(targets: Sequence[BoundaryTargets]) -> StackedTargets:
    """Targets of several frames as one.

    The count is that of the batch in all processes, so that many processes together equal one.
    """
    labels, dist, heading, owner = (torch.stack(part) for part in zip(*targets, strict=True))
    frame, row, column = (labels >= 0).nonzero(as_tuple=True)
    return StackedTargets(
        labels,
        (frame, row, column),
        labels[frame, row, column],
        dist[frame, :, row, column],
        heading[frame, row, column],
        owner[frame, row, column],
        mean_count(torch.tensor(len(frame), device=labels.device)),
    )


def focal_over_pixels(logits: Tensor, targets: StackedTargets) -> Tensor:
    """Focal loss of class maps (B, K, H, W) over all pixels that are not ignored, per positive pixel."""
    logits = as_compute(logits)
    one_hot = F.one_hot(targets.labels.clamp(min=-1) + 1, logits.shape[1] + 1)[..., 1:]
    focal = sigmoid_focal_loss(logits, one_hot.permute(0, 3, 1, 2).to(logits.dtype)).sum(1)
    counted = (targets.labels != IGNORED).to(focal.dtype)
    return (focal * counted).sum() / targets.count.to(focal.dtype)
