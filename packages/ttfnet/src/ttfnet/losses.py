"""Losses: heat-map focal loss, weighted GIoU, and CenterNet's L1 terms. All in float32 or wider."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "LossSum",
    "generalized_iou",
    "heatmap_focal_loss",
    "heatmap_focal_sum",
    "predicted_boxes",
    "reduced",
    "weighted_giou_loss",
    "weighted_giou_sum",
    "wide",
]


class LossSum(NamedTuple):
    """A loss before it is divided: the sum, and what it is divided by."""

    total: Tensor
    normalizer: Tensor


def wide(x: Tensor) -> Tensor:
    """Half precision as float32, everything else as it is."""
    return x if x.dtype == torch.float64 else x.float()


def heatmap_focal_sum(
    logits: Tensor, target: Tensor, ignore: Tensor | None = None, clamp: bool = False
) -> LossSum:
    """Sum of the heat-map focal loss (paper, equation 4; gamma 2, delta 4) and the number of centres.

    ``(1-p)^2 ln p`` where the target is 1 and ``(1-t)^4 p^2 ln(1-p)`` elsewhere, negated. Written with
    log-sigmoids of the logits: the loss stays finite and keeps its gradient however wrong a logit is.

    Args:
        logits: ``(B, C, H, W)``.
        target: the same shape, in [0, 1], exactly 1 at centres.
        ignore: ``(B, H, W)`` bool; negatives there cost nothing.
        clamp: limit p to [1e-4, 1 - 1e-4] as the official code does, with its dead gradient outside.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> heatmap_focal_sum(torch.tensor([[[[-4.59512]]]]), torch.ones(1, 1, 1, 1)).total
        tensor(4.5135)
    """
    if logits.shape != target.shape:
        raise ValueError(
            f"heatmap_focal_loss: target: got shape {tuple(target.shape)}; expected {tuple(logits.shape)}"
        )
    x, target = wide(logits), wide(target)
    positive = target == 1
    if clamp:
        p = x.sigmoid().clamp(1e-4, 1 - 1e-4)
        log_p, log_q = p.log(), (1 - p).log()
    else:
        p, log_p, log_q = x.sigmoid(), F.logsigmoid(x), F.logsigmoid(-x)
    q = 1 - p if clamp else (-x).sigmoid()
    negative = (1 - target).square().square() * p.square() * log_q
    if ignore is not None:
        negative = negative.masked_fill(ignore[:, None], 0)
    total = -torch.where(positive, q.square() * log_p, negative).sum()
    return LossSum(total, positive.sum().to(total.dtype))


def heatmap_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """`heatmap_focal_sum` divided by the number of centres, or by 1 where there is none.

    Example:
        >>> round(heatmap_focal_loss(torch.full((1, 1, 1, 1), -4.59512), torch.zeros(1, 1, 1, 1)).item() * 1e6, 4)
        1.005
    """
    return reduced(heatmap_focal_sum(logits, target), floor=1.0)


def predicted_boxes(distances: Tensor, stride: int = 4) -> Tensor:
    """``(B, 4, H, W)`` x1, y1, x2, y2 of distances left, top, right, bottom; the base point is 4 (i, j).

    Example:
        >>> predicted_boxes(torch.ones(1, 4, 1, 2))[0, :, 0, 1].tolist()
        [3.0, -1.0, 5.0, 1.0]
    """
    height, width = distances.shape[-2:]
    x = torch.arange(width, dtype=distances.dtype, device=distances.device) * stride
    y = (torch.arange(height, dtype=distances.dtype, device=distances.device) * stride)[:, None]
    left, top, right, bottom = distances.unbind(1)
    return torch.stack((x - left, y - top, x + right, y + bottom), 1)


def generalized_iou(first: Tensor, second: Tensor, side_offset: float = 0.0, dim: int = -1) -> Tensor:
    """GIoU of pairs: ``I/U - (E-U)/E`` with E the enclosing box (Rezatofighi et al., CVPR 2019).

    Args:
        first: boxes x1, y1, x2, y2 along ``dim``.
        second: the same shape.
        side_offset: added to every side: 1 is the inclusive-pixel convention of the official code, which
            gives nearly empty boxes a gradient worth having.
        dim: where the four coordinates are.

    Example:
        >>> a, b = torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 5, 15, 15])
        >>> round(generalized_iou(a, b).item(), 7), round(generalized_iou(a, b, 1.0).item(), 7)
        (-0.0793651, -0.0205552)
    """
    ax1, ay1, ax2, ay2 = first.unbind(dim)
    bx1, by1, bx2, by2 = second.unbind(dim)
    s = side_offset

    def product(width: Tensor, height: Tensor) -> Tensor:
        return (width + s).clamp(min=0) * (height + s).clamp(min=0)

    inner = product(torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1),
                    torch.minimum(ay2, by2) - torch.maximum(ay1, by1))  # fmt: skip
    union = product(ax2 - ax1, ay2 - ay1) + product(bx2 - bx1, by2 - by1) - inner
    outer = product(torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1),
                    torch.maximum(ay2, by2) - torch.minimum(ay1, by1))  # fmt: skip
    tiny = torch.finfo(first.dtype).tiny
    return inner / union.clamp(min=tiny) - (outer - union) / outer.clamp(min=tiny)


def weighted_giou_sum(pred: Tensor, target: Tensor, weight: Tensor, side_offset: float = 1.0) -> LossSum:
    """``sum W (1 - GIoU)`` and ``sum W`` over all pixels (paper, equations 7 and 8).

    Args:
        pred: ``(B, 4, H, W)`` boxes.
        target: ``(B, 4, H, W)`` boxes.
        weight: ``(B, H, W)``; 0 where nothing is to be learnt.
        side_offset: see `generalized_iou`.

    Raises:
        ValueError: shapes that differ.
    """
    if pred.shape != target.shape or weight.shape != (len(pred), *pred.shape[2:]):
        raise ValueError(
            f"weighted_giou_loss: pred, target, weight: got shapes {tuple(pred.shape)}, {tuple(target.shape)}, "
            f"{tuple(weight.shape)}; expected (B, 4, H, W) twice and (B, H, W)"
        )
    pred, target, weight = wide(pred), wide(target).to(wide(pred).dtype), wide(weight)
    loss = (1 - generalized_iou(pred, target, side_offset, dim=1)) * weight
    return LossSum(loss.sum(), weight.sum())


def weighted_giou_loss(pred: Tensor, target: Tensor, weight: Tensor, side_offset: float = 1.0) -> Tensor:
    """`weighted_giou_sum`, divided; 1e-4 is added to the sum of weights, as in the official code.

    Example:
        >>> box = torch.tensor([0.0, 0, 8, 8]).view(1, 4, 1, 1)
        >>> weighted_giou_loss(box, box, torch.ones(1, 1, 1)).item()
        0.0
    """
    return reduced(weighted_giou_sum(pred, target, weight, side_offset), epsilon=1e-4)


def reduced(loss: LossSum, sync: bool = False, floor: float | None = None, epsilon: float = 0.0) -> Tensor:
    """The loss: total over normalizer.

    Args:
        loss: of this process.
        sync: divide by the average normalizer of all processes instead, so that the averaged gradients of
            distributed training are those of one process with the whole batch.
        floor: a (global) normalizer below it counts as this: 1 where nothing was labelled.
        epsilon: added to the (global) normalizer.
    """
    total, normalizer = loss
    dist = torch.distributed
    world = dist.get_world_size() if sync and dist.is_available() and dist.is_initialized() else 1
    normalizer = normalizer.detach().clone()
    if world > 1:
        dist.all_reduce(normalizer)
    if floor is not None:
        normalizer = normalizer.clamp(min=floor)
    return total * world / (normalizer + epsilon)
