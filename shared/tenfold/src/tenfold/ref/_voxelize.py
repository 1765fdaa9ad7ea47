"""Reference of the voxel ops: the definition, one point at a time where order matters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "cells",
    "dynamic_voxelize",
    "dynamic_voxelize_padded",
    "voxelize",
    "voxelize_backward",
    "voxelize_out",
    "voxelize_padded",
]

_UNLIMITED = (1 << 31) - 1


def cells(
    points: Tensor, size: Sequence[float], lower: Sequence[float], grid: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the cell (N, 3) int64 as z, y, x of every point, and which points lie in the grid (N,) bool.

    The cell is floor((p - lower) / size) in the precision of the points, with a true division.
    """
    lo = torch.tensor(lower, dtype=torch.float64, device=points.device).to(points.dtype)
    step = torch.tensor(size, dtype=torch.float64, device=points.device).to(points.dtype)
    cell = torch.floor((points[:, :3] - lo) / step).double()
    end = torch.tensor(grid, dtype=torch.float64, device=points.device)
    inside = ((cell >= 0) & (cell < end)).all(dim=1)
    cell = torch.where(inside[:, None], cell, torch.zeros_like(cell)).long()
    return cell.flip(1), inside


def _elements(op: str, points: Tensor, offsets: Tensor | None) -> list[tuple[int, int]]:
    n = points.shape[0]
    if offsets is None:
        return [(0, n)]
    bounds = [int(o) for o in offsets]
    if bounds[0] != 0 or bounds[-1] != n:
        raise ValueError(f"{op}: offsets: expected to start at 0 and to end at N")
    if any(b < a for a, b in itertools.pairwise(bounds)):
        raise ValueError(f"{op}: offsets: decrease; expected a non-decreasing list")
    return list(itertools.pairwise(bounds))


def _check_finite(op: str, points: Tensor) -> None:
    bad = ~points[:, :3].isfinite().all(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(f"{op}: points: row {row} is not finite; expected finite coordinates")


def voxelize(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
    mean: bool,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hard voxelisation as `tenfold.ops.voxelize` defines it."""
    elements = _elements("voxelize", points, offsets)
    if validate:
        _check_finite("voxelize", points)
    cell, inside = cells(points, size, lower, grid)
    keys, is_inside = cell.tolist(), inside.tolist()
    rows: list[list[int]] = []  # stored points of every voxel
    coords: list[list[int]] = []
    point2voxel = [-1] * points.shape[0]
    dropped = [int((~inside).sum()), 0, 0]
    for batch, (begin, end) in enumerate(elements):
        voxel_of: dict[tuple[int, ...], int] = {}
        for i in range(begin, end):
            if not is_inside[i]:
                continue
            key = tuple(keys[i])
            if key not in voxel_of:
                if len(voxel_of) == max_voxels:
                    dropped[1] += 1
                    continue
                voxel_of[key] = len(rows)
                rows.append([])
                coords.append([batch, *key])
            point2voxel[i] = voxel = voxel_of[key]
            if len(rows[voxel]) < max_points:
                rows[voxel].append(i)
            else:
                dropped[2] += 1
    device = points.device
    if mean:
        voxels = points.new_zeros((len(rows), points.shape[1]))
        for v, members in enumerate(rows):
            for i in members:
                voxels[v] += points[i]
            voxels[v] /= len(members)
    else:
        voxels = points.new_zeros((len(rows), max_points, points.shape[1]))
        for v, members in enumerate(rows):
            voxels[v, : len(members)] = points[members]
    return (
        voxels,
        torch.tensor(coords, dtype=torch.int32, device=device).reshape(-1, 4),
        torch.tensor([len(members) for members in rows], dtype=torch.int32, device=device),
        torch.tensor(point2voxel, dtype=torch.int32, device=device),
        torch.tensor(dropped, dtype=torch.int64, device=device),
    )


def voxelize_padded(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
    mean: bool,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`voxelize` with B * max_voxels rows: those behind the voxels are zero, their coords -1."""
    if validate:
        _check_finite("voxelize_padded", points)
    voxels, coords, num_points, point2voxel, dropped = voxelize(
        points, offsets, size, lower, grid, max_points, max_voxels, mean, False
    )
    batch = 1 if offsets is None else offsets.shape[0] - 1
    rest = batch * max_voxels - voxels.shape[0]
    return (
        torch.cat([voxels, voxels.new_zeros((rest, *voxels.shape[1:]))]),
        torch.cat([coords, coords.new_full((rest, 4), -1)]),
        torch.cat([num_points, num_points.new_zeros(rest)]),
        point2voxel,
        dropped,
        torch.tensor(voxels.shape[0], dtype=torch.int32, device=points.device),
    )


def voxelize_out(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
    mean: bool,
    validate: bool,
    *buffers: Tensor,
) -> Tensor:
    """`voxelize` into the front of larger buffers; returns (V, 0), whose length is the number of voxels."""
    result = voxelize(points, offsets, size, lower, grid, max_points, max_voxels, mean, validate)
    count = result[0].shape[0]
    if min(b.shape[0] for b in buffers[:3]) < count:
        raise ValueError(f"voxelize: out: too small; expected at least {count} rows")
    for buffer, value in zip(buffers, result, strict=True):
        buffer[: value.shape[0]] = value
    return points.new_empty((count, 0))


def voxelize_backward(grad: Tensor, point2voxel: Tensor, max_points: int, mean: bool) -> Tensor:
    """Gradient of the points: that of their slot, or of their voxel's mean; zero for points not stored."""
    grad_points = grad.new_zeros((point2voxel.shape[0], grad.shape[-1]))
    stored: dict[int, list[int]] = {}
    for i, voxel in enumerate(point2voxel.tolist()):
        members = stored.setdefault(voxel, [])
        if voxel >= 0 and len(members) < max_points:
            members.append(i)
    for voxel, members in stored.items():
        if members:
            grad_points[members] = grad[voxel] / len(members) if mean else grad[voxel, : len(members)]
    return grad_points


def dynamic_voxelize(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    lex: bool,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels without caps as `tenfold.ops.dynamic_voxelize` defines them."""
    elements = _elements("dynamic_voxelize", points, offsets)
    if validate:
        _check_finite("dynamic_voxelize", points)
    cell, inside = cells(points, size, lower, grid)
    batch = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
    for b, (begin, end) in enumerate(elements):
        batch[begin:end] = b
    coords, inverse, counts = torch.unique(
        torch.cat([batch[:, None], cell], dim=1)[inside], dim=0, return_inverse=True, return_counts=True
    )
    if not lex:
        first = torch.full((coords.shape[0],), _UNLIMITED, device=points.device)
        first = first.scatter_reduce(0, inverse, torch.arange(len(inverse), device=points.device), "amin")
        order = first.argsort()
        coords, counts, inverse = coords[order], counts[order], order.argsort()[inverse]
    point2voxel = torch.full((points.shape[0],), -1, dtype=torch.int32, device=points.device)
    point2voxel[inside] = inverse.int()
    return coords.int().reshape(-1, 4), point2voxel, counts.int()


def dynamic_voxelize_padded(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_voxels: int,
    lex: bool,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first voxels of `dynamic_voxelize`, filled up with coords -1 and counts 0, and the number of all."""
    if validate:
        _check_finite("dynamic_voxelize_padded", points)
    coords, point2voxel, counts = dynamic_voxelize(points, offsets, size, lower, grid, lex, False)
    rows, members = coords.new_full((max_voxels, 4), -1), counts.new_zeros(max_voxels)
    rows[: len(coords)] = coords[:max_voxels]
    members[: len(coords)] = counts[:max_voxels]
    point2voxel = torch.where(point2voxel < max_voxels, point2voxel, -1)
    return rows, point2voxel, members, torch.tensor(len(coords), dtype=torch.int32, device=points.device)
