"""A tiny bird's-eye detector: two channels, four convolutions, an anchor-free head. For experiments on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from denfi.grid import BevGrid
from denfi.model.free_head import AnchorFreeHead
from tenfold.lidar.models.config import DetectorConfig
from tenfold.lidar.models.detector import Detector
from tenfold.lidar.models.voxel_backbone import NORM_EPS
from tenfold.lidar.postprocess import PostProcess

__all__ = ["TinyBackbone", "TinyBev", "TinyConfig", "occupancy_map"]


@dataclass(frozen=True)
class TinyConfig(DetectorConfig):
    """Settings of `TinyBev`; the fields of `DetectorConfig`, and

    Args:
        input_cell: side of a cell of the input map, metres; features have cells twice as large.
        channels: width.
        layers: 3x3 convolutions behind the first.

    Example:
        >>> TinyConfig().bev_grid
        BevGrid(x_min=-9.6, y_min=-9.6, cell=0.4, height=48, width=48)
    """

    class_names: tuple[str, ...] = ("Car",)
    point_range: tuple[float, ...] = (-9.6, -9.6, -1.0, 9.6, 9.6, 1.0)
    point_features: int = 3
    post: PostProcess = field(default_factory=lambda: PostProcess(0.05, 0.1, 256, 50))
    input_cell: float = 0.2
    channels: int = 24
    layers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis in range(2):
            cells = (self.point_range[axis + 3] - self.point_range[axis]) / self.input_cell
            self.require(
                cells > 3 and abs(cells - round(cells)) < 1e-3 and round(cells) % 2 == 0,
                f"input_cell: the range along {'xy'[axis]} has {cells:.4g} cells; expected an even number from 4 on",
            )

    #: Channels of the input map, and cells of `grid` in one of its cells, as the LiDAR detectors name them.
    bev_input_channels = 2
    feature_stride = 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Cells of the input map along x and y, and one along z."""
        x0, y0, _, x1, y1, _ = self.point_range
        return round((x1 - x0) / self.input_cell), round((y1 - y0) / self.input_cell), 1

    @property
    def bev_grid(self) -> BevGrid:
        """Of the features."""
        x0, y0 = self.point_range[:2]
        return BevGrid(x0, y0, 2 * self.input_cell, self.grid[1] // 2, self.grid[0] // 2)


def occupancy_map(points: Tensor, batch_size: int, config: TinyConfig) -> Tensor:
    """``log(1 + points)`` and occupancy of every cell.

    Args:
        points: (N, 1 + F) batch index, x, y, z and further features.
        batch_size: frames.
        config: range and cell.

    Returns:
        (B, 2, H, W).

    Example:
        >>> cloud = torch.tensor([[0.0, -9.5, -9.5, 0.0], [0.0, -9.5, -9.5, 0.0]])
        >>> occupancy_map(cloud, 1, TinyConfig())[0, :, 0, 0]
        tensor([1.0986, 1.0000])
    """
    low = points.new_tensor(config.point_range[:2])
    high = points.new_tensor(config.point_range[3:5])
    inside = ((points[:, 1:3] >= low) & (points[:, 1:3] < high)).all(1)
    points = points[inside]
    width, height, _ = config.grid
    column, row = ((points[:, 1:3] - low) / config.input_cell).floor().long().unbind(1)
    # Rounding can lift a point just below the border into the next cell.
    column, row = column.clamp(max=width - 1), row.clamp(max=height - 1)
    flat = (points[:, 0].long() * height + row) * width + column
    counts = torch.bincount(flat, minlength=batch_size * height * width).view(batch_size, height, width)
    return torch.stack((torch.log1p(counts.to(points.dtype)), (counts > 0).to(points.dtype)), 1)


class TinyBackbone(nn.Sequential):
    """A 3x3 convolution of stride 2 and some of stride 1, each with normalisation and ReLU.

    Example:
        >>> sum(p.numel() for p in TinyBackbone(24, 3).parameters())
        16176
    """

    def __init__(self, channels: int, layers: int) -> None:
        parts: list[nn.Module] = []
        for number in range(layers + 1):
            parts += [
                nn.Conv2d(channels if number else 2, channels, 3, 1 if number else 2, 1, bias=False),
                nn.BatchNorm2d(channels, NORM_EPS, 0.1),
                nn.ReLU(),
            ]
        super().__init__(*parts)
        self.out_channels = channels


class TinyBev(Detector):
    """Points to an occupancy map, a small backbone, an anchor-free head; boxes lie on the ground plane.

    Args:
        config: see `TinyConfig`.

    Example:
        >>> model = TinyBev().eval()
        >>> model({"points": torch.zeros(0, 4), "batch_size": 1})[0]["boxes"].shape
        torch.Size([0, 7])
    """

    config: TinyConfig
    dense_head: nn.Module

    def __init__(self, config: TinyConfig | None = None) -> None:
        c = config or TinyConfig()
        super().__init__(c)
        self.backbone_2d = TinyBackbone(c.channels, c.layers)
        self.dense_head = AnchorFreeHead(c.channels, len(c.class_names), c.bev_grid, "flat")

    def bev(self, points: Tensor, batch_size: int) -> Tensor:
        """Input map (B, 2, H, W) of points (N, 1 + F)."""
        return occupancy_map(points, batch_size, self.config)

    def dense(self, bev: Tensor) -> Any:
        """Raw outputs of a map."""
        return self.dense_head(self.backbone_2d(bev))

    def train_step(self, points: Tensor, gt_boxes: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of the head."""
        outputs = self.dense(self.bev(points, len(gt_boxes)))
        losses: dict[str, Tensor] = self.dense_head.losses(outputs, gt_boxes)  # type: ignore[operator]
        return losses

    def find(self, points: Tensor, batch_size: int, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Detections."""
        outputs = self.dense(self.bev(points, batch_size))
        found: list[dict[str, Tensor]] = self.dense_head.detect(outputs, self.config.post)  # type: ignore[operator]
        return found
