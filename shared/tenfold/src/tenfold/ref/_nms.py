"""Reference of the suppression ops: the definition, one candidate at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batched_nms", "batched_nms_padded", "nms", "nms_padded"]


def box_iou(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one axis-aligned box (4,) with others (M, 4), in their dtype; zero union gives 0."""
    wh = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    inter = wh[:, 0] * wh[:, 1]
    area = (box[2:] - box[:2]).clamp(min=0).prod()
    areas = (others[:, 2:] - others[:, :2]).clamp(min=0).prod(dim=1)
    union = area + areas - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(union))


def check_boxes(op: str, boxes: Tensor, scores: Tensor) -> None:
    """Raise ValueError for the first non-finite or inverted box or NaN score."""
    finite = boxes.isfinite().all(dim=1)
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    bad = ~finite | inverted | scores.isnan()
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0])
    if not bool(finite[row]):
        raise ValueError(f"{op}: boxes: row {row} is not finite; expected finite coordinates")
    if bool(inverted[row]):
        raise ValueError(f"{op}: boxes: row {row} is inverted; expected x1 <= x2 and y1 <= y2")
    raise ValueError(f"{op}: scores: row {row} is NaN; expected numbers")


def _greedy(
    boxes: Tensor,
    scores: Tensor,
    groups: list[Tensor],
    iou_threshold: float,
    score_threshold: float | None,
    max_out: int | None,
) -> Tensor:
    """Suppress among boxes that agree in every one of the columns ``groups``."""
    candidate = boxes.isfinite().all(dim=1) & ~scores.isnan()
    if score_threshold is not None:
        candidate &= scores.double() > score_threshold
    rows = candidate.nonzero().flatten()
    rows = rows[torch.sort(scores[rows], descending=True, stable=True).indices]
    keep: list[int] = []
    limit = len(rows) if max_out is None else max_out
    alive = torch.ones(len(rows), dtype=torch.bool, device=boxes.device)
    boxes, groups = boxes[rows], [column[rows] for column in groups]
    for rank, row in enumerate(rows.tolist()):
        if len(keep) == limit:
            break
        if not bool(alive[rank]):
            continue
        keep.append(row)
        rival = box_iou(boxes[rank], boxes).double() > iou_threshold
        for column in groups:
            rival &= column == column[rank]
        alive &= ~rival
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device)


def pad_rows(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """At most ``size`` rows, filled up with -1, and their number."""
    keep = rows.new_full((size,), -1)
    keep[: len(rows)] = rows
    return keep, torch.tensor(len(rows), dtype=torch.int32, device=rows.device)


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
        check_boxes("nms", boxes, scores)
    return _greedy(boxes, scores, [], iou_threshold, score_threshold, max_out)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    batch: Tensor | None = None,
    score_threshold: float | None = None,
    max_out: int | None = None,
    validate: bool = False,
) -> Tensor:
    """Greedy suppression inside each (batch, label) as `tenfold.ops.batched_nms` defines it."""
    if validate:
        check_boxes("batched_nms", boxes, scores)
    groups = [labels] if batch is None else [labels, batch]
    return _greedy(boxes, scores, groups, iou_threshold, score_threshold, max_out)


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_out: int,
    score_threshold: float | None = None,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """`nms` in an output of fixed size as `tenfold.ops.nms_padded` defines it."""
    if validate:
        check_boxes("nms_padded", boxes, scores)
    return pad_rows(_greedy(boxes, scores, [], iou_threshold, score_threshold, max_out), max_out)


def batched_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    max_out: int,
    batch: Tensor | None = None,
    score_threshold: float | None = None,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """`batched_nms` in an output of fixed size as `tenfold.ops.batched_nms_padded` defines it."""
    if validate:
        check_boxes("batched_nms_padded", boxes, scores)
    rows = batched_nms(boxes, scores, labels, iou_threshold, batch, score_threshold, max_out)
    return pad_rows(rows, max_out)
