"""Small pieces of the networks: point-wise layers, proposals, RoI pooling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sparsepoint.config import SparsePointConfig
from tenfold.ops import farthest_point_sample, gather_rows, roi_grid_pool3d
from tenfold.pointnet import PointNet2Backbone, SALevel

__all__ = [
    "LearnableProposals3d",
    "PointLayers",
    "RoIGridPool3d",
    "make_backbone",
    "point_layers",
    "scene_box",
]

_LEAST_SIZE = 0.05
_FIRST_SIZE = 0.3


def make_backbone(config: SparsePointConfig) -> PointNet2Backbone:
    """PointNet++ of the settings: VoteNet's, or a small one with 256 seeds and 64 channels."""
    if config.backbone == "votenet":
        return PointNet2Backbone.votenet(config.features, config.width)
    levels = [
        SALevel(256, (0.3,), (16,), ((32, 32, 64),)),
        SALevel(128, (0.6,), (16,), ((64, 64, 96),)),
        SALevel(64, (1.2,), (16,), ((96, 96, 128),)),
    ]
    return PointNet2Backbone(config.features, levels, [[64, 64], [96, 96]], normalize_xyz=True)


class PointLayers(nn.Sequential):
    """[Linear with bias, BatchNorm, ReLU] for each layer on (B, P, C): a 1x1 convolution, channels last."""

    def __init__(self, channels: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            layers += [nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU()]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B, P, C_in) to (B, P, C_out)."""
        rows: Tensor = super().forward(x.flatten(0, 1))  # type: ignore[no-untyped-call]
        back: Tensor = rows.unflatten(0, x.shape[:2])
        return back


def point_layers(*channels: int) -> PointLayers:
    """`PointLayers` of these channels."""
    return PointLayers(channels)


def scene_box(points: Tensor) -> tuple[Tensor, Tensor]:
    """Lower corner and extents (B, 3) of the middle 90 % of points (B, P, 3) along each axis; no gradient.

    Percentiles and not extremes: one stray point must not move every proposal.
    """
    share = points.new_tensor([0.05, 0.95])
    low, high = torch.quantile(points.detach(), share, dim=1).unbind(0)
    return low, high - low


class LearnableProposals3d(nn.Module):
    """K learned boxes in units of the scene, and one embedding of what all objects have in common.

    Source: SparsePoint (2021), abstract; the mapping into the scene follows traces in SRDet's code.

    Args:
        number: of proposals.
        dim: of the embedding.
        foreground: "shared" by all proposals, or "per_proposal".
        boxes: "learned", "frozen" as initialised, or "fps": centres by farthest point sampling of the scene.
        init: "sobol" or "grid" centres spread over the scene, "scene": every box is the whole scene.

    Example:
        >>> make = LearnableProposals3d(8, 16)
        >>> boxes, feats = make(torch.rand(2, 100, 3))
        >>> boxes.shape, feats.shape, bool((feats[0] == feats[0, :1]).all())
        (torch.Size([2, 8, 7]), torch.Size([2, 8, 16]), True)
    """

    def __init__(
        self,
        number: int,
        dim: int,
        *,
        foreground: Literal["shared", "per_proposal"] = "shared",
        boxes: Literal["learned", "frozen", "fps"] = "learned",
        init: Literal["sobol", "grid", "scene"] = "sobol",
    ) -> None:
        super().__init__()
        self.kind = boxes
        self.boxes_norm = nn.Parameter(_first_boxes(number, init), requires_grad=boxes == "learned")
        self.foreground = nn.Parameter(torch.randn(number if foreground == "per_proposal" else 1, dim))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, K, 7) in the scenes of points (B, P, 3), metres, and features (B, K, dim)."""
        low, extent = scene_box(points)
        number = len(self.boxes_norm)
        centres = low[:, None] + self.boxes_norm[:, :3] * extent[:, None]
        if self.kind == "fps":
            rows = farthest_point_sample(points.detach(), number)
            # With fewer points than proposals the sampler has no more to give and repeats the first: they share it.
            centres = gather_rows(points.detach(), rows.clamp(min=0))
        size = (self.boxes_norm[:, 3:] * extent[:, None]).clamp(min=_LEAST_SIZE)
        boxes = torch.cat((centres, size, torch.zeros_like(size[..., :1])), -1)
        feats = self.foreground.expand(number, -1)
        return boxes, feats.expand(len(points), -1, -1)


def _first_boxes(number: int, init: str) -> Tensor:
    if init == "scene":
        return torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0, 1.0]).repeat(number, 1)
    if init == "sobol":
        # The first point of the sequence is the origin: a corner of the scene.
        centres = torch.quasirandom.SobolEngine(3).draw(number + 1)[1:].float()
    else:
        side = 1
        while side**3 < number:
            side += 1
        line = (torch.arange(side) + 0.5) / side
        centres = torch.cartesian_prod(line, line, line)[:number]
    return torch.cat((centres, torch.full((number, 3), _FIRST_SIZE)), 1)


class RoIGridPool3d(nn.Module):
    """Max-pool the features of the points of every box over the cells of one or more grids in its frame.

    A point inside (strictly in x and y) belongs to the cell ``floor((l + d / 2) / (d / s))``; a cell uses its first
    95 points and is exactly 0 without any. The gradient flows to the features alone.

    Source: Part-A2's RoI-aware pooling as SRDet uses it; `tenfold.ops.roi_grid_pool3d`.

    Args:
        grids: side of each grid.
        max_points: of a cell.

    Example:
        >>> pool = RoIGridPool3d((1, 3))
        >>> one, three = pool(torch.tensor([[[0.5, 0.5, 0.5, 1, 1, 1, 0]]]), torch.rand(1, 50, 3), torch.rand(1, 50, 4))
        >>> one.shape, three.shape
        (torch.Size([1, 1, 1, 4]), torch.Size([1, 1, 27, 4]))
    """

    def __init__(self, grids: Sequence[int] = (1, 3, 5), max_points: int = 95) -> None:
        super().__init__()
        self.grids, self.max_points = tuple(grids), max_points

    def forward(self, boxes: Tensor, points: Tensor, feats: Tensor) -> list[Tensor]:
        """(B, K, s^3, C) of each grid; boxes (B, K, 7), points (B, P, 3), feats (B, P, C); cells x-major, then y, z."""
        rois = boxes.detach()
        return [
            roi_grid_pool3d(rois, points, feats, side, max_points=self.max_points, margin=0.0).flatten(2, 4)
            for side in self.grids
        ]
