"""From detections to the metric of their data set: records of frames, the evaluation, its numbers and files.

Frames of KITTI's layout are evaluated by KITTI's rules; those of nuScenes by its detection metric; those of
one's own data, which know no camera, by KITTI's average precision in bird's-eye view and 3D, where every object
counts as easy.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tenfold._errors import UserInputError
from tenfold.eval.kitti import (
    MIN_OVERLAPS,
    FewObjectsWarning,
    KittiAnnotations,
    KittiResult,
    Metric,
    kitti_eval,
)
from tenfold.eval.nuscenes import (
    CLASSES,
    NuScenesBoxes,
    NuScenesResult,
    NuScenesSample,
    nuscenes_eval,
    write_submission,
)
from tenfold.geometry import Calibration, boxes_to_kitti
from tenfold.io import write_json
from tenfold.lidar.frames import Objects
from tenfold.lidar.kitti import KittiLabels, write_labels
from tenfold.lidar.nuscenes import detections_to_nuscenes
from tenfold.lidar.truth import BoxTruth, NuScenesTruth

if TYPE_CHECKING:
    from tenfold.lidar.data import Frame

__all__ = [
    "BoxEvaluated",
    "Evaluated",
    "NuScenesEvaluated",
    "Record",
    "Result",
    "annotations",
    "evaluate",
    "headline",
    "record",
    "write_results",
]

#: Overlaps of classes that the benchmark does not know, strict and loose, in 2D, bird's-eye view and 3D.
_OTHER_OVERLAPS = ((0.5, 0.5, 0.5), (0.5, 0.25, 0.25))
_WITHOUT_CAMERA: tuple[Metric, ...] = ("bev", "3d")
# High enough in pixels to count in every difficulty.
_ANY_IMAGE_BOX = (0.0, 0.0, 100.0, 100.0)


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One frame's labels and detections, KITTI."""

    frame_id: str
    labels: KittiLabels
    found: KittiLabels
    calibration: Calibration


@dataclass(frozen=True, eq=False)
class NuScenesEvaluated:
    """One key frame's ground truth (None on the test split) and detections, nuScenes."""

    frame_id: str
    sample: NuScenesSample | None
    found: NuScenesBoxes


@dataclass(frozen=True, eq=False)
class BoxEvaluated:
    """One frame's objects and detections (``boxes``, ``scores``, ``labels``) in the lidar frame."""

    frame_id: str
    objects: Objects
    found: dict[str, Any]


Record = Evaluated | NuScenesEvaluated | BoxEvaluated
Result = KittiResult | NuScenesResult


def record(frame: "Frame", found: dict[str, Any], class_names: Sequence[str]) -> Record:
    """What the evaluation keeps of one frame.

    Args:
        frame: as `tenfold.lidar.data.DetectionFrames` gives it without augmentation.
        found: ``boxes (n, 7 or 9)``, ``scores (n,)``, ``labels (n,)`` 0-based, arrays.
        class_names: name of each label.

    Raises:
        UserInputError: a frame without labels, or class names that nuScenes does not know.
    """
    from tenfold.lidar.data import detections_to_kitti

    truth = frame.truth
    if isinstance(truth, NuScenesTruth):
        if unknown := [name for name in class_names if name not in CLASSES]:
            raise UserInputError(
                f"model: class_names: {unknown[0]!r} is no class of nuScenes; expected some of {', '.join(CLASSES)}"
            )
        boxes = detections_to_nuscenes(found, class_names, truth.lidar_to_global)
        return NuScenesEvaluated(frame.frame_id, truth.sample, boxes)
    if isinstance(truth, BoxTruth) and truth.objects is not None:
        return BoxEvaluated(frame.frame_id, truth.objects, found)
    if frame.labels is None or frame.calibration is None:
        raise UserInputError(f"frame {frame.frame_id}: labels: missing; evaluation needs them")
    result = detections_to_kitti(found, class_names, frame.calibration, frame.image_size)
    return Evaluated(frame.frame_id, frame.labels, result, frame.calibration)


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


def _without_camera(names: Sequence[str], boxes: Any, scores: Any = None) -> KittiAnnotations:
    """Boxes of the lidar frame as KITTI annotations that no image rule touches."""
    rows = len(names)
    plain = np.asarray(boxes, np.float64)[:, :7] if rows else np.zeros((0, 7))
    fields = boxes_to_kitti(plain, Calibration.kitti_like())
    return KittiAnnotations(
        names,
        np.zeros(rows),
        np.zeros(rows),
        np.full(rows, -10.0),
        np.tile(_ANY_IMAGE_BOX, (rows, 1)),
        fields[:, :3],
        fields[:, 3:6],
        fields[:, 6],
        scores,
    )


def evaluate(frames: Sequence[Record], class_names: Sequence[str]) -> Result | None:
    """The metric of the frames' data set; the number of objects stands in the result, so no warning is given.

    Args:
        frames: records of one data set.
        class_names: of the detector.

    Returns:
        `KittiResult` or `NuScenesResult`; None on the test split of nuScenes, which has no ground truth.

    Raises:
        UserInputError: no frame.
    """
    if not frames:
        raise UserInputError("evaluation: no frame; expected one or more")
    nuscenes = [frame for frame in frames if isinstance(frame, NuScenesEvaluated)]
    if nuscenes:
        samples = {f.frame_id: f.sample for f in nuscenes if f.sample is not None}
        if not samples:
            return None
        # Detectors of some classes are judged by these alone; with all ten it is the benchmark's number.
        classes = tuple(name for name in CLASSES if name in class_names)
        return nuscenes_eval(samples, {f.frame_id: f.found for f in nuscenes}, classes=classes)
    kitti = [frame for frame in frames if isinstance(frame, Evaluated)]
    if kitti:
        truth = [annotations(frame.labels, frame.calibration) for frame in kitti]
        found = [annotations(frame.found, frame.calibration) for frame in kitti]
        return _kitti(truth, found, class_names)
    boxes = [frame for frame in frames if isinstance(frame, BoxEvaluated)]
    truth = [_without_camera(frame.objects.names, frame.objects.boxes) for frame in boxes]
    found = [
        _without_camera([class_names[k] for k in f.found["labels"]], f.found["boxes"], f.found["scores"])
        for f in boxes
    ]
    return _kitti(truth, found, class_names, metrics=_WITHOUT_CAMERA)


def _kitti(
    truth: Sequence[KittiAnnotations],
    found: Sequence[KittiAnnotations],
    class_names: Sequence[str],
    **options: Any,
) -> KittiResult:
    other = {name: _OTHER_OVERLAPS for name in class_names if name not in MIN_OVERLAPS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewObjectsWarning)
        return kitti_eval(truth, found, tuple(class_names), min_overlaps=other, **options)


def headline(result: Result) -> dict[str, float]:
    """The numbers worth a curve.

    KITTI: moderate AP|R40 of each class in 3D, and their mean; strict overlaps under the class's name, loose
    ones with ``_loose``, bird's-eye view with ``_bev``. nuScenes: ``NDS``, ``mAP``, the mean errors and the AP of
    each class.
    """
    if isinstance(result, NuScenesResult):
        means = {"NDS": result.nds, "mAP": result.mean_ap, **result.mean_errors}
        return means | {name: result.ap(name) for name in result.classes}
    values: dict[str, float] = {}
    for name in result.classes:
        values[name] = result.ap(name)
        values[f"{name}_bev"] = result.ap(name, "bev")
        values[f"{name}_loose"] = result.ap(name, table="loose")
    values["mean"] = float(np.mean([result.ap(name) for name in result.classes]))
    return values


def write_results(folder: Path, frames: Sequence[Record], result: Result | None) -> None:
    """Write the detections of every frame and ``metrics.json``.

    KITTI: ``data/ID.txt`` in its result format; nuScenes: ``submission.json``; one's own data: ``data/ID.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nuscenes = {f.frame_id: f.found for f in frames if isinstance(f, NuScenesEvaluated)}
    if nuscenes:
        write_submission(folder / "submission.json", nuscenes)
    else:
        (folder / "data").mkdir(exist_ok=True)
    for frame in frames:
        if isinstance(frame, Evaluated):
            write_labels(folder / "data" / f"{frame.frame_id}.txt", frame.found, frame.calibration)
        elif isinstance(frame, BoxEvaluated):
            columns = {name: np.asarray(values).tolist() for name, values in frame.found.items()}
            write_json(folder / "data" / f"{frame.frame_id}.json", columns, indent=None)
    if result is not None:
        write_json(folder / "metrics.json", result.to_dict())
