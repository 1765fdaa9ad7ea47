"""From the sites of a detector to the cells of a view, and back with what the view has found there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.ops import VoxelTable, gather_rows, lookup
from tenfold.sparse import SparseTensor
from xview3d.view import View

__all__ = ["MainGrid", "ViewProjector", "ViewStride"]

INTERPOLATIONS = ("nearest", "linear")
FUSIONS = ("add", "cat")
INDEX_MODES = ("official", "receptive_field")
_SEED = 0


@dataclass(frozen=True)
class MainGrid:
    """Where the sites of a detector's features lie.

    Args:
        point_range: x, y, z of the lower corner, then of the upper, metres.
        voxel_size: x, y, z, metres.
        stride: voxels per site along x, y, z; a site's place is the middle of its voxels.
        field_step: voxels between the centres of the receptive fields of neighbouring sites, x, y, z.
        field_start: voxel in which the first receptive field is centred.

    Example:
        >>> grid = MainGrid.encoder((0, -40, -3, 70.4, 40, 1), (0.05, 0.05, 0.1))
        >>> site = torch.tensor([[0, 0, 100, 88]])  # batch index, z, y, x
        >>> [round(v, 4) for v in grid.places(site, "official")[0].tolist()]
        [35.4, 0.2, -2.0]
    """

    point_range: tuple[float, ...]
    voxel_size: tuple[float, ...]
    stride: tuple[float, float, float] = (1.0, 1.0, 1.0)
    field_step: tuple[float, float, float] = (1.0, 1.0, 1.0)
    field_start: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def encoder(cls, point_range: Sequence[float], voxel_size: Sequence[float]) -> MainGrid:
        """Of the output of `VoxelBackBone8x`: stride 8, and along z as many voxels as its layers share."""
        from tenfold.lidar.models.voxel_backbone import encoder_depths

        cells = round((point_range[5] - point_range[2]) / voxel_size[2])
        high = cells / encoder_depths(cells)[4]
        return cls(tuple(point_range), tuple(voxel_size), (8, 8, high), (8, 8, 16), (0, 0, 12))

    @classmethod
    def stage(cls, point_range: Sequence[float], voxel_size: Sequence[float], stage: int) -> MainGrid:
        """Of stage 1 to 4 of that encoder."""
        s = float(2 ** (stage - 1))
        start = 4.0 if stage == 4 else 0.0
        return cls(tuple(point_range), tuple(voxel_size), (s, s, s), (s, s, s), (0, 0, start))

    def places(self, coords: Tensor, index_mode: str) -> Tensor:
        """(M, 3) x, y, z, metres, float32, of sites (M, 4) batch index, z, y, x."""
        k = coords[:, [3, 2, 1]].float()
        size, low = k.new_tensor(self.voxel_size), k.new_tensor(self.point_range[:3])
        if index_mode == "official":
            return (k + 0.5) * k.new_tensor(self.stride) * size + low
        voxel = k * k.new_tensor(self.field_step) + k.new_tensor(self.field_start)
        return (voxel + 0.5) * size + low


@dataclass(frozen=True)
class ViewStride:
    """Cells of a view's grid that a cell of its features covers, along r, psi, theta; see `MainGrid`.

    Args:
        stride: cells.
        field_start: cell in which the first receptive field is centred.
    """

    stride: tuple[float, float, float] = (8.0, 8.0, 16.0)
    field_start: tuple[float, float, float] = (0.0, 0.0, 12.0)


class ViewProjector(nn.Module):
    """Looks up what views have found where a detector's sites lie, and fuses it into the sites' features.

    A view's features stay sparse: its cells are found through a sorted table. An empty cell, or one outside the
    view, gives 0. Gradients reach the features of the view through the look-up; indices carry none.

    Args:
        views: with their ranges written out (`View.resolved`).
        main_grid: places of the sites.
        stride: of the views' features; three numbers along r, psi, theta, or a `ViewStride`.
        interpolation: "nearest" (the cell that holds the site), or "linear" (8 corners, without a half-cell shift).
        fuse: "add" the views, or "cat" them behind the channels of the detector.
        index_mode: "official" takes middles of cells, "receptive_field" the centres of receptive fields.
        shuffle: control: every site gets what another site of its frame would have got.

    Raises:
        ValueError: an unknown word, or a view without a range.

    Example:
        >>> view = View(range=(0, -1.6, 0, 82, 1.6, 3.19))
        >>> grid = MainGrid.encoder((0, -40, -3, 70.4, 40, 1), (0.05, 0.05, 0.1))
        >>> site = torch.tensor([[0, 0, 100, 88]], dtype=torch.int32)  # batch index, z, y, x
        >>> main = SparseTensor(torch.tensor([[1.0]]), site, (2, 200, 176), 1)
        >>> cell = torch.tensor([[0, 10, 20, 88]], dtype=torch.int32)  # batch index, theta, psi, r
        >>> found = SparseTensor(torch.tensor([[0.5]]), cell, (19, 40, 205), 1)
        >>> ViewProjector([view], grid)(main, [found]).features.item()
        1.5
    """

    def __init__(
        self,
        views: Sequence[View],
        main_grid: MainGrid,
        stride: Sequence[float] | ViewStride = (8, 8, 16),
        interpolation: str = "nearest",
        fuse: str = "add",
        index_mode: str = "official",
        *,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("interpolation", interpolation, INTERPOLATIONS),
            ("fuse", fuse, FUSIONS),
            ("index_mode", index_mode, INDEX_MODES),
        ):
            if value not in known:
                raise ValueError(f"ViewProjector: {name}: got {value!r}; expected one of {', '.join(known)}")
        for view in views:
            _ = view.bounds
        self.views, self.main_grid = tuple(views), main_grid
        self.stride = stride if isinstance(stride, ViewStride) else _view_stride(stride)
        self.interpolation, self.fuse, self.index_mode = interpolation, fuse, index_mode
        self.shuffle = shuffle

    def forward(
        self,
        main: SparseTensor,
        found: Sequence[SparseTensor],
        centers: Sequence[Tensor | None] | None = None,
    ) -> SparseTensor:
        """Fused features on the same sites.

        Args:
            main: features (M, C) of the detector.
            found: features of each view, (V, C) for "add".
            centers: (3,) trainable centre of each view in place of its own.

        Raises:
            ValueError: not one tensor per view, or with "add" other channels than the detector's.
        """
        parts = self.look_up(main, found, centers)
        if self.fuse == "cat":
            return main.replace(torch.cat((main.features, *parts), 1))
        fused = main.features
        for k, part in enumerate(parts):
            if part.shape[1] != fused.shape[1]:
                raise ValueError(
                    f"ViewProjector: found: view {k} has {part.shape[1]} channels, the detector "
                    f"{fused.shape[1]}; expected as many, or fuse='cat'"
                )
            fused = fused + part
        return main.replace(fused)

    def look_up(
        self,
        main: SparseTensor,
        found: Sequence[SparseTensor],
        centers: Sequence[Tensor | None] | None = None,
    ) -> list[Tensor]:
        """(M, C) of each view at the sites of `main`; see `forward`."""
        if len(found) != len(self.views):
            raise ValueError(
                f"ViewProjector: found: got {len(found)} tensors for {len(self.views)} views; expected one each"
            )
        places = self.main_grid.places(main.coords, self.index_mode)
        order = self._order(main) if self.shuffle else None
        parts = []
        for k, (view, tensor) in enumerate(zip(self.views, found, strict=True)):
            u = self.cells(view, places, None if centers is None else centers[k])
            part = _sample(u, main.coords[:, 0], tensor, view, self.interpolation)
            parts.append(part if order is None else part[order])
        return parts

    def cells(self, view: View, places: Tensor, center: Tensor | None = None) -> Tensor:
        """(M, 3) place along r, psi, theta in cells of the view's features; its floor is the nearest cell.

        Args:
            view: one of the views.
            places: (M, 3) metres.
            center: see `View.to_local`.
        """
        local = view.to_local(places, center)
        in_voxels = (local - local.new_tensor(view.bounds[:3])) / local.new_tensor(view.voxel)
        stride = local.new_tensor(self.stride.stride)
        if self.index_mode == "official":
            return in_voxels / stride
        u = (in_voxels - 0.5 - local.new_tensor(self.stride.field_start)) / stride
        return u + 0.5 if self.interpolation == "nearest" else u

    @torch.no_grad()
    def hits(self, main: SparseTensor, found: Sequence[SparseTensor]) -> Tensor:
        """(V,) share of the sites whose nearest cell holds something; 1 without sites."""
        places = self.main_grid.places(main.coords, self.index_mode)
        shares = []
        for view, tensor in zip(self.views, found, strict=True):
            rows = _rows(self.cells(view, places).floor(), main.coords[:, 0], tensor, view)
            shares.append((rows >= 0).float().mean() if len(rows) else places.new_ones(()))
        return torch.stack(shares) if shares else places.new_zeros(0)

    def _order(self, main: SparseTensor) -> Tensor:
        """A permutation of the sites within each frame: random in training, fixed otherwise."""
        generator = None if self.training else torch.Generator().manual_seed(_SEED)
        noise = torch.rand(len(main.coords), generator=generator, dtype=torch.float64)
        frame = main.coords[:, 0].cpu().double()
        shuffled = torch.argsort(frame + noise)  # noise is below 1: frames stay apart
        order = torch.empty_like(shuffled)
        order[torch.argsort(frame, stable=True)] = shuffled
        return order.to(main.coords.device)


def _view_stride(stride: Sequence[float]) -> ViewStride:
    r, psi, theta = (float(s) for s in stride)
    usual = (r, psi, theta) == (8.0, 8.0, 16.0)
    return ViewStride((r, psi, theta), (0.0, 0.0, 12.0 if usual else 0.0))


def _rows(cell: Tensor, batch: Tensor, found: SparseTensor, view: View, table: Any = None) -> Tensor:
    """(M,) int32 row of whole cells (M, 3) r, psi, theta; -1 where nothing is, or outside the view."""
    theta, psi, r = found.spatial_shape
    limits = cell.new_tensor((r, psi, theta))
    k = cell.detach()
    if view.psi_padding == "circular":
        k = torch.stack((k[:, 0], torch.remainder(k[:, 1], psi), k[:, 2]), 1)
    inside = ((k >= 0) & (k < limits)).all(1)
    # Below the grid nothing is found, whatever number a far cell has.
    safe = torch.where(inside[:, None], k, -1.0).int()
    query = torch.cat((batch.int()[:, None], safe.flip(1)), 1)
    return lookup(VoxelTable(found.coords) if table is None else table, query)


def _sample(u: Tensor, batch: Tensor, found: SparseTensor, view: View, interpolation: str) -> Tensor:
    table = VoxelTable(found.coords)
    low = u.detach().floor()
    if interpolation == "nearest":
        return gather_rows(found.features, _rows(low, batch, found, view, table))
    theta, psi, r = found.spatial_shape
    last = u.new_tensor((r, psi, theta)) - 1
    around = view.psi_padding == "circular"
    inside = (low >= 0) & (low <= last)
    if around:
        inside = inside | u.new_tensor((False, True, False)).bool()
    outside = ~inside.all(1)
    fraction = u - low
    total = found.features.new_zeros(len(u), found.features.shape[1])
    for corner in itertools.product((0.0, 1.0), repeat=3):
        step = u.new_tensor(corner)
        cell = low + step
        clamped = torch.minimum(cell, last)
        if around:
            clamped = torch.stack((clamped[:, 0], cell[:, 1], clamped[:, 2]), 1)
        cell = torch.where(outside[:, None], -1.0, clamped)
        weight = torch.where(step > 0, fraction, 1 - fraction).prod(1).to(total.dtype)
        total = total + weight[:, None] * gather_rows(found.features, _rows(cell, batch, found, view, table))
    return total
