"""Non-maximum suppression of axis-aligned 2D boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import (
    FLOATS,
    as_compute,
    require,
    require_float,
    require_shape,
    require_size,
    require_tensor,
)
from tenfold.ops._library import define, invoke

__all__ = ["batched_nms", "batched_nms_padded", "nms", "nms_padded"]


def _fake_list(boxes: Tensor, *_: object) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64)


def _fake_padded(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_out: int, *_: object
) -> tuple[Tensor, Tensor]:
    return boxes.new_empty((max_out,), dtype=torch.int64), boxes.new_empty((), dtype=torch.int32)


def _fake_batched_padded(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_out: int, *_: object
) -> tuple[Tensor, Tensor]:
    return _fake_padded(boxes, scores, iou_threshold, max_out)


_nms = define(
    "nms(Tensor boxes, Tensor scores, float iou_threshold, float? score_threshold, SymInt? max_out, "
    "bool validate) -> Tensor",
    contract=1,
    reference=ref.nms,
    fake=_fake_list,
)
_batched_nms = define(
    "batched_nms(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold, Tensor? batch, "
    "float? score_threshold, SymInt? max_out, bool validate) -> Tensor",
    contract=1,
    reference=ref.batched_nms,
    fake=_fake_list,
)
_nms_padded = define(
    "nms_padded(Tensor boxes, Tensor scores, float iou_threshold, SymInt max_out, float? score_threshold, "
    "bool validate) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.nms_padded,
    fake=_fake_padded,
)
_batched_nms_padded = define(
    "batched_nms_padded(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold, SymInt max_out, "
    "Tensor? batch, float? score_threshold, bool validate) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.batched_nms_padded,
    fake=_fake_batched_padded,
)


def _fits(boxes: Tensor, scores: Tensor, iou_threshold: float) -> bool:
    """Whether the kernels take these arguments as they are."""
    try:
        dtype = boxes.dtype
        shape = boxes.shape
        return (
            dtype in FLOATS
            and scores.dtype is dtype
            and len(shape) == 2
            and shape[1] == 4
            and scores.shape == shape[:1]
            and boxes.device == scores.device
            and 0.0 <= iou_threshold <= 1.0
        )
    except (AttributeError, TypeError):
        return False


def _prepare(op: str, boxes: Tensor, scores: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Say what is wrong, or bring boxes and scores to one dtype that the kernels take."""
    require_float(op, "boxes", boxes)
    require_float(op, "scores", scores)
    hint = "for rotated boxes use nms_rotated" if boxes.dim() == 2 and boxes.shape[1] in (5, 7) else ""
    require_shape(op, "boxes", boxes, ("N", 4), hint)
    require_shape(op, "scores", scores, (boxes.shape[0],), "one score per box")
    _require_device(op, "scores", scores, boxes)
    _require_number(op, "iou_threshold", iou_threshold)
    inside = 0.0 <= iou_threshold <= 1.0
    require(inside, f"{op}: iou_threshold: got {iou_threshold}; expected a value in [0, 1]")
    boxes, scores = as_compute(boxes), as_compute(scores)
    common = torch.promote_types(boxes.dtype, scores.dtype)
    return boxes.to(common), scores.to(common)


def _require_device(op: str, name: str, value: Tensor, boxes: Tensor) -> None:
    same = value.device == boxes.device
    require(same, f"{op}: {name}: on {value.device}; expected the device of boxes, {boxes.device}")


def _require_number(op: str, name: str, value: object) -> None:
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{op}: {name}: got {type(value).__name__}; expected a number")


def _check_options(op: str, score_threshold: float | None, max_out: int | None) -> None:
    if score_threshold is not None:
        _require_number(op, "score_threshold", score_threshold)
    if max_out is not None:
        if isinstance(max_out, bool) or not isinstance(max_out, (int, torch.SymInt)):
            raise TypeError(f"{op}: max_out: got {type(max_out).__name__}; expected an int")
        require(max_out >= 0, f"{op}: max_out: got {max_out}; expected a count >= 0")


def group_column(op: str, name: str, value: Tensor, boxes: Tensor) -> Tensor:
    """Check one column of group numbers and return it as int64."""
    require_tensor(op, name, value)
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype is torch.bool:
        raise TypeError(f"{op}: {name}: got {value.dtype}; expected an integer dtype")
    require_shape(op, name, value, (boxes.shape[0],), "one number per box")
    _require_device(op, name, value, boxes)
    return value.to(torch.int64)


def _prepare_groups(
    op: str, boxes: Tensor, scores: Tensor, labels: Tensor, batch: Tensor | None, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`_prepare` where it is needed, and the columns of group numbers."""
    if not _fits(boxes, scores, iou_threshold):
        boxes, scores = _prepare(op, boxes, scores, iou_threshold)
    labels = group_column(op, "labels", labels, boxes)
    if batch is not None:
        batch = group_column(op, "batch", batch, boxes)
    return boxes, scores, labels, batch


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_out: int | None = None,
) -> Tensor:
    """Keep the best of overlapping boxes, greedily in descending score.

    A box is dropped when its IoU with a kept box of higher rank is strictly greater than the threshold. Equal
    scores rank by row. The result equals `torchvision.ops.nms` for finite boxes.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32 or float64 (half precision is up-cast).
        scores: (N,).
        iou_threshold: in [0, 1].
        score_threshold: only boxes with a score strictly above it take part.
        max_out: stop after this many boxes.

    Returns:
        (K,) int64 rows of ``boxes``, best first; no gradient.

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" also a box that is not finite or is
            inverted, or a NaN score. Below that level a non-finite box and a NaN score are never kept, and an
            inverted box has no area.
        TypeError: not floating-point tensors, or options of another type.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
        >>> nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
        tensor([0, 2])
    """
    if not _fits(boxes, scores, iou_threshold):
        boxes, scores = _prepare("nms", boxes, scores, iou_threshold)
    if score_threshold is not None or max_out is not None:
        _check_options("nms", score_threshold, max_out)
    result: Tensor = invoke(
        _nms, boxes, scores, iou_threshold, score_threshold, max_out, checks_content(boxes.is_cpu)
    )
    return result


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    *,
    batch: Tensor | None = None,
    score_threshold: float | None = None,
    max_out: int | None = None,
) -> Tensor:
    """Suppress inside each class (and batch element) separately: boxes of different groups never meet.

    Groups are compared as integers, without moving the boxes apart by an offset, so coordinates keep their
    precision and labels may be any integers. Rules and ties are those of `nms`.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32 or float64 (half precision is up-cast).
        scores: (N,).
        labels: (N,) integers.
        iou_threshold: in [0, 1].
        batch: (N,) integers; boxes compete only where both batch and label agree.
        score_threshold: only boxes with a score strictly above it take part.
        max_out: return at most this many boxes, the best over all groups together.

    Returns:
        (K,) int64 rows of ``boxes`` over all groups, score descending and then row ascending; no gradient.

    Raises:
        ValueError: as `nms`; also labels or batch of another length.
        TypeError: as `nms`; also labels or batch that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import batched_nms
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0]])
        >>> batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 3, -1]), 0.5)
        tensor([0, 2])
    """
    op = "batched_nms"
    boxes, scores, labels, batch = _prepare_groups(op, boxes, scores, labels, batch, iou_threshold)
    _check_options(op, score_threshold, max_out)
    validate = checks_content(boxes.is_cpu)
    result: Tensor = invoke(
        _batched_nms, boxes, scores, labels, iou_threshold, batch, score_threshold, max_out, validate
    )
    return result


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    max_out: int,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`nms` with outputs of a fixed size, for static graphs.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32 or float64 (half precision is up-cast).
        scores: (N,).
        iou_threshold: in [0, 1].
        max_out: size of the result; suppression stops after this many boxes.
        score_threshold: only boxes with a score strictly above it take part.

    Returns:
        ``keep`` (max_out,) int64, the rows that `nms` returns followed by -1, and ``count``, an int32 scalar
        tensor: how many rows were kept. No gradient.

    Raises:
        ValueError, TypeError: as `nms`.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms_padded
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
        >>> nms_padded(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5, max_out=4)
        (tensor([ 0,  2, -1, -1]), tensor(2, dtype=torch.int32))
    """
    if not _fits(boxes, scores, iou_threshold):
        boxes, scores = _prepare("nms_padded", boxes, scores, iou_threshold)
    require_size("nms_padded", "max_out", max_out)
    _check_options("nms_padded", score_threshold, None)
    keep: Tensor
    count: Tensor
    keep, count = invoke(
        _nms_padded, boxes, scores, iou_threshold, max_out, score_threshold, checks_content(boxes.is_cpu)
    )
    return keep, count


def batched_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    *,
    max_out: int,
    batch: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`batched_nms` with outputs of a fixed size, for static graphs.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32 or float64 (half precision is up-cast).
        scores: (N,).
        labels: (N,) integers.
        iou_threshold: in [0, 1].
        max_out: size of the result; the best boxes over all groups together.
        batch: (N,) integers; boxes compete only where both batch and label agree.
        score_threshold: only boxes with a score strictly above it take part.

    Returns:
        ``keep`` (max_out,) int64, the rows that `batched_nms` returns followed by -1, and ``count``, an int32
        scalar tensor: how many rows there are. No gradient.

    Raises:
        ValueError, TypeError: as `batched_nms`.

    Example:
        >>> import torch
        >>> from tenfold.ops import batched_nms_padded
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0]])
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 3, -1])
        >>> batched_nms_padded(boxes, scores, labels, 0.5, max_out=3)
        (tensor([ 0,  2, -1]), tensor(2, dtype=torch.int32))
    """
    op = "batched_nms_padded"
    boxes, scores, labels, batch = _prepare_groups(op, boxes, scores, labels, batch, iou_threshold)
    require_size(op, "max_out", max_out)
    _check_options(op, score_threshold, None)
    validate = checks_content(boxes.is_cpu)
    keep: Tensor
    count: Tensor
    keep, count = invoke(
        _batched_nms_padded, boxes, scores, labels, iou_threshold, max_out, batch, score_threshold, validate
    )
    return keep, count
