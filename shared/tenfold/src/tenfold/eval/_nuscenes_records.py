"""Boxes of nuScenes key frames as plain arrays, and the submission file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold._errors import UserInputError
from tenfold.io import read_json, write_json

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "MAX_BOXES",
    "NuScenesBoxes",
    "NuScenesSample",
    "read_submission",
    "write_submission",
]

Floats = NDArray[np.float64]

#: The ten classes of the detection task, in the benchmark's order.
CLASSES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)

#: Attributes that the benchmark knows.
ATTRIBUTES = (
    "pedestrian.moving",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "cycle.with_rider",
    "cycle.without_rider",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)

#: Boxes of one key frame that a submission may hold.
MAX_BOXES = 500

_COLUMNS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}
_MAY_BE_NAN = {"velocity"}
# Of a box in a submission, beside its frame.
_FIELDS = (*_COLUMNS, "detection_name", "detection_score", "attribute_name")


@dataclass(frozen=True, eq=False)
class NuScenesBoxes:
    """Boxes of one key frame in the global frame: ground truth, or detections when ``score`` is set.

    Any array-like is accepted and kept as float64.

    Args:
        name: (n,) class of each box.
        translation: (n, 3) centre, metres.
        size: (n, 3) width, length, height, metres, positive.
        rotation: (n, 4) quaternion w, x, y, z of any length but zero.
        velocity: (n, 2) metres per second; NaN where unknown.
        attribute: (n,) name of the attribute, "" for none.
        num_points: (n,) lidar and radar points; -1 where they do not matter, as for detections.
        score: (n,) or None for ground truth.

    Raises:
        ValueError: lengths that differ, wrong shapes, numbers that are not finite, sizes that are not
            positive.

    Example:
        >>> one = NuScenesBoxes(["car"], [[0, 0, 0]], [[2, 4, 1.5]], [[1, 0, 0, 0]], [[0, 0]], ["vehicle.parked"])
        >>> len(one), one.num_points.tolist()
        (1, [-1])
    """

    name: Sequence[str]
    translation: Floats
    size: Floats
    rotation: Floats
    velocity: Floats
    attribute: Sequence[str]
    num_points: NDArray[np.int64] | None = None
    score: Floats | None = None

    def __post_init__(self) -> None:
        rows = len(self.name)
        object.__setattr__(self, "name", tuple(str(n) for n in self.name))
        object.__setattr__(self, "attribute", tuple(str(a) for a in self.attribute))
        if len(self.attribute) != rows:
            raise ValueError(
                f"NuScenesBoxes: attribute: got {len(self.attribute)} entries; expected {rows}, one per name"
            )
        for column in (*_COLUMNS, "score"):
            value = getattr(self, column)
            if value is not None:
                object.__setattr__(self, column, _column(column, value, rows))
        counts = np.full(rows, -1) if self.num_points is None else np.asarray(self.num_points)
        if counts.shape != (rows,):
            raise ValueError(f"NuScenesBoxes: num_points: got shape {counts.shape}; expected ({rows},)")
        object.__setattr__(self, "num_points", counts.astype(np.int64))
        if not (self.size > 0).all():
            raise ValueError("NuScenesBoxes: size: got a size of 0 or less; expected positive numbers")
        if not np.any(self.rotation, axis=1).all():
            raise ValueError("NuScenesBoxes: rotation: got a quaternion of length 0; expected a rotation")

    def __len__(self) -> int:
        return len(self.name)

    def select(self, rows: NDArray[Any]) -> NuScenesBoxes:
        """The boxes of a mask (n,) or of row numbers, in that order."""
        chosen = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, np.int64)
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, tuple):
                values[item.name] = tuple(value[k] for k in chosen)
            else:
                values[item.name] = None if value is None else value[chosen]
        return NuScenesBoxes(**values)

    @classmethod
    def empty(cls, *, scores: bool = False) -> NuScenesBoxes:
        """No boxes."""
        zero = np.zeros((0, 3))
        return cls((), zero, zero, np.zeros((0, 4)), zero[:, :2], (), score=np.zeros(0) if scores else None)


@dataclass(frozen=True, eq=False)
class NuScenesSample:
    """What the evaluation knows of a key frame.

    Args:
        boxes: ground truth of the ten classes.
        ego: (2 or 3,) place of the car in the global frame, metres.
        racks: bicycle racks; bicycles and motorcycles whose centre lies in one are left out.
    """

    boxes: NuScenesBoxes
    ego: Floats
    racks: NuScenesBoxes

    def __post_init__(self) -> None:
        ego = np.asarray(self.ego, dtype=np.float64)
        if ego.shape not in {(2,), (3,)} or not np.isfinite(ego).all():
            raise ValueError(f"NuScenesSample: ego: got {self.ego}; expected two or three finite numbers")
        object.__setattr__(self, "ego", ego)


def _column(name: str, value: Any, rows: int) -> Floats:
    given = np.asarray(value, dtype=np.float64)
    shape = (rows, _COLUMNS[name]) if name in _COLUMNS else (rows,)
    if given.size == 0 and rows == 0:
        return np.zeros(shape)
    if given.shape != shape:
        raise ValueError(
            f"NuScenesBoxes: {name}: got shape {given.shape}; expected {shape}, one row per name"
        )
    finite = np.isfinite(given) | (np.isnan(given) if name in _MAY_BE_NAN else False)
    if not finite.all():
        raise ValueError(f"NuScenesBoxes: {name}: got NaN or infinity; expected finite numbers")
    return given


def write_submission(
    path: str | Path,
    results: Mapping[str, NuScenesBoxes],
    *,
    modalities: Sequence[str] = ("lidar",),
) -> None:
    """Write a submission of the detection task, atomically.

    Args:
        path: the JSON file.
        results: detections of every key frame of the split by its token; a frame without any has an empty
            entry.
        modalities: sensors in use: camera, lidar, radar, map or external.

    Raises:
        ValueError: detections without scores, more than 500 in a frame, an unknown class or attribute.
    """
    known = ("camera", "lidar", "radar", "map", "external")
    if unknown := [m for m in modalities if m not in known]:
        raise ValueError(f"write_submission: modalities: got {unknown}; expected some of {known}")
    for token, boxes in results.items():
        _check_detections("write_submission", token, boxes)
    document = {
        "meta": {f"use_{name}": name in modalities for name in known},
        "results": {token: _rows(token, boxes) for token, boxes in results.items()},
    }
    write_json(path, document, indent=None)


def _rows(token: str, boxes: NuScenesBoxes) -> list[dict[str, Any]]:
    assert boxes.score is not None
    columns = zip(
        boxes.translation.tolist(),
        boxes.size.tolist(),
        boxes.rotation.tolist(),
        np.nan_to_num(boxes.velocity).tolist(),
        boxes.name,
        boxes.score.tolist(),
        boxes.attribute,
        strict=True,
    )
    return [{"sample_token": token, **dict(zip(_FIELDS, row, strict=True))} for row in columns]


def _check_detections(op: str, token: str, boxes: NuScenesBoxes) -> None:
    if boxes.score is None:
        raise ValueError(f"{op}: {token}: score: missing; expected detections with scores")
    if len(boxes) > MAX_BOXES:
        raise ValueError(f"{op}: {token}: got {len(boxes)} boxes; expected at most {MAX_BOXES}")
    if unknown := set(boxes.name) - set(CLASSES):
        raise ValueError(f"{op}: {token}: name: got {min(unknown)!r}; expected one of {', '.join(CLASSES)}")
    if unknown := set(boxes.attribute) - {"", *ATTRIBUTES}:
        raise ValueError(f"{op}: {token}: attribute: got {min(unknown)!r}; expected one of {ATTRIBUTES}")


def read_submission(path: str | Path) -> dict[str, NuScenesBoxes]:
    """Detections of every key frame from a submission file, in the file's order.

    Raises:
        UserInputError: no JSON, a missing field, a value that the benchmark refuses; the message names file,
            frame and field.
    """
    document = read_json(path)
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict):
        raise UserInputError(f"{path}: results: missing; expected a mapping from frame token to boxes")
    found = {}
    for token, rows in results.items():
        try:
            found[token] = _boxes(rows)
            _check_detections("submission", token, found[token])
        except (TypeError, ValueError) as error:
            raise UserInputError(f"{path}: results.{token}: {error}") from None
    return found


def _boxes(rows: Any) -> NuScenesBoxes:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("got no list of boxes")
    if not rows:
        return NuScenesBoxes.empty(scores=True)
    for place, row in enumerate(rows):
        if missing := [key for key in _FIELDS if key not in row]:
            raise ValueError(f"box {place}: {missing[0]}: missing")
        if not isinstance(row["detection_score"], float | int) or math.isnan(row["detection_score"]):
            raise ValueError(
                f"box {place}: detection_score: got {row['detection_score']!r}; expected a number"
            )
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in _FIELDS}
    geometry: dict[str, Any] = {key: np.asarray(columns[key], np.float64) for key in _COLUMNS}
    score = np.asarray(columns["detection_score"], np.float64)
    return NuScenesBoxes(
        columns["detection_name"], attribute=columns["attribute_name"], score=score, **geometry
    )
