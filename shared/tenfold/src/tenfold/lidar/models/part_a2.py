"""Part-A2 (Shi et al. 2020): a voxel U-Net that tells parts, RoI-aware pooling, a sparse second stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.geometry import PointResidualCoder
from tenfold.lidar.anchors import KITTI_ANCHORS, AnchorClass
from tenfold.lidar.models.config import configure, mean_sizes_of
from tenfold.lidar.models.detector import Detector, PointFeatures, plain_boxes
from tenfold.lidar.models.layers import shared_layers
from tenfold.lidar.models.point_heads import PointHead, PointOutputs, PointWeights
from tenfold.lidar.models.roi_head import RoIHead, RoIOutputs, SecondStageConfig
from tenfold.lidar.models.second import (
    NUSCENES_FIELDS,
    SecondConfig,
    VoxelStages,
    measured,
)
from tenfold.lidar.models.two_stage import FirstStage, TwoStage
from tenfold.lidar.models.unet import UNetV2
from tenfold.lidar.models.voxel_backbone import SparseFeatures, site_centres, sparse_layer
from tenfold.lidar.postprocess import PostProcess
from tenfold.lidar.proposals import ProposalOptions
from tenfold.lidar.roi_targets import RoISampling
from tenfold.ops import offsets_from_batch_index, pad, roi_grid_pool3d
from tenfold.sparse import SparseSequential, SparseTensor

_SECOND_STAGE = SecondStageConfig(sampling=RoISampling(reg_fg=0.65), shared=(256, 256, 256))


# Published weights were trained with one bottom height for KITTI's three classes.
_LOW_ANCHORS = {anchor.name: replace(anchor, bottom=-1.78) for anchor in KITTI_ANCHORS}


@dataclass(frozen=True)
class PartA2Config(SecondConfig):
    """Everything that shapes a `PartA2`; the defaults are OpenPCDet's three-class KITTI model.

    Further fields: `SecondConfig`.

    Args:
        free: without anchors: the point head proposes boxes, and the encoder has no output layer.
        part: whether the second stage pools parts; otherwise raw coordinates.
        part_threshold: parts of points with a lower score are zeroed before pooling.
        point_widths: widths of the point head's hidden layers.
        mean_sizes: (dx, dy, dz) of each class for "free"; None takes the anchors'.
        point_weights: see `PointWeights`.
        pool_grid: cells of a region along each axis.
        pool_points: points that a cell uses at most.
        pool_channels: width of each of the second stage's two sparse branches.
        second: see `SecondStageConfig`.
    """

    free: bool = False
    part: bool = True
    part_threshold: float = 0.3
    point_widths: tuple[int, ...] = ()
    mean_sizes: tuple[tuple[float, float, float], ...] | None = None
    point_weights: PointWeights = field(default_factory=PointWeights)
    pool_grid: int = 12
    pool_points: int = 127
    pool_channels: int = 64
    second: SecondStageConfig = _SECOND_STAGE
    post: PostProcess = field(default_factory=lambda: PostProcess(iou_threshold=0.1))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.encoder == "plain", f"encoder: got {self.encoder!r}; the U-Net's is 'plain'")
        self.require(
            min(self.pool_grid, self.pool_points, self.pool_channels) >= 1,
            "pool_grid, pool_points, pool_channels: got a number below 1; expected 1 or more",
        )
        if self.mean_sizes is None:
            object.__setattr__(self, "mean_sizes", mean_sizes_of(self.anchor_classes))
        self.require(
            len(self.mean_sizes or ()) == len(self.class_names),
            f"mean_sizes: got {len(self.mean_sizes or ())}; expected one per class",
        )

    @property
    def known_anchors(self) -> Mapping[str, AnchorClass]:
        """KITTI's lie lower here."""
        return {**super().known_anchors, **_LOW_ANCHORS}

    @classmethod
    def kitti(cls, *, free: bool = False) -> PartA2Config:
        """OpenPCDet's KITTI models with and without anchors."""
        if not free:
            return cls()
        test = ProposalOptions(9000, 0.85, 100)
        return cls(
            free=True,
            part=False,
            part_threshold=0.0,
            point_widths=(128, 128),
            second=replace(_SECOND_STAGE, test=test),
        )

    @classmethod
    def nuscenes(cls, *, free: bool = False) -> PartA2Config:
        """The same on nuScenes' ten classes; no published model to compare with."""
        base = {**NUSCENES_FIELDS, "encoder": "plain", "channels": (16, 32, 64, 64)}
        base["post"] = PostProcess(0.1, 0.1, total_max=500)
        if not free:
            return cls(**base)
        kitti = cls.kitti(free=True)
        base.update({"velocity": True, "free": True, "part": False, "part_threshold": 0.0})
        return cls(**base, point_widths=(128, 128), second=kitti.second)


class PartA2Head(RoIHead):
    """Pools parts and features of the sites in each region, and convolves them.

    Args:
        in_channels: of the site features.
        config: see `PartA2Config`.
    """

    def __init__(self, in_channels: int, config: PartA2Config) -> None:
        second, width = config.second, config.pool_channels
        super().__init__(second.shared[-1], second)
        self.settings = config
        self.conv_part = SparseSequential(sparse_layer(4, 64, "part1"), sparse_layer(64, width, "part2"))
        self.conv_rpn = SparseSequential(
            sparse_layer(in_channels, 64, "rpn1"), sparse_layer(64, width, "rpn2")
        )
        self.shared_fc_layer = shared_layers(2 * width * config.pool_grid**3, second.shared, second.dropout)
        self.reset_parameters()

    def forward(self, points: PointFeatures, point_outputs: PointOutputs, rois: Tensor) -> RoIOutputs:
        """Outputs of regions (B, R, 7)."""
        parts, features = self.pool(points, point_outputs, rois)
        cells = (parts.sum(-1) != 0).nonzero()
        enough = len(cells) >= 3
        if not enough:  # normalisation needs more than that: one made-up cell per region, trained on nothing
            first = torch.arange(len(parts), device=parts.device)
            cells = torch.stack((first, *[torch.zeros_like(first)] * 3), 1)
        shape = (self.settings.pool_grid,) * 3
        rows = tuple(cells.unbind(1))
        sparse = SparseTensor(parts[rows], cells.int(), shape, len(parts))
        part: SparseTensor = self.conv_part(sparse)
        other: SparseTensor = self.conv_rpn(sparse.replace(features[rows]))
        joined = sparse.replace(torch.cat((other.features, part.features), 1)).dense()
        valid = None if enough else torch.zeros(len(parts), dtype=torch.bool, device=parts.device)
        return self.branches(self.shared_fc_layer(joined.flatten(1)), valid)

    def pool(self, points: PointFeatures, point_outputs: PointOutputs, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of (part, score) (B * R, g, g, g, 4) and maximum of the features in every cell."""
        c = self.settings
        score = point_outputs.scores.detach()[:, None]
        if c.part:
            assert point_outputs.parts is not None
            place = point_outputs.parts.sigmoid()
        else:
            place = points.xyz.to(score.dtype)
        place = torch.where(score < c.part_threshold, 0, place)
        frames, room = rois.shape[:2]
        where: dict[str, Any] = {
            "offsets": points.offsets,
            "roi_offsets": torch.arange(frames + 1, device=rois.device) * room,
            "max_points": c.pool_points,
        }
        flat, xyz = rois.flatten(0, 1).contiguous(), points.xyz.to(rois.dtype).contiguous()
        parts = roi_grid_pool3d(flat, xyz, torch.cat((place, score), 1), c.pool_grid, mode="avg", **where)
        features = roi_grid_pool3d(flat, xyz, points.features, c.pool_grid, mode="max", **where)
        return parts, features


class PartA2(VoxelStages, TwoStage):
    """Part-A2 with anchors, or without; see `Detector` for what goes in and out.

    The "points" of the first stage are the centres of the occupied voxels.

    Args:
        config: see `PartA2Config`.

    Raises:
        ValueError: as `Second`.
        TypeError: no tensors.
    """

    config: PartA2Config

    def __init__(self, config: PartA2Config | None = None) -> None:
        Detector.__init__(self, config or PartA2Config.kitti())
        c = self.config
        blocks = {} if c.blocks is None else {"blocks": c.blocks}
        out_channels = None if c.free else c.out_channels
        unet = UNetV2(c.point_features, c.channels, out_channels=out_channels, **blocks)
        self.make_stages(unet, anchors=not c.free)
        self.point_head = PointHead(
            unet.site_channels,
            len(c.class_names) if c.free else 1,
            c.point_widths,
            coder=PointResidualCoder(c.mean_sizes or ()) if c.free else None,
            parts=True,
            weights=c.point_weights,
        )
        self.roi_head = PartA2Head(unet.site_channels, c)

    def points_of(self, encoded: SparseFeatures) -> PointFeatures:
        """Decoder features at the centres of the occupied voxels."""
        sites = encoded.sites
        assert sites is not None
        xyz = site_centres(sites, self.config.voxel_size, self.config.point_range, 1)
        offsets = offsets_from_batch_index(sites.coords[:, 0], sites.batch_size)
        return PointFeatures(xyz, sites.features, offsets)

    def first_stage(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> FirstStage:
        """Encode, and propose boxes by anchors or by points."""
        encoded = self.encode(points, batch_size)
        features = self.points_of(encoded)
        told = self.point_head(features.features)
        if self.config.free:
            boxes, logits = padded_boxes(self.point_head, told, features)
            return FirstStage(boxes, logits, features, told, None, measured(encoded))
        outputs = self.dense(self.bev(encoded))
        head: Any = self.dense_head
        return FirstStage(
            head.boxes(outputs), head.logits(outputs), features, told, outputs, measured(encoded)
        )

    def first_losses(self, first: FirstStage, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Losses of anchors (unless "free") and points."""
        losses = {} if self.config.free else anchor_losses(self.dense_head, first, gt_boxes)
        return {**losses, **self.point_head.losses(first.point_outputs, first.points, plain_boxes(gt_boxes))}


def anchor_losses(head: nn.Module, first: FirstStage, gt_boxes: Tensor) -> dict[str, Tensor]:
    """Losses of the anchor head without their sum."""
    losses: dict[str, Tensor] = head.losses(first.outputs, gt_boxes)  # type: ignore[operator]
    return {name: value for name, value in losses.items() if name != "loss"}


def padded_boxes(head: PointHead, told: PointOutputs, points: PointFeatures) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 7) and logits (B, N, C) of the points of each frame; a missing point has NaN as box."""
    boxes, _ = pad(head.boxes(told, points.xyz.to(told.classes.dtype)), points.offsets, value=float("nan"))
    logits, _ = pad(told.classes, points.offsets)
    return boxes, logits


def build_parta2(dataset: str = "kitti", *, free: bool = False, **overrides: Any) -> PartA2:
    """Build Part-A2.

    Args:
        dataset: "kitti" or "nuscenes".
        free: without anchors.
        overrides: fields of `PartA2Config`.

    Raises:
        ValueError: an unknown data set or field, or a configuration that does not fit together.
    """
    bases = {"kitti": PartA2Config.kitti(free=free), "nuscenes": PartA2Config.nuscenes(free=free)}
    return PartA2(configure("build_parta2", bases, dataset, overrides))
