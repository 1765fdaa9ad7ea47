"""KITTI's evaluation of a detector's output, its table and its files."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenfold._errors import UserInputError
from tenfold.eval.kitti import MIN_OVERLAPS, FewObjectsWarning, KittiAnnotations, KittiResult, kitti_eval
from tenfold.geometry import Calibration, boxes_to_kitti
from tenfold.io import write_json
from tenfold.lidar.kitti import KittiLabels, write_labels

__all__ = ["Evaluated", "annotations", "evaluate", "headline", "write_results"]

#: Overlaps of classes that the benchmark does not know, strict and loose, in 2D, bird's-eye view and 3D.
_OTHER_OVERLAPS = ((0.5, 0.5, 0.5), (0.5, 0.25, 0.25))


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One frame's labels and detections."""

    frame_id: str
    labels: KittiLabels
    found: KittiLabels
    calibration: Calibration


def annotations(labels: KittiLabels, calibration: Calibration) -> KittiAnnotations:
    """Labels, or detections with scores, in the camera's frame, as the evaluation takes them."""
    fields = boxes_to_kitti(labels.boxes, calibration)
    columns: dict[str, Any] = {
        "truncated": labels.truncation,
        "occluded": labels.occlusion,
        "alpha": labels.alpha,
        "bbox": labels.boxes2d,
        "dimensions": fields[:, :3],
        "location": fields[:, 3:6],
        "rotation_y": fields[:, 6],
        "score": labels.scores,
    }
    return KittiAnnotations(labels.names, **columns)


def evaluate(frames: Sequence[Evaluated], class_names: Sequence[str]) -> KittiResult:
    """`kitti_eval` of these frames; the number of objects stands in the result, so no warning is given.

    Raises:
        UserInputError: no frame.
    """
    if not frames:
        raise UserInputError("evaluation: no frame; expected one or more")
    truth = [annotations(frame.labels, frame.calibration) for frame in frames]
    found = [annotations(frame.found, frame.calibration) for frame in frames]
    other = {name: _OTHER_OVERLAPS for name in class_names if name not in MIN_OVERLAPS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewObjectsWarning)
        return kitti_eval(truth, found, tuple(class_names), min_overlaps=other)


def headline(result: KittiResult) -> dict[str, float]:
    """The numbers worth a curve: moderate AP|R40 of each class in 3D, and their mean.

    Strict overlaps under the class's name, loose ones with ``_loose``; bird's-eye view with ``_bev``.
    """
    values: dict[str, float] = {}
    for name in result.classes:
        values[name] = result.ap(name)
        values[f"{name}_bev"] = result.ap(name, "bev")
        values[f"{name}_loose"] = result.ap(name, table="loose")
    values["mean"] = float(np.mean([result.ap(name) for name in result.classes]))
    return values


def write_results(folder: Path, frames: Sequence[Evaluated], result: KittiResult) -> None:
    """Write ``data/ID.txt`` for every frame in KITTI's result format, and ``metrics.json``."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for frame in frames:
        write_labels(folder / "data" / f"{frame.frame_id}.txt", frame.found, frame.calibration)
    write_json(folder / "metrics.json", result.to_dict())
