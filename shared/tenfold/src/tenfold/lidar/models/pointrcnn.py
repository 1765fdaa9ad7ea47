"""PointRCNN (Shi et al. 2019): boxes from the foreground points of a raw cloud, refined in the points' own frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.geometry import BinBoxCoder, PointResidualCoder, points_from_box_frame, points_to_box_frame
from tenfold.lidar.anchors import KNOWN_ANCHORS, NUSCENES_ANCHORS
from tenfold.lidar.models.config import DetectorConfig, configure, mean_sizes_of
from tenfold.lidar.models.detector import PointFeatures, plain_boxes
from tenfold.lidar.models.layers import full_precision
from tenfold.lidar.models.point_heads import PointHead, PointOutputs, PointWeights
from tenfold.lidar.models.point_input import fixed_points, in_xy_range
from tenfold.lidar.models.roi_head import RoIHead, RoIOutputs, SecondStageConfig
from tenfold.lidar.models.two_stage import COUNTS, FirstStage, TwoStage
from tenfold.lidar.postprocess import PostProcess
from tenfold.lidar.proposals import ProposalOptions
from tenfold.lidar.roi_targets import RoISampling, canonical_boxes, draw_factors
from tenfold.losses import bin_box_loss, corner_loss
from tenfold.ops import roi_point_pool
from tenfold.pointnet import PointNet2Backbone, SALevel, SetAbstraction

#: A level: centres (None takes all points as one group), then for each scale radius, neighbours and widths.
Level = tuple[int | None, tuple[tuple[float, int, tuple[int, ...]], ...]]

LEVELS: tuple[Level, ...] = (
    (4096, ((0.1, 16, (16, 16, 32)), (0.5, 32, (32, 32, 64)))),
    (1024, ((0.5, 16, (64, 64, 128)), (1.0, 32, (64, 96, 128)))),
    (256, ((1.0, 16, (128, 196, 256)), (2.0, 32, (128, 196, 256)))),
    (64, ((2.0, 16, (256, 256, 512)), (4.0, 32, (256, 384, 512)))),
)
UP_WIDTHS = ((128, 128), (256, 256), (512, 512), (512, 512))
ROI_LEVELS: tuple[Level, ...] = (
    (128, ((0.2, 16, (128, 128, 128)),)),
    (32, ((0.4, 16, (128, 128, 256)),)),
    (None, ((1.0, 1, (256, 256, 512)),)),
)
_SECOND_STAGE = SecondStageConfig(
    test=ProposalOptions(9000, 0.85, 100),
    sampling=RoISampling(reg_fg=0.55, score="cls", cls_fg=0.6, cls_bg=0.45),
    shared=(),
    dropout=0.0,
)


@dataclass(frozen=True)
class PointRCNNConfig(DetectorConfig):
    """Everything that shapes a `PointRCNN`; the defaults are OpenPCDet's three-class KITTI model.

    Further fields: `DetectorConfig`. Points tell no velocity: boxes have seven columns on nuScenes too.

    Args:
        points: per frame; a frame is thinned out or repeated to that many.
        mean_sizes: (dx, dy, dz) of each class, metres; None takes KITTI's or nuScenes' by name.
        levels: of the backbone on the way down, see `LEVELS`.
        up_widths: widths of the layers on the way up, finest first, as many as levels.
        point_widths: widths of the point head's hidden layers.
        point_dropout: behind the first of them; None leaves it out.
        point_weights: see `PointWeights`.
        use_features: whether the backbone sees more of a point than its coordinates.
        bins: the author's box code of bins and residuals in both stages, and a second stage without
            normalisation.
        pool_points: points that a region pools.
        pool_enlarge: metres added to each extent of a region in total.
        depth_scale: metres by which the distance of a point is divided.
        roi_channels: width of the layers that merge coordinates with features.
        roi_levels: of the second stage, see `ROI_LEVELS`.
        roi_norm: whether the second stage's set abstraction is normalised.
        roi_flip: probability that a region is mirrored in training, with its points and its ground truth.
        roi_scale: a region is scaled in training by a factor uniform in 1 plus or minus this, alike.
        stages: "both", or "first" or "second" alone: the author trains one after the other.
        second: see `SecondStageConfig`.

    Raises:
        ValueError: whatever does not fit together.
    """

    points: int = 16384
    mean_sizes: tuple[tuple[float, float, float], ...] | None = None
    levels: tuple[Level, ...] = LEVELS
    up_widths: tuple[tuple[int, ...], ...] = UP_WIDTHS
    point_widths: tuple[int, ...] = (256, 256)
    point_dropout: float | None = None
    point_weights: PointWeights = field(default_factory=PointWeights)
    use_features: bool = True
    bins: bool = False
    pool_points: int = 512
    pool_enlarge: float = 0.0
    depth_scale: float = 70.0
    roi_channels: int = 128
    roi_levels: tuple[Level, ...] = ROI_LEVELS
    roi_norm: bool = True
    roi_flip: float = 0.0
    roi_scale: float = 0.0
    stages: str = "both"
    second: SecondStageConfig = _SECOND_STAGE
    post: PostProcess = field(default_factory=lambda: PostProcess(iou_threshold=0.1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean_sizes is None:
            unknown = [name for name in self.class_names if name not in KNOWN_ANCHORS]
            self.require(
                not unknown, f"class_names: no mean size known for {', '.join(unknown)}; pass mean_sizes"
            )
            sizes = mean_sizes_of([KNOWN_ANCHORS[name] for name in self.class_names])
            object.__setattr__(self, "mean_sizes", sizes)
        self.require(
            len(self.mean_sizes or ()) == len(self.class_names),
            f"mean_sizes: got {len(self.mean_sizes or ())}; expected one per class",
        )
        self.require(
            len(self.levels) == len(self.up_widths) >= 1,
            f"up_widths: got {len(self.up_widths)} for {len(self.levels)} levels; expected as many",
        )
        counts = [self.points, *(level[0] or 0 for level in self.levels)]
        self.require(
            all(a > b >= 1 for a, b in itertools.pairwise(counts)),
            f"points, levels: got {counts} points; expected ever fewer, 1 or more",
        )
        self.require(
            not self.bins or len(self.class_names) == 1,
            f"bins: is for one class; got {len(self.class_names)} classes",
        )
        self.require(
            self.stages in ("both", "first", "second"),
            f"stages: got {self.stages!r}; expected 'both', 'first' or 'second'",
        )
        self.require(
            min(self.pool_points, self.roi_channels) >= 1 and self.pool_enlarge >= 0 and self.depth_scale > 0,
            "pool_points, roi_channels, pool_enlarge, depth_scale: got a number that is too small",
        )
        self.require(
            0 <= self.roi_flip <= 1 and 0 <= self.roi_scale < 1,
            f"roi_flip, roi_scale: got {self.roi_flip}, {self.roi_scale}; expected numbers in [0, 1]",
        )

    @classmethod
    def nuscenes(cls) -> PointRCNNConfig:
        """The same on nuScenes' ten classes; no published model to compare with."""
        return cls(
            class_names=tuple(anchor.name for anchor in NUSCENES_ANCHORS),
            point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
            point_features=5,
            velocity=True,
            post=PostProcess(0.1, 0.1, total_max=500),
        )

    @classmethod
    def author(cls) -> PointRCNNConfig:
        """The model of the paper's author: cars only, no intensity, bins, wider pooling, no normalised regions.

        The author also turns each region about the sensor; in the region's own frame that changes nothing.
        """
        bands = {"depth_quotas": (0.7, 0.3), "depth_bands": (0.0, 40.0, 80.0), "aligned": True}
        wide = tuple((centres, tuple((r, 64, w) for r, _, w in scales)) for centres, scales in ROI_LEVELS)
        return cls(
            class_names=("Car",),
            use_features=False,
            mean_sizes=((3.8831, 1.6286, 1.5256),),
            point_range=(0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
            point_widths=(128,),
            point_dropout=0.5,
            bins=True,
            pool_enlarge=2.0,
            roi_norm=False,
            roi_flip=0.5,
            roi_scale=0.05,
            roi_levels=wide,
            second=replace(
                _SECOND_STAGE,
                train=ProposalOptions(9000, 0.85, 512, **bands),  # type: ignore[arg-type]
                test=ProposalOptions(9000, 0.8, 100, **bands),  # type: ignore[arg-type]
                sampling=replace(_SECOND_STAGE.sampling, per_frame=64, hard_low=0.05, noise=True),
                corners=0.0,
            ),
            post=PostProcess(0.3, 0.1),
        )


def sa_level(level: Level) -> SALevel:
    """A level of the backbone as `tenfold.pointnet` takes it."""
    centres, scales = level
    radii, ks, widths = zip(*scales, strict=True)
    return SALevel(centres or 1, radii, ks, widths)


def roi_abstraction(in_channels: int, level: Level, *, norm: bool) -> SetAbstraction:
    """The set abstraction of a level of the second stage."""
    centres, scales = level
    radii, ks, widths = zip(*scales, strict=True)
    if centres is None:
        return SetAbstraction(in_channels, widths, bn=norm)
    return SetAbstraction(in_channels, widths, npoint=centres, radii=radii, nsamples=ks, bn=norm)


class PointRCNNHead(RoIHead):
    """Pools the points in each region, in its frame, and runs a small PointNet++ on them.

    Args:
        in_channels: of the points' features; a fusion in `TwoStage.refine` may widen them.
        config: see `PointRCNNConfig`.
    """

    prefix = 5  # x, y, z, score, depth

    def __init__(self, in_channels: int, config: PointRCNNConfig) -> None:
        width = sum(widths[-1] for _, _, widths in config.roi_levels[-1][1])
        self.bins = roi_bins(config) if config.bins else None
        if self.bins is not None:
            self.code_size = self.bins.code_size
        super().__init__(width, config.second)
        self.settings = config
        c = config.roi_channels
        self.xyz_up_layer = nn.Sequential(nn.Linear(self.prefix, c), nn.ReLU(), nn.Linear(c, c), nn.ReLU())
        self.merge_down_layer = nn.Sequential(nn.Linear(c + in_channels, c), nn.ReLU())
        self.SA_modules = nn.ModuleList()
        for level in config.roi_levels:
            self.SA_modules.append(roi_abstraction(c, level, norm=config.roi_norm))
            c = sum(widths[-1] for _, _, widths in level[1])
        self.reset_parameters()

    def forward(self, points: PointFeatures, point_outputs: PointOutputs, rois: Tensor) -> RoIOutputs:
        """Outputs of regions (B, R, 7); in training of regions scaled and mirrored at random."""
        pooled = self.pool(points, point_outputs, rois)
        factors = self._factors(pooled)
        if factors is not None:
            pooled = torch.cat((pooled[..., :3] * factors[:, None], pooled[..., 3:]), -1)
        placed = self.xyz_up_layer(pooled[..., : self.prefix])
        features = self.merge_down_layer(torch.cat((placed, pooled[..., self.prefix :]), -1))
        xyz = pooled[..., :3].detach().contiguous()
        for module in self.SA_modules:
            xyz, features, _ = module(xyz, features)
        return self.branches(features.flatten(1))._replace(factors=factors)

    def _factors(self, pooled: Tensor) -> Tensor | None:
        c = self.settings
        if not self.training or not (c.roi_flip or c.roi_scale):
            return None
        return draw_factors(len(pooled), c.roi_flip, c.roi_scale).to(pooled)

    def pool(self, points: PointFeatures, point_outputs: PointOutputs, rois: Tensor) -> Tensor:
        """Points of each region (B * R, k, 5 + C): its frame's coordinates, score, depth, features.

        The gradient reaches the features; coordinates, score and depth are constants. Regions without a point
        are zero.
        """
        c, frames = self.settings, len(rois)
        score = point_outputs.scores.detach()[:, None].to(points.features.dtype)
        depth = torch.linalg.vector_norm(points.xyz, dim=1, keepdim=True) / c.depth_scale - 0.5
        rows = torch.cat((score, depth.to(score.dtype), points.features), 1)
        xyz = points.xyz.view(frames, -1, 3).to(rois.dtype)
        enlarge = (c.pool_enlarge,) * 3
        pooled, empty = roi_point_pool(
            xyz.contiguous(), rows.view(frames, -1, rows.shape[1]), rois, c.pool_points, enlarge=enlarge
        )
        local = points_to_box_frame(pooled[..., :3], rois[:, :, None])
        pooled = torch.cat((local, pooled[..., 3:]), -1)
        return torch.where(empty[..., None, None], 0, pooled).flatten(0, 1)

    def decode(self, codes: Tensor, rois: Tensor) -> Tensor:
        """Boxes (N, 7) of codes relative to regions (N, 7)."""
        if self.bins is None:
            return super().decode(codes, rois)
        local = self.bins.decode(codes, torch.zeros_like(rois[:, :3]))
        centre = points_from_box_frame(local[:, :3], rois)
        return torch.cat((centre, local[:, 3:6], local[:, 6:] + rois[:, 6:]), 1)

    def _box_losses(self, codes: Tensor, rois: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        if self.bins is None:
            return super()._box_losses(codes, rois, gt)
        local = canonical_boxes(gt, rois)
        box = bin_box_loss(codes, local, torch.zeros_like(local[:, :3]), self.bins).sum()
        corner = corner_loss(self.decode(codes, rois), gt).sum() if self.config.corners else box.new_zeros(())
        return box, corner


def point_bins(config: PointRCNNConfig) -> BinBoxCoder:
    """The author's code of the first stage: 76 numbers."""
    return BinBoxCoder((config.mean_sizes or ())[0])


def roi_bins(config: PointRCNNConfig) -> BinBoxCoder:
    """The author's code of the second stage: 46 numbers, headings within 45 degrees of the region's."""
    return BinBoxCoder((config.mean_sizes or ())[0], 1.5, 0.5, 9, math.pi / 2)


class PointRCNN(TwoStage):
    """PointRCNN; see `Detector` for what goes in and out.

    Points are drawn at random in training, and by fixed random numbers otherwise, so that a frame always has
    the same detections. To put a module of one's own in between, override `features` or `refine`.

    Args:
        config: see `PointRCNNConfig`.

    Raises:
        ValueError: as `Second`.
        TypeError: no tensors.
    """

    config: PointRCNNConfig

    def __init__(self, config: PointRCNNConfig | None = None) -> None:
        c = config or PointRCNNConfig()
        super().__init__(c)
        self.backbone_3d = PointNet2Backbone(
            self.input_channels(),
            [sa_level(level) for level in c.levels],
            c.up_widths,
        )
        width = self.backbone_3d.out_channels
        self.point_head = PointHead(
            width,
            len(c.class_names),
            c.point_widths,
            coder=point_bins(c) if c.bins else PointResidualCoder(c.mean_sizes or ()),
            dropout=c.point_dropout,
            weights=c.point_weights,
        )
        self.roi_head = PointRCNNHead(self.pooled_channels(width), c)

    def input_channels(self) -> int:
        """Features of a point, besides its coordinates, that the backbone sees."""
        return self.config.point_features - 3 if self.config.use_features else 0

    def pooled_channels(self, width: int) -> int:
        """Channels of what `refine` returns, given those of the backbone."""
        return width

    @full_precision
    def features(self, points: Tensor) -> Tensor:
        """Features (B, N, C) of drawn points (B, N, F)."""
        own = points[..., 3:].contiguous() if self.backbone_3d.in_channels else None
        found: Tensor = self.backbone_3d(points[..., :3].contiguous(), own).feats
        return found

    def draw_points(self, points: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """Points (B, N, F) of points in range, and (B,) how many there were."""
        return fixed_points(points, batch_size, self.config.points, None if self.training else 0)

    def first_stage(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> FirstStage:
        """Draw points, and propose a box at each."""
        drawn, counts = self.draw_points(in_xy_range(points, self.config.point_range), batch_size)
        return self.told_by(self.features(drawn), drawn, counts)

    def told_by(self, features: Tensor, drawn: Tensor, counts: Tensor, extra: Any = None) -> FirstStage:
        """What the point head says of features (B, N, C) of drawn points (B, N, F)."""
        batch_size, number = drawn.shape[:2]
        features = features.flatten(0, 1)
        offsets = torch.arange(batch_size + 1, device=drawn.device) * number
        at = PointFeatures(drawn[..., :3].flatten(0, 1), features, offsets)
        told = self.point_head(features)
        boxes = self.point_head.boxes(told, at.xyz.to(told.classes.dtype))
        return FirstStage(
            boxes.view(batch_size, number, 7),
            told.classes.view(batch_size, number, -1),
            at,
            told,
            None,
            counts,
            (counts > 0).repeat_interleave(number),
            extra,
        )

    def first_losses(self, first: FirstStage, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Losses of the points."""
        return self.point_head.losses(first.point_outputs, first.points, plain_boxes(gt_boxes), first.used)

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of the stages that are trained."""
        if self.config.stages == "both":
            return super().train_step(points, gt_boxes, batch)
        if self.config.stages == "first":
            losses = self.first_losses(self.first_stage(points, len(gt_boxes), batch), gt_boxes)
        else:
            losses = self._second_alone(points, gt_boxes, batch)
        parts = [value for name, value in losses.items() if name not in COUNTS]
        return {"loss": torch.stack(parts).sum(), **losses}

    def _second_alone(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        for part in (self.backbone_3d, self.point_head):
            part.eval()
        with torch.no_grad():
            first = self.first_stage(points, len(gt_boxes), batch)
        targets = self.draw(self.propose(first), plain_boxes(gt_boxes), self.second.sampling)
        outputs = self.second_stage(first, self.refine(first, batch), targets.rois)
        return self.roi_head.losses(outputs, targets)


def build_pointrcnn(dataset: str = "kitti", *, bin_loss: bool = False, **overrides: Any) -> PointRCNN:
    """Build PointRCNN.

    Args:
        dataset: "kitti" or "nuscenes".
        bin_loss: the author's variant instead of OpenPCDet's; see `PointRCNNConfig.author`. KITTI only.
        overrides: fields of `PointRCNNConfig`.

    Raises:
        ValueError: an unknown data set or field, or a configuration that does not fit together.
    """
    bases = {"kitti": PointRCNNConfig.author() if bin_loss else PointRCNNConfig()}
    if not bin_loss:
        bases["nuscenes"] = PointRCNNConfig.nuscenes()
    return PointRCNN(configure("build_pointrcnn", bases, dataset, overrides))
