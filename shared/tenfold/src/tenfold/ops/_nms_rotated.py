"""Non-maximum suppression of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import FLOATS, as_compute, require, require_float, require_shape
from tenfold.ops._iou import require_boxes
from tenfold.ops._library import define, invoke
from tenfold.ops._nms import group_column

__all__ = ["nms_3d", "nms_bev_aligned", "nms_rotated", "nms_rotated_padded"]

_METRICS = {"bev": 0, "3d": 1, "aligned": 2}
_OPS = ("nms_rotated", "nms_3d", "nms_bev_aligned")
_COLUMNS = ((5, 7), (7,), (5, 7))


def _fake_nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    batch: Tensor | None,
    iou_threshold: float,
    metric: int,
    pre_max: int | None,
    post_max: int | None,
    validate: bool,
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64)


def _fake_nms_rotated_padded(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    metric: int,
    pre_max: int | None,
    post_max: int,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    return boxes.new_empty((post_max,), dtype=torch.int64), boxes.new_empty((), dtype=torch.int32)


_nms_rotated = define(
    "nms_rotated(Tensor boxes, Tensor scores, Tensor? labels, Tensor? batch, float iou_threshold, "
    "int metric, SymInt? pre_max, SymInt? post_max, bool validate) -> Tensor",
    contract=1,
    reference=ref.nms_rotated,
    fake=_fake_nms_rotated,
)
_nms_rotated_padded = define(
    "nms_rotated_padded(Tensor boxes, Tensor scores, Tensor? labels, float iou_threshold, int metric, "
    "SymInt? pre_max, SymInt post_max, bool validate) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.nms_rotated_padded,
    fake=_fake_nms_rotated_padded,
)


def _group(op: str, name: str, values: Tensor | None, boxes: Tensor) -> Tensor | None:
    return None if values is None else group_column(op, name, values, boxes)


def _inputs(
    op: str, metric: int, boxes: Tensor, scores: Tensor, iou_threshold: float, limits: dict[str, int | None]
) -> tuple[Tensor, Tensor]:
    columns = _COLUMNS[metric]
    fine = (
        isinstance(boxes, Tensor)
        and isinstance(scores, Tensor)
        and boxes.dtype in FLOATS
        and scores.dtype is boxes.dtype
        and boxes.dim() == 2
        and boxes.shape[1] in columns
        and scores.dim() == 1
        and scores.shape[0] == boxes.shape[0]
        and boxes.device == scores.device
    )
    if not fine:
        require_float(op, "boxes", boxes)
        require_float(op, "scores", scores)
        require_boxes(op, "boxes", boxes, columns)
        require_shape(op, "scores", scores, (boxes.shape[0],), "one score per box")
        require(
            boxes.device == scores.device,
            f"{op}: scores: on {scores.device}; expected the device of boxes, {boxes.device}",
        )
        boxes, scores = as_compute(boxes), as_compute(scores)
        common = torch.promote_types(boxes.dtype, scores.dtype)
        boxes, scores = boxes.to(common), scores.to(common)
    require(
        0.0 <= iou_threshold <= 1.0, f"{op}: iou_threshold: got {iou_threshold}; expected a value in [0, 1]"
    )
    for name, limit in limits.items():
        require(limit is None or limit >= 0, f"{op}: {name}: got {limit}; expected None or a count >= 0")
    return boxes, scores


def _suppress(
    metric: int,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    pre_max: int | None,
    post_max: int | None,
    labels: Tensor | None,
    batch: Tensor | None,
) -> Tensor:
    op = _OPS[metric]
    limits = {"pre_max": pre_max, "post_max": post_max}
    boxes, scores = _inputs(op, metric, boxes, scores, iou_threshold, limits)
    labels, batch = _group(op, "labels", labels, boxes), _group(op, "batch", batch, boxes)
    check = checks_content(boxes.is_cpu)
    keep: Tensor = invoke(
        _nms_rotated, boxes, scores, labels, batch, iou_threshold, metric, pre_max, post_max, check
    )
    return keep


def nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    pre_max: int | None = None,
    post_max: int | None = None,
    labels: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """Keep the best of overlapping rotated boxes, greedily in descending score, by bird's-eye IoU.

    A box is dropped when its `box_iou_bev` with a kept box of higher rank is strictly greater than the
    threshold. Equal scores rank by row. Boxes with a size <= 0 overlap nothing, so they stay.

    Args:
        boxes: (N, 5) boxes (x, y, dx, dy, yaw), or (N, 7) of which z and dz are ignored; metres and radians;
            float32 or float64 (half precision is up-cast).
        scores: (N,).
        iou_threshold: in [0, 1].
        pre_max: only this many best boxes take part, in each batch element.
        post_max: at most this many are returned, in each batch element.
        labels: (N,) integers; boxes of different labels do not suppress each other.
        batch: (N,) integers, the batch element of each box; elements do not meet.

    Returns:
        (K,) int64 rows of ``boxes``, best first over all labels and elements; no gradient.

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" also a box that is not finite or a
            NaN score. Below that level such rows are never kept.
        TypeError: not floating-point boxes and scores, or labels that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms_rotated
        >>> boxes = torch.tensor([[0, 0, 4, 2, 0], [0.2, 0, 4, 2, 0.1], [9, 0, 4, 2, 1]])
        >>> nms_rotated(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    return _suppress(0, boxes, scores, iou_threshold, pre_max, post_max, labels, batch)


def nms_3d(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    pre_max: int | None = None,
    post_max: int | None = None,
    labels: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """Keep the best of overlapping rotated 3D boxes, by the IoU of volumes (`box_iou_3d`).

    Args:
        boxes: (N, 7) boxes (x, y, z, dx, dy, dz, yaw); metres and radians.
        scores: (N,).
        iou_threshold: in [0, 1]; a box is dropped above it, strictly.
        pre_max: see `nms_rotated`.
        post_max: see `nms_rotated`.
        labels: see `nms_rotated`.
        batch: see `nms_rotated`.

    Returns:
        (K,) int64 rows of ``boxes``, best first; no gradient.

    Raises:
        ValueError: as `nms_rotated`.
        TypeError: as `nms_rotated`.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms_3d
        >>> boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.0], [0.0, 0.0, 1.0, 4.0, 2.0, 2.0, 0.0]])
        >>> nms_3d(boxes, torch.tensor([0.9, 0.8]), 0.3), nms_3d(boxes, torch.tensor([0.9, 0.8]), 0.4)
        (tensor([0]), tensor([0, 1]))
    """
    return _suppress(1, boxes, scores, iou_threshold, pre_max, post_max, labels, batch)


def nms_bev_aligned(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    pre_max: int | None = None,
    post_max: int | None = None,
    labels: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """Keep the best of overlapping boxes by bird's-eye IoU as if every yaw were 0.

    Args:
        boxes: (N, 5) or (N, 7) boxes as for `nms_rotated`; the yaw is unused but finite.
        scores: (N,).
        iou_threshold: in [0, 1]; a box is dropped above it, strictly.
        pre_max: see `nms_rotated`.
        post_max: see `nms_rotated`.
        labels: see `nms_rotated`.
        batch: see `nms_rotated`.

    Returns:
        (K,) int64 rows of ``boxes``, best first; no gradient.

    Raises:
        ValueError: as `nms_rotated`.
        TypeError: as `nms_rotated`.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms_bev_aligned
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [0.0, 0.0, 4.0, 2.0, 1.5]])
        >>> nms_bev_aligned(boxes, torch.tensor([0.9, 0.8]), 0.5)
        tensor([0])
    """
    return _suppress(2, boxes, scores, iou_threshold, pre_max, post_max, labels, batch)


def nms_rotated_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    post_max: int,
    *,
    pre_max: int | None = None,
    labels: Tensor | None = None,
    overlap: str = "bev",
) -> tuple[Tensor, Tensor]:
    """The result of `nms_rotated`, `nms_3d` or `nms_bev_aligned` at a fixed size, for static graphs.

    Args:
        boxes: (N, 5 or 7), one batch element; see `nms_rotated`.
        scores: (N,).
        iou_threshold: in [0, 1].
        post_max: size of the result.
        pre_max: only this many best boxes take part.
        labels: (N,) integers; boxes of different labels do not suppress each other.
        overlap: "bev" (`nms_rotated`), "3d" (`nms_3d`, 7 columns) or "aligned" (`nms_bev_aligned`).

    Returns:
        ``(keep, count)``: (post_max,) int64 rows of ``boxes``, best first, filled up with -1; and their
        number, an int32 scalar. No gradient.

    Raises:
        ValueError: as `nms_rotated`.
        TypeError: as `nms_rotated`.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms_rotated_padded
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [0.2, 0.0, 4.0, 2.0, 0.1]])
        >>> nms_rotated_padded(boxes, torch.tensor([0.8, 0.9]), 0.5, 3)
        (tensor([ 1, -1, -1]), tensor(1, dtype=torch.int32))
    """
    op = "nms_rotated_padded"
    if overlap not in _METRICS:
        raise ValueError(f"{op}: overlap: got {overlap!r}; expected one of {', '.join(_METRICS)}")
    metric = _METRICS[overlap]
    require(post_max is not None, f"{op}: post_max: got None; expected a count >= 0")
    boxes, scores = _inputs(
        op, metric, boxes, scores, iou_threshold, {"pre_max": pre_max, "post_max": post_max}
    )
    labels = _group(op, "labels", labels, boxes)
    check = checks_content(boxes.is_cpu)
    keep, count = invoke(
        _nms_rotated_padded, boxes, scores, labels, iou_threshold, metric, pre_max, post_max, check
    )
    return keep, count
