"""The single-resolution anchor head of SECOND: outputs, losses and decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.geometry import ResidualCoder, apply_direction
from tenfold.lidar.anchors import AnchorClass, make_anchors
from tenfold.lidar.postprocess import PostProcess, select_detections, select_per_class
from tenfold.lidar.targets import AnchorTargets, assign_targets
from tenfold.losses import direction_loss, sigmoid_focal_loss, sin_difference, smooth_l1
from tenfold.ops._checks import as_compute

# Published weights were trained with this value, not with pi / 4.
DIRECTION_OFFSET = 0.78539
DIRECTION_BINS = 2


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses, of the box codes (None is 1 for each), and of negatives in the class loss."""

    classes: float = 1.0
    boxes: float = 2.0
    direction: float = 0.2
    codes: tuple[float, ...] | None = None
    negatives: float = 1.0


class AnchorOutputs(NamedTuple):
    """Raw outputs per anchor, anchors in the order y, x, class, size, rotation.

    Args:
        classes: (B, N, C) logits.
        boxes: (B, N, 7) residual codes.
        direction: (B, N, 2) logits, or None without the direction classifier.
    """

    classes: Tensor
    boxes: Tensor
    direction: Tensor | None


class AnchorHead(nn.Module):
    """Three 1x1 convolutions on the bird's-eye features.

    Args:
        in_channels: of the features.
        classes: anchors of every class.
        point_range: x, y, z of the lower corner, then of the upper, metres.
        grid: (ny, nx) of the features.
        direction: whether to tell a heading from its opposite by a classifier.
        weights: of the losses.

    Example:
        >>> from tenfold.lidar.anchors import KITTI_ANCHORS
        >>> head = AnchorHead(512, KITTI_ANCHORS, (0, -40, -3, 70.4, 40, 1), (200, 176))
        >>> sum(p.numel() for p in head.parameters())
        36936
    """

    anchors: Tensor

    def __init__(
        self,
        in_channels: int,
        classes: Sequence[AnchorClass],
        point_range: Sequence[float],
        grid: tuple[int, int],
        *,
        direction: bool = True,
        weights: LossWeights | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.weights = weights or LossWeights()
        self.coder = ResidualCoder()
        per_cell = sum(c.per_cell for c in self.classes)
        self.conv_cls = nn.Conv2d(in_channels, per_cell * len(self.classes), 1)
        self.conv_box = nn.Conv2d(in_channels, per_cell * self.coder.code_size, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, per_cell * DIRECTION_BINS, 1) if direction else None
        self.register_buffer("anchors", make_anchors(point_range, grid, self.classes), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scores start at 0.01, boxes at the anchors; the rest is torch's default."""
        assert self.conv_cls.bias is not None
        nn.init.constant_(self.conv_cls.bias, -math.log(99))
        nn.init.normal_(self.conv_box.weight, std=0.001)

    def forward(self, x: Tensor, x_boxes: Tensor | None = None) -> AnchorOutputs:
        """(B, C, ny, nx) to raw outputs, float32 under autocast: boxes and losses are computed from them.

        ``x_boxes``, of the same shape, replaces the features for boxes and directions.
        """
        regression = x if x_boxes is None else x_boxes

        def per_anchor(maps: Tensor, columns: int) -> Tensor:
            return as_compute(maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, columns))

        return AnchorOutputs(
            per_anchor(self.conv_cls(x), len(self.classes)),
            per_anchor(self.conv_box(regression), self.coder.code_size),
            None if self.conv_dir_cls is None else per_anchor(self.conv_dir_cls(regression), DIRECTION_BINS),
        )

    def losses(self, outputs: AnchorOutputs, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Losses of a batch.

        Every frame is normalised by its own number of positives, then frames are averaged: processes with
        equal batches together equal one, without reducing anything between them.

        Args:
            outputs: of `forward`.
            gt_boxes: (B, M, 8), zero padded, 1-based label last.

        Returns:
            Scalars ``loss`` (the sum), ``loss_cls``, ``loss_box``, ``loss_dir`` (weighted) and
            ``num_positives``, the positive anchors of the batch.
        """
        targets = assign_targets(self.anchors, gt_boxes, self.classes)
        count = (targets.labels > 0).sum(1)
        frame_weight = 1 / (count.clamp(min=1) * max(1, len(gt_boxes))).to(outputs.classes.dtype)
        losses = {"loss_cls": self.weights.classes * self._class_loss(outputs, targets, frame_weight)}
        weight = frame_weight.repeat_interleave(count)
        box_loss, direction = self._box_losses(outputs, targets, weight)
        losses["loss_box"] = self.weights.boxes * box_loss
        losses["loss_dir"] = self.weights.direction * direction
        return {
            "loss": sum(losses.values(), outputs.classes.new_zeros(())),
            **losses,
            "num_positives": count.sum(),
        }

    def _class_loss(self, outputs: AnchorOutputs, targets: AnchorTargets, frame_weight: Tensor) -> Tensor:
        one_hot = F.one_hot(targets.labels.clamp(min=0), len(self.classes) + 1)[..., 1:]
        focal = sigmoid_focal_loss(outputs.classes, one_hot.to(outputs.classes.dtype))
        counted = (targets.labels >= 0).to(focal.dtype) * frame_weight[:, None]
        if self.weights.negatives != 1:
            counted = torch.where(targets.labels == 0, counted * self.weights.negatives, counted)
        return (focal.sum(-1) * counted).sum()

    def _box_losses(
        self, outputs: AnchorOutputs, targets: AnchorTargets, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = targets.positive
        anchors = self.anchors.view(-1, 7)[rows % outputs.boxes.shape[1]]
        wanted = self.coder.encode(targets.boxes, anchors).to(outputs.boxes.dtype)
        pred, wanted = sin_difference(outputs.boxes.flatten(0, 1)[rows], wanted)
        difference = smooth_l1(pred, wanted, code_weights=self.weights.codes)
        box = (difference.sum(1) * weight).sum()
        if outputs.direction is None:
            return box, box.new_zeros(())
        direction = direction_loss(
            outputs.direction.flatten(0, 1)[rows], targets.boxes[:, 6], offset=DIRECTION_OFFSET
        )
        return box, (direction * weight).sum()

    def decode(self, codes: Tensor, direction: Tensor | None, anchors: Tensor) -> Tensor:
        """Boxes (..., 7) of codes (..., 7), direction logits (..., 2) or None, and anchors (..., 7)."""
        boxes = self.coder.decode(codes, anchors)
        if direction is None:
            return boxes
        heading = apply_direction(boxes[..., 6], direction.argmax(-1), DIRECTION_OFFSET, DIRECTION_BINS)
        return torch.cat((boxes[..., :6], heading[..., None]), -1)

    def boxes(self, outputs: AnchorOutputs) -> Tensor:
        """All decoded boxes (B, N, 7), as proposals of two-stage models need them."""
        return self.decode(outputs.boxes, outputs.direction, self.anchors.view(-1, 7))

    def logits(self, outputs: AnchorOutputs) -> Tensor:
        """All class logits (B, N, C), likewise."""
        return outputs.classes

    @torch.no_grad()
    def detect(self, outputs: AnchorOutputs, options: PostProcess) -> list[dict[str, Tensor]]:
        """Detections of every frame; only anchors that reach the score threshold are decoded."""
        found = []
        flat = self.anchors.view(-1, 7)
        best, labels = outputs.classes.sigmoid().max(-1)
        for frame in range(len(best)):
            rows = (best[frame] >= options.score_threshold).nonzero()[:, 0]
            direction = None if outputs.direction is None else outputs.direction[frame, rows]
            boxes = self.decode(outputs.boxes[frame, rows], direction, flat[rows])
            if options.per_class:
                scores = outputs.classes[frame, rows].sigmoid()
                found.append(select_per_class(boxes, scores, options))
            else:
                found.append(select_detections(boxes, best[frame, rows], labels[frame, rows], options))
        return found
