"""What all second stages share: class and box layers, losses, decoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.lidar.models.layers import fc_layers
from tenfold.lidar.postprocess import PostProcess, keep_best, select_detections
from tenfold.lidar.proposals import ProposalOptions, Proposals
from tenfold.lidar.roi_targets import RoISampling, RoITargets, decode_rois, encode_rois, stretch_boxes
from tenfold.losses import corner_loss, mean_count, smooth_l1
from tenfold.ops._checks import as_compute


@dataclass(frozen=True)
class SecondStageConfig:
    """How a second stage is fed, built and trained.

    Args:
        train: proposals in training.
        test: proposals otherwise.
        sampling: see `RoISampling`.
        shared: widths of the layers before the two branches.
        fc: widths of the branches' hidden layers.
        dropout: between the shared layers and behind the first hidden one of a branch.
        classes, boxes, corners: weights of the losses; 0 for ``corners`` switches it off.
    """

    train: ProposalOptions = field(default_factory=ProposalOptions)
    test: ProposalOptions = field(default_factory=lambda: ProposalOptions(1024, 0.7, 100))
    sampling: RoISampling = field(default_factory=RoISampling)
    shared: tuple[int, ...] = (256, 256)
    fc: tuple[int, ...] = (256, 256)
    dropout: float = 0.3
    classes: float = 1.0
    boxes: float = 1.0
    corners: float = 1.0


class RoIOutputs(NamedTuple):
    """What a second stage says of each region, frames one after the other; float32 under autocast.

    Args:
        classes: (B * R,) logit.
        boxes: (B * R, 7) codes relative to the region.
        valid: (B * R,) bool; False where nothing was pooled and nothing is to be trained; None is all.
        factors: (B * R, 3) by which each region was scaled and mirrored before it was looked at, in training;
            see `stretch_boxes`. None is not at all.
    """

    classes: Tensor
    boxes: Tensor
    valid: Tensor | None = None
    factors: Tensor | None = None


class RoIHead(nn.Module):
    """Class and box branches on region features; subclasses pool the features.

    Args:
        in_channels: of the region features.
        config: see `SecondStageConfig`.
    """

    code_size = 7

    def __init__(self, in_channels: int, config: SecondStageConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_layers = fc_layers(in_channels, config.fc, 1, dropout=config.dropout)
        self.reg_layers = fc_layers(in_channels, config.fc, self.code_size, dropout=config.dropout)

    def reset_parameters(self) -> None:
        """Xavier-normal with bias 0; the last box layer starts close to the region."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        last = self.reg_layers[-1].weight
        assert isinstance(last, Tensor)
        nn.init.normal_(last, std=0.001)

    def branches(self, features: Tensor, valid: Tensor | None = None) -> RoIOutputs:
        """Outputs of region features (B * R, C)."""
        classes = as_compute(self.cls_layers(features))[:, 0]
        return RoIOutputs(classes, as_compute(self.reg_layers(features)), valid)

    def losses(self, outputs: RoIOutputs, targets: RoITargets) -> dict[str, Tensor]:
        """Losses of drawn regions, normalised by the counts of the whole batch (all processes').

        Returns:
            Weighted scalars ``roi_cls``, ``roi_box`` and, unless off, ``roi_corner``; ``roi_fg``, the number
            of regressed regions.
        """
        wanted = targets.classes.flatten().to(outputs.classes.dtype)
        counted = wanted >= 0
        regressed = targets.regressed.flatten()
        if outputs.valid is not None:
            counted, regressed = counted & outputs.valid, regressed & outputs.valid
        entropy = F.binary_cross_entropy_with_logits(outputs.classes, wanted.clamp(min=0), reduction="none")
        total = (entropy * counted).sum() / mean_count(counted.sum()).to(entropy.dtype)
        rows = regressed.nonzero()[:, 0]
        number = regressed.sum()
        share = 1 / mean_count(number).to(entropy.dtype)
        rois = targets.rois.flatten(0, 1)[rows, :7].to(entropy.dtype)
        gt = targets.gt_boxes.flatten(0, 1)[rows].to(entropy.dtype)
        if outputs.factors is not None:
            factors = outputs.factors[rows].to(entropy.dtype)
            rois, gt = stretch_boxes(rois, factors), stretch_boxes(gt, factors)
        box, corner = self._box_losses(outputs.boxes[rows], rois, gt)
        losses = {"roi_cls": self.config.classes * total, "roi_box": self.config.boxes * box * share}
        if self.config.corners:
            losses["roi_corner"] = self.config.corners * corner * share
        return {**losses, "roi_fg": number}

    def _box_losses(self, codes: Tensor, rois: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the box and corner losses of regions (P, 7) with ground truth (P, 7)."""
        box = smooth_l1(codes, encode_rois(gt, rois)).sum()
        corner = corner_loss(self.decode(codes, rois), gt).sum() if self.config.corners else box.new_zeros(())
        return box, corner

    def decode(self, codes: Tensor, rois: Tensor) -> Tensor:
        """Boxes (N, 7) of codes (N, 7) relative to regions (N, 7)."""
        return decode_rois(codes, rois)

    @torch.no_grad()
    def detect(
        self, outputs: RoIOutputs, proposals: Proposals, options: PostProcess
    ) -> list[dict[str, Tensor]]:
        """Detections of every frame: the label is the proposal's, the score this stage's alone."""
        frames, room = proposals.labels.shape
        scores = outputs.classes.sigmoid().view(frames, room)
        rois = proposals.boxes
        boxes = self.decode(outputs.boxes, rois.flatten(0, 1)[:, :7]).view(frames, room, 7)
        boxes = torch.cat((boxes, rois[..., 7:]), -1)  # a velocity is the proposal's
        found = []
        for frame, used in enumerate(proposals.counts.tolist()):
            one = select_detections(
                boxes[frame, :used], scores[frame, :used], proposals.labels[frame, :used], options
            )
            found.append(keep_best(one, options.total_max))
        return found
