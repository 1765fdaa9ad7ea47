"""The egocentric rival: points learn from a perspective image of their own before they become voxels.

Point-level fusion in the manner of MVF (arXiv 1910.06528) with bilinear look-up (arXiv 2007.10323), reduced to
what a comparison needs: each view is one image over psi and theta (or z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.lidar.models import PVRCNN
from tenfold.lidar.models.detector import frame_offsets
from tenfold.lidar.models.layers import RowNorm
from tenfold.lidar.models.second import VoxelStages
from tenfold.ops import bilinear_sample, dynamic_voxelize, pad, scatter
from tenfold.sparse import SparseTensor
from xview3d.view import PerspectiveTransform, View

__all__ = ["PointFusion", "add_mvf"]


class PerspectiveImage(nn.Module):
    """Points of a view, an image over its second and third local axis, and back to the points.

    Args:
        view: with its range written out.
        in_channels: columns of a local point.
        channels: of the image.
        cell: of the image, second and third local axis.
    """

    def __init__(self, view: View, in_channels: int, channels: int, cell: tuple[float, float]) -> None:
        super().__init__()
        self.view = view
        low, high = view.bounds[:3], view.bounds[3:]
        self.cell = (high[0] - low[0], *cell)
        self.size = tuple(max(1, round((high[k] - low[k]) / self.cell[k])) for k in (2, 1))
        self.rows = nn.Sequential(nn.Linear(in_channels, channels, bias=False), RowNorm(channels), nn.ReLU())
        self.tower = nn.Sequential(*(layer for _ in range(2) for layer in _convolution(channels)))

    def forward(self, local: Tensor, batch_size: int) -> Tensor:
        """(N, C) for local points (N, 1 + F), batch index first."""
        offsets = frame_offsets(local, batch_size)
        own = local[:, 1:]
        coords, row, _ = dynamic_voxelize(own.detach(), self.cell, self.view.bounds, offsets=offsets)
        inside = row >= 0
        kept = inside.nonzero()[:, 0]
        pooled = scatter(self.rows(own[kept]), row[kept].long(), len(coords), "max")
        image = pooled.new_zeros(batch_size * self.size[0] * self.size[1], pooled.shape[1])
        b, third, second, _ = coords.long().unbind(1)
        image = image.index_copy(0, (b * self.size[0] + third) * self.size[1] + second, pooled)
        image = self.tower(image.view(batch_size, *self.size, -1).permute(0, 3, 1, 2))
        uv = (own[:, 1:3] - own.new_tensor(self.view.bounds[1:3])) / own.new_tensor(self.cell[1:]) - 0.5
        padded, lengths = pad(uv.detach(), offsets)
        valid = torch.arange(padded.shape[1], device=local.device) < lengths[:, None]
        found = bilinear_sample(image, padded, valid)[valid]
        return torch.where(inside[:, None], found, 0.0)


def _convolution(channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),
        nn.ReLU(),
    )


class PointFusion(nn.Module):
    """What `add_mvf` adds to a detector's class."""

    def voxels(self, points: Tensor, batch_size: int) -> SparseTensor:
        """Voxel means of points that carry what their views have found."""
        own: Any = self
        parts = [
            image(local, batch_size) for image, local in zip(own.images, own.perspective(points), strict=True)
        ]
        found: SparseTensor = super().voxels(torch.cat((points, *parts), 1), batch_size)  # type: ignore[misc]
        return found


@cache
def _with_images(base: Any) -> Any:
    return type(f"MVF{base.__name__}", (PointFusion, base), {"__doc__": f"`{base.__name__}` with `add_mvf`."})


def add_mvf(
    detector: nn.Module,
    views: Sequence[View] = (View(),),
    *,
    channels: int = 16,
    cell: tuple[float, float] = (0.02, 0.02),
) -> nn.Module:
    """Fuse perspective images into the points of a detector before its voxels: a baseline for `add_xview`.

    The first sparse layer becomes wider and starts anew; everything else keeps the detector's weights (copies).

    Args:
        detector: `Second` or `PartA2` of `tenfold.lidar`.
        views: see `View`; one image each.
        channels: that a view adds to a point.
        cell: of the images, second and third local axis.

    Raises:
        ValueError: another detector.

    Example:
        >>> from tenfold.lidar import build_detector
        >>> model = add_mvf(build_detector("second"))
        >>> model.backbone_3d.conv_input[0].in_channels
        20
    """
    if not isinstance(detector, VoxelStages) or isinstance(detector, PVRCNN):
        raise ValueError(
            f"add_mvf: detector: got {type(detector).__name__}; expected Second or PartA2 of tenfold.lidar"
        )
    config: Any = detector.config
    resolved = [view.resolved(config.point_range) for view in views]
    wide = replace(config, point_features=config.point_features + channels * len(resolved))
    base: Any = type(detector)
    model: Any = _with_images(base)(wide)
    own, theirs = model.state_dict(), detector.state_dict()
    model.load_state_dict({k: v for k, v in theirs.items() if own[k].shape == v.shape}, strict=False)
    model.config = config  # the points that come in have the features they had
    model.perspective = PerspectiveTransform(resolved)
    model.images = nn.ModuleList(
        PerspectiveImage(view, config.point_features, channels, cell) for view in resolved
    )
    result: nn.Module = model.train(detector.training)
    return result
