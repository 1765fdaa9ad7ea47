"""Reference of the suppression ops: the definition, one candidate at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["box_iou", "nms"]


def box_iou(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one axis-aligned box (4,) with others (M, 4), in their dtype; zero union gives 0."""
    wh = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    inter = wh[:, 0] * wh[:, 1]
    area = (box[2:] - box[:2]).clamp(min=0).prod()
    areas = (others[:, 2:] - others[:, :2]).clamp(min=0).prod(dim=1)
    union = area + areas - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(union))


def check_boxes(boxes: Tensor, scores: Tensor) -> None:
    """Raise ValueError for the first non-finite or inverted box or NaN score."""
    finite = boxes.isfinite().all(dim=1)
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    bad = ~finite | inverted | scores.isnan()
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0])
    if not bool(finite[row]):
        raise ValueError(f"nms: boxes: row {row} is not finite; expected finite coordinates")
    if bool(inverted[row]):
        raise ValueError(f"nms: boxes: row {row} is inverted; expected x1 <= x2 and y1 <= y2")
    raise ValueError(f"nms: scores: row {row} is NaN; expected numbers")


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float | None = None,
    max_out: int | None = None,
    validate: bool = False,
) -> Tensor:
    """Greedy suppression as `tenfold.ops.nms` defines it."""
    if validate:
        check_boxes(boxes, scores)
    candidate = boxes.isfinite().all(dim=1) & ~scores.isnan()
    if score_threshold is not None:
        candidate &= scores.double() > score_threshold
    rows = candidate.nonzero().flatten()
    rows = rows[torch.sort(scores[rows], descending=True, stable=True).indices]
    keep: list[int] = []
    limit = len(rows) if max_out is None else max_out
    alive = torch.ones(len(rows), dtype=torch.bool, device=boxes.device)
    for rank in range(len(rows)):
        if len(keep) == limit:
            break
        if not bool(alive[rank]):
            continue
        keep.append(int(rows[rank]))
        alive &= ~(box_iou(boxes[rows[rank]], boxes[rows]).double() > iou_threshold)
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device)
