"""Which anchor answers for which ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold.geometry import wrap_angle
from tenfold.lidar.anchors import AnchorClass
from tenfold.ops._checks import require_shape

NEGATIVE, IGNORED = -1, -2


class AnchorTargets(NamedTuple):
    """What `assign_targets` returns.

    Args:
        labels: (B, N) int64 per anchor: 0 background, 1 to C the class, -1 ignored.
        positive: (P,) int64 positions of the positive anchors in ``labels.flatten()``, ascending.
        boxes: (P, 7), or (P, 9) with velocity, ground truth of each positive anchor.
    """

    labels: Tensor
    positive: Tensor
    boxes: Tensor


def nearest_bev(boxes: Tensor) -> Tensor:
    """Bird's-eye rectangles (N, 4) x1, y1, x2, y2 of boxes (N, 7), turned to the nearer axis.

    Example:
        >>> nearest_bev(torch.tensor([[0.0, 0, 0, 4, 2, 1, 1.5]]))
        tensor([[-1., -2.,  1.,  2.]])
    """
    require_shape("nearest_bev", "boxes", boxes, ("N", 7), "slice velocity and label off")
    across = wrap_angle(boxes[:, 6], 0.5, math.pi).abs() > math.pi / 4
    half = torch.where(across[:, None], boxes[:, [4, 3]], boxes[:, 3:5]) / 2
    return torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), 1)


def nearest_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (N, M) of the rectangles of `nearest_bev`, of boxes (N, 7) with boxes (M, 7).

    Example:
        >>> a = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0.3]])
        >>> nearest_bev_iou(a, a + torch.tensor([2.0, 0, 0, 0, 0, 0, 0]))
        tensor([[0.3333]])
    """
    a, b = nearest_bev(a), nearest_bev(b)
    low = torch.maximum(a[:, None, :2], b[:, :2])
    side = (torch.minimum(a[:, None, 2:], b[:, 2:]) - low).clamp(min=0)
    shared = side[..., 0] * side[..., 1]
    area_a, area_b = ((r[:, 2:] - r[:, :2]).prod(1) for r in (a, b))
    return shared / (area_a[:, None] + area_b - shared).clamp(min=1e-6)


def match_anchors(anchors: Tensor, boxes: Tensor, matched: float, unmatched: float) -> Tensor:
    """Assign ground truth to the anchors of one class (SECOND, as OpenPCDet does it).

    An anchor takes the box with which it overlaps most (the lowest on ties). It is positive from ``matched``
    on; and every anchor that reaches the largest overlap of some box is positive too, however small that
    overlap is, but still for *its own* best box. Others are negative below ``unmatched``, ignored between.

    Args:
        anchors: (N, 7).
        boxes: (M, 7).
        matched: see `AnchorClass`.
        unmatched: see `AnchorClass`.

    Returns:
        (N,) int64: row of ``boxes``, or `NEGATIVE`, or `IGNORED`.

    Example:
        >>> a = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [1.5, 0, 0, 4, 2, 1, 0], [9.0, 0, 0, 4, 2, 1, 0]])
        >>> match_anchors(a, a[:1], 0.6, 0.5).tolist(), match_anchors(a, a[:1], 0.6, 0.4).tolist()
        ([0, -1, -1], [0, -2, -1])
    """
    if not len(boxes) or not len(anchors):
        return anchors.new_full((len(anchors),), NEGATIVE, dtype=torch.int64)
    overlap = nearest_bev_iou(anchors, boxes)
    best, box = overlap.max(1)
    largest = overlap.amax(0)
    forced = ((overlap == largest) & (largest > 0)).any(1)
    other = torch.where(best < unmatched, NEGATIVE, IGNORED)
    return torch.where(forced | (best >= matched), box, other)


@torch.no_grad()
def assign_targets(
    anchors: Tensor,
    gt_boxes: Tensor,
    classes: Sequence[AnchorClass],
    *,
    first_label: int = 1,
    anchor_first: bool = False,
) -> AnchorTargets:
    """Targets of a batch: each class's anchors meet the ground truth of that class only.

    Args:
        anchors: (ny, nx, A, 7) as `make_anchors` makes them; (A, ny, nx, 7) with ``anchor_first``.
        gt_boxes: (B, M, 8), or (B, M, 10) with velocity; 1-based label last, rows with label 0 are padding.
        classes: as given to `make_anchors`.
        first_label: label of the first class.
        anchor_first: order of the anchors, and of the result.

    Returns:
        `AnchorTargets` with N = ny * nx * A, in the order of ``anchors``.

    Raises:
        ValueError: wrong shapes.
    """
    if gt_boxes.shape[-1] != 10:
        require_shape("assign_targets", "gt_boxes", gt_boxes, ("B", "M", 8))
    per_cell = sum(c.per_cell for c in classes)
    shape = (per_cell, "ny", "nx", 7) if anchor_first else ("ny", "nx", per_cell, 7)
    require_shape("assign_targets", "anchors", anchors, shape)
    by_anchor = anchors.flatten(1, 2) if anchor_first else anchors.flatten(0, 1).transpose(0, 1)
    cells = by_anchor.shape[1]
    labels = torch.empty(len(gt_boxes), per_cell, cells, dtype=torch.int64, device=anchors.device)
    source = torch.empty_like(labels)
    start = 0
    for number, item in enumerate(classes, first_label):
        columns = slice(start, start + item.per_cell)
        start = columns.stop
        own = by_anchor[columns].reshape(-1, 7)
        for element, rows in enumerate(gt_boxes):
            of_class = (rows[:, -1] == number).nonzero()[:, 0]
            match = match_anchors(own, rows[of_class, :7].to(own), item.matched, item.unmatched)
            match = match.view(item.per_cell, cells)
            labels[element, columns] = torch.where(match >= 0, number, torch.where(match == IGNORED, -1, 0))
            if len(of_class):
                source[element, columns] = element * gt_boxes.shape[1] + of_class[match.clamp(min=0)]
    if not anchor_first:
        labels, source = labels.transpose(1, 2), source.transpose(1, 2)
    labels = labels.flatten(1)
    positive = (labels.flatten() > 0).nonzero()[:, 0]
    boxes = gt_boxes[..., :-1].flatten(0, 1)[source.flatten(1).flatten()[positive]].to(anchors)
    return AnchorTargets(labels, positive, boxes)
