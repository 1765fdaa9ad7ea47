"""Features on sparse sites of a 3D grid, with the rulebooks that layers build on those sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from tenfold._validation import checks_content
from tenfold.ops import rulebook_invert, rulebook_strided, rulebook_submanifold
from tenfold.ops._checks import require, require_shape, require_tensor

__all__ = ["Rulebook", "Sites", "SparseTensor"]

Triple = tuple[int, int, int]
Geometry = tuple[Triple, Triple, Triple, Triple]


class Sites:
    """The occupied cells of a grid, and every rulebook built on them so far.

    Layers that see the same sites share rulebooks without being told to.
    """

    def __init__(self, coords: Tensor, spatial_shape: Triple, batch_size: int, *, unique: bool) -> None:
        self.coords = coords
        self.unique = unique  # known to hold no site twice
        self.spatial_shape = spatial_shape
        self.batch_size = batch_size
        self._books: dict[tuple[str, Geometry], Rulebook] = {}

    def submanifold(self, kernel: Triple, dilation: Triple) -> Rulebook:
        """Rulebook whose output sites are these sites."""
        geometry = (kernel, (1, 1, 1), (0, 0, 0), dilation)
        book = self._books.get(("submanifold", geometry))
        if book is None:
            table = rulebook_submanifold(
                self.coords, self.spatial_shape, self.batch_size, kernel, dilation=dilation
            )
            book = self._books["submanifold", geometry] = Rulebook("submanifold", geometry, self, self, table)
        return book

    def strided(self, geometry: Geometry) -> Rulebook:
        """Rulebook whose output sites are all that the kernel reaches."""
        book = self._books.get(("strided", geometry))
        if book is None:
            kernel, stride, padding, dilation = geometry
            coords, table, shape = rulebook_strided(
                self.coords,
                self.spatial_shape,
                self.batch_size,
                kernel,
                stride=stride,
                padding=padding,
                dilation=dilation,
            )
            out = Sites(coords, shape, self.batch_size, unique=True)
            book = self._books["strided", geometry] = Rulebook("strided", geometry, self, out, table)
        return book


@dataclass(eq=False)
class Rulebook:
    """One table between two sets of sites."""

    kind: str
    geometry: Geometry
    source: Sites
    target: Sites
    table: Tensor
    _inverse: Tensor | None = field(default=None, repr=False)

    def inverse(self) -> Tensor:
        """The table from target sites back to source sites; built once."""
        if self._inverse is None:
            self._inverse = rulebook_invert(self.table, self.source.coords.shape[0])
        return self._inverse


class SparseTensor:
    """Features (V, C) on sites of a grid.

    Args:
        features: (V, C).
        coords: (V, 4) int32 rows (batch, z, y, x), unique, inside the grid.
        spatial_shape: (Z, Y, X).
        batch_size: number of batch elements.
        cache: rulebooks that layers have named by ``key``; shared by all tensors of one forward pass.

    Raises:
        ValueError: shapes that do not fit; at validation level "cheap" a site outside the grid or a repeated
            one, naming the first bad row.

    Example:
        >>> import torch
        >>> from tenfold.sparse import SparseTensor
        >>> x = SparseTensor(torch.ones(1, 2), torch.tensor([[0, 0, 1, 2]], dtype=torch.int32), (1, 2, 4), 1)
        >>> x.dense().shape, x.dense().sum().item()
        (torch.Size([1, 2, 1, 2, 4]), 2.0)
    """

    def __init__(
        self,
        features: Tensor,
        coords: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        cache: dict[str, Rulebook] | None = None,
    ) -> None:
        require_tensor("SparseTensor", "coords", coords)
        require_shape("SparseTensor", "coords", coords, ("V", 4), "columns are batch, z, y, x")
        require(
            len(spatial_shape) == 3,
            f"SparseTensor: spatial_shape: got {tuple(spatial_shape)}; expected three extents (Z, Y, X)",
        )
        z, y, x = (int(n) for n in spatial_shape)
        checked = checks_content(coords.is_cpu)
        sites = Sites(coords.int(), (z, y, x), batch_size, unique=checked)
        if checked:
            sites.submanifold((1, 1, 1), (1, 1, 1))  # building the trivial rulebook checks the coordinates
        self._set(features, sites, {} if cache is None else cache)

    def _set(self, features: Tensor, sites: Sites, cache: dict[str, Rulebook]) -> None:
        require_tensor("SparseTensor", "features", features)
        require_shape("SparseTensor", "features", features, (sites.coords.shape[0], "C"), "one row per site")
        self.features = features
        self.sites = sites
        self.cache = cache

    @property
    def coords(self) -> Tensor:
        """(V, 4) int32 rows (batch, z, y, x)."""
        return self.sites.coords

    @property
    def spatial_shape(self) -> Triple:
        """(Z, Y, X)."""
        return self.sites.spatial_shape

    @property
    def batch_size(self) -> int:
        """Number of batch elements."""
        return self.sites.batch_size

    def on(self, features: Tensor, sites: Sites) -> Self:
        """Other features on other sites, with the same named rulebooks."""
        result = type(self).__new__(type(self))
        result._set(features, sites, self.cache)
        return result

    def replace(self, features: Tensor) -> Self:
        """Other features on the same sites."""
        return self.on(features, self.sites)

    def dense(self) -> Tensor:
        """(B, C, Z, Y, X) with zeros at empty cells; differentiable."""
        z, y, x = self.spatial_shape
        c = self.coords.long()
        row = ((c[:, 0] * z + c[:, 1]) * y + c[:, 2]) * x + c[:, 3]
        channels = self.features.shape[1]
        flat = self.features.new_zeros(self.batch_size * z * y * x, channels).index_copy(
            0, row, self.features
        )
        return flat.view(self.batch_size, z, y, x, channels).permute(0, 4, 1, 2, 3).contiguous()

    def __repr__(self) -> str:
        return (
            f"SparseTensor(features={tuple(self.features.shape)}, spatial_shape={self.spatial_shape}, "
            f"batch_size={self.batch_size})"
        )


def _same_sites(a: Sites, b: Sites) -> bool:
    return a is b or (a.coords.shape == b.coords.shape and torch.equal(a.coords, b.coords))


def named(x: SparseTensor, key: str | None, book: Rulebook) -> Rulebook:
    """Register a rulebook under a key, or check that the one there is the same.

    Raises:
        ValueError: the key belongs to another kernel, stride, padding, dilation or set of sites.
    """
    if key is None:
        return book
    known = x.cache.setdefault(key, book)
    if known.kind != book.kind or known.geometry != book.geometry:
        raise ValueError(
            f"sparse: key: {key!r} belongs to a {known.kind} rulebook with (kernel, stride, padding, dilation) "
            f"{known.geometry}; got {book.kind} {book.geometry}; give layers of different geometry their own keys"
        )
    if not _same_sites(known.source, book.source):
        raise ValueError(
            f"sparse: key: {key!r} belongs to other sites; give layers on other sites their own keys"
        )
    return known
