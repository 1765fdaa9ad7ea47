"""From scored boxes to detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.ops import nms_rotated


@dataclass(frozen=True)
class PostProcess:
    """How detections are chosen from scored boxes.

    Args:
        score_threshold: boxes with a lower score are dropped.
        iou_threshold: of the rotated suppression.
        pre_max: only this many best boxes take part in it.
        post_max: only this many are kept.
        centre_range: x, y, z of two corners; kept boxes with the centre outside are dropped. None keeps all.
        per_class: suppress within each class, an anchor may then count for several; otherwise classes are
            not looked at, and only the best one of a box counts.
        total_max: of a frame's detections of all classes only this many best are kept (nuScenes: 500).

    Raises:
        ValueError: a value out of range.
    """

    score_threshold: float = 0.1
    iou_threshold: float = 0.01
    pre_max: int = 4096
    post_max: int = 500
    centre_range: tuple[float, ...] | None = None
    per_class: bool = False
    total_max: int | None = None

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"PostProcess: {name}: got {value}; expected a number in [0, 1]")
        if self.pre_max < 1 or self.post_max < 1:
            raise ValueError(
                f"PostProcess: pre_max, post_max: got {self.pre_max}, {self.post_max}; expected 1 or more"
            )
        if self.centre_range is not None and len(self.centre_range) != 6:
            raise ValueError(f"PostProcess: centre_range: got {len(self.centre_range)} numbers; expected 6")


def inside_range(centres: Tensor, bounds: Sequence[float]) -> Tensor:
    """Which centres (N, 3) lie inside x, y, z bounds, borders included: (N,) bool."""
    limits = centres.new_tensor(list(bounds))
    return ((centres >= limits[:3]) & (centres <= limits[3:])).all(1)


def select_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, options: PostProcess
) -> dict[str, Tensor]:
    """Suppress overlapping boxes of one frame.

    Args:
        boxes: (N, 7), or (N, 9) with velocity; boxes with an entry that is not finite are dropped.
        scores: (N,) in [0, 1].
        labels: (N,) integers, 0-based.
        options: see `PostProcess`.

    Returns:
        ``boxes`` (n, 7 or 9), ``scores`` (n,) and ``labels`` (n,) int64, best first.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0], [0.5, 0, 0, 4, 2, 2, 0.1]])
        >>> scores, labels = torch.tensor([0.5, 0.9]), torch.tensor([0, 1])
        >>> found = select_detections(boxes, scores, labels, PostProcess())
        >>> found["labels"].tolist()
        [1]
    """
    usable = ((scores >= options.score_threshold) & boxes.isfinite().all(1)).nonzero()[:, 0]
    boxes, scores, labels = boxes[usable], scores[usable], labels[usable]
    keep = nms_rotated(
        boxes[:, :7], scores, options.iou_threshold, pre_max=options.pre_max, post_max=options.post_max
    )
    if options.centre_range is not None:
        keep = keep[inside_range(boxes[keep, :3], options.centre_range)]
    return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep].to(torch.int64)}


def select_per_class(boxes: Tensor, scores: Tensor, options: PostProcess) -> dict[str, Tensor]:
    """Suppress overlapping boxes of one frame, class by class.

    Args:
        boxes: (N, 7 or 9).
        scores: (N, C) in [0, 1]; a box takes part in every class whose score reaches the threshold.
        options: see `PostProcess`; ``pre_max`` and ``post_max`` count for each class.

    Returns:
        As `select_detections`, classes one after the other.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0], [0.5, 0, 0, 4, 2, 2, 0.1]])
        >>> scores = torch.tensor([[0.5, 0.3], [0.9, 0.0]])
        >>> select_per_class(boxes, scores, PostProcess())["labels"].tolist()
        [0, 1]
    """
    none = boxes.new_zeros((len(boxes),), dtype=torch.int64)
    parts = [
        select_detections(boxes, scores[:, label], none + label, options) for label in range(scores.shape[1])
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in ("boxes", "scores", "labels")}


def keep_best(found: dict[str, Tensor], total: int | None) -> dict[str, Tensor]:
    """The ``total`` best detections of a frame, best first; None keeps all in their order."""
    if total is None:
        return found
    order = torch.argsort(found["scores"], descending=True, stable=True)[:total]
    return {name: values[order] for name, values in found.items()}
