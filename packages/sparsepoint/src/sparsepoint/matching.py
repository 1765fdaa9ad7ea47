"""Which proposal is responsible for which object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tenfold.ops import box_iou_3d, box_iou_aligned_3d

__all__ = ["HungarianMatcher3d", "Match", "focal_cost", "match_one_to_many", "pad_objects"]

_EPS = 1e-8
_NEAR_IOU, _NEAR_CENTRE = 0.25, 0.3


def focal_cost(probability: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cost of assigning an object to a proposal that gives its class a probability: positive minus negative focal loss.

    Example:
        >>> focal_cost(torch.tensor([0.1, 0.5, 0.9])).tolist()  # doctest: +ELLIPSIS
        [0.4654..., -0.0866..., -1.3985...]
    """
    positive = alpha * (1 - probability).pow(gamma) * -(probability + _EPS).log()
    negative = (1 - alpha) * probability.pow(gamma) * -(1 - probability + _EPS).log()
    return positive - negative


@dataclass(frozen=True, eq=False)
class Match:
    """Pairs of one scene.

    Attributes:
        proposals: (M,) int64.
        objects: (M,) int64.
        unmatched: objects that no proposal is left for.
    """

    proposals: Tensor
    objects: Tensor
    unmatched: int = 0


@dataclass(frozen=True)
class HungarianMatcher3d:
    """One proposal for each object, by the least sum of class, box and overlap costs.

    ``3 a + 0.9 (3 |c - c*|_1 + |s - s*|_1 / m - iou IoU)`` with the focal cost a, centres c, sizes s over the mean size
    m. With more objects than proposals, the dearest objects stay without one.

    Source: SRDet's code, with the IoU of geometric centres and its sign set right.

    Args:
        size_scale: m, metres.
        iou: weight of the overlap; 0 leaves it out.
        cls: weight of the class cost.
        box: weight of the rest.
        rotated: exact overlap of rotated boxes; otherwise the yaw is ignored.

    Example:
        >>> match = HungarianMatcher3d((1.0, 1.0, 1.0))
        >>> boxes = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0], [3.0, 0, 0, 1, 1, 1, 0]])
        >>> match(torch.zeros(2, 1), boxes, boxes.flip(0), torch.tensor([0, 0])).objects.tolist()
        [1, 0]
    """

    size_scale: Sequence[float]
    iou: float = 4.0
    cls: float = 3.0
    box: float = 0.9
    rotated: bool = True

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor) -> Tensor:
        """(..., K, G) costs of logits (..., K, C) and boxes (..., K, 7) for objects (..., G, 7) of labels (..., G)."""
        logits, boxes, objects = logits.float(), boxes.float(), objects.float()
        pairs = (*boxes.shape[:-1], objects.shape[-2])
        scale = boxes.new_tensor(self.size_scale)
        cls = focal_cost(logits.sigmoid().gather(-1, labels[..., None, :].expand(pairs)))
        centre = torch.cdist(boxes[..., :3], objects[..., :3], p=1)
        size = torch.cdist(boxes[..., 3:6] / scale, objects[..., 3:6] / scale, p=1)
        rest = 3 * centre + size
        if self.iou:
            overlap = box_iou_3d if self.rotated else box_iou_aligned_3d
            every = boxes[..., :, None, :].expand(*pairs, 7), objects[..., None, :, :].expand(*pairs, 7)
            own, other = (side.reshape(-1, 7) for side in every)
            rest = rest - self.iou * overlap(own, other, paired=True).reshape(pairs)
        return self.cls * cls + self.box * rest

    def __call__(self, logits: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor) -> Match:
        """Match of one scene: logits (K, C), boxes (K, 7), objects (G, 7), labels (G,).

        Raises:
            FloatingPointError: a prediction is not finite: training has diverged.
        """
        _refuse_divergence(logits, boxes)
        return _solve(self.cost(logits, boxes, objects, labels).cpu().numpy(), logits.device)

    def scenes(
        self, logits: Tensor, boxes: Tensor, objects: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Match]:
        """Matches of S scenes: logits (S, K, C), boxes (S, K, 7), and objects (G, 7) and labels (G,) of each.

        Raises:
            FloatingPointError: a prediction is not finite: training has diverged.
        """
        _refuse_divergence(logits, boxes)
        padded, kinds, _ = pad_objects(objects, labels)
        tables = self.cost(logits, boxes, padded, kinds).cpu().numpy()
        return [
            _solve(table[:, : len(own)], logits.device) for table, own in zip(tables, objects, strict=True)
        ]


def pad_objects(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Objects of S scenes as one: (S, G, 7) boxes, (S, G) labels, (S, G) whether there is one; G is at least 1."""
    counts = torch.tensor([len(own) for own in boxes], device=boxes[0].device)
    most = max(1, *(len(own) for own in boxes))
    padded = boxes[0].new_zeros(len(boxes), most, 7)
    kinds = labels[0].new_zeros(len(boxes), most)
    for scene, (own, its) in enumerate(zip(boxes, labels, strict=True)):
        padded[scene, : len(own)], kinds[scene, : len(own)] = own, its
    return padded, kinds, torch.arange(most, device=counts.device) < counts[:, None]


def _refuse_divergence(logits: Tensor, boxes: Tensor) -> None:
    if not (torch.isfinite(logits).all() and torch.isfinite(boxes).all()):
        raise FloatingPointError(
            "HungarianMatcher3d: a prediction is not finite: training has diverged; lower the learning rate or "
            "clip gradients"
        )


def _solve(table: Any, device: torch.device) -> Match:
    rows, columns = linear_sum_assignment(table)
    return Match(
        torch.as_tensor(rows, device=device, dtype=torch.int64),
        torch.as_tensor(columns, device=device, dtype=torch.int64),
        table.shape[1] - len(columns),
    )


@torch.no_grad()
def match_one_to_many(boxes: Tensor, objects: Tensor) -> Match:
    """The ablation: every proposal belongs to the object it overlaps most, if by 0.25, or whose centre is within 0.3 m.

    Args:
        boxes: (K, 7).
        objects: (G, 7).
    """
    if len(objects) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return Match(none, none)
    overlap = box_iou_3d(boxes.float(), objects.float())
    distance = torch.cdist(boxes[:, :3].float(), objects[:, :3].float())
    close = (overlap > _NEAR_IOU) | (distance < _NEAR_CENTRE)
    best = torch.where(close, overlap - 1e-3 * distance, float("-inf")).max(1)
    proposals = torch.isfinite(best.values).nonzero()[:, 0]
    taken = best.indices[proposals]
    return Match(proposals, taken, len(objects) - len(taken.unique()))
