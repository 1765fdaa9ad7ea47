"""The names of `spconv.pytorch` on `tenfold.sparse`: tensors, layers, the point-to-voxel generator.

What differs from the peer:

- It trains on a CPU, and repeated or out-of-range indices are an error (the peer accepts both silently).
- Output sites of strided layers come in lexicographic order (b, z, y, x), not first come.
- `SparseMaxPool3d` returns the true maximum; the peer returns 0 where all inputs are negative.
- Rulebooks are shared by layers of one geometry without an ``indice_key``; a key used for two geometries is an
  error. ``algo`` and other tuning arguments are accepted and ignored; ``groups`` other than 1 is not available.
- Weights are stored as spconv 2 stores them; `tenfold.sparse.load_spconv_state_dict` reads 1.x layouts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tenfold import ops, sparse
from tenfold.sparse import SparseModule, SparseTensor, load_spconv_state_dict

__all__ = [
    "PointToVoxel",
    "SparseConv3d",
    "SparseConvTensor",
    "SparseInverseConv3d",
    "SparseMaxPool3d",
    "SparseModule",
    "SparseSequential",
    "SubMConv3d",
    "ToDense",
    "load_spconv_state_dict",
]

_Size = int | Sequence[int]


class SparseConvTensor(SparseTensor):
    """Features on sites, with the peer's argument order and attribute names.

    Args:
        features: (V, C).
        indices: (V, 4) int32 rows (batch, z, y, x).
        spatial_shape: (Z, Y, X).
        batch_size: number of batch elements.
        tuning: ``grid``, ``voxel_num``, ``benchmark`` and others of the peer, ignored.

    Example:
        >>> x = SparseConvTensor(torch.ones(1, 2), torch.tensor([[0, 0, 1, 2]]), [1, 2, 4], 1)
        >>> x.replace_feature(x.features * 3).dense().sum().item()
        6.0
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        *_: Any,
        **tuning: Any,
    ) -> None:
        super().__init__(features, indices, spatial_shape, batch_size)

    @property
    def indices(self) -> Tensor:
        """(V, 4) int32 rows (batch, z, y, x)."""
        return self.coords

    @property
    def indice_dict(self) -> dict[str, Any]:
        """Rulebooks by ``indice_key``."""
        return dict(self.cache)

    def replace_feature(self, feature: Tensor) -> SparseConvTensor:
        """Other features on the same sites."""
        return self.replace(feature)

    def dense(self, channels_first: bool = True) -> Tensor:
        """(B, C, Z, Y, X), or (B, Z, Y, X, C)."""
        full = super().dense()
        return full if channels_first else full.permute(0, 2, 3, 4, 1).contiguous()


def _one_group(op: str, groups: int) -> None:
    if groups != 1:
        raise NotImplementedError(f"{op}: groups: got {groups}; only 1 is available")


class SubMConv3d(sparse.SubMConv3d):
    """Submanifold convolution with the peer's arguments; padding follows from the kernel and is ignored.

    Example:
        >>> x = SparseConvTensor(torch.ones(2, 3), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]), [4, 4, 4], 1)
        >>> SubMConv3d(3, 8, 3, padding=1, bias=False, indice_key="subm1")(x).features.shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        **tuning: Any,
    ) -> None:
        _one_group("SubMConv3d", groups)
        steps = [stride] if isinstance(stride, int) else list(stride)
        if any(s != 1 for s in steps):
            raise ValueError(
                f"SubMConv3d: stride: got {stride}; output sites are the input sites, expected 1"
            )
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation, bias=bias, key=indice_key)


class SparseConv3d(sparse.SparseConv3d):
    """Strided convolution with the peer's arguments.

    Example:
        >>> x = SparseConvTensor(torch.ones(1, 3), torch.tensor([[0, 2, 2, 2]]), [4, 4, 4], 1)
        >>> SparseConv3d(3, 8, 3, stride=2, padding=1)(x).spatial_shape
        (2, 2, 2)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        **tuning: Any,
    ) -> None:
        _one_group("SparseConv3d", groups)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            key=indice_key,
        )


class SparseInverseConv3d(sparse.SparseInverseConv3d):
    """Back along the strided layer of the same ``indice_key``.

    Example:
        >>> x = SparseConvTensor(torch.ones(1, 3), torch.tensor([[0, 2, 2, 2]]), [4, 4, 4], 1)
        >>> down = SparseConv3d(3, 8, 3, stride=2, padding=1, indice_key="a")
        >>> SparseInverseConv3d(8, 3, 3, "a")(down(x)).indices.tolist()
        [[0, 2, 2, 2]]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        indice_key: str,
        bias: bool = True,
        **tuning: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, key=indice_key, bias=bias)


class SparseMaxPool3d(sparse.SparseMaxPool3d):
    """True maximum over the present inputs of each window.

    Example:
        >>> x = SparseConvTensor(-torch.ones(1, 1), torch.tensor([[0, 0, 0, 0]]), [2, 2, 2], 1)
        >>> SparseMaxPool3d(2, 2)(x).features
        tensor([[-1.]])
    """

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        dilation: _Size = 1,
        indice_key: str | None = None,
        **tuning: Any,
    ) -> None:
        if any(d != 1 for d in ([dilation] if isinstance(dilation, int) else dilation)):
            raise NotImplementedError(f"SparseMaxPool3d: dilation: got {dilation}; only 1 is available")
        super().__init__(kernel_size, stride=stride, padding=padding, key=indice_key)


class ToDense(sparse.ToDense):
    """(B, C, Z, Y, X) tensor with zeros at empty cells."""


class SparseSequential(sparse.SparseSequential):
    """Modules in a row: sparse ones take the tensor, others its features; behind `ToDense` all take the tensor.

    Example:
        >>> net = SparseSequential(SubMConv3d(1, 2, 3), torch.nn.ReLU(), ToDense(), torch.nn.Flatten())
        >>> net(SparseConvTensor(torch.ones(1, 1), torch.tensor([[0, 0, 0, 0]]), [1, 1, 2], 1)).shape
        torch.Size([1, 4])
    """

    def forward(self, x: Any) -> Any:
        """Apply the modules in order."""
        for module in self:
            on_features = isinstance(x, SparseTensor) and not isinstance(module, SparseModule)
            x = x.replace(module(x.features)) if on_features else module(x)
        return x


class PointToVoxel:
    """Hard voxelisation with the call of ``spconv.pytorch.utils.PointToVoxel``; bit-equal to its CPU generator.

    Args:
        vsize_xyz: cell size along x, y, z; metres.
        coors_range_xyz: lower corner, then upper corner.
        num_point_features: columns of the points, checked.
        max_num_voxels: voxels of a cloud; later points of voxels that exist are still added.
        max_num_points_per_voxel: stored points of a voxel.
        device: ignored; the points' device decides.

    Example:
        >>> gen = PointToVoxel([1, 1, 1], [0, 0, 0, 4, 4, 4], 3, 10, 2)
        >>> voxels, indices, counts = gen(torch.tensor([[0.5, 1.5, 2.5]]))
        >>> indices, counts
        (tensor([[2, 1, 0]], dtype=torch.int32), tensor([1], dtype=torch.int32))
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
        device: Any = None,
    ) -> None:
        self.vsize_xyz = list(vsize_xyz)
        self.coors_range_xyz = list(coors_range_xyz)
        self.num_point_features = num_point_features
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel

    def __call__(self, pc: Tensor, empty_mean: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return voxels (V, P, C), indices (V, 3) int32 z, y, x, and points per voxel (V,) int32."""
        voxels, indices, counts, _ = self.generate_voxel_with_id(pc, empty_mean)
        return voxels, indices, counts

    def generate_voxel_with_id(self, pc: Tensor, empty_mean: bool = False) -> tuple[Tensor, ...]:
        """As a call, and the voxel (N,) int64 of every point, -1 outside or where no voxel was left."""
        if empty_mean:
            raise NotImplementedError("PointToVoxel: empty_mean: only False is available")
        if pc.dim() != 2 or pc.shape[1] != self.num_point_features:
            raise ValueError(
                f"PointToVoxel: pc: got shape {tuple(pc.shape)}; expected (N, {self.num_point_features})"
            )
        grid = ops.voxelize(
            pc, self.vsize_xyz, self.coors_range_xyz, self.max_num_points_per_voxel, self.max_num_voxels
        )
        return grid.voxels, grid.coords[:, 1:], grid.num_points, grid.point2voxel.to(torch.int64)
