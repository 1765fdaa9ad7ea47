"""Test-time augmentation: a detector looks at mirrored, turned and scaled copies of a frame.

Every view's boxes are moved back, and one suppression per class merges them: of overlapping boxes the one with
the highest score stays.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tenfold.geometry import flip_boxes, flip_points, rotate_boxes, rotate_z, scale_boxes
from tenfold.ops import nms_rotated

__all__ = ["View", "detect_views", "make_views", "merge_detections"]

_FLIPS = ("", "x", "y", "xy")


@dataclass(frozen=True)
class View:
    """One way to look at a frame: mirrored, then turned about z, then scaled.

    Args:
        flip: "", "x" (across the x axis), "y" or "xy".
        rotation: radians.
        scale: factor.
    """

    flip: str = ""
    rotation: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.flip not in _FLIPS:
            raise ValueError(f"View: flip: got {self.flip!r}; expected one of {_FLIPS}")
        if not self.scale > 0:
            raise ValueError(f"View: scale: got {self.scale}; expected more than 0")

    def points(self, points: torch.Tensor) -> torch.Tensor:
        """Points ``(N, C)`` as this view shows them."""
        for axis in self.flip:
            points = flip_points(points, axis)  # type: ignore[arg-type]
        points = rotate_z(points, self.rotation)
        return torch.cat((points[:, :3] * self.scale, points[:, 3:]), 1)

    def boxes_back(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes ``(n, 7 | 9)`` found in this view in the frame itself."""
        boxes = rotate_boxes(scale_boxes(boxes, 1 / self.scale), -self.rotation)
        for axis in reversed(self.flip):
            boxes = flip_boxes(boxes, axis)  # type: ignore[arg-type]
        return boxes


def make_views(
    flips: Sequence[str] = (), rotations: Sequence[float] = (), scales: Sequence[float] = ()
) -> tuple[View, ...]:
    """All combinations, the unchanged frame first.

    >>> len(make_views(["x"], [0.1, -0.1])), make_views()
    (6, (View(flip='', rotation=0.0, scale=1.0),))
    """
    choices = (("", *flips), (0.0, *rotations), (1.0, *scales))
    return tuple(dict.fromkeys(View(*choice) for choice in itertools.product(*choices)))


def merge_detections(
    parts: Sequence[Mapping[str, torch.Tensor]], iou_threshold: float = 0.1, most: int = 500
) -> dict[str, torch.Tensor]:
    """One frame's detections of several views as one, best first.

    Args:
        parts: ``boxes (n, 7 | 9)``, ``scores (n,)``, ``labels (n,)`` of each view, boxes in the frame itself.
        iou_threshold: bird's-eye overlap above which the weaker of two boxes of one class goes.
        most: keep so many.

    >>> one = {"boxes": torch.tensor([[9.0, 0, 0, 4, 2, 1.5, 0]]), "labels": torch.zeros(1, dtype=torch.int64)}
    >>> two = [{**one, "scores": torch.tensor([s])} for s in (0.5, 0.75)]
    >>> merge_detections(two)["scores"].tolist()
    [0.75]
    """
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("boxes", "scores", "labels")}
    boxes, scores, labels = joined["boxes"], joined["scores"], joined["labels"]
    kept = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        kept.append(rows[nms_rotated(boxes[rows, :7].contiguous(), scores[rows], iou_threshold)])
    rows = torch.cat(kept) if kept else labels.new_zeros(0)
    rows = rows[torch.argsort(scores[rows], descending=True, stable=True)][:most]
    return {name: values[rows] for name, values in joined.items()}


def detect_views(
    model: Callable[[Any], Any], batch: Mapping[str, Any], views: Sequence[View], iou_threshold: float = 0.1
) -> list[dict[str, torch.Tensor]]:
    """Detections of a batch, merged over views; with the unchanged view alone, the model's own.

    Args:
        model: a detector in evaluation mode.
        batch: its input.
        views: from `make_views`.
        iou_threshold: of the merging.
    """
    if tuple(views) == (View(),):
        return list(model(batch))
    found = []
    for view in views:
        points = batch["points"]
        moved = torch.cat((points[:, :1], view.points(points[:, 1:])), 1)
        frames = model({**batch, "points": moved})
        found.append([{**frame, "boxes": view.boxes_back(frame["boxes"])} for frame in frames])
    return [merge_detections(parts, iou_threshold) for parts in zip(*found, strict=True)]
