"""Networks that look at the points of one view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.lidar.models.detector import frame_offsets
from tenfold.lidar.models.unet import UNetV2
from tenfold.lidar.models.voxel_backbone import (
    MeanVoxelFeatures,
    SparseFeatures,
    VoxelBackBone8x,
    encoder_depths,
)
from tenfold.ops import Voxels
from tenfold.pointnet import PointNet2Backbone
from tenfold.sparse import Sites, SparseTensor
from xview3d.view import View

__all__ = ["ENCODERS", "ViewEncoder"]

#: Name -> what `ViewEncoder` builds.
ENCODERS = ("voxel", "unet", "points")
_STRIDE = 8
# Cells to each side of an output cell that the encoder looks at along psi, rounded up to its stride: 37 for the
# encoder, and 53 more for the decoder.
_REACH = {"voxel": 40, "unet": 96}


class ViewEncoder(nn.Module):
    """Points of a view to features of its cells, or of the points themselves.

    Args:
        kind: "voxel" (`VoxelBackBone8x`), "unet" (`UNetV2`), or "points" (`PointNet2Backbone`, which takes the local
            coordinates as if they were x, y, z).
        view: with its range written out, see `View.resolved`.
        in_channels: local coordinates and features of a point.
        gate: multiply what is found by a learnt number that starts at 0, so that training starts from the detector
            without views.
        point_scale: factors of the local coordinates that "points" sees.
        backbone: further arguments of the network, such as ``channels``.

    Raises:
        ValueError: an unknown kind, a range that is still "auto", or too few cells for the encoder.

    Example:
        >>> encoder = ViewEncoder("voxel", View(range=(0, -1.6, 0, 82, 1.6, 3.19)))
        >>> sum(p.numel() for p in encoder.parameters())
        711872
    """

    def __init__(
        self,
        kind: str,
        view: View,
        in_channels: int = 4,
        *,
        gate: bool = False,
        point_scale: Sequence[float] = (1.0, 1.0, 1.0),
        **backbone: Any,
    ) -> None:
        super().__init__()
        if kind not in ENCODERS:
            raise ValueError(f"ViewEncoder: kind: got {kind!r}; expected one of {', '.join(ENCODERS)}")
        self.kind, self.view = kind, view
        self.point_scale = tuple(point_scale)
        self.gate = nn.Parameter(torch.zeros(())) if gate else None
        if kind == "points":
            self.backbone: nn.Module = PointNet2Backbone(in_channels - 3, **backbone)
            return
        if encoder_depths(view.grid[2])[4] < 1:
            raise ValueError(
                f"ViewEncoder: view: has {view.grid[2]} cells along {view.axes[2]}; the encoder needs 24 or more"
            )
        self.voxel_features = MeanVoxelFeatures(view.voxel, view.bounds, view.max_points, view.max_voxels)
        network = VoxelBackBone8x if kind == "voxel" else UNetV2
        self.backbone = network(in_channels, **backbone)

    def forward(self, points: Tensor, batch_size: int) -> Any:
        """Features of local points.

        Args:
            points: (N, 1 + F), batch index, r, psi, theta and features; for "points" (B, N, F).
            batch_size: B.

        Returns:
            `SparseFeatures` on the view's grid; for "points" (B, N, C).
        """
        if self.kind == "points":
            scale = points.new_tensor(self.point_scale)
            more = points[..., 3:].contiguous() if points.shape[-1] > 3 else None
            found: Tensor = self.backbone((points[..., :3] * scale).contiguous(), more).feats
            return self._gated(found)
        return self.encode_voxels(self.voxels(points, batch_size))

    def voxelise(self, points: Tensor, batch_size: int) -> Voxels:
        """Cells of points (N, 1 + F); their ``dropped`` counts say what ranges and caps left out."""
        found: Voxels = self.voxel_features(points[:, 1:], frame_offsets(points, batch_size))
        return found

    def voxels(self, points: Tensor, batch_size: int) -> SparseTensor:
        """Mean of the points of each cell, on the encoder's grid."""
        found = self.voxelise(points, batch_size)
        return SparseTensor(found.voxels, found.coords, self.view.spatial_shape, batch_size)

    def encode_voxels(self, voxels: SparseTensor) -> SparseFeatures:
        """Features of cells."""
        around = self.view.psi_padding == "circular"
        reach = _REACH[self.kind]
        found: SparseFeatures = self.backbone(_with_margins(voxels, reach) if around else voxels)
        if around:
            cells = voxels.spatial_shape[1]
            found = SparseFeatures(
                _without_margins(found.out, reach, cells, _STRIDE),
                _stages([_without_margins(x, reach, cells, 2**k) for k, x in enumerate(found.stages)]),
                None if found.sites is None else _without_margins(found.sites, reach, cells, 1),
            )
        if self.gate is None:
            return found
        return SparseFeatures(
            found.out.replace(self._gated(found.out.features)),
            _stages([x.replace(self._gated(x.features)) for x in found.stages]),
            None if found.sites is None else found.sites.replace(self._gated(found.sites.features)),
        )

    def _gated(self, features: Tensor) -> Tensor:
        return features if self.gate is None else features * self.gate


def _stages(parts: list[SparseTensor]) -> Any:
    return tuple(parts)


def _with_margins(x: SparseTensor, reach: int) -> SparseTensor:
    """Cells next to the seam repeated beyond it, as often as the reach goes around."""
    theta, psi, r = x.spatial_shape
    place = x.coords[:, 2]
    rows, shifts = [torch.arange(len(place), device=place.device)], [torch.zeros_like(place)]
    turns = -(-reach // psi)
    for turn in (*range(-turns, 0), *range(1, turns + 1)):
        moved = place + turn * psi
        near = ((moved >= -reach) & (moved < psi + reach)).nonzero()[:, 0]
        rows.append(near)
        shifts.append(torch.full_like(place[near], turn * psi))
    row, shift = torch.cat(rows), torch.cat(shifts)
    coords = x.coords[row].clone()
    coords[:, 2] += shift + reach
    return SparseTensor(x.features[row], coords, (theta, psi + 2 * reach, r), x.batch_size)


def _without_margins(x: SparseTensor, reach: int, cells: int, stride: int) -> SparseTensor:
    """The circle itself, out of features whose grid has margins on both sides."""
    low, number = reach // stride, cells // stride
    theta, _, r = x.spatial_shape
    place = x.coords[:, 2]
    rows = ((place >= low) & (place < low + number)).nonzero()[:, 0]
    coords = x.coords[rows].clone()
    coords[:, 2] -= low
    sites = Sites(coords, (theta, number, r), x.batch_size, unique=x.sites.unique)
    return x.on(x.features[rows], sites)
