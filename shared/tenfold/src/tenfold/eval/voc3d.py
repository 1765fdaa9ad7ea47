"""Average precision of indoor 3-D detection: the VOC protocol with volumes, as VoteNet and its heirs report it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.host import average_precision, box_iou_frames, match_voc

__all__ = ["NoTruthWarning", "Voc3dClass", "Voc3dDetections", "Voc3dResult", "Voc3dTruth", "voc3d_eval"]

Floats = NDArray[np.float64]


class NoTruthWarning(UserWarning):
    """A class was detected that no frame of the ground truth has; it is left out of the means."""


def _rows(
    where: str, boxes: Any, labels: Any, scores: Any = None
) -> tuple[Floats, NDArray[np.int64], Floats]:
    box = (
        np.asarray(boxes, np.float64).reshape(-1, 7) if np.size(boxes) == 0 else np.asarray(boxes, np.float64)
    )
    label = np.asarray(labels, np.int64).reshape(-1)
    score = np.zeros(len(label)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if box.ndim != 2 or box.shape[1] != 7:
        raise ValueError(f"{where}: boxes: got shape {box.shape}; expected (N, 7)")
    if not len(box) == len(label) == len(score):
        raise ValueError(
            f"{where}: labels, scores: got {len(label)}, {len(score)}; expected {len(box)}, one for each box"
        )
    if not (np.isfinite(box).all() and np.isfinite(score).all()):
        raise ValueError(f"{where}: boxes, scores: a number is not finite")
    return box, label, score


@dataclass(frozen=True, eq=False)
class Voc3dTruth:
    """Objects of one scene.

    Args:
        boxes: (G, 7) x, y, z, dx, dy, dz, heading; metres and radians.
        labels: (G,) 0-based classes.
    """

    boxes: Any
    labels: Any


@dataclass(frozen=True, eq=False)
class Voc3dDetections:
    """Detections in one scene; a box may appear several times, once for each class.

    Args:
        boxes: (N, 7).
        scores: (N,) higher is surer.
        labels: (N,) 0-based classes.
    """

    boxes: Any
    scores: Any
    labels: Any


@dataclass(frozen=True)
class Voc3dClass:
    """One class at every overlap.

    Attributes:
        name: of the class.
        objects: number of true ones.
        ap: overlap -> average precision from 0 to 1; NaN without objects.
        recall: overlap -> share of the objects found by any detection; NaN without objects.
    """

    name: str
    objects: int
    ap: Mapping[float, float]
    recall: Mapping[float, float]


@dataclass(frozen=True)
class Voc3dResult:
    """The evaluation; ``str`` of it is a table.

    Attributes:
        scenes: how many.
        overlaps: least volume IoU of a match, exclusive.
        classes: in the order of their labels.
    """

    scenes: int
    overlaps: tuple[float, ...]
    classes: tuple[Voc3dClass, ...]

    def mean_ap(self, overlap: float) -> float:
        """Mean average precision over the classes that have objects; NaN where none has."""
        return _mean([c.ap[overlap] for c in self.classes if c.objects])

    def mean_recall(self, overlap: float) -> float:
        """Mean final recall over the classes that have objects; NaN where none has."""
        return _mean([c.recall[overlap] for c in self.classes if c.objects])

    def to_dict(self) -> dict[str, Any]:
        """JSON types; a class without objects has null."""
        rows = [
            {
                "name": c.name,
                "objects": c.objects,
                **{f"AP@{o:g}": _null(c.ap[o]) for o in self.overlaps},
                **{f"recall@{o:g}": _null(c.recall[o]) for o in self.overlaps},
            }
            for c in self.classes
        ]
        means = {f"mAP@{o:g}": _null(self.mean_ap(o)) for o in self.overlaps}
        means |= {f"mAR@{o:g}": _null(self.mean_recall(o)) for o in self.overlaps}
        return {"scenes": self.scenes, **means, "classes": rows}

    def table(self) -> str:
        """Percent, class by class, with the number of objects."""
        heads = [*(f"AP@{o:g}" for o in self.overlaps), *(f"recall@{o:g}" for o in self.overlaps)]
        lines = [f"{'class':<16}{'objects':>8}" + "".join(f"{head:>13}" for head in heads)]
        for c in self.classes:
            values = [*(c.ap[o] for o in self.overlaps), *(c.recall[o] for o in self.overlaps)]
            lines.append(f"{c.name:<16}{c.objects:>8}" + "".join(f"{_percent(v):>13}" for v in values))
        means = [self.mean_ap(o) for o in self.overlaps] + [self.mean_recall(o) for o in self.overlaps]
        total = sum(c.objects for c in self.classes)
        lines.append(f"{'mean':<16}{total:>8}" + "".join(f"{_percent(v):>13}" for v in means))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.2f}"


def voc3d_eval(
    truth: Sequence[Voc3dTruth],
    detections: Sequence[Voc3dDetections],
    classes: Sequence[str],
    overlaps: Sequence[float] = (0.25, 0.5),
) -> Voc3dResult:
    """Evaluate 3-D detections of a split, class by class.

    By descending score (of equal ones the earlier scene, then the earlier row), each detection looks at the object of
    its class and scene that it overlaps most. It is right if the overlap of volumes (exact, rotated) exceeds the
    threshold strictly and that object is still free, wrong otherwise: there is no second choice. The average
    precision is the area below the precision made monotone, over all recalls.

    Args:
        truth: objects of every scene.
        detections: of the same scenes in the same order.
        classes: names by label.
        overlaps: thresholds from 0 to below 1.

    Raises:
        ValueError: lists of different length, wrong shapes, labels outside the classes, numbers that are not finite.

    Source: Qi et al., Deep Hough Voting (2019), section 5; Everingham et al., Pascal VOC (2010), section 4.2.

    Example:
        >>> chair = [[0.0, 0, 0.5, 0.5, 0.5, 1.0, 0.0]]
        >>> result = voc3d_eval([Voc3dTruth(chair, [0])], [Voc3dDetections(chair, [0.9], [0])], ["chair"])
        >>> result.mean_ap(0.5)
        1.0
    """
    op = "voc3d_eval"
    if len(truth) != len(detections):
        raise ValueError(
            f"{op}: detections: got {len(detections)} scenes; expected {len(truth)}, as many as truth"
        )
    levels = tuple(float(o) for o in overlaps)
    if not levels or any(not 0 <= o < 1 for o in levels):
        raise ValueError(f"{op}: overlaps: got {tuple(overlaps)}; expected numbers from 0 to below 1")
    gt = [_rows(f"{op}: truth of scene {i}", t.boxes, t.labels) for i, t in enumerate(truth)]
    det = [
        _rows(f"{op}: detections of scene {i}", d.boxes, d.labels, d.scores) for i, d in enumerate(detections)
    ]
    for name, rows in (("truth", gt), ("detections", det)):
        for i, (_, labels, _) in enumerate(rows):
            if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
                raise ValueError(
                    f"{op}: {name} of scene {i}: labels: got {labels.min()} to {labels.max()}; expected 0 to "
                    f"{len(classes) - 1}"
                )
    return Voc3dResult(
        len(truth), levels, tuple(_one_class(name, k, gt, det, levels) for k, name in enumerate(classes))
    )


_Rows = Sequence[tuple[Floats, NDArray[np.int64], Floats]]


def _of_class(rows: _Rows, label: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Boxes and scores of one class, frame after frame, and the frames' offsets."""
    kept = [labels == label for _, labels, _ in rows]
    counts = [int(k.sum()) for k in kept]
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    boxes = np.concatenate([np.zeros((0, 7)), *(r[0][k] for r, k in zip(rows, kept, strict=True))])
    scores = np.concatenate([np.zeros(0), *(r[2][k] for r, k in zip(rows, kept, strict=True))])
    return boxes, scores, offsets


def _one_class(name: str, label: int, gt: _Rows, det: _Rows, levels: Sequence[float]) -> Voc3dClass:
    boxes, _, gt_offsets = _of_class(gt, label)
    found, scores, det_offsets = _of_class(det, label)
    if len(boxes) == 0:
        if len(found):
            warnings.warn(
                f"voc3d_eval: {name}: {len(found)} detections and no object; left out of the means",
                NoTruthWarning,
                stacklevel=3,
            )
        nothing = dict.fromkeys(levels, float("nan"))
        return Voc3dClass(name, 0, nothing, nothing)
    overlaps = box_iou_frames(found, boxes, det_offsets, gt_offsets, kind="3d")
    easy = np.zeros(len(boxes), np.bool_)
    ap, recall = {}, {}
    for level in levels:
        right = match_voc(det_offsets, gt_offsets, overlaps, scores, easy, level, inclusive=False).state == 1
        ap[level] = average_precision(scores, right, len(boxes), kind="area")
        recall[level] = float(right.sum()) / len(boxes)
    return Voc3dClass(name, len(boxes), ap, recall)
