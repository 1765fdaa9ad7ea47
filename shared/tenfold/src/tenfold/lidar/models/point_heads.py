"""Heads that look at single points: foreground, class, box, place in the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.geometry import BinBoxCoder, PointResidualCoder
from tenfold.lidar.models.detector import PointFeatures
from tenfold.lidar.models.layers import fc_layers, full_precision
from tenfold.lidar.point_targets import PointTargets, assign_points, part_targets
from tenfold.losses import bin_box_loss, mean_count, sigmoid_focal_loss, smooth_l1
from tenfold.ops._checks import as_compute


@dataclass(frozen=True)
class PointWeights:
    """How points are taught.

    Args:
        classes, boxes, parts: weights of the losses.
        enlarge: metres that the ring of ignored points adds to a box in total.
        direction: whether the residual code tells the front of a box from its rear. Where the points do not (few
            beams, boxes as symmetric as a box), the mean of both headings is what it learns, and proposals point
            anywhere; with False a box and its mirror image in heading cost the same. Bins need no such thing.
    """

    classes: float = 1.0
    boxes: float = 1.0
    parts: float = 1.0
    enlarge: float = 0.2
    direction: bool = True


class PointOutputs(NamedTuple):
    """What a point head says, float32 under autocast.

    Args:
        classes: (N, 1) foreground logit, or (N, C) class logits.
        boxes: (N, 8) codes (or as many as the coder has), or None.
        parts: (N, 3) logits of the place in the box, or None.
    """

    classes: Tensor
    boxes: Tensor | None = None
    parts: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """(N,) largest class probability."""
        return self.classes.sigmoid().amax(1)


class PointHead(nn.Module):
    """Class, and where asked for box and part, of every point.

    Args:
        in_channels: of the points' features.
        classes: 1 tells foreground from background, whatever its class.
        widths: of the blocks before each output; () is a single linear layer.
        coder: of the boxes; None leaves boxes out.
        parts: whether to tell the place in the object.
        dropout: behind the first block; None leaves it out.
        weights: see `PointWeights`.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (256, 256),
        *,
        coder: PointResidualCoder | BinBoxCoder | None = None,
        parts: bool = False,
        dropout: float | None = None,
        weights: PointWeights | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights or PointWeights()
        self.coder = coder

        def layers(columns: int) -> nn.Sequential:
            return fc_layers(in_channels, widths, columns, dropout=dropout)

        self.cls_layers = layers(classes)
        self.part_reg_layers = layers(3) if parts else None
        self.box_layers = None if coder is None else layers(coder.code_size)

    @full_precision
    def forward(self, features: Tensor) -> PointOutputs:
        """Outputs of features (N, C)."""
        wide = as_compute(features)

        def run(layers: nn.Module | None) -> Tensor | None:
            return None if layers is None else layers(wide)

        return PointOutputs(self.cls_layers(wide), run(self.box_layers), run(self.part_reg_layers))

    def boxes(self, outputs: PointOutputs, xyz: Tensor) -> Tensor:
        """Boxes (N, 7) of points (N, 3), with the mean size of the likeliest class."""
        assert outputs.boxes is not None
        if isinstance(self.coder, BinBoxCoder):
            return self.coder.decode(outputs.boxes, xyz)
        assert self.coder is not None
        return self.coder.decode(outputs.boxes, xyz, outputs.classes.argmax(1))

    def losses(
        self, outputs: PointOutputs, points: PointFeatures, gt_boxes: Tensor, used: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch, normalised by the foreground points of the whole batch (all processes').

        Args:
            outputs: of `forward`.
            points: their coordinates; features are not looked at.
            gt_boxes: (B, M, 8), zero padded, 1-based label last.
            used: (N,) bool; other points are ignored.

        Returns:
            Weighted scalars ``point_cls``, and where present ``point_box`` and ``point_part``; ``point_fg``,
            the number of foreground points.
        """
        targets = assign_points(points.xyz, points.offsets, gt_boxes, enlarge=self.weights.enlarge)
        count = torch.as_tensor(len(targets.inside), device=points.xyz.device)
        share = 1 / mean_count(count).to(outputs.classes.dtype)
        losses = {"point_cls": self.weights.classes * self._class_loss(outputs, targets, used) * share}
        if outputs.boxes is not None:
            losses["point_box"] = self.weights.boxes * self._box_loss(outputs, points, targets) * share
        if outputs.parts is not None:
            losses["point_part"] = self.weights.parts * self._part_loss(outputs, points, targets) * share
        return {**losses, "point_fg": count}

    def _class_loss(self, outputs: PointOutputs, targets: PointTargets, used: Tensor | None) -> Tensor:
        columns = outputs.classes.shape[1]
        labels = targets.labels.clamp(min=0)
        if columns == 1:
            labels = labels.clamp(max=1)
        one_hot = F.one_hot(labels, columns + 1)[:, 1:].to(outputs.classes.dtype)
        counted = targets.labels >= 0 if used is None else (targets.labels >= 0) & used
        return (sigmoid_focal_loss(outputs.classes, one_hot).sum(1) * counted).sum()

    def _box_loss(self, outputs: PointOutputs, points: PointFeatures, targets: PointTargets) -> Tensor:
        assert outputs.boxes is not None
        rows = targets.inside
        xyz = points.xyz[rows].to(targets.boxes)
        if isinstance(self.coder, BinBoxCoder):
            return bin_box_loss(outputs.boxes[rows], targets.boxes, xyz, self.coder).sum()
        assert self.coder is not None
        wanted = self.coder.encode(targets.boxes, xyz, targets.labels[rows] - 1)
        codes, wanted = outputs.boxes[rows], wanted.to(outputs.boxes.dtype)
        loss = smooth_l1(codes, wanted).sum(1)
        if not self.weights.direction:
            # Cosine and sine come last; turned by pi, both change their sign.
            other = smooth_l1(codes, torch.cat((wanted[:, :-2], -wanted[:, -2:]), 1)).sum(1)
            loss = torch.minimum(loss, other)
        return loss.sum()

    def _part_loss(self, outputs: PointOutputs, points: PointFeatures, targets: PointTargets) -> Tensor:
        assert outputs.parts is not None
        rows = targets.inside
        # The box's margin lets a point lie outside by a hair.
        wanted = part_targets(points.xyz[rows].to(targets.boxes), targets.boxes).clamp(0, 1)
        logits = outputs.parts[rows]
        loss = F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
        return loss.mean(1).sum()
