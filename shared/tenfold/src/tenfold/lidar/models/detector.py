"""What all detectors share: how a batch comes in, what is checked, what goes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenfold._errors import UserInputError
from tenfold._validation import checks_content
from tenfold.lidar.models.config import DetectorConfig
from tenfold.ops import offsets_from_batch_index
from tenfold.ops._checks import require_float, require_shape, require_tensor

_COLUMNS = "columns are batch index, x, y, z and further features; point_features counts x, y, z and these"


class PointFeatures(NamedTuple):
    """Features at points of a batch, elements one after the other.

    Args:
        xyz: (N, 3) metres.
        features: (N, C).
        offsets: (B + 1,) first row of each frame, and N.
    """

    xyz: Tensor
    features: Tensor
    offsets: Tensor


class Detector(nn.Module):
    """Base of the detectors: checks a batch and hands it on.

    ``model(batch)`` takes a dict with ``points`` (N, 1 + F) float32, batch index first and ascending;
    ``batch_size``; and in training ``gt_boxes`` (B, M, 8) (or 10, vx and vy before the label), zero padded,
    1-based label last. In training it returns a dict of scalars, ``loss`` and its parts, else a list of dicts
    ``boxes`` (n, 7 or 9), ``scores`` (n,) and ``labels`` (n,), 0-based into ``class_names``. Further entries of
    the batch reach `train_step` and `find`, so that a subclass may use them.

    Args:
        config: of the detector.
    """

    config: Any

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels 0, 1, ..."""
        names: tuple[str, ...] = self.config.class_names
        return names

    @property
    def point_columns(self) -> int:
        """Columns of a point behind the batch index; a subclass may want more than the features."""
        columns: int = self.config.point_features
        return columns

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections otherwise; see the class."""
        points, batch_size = self._checked_points(batch)
        if self.training:
            return self.train_step(points, self._checked_boxes(batch, batch_size), batch)
        with torch.no_grad():
            return self.find(points, batch_size, batch)

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of checked points (N, 1 + F) and ground truth (B, M, 8 or 10)."""
        raise NotImplementedError

    def find(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Detections of checked points (N, 1 + F)."""
        raise NotImplementedError

    def _name(self) -> str:
        return type(self).__name__

    def _checked_points(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        op = self._name()
        for key in ("points", "batch_size"):
            if key not in batch:
                raise ValueError(f"{op}: batch: has no {key!r}; its keys are {', '.join(map(repr, batch))}")
        points, batch_size = batch["points"], int(batch["batch_size"])
        require_float(op, "points", points)
        try:
            require_shape(op, "points", points, ("N", 1 + self.point_columns), _COLUMNS)
        except ValueError as error:  # a data set with other features than the model's: its user's error
            raise UserInputError(str(error)) from error
        if batch_size < 1:
            raise ValueError(f"{op}: batch_size: got {batch_size}; expected 1 or more")
        return points, batch_size

    def _checked_boxes(self, batch: Mapping[str, Any], batch_size: int) -> Tensor:
        op = self._name()
        if "gt_boxes" not in batch:
            raise ValueError(
                f"{op}: batch: has no 'gt_boxes'; training needs them (evaluate with model.eval())"
            )
        boxes: Tensor = batch["gt_boxes"]
        require_tensor(op, "gt_boxes", boxes)
        columns = self.config.gt_columns
        hint = (
            "x, y, z, dx, dy, dz, heading, vx, vy, 1-based label"
            if columns == 10
            else "x, y, z, dx, dy, dz, heading, 1-based label; slice velocities off"
        )
        require_shape(op, "gt_boxes", boxes, (batch_size, "M", columns), hint)
        if checks_content(boxes.is_cpu):
            self._check_box_content(boxes)
        return boxes

    def _check_box_content(self, boxes: Tensor) -> None:
        label = boxes[..., -1]
        # An unknown velocity is NaN: it costs nothing.
        finite = boxes[..., :7].isfinite().all(-1) & label.isfinite()
        valid = finite & (label >= 0) & (label <= len(self.class_names)) & (label == label.round())
        valid &= (label > 0) | (boxes == 0).all(-1)
        if not bool(valid.all()):
            frame, row = (~valid).nonzero()[0].tolist()
            raise ValueError(
                f"{self._name()}: gt_boxes: row {row} of frame {frame} is {boxes[frame, row].tolist()}; expected "
                f"finite numbers and a label from 1 to {len(self.class_names)}, or zeros as padding"
            )


def frame_offsets(points: Tensor, batch_size: int) -> Tensor:
    """Offsets (B + 1,) of points (N, 1 + F) whose first column is the batch index."""
    return offsets_from_batch_index(points[:, 0].long(), batch_size)


def plain_boxes(gt_boxes: Tensor) -> Tensor:
    """Ground truth (B, M, 8) without the velocity columns of (B, M, 10)."""
    return torch.cat((gt_boxes[..., :7], gt_boxes[..., -1:]), -1) if gt_boxes.shape[-1] > 8 else gt_boxes


def without_empty(found: list[dict[str, Tensor]], counts: Tensor) -> list[dict[str, Tensor]]:
    """Drop the detections of frames in which nothing was measured: biases alone can detect something."""
    seen = counts.tolist()
    return [f if n else {k: v[:0] for k, v in f.items()} for f, n in zip(found, seen, strict=True)]
