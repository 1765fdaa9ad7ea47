"""The course of a two-stage detector: first stage, proposals, regions, second stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tenfold.lidar.models.detector import Detector, PointFeatures, plain_boxes, without_empty
from tenfold.lidar.models.layers import full_precision
from tenfold.lidar.models.point_heads import PointOutputs
from tenfold.lidar.models.roi_head import RoIHead, RoIOutputs, SecondStageConfig
from tenfold.lidar.postprocess import keep_best, select_detections
from tenfold.lidar.proposals import Proposals, propose
from tenfold.lidar.roi_targets import RoISampling, RoITargets, sample_rois
from tenfold.ops._checks import as_compute


@dataclass(frozen=True, eq=False)
class FirstStage:
    """What a first stage hands on.

    Args:
        boxes: (B, N, 7 or 9) decoded.
        logits: (B, N, C).
        points: features that the second stage pools.
        point_outputs: of the point head, one row per point.
        outputs: of the anchor head, where there is one.
        measured: (B,) how much was measured in each frame; 0 is nothing.
        used: (N,) bool which points are measurements; None is all.
        extra: what a subclass's first stage hands to its `refine` and losses.
    """

    boxes: Tensor
    logits: Tensor
    points: PointFeatures
    point_outputs: PointOutputs
    outputs: Any
    measured: Tensor
    used: Tensor | None = None
    extra: Any = None


class TwoStage(Detector):
    """Base of the two-stage detectors.

    A subclass builds a first stage and a `RoIHead`. To put a module of one's own in between, override
    `refine`, which sees the point features after the first stage has used them and the batch with all its
    entries.
    """

    roi_head: RoIHead

    @property
    def second(self) -> SecondStageConfig:
        """Settings of the second stage."""
        settings: SecondStageConfig = self.config.second
        return settings

    def first_stage(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> FirstStage:
        """Everything up to decoded boxes; see `FirstStage`."""
        raise NotImplementedError

    def first_losses(self, first: FirstStage, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Weighted losses of the first stage, and counts."""
        raise NotImplementedError

    def refine(self, first: FirstStage, batch: Mapping[str, Any]) -> PointFeatures:
        """The point features that the second stage pools; by default the first stage's."""
        return first.points

    @full_precision
    def second_stage(self, first: FirstStage, points: PointFeatures, rois: Tensor) -> RoIOutputs:
        """What the second stage says of regions (B, R, 7)."""
        wide = points._replace(features=as_compute(points.features))
        outputs: RoIOutputs = self.roi_head(wide, first.point_outputs, rois)
        return outputs

    def propose(self, first: FirstStage) -> Proposals:
        """Proposals of the mode the model is in."""
        options = self.second.train if self.training else self.second.test
        return propose(first.boxes.detach(), first.logits.detach(), options)

    def draw(self, proposals: Proposals, gt_boxes: Tensor, options: RoISampling) -> RoITargets:
        """Regions to train on, of ground truth (B, M, 8); random numbers are torch's."""
        return sample_rois(proposals, gt_boxes, options)

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of both stages: ``loss`` (the sum), its parts, and counts."""
        first = self.first_stage(points, len(gt_boxes), batch)
        losses = self.first_losses(first, gt_boxes)
        targets = self.draw(self.propose(first), plain_boxes(gt_boxes), self.second.sampling)
        outputs = self.second_stage(first, self.refine(first, batch), targets.rois[..., :7])
        losses.update(self.roi_head.losses(outputs, targets))
        parts = [value for name, value in losses.items() if name not in COUNTS]
        return {"loss": torch.stack(parts).sum(), **losses}

    def find(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Detections of the second stage."""
        first = self.first_stage(points, batch_size, batch)
        proposals = self.propose(first)
        outputs = self.second_stage(first, self.refine(first, batch), proposals.boxes[..., :7])
        return without_empty(self.roi_head.detect(outputs, proposals, self.config.post), first.measured)

    @torch.no_grad()
    def find_first(self, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Detections of the first stage alone: its proposals under the same final suppression."""
        points, batch_size = self._checked_points(batch)
        first = self.first_stage(points, batch_size, batch)
        proposals = self.propose(first)
        found = []
        for frame, used in enumerate(proposals.counts.tolist()):
            scores = proposals.scores[frame, :used].sigmoid()
            boxes, labels = proposals.boxes[frame, :used], proposals.labels[frame, :used]
            one = select_detections(boxes, scores, labels, self.config.post)
            found.append(keep_best(one, self.config.post.total_max))
        return without_empty(found, first.measured)


#: Entries of the losses that are counts.
COUNTS = frozenset({"loss", "num_positives", "point_fg", "roi_fg"})
