"""The KITTI object evaluation: 2D, bird's-eye, 3D and orientation, R11 and R40.

Two passes over the frames for every class, metric, difficulty and minimum overlap. The first lets every
detection compete by score, and its matches' scores give the thresholds that sample the recall. The second
counts, at each threshold, with detections competing by overlap. Objects of a neighbouring class (Van for Car,
Person_sitting for Pedestrian) and objects that are too hard are neither found nor missed; detections that are
too small are neither right nor wrong; a 2D detection inside a DontCare region is not wrong.

With fewer than 41 objects even a perfect detector stays below 100, because recall cannot be sampled at 41
positions; results carry the number of objects and a warning is given.

Source: the development kit of the KITTI object benchmark.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from tenfold.eval._kitti_records import KittiAnnotations, read_annotation_folder, read_annotations
from tenfold.eval._kitti_result import DIFFICULTIES, KittiCurve, KittiResult, Metric, Table
from tenfold.host import box_iou_frames, match_kitti, match_kitti_scores

__all__ = [
    "ENOUGH_OBJECTS",
    "MIN_OVERLAPS",
    "FewObjectsWarning",
    "KittiAnnotations",
    "KittiCurve",
    "KittiResult",
    "Metric",
    "kitti_eval",
    "read_annotation_folder",
    "read_annotations",
]

Floats = NDArray[np.float64]
Overlaps = tuple[float, float, float]

#: Minimum overlap in 2D, bird's-eye view and 3D; the strict table, then the loose one.
MIN_OVERLAPS: Mapping[str, tuple[Overlaps, Overlaps]] = {
    "Car": ((0.7, 0.7, 0.7), (0.7, 0.5, 0.5)),
    "Pedestrian": ((0.5, 0.5, 0.5), (0.5, 0.25, 0.25)),
    "Cyclist": ((0.5, 0.5, 0.5), (0.5, 0.25, 0.25)),
}

#: Recall positions; with fewer objects a perfect detector's average precision is below 100.
ENOUGH_OBJECTS = 41

_METRICS: tuple[Metric, ...] = ("2d", "bev", "3d")
_NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
# Lowest height in pixels, highest occlusion and truncation of easy, moderate and hard.
_LIMITS = ((40.0, 0, 0.15), (25.0, 1, 0.30), (25.0, 2, 0.50))
_NO_ALPHA = -10.0


class FewObjectsWarning(UserWarning):
    """There are too few objects for the average precision of a perfect detector to be 100."""


@dataclass(frozen=True, eq=False)
class _Objects:
    """The objects of all frames, one after the other; offsets (F + 1,) tell them apart."""

    offsets: NDArray[np.int64]
    name: NDArray[np.str_]
    truncated: Floats
    occluded: Floats
    alpha: Floats
    bbox: Floats
    box: Floats  # (n, 7) camera x, z, -y as x, y, z
    score: Floats

    def __len__(self) -> int:
        return len(self.name)

    def within(self, distance: tuple[float, float]) -> NDArray[np.bool_]:
        """(n,) whether the centre is at least so far from the camera and nearer than that, on the ground."""
        away = np.hypot(self.box[:, 0], self.box[:, 1])
        return (away >= distance[0]) & (away < distance[1])


def _stack(frames: Sequence[KittiAnnotations]) -> _Objects:
    sizes = [len(f) for f in frames]
    location = np.concatenate([np.zeros((0, 3)), *(f.location for f in frames)])
    height, width, length = np.concatenate([np.zeros((0, 3)), *(f.dimensions for f in frames)]).T
    yaw = -np.concatenate([np.zeros(0), *(f.rotation_y for f in frames)])
    centre = (location[:, 0], location[:, 2], height / 2 - location[:, 1])
    flat = {
        name: np.concatenate([np.zeros(0), *(getattr(f, name) for f in frames)])
        for name in ("truncated", "occluded", "alpha")
    }
    return _Objects(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array([n.lower() for f in frames for n in f.name], np.str_),
        **flat,
        bbox=np.concatenate([np.zeros((0, 4)), *(f.bbox for f in frames)]),
        box=np.stack([*centre, length, width, height, yaw], axis=1),
        score=np.concatenate(
            [np.zeros(0), *(np.zeros(len(f)) if f.score is None else f.score for f in frames)]
        ),
    )


def _truth_state(gt: _Objects, name: str, difficulty: int, inclusive: bool) -> NDArray[np.int8]:
    """0 counts, 1 is ignored, -1 takes no part."""
    min_height, max_occluded, max_truncated = _LIMITS[difficulty]
    height = gt.bbox[:, 3] - gt.bbox[:, 1]
    small = height <= min_height if inclusive else height < min_height
    hard = small | (gt.occluded > max_occluded) | (gt.truncated > max_truncated)
    own = gt.name == name
    ignored = (own & hard) | (gt.name == _NEIGHBOURS.get(name, name + " "))
    return np.where(ignored, 1, np.where(own, 0, -1)).astype(np.int8)


def _detection_state(det: _Objects, name: str, difficulty: int) -> NDArray[np.int8]:
    """0 counts, 1 is ignored, -1 takes no part; a small detection is ignored whatever its class."""
    small = np.abs(det.bbox[:, 3] - det.bbox[:, 1]) < _LIMITS[difficulty][0]
    return np.where(small, 1, np.where(det.name == name, 0, -1)).astype(np.int8)


def _dontcare_share(det: _Objects, gt: _Objects) -> Floats:
    """(n,) largest share of each detection's 2D box inside one DontCare region."""
    region = gt.name == "dontcare"
    offsets = np.concatenate([[0], np.cumsum(region)]).astype(np.int64)[gt.offsets]
    flat = box_iou_frames(det.bbox, gt.bbox[region], det.offsets, offsets, kind="2d", mode="iof")
    per_row = np.repeat(np.diff(offsets), np.diff(det.offsets))
    share = np.zeros(len(det))
    some = per_row > 0
    starts = (np.cumsum(per_row) - per_row)[some]
    if starts.size:
        share[some] = np.maximum.reduceat(flat, starts)
    return share


def _thresholds(scores: Floats, n_gt: int) -> Floats:
    """Scores at which the recall comes closest to 0, 1/40, 2/40 ... of n_gt objects."""
    ordered = np.sort(scores)[::-1]
    kept = []
    wanted = 0.0
    last = len(ordered) - 1
    for i, score in enumerate(ordered.tolist()):
        here, following = (i + 1) / n_gt, (i + 2) / n_gt
        if i < last and following - wanted < wanted - here:
            continue
        kept.append(score)
        wanted += 1 / (ENOUGH_OBJECTS - 1.0)
    return np.array(kept, np.float64)


def _envelope(good: NDArray[np.float64], right: NDArray[np.int64], wrong: NDArray[np.int64]) -> Floats:
    """(41,) share of good among all detections at each threshold, made monotone from the right."""
    share = np.zeros(ENOUGH_OBJECTS)
    every = right + wrong
    share[: len(good)] = np.divide(good, every, out=np.zeros(len(good)), where=every > 0)
    return np.maximum.accumulate(share[::-1])[::-1].copy()


def _average(precision: Floats, recall: Iterable[int]) -> dict[int, float]:
    kinds = {11: precision[::4], 40: precision[1:]}
    return {k: float(100.0 * kinds[k].mean()) for k in recall}


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """The frames, their overlaps, and the evaluation of one class, difficulty and metric at a time."""

    gt: _Objects
    det: _Objects
    overlaps: dict[Metric, Floats]
    dontcare: dict[Metric, Floats]
    recall: tuple[int, ...]
    inclusive: bool
    near: NDArray[np.bool_]  # ground truth within the distances asked for

    def curves(self, name: str, table: Table, metric: Metric, min_overlap: float) -> list[KittiCurve]:
        both = [self._curves(name, table, metric, min_overlap, d) for d in range(len(DIFFICULTIES))]
        # Orientation follows the 2D rows, not each of them.
        return [c for kind in zip(*both, strict=True) for c in kind]

    def _curves(
        self, name: str, table: Table, metric: Metric, min_overlap: float, difficulty: int
    ) -> list[KittiCurve]:
        gt, det = self.gt, self.det
        truth = _truth_state(gt, name.lower(), difficulty, self.inclusive)
        truth[(truth == 0) & ~self.near] = 1
        found = _detection_state(det, name.lower(), difficulty)
        frames = (det.offsets, gt.offsets, self.overlaps[metric], found, truth, det.score)
        n_gt = int((truth == 0).sum())
        levels = _thresholds(match_kitti_scores(*frames, min_overlap), n_gt)
        counts = match_kitti(*frames, det.alpha, gt.alpha, self.dontcare[metric], min_overlap, levels)
        right, wrong = counts.true_positives, counts.false_positives
        kinds = [(metric, right.astype(np.float64))]
        if metric == "2d" and len(det) and det.alpha[0] != _NO_ALPHA:
            kinds.append(("aos", counts.similarity))
        result = []
        for kind, good in kinds:
            precision = _envelope(good, right, wrong)
            head = (name, kind, DIFFICULTIES[difficulty], table, min_overlap, n_gt, levels)
            result.append(KittiCurve(*head, precision, _average(precision, self.recall)))
        return result


def _check_frames(gt: Sequence[KittiAnnotations], det: Sequence[KittiAnnotations]) -> None:
    if len(gt) != len(det):
        raise ValueError(
            f"kitti_eval: det: got {len(det)} frames; expected {len(gt)}, as many as gt; a frame without "
            "detections is an empty record"
        )
    for i, frame in enumerate(det):
        if frame.score is None:
            raise ValueError(f"kitti_eval: det: frame {i} has no score; expected detections with scores")


def _check_overlaps(
    classes: Sequence[str], given: Mapping[str, tuple[Overlaps, Overlaps]] | None
) -> dict[str, tuple[Overlaps, Overlaps]]:
    known = {**MIN_OVERLAPS, **(given or {})}
    for name in classes:
        if name not in known:
            raise ValueError(
                f"kitti_eval: classes: got {name!r}; expected some of {', '.join(known)}; "
                "pass min_overlaps for other classes"
            )
        values = np.array(known[name], np.float64)
        if values.shape != (2, 3) or not ((values >= 0) & (values < 1)).all():
            raise ValueError(
                f"kitti_eval: min_overlaps: got {known[name]} for {name}; expected a strict and a loose "
                "triple (2D, bird's-eye view, 3D) of numbers from 0 to below 1"
            )
    return known


def kitti_eval(
    gt: Sequence[KittiAnnotations],
    det: Sequence[KittiAnnotations],
    classes: Sequence[str] = ("Car", "Pedestrian", "Cyclist"),
    recall: Sequence[int] = (11, 40),
    *,
    min_overlaps: Mapping[str, tuple[Overlaps, Overlaps]] | None = None,
    inclusive_height: bool = True,
    distance: tuple[float, float] = (0.0, math.inf),
    metrics: Sequence[Metric] = _METRICS,
) -> KittiResult:
    """Evaluate detections as the KITTI object benchmark does.

    Args:
        gt: labels of every frame, "DontCare" regions included.
        det: detections of the same frames in the same order. Their 2D boxes decide which are too small to
            count, so a detector without them must project its boxes into the image.
        classes: evaluated separately.
        recall: kinds of average precision: 11 is the mean at recall 0, 0.1, ... 1; 40 at 1/40, 2/40, ... 1.
        min_overlaps: for classes outside `MIN_OVERLAPS` or other values: the strict and the loose triple (2D,
            bird's-eye view, 3D).
        inclusive_height: whether an object exactly as high as the limit is ignored. The evaluation in Python
            that most code bases use says yes, the C++ text of the benchmark says no.
        distance: evaluate objects at this distance on the ground from the camera, [from, to) in metres.
            Objects elsewhere are ignored, and so are their detections and detections of nothing elsewhere; a
            detection of an object inside counts wherever its own centre is.
        metrics: some of "2d" (with "aos"), "bev", "3d".

    Returns:
        `KittiResult`. Curves of "aos" are missing when the first detection has alpha = -10 or there is none.

    Raises:
        ValueError: lists of different length, detections without scores, unknown classes or recall kinds.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", FewObjectsWarning)
        >>> car = (["Car"], [0], [0], [1.5], [[600, 150, 700, 210]], [[1.5, 1.6, 3.9]], [[1, 1.7, 20]], [1.5])
        >>> result = kitti_eval([KittiAnnotations(*car)] * 50, [KittiAnnotations(*car, [0.9])] * 50)
        >>> result.ap("Car", "3d", "moderate")
        100.0
        >>> result.curve("Car").n_gt
        50
    """
    _check_frames(gt, det)
    overlaps = _check_overlaps(classes, min_overlaps)
    if not recall or any(k not in (11, 40) for k in recall):
        raise ValueError(f"kitti_eval: recall: got {tuple(recall)}; expected 11, 40 or both")
    if not metrics or any(m not in _METRICS for m in metrics):
        raise ValueError(f"kitti_eval: metrics: got {tuple(metrics)}; expected some of {', '.join(_METRICS)}")
    if not 0 <= distance[0] < distance[1]:
        raise ValueError(f"kitti_eval: distance: got {distance}; expected 0 <= from < to")
    truth, found = _stack(gt), _stack(det)
    # A detection elsewhere can match, but is not wrong: as if it were in a DontCare region of every metric.
    excused = np.where(found.within(distance), 0.0, np.inf)
    offsets = (found.offsets, truth.offsets)
    evaluation = _Evaluation(
        gt=truth,
        det=found,
        overlaps={
            "2d": box_iou_frames(found.bbox, truth.bbox, *offsets, kind="2d"),
            "bev": box_iou_frames(found.box, truth.box, *offsets, kind="bev"),
            "3d": box_iou_frames(found.box, truth.box, *offsets, kind="3d"),
        },
        dontcare={
            "2d": np.maximum(_dontcare_share(found, truth), excused),
            "bev": excused,
            "3d": excused,
        },
        recall=tuple(recall),
        inclusive=inclusive_height,
        near=truth.within(distance),
    )
    curves = [
        curve
        for name in classes
        for table, triple in zip(get_args(Table), overlaps[name], strict=True)
        for metric, min_overlap in zip(_METRICS, triple, strict=True)
        if metric in metrics
        for curve in evaluation.curves(name, table, metric, min_overlap)
    ]
    _warn_of_few(curves)
    return KittiResult(len(gt), tuple(classes), tuple(recall), tuple(curves))


def _warn_of_few(curves: Iterable[KittiCurve]) -> None:
    few = {f"{c.class_name} {c.difficulty}": c.n_gt for c in curves if c.n_gt < ENOUGH_OBJECTS}
    if few:
        listed = ", ".join(f"{where} ({n})" for where, n in few.items())
        warnings.warn(
            f"kitti_eval: fewer than {ENOUGH_OBJECTS} objects: {listed}; there, even a perfect detector's "
            "average precision is below 100",
            FewObjectsWarning,
            stacklevel=3,
        )
