"""SECOND: voxel means, sparse 3D encoder, bird's-eye backbone, anchor head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.lidar.anchors import NUSCENES_ANCHORS, NUSCENES_GROUPS
from tenfold.lidar.models.anchor_head import AnchorHead, AnchorOutputs
from tenfold.lidar.models.bev import BEVBackbone
from tenfold.lidar.models.config import AnchorConfig, configure
from tenfold.lidar.models.detector import Detector, frame_offsets, without_empty
from tenfold.lidar.models.layers import full_precision
from tenfold.lidar.models.multi_head import NUSCENES_WEIGHTS, MultiHead, MultiOutputs
from tenfold.lidar.models.voxel_backbone import (
    MeanVoxelFeatures,
    SparseFeatures,
    VoxelBackBone8x,
    VoxelResBackBone8x,
    encoder_depths,
    height_compression,
)
from tenfold.lidar.postprocess import PostProcess
from tenfold.sparse import SparseTensor

ENCODERS = {"plain": VoxelBackBone8x, "residual": VoxelResBackBone8x}
ENCODER_STRIDE = 8


@dataclass(frozen=True)
class SecondConfig(AnchorConfig):
    """Everything that shapes a `Second`; the defaults are OpenPCDet's three-class KITTI model.

    The grid needs a multiple of 8 times the coarsest bird's-eye stride along x and y, and along z 40 cells or
    another number whose top cells the encoder reaches (24, 56). Further fields: `DetectorConfig`,
    `AnchorConfig`.

    Args:
        encoder: "plain" or "residual".
        channels: widths of the encoder's four stages.
        blocks: layers or residual blocks of the four stages; None takes the encoder's own.
        out_channels: of the encoder's output.

    Raises:
        ValueError: whatever does not fit together, before any training.

    Example:
        >>> SecondConfig().bev_grid, SecondConfig().bev_input_channels
        ((200, 176), 256)
    """

    encoder: str = "plain"
    channels: tuple[int, int, int, int] = (16, 32, 64, 64)
    blocks: tuple[int, int, int, int] | None = None
    out_channels: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_lengths(channels=4)
        self.require(
            self.blocks is None or len(self.blocks) == 4,
            f"blocks: got {self.blocks!r}; expected 4 numbers, one per stage",
        )
        self.require(
            min(*self.channels, self.out_channels) >= 1, "got a width or a cap below 1; expected 1 or more"
        )
        self.require(
            self.encoder in ENCODERS, f"encoder: got {self.encoder!r}; expected one of {', '.join(ENCODERS)}"
        )

    def _check_grid(self) -> None:
        super()._check_grid()
        nz = self.grid[2]
        depths = encoder_depths(nz)
        self.require(
            bool(depths[4] >= 1 and depths[2] % 2 and depths[3] % 2),
            f"voxel_size: the grid has {nz} cells along z, and the encoder's extents "
            f"{depths} leave cells out; expected 40 (or 24, 56)",
        )

    @property
    def feature_stride(self) -> int:
        """Voxels per cell of the encoder's output."""
        return ENCODER_STRIDE

    @property
    def bev_input_channels(self) -> int:
        """Channels of the bird's-eye map: encoder channels times its remaining height."""
        return self.out_channels * encoder_depths(self.grid[2])[4]

    @classmethod
    def author(cls) -> SecondConfig:
        """The model of the paper's author (second.pytorch, car.fhd): cars only, a single bird's-eye block."""
        return cls(
            class_names=("Car",),
            blocks=(1, 2, 3, 3),
            out_channels=64,
            bev_layers=(5,),
            bev_strides=(1,),
            bev_channels=(128,),
            up_strides=(1,),
            up_channels=(128,),
            post=PostProcess(0.3, 0.01, 1000, 100, (0.0, -40.0, -2.2, 70.4, 40.0, 0.8)),
        )

    @classmethod
    def nuscenes(cls) -> SecondConfig:
        """Ten classes, five point features, residual encoder, six heads (OpenPCDet's CBGS model)."""
        return cls(**NUSCENES_FIELDS)


#: What nuScenes changes in every detector on this encoder.
NUSCENES_FIELDS: dict[str, Any] = {
    "class_names": tuple(anchor.name for anchor in NUSCENES_ANCHORS),
    "point_range": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    "voxel_size": (0.1, 0.1, 0.2),
    "max_points": 10,
    "max_voxels": (60000, 60000),
    "point_features": 5,
    "velocity": True,
    "encoder": "residual",
    "channels": (16, 32, 64, 128),
    "head": "multi",
    "head_groups": NUSCENES_GROUPS,
    "loss_weights": NUSCENES_WEIGHTS,
    "post": PostProcess(0.1, 0.2, 1000, 83, per_class=True, total_max=500),
}


class VoxelStages(nn.Module):
    """Voxels, sparse encoder, bird's-eye map, backbone and anchor head: what detectors on voxels share.

    To put a module of one's own between two parts, override `encode`, `bev` or `dense`.
    """

    config: SecondConfig
    voxel_features: MeanVoxelFeatures
    backbone_3d: nn.Module
    backbone_2d: BEVBackbone
    dense_head: AnchorHead | MultiHead

    def make_stages(self, encoder: nn.Module, *, anchors: bool = True) -> None:
        """Set the parts; without anchors there is no dense half."""
        c = self.config
        self.voxel_features = MeanVoxelFeatures(
            c.voxel_size, c.point_range, c.max_points, c.max_voxels, mode=c.voxels
        )
        self.backbone_3d = encoder
        if anchors:
            self.backbone_2d = make_bev_backbone(c)
            self.dense_head = make_anchor_head(c, self.backbone_2d.out_channels)

    def voxels(self, points: Tensor, batch_size: int) -> SparseTensor:
        """Voxel features of points (N, 1 + F) on the encoder's grid, which has one empty layer on top."""
        found = self.voxel_features(points[:, 1:], frame_offsets(points, batch_size))
        nx, ny, nz = self.config.grid
        return SparseTensor(found.voxels, found.coords, (nz + 1, ny, nx), batch_size)

    def encode(self, points: Tensor, batch_size: int) -> SparseFeatures:
        """Sparse features of points (N, 1 + F)."""
        return self.encode_voxels(self.voxels(points, batch_size))

    @full_precision
    def encode_voxels(self, voxels: SparseTensor) -> SparseFeatures:
        """Sparse features of voxels."""
        features: SparseFeatures = self.backbone_3d(voxels)
        return features

    def bev(self, encoded: SparseFeatures) -> Tensor:
        """Bird's-eye map (B, C, H, W) of the encoder's output."""
        return height_compression(encoded.out)

    def dense(self, bev: Tensor) -> AnchorOutputs | MultiOutputs:
        """The dense half: raw outputs of a bird's-eye map (B, C, H, W)."""
        outputs: AnchorOutputs | MultiOutputs = self.dense_head(self.backbone_2d(bev))
        return outputs


class Second(VoxelStages, Detector):
    """SECOND (Yan, Mao and Li 2018): voxel means, sparse encoder, bird's-eye backbone, anchors.

    See `Detector` for what goes in and out, `VoxelStages` for its parts; a frame without a point in range has
    no detections. Submodules carry the names under which OpenPCDet's checkpoints hold them; see
    `load_openpcdet`.

    Args:
        config: see `SecondConfig`.

    Raises:
        ValueError: a batch of wrong shapes; at validation level "cheap" also points or boxes that are not
            finite, and labels beyond the classes.
        TypeError: no tensors.

    Example:
        >>> import torch
        >>> config = SecondConfig(point_range=(0, -6.4, -3, 12.8, 6.4, 1), voxel_size=(0.1, 0.1, 0.1))
        >>> model = Second(config).eval()
        >>> points = torch.cat((torch.zeros(99, 1), torch.rand(99, 4)), 1)
        >>> model({"points": points, "batch_size": 1})[0]["boxes"].shape
        torch.Size([0, 7])
    """

    config: SecondConfig

    def __init__(self, config: SecondConfig | None = None) -> None:
        Detector.__init__(self, config or SecondConfig())
        self.make_stages(make_encoder(self.config))

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses, see `AnchorHead.losses`."""
        outputs: Any = self.dense(self.bev(self.encode(points, len(gt_boxes))))
        return self.dense_head.losses(outputs, gt_boxes)

    def find(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Detections."""
        encoded = self.encode(points, batch_size)
        outputs: Any = self.dense(self.bev(encoded))
        return without_empty(self.dense_head.detect(outputs, self.config.post), measured(encoded))


def make_encoder(config: SecondConfig) -> nn.Module:
    """The sparse encoder of a configuration."""
    blocks = {} if config.blocks is None else {"blocks": config.blocks}
    kind = ENCODERS[config.encoder]
    return kind(config.point_features, config.channels, out_channels=config.out_channels, **blocks)


def measured(encoded: SparseFeatures) -> Tensor:
    """(B,) voxels of each frame."""
    sites = encoded.stages[0]
    return torch.bincount(sites.coords[:, 0], minlength=sites.batch_size)


def make_bev_backbone(config: AnchorConfig) -> BEVBackbone:
    """The bird's-eye backbone of a configuration."""
    c = config
    return BEVBackbone(
        c.bev_input_channels, c.bev_layers, c.bev_strides, c.bev_channels, c.up_strides, c.up_channels
    )


def make_anchor_head(config: AnchorConfig, in_channels: int) -> Any:
    """The anchor head of a configuration: an `AnchorHead` or a `MultiHead`, each with its own outputs."""
    c = config
    shared: dict[str, Any] = {"weights": c.loss_weights}
    if c.head == "multi":
        return MultiHead(
            in_channels,
            c.anchor_classes,
            c.head_groups or (),
            c.point_range,
            c.bev_grid,
            channels=c.head_channels,
            velocity=c.velocity,
            **shared,
        )
    return AnchorHead(
        in_channels, c.anchor_classes, c.point_range, c.bev_grid, direction=c.direction, **shared
    )


def build_second(dataset: str = "kitti", *, second_author: bool = False, **overrides: Any) -> Second:
    """Build SECOND.

    Args:
        dataset: "kitti" or "nuscenes".
        second_author: the author's variant instead of OpenPCDet's; see `SecondConfig.author`. KITTI only.
        overrides: fields of `SecondConfig`.

    Raises:
        ValueError: an unknown data set or field, or a configuration that does not fit together.
    """
    bases = {"kitti": SecondConfig.author() if second_author else SecondConfig()}
    if not second_author:
        bases["nuscenes"] = SecondConfig.nuscenes()
    return Second(configure("build_second", bases, dataset, overrides))
