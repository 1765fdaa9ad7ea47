"""The detectors: SparsePoint, SRDet, and VoteNet as the dense baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsepoint.coders import PartialBinBoxCoder, stage_coder
from sparsepoint.config import SparsePointConfig
from sparsepoint.models.output import DetectionOutput, Detections3D
from sparsepoint.models.parts import (
    LearnableProposals3d,
    RoIGridPool3d,
    make_backbone,
    point_layers,
    scene_box,
)
from sparsepoint.models.refine import RefineHead, box_position
from sparsepoint.models.votes import DenseHead, NoiseSuppression, VoteModule, Votes, best_rows
from sparsepoint.postprocess import dense_detections, sparse_detections
from tenfold.ops import gather_rows
from tenfold.pointnet import PointFeatures, SetAbstraction

__all__ = ["SparsePoint", "VoteNet", "build"]


class SparsePoint(nn.Module):
    """A fixed, small set of proposals refined stage by stage; its output needs no suppression.

    ``preset="sparsepoint"`` starts from learned boxes with one shared embedding, ``"srdet"`` from the best of a dense
    head's candidates. Both are trained one-to-one (`sparsepoint.SetCriterion3d`).

    Args:
        config: the settings; the preset "sparsepoint" on ScanNet's classes by default.

    Example:
        >>> from sparsepoint import SparsePoint, make_config
        >>> model = SparsePoint(make_config("tiny", "rooms")).eval()
        >>> found = model.predict(torch.rand(1, 2048, 4) * 3)
        >>> len(found), found[0].boxes.shape[1]
        (1, 7)
    """

    def __init__(self, config: SparsePointConfig | None = None) -> None:
        super().__init__()
        self.config = config or SparsePointConfig()
        settings = self.config
        self.backbone = make_backbone(settings)
        channels = self.backbone.out_channels
        self.votes = NoiseSuppression(channels) if settings.votes else None
        self.local = (
            SetAbstraction(channels, [[channels]], radii=[0.3], nsamples=[16], normalize_xyz=True)
            if settings.local_aggregation
            else None
        )
        self.pre_roi = point_layers(channels, settings.dim, settings.dim)
        self.initial: DenseHead | None = None
        self.proposals: LearnableProposals3d | None = None
        if settings.preset == "srdet":
            coder = PartialBinBoxCoder(settings.mean_sizes, settings.heading_bins)
            widths = (channels,) * 3
            self.initial = DenseHead(
                channels,
                widths,
                (channels, settings.dim),
                settings.initial_proposals,
                settings.num_classes,
                coder,
            )
            self.initial_feats = nn.Sequential(
                nn.Linear(channels, channels),
                nn.LayerNorm(channels),
                nn.ReLU(),
                nn.Linear(channels, settings.dim),
            )
        else:
            self.proposals = LearnableProposals3d(
                settings.num_proposals,
                settings.dim,
                foreground=settings.foreground,
                boxes=settings.proposals,
                init=settings.proposal_init,
            )
        self.pool = RoIGridPool3d(settings.grids, settings.max_points)
        number = 1 if settings.share_stages else settings.num_stages
        self.heads = nn.ModuleList(RefineHead(settings) for _ in range(number))
        self.coder = stage_coder(settings)
        self._initialise()

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return self.config.class_names

    def _initialise(self) -> None:
        for parameter in self.heads.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for head in self.heads if self.config.cls_prior is not None else ():
            prior = self.config.cls_prior or 0.5
            nn.init.constant_(head.classify.bias, -math.log((1 - prior) / prior))  # type: ignore[union-attr, arg-type]
        for module in () if self.initial is None else self.initial.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, points: Tensor, *, stages: int | None = None) -> DetectionOutput:
        """Predictions of every stage.

        Args:
            points: (B, N, 3 + F) x, y, z in metres, then the features.
            stages: stop after so many; all by default.

        Raises:
            ValueError: another shape, or more stages than there are.
        """
        check_points("SparsePoint", points, self.config)
        last = self.config.num_stages if stages is None else stages
        if not 1 <= last <= self.config.num_stages:
            raise ValueError(f"SparsePoint: stages: got {last}; expected 1 to {self.config.num_stages}")
        seeds = _seeds(self.backbone, points)
        output = DetectionOutput()
        places, feats = self._features(seeds, output)
        boxes, proposal = self._propose(places, output)
        low, extent = scene_box(places)
        for stage in range(last):
            rois = boxes.detach()
            seen = torch.cat((rois[..., :6], torch.zeros_like(rois[..., 6:])), -1)
            seen = rois if self.config.roi == "rotated" else seen
            pooled = self.pool(seen, places, feats)
            head = self.heads[0 if self.config.share_stages else stage]
            proposal, logits, delta, heading = head(proposal, pooled, box_position(rois, low, extent))
            output.rois.append(boxes)
            boxes = self.coder.decode(delta, heading, boxes)
            output.logits.append(logits)
            output.boxes.append(boxes)
            output.deltas.append(delta)
            output.heading.append(heading)
            boxes = boxes.detach()
        return output

    def _features(self, seeds: PointFeatures, output: DetectionOutput) -> tuple[Tensor, Tensor]:
        """Points that RoIs pool from and their features; the points carry no gradient."""
        places, feats = seeds.xyz, seeds.feats
        if self.votes is not None:
            votes = self.votes(places, feats, seeds.idx)
            output.votes = votes
            if self.config.feature_source == "votes":
                places, feats = votes.xyz, votes.feats
            elif self.config.feature_source == "seeds+votes":
                places, feats = (
                    torch.cat((votes.xyz, places), 1),
                    torch.cat((votes.feats, feats), 1),
                )
        places = places.detach()
        if self.local is not None:
            feats = self.local(places, feats, centers=places).feats
        return places, self.pre_roi(feats)

    def _propose(self, places: Tensor, output: DetectionOutput) -> tuple[Tensor, Tensor]:
        if self.proposals is not None:
            boxes, feats = self.proposals(places)
            return boxes, feats
        assert self.initial is not None  # one of the two
        assert output.votes is not None
        found = self.initial(output.votes)
        output.candidates = found
        rows = best_rows(found.objectness.softmax(-1)[..., 1].detach(), self.config.num_proposals)
        boxes = gather_rows(self.initial.boxes(found), rows)
        return boxes, self.initial_feats(gather_rows(found.feats, rows))

    def prior(self, points: Tensor) -> Tensor:
        """(B, K, 7) boxes before any refinement: what the network believes without having looked."""
        places, _ = self._features(_seeds(self.backbone, points), output := DetectionOutput())
        return self._propose(places, output)[0]

    @torch.no_grad()
    def predict(
        self,
        points: Tensor,
        *,
        score_thr: float | Sequence[float] = 0.01,
        max_dets: int | None = None,
        single_label: bool = False,
        nms: float | None = None,
        stages: int | None = None,
    ) -> list[Detections3D]:
        """Detections of every scene, best first.

        Args:
            points: (B, N, 3 + F).
            score_thr: one number, or one for each class.
            max_dets: (class, proposal) pairs at most; as many as proposals by default.
            single_label: each box under its best class alone.
            nms: None, the default, suppresses nothing; else the IoU above which boxes of a class do.
            stages: stop early.
        """
        output = self(points, stages=stages)
        return sparse_detections(
            output.logits[-1],
            output.boxes[-1],
            score_thr=score_thr,
            max_dets=max_dets,
            single_label=single_label,
            nms=nms,
        )


class VoteNet(nn.Module):
    """The dense baseline: votes, candidates around them, suppression. 953,828 parameters on ScanNet.

    Source: Qi et al., "Deep Hough Voting for 3D Object Detection in Point Clouds" (2019).

    Args:
        config: the settings; the preset "votenet" on ScanNet's classes by default.

    Example:
        >>> from sparsepoint import VoteNet
        >>> sum(p.numel() for p in VoteNet().parameters())
        953828
    """

    def __init__(self, config: SparsePointConfig | None = None) -> None:
        super().__init__()
        self.config = config or SparsePointConfig(preset="votenet", num_proposals=256)
        settings = self.config
        self.backbone = make_backbone(settings)
        channels = self.backbone.out_channels
        self.votes = VoteModule(channels)
        coder = PartialBinBoxCoder(settings.mean_sizes, settings.heading_bins)
        hidden = settings.dim
        self.head = DenseHead(
            channels,
            (hidden,) * 3,
            (hidden, hidden),
            settings.num_proposals,
            settings.num_classes,
            coder,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return self.config.class_names

    def forward(self, points: Tensor, *, stages: int | None = None) -> DetectionOutput:
        """Votes and candidates of points (B, N, 3 + F); ``stages`` is there for `SparsePoint`'s sake.

        Raises:
            ValueError: another shape.
        """
        check_points("VoteNet", points, self.config)
        seeds = _seeds(self.backbone, points)
        votes: Votes = self.votes(seeds.xyz, seeds.feats, seeds.idx)
        by_seeds = self.config.cluster == "seeds" or (self.config.cluster == "released" and not self.training)
        return DetectionOutput(votes=votes, candidates=self.head(votes, from_seeds=by_seeds))

    @torch.no_grad()
    def predict(
        self,
        points: Tensor,
        *,
        score_thr: float | Sequence[float] = 0.05,
        max_dets: int | None = None,
        single_label: bool = False,
        nms: float | Literal["config"] | None = "config",
        stages: int | None = None,
    ) -> list[Detections3D]:
        """Detections of every scene, best first; see `SparsePoint.predict`. By default ``nms`` is the settings'."""
        found = self(points).candidates
        results = dense_detections(
            found.objectness,
            found.classes,
            self.head.boxes(found),
            points[..., :3],
            score_thr=score_thr,
            single_label=single_label,
            nms=self.config.nms if nms == "config" else nms,
        )
        return results if max_dets is None else [r.pick(torch.arange(len(r))[:max_dets]) for r in results]


def check_points(op: str, points: Tensor, config: SparsePointConfig) -> None:
    """Refuse points of another shape, which would end in a message about a layer."""
    if points.dim() != 3 or points.shape[-1] != 3 + config.features:
        raise ValueError(
            f"{op}: points: got shape {tuple(points.shape)}; expected (B, N, {3 + config.features})"
        )


def _seeds(backbone: nn.Module, points: Tensor) -> PointFeatures:
    seeds: PointFeatures = backbone(points[..., :3], points[..., 3:] if points.shape[-1] > 3 else None)
    return seeds


def build(config: SparsePointConfig) -> Any:
    """The network of these settings."""
    return VoteNet(config) if config.dense else SparsePoint(config)
