"""The nuScenes detection metric: mean average precision, five errors of the true positives, NDS.

Detections of a class are visited by falling score over the whole split (of equal scores the later comes first)
and take the nearest free object of their class and frame, by distance of the centres on the ground. Average
precision is taken at four distances and counts recall and precision above 10 % only; the errors are those of
the matches within 2 m, as a running mean over falling scores, averaged over the recall from 11 % to the
largest that is reached.

Source: the nuScenes detection task, as its development kit evaluates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tenfold.eval._nuscenes_records import (
    ATTRIBUTES,
    CLASSES,
    MAX_BOXES,
    NuScenesBoxes,
    NuScenesSample,
    _check_detections,
    read_submission,
    write_submission,
)
from tenfold.eval._nuscenes_result import ERRORS, NuScenesCurve, NuScenesResult
from tenfold.host import match_nuscenes

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "CLASS_RANGE",
    "DISTANCES",
    "ERRORS",
    "MAX_BOXES",
    "NuScenesBoxes",
    "NuScenesCurve",
    "NuScenesResult",
    "NuScenesSample",
    "nuscenes_eval",
    "read_submission",
    "write_submission",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Distance from the car, metres, up to which each class is evaluated.
CLASS_RANGE: Mapping[str, float] = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), 50.0),
    **dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0),
    **dict.fromkeys(("traffic_cone", "barrier"), 30.0),
}

#: Distances between centres, metres, up to which a detection matches.
DISTANCES = (0.5, 1.0, 2.0, 4.0)

_ERROR_DISTANCE = 2.0
_RECALL = np.linspace(0, 1, 101)
_FIRST = 11  # recall above 10 %
_MIN_PRECISION = 0.1
_AP_WEIGHT = 5.0
_CYCLES = ("bicycle", "motorcycle")
# Errors that mean nothing for a class.
_LEFT_OUT = {
    "traffic_cone": ("attr_err", "vel_err", "orient_err"),
    "barrier": ("attr_err", "vel_err"),
}


@dataclass(frozen=True, eq=False)
class _Stacked:
    """The boxes of all frames, one after the other."""

    frame: Ints
    name: NDArray[np.str_]
    translation: Floats
    size: Floats
    yaw: Floats
    velocity: Floats
    attribute: NDArray[np.str_]
    score: Floats
    quaternion: Floats = field(repr=False)

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: NDArray[np.bool_] | Ints) -> _Stacked:
        return _Stacked(**{name: value[rows] for name, value in vars(self).items()})


def _stack(frames: Sequence[NuScenesBoxes]) -> _Stacked:
    def join(name: str, *shape: int) -> Floats:
        return np.concatenate([np.zeros((0, *shape)), *(getattr(boxes, name) for boxes in frames)])

    quaternion = join("rotation", 4)
    w, x, y, z = quaternion.T
    return _Stacked(
        frame=np.repeat(np.arange(len(frames)), [len(boxes) for boxes in frames]).astype(np.int64),
        name=np.array([n for boxes in frames for n in boxes.name], np.str_),
        translation=join("translation", 3),
        size=join("size", 3),
        yaw=np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z),
        velocity=join("velocity", 2),
        attribute=np.array([a for boxes in frames for a in boxes.attribute], np.str_),
        score=np.concatenate(
            [np.zeros(0), *(np.zeros(len(b)) if b.score is None else b.score for b in frames)]
        ),
        quaternion=quaternion,
    )


def _inside_racks(boxes: _Stacked, racks: Sequence[NuScenesBoxes]) -> NDArray[np.bool_]:
    """(n,) whether the centre of a bicycle or motorcycle lies in a rack of its frame, borders included."""
    inside = np.zeros(len(boxes), dtype=bool)
    for row in np.flatnonzero(np.isin(boxes.name, _CYCLES)):
        rack = racks[boxes.frame[row]]
        if len(rack):
            offset = boxes.translation[row] - rack.translation
            local = np.einsum("nji,nj->ni", _rotations(rack.rotation), offset)
            half = rack.size[:, [1, 0, 2]] / 2
            inside[row] = bool((np.abs(local) <= half).all(axis=1).any())
    return inside


def _rotations(quaternion: Floats) -> Floats:
    """(n, 3, 3) rotation matrices."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)


def _evaluated(
    boxes: _Stacked, ego: Floats, racks: Sequence[NuScenesBoxes], limits: Mapping[str, float]
) -> NDArray[np.bool_]:
    """(n,) near enough for the class, and in no rack."""
    offset = boxes.translation[:, :2] - ego[boxes.frame]
    away = np.sqrt(np.sum(offset**2, axis=1))
    limit = np.array([limits[name] for name in boxes.name], dtype=np.float64)
    return np.asarray((away < limit) & ~_inside_racks(boxes, racks))


def _offsets(boxes: _Stacked, frames: int) -> Ints:
    """(F + 1,) first box of each frame."""
    return np.searchsorted(boxes.frame, np.arange(frames + 1))


def _running_mean(values: Floats) -> Floats:
    """Mean of the values so far, without the unknown ones; 1 everywhere if none is known."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    return np.asarray(np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count > 0))


def _match_errors(name: str, truth: _Stacked, found: _Stacked) -> dict[str, Floats]:
    """Errors of matched boxes, row by row."""
    volume = np.prod(np.minimum(truth.size, found.size), axis=1)
    union = np.prod(truth.size, axis=1) + np.prod(found.size, axis=1) - volume
    period = np.pi if name == "barrier" else 2 * np.pi
    turn = np.mod(truth.yaw - found.yaw + period / 2, period) - period / 2
    offset = truth.translation[:, :2] - found.translation[:, :2]
    wrong = (truth.attribute != found.attribute).astype(np.float64)
    return {
        "trans_err": np.sqrt(np.sum(offset**2, axis=1)),
        "scale_err": 1 - volume / union,
        "orient_err": np.abs(turn),
        "vel_err": np.sqrt(np.sum((truth.velocity - found.velocity) ** 2, axis=1)),
        "attr_err": np.where(truth.attribute == "", np.nan, wrong),
    }


def _curve(
    name: str, distance: float, truth: _Stacked, found: _Stacked, ranks: Ints, objects: Ints
) -> NuScenesCurve:
    """Precision, confidence and errors at 101 recalls; `found` by rank."""
    if not len(ranks):
        nothing = {error: np.ones(101) for error in ERRORS}
        return NuScenesCurve(name, distance, len(truth), np.zeros(101), np.zeros(101), nothing)
    right = np.zeros(len(found))
    right[ranks] = 1
    hits = np.cumsum(right)
    recall = hits / len(truth)
    precision = np.interp(_RECALL, recall, hits / np.arange(1, len(found) + 1), right=0)
    confidence = np.interp(_RECALL, recall, found.score, right=0)
    errors = {}
    # np.interp wants rising scores.
    rising = found.score[ranks][::-1]
    for error, values in _match_errors(name, truth.take(objects), found.take(ranks)).items():
        errors[error] = np.interp(confidence[::-1], rising, _running_mean(values)[::-1])[::-1]
    return NuScenesCurve(name, distance, len(truth), precision, confidence, errors)


def _average_precision(curve: NuScenesCurve) -> float:
    above = np.maximum(curve.precision[_FIRST:] - _MIN_PRECISION, 0)
    return float(above.mean()) / (1 - _MIN_PRECISION)


def _mean_error(curve: NuScenesCurve, error: str) -> float:
    if error in _LEFT_OUT.get(curve.class_name, ()):
        return float("nan")
    reached = np.flatnonzero(curve.confidence)
    last = int(reached[-1]) if len(reached) else 0
    return float(curve.errors[error][_FIRST : last + 1].mean()) if last >= _FIRST else 1.0


def _check_frames(gt: Mapping[str, NuScenesSample], det: Mapping[str, NuScenesBoxes]) -> None:
    if missing := [token for token in gt if token not in det]:
        raise ValueError(
            f"nuscenes_eval: det: {len(missing)} of {len(gt)} frames are missing, such as {missing[0]}; a frame "
            "without detections has an empty entry"
        )
    if extra := [token for token in det if token not in gt]:
        raise ValueError(
            f"nuscenes_eval: det: {len(extra)} frames are not part of the split, such as {extra[0]}"
        )
    for token, boxes in det.items():
        _check_detections("nuscenes_eval", token, boxes)
    for token, sample in gt.items():
        if unknown := set(sample.boxes.name) - set(CLASSES):
            raise ValueError(f"nuscenes_eval: gt: {token}: unknown class {min(unknown)!r}")


def nuscenes_eval(
    gt: Mapping[str, NuScenesSample],
    det: Mapping[str, NuScenesBoxes],
    *,
    class_range: Mapping[str, float] | None = None,
    classes: Sequence[str] = CLASSES,
) -> NuScenesResult:
    """Evaluate detections as the nuScenes detection task does.

    Args:
        gt: every key frame of the split by token.
        det: detections of the same frames. Among equal scores the later one, in the order of this mapping and
            of each frame, is visited first.
        class_range: other distances than `CLASS_RANGE`, metres, for some classes.
        classes: evaluated and averaged; all ten in the benchmark. An error that means nothing for any of them
            is NaN and stays out of NDS.

    Returns:
        `NuScenesResult`. A class without objects counts as average precision 0 and errors 1, as in the
        benchmark.

    Raises:
        ValueError: frames that differ, detections without scores, more than 500 in a frame, unknown classes or
            attributes.

    Example:
        >>> car = (["car"], [[9, 0, 0]], [[2, 4, 1.5]], [[1, 0, 0, 0]], [[0, 0]], ["vehicle.parked"])
        >>> gt = {"a": NuScenesSample(NuScenesBoxes(*car), [0, 0], NuScenesBoxes.empty())}
        >>> result = nuscenes_eval(gt, {"a": NuScenesBoxes(*car, score=[0.9])}, classes=["car"])
        >>> round(result.mean_ap, 6), round(result.nds, 6)
        (1.0, 1.0)
    """
    _check_frames(gt, det)
    if not classes or any(name not in CLASSES for name in classes):
        raise ValueError(
            f"nuscenes_eval: classes: got {tuple(classes)}; expected some of {', '.join(CLASSES)}"
        )
    limits = {**CLASS_RANGE, **(class_range or {})}
    # Frames in the order of the detections, which decides ties.
    samples = [gt[token] for token in det]
    ego = np.array([sample.ego[:2] for sample in samples]).reshape(-1, 2)
    racks = [sample.racks for sample in samples]
    measured = [s.boxes.select(np.asarray(s.boxes.num_points) != 0) for s in samples]
    truth, found = _stack(measured), _stack(list(det.values()))
    truth = truth.take(_evaluated(truth, ego, racks, limits))
    found = found.take(_evaluated(found, ego, racks, limits))
    curves = [curve for name in classes for curve in _class_curves(name, truth, found, len(samples))]
    aps = {(c.class_name, c.distance): _average_precision(c) for c in curves}
    errors = {
        (c.class_name, error): _mean_error(c, error)
        for c in curves
        if c.distance == _ERROR_DISTANCE
        for error in ERRORS
    }
    return NuScenesResult(len(gt), tuple(classes), tuple(curves), aps, errors, _AP_WEIGHT)


def _class_curves(name: str, truth: _Stacked, found: _Stacked, frames: int) -> list[NuScenesCurve]:
    truth, found = truth.take(truth.name == name), found.take(found.name == name)
    matches = match_nuscenes(
        *(_offsets(found, frames), _offsets(truth, frames)),
        *(found.translation[:, :2], truth.translation[:, :2], found.score, DISTANCES),
    )
    found = found.take(matches.order)
    curves = []
    for limit, match in zip(DISTANCES, matches.match[:, matches.order], strict=True):
        ranks = np.flatnonzero(match >= 0)
        curves.append(_curve(name, limit, truth, found, ranks, match[ranks]))
    return curves
