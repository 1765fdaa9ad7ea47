"""The names of the `pointnet2` extensions on `tenfold.ops`: channel-first features, padded batches.

It follows the ``pointnet2_batch`` layout of OpenPCDet, from which VoteNet's and Wijmans' extensions differ in names
of parameters only. Replace ``pointnet2_utils`` and ``pointnet2_modules`` by this module.

Kept from the peer:

- Indices are int32, and a group without any neighbour holds index 0, which the caller cannot tell from a hit.
- Fewer than three known points leave (inf, 0) behind in `three_nn`; their interpolation weight is 0.
- Parameters are 1x1 convolutions without bias with the peer's keys (``mlps.0.0.weight`` ...).

What differs:

- `furthest_point_sample` breaks ties by the lowest index on every device, and does not skip points near the origin
  as VoteNet's kernel does (|p|^2 <= 1e-3).
- The modules leave the lists of channels that they are given unchanged; the peer adds 3 to the first entry.
- `three_interpolate` has a gradient for the weights too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tenfold import ops

__all__ = [
    "GroupAll",
    "PointnetFPModule",
    "PointnetSAModule",
    "PointnetSAModuleMSG",
    "QueryAndGroup",
    "ball_query",
    "farthest_point_sample",
    "furthest_point_sample",
    "gather_operation",
    "grouping_operation",
    "three_interpolate",
    "three_nn",
]


def _rows(features: Tensor) -> Tensor:
    """(B, C, N) as (B, N, C)."""
    return features.transpose(1, 2)


def furthest_point_sample(xyz: Tensor, npoint: int) -> Tensor:
    """Rows (B, npoint) int32 of points (B, N, 3), farthest first from row 0 on.

    Example:
        >>> import torch
        >>> from tenfold.compat.pointnet2 import furthest_point_sample
        >>> furthest_point_sample(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [9, 0, 0]]]), 2)
        tensor([[0, 2]], dtype=torch.int32)
    """
    return ops.farthest_point_sample(xyz.detach(), npoint).int()


farthest_point_sample = furthest_point_sample


def gather_operation(features: Tensor, idx: Tensor) -> Tensor:
    """Columns (B, C, M) of features (B, C, N) by index (B, M)."""
    return ops.gather_rows(_rows(features), idx).transpose(1, 2).contiguous()


def three_nn(unknown: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (not squared) (B, N, 3) and int32 indices of the three nearest known points (B, M, 3)."""
    dist, idx = ops.three_nn(unknown, known)
    return dist, idx.clamp(min=0)


def three_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums (B, C, N) of features (B, C, M) by index and weight (B, N, 3)."""
    return ops.three_interpolate(_rows(features), idx, weight).transpose(1, 2).contiguous()


def ball_query(radius: float, nsample: int, xyz: Tensor, new_xyz: Tensor) -> Tensor:
    """The first nsample rows (B, M, nsample) int32 of xyz (B, N, 3) strictly within a radius of new_xyz.

    The first hit fills the rest; all zeros where there is none.
    """
    return ops.ball_query(xyz.detach(), new_xyz.detach(), radius, nsample)[0]


def grouping_operation(features: Tensor, idx: Tensor) -> Tensor:
    """Columns (B, C, M, k) of features (B, C, N) by index (B, M, k)."""
    return ops.group(_rows(features), idx).permute(0, 3, 1, 2).contiguous()


class QueryAndGroup(nn.Module):
    """Relative positions and features (B, 3 + C, M, nsample) of the neighbours of each centre.

    Args:
        radius: metres.
        nsample: neighbours.
        use_xyz: put the relative positions in front.
        normalize_xyz: divide them by the radius (VoteNet).
        ret_grouped_xyz: return them too (VoteNet).
    """

    def __init__(
        self,
        radius: float,
        nsample: int,
        use_xyz: bool = True,
        *,
        normalize_xyz: bool = False,
        ret_grouped_xyz: bool = False,
    ) -> None:
        super().__init__()
        self.radius, self.nsample, self.use_xyz = radius, nsample, use_xyz
        self.normalize_xyz, self.ret_grouped_xyz = normalize_xyz, ret_grouped_xyz

    def forward(
        self, xyz: Tensor, new_xyz: Tensor, features: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Group xyz (B, N, 3) and features (B, C, N) around new_xyz (B, M, 3)."""
        idx = ball_query(self.radius, self.nsample, xyz, new_xyz)
        grouped_xyz = ops.group(xyz, idx, center=new_xyz).permute(0, 3, 1, 2).contiguous()
        if self.normalize_xyz:
            grouped_xyz = grouped_xyz / self.radius
        if features is None:
            if not self.use_xyz:
                raise ValueError("QueryAndGroup: features: got none without use_xyz; expected one of the two")
            grouped = grouped_xyz
        else:
            grouped = grouping_operation(features, idx)
            grouped = torch.cat([grouped_xyz, grouped], dim=1) if self.use_xyz else grouped
        return (grouped, grouped_xyz) if self.ret_grouped_xyz else grouped


class GroupAll(nn.Module):
    """All points as one group, (B, 3 + C, 1, N), with absolute positions.

    Args:
        use_xyz: put the positions in front.
    """

    def __init__(self, use_xyz: bool = True) -> None:
        super().__init__()
        self.use_xyz = use_xyz

    def forward(self, xyz: Tensor, new_xyz: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Group xyz (B, N, 3) and features (B, C, N); new_xyz is not used."""
        grouped_xyz = xyz.transpose(1, 2).unsqueeze(2)
        if features is None:
            return grouped_xyz
        grouped = features.unsqueeze(2)
        return torch.cat([grouped_xyz, grouped], dim=1) if self.use_xyz else grouped


def _convolutions(channels: Sequence[int], bn: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(channels):
        layers.append(nn.Conv2d(c_in, c_out, kernel_size=1, bias=not bn))
        layers += [nn.BatchNorm2d(c_out), nn.ReLU()] if bn else [nn.ReLU()]
    return nn.Sequential(*layers)


class PointnetSAModuleMSG(nn.Module):
    """Set abstraction with several radii.

    Args:
        npoint: centres; None for one group of all points.
        radii: metres.
        nsamples: neighbours for each radius.
        mlps: channels of each MLP: of the features first, then of the layers.
        bn: normalise.
        use_xyz: put relative positions in front of the features.
        pool_method: "max_pool" or "avg_pool".

    Example:
        >>> import torch
        >>> from tenfold.compat.pointnet2 import PointnetSAModuleMSG
        >>> sa = PointnetSAModuleMSG(npoint=8, radii=[0.3], nsamples=[4], mlps=[[5, 16, 32]])
        >>> xyz, features = sa(torch.rand(2, 50, 3), torch.rand(2, 5, 50))
        >>> xyz.shape, features.shape
        (torch.Size([2, 8, 3]), torch.Size([2, 32, 8]))
    """

    def __init__(
        self,
        *,
        npoint: int | None,
        radii: Sequence[float | None],
        nsamples: Sequence[int | None],
        mlps: Sequence[Sequence[int]],
        bn: bool = True,
        use_xyz: bool = True,
        pool_method: str = "max_pool",
    ) -> None:
        super().__init__()
        if not len(radii) == len(nsamples) == len(mlps):
            raise ValueError(
                f"PointnetSAModuleMSG: mlps: got {len(mlps)} with {len(radii)} radii and {len(nsamples)} "
                "nsamples; expected as many of each"
            )
        if pool_method not in ("max_pool", "avg_pool"):
            raise ValueError(
                f"PointnetSAModuleMSG: pool_method: got {pool_method!r}; expected 'max_pool' or 'avg_pool'"
            )
        self.npoint, self.pool_method = npoint, pool_method
        self.groupers, self.mlps = nn.ModuleList(), nn.ModuleList()
        for radius, nsample, mlp in zip(radii, nsamples, mlps, strict=True):
            if npoint is None or radius is None or nsample is None:
                self.groupers.append(GroupAll(use_xyz))
            else:
                self.groupers.append(QueryAndGroup(radius, nsample, use_xyz))
            self.mlps.append(_convolutions([mlp[0] + (3 if use_xyz else 0), *mlp[1:]], bn))

    def forward(
        self, xyz: Tensor, features: Tensor | None = None, new_xyz: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Abstract xyz (B, N, 3) and features (B, C, N) to centres (B, M, 3) and features (B, sum C, M)."""
        if new_xyz is None and self.npoint is not None:
            idx = furthest_point_sample(xyz, self.npoint)
            new_xyz = ops.gather_rows(xyz, idx)
        pooled = []
        for grouper, mlp in zip(self.groupers, self.mlps, strict=True):
            x = mlp(grouper(xyz, new_xyz, features))
            pooled.append(x.max(dim=3).values if self.pool_method == "max_pool" else x.mean(dim=3))
        return new_xyz, torch.cat(pooled, dim=1)


class PointnetSAModule(PointnetSAModuleMSG):
    """Set abstraction with one radius, or one group of all points.

    Args:
        mlp: channels: of the features first, then of the layers.
        npoint: centres; None for one group of all points.
        radius: metres.
        nsample: neighbours.
        bn: normalise.
        use_xyz: put relative positions in front of the features.
        pool_method: "max_pool" or "avg_pool".
    """

    def __init__(
        self,
        *,
        mlp: Sequence[int],
        npoint: int | None = None,
        radius: float | None = None,
        nsample: int | None = None,
        bn: bool = True,
        use_xyz: bool = True,
        pool_method: str = "max_pool",
    ) -> None:
        super().__init__(
            npoint=npoint,
            radii=[radius],
            nsamples=[nsample],
            mlps=[mlp],
            bn=bn,
            use_xyz=use_xyz,
            pool_method=pool_method,
        )


class PointnetFPModule(nn.Module):
    """Feature propagation.

    Args:
        mlp: channels: of both levels' features together first, then of the layers.
        bn: normalise.
    """

    def __init__(self, *, mlp: Sequence[int], bn: bool = True) -> None:
        super().__init__()
        self.mlp = _convolutions(mlp, bn)

    def forward(
        self, unknown: Tensor, known: Tensor | None, unknow_feats: Tensor | None, known_feats: Tensor
    ) -> Tensor:
        """Features (B, C, n) at unknown (B, n, 3) from known (B, m, 3) with known_feats (B, C2, m)."""
        if known is None:
            spread = known_feats.expand(*known_feats.shape[:2], unknown.shape[1])
        else:
            dist, idx = ops.three_nn(unknown, known)
            spread = three_interpolate(known_feats, idx, ops.interpolation_weights(dist, idx))
        x = spread if unknow_feats is None else torch.cat([spread, unknow_feats], dim=1)
        result: Tensor = self.mlp(x.unsqueeze(-1)).squeeze(-1)
        return result
