"""Graphs of neighbours as edge lists, and thinning by a grid: compositions of the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tenfold.ops._ball_query import ball_query
from tenfold.ops._checks import require, require_float
from tenfold.ops._knn import knn
from tenfold.ops._scatter import scatter
from tenfold.ops._voxelize import dynamic_voxelize

__all__ = ["ThinnedPoints", "knn_graph", "radius_graph", "voxel_downsample"]


def _check_flat(op: str, xyz: Tensor) -> None:
    require_float(op, "xyz", xyz)
    fine = xyz.dim() == 2 and xyz.shape[1] == 3
    require(fine, f"{op}: xyz: got shape {tuple(xyz.shape)}; expected (N, 3), with offsets for a batch")


def _edges(table: Tensor, used: Tensor, most: int, loop: bool) -> Tensor:
    """Edges of a table of neighbours: without loops, the point itself or else the last entry is left out."""
    target = torch.arange(len(table), device=table.device)[:, None].expand_as(table)
    if not loop:
        used = used & (table != target)
        used = used & (used.cumsum(dim=1) <= most)
    return torch.stack([table[used].long(), target[used]])


def knn_graph(xyz: Tensor, k: int, *, offsets: Tensor | None = None, loop: bool = False) -> Tensor:
    """Edges to every point from its k nearest neighbours.

    Args:
        xyz: (N, 3) or stacked (sum N, 3), metres.
        k: neighbours, at most 63 (64 with loops); fewer where an element has fewer other points.
        offsets: (B + 1,) of stacked points; edges stay inside an element.
        loop: let a point be its own neighbour. Without, it never is, even among points that equal it.

    Returns:
        edge_index (2, E) int64: row 0 the neighbour (source), row 1 the point (target). Ordered by target, then
        by distance, the lower index first where distances tie.

    Raises:
        ValueError: as `knn`.
        TypeError: as `knn`.

    Example:
        >>> import torch
        >>> from tenfold.ops import knn_graph
        >>> knn_graph(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), 1)
        tensor([[1, 0, 1],
                [0, 1, 2]])
    """
    _check_flat("knn_graph", xyz)
    most = 64 if loop else 63
    require(1 <= k <= most, f"knn_graph: k: got {k}; expected a number from 1 to {most}")
    _, idx = knn(xyz, xyz, k if loop else k + 1, offsets=offsets, query_offsets=offsets)
    return _edges(idx, idx >= 0, k, loop)


def radius_graph(
    xyz: Tensor, radius: float, *, max_neighbors: int = 32, offsets: Tensor | None = None, loop: bool = False
) -> Tensor:
    """Edges to every point from the points strictly within a radius.

    Args:
        xyz: (N, 3) or stacked (sum N, 3), metres.
        radius: metres.
        max_neighbors: edges per point at most; where there are more, those with the lowest indices.
        offsets: (B + 1,) of stacked points; edges stay inside an element.
        loop: let a point be its own neighbour.

    Returns:
        edge_index (2, E) int64: row 0 the neighbour (source), row 1 the point (target). Ordered by target, then
        by source.

    Raises:
        ValueError: as `ball_query`.
        TypeError: as `ball_query`.

    Example:
        >>> import torch
        >>> from tenfold.ops import radius_graph
        >>> radius_graph(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), 2.0)
        tensor([[1, 0],
                [0, 1]])
    """
    op = "radius_graph"
    _check_flat(op, xyz)
    require(max_neighbors >= 1, f"{op}: max_neighbors: got {max_neighbors}; expected a number >= 1")
    k = max_neighbors if loop else max_neighbors + 1
    idx, count = ball_query(xyz, xyz, radius, k, offsets=offsets, center_offsets=offsets)
    used = torch.arange(k, device=idx.device) < count[:, None]
    return _edges(idx, used, max_neighbors, loop)


class ThinnedPoints(NamedTuple):
    """What `voxel_downsample` returns.

    Args:
        points: (V, C) one for each cell that holds a point.
        point2voxel: (N,) int32 cell of every point, -1 for one that is not finite.
        counts: (V,) int32 points of each cell.
        offsets: (B + 1,) int64 first row of each element.
    """

    points: Tensor
    point2voxel: Tensor
    counts: Tensor
    offsets: Tensor


def _plane(value: float, size: float) -> int:
    """Number of the last plane of a grid that is not above a value, whatever the division rounds."""
    number = math.floor(value / size)
    return number - (number * size > value)


def voxel_downsample(
    points: Tensor,
    size: float | Sequence[float],
    *,
    offsets: Tensor | None = None,
    reduce: Literal["mean", "first"] = "mean",
) -> ThinnedPoints:
    """Thin clouds to one point for each occupied cell of a grid.

    The grid's planes lie at multiples of the size, so a cell does not depend on the other points.

    Args:
        points: (N, C) or stacked (sum N, C): x, y, z and C - 3 further columns, which are reduced alike.
        size: of a cell, metres; one number or three.
        offsets: (B + 1,) of stacked points.
        reduce: "mean" of a cell's points, or its "first" one, the lowest index.

    Returns:
        `ThinnedPoints`, cells ordered by element, z, y, x. The gradient reaches the points that were used.

    Raises:
        ValueError: wrong shapes, sizes or offsets, or more cells than can be numbered; at validation level "cheap"
            also a coordinate that is not finite.
        TypeError: no floating-point points.

    Example:
        >>> import torch
        >>> from tenfold.ops import voxel_downsample
        >>> voxel_downsample(torch.tensor([[0.1, 0.0, 0.0], [0.3, 0.0, 0.0], [1.5, 0.0, 0.0]]), 1.0).points
        tensor([[0.2000, 0.0000, 0.0000],
                [1.5000, 0.0000, 0.0000]])
    """
    op = "voxel_downsample"
    require_float(op, "points", points)
    fine = points.dim() == 2 and points.shape[1] >= 3
    require(fine, f"{op}: points: got shape {tuple(points.shape)}; expected (N, C) with C >= 3")
    sizes = [float(s) for s in size] if isinstance(size, Sequence) else [float(size)] * 3
    fine = len(sizes) == 3 and all(math.isfinite(s) and s > 0 for s in sizes)
    require(fine, f"{op}: size: got {size}; expected one or three positive numbers")
    require(reduce in ("mean", "first"), f"{op}: reduce: got {reduce!r}; expected 'mean' or 'first'")
    batch = 1 if offsets is None else len(offsets) - 1
    xyz = points[:, :3].detach()
    finite = xyz[xyz.isfinite().all(dim=1)]
    if len(finite) == 0:
        finite = xyz.new_zeros(1, 3)  # any grid will do
    low = [_plane(v, s) for v, s in zip(finite.amin(dim=0).tolist(), sizes, strict=True)]
    high = [_plane(v, s) + 2 for v, s in zip(finite.amax(dim=0).tolist(), sizes, strict=True)]
    limits = [n * s for n, s in zip(low + high, sizes * 2, strict=True)]
    coords, point2voxel, counts = dynamic_voxelize(points.detach(), sizes, limits, offsets=offsets)
    if reduce == "mean":
        thinned = scatter(points, point2voxel, len(coords), "mean")
    else:
        row = torch.arange(len(points), dtype=torch.float64, device=points.device)[:, None]
        thinned = points[scatter(row, point2voxel, len(coords), "min")[:, 0].long()]
    element = torch.arange(batch + 1, device=points.device)
    return ThinnedPoints(
        thinned, point2voxel, counts, torch.searchsorted(coords[:, 0].long().contiguous(), element)
    )
