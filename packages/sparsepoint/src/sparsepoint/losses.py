"""The set criterion of the sparse detectors, and the losses of votes and dense candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepoint.coders import PartialBinBoxCoder, RelativeHeadingCoder
from sparsepoint.config import SparsePointConfig
from sparsepoint.matching import HungarianMatcher3d, Match, match_one_to_many
from sparsepoint.models.output import DetectionOutput
from sparsepoint.models.votes import Candidates, Votes
from tenfold.geometry import box_corners
from tenfold.losses import mean_count, sigmoid_focal_loss, smooth_l1
from tenfold.ops import rotated_iou

__all__ = ["SetCriterion3d", "Truth", "dense_losses", "make_criterion", "vote_losses"]

# Weights of a stage's losses (SRDet's configuration).
_CLS, _CENTRE, _SIZE, _IOU, _CORNERS, _BIN, _RESIDUAL = 1.5, 1.35, 0.45, 0.9, 0.1125, 0.45, 4.5
# Of the votes and of the dense candidates (VoteNet, and SRDet's first head).
_VOTE, _FOREGROUND, _OBJECTNESS, _DENSE_CENTRE = 10.0, 3.0, 5.0, 10.0
_DENSE_BIN, _DENSE_RESIDUAL, _SIZE_CLASS, _SIZE_RESIDUAL, _SEMANTIC = 1.0, 10.0, 1.0, 10.0, 1.0
_POSITIVE, _NEGATIVE = 0.3, 0.6


class Truth(NamedTuple):
    """What a batch of scenes holds.

    Args:
        boxes: (G, 7) of each scene, G may be 0.
        labels: (G,) int64 of each scene.
        vote_mask: (B, N) bool, whether a point lies on an object; for the presets with votes.
        votes: (B, N, 3, 3) offsets to three centres.
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]
    vote_mask: Tensor | None = None
    votes: Tensor | None = None


def _aligned(boxes: Tensor) -> Tensor:
    return torch.cat((boxes[:, :6], torch.zeros_like(boxes[:, 6:])), 1)


class SetCriterion3d(nn.Module):
    """Losses of every stage after its own matching, summed; with those of votes and first head where there are any.

    Sums over scenes are divided by the number of objects, averaged over all processes and at least one. Unmatched
    proposals learn that they are nothing: that is what makes suppression unnecessary.

    Source: SRDet's code and configurations.

    Args:
        config: of the detector.

    Attributes:
        matches: of the last call, by stage and scene; `match_counts` adds those of the first stage up by proposal.
    """

    def __init__(self, config: SparsePointConfig) -> None:
        super().__init__()
        self.config = config
        self.matcher = HungarianMatcher3d(
            config.size_scale, iou=config.match_iou, rotated=config.heading_bins > 1
        )
        self.matches: list[list[Match]] = []
        self.register_buffer(
            "match_counts", torch.zeros(config.num_proposals, dtype=torch.int64), persistent=False
        )
        self.match_counts: Tensor

    def forward(self, output: DetectionOutput, truth: Truth) -> dict[str, Tensor]:
        """Every loss by name (``stage1/centre`` ...), weighted, and their sum as ``loss``."""
        device = output.logits[0].device
        number = sum(len(boxes) for boxes in truth.boxes)
        objects = mean_count(torch.tensor(float(number), device=device))
        losses: dict[str, Tensor] = {}
        self.matches = []
        for stage in range(len(output.logits)):
            matches = [
                self._match(output.logits[stage][b].detach(), output.boxes[stage][b].detach(), boxes, labels)
                for b, (boxes, labels) in enumerate(zip(truth.boxes, truth.labels, strict=True))
            ]
            self.matches.append(matches)
            for name, value in self._stage(output, stage, matches, truth, objects).items():
                losses[f"stage{stage + 1}/{name}"] = value
        for match in self.matches[0]:
            self.match_counts.index_add_(0, match.proposals, torch.ones_like(match.proposals))
        if output.votes is not None and truth.votes is not None and truth.vote_mask is not None:
            losses |= vote_losses(output.votes, truth.vote_mask, truth.votes)
        if output.candidates is not None:
            coder = PartialBinBoxCoder(self.config.mean_sizes, self.config.heading_bins)
            losses |= dense_losses(output.candidates, truth, coder, semantic=False)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses

    def _match(self, logits: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor) -> Match:
        if self.config.assignment == "one_to_many":
            return match_one_to_many(boxes, objects)
        return self.matcher(logits, boxes, objects, labels)

    def _stage(
        self, output: DetectionOutput, stage: int, matches: Sequence[Match], truth: Truth, objects: Tensor
    ) -> dict[str, Tensor]:
        logits = output.logits[stage]
        targets = torch.zeros_like(logits)
        for b, match in enumerate(matches):
            targets[b, match.proposals, truth.labels[b][match.objects]] = 1.0
        losses = {"cls": _CLS * sigmoid_focal_loss(logits, targets).sum() / objects}
        found = _matched(output.boxes[stage], matches)
        wanted = torch.cat([boxes[m.objects] for boxes, m in zip(truth.boxes, matches, strict=True)]).to(
            found.dtype
        )
        scale = found.new_tensor(self.config.size_scale)
        losses["centre"] = _CENTRE * (found[:, :3] - wanted[:, :3]).abs().sum() / objects
        losses["size"] = _SIZE * ((found[:, 3:6] - wanted[:, 3:6]) / scale).abs().sum() / objects
        if self.config.iou_loss != "none":
            rotated = self.config.iou_loss == "rotated"
            pair = (found, wanted) if rotated else (_aligned(found), _aligned(wanted))
            losses["iou"] = _IOU * (1 - rotated_iou(*pair)).sum() / objects
        if self.config.corner_loss:
            apart = smooth_l1(box_corners(found), box_corners(wanted), beta=1.0)
            losses["corners"] = _CORNERS * apart.sum() / objects
        if self.config.heading_bins > 1:
            heading = _matched(output.heading[stage], matches)
            incoming = _matched(output.rois[stage], matches)[:, 6].detach()
            losses |= self._heading(heading, incoming, wanted[:, 6], objects)
        return losses

    def _heading(self, heading: Tensor, incoming: Tensor, yaw: Tensor, objects: Tensor) -> dict[str, Tensor]:
        if self.config.box_coder == "direct":
            told = torch.stack((yaw.sin(), yaw.cos()), 1)
            return {"heading": _RESIDUAL * (heading[:, :2] - told).abs().sum() / objects}
        bins = self.config.heading_bins
        index, residual = RelativeHeadingCoder(bins).encode_heading(yaw, incoming)
        own = heading[:, bins:].gather(1, index[:, None])[:, 0]
        # The mean over the matches of all processes; over none it is 0 and not NaN.
        pairs = mean_count(torch.tensor(float(len(index)), device=heading.device))
        entropy = F.cross_entropy(heading[:, :bins], index, reduction="sum") / pairs
        return {
            "heading_bin": _BIN * entropy,
            "heading_residual": _RESIDUAL * (own - residual).abs().sum() / objects,
        }


def _matched(values: Tensor, matches: Sequence[Match]) -> Tensor:
    return torch.cat([own[match.proposals] for own, match in zip(values, matches, strict=True)])


def vote_losses(votes: Votes, mask: Tensor, offsets: Tensor) -> dict[str, Tensor]:
    """L1 to the nearest of three true votes, over seeds on objects; and foreground where votes are suppressed.

    Args:
        votes: of the network.
        mask: (B, N) bool of the input points.
        offsets: (B, N, 3, 3) of the input points.
    """
    on = mask.gather(1, votes.rows)
    rows = votes.rows[..., None, None].expand(-1, -1, *offsets.shape[2:])
    wanted = votes.seeds[:, :, None] + offsets.gather(1, rows)
    nearest = (votes.raw[:, :, None] - wanted).abs().sum(-1).amin(-1)
    count = mean_count(on.sum().to(nearest.dtype))
    losses = {"vote": _VOTE * torch.where(on, nearest, 0.0).sum() / count}
    if votes.logits is not None:
        weight = votes.logits.new_tensor([0.2, 1.0])
        total = mean_count(weight[on.long()].sum(), least=1e-6)
        entropy = F.cross_entropy(
            votes.logits.flatten(0, 1), on.long().flatten(), weight=weight, reduction="sum"
        )
        losses["foreground"] = _FOREGROUND * entropy / total
    return losses


def dense_losses(
    found: Candidates, truth: Truth, coder: PartialBinBoxCoder, *, semantic: bool = True
) -> dict[str, Tensor]:
    """VoteNet's losses of dense candidates: a candidate near an object's centre belongs to it, one far away to none.

    Args:
        found: candidates.
        truth: objects.
        coder: of the boxes.
        semantic: train the classes too; SRDet leaves that to its refinements.

    Source: VoteNet's code; SRDet's first head has the same weights.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def add(name: str, value: Tensor, weight: Tensor) -> None:
        totals[name] = totals.get(name, value.new_zeros(())) + (value * weight).sum()
        counts[name] = counts.get(name, value.new_zeros(())) + weight.detach().sum()

    for b, (boxes, labels) in enumerate(zip(truth.boxes, truth.labels, strict=True)):
        _dense_scene(found, b, boxes.to(found.centres.dtype), labels, coder, semantic, add)
    weights = {
        "objectness": _OBJECTNESS,
        "candidate_centre": _DENSE_CENTRE,
        "covered": _DENSE_CENTRE,
        "candidate_bin": _DENSE_BIN,
        "candidate_residual": _DENSE_RESIDUAL,
        "size_class": _SIZE_CLASS,
        "size_residual": _SIZE_RESIDUAL,
        "semantic": _SEMANTIC,
    }
    zero = found.centres.sum() * 0
    return {
        name: weights[name] * totals.get(name, zero) / mean_count(counts.get(name, zero.detach()), least=1e-6)
        for name in weights
        if semantic or name != "semantic"
    }


def _dense_scene(
    found: Candidates,
    b: int,
    boxes: Tensor,
    labels: Tensor,
    coder: PartialBinBoxCoder,
    semantic: bool,
    add: object,
) -> None:
    assert callable(add)
    objectness, centres, outputs = found.objectness[b], found.centres[b], found.outputs[b]
    class_weight = objectness.new_tensor([0.2, 0.8])
    if len(boxes) == 0:
        nothing = torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
        entropy = F.cross_entropy(objectness, nothing, weight=class_weight, reduction="none")
        add("objectness", entropy, torch.ones_like(entropy))
        return
    distance, owner = torch.cdist(found.base[b].detach(), boxes[:, :3]).min(1)
    positive = (distance < _POSITIVE).to(centres.dtype)
    counted = ((distance < _POSITIVE) | (distance > _NEGATIVE)).to(centres.dtype)
    entropy = F.cross_entropy(objectness, positive.long(), weight=class_weight, reduction="none")
    add("objectness", entropy, counted)
    squared = (centres[:, None] - boxes[None, :, :3]).square().sum(-1)
    add("candidate_centre", squared.amin(1), positive)
    add("covered", squared.amin(0), torch.ones_like(squared[0]))
    code = coder.encode(boxes[owner], labels[owner])
    heading, residual, size, extents = coder.split(outputs)
    if coder.bins > 1:
        add("candidate_bin", F.cross_entropy(heading, code.heading_class, reduction="none"), positive)
        own = residual.gather(1, code.heading_class[:, None])[:, 0]
        add("candidate_residual", smooth_l1(own, code.heading_residual, beta=1.0), positive)
    add("size_class", F.cross_entropy(size, code.size_class, reduction="none"), positive)
    row = code.size_class[:, None, None].expand(-1, 1, 3)
    apart = smooth_l1(extents.gather(1, row)[:, 0], code.size_residual, beta=1.0).mean(-1)
    add("size_residual", apart, positive)
    if semantic:
        add("semantic", F.cross_entropy(found.classes[b], labels[owner], reduction="none"), positive)


class DenseCriterion(nn.Module):
    """VoteNet's whole loss.

    Args:
        config: of the detector.
    """

    def __init__(self, config: SparsePointConfig) -> None:
        super().__init__()
        self.coder = PartialBinBoxCoder(config.mean_sizes, config.heading_bins)

    def forward(self, output: DetectionOutput, truth: Truth) -> dict[str, Tensor]:
        """Every loss by name, weighted, and their sum as ``loss``."""
        assert output.candidates is not None
        losses = dense_losses(output.candidates, truth, self.coder)
        if output.votes is not None and truth.votes is not None and truth.vote_mask is not None:
            losses |= vote_losses(output.votes, truth.vote_mask, truth.votes)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses


def make_criterion(config: SparsePointConfig) -> SetCriterion3d | DenseCriterion:
    """The criterion that goes with a detector."""
    return DenseCriterion(config) if config.dense else SetCriterion3d(config)
