"""The set criterion of the sparse detectors, and the losses of votes and dense candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepoint.coders import ClassResidualCoder, PartialBinBoxCoder, RelativeHeadingCoder
from sparsepoint.config import SparsePointConfig
from sparsepoint.matching import HungarianMatcher3d, Match, match_one_to_many, pad_objects
from sparsepoint.models.output import DetectionOutput
from sparsepoint.models.votes import Candidates, Votes
from tenfold.geometry import box_corners
from tenfold.losses import mean_count, sigmoid_focal_loss, smooth_l1
from tenfold.ops import rotated_iou

__all__ = [
    "SetCriterion3d",
    "Truth",
    "dense_losses",
    "make_criterion",
    "match_histogram",
    "vote_losses",
]

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

    @property
    def unmatched(self) -> int:
        """Objects of the last call that no proposal of the last stage answers for."""
        return sum(match.unmatched for match in self.matches[-1])

    def forward(self, output: DetectionOutput, truth: Truth) -> dict[str, Tensor]:
        """Every loss by name (``stage1/centre`` ...), weighted, and their sum as ``loss``."""
        device = output.logits[0].device
        number = sum(len(boxes) for boxes in truth.boxes)
        objects = mean_count(torch.tensor(float(number), device=device))
        self.matches = self._match(output, truth)
        first = torch.cat([match.proposals for match in self.matches[0]])
        self.match_counts += torch.bincount(first, minlength=len(self.match_counts))
        by_name = self._stages(output, truth, objects)
        losses = {
            f"stage{stage + 1}/{name}": values[stage]
            for stage in range(len(output.logits))
            for name, values in by_name.items()
        }
        if output.votes is not None and truth.votes is not None and truth.vote_mask is not None:
            losses |= vote_losses(output.votes, truth.vote_mask, truth.votes)
        if output.candidates is not None:
            coder = PartialBinBoxCoder(self.config.mean_sizes, self.config.heading_bins)
            losses |= dense_losses(output.candidates, truth, coder, semantic=False)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses

    def _match(self, output: DetectionOutput, truth: Truth) -> list[list[Match]]:
        """Of every stage and scene; all of them in one piece, which a GPU waits for once."""
        stages, scenes = len(output.logits), len(truth.boxes)
        if self.config.assignment == "one_to_many":
            return [
                [match_one_to_many(own, objects) for own, objects in zip(boxes, truth.boxes, strict=True)]
                for boxes in output.boxes
            ]
        logits, boxes = (torch.cat([v.detach() for v in values]) for values in (output.logits, output.boxes))
        found = self.matcher.scenes(logits, boxes, [*truth.boxes] * stages, [*truth.labels] * stages)
        return [found[scenes * stage : scenes * (stage + 1)] for stage in range(stages)]

    def _stages(self, output: DetectionOutput, truth: Truth, objects: Tensor) -> dict[str, Sequence[Tensor]]:
        """Losses of every stage, by name: the pairs of all stages lie in one piece, one stage behind the other."""
        flat = [match for matches in self.matches for match in matches]
        number = output.logits[0].shape[1]
        rows = torch.cat([number * place + match.proposals for place, match in enumerate(flat)])
        sizes = [sum(len(match.proposals) for match in matches) for matches in self.matches]

        def matched(values: Sequence[Tensor]) -> Tensor:
            return torch.cat([value.flatten(0, 1) for value in values]).index_select(0, rows)

        def wanted_of(values: Sequence[Tensor]) -> Tensor:
            return torch.cat(
                [value[m.objects] for m, value in zip(flat, [*values] * len(sizes), strict=True)]
            )

        def sums(weight: float, values: Tensor) -> list[Tensor]:
            return [weight * part.sum() / objects for part in values.split(sizes)]

        logits = torch.cat([value.flatten(0, 1) for value in output.logits])
        targets = torch.zeros_like(logits)
        targets[rows, wanted_of(truth.labels)] = 1.0
        focal = sigmoid_focal_loss(logits, targets).chunk(len(sizes))
        losses: dict[str, Sequence[Tensor]] = {"cls": [_CLS * part.sum() / objects for part in focal]}
        found = matched(output.boxes)
        wanted = wanted_of(truth.boxes).to(found.dtype)
        scale = found.new_tensor(self.config.size_scale)
        losses["centre"] = sums(_CENTRE, (found[:, :3] - wanted[:, :3]).abs())
        size = found[:, 3:6]
        if self.config.box_coder == "classres":
            kinds, size = self._class_sizes(matched(output.deltas), wanted_of(truth.labels))
            losses["size_class"] = self._means(_BIN, kinds, sizes)
        losses["size"] = sums(_SIZE, ((size - wanted[:, 3:6]) / scale).abs())
        if self.config.iou_loss != "none":
            turned = self.config.iou_loss.startswith("rotated")
            pair = (found, wanted) if turned else (_aligned(found), _aligned(wanted))
            kind: Any = "giou" if self.config.iou_loss == "rotated_giou" else "iou"
            losses["iou"] = sums(_IOU, 1 - rotated_iou(*pair, kind))
        if self.config.corner_loss:
            losses["corners"] = sums(_CORNERS, smooth_l1(box_corners(found), box_corners(wanted), beta=1.0))
        if self.config.heading_bins > 1:
            incoming = matched(output.rois)[:, 6].detach()
            losses |= self._heading(matched(output.heading), incoming, wanted[:, 6], sizes, objects)
        return losses

    def _heading(
        self, heading: Tensor, incoming: Tensor, yaw: Tensor, sizes: Sequence[int], objects: Tensor
    ) -> dict[str, Sequence[Tensor]]:
        """Of the pairs of all stages, of which the stages have ``sizes``."""
        if self.config.box_coder == "direct":
            told = torch.stack((yaw.sin(), yaw.cos()), 1)
            apart = (heading[:, :2] - told).abs().split(list(sizes))
            return {"heading": [_RESIDUAL * part.sum() / objects for part in apart]}
        bins = self.config.heading_bins
        # VoteNet's code is that of the yaw itself and counts residuals in half bins; the loss is one of radians.
        whole = self.config.box_coder == "classres"
        start, unit = (torch.zeros_like(incoming), math.pi / bins) if whole else (incoming, 1.0)
        index, residual = RelativeHeadingCoder(bins).encode_heading(yaw, start)
        own = unit * heading[:, bins:].gather(1, index[:, None])[:, 0]
        entropy = F.cross_entropy(heading[:, :bins], index, reduction="none")
        apart = (own - residual).abs().split(list(sizes))
        return {
            "heading_bin": self._means(_BIN, entropy, sizes),
            "heading_residual": [_RESIDUAL * part.sum() / objects for part in apart],
        }

    def _class_sizes(self, deltas: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pairs under VoteNet's code: cross-entropy (P,) of the size class, sizes (P, 3) of the object's class."""
        coder = ClassResidualCoder(self.config.mean_sizes, self.config.heading_bins)
        scores, residuals = coder.size_outputs(deltas)
        own = residuals.gather(1, labels[:, None, None].expand(-1, 1, 3))[:, 0]
        mean = deltas.new_tensor(self.config.mean_sizes)[labels]
        return F.cross_entropy(scores, labels, reduction="none"), mean * (1 + own)

    def _means(self, weight: float, values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Of each stage, over the matches of all processes; over none it is 0 and not NaN."""
        counts = [mean_count(torch.tensor(float(size), device=values.device)) for size in sizes]
        return [
            weight * part.sum() / count for part, count in zip(values.split(list(sizes)), counts, strict=True)
        ]


def match_histogram(counts: Tensor) -> dict[str, float]:
    """Share of the proposals that were matched so often, by decade.

    Args:
        counts: (K,) matches of each proposal. One that is never matched keeps its learned box.

    Example:
        >>> match_histogram(torch.tensor([0, 3, 12, 0]))
        {'0': 0.5, '1 to 9': 0.25, '10 to 99': 0.25, '100 or more': 0.0}
    """
    decade = torch.bucketize(counts, counts.new_tensor([1, 10, 100]), right=True)
    shares = (torch.bincount(decade, minlength=4).double() / len(counts)).tolist()
    return dict(zip(("0", "1 to 9", "10 to 99", "100 or more"), shares, strict=True))


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
    boxes, labels, there = pad_objects(truth.boxes, truth.labels)
    boxes = boxes.to(found.centres.dtype)
    # Where there is no object, all candidates are infinitely far from one.
    far = torch.where(there, 0.0, float("inf")).to(boxes.dtype)[:, None]
    distance, owner = (torch.cdist(found.base.detach(), boxes[..., :3]) + far).min(2)
    near = distance < _POSITIVE
    positive = near.to(boxes.dtype)
    counted = (near | (distance > _NEGATIVE)).to(boxes.dtype)

    def mean(weight: float, values: Tensor, share: Tensor) -> Tensor:
        return weight * (values * share).sum() / mean_count(share.sum(), least=1e-6)

    def entropy(scores: Tensor, wanted: Tensor, **options: Any) -> Tensor:
        return F.cross_entropy(scores.transpose(1, 2), wanted, reduction="none", **options)

    class_weight = found.objectness.new_tensor([0.2, 0.8])
    losses = {
        "objectness": mean(_OBJECTNESS, entropy(found.objectness, near.long(), weight=class_weight), counted)
    }
    squared = (found.centres[:, :, None] - boxes[:, None, :, :3]).square().sum(-1)
    nearest = torch.where(near, (squared + far).amin(2), 0.0)
    losses["candidate_centre"] = mean(_DENSE_CENTRE, nearest, positive)
    losses["covered"] = mean(_DENSE_CENTRE, squared.amin(1), there.to(boxes.dtype))
    kind = labels.gather(1, owner)
    code = coder.encode(boxes.gather(1, owner[..., None].expand(-1, -1, 7)), kind)
    heading, residual, size, extents = coder.split(found.outputs)
    if coder.bins > 1:
        losses["candidate_bin"] = mean(_DENSE_BIN, entropy(heading, code.heading_class), positive)
        own = residual.gather(2, code.heading_class[..., None])[..., 0]
        apart = smooth_l1(own, code.heading_residual, beta=1.0)
        losses["candidate_residual"] = mean(_DENSE_RESIDUAL, apart, positive)
    losses["size_class"] = mean(_SIZE_CLASS, entropy(size, kind), positive)
    row = kind[..., None, None].expand(-1, -1, 1, 3)
    apart = smooth_l1(extents.gather(2, row)[:, :, 0], code.size_residual, beta=1.0).mean(-1)
    losses["size_residual"] = mean(_SIZE_RESIDUAL, apart, positive)
    if semantic:
        losses["semantic"] = mean(_SEMANTIC, entropy(found.classes, kind), positive)
    return losses


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
