"""Reference of the voxel table: a sorted list of cell keys, searched once per neighbour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["lookup", "voxel_query", "voxel_table"]

META = 9  # lowest b, z, y, x; number of cells along each; shift of the directory


def _keys(coords: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
    """Key of every cell (b, z, y, x), and whether it lies inside the table's extents."""
    wide = coords.long()
    inside = ((wide >= meta[:4]) & (wide <= meta[:4] + (meta[4:8] - 1))).all(-1)
    local = torch.where(inside[..., None], wide - meta[:4], 0)
    key = local[..., 0]
    for axis in (1, 2, 3):
        key = key * meta[4 + axis] + local[..., axis]
    return key, inside


def voxel_table(coords: Tensor, validate: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sorted keys (V,) int64, their rows (V,) int32, the directory (2 V + 1,) int32 and meta (9,) int64."""
    v = coords.shape[0]
    wide = coords.long()
    low = wide.amin(0).tolist() if v else [0] * 4
    high = wide.amax(0).tolist() if v else [-1] * 4
    extent = [h - lo + 1 for lo, h in zip(low, high, strict=True)]
    cells = math.prod(extent)
    if cells >= 2**63:
        raise ValueError("VoxelTable: coords: they span 2^63 cells or more; expected fewer than 2^63 in all")
    meta = torch.tensor([*low, *extent, 0], device=coords.device)
    key, _ = _keys(coords, meta)
    keys, rows = key.sort(stable=True)
    if validate and v and bool((keys[1:] == keys[:-1]).any()):
        pair = rows[:-1][keys[1:] == keys[:-1]]
        again = rows[1:][keys[1:] == keys[:-1]]
        row = int(again.min())
        first = int(pair[again == row][0])
        raise ValueError(
            f"VoxelTable: coords: row {row} repeats the cell of row {first}; expected distinct cells"
        )
    shift = 0
    while v and (cells - 1) >> shift >= 2 * v:
        shift += 1
    meta[8] = shift
    bucket = torch.arange(2 * v + 1, device=coords.device)
    directory = torch.searchsorted(keys >> shift, bucket).to(torch.int32)
    return keys, rows.to(torch.int32), directory, meta


def lookup(keys: Tensor, rows: Tensor, directory: Tensor, meta: Tensor, coords: Tensor) -> Tensor:
    """Return (..., ) int32 rows of the cells, or -1; the lowest row of a repeated cell."""
    if len(keys) == 0:
        return torch.full(coords.shape[:-1], -1, dtype=torch.int32, device=coords.device)
    key, inside = _keys(coords, meta)
    place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
    return torch.where(inside & (keys[place] == key), rows[place], -1).to(torch.int32)


def voxel_query(
    keys: Tensor,
    rows: Tensor,
    directory: Tensor,
    meta: Tensor,
    xyz_vox: Tensor,
    coords: Tensor,
    xyz_query: Tensor,
    ranges: list[int],
    radius: float,
    k: int,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    """Return idx (M, k) int32 and count (M,) int32, as `tenfold.ops.voxel_query` defines them."""
    if validate:
        for name, value in (("xyz_vox", xyz_vox), ("xyz_query", xyz_query)):
            bad = ~value.isfinite().all(1)
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                raise ValueError(f"voxel_query: {name}: row {row} is not finite; expected finite coordinates")
    m = coords.shape[0]
    idx = torch.zeros((m, k), dtype=torch.int32, device=coords.device)
    count = torch.zeros(m, dtype=torch.int32, device=coords.device)
    limit = torch.tensor(radius, dtype=xyz_vox.dtype)
    limit = limit * limit
    low, high = meta[:4].tolist(), (meta[:4] + meta[4:8] - 1).tolist()
    table = {int(key): int(row) for key, row in zip(keys.flip(0), rows.flip(0), strict=True)}
    size = meta[4:8].tolist()
    for q, (b, z, y, x) in enumerate(coords.tolist()):
        hits: list[int] = []
        spans = [
            range(max(c - r, lo), min(c + r, hi) + 1)
            for c, r, lo, hi in zip((z, y, x), ranges, low[1:], high[1:], strict=True)
        ]
        if not low[0] <= b <= high[0]:
            continue
        for cz in spans[0]:
            for cy in spans[1]:
                for cx in spans[2]:
                    key = (
                        (((b - low[0]) * size[1] + cz - low[1]) * size[2] + cy - low[2]) * size[3]
                        + cx
                        - low[3]
                    )
                    row = table.get(key, -1)
                    if row < 0 or len(hits) == k:
                        continue
                    d = xyz_vox[row] - xyz_query[q]
                    if bool((d[0] * d[0] + d[1] * d[1]) + d[2] * d[2] <= limit):
                        hits.append(row)
        if hits:
            idx[q] = hits[0]
            idx[q, : len(hits)] = torch.tensor(hits, dtype=torch.int32)
            count[q] = len(hits)
    return idx, count
