"""PointPillars (Lang et al. 2019): columns of points, a small PointNet, a 2D backbone, anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.lidar.anchors import NUSCENES_ANCHORS, NUSCENES_GROUPS
from tenfold.lidar.models.anchor_head import AnchorOutputs
from tenfold.lidar.models.config import AnchorConfig, configure
from tenfold.lidar.models.detector import Detector, frame_offsets, without_empty
from tenfold.lidar.models.layers import full_precision
from tenfold.lidar.models.multi_head import NUSCENES_WEIGHTS, MultiOutputs
from tenfold.lidar.models.second import make_anchor_head, make_bev_backbone
from tenfold.lidar.models.voxel_backbone import SparseNorm
from tenfold.lidar.postprocess import PostProcess
from tenfold.ops import dynamic_voxelize, scatter, voxelize


@dataclass(frozen=True)
class PointPillarsConfig(AnchorConfig):
    """Everything that shapes a `PointPillars`; the defaults are OpenPCDet's three-class KITTI model.

    A pillar is a voxel as high as the range. Further fields: `DetectorConfig`, `AnchorConfig`.

    Args:
        pillar_channels: width of the pillar features.

    Raises:
        ValueError: whatever does not fit together.

    Example:
        >>> PointPillarsConfig().grid, PointPillarsConfig().bev_grid
        ((432, 496, 1), (248, 216))
    """

    point_range: tuple[float, ...] = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
    voxel_size: tuple[float, ...] = (0.16, 0.16, 4.0)
    max_points: int = 32
    pillar_channels: int = 64
    bev_layers: tuple[int, ...] = (3, 5, 5)
    bev_strides: tuple[int, ...] = (2, 2, 2)
    bev_channels: tuple[int, ...] = (64, 128, 256)
    up_strides: tuple[float, ...] = (1, 2, 4)
    up_channels: tuple[int, ...] = (128, 128, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.pillar_channels >= 1, f"pillar_channels: got {self.pillar_channels}; expected 1 or more"
        )

    def _check_grid(self) -> None:
        super()._check_grid()
        self.require(
            self.grid[2] == 1, f"voxel_size: the grid has {self.grid[2]} cells along z; a pillar has one"
        )

    @property
    def feature_stride(self) -> int:
        """A pillar is a cell of the map."""
        return 1

    @property
    def bev_input_channels(self) -> int:
        """Channels of the map of pillars."""
        return self.pillar_channels

    @classmethod
    def nuscenes(cls) -> PointPillarsConfig:
        """Ten classes, five point features, six heads (OpenPCDet's CBGS model)."""
        return cls(
            class_names=tuple(anchor.name for anchor in NUSCENES_ANCHORS),
            point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
            voxel_size=(0.2, 0.2, 8.0),
            max_points=20,
            max_voxels=(30000, 30000),
            point_features=5,
            velocity=True,
            up_strides=(0.5, 1, 2),
            head="multi",
            head_groups=NUSCENES_GROUPS,
            loss_weights=NUSCENES_WEIGHTS,
            post=PostProcess(0.1, 0.2, 1000, 83, per_class=True, total_max=500),
        )


class Pillars(NamedTuple):
    """Features of occupied columns.

    Args:
        features: (V, C).
        coords: (V, 4) int32 rows batch, z = 0, y, x.
    """

    features: Tensor
    coords: Tensor


class PillarLayer(nn.Module):
    """Linear layer, normalisation over the stored slots, ReLU.

    Padded slots take part in the normalisation and in the maximum with zeros as input, as the published
    weights were trained.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = SparseNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in) rows to (N, C_out)."""
        return F.relu(self.norm(self.linear(x)))


class PillarFeatures(nn.Module):
    """Points of a column to one feature vector: offsets to their mean and to its centre, a layer, a maximum.

    Args:
        config: see `PointPillarsConfig`.
    """

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__()
        self.config = config
        self.pfn_layers = nn.ModuleList([PillarLayer(config.point_features + 6, config.pillar_channels)])

    @full_precision
    def forward(self, points: Tensor, offsets: Tensor) -> Pillars:
        """Pillars of stacked points (N, F) with offsets (B + 1,)."""
        if self.config.voxels == "dynamic":
            return self._dynamic(points, offsets)
        c = self.config
        limit = c.max_voxels[0 if self.training else 1]
        found = voxelize(points, c.voxel_size, c.point_range, c.max_points, limit, offsets=offsets)
        slots = found.voxels
        count = found.num_points.to(slots.dtype)[:, None]
        mean = slots[..., :3].sum(1) / count.clamp(min=1)
        used = torch.arange(slots.shape[1], device=slots.device) < found.num_points[:, None]
        rows = self._augmented(slots, mean[:, None], self._centres(found.coords, slots)[:, None])
        rows = rows * used[..., None]
        features = self.pfn_layers[0](rows.flatten(0, 1)).view(*rows.shape[:2], c.pillar_channels)
        return Pillars(features.amax(1), found.coords)

    def _dynamic(self, points: Tensor, offsets: Tensor) -> Pillars:
        """The same without caps and without padded slots."""
        c = self.config
        coords, row, _ = dynamic_voxelize(points, c.voxel_size, c.point_range, offsets=offsets)
        inside = (row >= 0).nonzero()[:, 0]
        points, row = points[inside], row[inside].long()
        mean = scatter(points[:, :3], row, len(coords), "mean")
        rows = self._augmented(points, mean[row], self._centres(coords, points)[row])
        return Pillars(scatter(self.pfn_layers[0](rows), row, len(coords), "max"), coords)

    def _augmented(self, points: Tensor, mean: Tensor, centre: Tensor) -> Tensor:
        xyz = points[..., :3]
        return torch.cat((points, xyz - mean, xyz - centre), -1)

    def _centres(self, coords: Tensor, like: Tensor) -> Tensor:
        size = like.new_tensor(self.config.voxel_size)
        return (coords[:, [3, 2, 1]].to(like.dtype) + 0.5) * size + like.new_tensor(
            self.config.point_range[:3]
        )


def scatter_pillars(pillars: Pillars, grid: Sequence[int], batch_size: int) -> Tensor:
    """Map (B, C, ny, nx) of pillars, zero where there is none.

    Example:
        >>> pillars = Pillars(torch.ones(1, 2), torch.tensor([[0, 0, 1, 0]], dtype=torch.int32))
        >>> scatter_pillars(pillars, (1, 2), 1)[0, 0].tolist()
        [[0.0], [1.0]]
    """
    nx, ny = grid[0], grid[1]
    b, _, y, x = pillars.coords.long().unbind(1)
    flat = pillars.features.new_zeros(batch_size * ny * nx, pillars.features.shape[1])
    flat = flat.index_copy(0, (b * ny + y) * nx + x, pillars.features)
    return flat.view(batch_size, ny, nx, -1).permute(0, 3, 1, 2).contiguous()


class PointPillars(Detector):
    """PointPillars; see `Detector` for what goes in and out.

    Args:
        config: see `PointPillarsConfig`.

    Raises:
        ValueError: as `Second`.
        TypeError: no tensors.

    Example:
        >>> sum(p.numel() for p in PointPillars().parameters())
        4834888
    """

    config: PointPillarsConfig

    def __init__(self, config: PointPillarsConfig | None = None) -> None:
        c = config or PointPillarsConfig()
        super().__init__(c)
        self.vfe = PillarFeatures(c)
        self.backbone_2d = make_bev_backbone(c)
        self.dense_head = make_anchor_head(c, self.backbone_2d.out_channels)

    def encode(self, points: Tensor, batch_size: int) -> Pillars:
        """Pillar features of points (N, 1 + F)."""
        pillars: Pillars = self.vfe(points[:, 1:], frame_offsets(points, batch_size))
        return pillars

    def bev(self, pillars: Pillars, batch_size: int) -> Tensor:
        """Bird's-eye map (B, C, ny, nx) of pillars."""
        return scatter_pillars(pillars, self.config.grid, batch_size)

    def dense(self, bev: Tensor) -> AnchorOutputs | MultiOutputs:
        """The dense half: raw outputs of a bird's-eye map (B, C, H, W)."""
        outputs: AnchorOutputs | MultiOutputs = self.dense_head(self.backbone_2d(bev))
        return outputs

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses, see `AnchorHead.losses`."""
        frames = len(gt_boxes)
        outputs = self.dense(self.bev(self.encode(points, frames), frames))
        losses: dict[str, Tensor] = self.dense_head.losses(outputs, gt_boxes)
        return losses

    def find(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Detections."""
        pillars = self.encode(points, batch_size)
        outputs = self.dense(self.bev(pillars, batch_size))
        found = self.dense_head.detect(outputs, self.config.post)
        return without_empty(found, torch.bincount(pillars.coords[:, 0], minlength=batch_size))


def build_pointpillars(dataset: str = "kitti", **overrides: Any) -> PointPillars:
    """Build PointPillars.

    Args:
        dataset: "kitti" or "nuscenes".
        overrides: fields of `PointPillarsConfig`.

    Raises:
        ValueError: an unknown data set or field, or a configuration that does not fit together.
    """
    bases = {"kitti": PointPillarsConfig(), "nuscenes": PointPillarsConfig.nuscenes()}
    return PointPillars(configure("build_pointpillars", bases, dataset, overrides))
