"""From frames to batches: the data set that a detector trains on, and its collate function.

A batch is a dict: ``points (sum N, 1 + C)`` float32 with the sample's place in the batch in column 0,
``gt_boxes (B, M, 8)`` float32, zero padded at the end, with the 1-based class in the last column,
``batch_size``, and ``frames``: the `Frame` of each sample, for evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from tenfold.geometry import Calibration, kitti_alpha, project_boxes
from tenfold.lidar.augment import Augmentation, Sample, in_range, keep_classes, training_sample
from tenfold.lidar.kitti import DONT_CARE, FloatArray, KittiFrame, KittiLabels, KittiObject
from tenfold.lidar.sampling import ObjectDatabase, ObjectSampler
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
        gt_boxes: ``(M, 8)`` float32, the 1-based class in the last column.
        calibration: of the camera.
        image_size: (height, width), None when unknown.
        labels: all labels with the "DontCare" regions, for evaluation; None in training and on the test
            split.
    """

    index: int
    frame_id: str
    points: FloatArray
    gt_boxes: FloatArray
    calibration: Calibration
    image_size: tuple[int, int] | None
    labels: KittiLabels | None = None


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
    evaluation sees: nothing moved, points in file order.

    Args:
        frames: the reader.
        class_names: classes to detect.
        limits: x0, y0, z0, x1, y1, z1 in metres.
        augmentation: None for evaluation.
        database: objects for ground-truth sampling; None leaves it out.
        seed: of the augmentation.

    Raises:
        UserInputError: on access, a broken file.
    """

    def __init__(
        self,
        frames: KittiObject,
        *,
        class_names: Sequence[str],
        limits: Sequence[float],
        augmentation: Augmentation | None = None,
        database: ObjectDatabase | None = None,
        seed: int = 0,
    ) -> None:
        if len(limits) != 6 or not all(low < high for low, high in zip(limits[:3], limits[3:], strict=True)):
            raise ValueError(
                f"DetectionFrames: limits: got {list(limits)}; expected x0, y0, z0, x1, y1, z1 with each low "
                "below its high"
            )
        self.frames, self.class_names, self.limits = frames, tuple(class_names), tuple(limits)
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
            return self._frame(index, frame, sample, with_labels=True)
        rng = sample_generator(self.seed, self.epoch, index)
        for _ in range(_TRIES):
            frame = self.frames[index]
            sample = training_sample(
                frame,
                rng,
                class_names=self.class_names,
                limits=self.limits,
                settings=self.augmentation,
                sampler=self.sampler,
            )
            if len(sample.names):
                break
            index = int(rng.integers(len(self)))
        return self._frame(index, frame, sample, with_labels=False)

    def _frame(self, index: int, frame: KittiFrame, sample: Sample, *, with_labels: bool) -> Frame:
        labels = sample.labels(self.class_names).astype(np.float32)[:, None] + 1
        gt_boxes = np.concatenate((sample.boxes, labels), axis=1)
        everything = evaluation_labels(frame) if with_labels else None
        return Frame(
            index, frame.frame_id, sample.points, gt_boxes, frame.calibration, frame.image_size, everything
        )


def collate(frames: Sequence[Frame]) -> Batch:
    """Samples to a batch; see the module.

    >>> f = Frame(0, "a", np.ones((2, 4), np.float32), np.zeros((0, 8), np.float32), None, None)
    >>> collate([f, f])["points"][:, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    points = [np.insert(frame.points, 0, k, axis=1) for k, frame in enumerate(frames)]
    longest = max((len(frame.gt_boxes) for frame in frames), default=0)
    gt_boxes = np.zeros((len(frames), longest, 8), dtype=np.float32)
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
        detections: ``boxes (n, 7)``, ``scores (n,)``, ``labels (n,)`` 0-based, tensors or arrays.
        class_names: name of each label.
        calibration: of the camera.
        image_size: (height, width).
    """
    boxes = np.asarray(detections["boxes"], dtype=np.float64).reshape(-1, 7)
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
