"""PointNet++ encoder and decoder from a list of levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tenfold.pointnet._abstraction import SetAbstraction
from tenfold.pointnet._propagation import FeaturePropagation

__all__ = ["PointFeatures", "PointNet2Backbone", "SALevel"]


@dataclass(frozen=True)
class SALevel:
    """One set abstraction of a backbone.

    Args:
        npoint: centres.
        radii: metres, one or more.
        nsamples: neighbours for each radius.
        mlps: output channels of the layers for each radius.
    """

    npoint: int
    radii: tuple[float, ...]
    nsamples: tuple[int, ...]
    mlps: tuple[tuple[int, ...], ...]


class PointFeatures(NamedTuple):
    """What `PointNet2Backbone` returns.

    Args:
        xyz: (B, M, 3) points of the finest level that the decoder reaches.
        feats: (B, M, C).
        idx: (B, M) int64 row of each among the input points.
    """

    xyz: Tensor
    feats: Tensor
    idx: Tensor


class PointNet2Backbone(nn.Module):
    """Set abstractions from fine to coarse, then feature propagations from coarse to fine.

    With as many propagations as abstractions every input point gets features; with fewer, the centres of a
    level do. The keys ``SA_modules.0.mlps.0.0.weight`` and ``FP_modules.0.mlp.0.weight`` are those of
    OpenPCDet's ``PointNet2MSG``, whose checkpoints load as they are.

    Args:
        in_channels: features per point besides the coordinates.
        levels: the abstractions, finest first.
        fp_mlps: output channels of the propagations, finest first; at most one for each level.
        normalize_xyz: divide relative positions by the radius (VoteNet).
        bn_eps: of the normalisations.
        bn_momentum: of the normalisations.

    Example:
        >>> import torch
        >>> from tenfold.pointnet import PointNet2Backbone
        >>> net = PointNet2Backbone.pointrcnn()
        >>> sum(p.numel() for p in net.parameters())
        3007632
        >>> sum(p.numel() for p in PointNet2Backbone.votenet().parameters())
        641920
    """

    def __init__(
        self,
        in_channels: int,
        levels: Sequence[SALevel],
        fp_mlps: Sequence[Sequence[int]] = (),
        *,
        normalize_xyz: bool = False,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if not levels or len(fp_mlps) > len(levels):
            raise ValueError(
                f"PointNet2Backbone: fp_mlps: got {len(fp_mlps)} with {len(levels)} levels; "
                "expected at least one level and at most one propagation for each"
            )
        widths = [in_channels]
        self.SA_modules = nn.ModuleList()
        for level in levels:
            self.SA_modules.append(
                SetAbstraction(
                    widths[-1],
                    level.mlps,
                    npoint=level.npoint,
                    radii=level.radii,
                    nsamples=level.nsamples,
                    normalize_xyz=normalize_xyz,
                    eps=bn_eps,
                    momentum=bn_momentum,
                )
            )
            widths.append(sum(layers[-1] for layers in level.mlps))
        self.FP_modules = nn.ModuleList()
        for i, layers in enumerate(fp_mlps):
            skip = widths[len(levels) - len(fp_mlps) + i]
            coarse = fp_mlps[i + 1][-1] if i + 1 < len(fp_mlps) else widths[-1]
            self.FP_modules.append(
                FeaturePropagation(coarse + skip, layers, eps=bn_eps, momentum=bn_momentum)
            )
        self.in_channels = in_channels
        self.out_channels = fp_mlps[0][-1] if fp_mlps else widths[-1]

    @classmethod
    def pointrcnn(cls, in_channels: int = 1) -> PointNet2Backbone:
        """The multi-scale backbone of PointRCNN: 128 features for each of 16,384 points.

        Source: Shi et al., "PointRCNN" (2019); OpenPCDet's pointrcnn.yaml. 3,007,632 parameters with
        intensity.
        """
        levels = [
            SALevel(4096, (0.1, 0.5), (16, 32), ((16, 16, 32), (32, 32, 64))),
            SALevel(1024, (0.5, 1.0), (16, 32), ((64, 64, 128), (64, 96, 128))),
            SALevel(256, (1.0, 2.0), (16, 32), ((128, 196, 256), (128, 196, 256))),
            SALevel(64, (2.0, 4.0), (16, 32), ((256, 256, 512), (256, 384, 512))),
        ]
        return cls(in_channels, levels, [[128, 128], [256, 256], [512, 512], [512, 512]])

    @classmethod
    def votenet(cls, in_channels: int = 1, width: float = 1.0) -> PointNet2Backbone:
        """The single-scale backbone of VoteNet: 256 features for each of 1,024 seeds.

        Source: Qi et al., "Deep Hough Voting" (2019), appendix. 641,920 parameters with the height above the
        floor as its one feature.

        Args:
            in_channels: features per point besides the coordinates.
            width: multiplies every number of channels.
        """

        def channels(*numbers: int) -> tuple[int, ...]:
            return tuple(max(1, round(width * number)) for number in numbers)

        levels = [
            SALevel(2048, (0.2,), (64,), (channels(64, 64, 128),)),
            SALevel(1024, (0.4,), (32,), (channels(128, 128, 256),)),
            SALevel(512, (0.8,), (16,), (channels(128, 128, 256),)),
            SALevel(256, (1.2,), (16,), (channels(128, 128, 256),)),
        ]
        return cls(in_channels, levels, [channels(256, 256), channels(256, 256)], normalize_xyz=True)

    def forward(
        self, xyz: Tensor, feats: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> PointFeatures:
        """Return features of a padded batch.

        Args:
            xyz: (B, N, 3) metres.
            feats: (B, N, C), or None without features.
            lengths: (B,) used points of each element; an element with any should have at least one.
        """
        points, features, rows = [xyz], [feats], [_all_rows(xyz)]
        for number, sa in enumerate(self.SA_modules):
            used = lengths if number == 0 else None
            centers, pooled, chosen = sa(points[-1], features[-1], lengths=used)
            points.append(centers)
            features.append(pooled)
            rows.append(rows[-1].gather(1, chosen.clamp(min=0)))
        last = len(self.SA_modules)
        first = last - len(self.FP_modules)
        for level in range(last - 1, first - 1, -1):
            fp = self.FP_modules[level - first]
            used = lengths if level == 0 else None
            features[level] = fp(
                points[level], points[level + 1], features[level], features[level + 1], lengths=used
            )
        result = features[first]
        assert result is not None  # the loop above has written it, or the abstraction did
        return PointFeatures(points[first], result, rows[first])


def _all_rows(xyz: Tensor) -> Tensor:
    return torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[0], -1)
