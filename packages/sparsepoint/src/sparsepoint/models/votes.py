"""Hough votes, and the dense candidates that are made of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsepoint.coders import PartialBinBoxCoder
from sparsepoint.models.parts import point_layers
from tenfold.ops import farthest_point_sample, gather_rows
from tenfold.pointnet import SetAbstraction

__all__ = ["Candidates", "DenseHead", "NoiseSuppression", "VoteModule", "Votes"]

_VOTE_RADIUS, _VOTE_NEIGHBOURS = 0.3, 16


class Votes(NamedTuple):
    """Seeds and what they vote for.

    Args:
        seeds: (B, M, 3).
        rows: (B, M) int64 row of each seed among the input points.
        xyz: (B, M, 3) where the votes are, for what follows.
        raw: (B, M, 3) seed plus whole offset, for the loss.
        feats: (B, M, C) of unit length.
        logits: (B, M, 2) background and foreground; None where votes are not suppressed.
    """

    seeds: Tensor
    rows: Tensor
    xyz: Tensor
    raw: Tensor
    feats: Tensor
    logits: Tensor | None


def _unit(feats: Tensor) -> Tensor:
    length: Tensor = feats.norm(dim=-1, keepdim=True)
    return feats / length.clamp(min=1e-6)


class VoteModule(nn.Module):
    """Every seed points at the centre of its object, and changes its feature (VoteNet). 199,171 parameters at 256.

    Args:
        channels: of the seeds' features.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.layers = point_layers(channels, channels, channels)
        self.out = nn.Linear(channels, 3 + channels)

    def forward(self, seeds: Tensor, feats: Tensor, rows: Tensor) -> Votes:
        """Votes of seeds (B, M, 3) with features (B, M, C) and rows (B, M) among the input points."""
        offset, residual = self.out(self.layers(feats)).split([3, feats.shape[-1]], -1)
        votes = seeds + offset
        return Votes(seeds, rows, votes, votes, _unit(feats + residual), None)


class NoiseSuppression(nn.Module):
    """Votes whose length is the probability of belonging to an object: background stays where it is (SRDet).

    199,685 parameters at 256 channels.

    Args:
        channels: of the seeds' features.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.layers = point_layers(channels, channels, channels)
        self.out = nn.Linear(channels, 3 + 2 + channels)

    def forward(self, seeds: Tensor, feats: Tensor, rows: Tensor) -> Votes:
        """Votes of seeds (B, M, 3) with features (B, M, C) and rows (B, M) among the input points."""
        offset, logits, residual = self.out(self.layers(feats)).split([3, 2, feats.shape[-1]], -1)
        moved = seeds + offset * logits.softmax(-1)[..., 1:]
        return Votes(seeds, rows, moved, seeds + offset, _unit(feats + residual), logits)


class Candidates(NamedTuple):
    """Dense candidates, as VoteNet's head describes them.

    Args:
        base: (B, Q, 3) where the candidates are grouped.
        feats: (B, Q, C) of the groups.
        objectness: (B, Q, 2).
        centres: (B, Q, 3).
        outputs: (B, Q, coder.outputs) heading and size.
        classes: (B, Q, C) semantic scores.
    """

    base: Tensor
    feats: Tensor
    objectness: Tensor
    centres: Tensor
    outputs: Tensor
    classes: Tensor


class DenseHead(nn.Module):
    """Group votes around sampled centres and describe a box for each: VoteNet's proposal module.

    Args:
        channels: of the votes.
        widths: of the set abstraction's layers.
        hidden: of the layers behind it.
        number: of candidates.
        num_classes: semantic classes.
        coder: of the boxes.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        hidden: tuple[int, ...],
        number: int,
        num_classes: int,
        coder: PartialBinBoxCoder,
    ) -> None:
        super().__init__()
        self.number, self.coder, self.num_classes = number, coder, num_classes
        self.group = SetAbstraction(
            channels, [list(widths)], radii=[_VOTE_RADIUS], nsamples=[_VOTE_NEIGHBOURS], normalize_xyz=True
        )
        self.layers = point_layers(widths[-1], *hidden)
        self.classify = nn.Linear(hidden[-1], 2 + num_classes)
        self.regress = nn.Linear(hidden[-1], 3 + coder.outputs)

    def forward(self, votes: Votes, *, from_seeds: bool = False) -> Candidates:
        """Candidates of votes; centres by farthest point sampling of the votes, or of the seeds."""
        rows = farthest_point_sample((votes.seeds if from_seeds else votes.xyz).detach(), self.number)
        base = gather_rows(votes.xyz, rows.clamp(min=0))
        grouped = self.group(votes.xyz, votes.feats, centers=base)
        hidden = self.layers(grouped.feats)
        scores, box = self.classify(hidden), self.regress(hidden)
        return Candidates(
            base,
            grouped.feats,
            scores[..., :2],
            base + box[..., :3],
            box[..., 3:],
            scores[..., 2:],
        )

    def boxes(self, found: Candidates) -> Tensor:
        """(B, Q, 7)."""
        return self.coder.decode_outputs(found.centres, found.outputs)


def best_rows(scores: Tensor, number: int) -> Tensor:
    """(B, number) rows of the largest scores (B, Q); equal ones in their order."""
    return torch.argsort(scores, dim=1, descending=True, stable=True)[:, :number]
