"""From frames to batches: the data set that a detector trains on, and its collate function.

A batch is a dict: ``points (sum N, 1 + C)`` float32 with the sample's place in the batch in column 0,
``gt_boxes (B, M, 8)``, or ``(B, M, 10)`` with vx, vy before the label, float32, zero padded at the end, with the
1-based class in the last column, ``batch_size``, and ``frames``: the `Frame` of each sample, for evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.geometry import Calibration, kitti_alpha, project_boxes
from tenfold.lidar.augment import (
    Augmentation,
    Sample,
    in_range,
    keep_classes,
    shuffle,
    training_sample,
)
from tenfold.lidar.frames import LidarFrame, LidarReader
from tenfold.lidar.kitti import DONT_CARE, FloatArray, KittiFrame, KittiLabels
from tenfold.lidar.sampling import ObjectDatabase, ObjectSampler
from tenfold.lidar.truth import truth_of
from tenfold.train.resume import sample_generator

__all__ = ["Batch", "DetectionFrames", "Frame", "collate", "detections_to_kitti", "evaluation_labels"]

_TRIES = 100


@dataclass(frozen=True, eq=False)
class Frame:
    """One sample on its way into a batch.

    Attributes:
        index: its place in the data set.
        frame_id: name of the frame.
        points: ``(N, C)`` float32.
        gt_boxes: ``(M, 8)``, or ``(M, 10)`` with vx, vy, float32, the 1-based class in the last column.
        calibration: of the camera; None where a data set has none.
        image_size: (height, width), None when unknown.
        labels: all labels with the "DontCare" regions, for evaluation by KITTI's rules; None in training, on
            the test split and in other layouts.
        truth: what the evaluation of other data sets needs, such as `tenfold.lidar.truth.NuScenesTruth`;
            None in training and on the test split.
        camera: what a reader's frame holds in an attribute ``camera``, for detectors that look at images.
        outside: boxes of the classes that training left out, because their centre is outside the range: of this
            frame, and of frames without any other that it stands for.
    """

    index: int
    frame_id: str
    points: FloatArray
    gt_boxes: FloatArray
    calibration: Calibration | None = None
    image_size: tuple[int, int] | None = None
    labels: KittiLabels | None = None
    truth: Any = None
    camera: Any = None
    outside: int = 0


class Batch(TypedDict):
    """What a detector's ``forward`` takes."""

    points: torch.Tensor
    gt_boxes: torch.Tensor
    batch_size: int
    frames: list[Frame]


class DetectionFrames(Dataset[Frame]):
    """Frames of a reader as samples of a detector.

    With `augmentation`, sample ``index`` of epoch ``epoch`` depends on (seed, epoch, index) alone, and a
    frame that is left without an object is replaced by a random other one. Without, samples are what
    evaluation sees: nothing moved, points in the file's order unless `shuffle_points` says otherwise; then the
    order depends on (seed, index) alone.

    Args:
        frames: the reader: `KittiObject`, `NuScenesDetection`, `CustomFrames`, or one of your own.
        class_names: classes to detect.
        limits: x0, y0, z0, x1, y1, z1 in metres.
        augmentation: None for evaluation.
        database: objects for ground-truth sampling; None leaves it out.
        seed: of the augmentation.
        velocity: whether ground truth has vx, vy before the label; 0 where a data set knows none.
        shuffle_points: also in evaluation, as OpenPCDet does on nuScenes.

    Raises:
        UserInputError: on access, a broken file, or no object in any of a hundred random frames.
    """

    def __init__(
        self,
        frames: LidarReader,
        *,
        class_names: Sequence[str],
        limits: Sequence[float],
        augmentation: Augmentation | None = None,
        database: ObjectDatabase | None = None,
        seed: int = 0,
        velocity: bool = False,
        shuffle_points: bool = False,
    ) -> None:
        if len(limits) != 6 or not all(low < high for low, high in zip(limits[:3], limits[3:], strict=True)):
            raise ValueError(
                f"DetectionFrames: limits: got {list(limits)}; expected x0, y0, z0, x1, y1, z1 with each low "
                "below its high"
            )
        self.frames, self.class_names, self.limits = frames, tuple(class_names), tuple(limits)
        self.velocity, self.shuffle_points = velocity, shuffle_points
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0
        pastes = augmentation is not None and database is not None and any(augmentation.counts.values())
        self.sampler = ObjectSampler(database, augmentation) if pastes else None  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        if self.augmentation is None:
            frame = self.frames[index]
            sample = in_range(keep_classes(Sample.from_frame(frame), self.class_names), self.limits)
            if self.shuffle_points:
                sample = shuffle(sample, sample_generator(self.seed, 0, index))
            return self._frame(index, frame, sample, evaluated=True)
        rng = sample_generator(self.seed, self.epoch, index)
        outside = 0
        for _ in range(_TRIES):
            frame = self.frames[index]
            outside += self._outside(frame)
            sample = training_sample(
                frame,
                rng,
                class_names=self.class_names,
                limits=self.limits,
                settings=self.augmentation,
                sampler=self.sampler,
            )
            if len(sample.names):
                made = self._frame(index, frame, sample, evaluated=False)
                return replace(made, outside=outside)
            index = int(rng.integers(len(self)))
        raise UserInputError(
            f"{self.frames.root}: none of {_TRIES} random frames has an object of {', '.join(self.class_names)} in "
            f"the range {list(self.limits)}; `tenfold lidar check-data` counts what there is"
        )

    def _outside(self, frame: LidarFrame) -> int:
        known = keep_classes(Sample.from_frame(frame), self.class_names)
        return len(known.names) - len(in_range(known, self.limits).names)

    def _frame(self, index: int, frame: LidarFrame, sample: Sample, *, evaluated: bool) -> Frame:
        points = sample.points
        labels = sample.labels(self.class_names).astype(np.float32)[:, None] + 1
        velocity = np.zeros((len(labels), 2 * self.velocity), np.float32)
        if self.velocity and sample.boxes.shape[1] == 9:
            velocity = sample.boxes[:, 7:]
        gt_boxes = np.concatenate((sample.boxes[:, :7], velocity, labels), axis=1)
        seen = getattr(frame, "camera", None)
        if isinstance(frame, KittiFrame):
            camera = (frame.calibration, frame.image_size)
            return Frame(
                index,
                frame.frame_id,
                points,
                gt_boxes,
                *camera,
                evaluation_labels(frame) if evaluated else None,
                camera=seen,
            )
        truth = truth_of(frame) if evaluated else None
        return Frame(index, frame.frame_id, points, gt_boxes, truth=truth, camera=seen)


def collate(frames: Sequence[Frame]) -> Batch:
    """Samples to a batch; see the module.

    >>> f = Frame(0, "a", np.ones((2, 4), np.float32), np.zeros((0, 8), np.float32))
    >>> collate([f, f])["points"][:, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    points = [np.insert(frame.points, 0, k, axis=1) for k, frame in enumerate(frames)]
    longest = max((len(frame.gt_boxes) for frame in frames), default=0)
    columns = frames[0].gt_boxes.shape[1] if frames else 8
    gt_boxes = np.zeros((len(frames), longest, columns), dtype=np.float32)
    for row, frame in zip(gt_boxes, frames, strict=True):
        row[: len(frame.gt_boxes)] = frame.gt_boxes
    return {
        "points": torch.from_numpy(np.concatenate(points)),
        "gt_boxes": torch.from_numpy(gt_boxes),
        "batch_size": len(frames),
        "frames": list(frames),
    }


def evaluation_labels(frame: KittiFrame) -> KittiLabels | None:
    """Labels of a frame with its "DontCare" regions, as the evaluation wants them; None without labels."""
    if frame.labels is None:
        return None
    own, number = frame.labels, len(frame.dont_care)
    unknown = np.full(number, -1)
    return KittiLabels(
        names=own.names + (DONT_CARE,) * number,
        truncation=np.concatenate((own.truncation, unknown)).astype(np.float32),
        occlusion=np.concatenate((own.occlusion, unknown)),
        alpha=np.concatenate((own.alpha, np.full(number, -10.0))).astype(np.float32),
        boxes2d=np.concatenate((own.boxes2d, frame.dont_care)).astype(np.float32),
        boxes=np.concatenate((own.boxes, np.zeros((number, 7)))),
    )


def detections_to_kitti(
    detections: dict[str, Any],
    class_names: Sequence[str],
    calibration: Calibration,
    image_size: tuple[int, int] | None,
) -> KittiLabels:
    """A detector's output for one frame as KITTI results, highest score first.

    Boxes that the camera does not see are left out; 2-D boxes are those of the projected corners, clipped to
    the image where its size is known.

    Args:
        detections: ``boxes (n, 7)`` (a velocity is left out), ``scores (n,)``, ``labels (n,)`` 0-based, tensors or
            arrays.
        class_names: name of each label.
        calibration: of the camera.
        image_size: (height, width).
    """
    boxes = np.asarray(detections["boxes"], dtype=np.float64)
    boxes = boxes.reshape(-1, boxes.shape[-1] if boxes.size else 7)[:, :7]
    scores = np.asarray(detections["scores"], dtype=np.float32)
    labels = np.asarray(detections["labels"], dtype=np.int64)
    boxes2d, visible = project_boxes(boxes, calibration, image_size)
    kept = np.argsort(-scores, kind="stable")
    kept = kept[visible[kept]]
    unknown = np.full(len(kept), -1)
    return KittiLabels(
        names=tuple(class_names[k] for k in labels[kept]),
        truncation=unknown.astype(np.float32),
        occlusion=unknown,
        alpha=kitti_alpha(boxes[kept]).astype(np.float32),
        boxes2d=boxes2d[kept].astype(np.float32),
        boxes=boxes[kept],
        scores=scores[kept],
    )
