"""Reference of rotated suppression: the definition, one candidate at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.ref._iou import box_iou
from tenfold.ref._nms import pad_rows

__all__ = ["nms_rotated", "nms_rotated_padded"]

_BLOCK = 16  # candidates whose overlaps are taken at once, as the first of them that is kept asks for its own
_OPS = ("nms_rotated", "nms_3d", "nms_bev_aligned")


def _check(op: str, boxes: Tensor, scores: Tensor) -> None:
    """Raise ValueError for the first box that is not finite or NaN score."""
    finite = boxes.isfinite().all(1)
    bad = ~finite | scores.isnan()
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0])
    if not bool(finite[row]):
        raise ValueError(f"{op}: boxes: row {row} is not finite; expected finite boxes")
    raise ValueError(f"{op}: scores: row {row} is NaN; expected numbers")


def _overlaps(boxes: Tensor, others: Tensor, metric: int) -> Tensor:
    """IoU (N, M) of boxes (N, C) with others (M, C)."""
    if metric == 2:  # seen from above without the yaw
        boxes, others = boxes.clone(), others.clone()
        boxes[:, -1], others[:, -1] = 0.0, 0.0
    return box_iou(boxes, others, 1 if metric == 1 else 0, 0, False)


def _groups(values: Tensor | None, rows: Tensor) -> list[int]:
    return [0] * len(rows) if values is None else values[rows].tolist()


def nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    batch: Tensor | None,
    iou_threshold: float,
    metric: int,
    pre_max: int | None = None,
    post_max: int | None = None,
    validate: bool = False,
) -> Tensor:
    """Greedy suppression by an overlap: 0 `nms_rotated`, 1 `nms_3d`, 2 `nms_bev_aligned` of `tenfold.ops`."""
    if validate:
        _check(_OPS[metric], boxes, scores)
    rows = (boxes.isfinite().all(1) & ~scores.isnan()).nonzero().flatten()
    rows = rows[torch.sort(scores[rows], descending=True, stable=True).indices]
    label, element = _groups(labels, rows), _groups(batch, rows)
    seen: dict[int, int] = {}
    taken: dict[int, int] = {}
    keep: list[int] = []
    alive = torch.ones(len(rows), dtype=torch.bool, device=boxes.device)
    group = torch.tensor([label, element], dtype=torch.int64, device=boxes.device)
    begin, measured, over = 0, 0, alive
    for rank, row in enumerate(rows.tolist()):
        b = element[rank]
        seen[b] = seen.get(b, 0) + 1
        if pre_max is not None and seen[b] > pre_max:
            continue
        if not bool(alive[rank]) or (post_max is not None and taken.get(b, 0) >= post_max):
            continue
        taken[b] = taken.get(b, 0) + 1
        keep.append(row)
        same = (group == group[:, rank, None]).all(0)
        if rank >= measured:
            begin, measured = rank, rank + _BLOCK
            over = _overlaps(boxes[rows[begin:measured]], boxes[rows], metric).double() > iou_threshold
        alive &= ~(same & over[rank - begin])
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device)


def nms_rotated_padded(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    metric: int,
    pre_max: int | None,
    post_max: int,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """The rows of `nms_rotated` in a tensor of fixed size, filled up with -1, and their number."""
    rows = nms_rotated(boxes, scores, labels, None, iou_threshold, metric, pre_max, post_max, validate)
    return pad_rows(rows, post_max)
