"""Feature propagation: carry features from a coarse level back to a finer one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.ops import interpolation_weights, three_interpolate, three_nn
from tenfold.pointnet._mlp import SharedMLP

__all__ = ["FeaturePropagation"]


class FeaturePropagation(nn.Module):
    """Inverse-distance interpolation from the three nearest coarse points, then a shared MLP.

    The MLP's input is [interpolated features, the fine points' own features]. The keys ``mlp.0.weight`` ...
    are OpenPCDet's.

    Source: Qi et al., "PointNet++" (2017), section 3.4.

    Args:
        in_channels: of the coarse and the fine features together.
        mlp: output channels of the layers.
        bn: normalise inside the MLP.
        eps: of the normalisation.
        momentum: of the normalisation.

    Example:
        >>> import torch
        >>> from tenfold.pointnet import FeaturePropagation
        >>> fine, coarse = torch.rand(2, 100, 3), torch.rand(2, 20, 3)
        >>> fp = FeaturePropagation(64 + 8, [32, 32])
        >>> fp(fine, coarse, torch.rand(2, 100, 8), torch.rand(2, 20, 64)).shape
        torch.Size([2, 100, 32])
    """

    def __init__(
        self,
        in_channels: int,
        mlp: Sequence[int],
        *,
        bn: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.mlp = SharedMLP([in_channels, *mlp], bn=bn, eps=eps, momentum=momentum)
        self.out_channels = mlp[-1]

    def forward(
        self,
        xyz: Tensor,
        known_xyz: Tensor | None,
        feats: Tensor | None,
        known_feats: Tensor,
        *,
        lengths: Tensor | None = None,
        known_lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        known_offsets: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N, C) or (sum N, C) features of the fine points.

        Args:
            xyz: (B, N, 3) or (sum N, 3) fine points.
            known_xyz: (B, M, 3) or (sum M, 3) coarse points; None spreads the one feature row of each padded
                element, as a group of all points gives it.
            feats: (B, N, C1) or (sum N, C1) of the fine points, or None.
            known_feats: (B, M, C2) or (sum M, C2) of the coarse points.
            lengths: (B,) used fine points.
            known_lengths: (B,) used coarse points.
            offsets: (B + 1,) of stacked fine points.
            known_offsets: (B + 1,) of stacked coarse points.
        """
        if known_xyz is None:
            spread = known_feats.expand(*xyz.shape[:-1], known_feats.shape[-1])
        else:
            dist, idx = three_nn(
                xyz,
                known_xyz,
                lengths=lengths,
                known_lengths=known_lengths,
                offsets=offsets,
                known_offsets=known_offsets,
            )
            spread = three_interpolate(known_feats, idx, interpolation_weights(dist, idx))
        result: Tensor = self.mlp(spread if feats is None else torch.cat([spread, feats], dim=-1))
        return result
