"""Set abstraction: sample centres, group their neighbours, apply a shared MLP, pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.ops import ball_query_multi, farthest_point_sample, gather_rows, group, group_max, pad
from tenfold.pointnet._mlp import SharedMLP

__all__ = ["AbstractedPoints", "SetAbstraction"]

_WIDE = 16


class AbstractedPoints(NamedTuple):
    """What `SetAbstraction` returns.

    Args:
        xyz: (B, M, 3) or (sum M, 3) centres.
        feats: (B, M, C) or (sum M, C).
        idx: (B, M) or (sum M,) int64 row of each centre among the input points; None where the centres were
            given.
    """

    xyz: Tensor
    feats: Tensor
    idx: Tensor | None


class SetAbstraction(nn.Module):
    """PointNet++ set abstraction with one radius (SSG), several (MSG), or one group of all points.

    Each neighbour's MLP input is [its position relative to the centre, its features]; groups are ball queries
    (the first ``nsample`` points in index order, strictly within the radius), and a group without any point
    is all zeros before the MLP. The outputs of several radii are concatenated. Points come padded or stacked,
    channels last. The keys ``mlps.0.0.weight`` ... are OpenPCDet's, whose checkpoints load as they are.

    Source: Qi et al., "PointNet++" (2017), section 3.

    Args:
        in_channels: features per point besides the coordinates; 0 for none.
        mlps: output channels of the layers, one list for each radius.
        npoint: centres per element; None where the call hands them in, and for a group of all points.
        radii: metres, one for each MLP; None makes one group of all points, with absolute coordinates.
        nsamples: neighbours per group, one number for each radius.
        use_xyz: False leaves the relative position out.
        normalize_xyz: divide the relative position by the radius (VoteNet).
        pool: "max" or "avg" over the neighbours.
        bn: normalise inside the MLPs.
        eps: of the normalisation.
        momentum: of the normalisation.

    Raises:
        ValueError: lists of different lengths, or no input channel at all.

    Example:
        >>> import torch
        >>> from tenfold.pointnet import SetAbstraction
        >>> sa = SetAbstraction(1, [[16, 32], [16, 48]], npoint=64, radii=[0.2, 0.4], nsamples=[8, 16])
        >>> xyz, feats, idx = sa(torch.rand(2, 500, 3), torch.rand(2, 500, 1))
        >>> xyz.shape, feats.shape, idx.shape
        (torch.Size([2, 64, 3]), torch.Size([2, 64, 80]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        in_channels: int,
        mlps: Sequence[Sequence[int]],
        *,
        npoint: int | None = None,
        radii: Sequence[float] | None = None,
        nsamples: Sequence[int] | None = None,
        use_xyz: bool = True,
        normalize_xyz: bool = False,
        pool: Literal["max", "avg"] = "max",
        bn: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        whole = radii is None
        self.radii = [] if radii is None else list(radii)
        self.nsamples = [] if nsamples is None else list(nsamples)
        expected = 1 if whole else len(self.radii)
        if len(mlps) != expected or len(self.nsamples) != len(self.radii):
            raise ValueError(
                f"SetAbstraction: mlps: got {len(mlps)} with {len(self.radii)} radii and "
                f"{len(self.nsamples)} nsamples; expected one of each, or one MLP without radii"
            )
        if whole and npoint is not None:
            raise ValueError("SetAbstraction: npoint: got a number without radii; expected None")
        if pool not in ("max", "avg"):
            raise ValueError(f"SetAbstraction: pool: got {pool!r}; expected 'max' or 'avg'")
        width = in_channels + (3 if use_xyz else 0)
        if in_channels < 0 or width < 1:
            raise ValueError(
                f"SetAbstraction: in_channels: got {in_channels}; expected a number >= 0, "
                "and > 0 without use_xyz"
            )
        self.in_channels, self.npoint, self.pool = in_channels, npoint, pool
        self.use_xyz, self.normalize_xyz = use_xyz, normalize_xyz
        self.mlps = nn.ModuleList(
            SharedMLP([width, *layers], bn=bn, eps=eps, momentum=momentum) for layers in mlps
        )
        self.out_channels = sum(layers[-1] for layers in mlps)

    def extra_repr(self) -> str:
        """Summary for ``print``."""
        if not self.radii:
            return "one group of all points"
        return f"npoint={self.npoint}, radii={self.radii}, nsamples={self.nsamples}"

    def forward(
        self,
        xyz: Tensor,
        feats: Tensor | None = None,
        *,
        centers: Tensor | None = None,
        idx: Tensor | None = None,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        center_lengths: Tensor | None = None,
        center_offsets: Tensor | None = None,
    ) -> AbstractedPoints:
        """Abstract a batch of clouds.

        Args:
            xyz: (B, N, 3) padded or (sum N, 3) stacked, metres.
            feats: (B, N, C) or (sum N, C); None without features.
            centers: (B, M, 3) or (sum M, 3) to use instead of sampled ones.
            idx: (B, M) or (sum M,) rows to use as centres instead of sampled ones.
            lengths: (B,) used points of each padded element.
            offsets: (B + 1,) of stacked points; None for a single element.
            center_lengths: (B,) used centres, with ``centers``.
            center_offsets: (B + 1,) of stacked centres, with ``centers`` or ``idx``.
        """
        self._check(xyz, feats)
        if not self.radii:
            return self._whole(xyz, feats, lengths, offsets)
        if centers is None:
            centers, idx, center_offsets = self._sample(xyz, idx, lengths, offsets, center_offsets)
        tables = ball_query_multi(
            xyz.detach(),
            centers.detach(),
            self.radii,
            self.nsamples,
            lengths=lengths,
            center_lengths=center_lengths,
            offsets=offsets,
            center_offsets=center_offsets,
        )
        pooled = []
        for mlp, radius, (table, count) in zip(self.mlps, self.radii, tables, strict=True):
            first, *_, last = mlp.children()
            scale = radius if self.normalize_xyz else 1.0
            # A layer that is parametrised or wrapped is more than its weight.
            if type(first) is nn.Linear and feats is not None and self._splits(feats, table):
                begun, grouped = True, self._begin(first, xyz, feats, centers, table, count, scale)
            else:
                begun, grouped = False, self._group(xyz, feats, centers, table, count, scale)
            # The largest of what a ReLU lets through is what it lets through of the largest.
            late = self.pool == "max" and isinstance(last, nn.ReLU)
            value = self._pool(mlp(grouped, begun=begun, activate=not late))
            pooled.append(last(value) if late else value)
        return AbstractedPoints(centers, torch.cat(pooled, dim=-1), idx)

    def _splits(self, feats: Tensor, table: Tensor) -> bool:
        """Whether the first layer sees the features before they are grouped: many channels, more slots than points."""
        return self.use_xyz and self.in_channels >= _WIDE and table.numel() > feats[..., 0].numel()

    def _group(
        self, xyz: Tensor, feats: Tensor | None, centers: Tensor, table: Tensor, count: Tensor, scale: float
    ) -> Tensor:
        """(..., k, 3 + C) input of the MLP: positions relative to the centre, then features."""
        rows = self._rows(xyz, feats)
        grouped = group(rows, table, count, center=centers.to(rows.dtype) if self.use_xyz else None)
        if self.use_xyz and scale != 1.0:
            grouped[..., :3] /= scale
        return grouped

    def _begin(
        self,
        first: nn.Linear,
        xyz: Tensor,
        feats: Tensor,
        centers: Tensor,
        table: Tensor,
        count: Tensor,
        scale: float,
    ) -> Tensor:
        """(..., k, C_1) what the first layer makes of it: W [x_j - c, f_j] is W_x (x_j - c) + W_f f_j.

        The second term is one for each point and not for each slot of a group.
        """
        place, rest = first.weight.split([3, self.in_channels], dim=1)
        near = group(xyz.to(feats.dtype), table, count, center=centers.to(feats.dtype))
        made = group(F.linear(feats, rest), table, count)
        rows = torch.addmm(made.flatten(0, -2), near.flatten(0, -2), (place / scale).T)
        return (rows if first.bias is None else rows + first.bias).view(made.shape)

    def _check(self, xyz: Tensor, feats: Tensor | None) -> None:
        got = 0 if feats is None else feats.shape[-1]
        if got != self.in_channels:
            raise ValueError(
                f"SetAbstraction: feats: got {got} channels; expected in_channels = {self.in_channels}"
            )
        if feats is not None and feats.shape[:-1] != xyz.shape[:-1]:
            raise ValueError(
                f"SetAbstraction: feats: got shape {tuple(feats.shape)}; expected "
                f"{(*xyz.shape[:-1], self.in_channels)}, one row for each point"
            )

    def _rows(self, xyz: Tensor, feats: Tensor | None) -> Tensor:
        """What groups are gathered from: [xyz, features]."""
        if feats is None:
            return xyz
        return torch.cat([xyz.to(feats.dtype), feats], dim=-1) if self.use_xyz else feats

    def _sample(
        self,
        xyz: Tensor,
        idx: Tensor | None,
        lengths: Tensor | None,
        offsets: Tensor | None,
        center_offsets: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if idx is None:
            if self.npoint is None:
                raise ValueError(
                    "SetAbstraction: centers: got none and npoint is None; expected one of the two"
                )
            idx = farthest_point_sample(xyz.detach(), self.npoint, lengths=lengths, offsets=offsets)
            if offsets is not None:
                center_offsets = torch.arange(len(offsets), device=offsets.device) * self.npoint
        return gather_rows(xyz, idx), idx, center_offsets

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool == "avg":
            return x.mean(dim=-2)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x.amax(dim=-2)
        # As `max`, whose indices along an inner axis torch is slow to find.
        groups = x.reshape(-1, *x.shape[-2:])
        slots = torch.arange(x.shape[-2], device=x.device).expand(len(groups), 1, -1)
        return group_max(groups, slots)[0].view(*x.shape[:-2], x.shape[-1])

    def _whole(
        self, xyz: Tensor, feats: Tensor | None, lengths: Tensor | None, offsets: Tensor | None
    ) -> AbstractedPoints:
        """One group of all points; its centre is the origin."""
        rows = self._rows(xyz, feats)
        stacked = xyz.dim() == 2
        if stacked and offsets is not None:
            rows, lengths = pad(rows, offsets)
        elif stacked:
            rows = rows[None]
        x = self.mlps[0](rows)
        if lengths is not None:
            used = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
            if self.pool == "max":
                x = torch.where(used, x, float("-inf")).max(dim=1).values
                x = torch.where(lengths[:, None] > 0, x, 0.0)
            else:
                x = torch.where(used, x, 0.0).sum(dim=1) / lengths.clamp(min=1)[:, None]
        else:
            x = self._pool(x)
        origin = xyz.new_zeros(len(x), 3)
        return (
            AbstractedPoints(origin, x, None)
            if stacked
            else AbstractedPoints(origin[:, None], x[:, None], None)
        )
