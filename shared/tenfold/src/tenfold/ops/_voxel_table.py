"""Look-up of occupied cells without a dense index volume."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import LIMIT, as_compute, require, require_float, require_integers, require_shape
from tenfold.ops._library import define, invoke

__all__ = ["VoxelTable", "lookup", "voxel_query"]

_META = 9


def _fake_table(coords: Tensor, validate: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    v = coords.shape[0]
    return (
        coords.new_empty((v,), dtype=torch.int64),
        coords.new_empty((v,), dtype=torch.int32),
        coords.new_empty((2 * v + 1,), dtype=torch.int32),
        coords.new_empty((_META,), dtype=torch.int64),
    )


def _fake_lookup(keys: Tensor, rows: Tensor, directory: Tensor, meta: Tensor, coords: Tensor) -> Tensor:
    return coords.new_empty((coords.shape[0],), dtype=torch.int32)


def _fake_query(
    keys: Tensor,
    rows: Tensor,
    directory: Tensor,
    meta: Tensor,
    xyz_vox: Tensor,
    coords: Tensor,
    xyz_query: Tensor,
    ranges: Sequence[int],
    radius: float,
    k: int,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    m = coords.shape[0]
    return coords.new_empty((m, k), dtype=torch.int32), coords.new_empty((m,), dtype=torch.int32)


_TABLE = "Tensor keys, Tensor rows, Tensor directory, Tensor meta"

_voxel_table = define(
    "voxel_table(Tensor coords, bool validate) -> (Tensor keys, Tensor rows, Tensor directory, Tensor meta)",
    contract=1,
    reference=ref.voxel_table,
    fake=_fake_table,
)
_lookup = define(
    f"lookup({_TABLE}, Tensor coords) -> Tensor", contract=1, reference=ref.lookup, fake=_fake_lookup
)
_voxel_query = define(
    f"voxel_query({_TABLE}, Tensor xyz_vox, Tensor coords, Tensor xyz_query, int[] ranges, float radius, "
    "SymInt k, bool validate) -> (Tensor idx, Tensor count)",
    contract=1,
    reference=ref.voxel_query,
    fake=_fake_query,
)


def _require_coords(op: str, coords: Tensor) -> None:
    require_integers(op, "coords", coords)
    require_shape(op, "coords", coords, ("V" if op == "VoxelTable" else "M", 4), "columns are b, z, y, x")
    require(
        coords.shape[0] < LIMIT // 2,
        f"{op}: coords: got {coords.shape[0]} rows; expected fewer than 2^30",
    )


class VoxelTable:
    """The occupied cells of a sparse grid, sorted, so that `lookup` and `voxel_query` find them.

    Memory is proportional to the number of cells, whatever the extents of the grid.

    Args:
        coords: (V, 4) int32 or int64 distinct cells as b, z, y, x; any integers, in any order.

    Raises:
        ValueError: a wrong shape, extents whose product reaches 2^63; at validation level "cheap" a repeated
            cell, named by its row (below that level the lowest row counts in `lookup`).
        TypeError: not an integer tensor.

    Example:
        >>> import torch
        >>> from tenfold.ops import VoxelTable, lookup
        >>> table = VoxelTable(torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]]))
        >>> lookup(table, torch.tensor([[0, 0, 0, 0], [0, 1, 2, 4]]))
        tensor([ 1, -1], dtype=torch.int32)
    """

    def __init__(self, coords: Tensor) -> None:
        _require_coords("VoxelTable", coords)
        #: keys (V,) int64 ascending, rows (V,) int32 of each key, directory and meta of the search.
        self.tensors: tuple[Tensor, Tensor, Tensor, Tensor] = invoke(
            _voxel_table, coords, checks_content(coords.is_cpu)
        )

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def __repr__(self) -> str:
        return f"VoxelTable({len(self)} cells)"


def _require_table(op: str, table: VoxelTable, coords: Tensor) -> None:
    if not isinstance(table, VoxelTable):
        raise TypeError(f"{op}: table: got {type(table).__name__}; expected a VoxelTable")
    _require_coords(op, coords)
    device = table.tensors[0].device
    require(
        coords.device == device, f"{op}: coords: on {coords.device}; expected the table's device, {device}"
    )


def lookup(table: VoxelTable, coords: Tensor) -> Tensor:
    """Find the rows of cells.

    Args:
        table: of the occupied cells.
        coords: (M, 4) int32 or int64 cells as b, z, y, x; any integers.

    Returns:
        (M,) int32 row in the coordinates that the table was made of, or -1 where the cell is not occupied.

    Raises:
        ValueError: a wrong shape or device.
        TypeError: no table, or not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import VoxelTable, lookup
        >>> cells = torch.tensor([[0, 4, 4, 4], [1, 4, 4, 4]])
        >>> lookup(VoxelTable(cells), cells.flip(0))
        tensor([1, 0], dtype=torch.int32)
    """
    _require_table("lookup", table, coords)
    result: Tensor = invoke(_lookup, *table.tensors, coords)
    return result


def voxel_query(
    table: VoxelTable,
    xyz_vox: Tensor,
    coords: Tensor,
    xyz_query: Tensor,
    ranges: Sequence[int],
    radius: float,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Find occupied cells near query points: Voxel R-CNN's voxel query, without its dense index volume.

    The cells ``coords + (dz, dy, dx)`` with ``|dz| <= rz, |dy| <= ry, |dx| <= rx`` are visited by z, then y, then
    x; an occupied one is a hit if the squared distance of its centre from the query point is at most radius
    squared (inclusive, unlike `ball_query`), computed as in `ball_query`. The first k hits count.

    Args:
        table: of the occupied cells.
        xyz_vox: (V, 3) centre of each cell of the table; metres. float32 or float64 (half is up-cast).
        coords: (M, 4) int32 or int64 cell b, z, y, x of each query point; may lie outside the occupied extents.
        xyz_query: (M, 3) query points; metres.
        ranges: (rz, ry, rx), cells to each side.
        radius: metres.
        k: most hits of a query.

    Returns:
        idx (M, k) int32 rows of cells, padded with the first hit (zeros without a hit), and count (M,) int32
        hits up to k. No gradient.

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" also coordinates that are not finite
            (below that level they are never hit and hit nothing).
        TypeError: wrong types.

    Example:
        >>> import torch
        >>> from tenfold.ops import VoxelTable, voxel_query
        >>> cells = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 5]])
        >>> table, centres = VoxelTable(cells), cells[:, [3, 2, 1]] + 0.5
        >>> voxel_query(table, centres, cells[1:2], centres[1:2], (1, 1, 1), 1.0, 3)
        (tensor([[0, 1, 0]], dtype=torch.int32), tensor([2], dtype=torch.int32))
    """
    op = "voxel_query"
    _require_table(op, table, coords)
    for name, value, rows in (("xyz_vox", xyz_vox, len(table)), ("xyz_query", xyz_query, coords.shape[0])):
        require_float(op, name, value)
        require_shape(op, name, value, (rows, 3))
        require(value.device == coords.device, f"{op}: {name}: on {value.device}; expected {coords.device}")
    window = [int(r) for r in ranges]
    require(
        len(window) == 3 and all(0 <= r < LIMIT for r in window),
        f"{op}: ranges: got {list(ranges)}; expected three numbers rz, ry, rx from 0 to 2^31 - 1",
    )
    require(
        math.isfinite(radius) and radius > 0,
        f"{op}: radius: got {radius}; expected a positive, finite number",
    )
    require(1 <= k < LIMIT, f"{op}: k: got {k}; expected a number from 1 to 2^31 - 1")
    centres, points = as_compute(xyz_vox), as_compute(xyz_query)
    common = torch.promote_types(centres.dtype, points.dtype)
    idx, count = invoke(
        _voxel_query,
        *table.tensors,
        centres.to(common),
        coords,
        points.to(common),
        window,
        radius,
        k,
        checks_content(coords.is_cpu),
    )
    return idx, count
