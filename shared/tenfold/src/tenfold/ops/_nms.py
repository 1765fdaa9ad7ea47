"""Non-maximum suppression of axis-aligned 2D boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import FLOATS, as_compute, require, require_float, require_shape
from tenfold.ops._library import define, invoke

__all__ = ["nms"]


def _fake_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float | None,
    max_out: int | None,
    validate: bool,
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64)


_nms = define(
    "nms(Tensor boxes, Tensor scores, float iou_threshold, float? score_threshold, SymInt? max_out, "
    "bool validate) -> Tensor",
    contract=1,
    reference=ref.nms,
    fake=_fake_nms,
)


def _explain(op: str, boxes: Tensor, scores: Tensor, iou_threshold: float, max_out: int | None) -> None:
    require_float(op, "boxes", boxes)
    require_float(op, "scores", scores)
    hint = "for rotated boxes use nms_rotated" if boxes.dim() == 2 and boxes.shape[1] in (5, 7) else ""
    require_shape(op, "boxes", boxes, ("N", 4), hint)
    require_shape(op, "scores", scores, (boxes.shape[0],), "one score per box")
    require(
        boxes.device == scores.device, f"{op}: scores: on {scores.device}; expected the device of boxes, {boxes.device}"
    )
    require(0.0 <= iou_threshold <= 1.0, f"{op}: iou_threshold: got {iou_threshold}; expected a value in [0, 1]")
    require(max_out is None or max_out >= 0, f"{op}: max_out: got {max_out}; expected None or a count >= 0")


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
            inverted, or a NaN score. Below that level such rows are never kept; inverted boxes have no area.
        TypeError: not floating-point tensors.

    Example:
        >>> import torch
        >>> from tenfold.ops import nms
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
        >>> nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
        tensor([0, 2])
    """
    fine = (
        isinstance(boxes, Tensor)
        and isinstance(scores, Tensor)
        and boxes.dtype in FLOATS
        and scores.dtype is boxes.dtype
        and boxes.dim() == 2
        and boxes.shape[1] == 4
        and scores.dim() == 1
        and scores.shape[0] == boxes.shape[0]
        and boxes.device == scores.device
        and 0.0 <= iou_threshold <= 1.0
        and (max_out is None or max_out >= 0)
    )
    if not fine:
        _explain("nms", boxes, scores, iou_threshold, max_out)
        boxes, scores = as_compute(boxes), as_compute(scores)
        common = torch.promote_types(boxes.dtype, scores.dtype)
        boxes, scores = boxes.to(common), scores.to(common)
    result: Tensor = invoke(
        _nms, boxes, scores, iou_threshold, score_threshold, max_out, checks_content(boxes.is_cpu)
    )
    return result
