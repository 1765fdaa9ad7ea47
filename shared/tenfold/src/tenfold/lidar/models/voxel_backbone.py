"""From points to sparse 3D features: voxel means and the two encoders of SECOND."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.lidar.models.layers import RowNorm
from tenfold.ops import Voxels, dynamic_voxelize, scatter, voxelize
from tenfold.sparse import SparseConv3d, SparseModule, SparseSequential, SparseTensor, SubMConv3d

NORM_EPS, NORM_MOMENTUM = 1e-3, 0.01
Widths = tuple[int, int, int, int]


class SparseNorm(RowNorm):
    """`RowNorm` with the constants of sparse and bird's-eye layers."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


class MeanVoxelFeatures(nn.Module):
    """Voxelisation; the feature of a voxel is the mean of its points. No parameters.

    Args:
        voxel_size: x, y, z, metres.
        point_range: x, y, z of the lower corner, then of the upper, metres.
        max_points: stored points of a voxel.
        max_voxels: per frame, in training and in evaluation.
        mode: "hard" keeps to the two caps, in the order of the points; "dynamic" takes every point.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_range: Sequence[float],
        max_points: int = 5,
        max_voxels: tuple[int, int] = (16000, 40000),
        *,
        mode: str = "hard",
    ) -> None:
        super().__init__()
        self.mode = mode
        self.voxel_size = tuple(voxel_size)
        self.point_range = tuple(point_range)
        self.max_points = max_points
        self.max_voxels = max_voxels

    def forward(self, points: Tensor, offsets: Tensor) -> Voxels:
        """Voxelise stacked points (N, F) with offsets (B + 1,); see `tenfold.ops.voxelize`."""
        if self.mode == "dynamic":
            return self._dynamic(points, offsets)
        limit = self.max_voxels[0 if self.training else 1]
        return voxelize(
            points, self.voxel_size, self.point_range, self.max_points, limit, offsets=offsets, mean=True
        )

    def _dynamic(self, points: Tensor, offsets: Tensor) -> Voxels:
        coords, row, counts = dynamic_voxelize(points, self.voxel_size, self.point_range, offsets=offsets)
        outside = (row < 0).sum()
        dropped = torch.stack((outside, outside.new_zeros(()), outside.new_zeros(())))
        return Voxels(scatter(points, row, len(coords), "mean"), coords, counts, row, dropped)


class SparseFeatures(NamedTuple):
    """What an encoder returns: its output, and the features at strides 1, 2, 4 and 8 for two-stage models.

    ``sites`` holds the features that a decoder brings back to the input sites, if there is one.
    """

    out: SparseTensor
    stages: tuple[SparseTensor, SparseTensor, SparseTensor, SparseTensor]
    sites: SparseTensor | None = None


def sparse_layer(
    c_in: int, c_out: int, key: str | None = None, *, layer: SparseModule | None = None
) -> SparseSequential:
    """A sparse layer (by default submanifold, 3 x 3 x 3, no bias), normalisation, ReLU."""
    convolution = layer or SubMConv3d(c_in, c_out, 3, bias=False, key=key)
    return SparseSequential(convolution, SparseNorm(c_out), nn.ReLU())


def _strided(c_in: int, c_out: int, key: str, padding: tuple[int, int, int]) -> SparseSequential:
    layer = SparseConv3d(c_in, c_out, 3, stride=2, padding=padding, bias=False, key=key)
    return sparse_layer(c_in, c_out, layer=layer)


class SparseBasicBlock(SparseModule):
    """Two submanifold layers and the identity.

    Args:
        channels: in and out.
        key: rulebook name.
        bias: redundant before a normalisation, but published weights of the residual encoder hold it.
    """

    def __init__(self, channels: int, key: str, *, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = SubMConv3d(channels, channels, 3, bias=bias, key=key)
        self.bn1 = SparseNorm(channels)
        self.conv2 = SubMConv3d(channels, channels, 3, bias=bias, key=key)
        self.bn2 = SparseNorm(channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve; sites stay."""
        inner: SparseTensor = self.conv1(x)
        inner = self.conv2(inner.replace(F.relu(self.bn1(inner.features))))
        return inner.replace(F.relu(self.bn2(inner.features) + x.features))


class _Encoder8x(nn.Module):
    """The shape that both encoders share: an input layer, four stages at strides 1, 2, 4, 8, an output layer.

    Submodules carry the names under which published weights hold them.
    """

    conv2: SparseSequential
    conv3: SparseSequential
    conv4: SparseSequential
    conv_out: SparseSequential | None
    paddings = ((1, 1, 1), (1, 1, 1), (0, 1, 1))

    def __init__(self, in_channels: int, channels: Widths, blocks: Widths, out_channels: int) -> None:
        super().__init__()
        first = channels[0]
        self.conv_input = sparse_layer(in_channels, first, "subm1")
        self.conv1 = SparseSequential(*(self._block(first, "1") for _ in range(blocks[0])))
        for stage in (2, 3, 4):
            c_in, c_out = channels[stage - 2], channels[stage - 1]
            down = _strided(c_in, c_out, f"spconv{stage}", self.paddings[stage - 2])
            rest = (self._block(c_out, str(stage)) for _ in range(blocks[stage - 1]))
            self.add_module(f"conv{stage}", SparseSequential(down, *rest))
        last = SparseConv3d(
            channels[3], out_channels, (3, 1, 1), stride=(2, 1, 1), bias=False, key="spconv_down2"
        )
        self.conv_out = sparse_layer(channels[3], out_channels, layer=last)
        self.channels = channels
        self.out_channels = out_channels

    def _block(self, channels: int, stage: str) -> SparseModule:
        raise NotImplementedError

    def stages(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor, SparseTensor, SparseTensor]:
        """Features at strides 1, 2, 4 and 8."""
        x1 = self.conv1(self.conv_input(x))
        x2 = self.conv2(x1)
        x3 = self.conv3(x2)
        return x1, x2, x3, self.conv4(x3)

    def forward(self, x: SparseTensor) -> SparseFeatures:
        """Encode voxel features on a grid of (Z + 1, Y, X) cells."""
        assert self.conv_out is not None
        stages = self.stages(x)
        return SparseFeatures(self.conv_out(stages[3]), stages)


class VoxelBackBone8x(_Encoder8x):
    """The encoder of SECOND (Yan et al. 2018) as in OpenPCDet; 711,872 parameters for 4 features.

    Args:
        in_channels: features of a voxel.
        channels: widths of the four stages.
        blocks: submanifold layers of each stage (after the strided one in stages 2 to 4).
        out_channels: width of the output layer, whose z extent is half of stage 4's.
    """

    def __init__(
        self,
        in_channels: int = 4,
        channels: Widths = (16, 32, 64, 64),
        blocks: Widths = (1, 2, 2, 2),
        out_channels: int = 128,
    ) -> None:
        super().__init__(in_channels, channels, blocks, out_channels)

    def _block(self, channels: int, stage: str) -> SparseModule:
        return sparse_layer(channels, channels, f"subm{stage}")


class VoxelResBackBone8x(_Encoder8x):
    """The encoder with residual blocks that OpenPCDet uses on nuScenes.

    Args:
        in_channels: features of a voxel.
        channels: widths of the four stages.
        blocks: residual blocks of each stage.
        out_channels: width of the output layer.
    """

    def __init__(
        self,
        in_channels: int = 5,
        channels: Widths = (16, 32, 64, 128),
        blocks: Widths = (2, 2, 2, 2),
        out_channels: int = 128,
    ) -> None:
        super().__init__(in_channels, channels, blocks, out_channels)

    def _block(self, channels: int, stage: str) -> SparseModule:
        return SparseBasicBlock(channels, f"res{stage}")


def encoder_depths(cells: int) -> tuple[int, int, int, int, int]:
    """Extents along z of stages 1 to 4 and of the output, for a voxel grid of that many cells along z.

    Example:
        >>> encoder_depths(40)
        (41, 21, 11, 5, 2)
    """
    first = cells + 1
    second = (first - 1) // 2 + 1
    third = (second - 1) // 2 + 1
    fourth = (third - 3) // 2 + 1
    return first, second, third, fourth, (fourth - 3) // 2 + 1


def height_compression(x: SparseTensor) -> Tensor:
    """Bird's-eye map (B, C * Z, Y, X) with channel c * Z + z.

    Example:
        >>> import torch
        >>> x = SparseTensor(torch.ones(1, 3), torch.tensor([[0, 1, 0, 0]], dtype=torch.int32), (2, 1, 1), 1)
        >>> height_compression(x).flatten().tolist()
        [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """
    return x.dense().flatten(1, 2)


def site_centres(
    x: SparseTensor, voxel_size: Sequence[float], point_range: Sequence[float], stride: int
) -> Tensor:
    """Centres (V, 3) x, y, z, metres, of the cells of sparse features at a stride of the voxel grid.

    Example:
        >>> import torch
        >>> x = SparseTensor(torch.ones(1, 3), torch.tensor([[0, 1, 0, 2]], dtype=torch.int32), (2, 1, 4), 1)
        >>> site_centres(x, (0.5, 0.5, 1.0), (0, 0, -3, 9, 9, 9), 2).tolist()
        [[2.5, 0.5, 0.0]]
    """
    cells = x.coords[:, [3, 2, 1]].to(x.features.dtype)
    size = x.features.new_tensor(list(voxel_size)) * stride
    return (cells + 0.5) * size + x.features.new_tensor(list(point_range[:3]))
