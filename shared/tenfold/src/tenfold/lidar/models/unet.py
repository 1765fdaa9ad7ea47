"""The encoder-decoder of Part-A2: features at every input site, and the encoder's output for anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.lidar.models.voxel_backbone import (
    SparseBasicBlock,
    SparseFeatures,
    VoxelBackBone8x,
    Widths,
    sparse_layer,
)
from tenfold.sparse import SparseInverseConv3d, SparseSequential, SparseTensor


class UNetV2(VoxelBackBone8x):
    """`VoxelBackBone8x` with a decoder back to the input sites (Shi et al. 2020, Part-A2).

    From level 4 to level 1: a residual block on the encoder's features of the level, joined with what comes
    from below; a submanifold layer halves the channels; the joined features, neighbouring channels added, go
    past it; an inverse layer leads to the finer level's sites.

    Args:
        in_channels: features of a voxel.
        channels: widths of the four stages.
        blocks: submanifold layers of each stage (after the strided one in stages 2 to 4).
        out_channels: width of the output layer; None leaves it out, with the anchors that need it.
    """

    def __init__(
        self,
        in_channels: int = 4,
        channels: Widths = (16, 32, 64, 64),
        blocks: Widths = (1, 2, 2, 2),
        out_channels: int | None = 128,
    ) -> None:
        super().__init__(in_channels, channels, blocks, out_channels or channels[3])
        if out_channels is None:
            self.conv_out = None
        finer = (channels[0], *channels[:3])
        for level in (4, 3, 2, 1):
            own, key = channels[level - 1], f"subm{level}"
            self.add_module(f"conv_up_t{level}", SparseBasicBlock(own, key, bias=False))
            self.add_module(f"conv_up_m{level}", sparse_layer(2 * own, own, key))
            if level > 1:
                back = SparseInverseConv3d(own, finer[level - 1], 3, key=f"spconv{level}", bias=False)
                self.add_module(f"inv_conv{level}", sparse_layer(own, finer[level - 1], layer=back))
        self.conv5 = SparseSequential(sparse_layer(channels[0], channels[0], "subm1"))
        self.site_channels = channels[0]

    def forward(self, x: SparseTensor) -> SparseFeatures:
        """Encode and decode voxel features on a grid of (Z + 1, Y, X) cells."""
        stages = self.stages(x)
        bottom = stages[3]
        for level in (4, 3, 2, 1):
            up = self.conv5 if level == 1 else getattr(self, f"inv_conv{level}")
            bottom = up(self._merge(level, stages[level - 1], bottom))
        out = stages[3] if self.conv_out is None else self.conv_out(stages[3])
        return SparseFeatures(out, stages, bottom)

    def _merge(self, level: int, lateral: SparseTensor, bottom: SparseTensor) -> SparseTensor:
        own: SparseTensor = getattr(self, f"conv_up_t{level}")(lateral)
        joined = own.replace(torch.cat((bottom.features, own.features), 1))
        merged: SparseTensor = getattr(self, f"conv_up_m{level}")(joined)
        return merged.replace(merged.features + pair_sums(joined.features))


def pair_sums(x: Tensor) -> Tensor:
    """Sums (N, C / 2) of neighbouring channels of (N, C).

    Example:
        >>> pair_sums(torch.tensor([[1.0, 2, 3, 4]])).tolist()
        [[3.0, 7.0]]
    """
    return x.view(len(x), x.shape[1] // 2, 2).sum(2)


__all__ = ["UNetV2", "pair_sums"]
