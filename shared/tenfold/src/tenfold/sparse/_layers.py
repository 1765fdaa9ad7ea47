"""Sparse convolution layers: parameters are stored as spconv 2 stores them, (C_out, kz, ky, kx, C_in)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.ops import sparse_conv, sparse_max_pool
from tenfold.ops._checks import require
from tenfold.sparse._tensor import Geometry, Rulebook, SparseTensor, Triple, named

__all__ = [
    "SparseConv3d",
    "SparseInverseConv3d",
    "SparseMaxPool3d",
    "SparseModule",
    "SparseSequential",
    "SubMConv3d",
    "ToDense",
]


def _triple(op: str, name: str, value: int | Sequence[int], least: int) -> Triple:
    values = (value,) * 3 if isinstance(value, int) else tuple(int(v) for v in value)
    require(
        len(values) == 3 and min(values) >= least,
        f"{op}: {name}: got {value}; expected one or three integers (z, y, x) >= {least}",
    )
    return (values[0], values[1], values[2])


class SparseModule(nn.Module):
    """A module that takes and returns a `SparseTensor` (or, for `ToDense`, returns a tensor)."""


class _Convolution(SparseModule):
    """Weight, bias and their initialisation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, bias: bool, key: str | None
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.key = key
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-uniform with a = sqrt(5) and fan-in C_in * K, as torch's dense layers."""
        bound = 1.0 / math.sqrt(max(1, self.in_channels * math.prod(self.kernel_size)))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _convolve(self, x: SparseTensor, table: Tensor, *, symmetric: bool = False) -> Tensor:
        return sparse_conv(x.features, self.weight, table, self.bias, symmetric=symmetric)

    def extra_repr(self) -> str:
        """Channels, kernel and key, for ``print(module)``."""
        key = "" if self.key is None else f", key={self.key!r}"
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}{bias}{key}"


class SubMConv3d(_Convolution):
    """Submanifold convolution: output sites are the input sites.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: one or three (z, y, x); even sizes reach from -(K-1)//2 to K//2.
        dilation: one or three.
        bias: whether to add a bias.
        key: names the rulebook, so that an inverse layer or a check can refer to it; sharing needs no key.

    Raises:
        ValueError: ``key`` is used for another geometry or for other sites.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        key: str | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, _triple("SubMConv3d", "kernel_size", kernel_size, 1), bias, key
        )
        self.dilation = _triple("SubMConv3d", "dilation", dilation, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve; sites and their order stay."""
        book = named(x, self.key, x.sites.submanifold(self.kernel_size, self.dilation))
        # Sites are unique from validation level "cheap" on; below it a repeated one spoils the symmetry.
        symmetric = all(k % 2 for k in self.kernel_size) and x.sites.unique
        return x.replace(self._convolve(x, book.table, symmetric=symmetric))


class SparseConv3d(_Convolution):
    """Strided convolution: an output site is whatever the kernel reaches, in lexicographic order.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: one or three (z, y, x).
        stride: one or three.
        padding: one or three.
        dilation: one or three.
        bias: whether to add a bias.
        key: names the rulebook for `SparseInverseConv3d`.

    Raises:
        ValueError: an output extent below 1, or a key used for something else.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        key: str | None = None,
    ) -> None:
        kernel = _triple("SparseConv3d", "kernel_size", kernel_size, 1)
        super().__init__(in_channels, out_channels, kernel, bias, key)
        self.geometry: Geometry = (
            kernel,
            _triple("SparseConv3d", "stride", stride, 1),
            _triple("SparseConv3d", "padding", padding, 0),
            _triple("SparseConv3d", "dilation", dilation, 1),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve onto the reached sites."""
        book = named(x, self.key, x.sites.strided(self.geometry))
        return x.on(self._convolve(x, book.table), book.target)


class SparseInverseConv3d(_Convolution):
    """Goes back along a strided layer: output sites are exactly that layer's input sites, in their order.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: the paired layer's.
        key: the paired layer's key.
        bias: whether to add a bias.

    Raises:
        ValueError: no layer has used the key in this forward pass, its kernel differs, or the features do not
            live on its output sites.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        key: str,
        bias: bool = True,
    ) -> None:
        kernel = _triple("SparseInverseConv3d", "kernel_size", kernel_size, 1)
        super().__init__(in_channels, out_channels, kernel, bias, key)

    def _book(self, x: SparseTensor) -> Rulebook:
        book = x.cache.get(str(self.key))
        if book is None:
            known = ", ".join(map(repr, x.cache)) or "none"
            raise ValueError(f"SparseInverseConv3d: key: no layer has used {self.key!r} yet (keys: {known})")
        if book.geometry[0] != self.kernel_size:
            raise ValueError(
                f"SparseInverseConv3d: kernel_size: got {self.kernel_size}; layer {self.key!r} has {book.geometry[0]}"
            )
        if book.target is not x.sites:
            raise ValueError(
                f"SparseInverseConv3d: input: its sites are not the output sites of layer {self.key!r}"
            )
        return book

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve back onto the paired layer's input sites."""
        book = self._book(x)
        return x.on(self._convolve(x, book.inverse()), book.source)


class SparseMaxPool3d(SparseModule):
    """True maximum over the present inputs of each window.

    Args:
        kernel_size: one or three (z, y, x).
        stride: one or three; the kernel size by default.
        padding: one or three.
        key: names the rulebook.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        key: str | None = None,
    ) -> None:
        super().__init__()
        kernel = _triple("SparseMaxPool3d", "kernel_size", kernel_size, 1)
        steps = kernel if stride is None else _triple("SparseMaxPool3d", "stride", stride, 1)
        pads = _triple("SparseMaxPool3d", "padding", padding, 0)
        self.geometry: Geometry = (kernel, steps, pads, (1, 1, 1))
        self.key = key

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pool onto the reached sites."""
        book = named(x, self.key, x.sites.strided(self.geometry))
        return x.on(sparse_max_pool(x.features, book.table), book.target)


class ToDense(SparseModule):
    """(B, C, Z, Y, X) tensor with zeros at empty cells."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Densify."""
        return x.dense()


class SparseSequential(nn.Sequential, SparseModule):
    """Modules in a row; whatever is no sparse module (norms, activations) works on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the modules in order."""
        for module in self:
            x = module(x) if isinstance(module, SparseModule) else x.replace(module(x.features))
        return x
