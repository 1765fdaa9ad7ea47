"""Reference of farthest point sampling: the plain O(N m) loop."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.ref._batching import element_rows, raise_non_finite

__all__ = ["farthest_point_sample", "farthest_point_sample_dist"]


def squared_distances(points: Tensor, center: Tensor) -> Tensor:
    """Squared distances (N,) of (N, D) points, summed from the first coordinate to the last."""
    d = points - center
    d2 = d[:, 0] * d[:, 0]
    for axis in range(1, d.shape[1]):
        d2 = d2 + d[:, axis] * d[:, axis]
    return d2


def _starts(op: str, start: list[int], counts: list[int]) -> list[int]:
    each = start * len(counts) if len(start) == 1 else start
    for element, (row, n) in enumerate(zip(each, counts, strict=True)):
        if n > 0 and not 0 <= row < n:
            raise ValueError(
                f"{op}: start: got {row} for batch element {element}; expected a row from 0 to {n - 1}"
            )
    return each


def _farthest(distance: Tensor) -> int:
    """Lowest index of the maximum."""
    return int((distance == distance.max()).nonzero()[0])


def _sample(points: Tensor, m: int, start: int) -> list[int]:
    finite = points.isfinite().all(dim=1)
    if not bool(finite.any()):
        return [-1] * m
    inf = float("inf")
    distance = torch.where(finite, inf, -inf).to(points.dtype)
    row = start if bool(finite[start]) else _farthest(distance)
    chosen = []
    for _ in range(m):
        chosen.append(row)
        d2 = squared_distances(points, points[row])
        distance = torch.where(d2 < distance, d2, distance)
        row = _farthest(distance)
    return chosen


def _table(m: list[int], batch: int, padded: bool, device: torch.device) -> tuple[Tensor, list[int]]:
    counts = m * batch if len(m) == 1 else m
    shape = (batch, max(m)) if padded else (sum(counts),)
    return torch.full(shape, -1, dtype=torch.int64, device=device), counts


def farthest_point_sample(
    xyz: Tensor,
    m: list[int],
    start: list[int],
    dims: int,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Farthest point sampling as `tenfold.ops.farthest_point_sample` defines it."""
    op = "farthest_point_sample"
    rows = element_rows(op, xyz, lengths, offsets)
    starts = _starts(op, start, [n for _, n in rows])
    padded = xyz.dim() == 3
    result, counts = _table(m, len(rows), padded, xyz.device)
    place = 0
    for element, (begin, n) in enumerate(rows):
        if validate:
            raise_non_finite(op, "xyz", xyz[..., :dims], element, begin, n)
        points = xyz.reshape(-1, xyz.shape[-1])[begin : begin + n, :dims]
        chosen = torch.tensor(_sample(points, counts[element], starts[element]), dtype=torch.int64)
        if not padded:
            chosen = torch.where(chosen >= 0, chosen + begin, chosen)
            result[place : place + len(chosen)] = chosen
            place += len(chosen)
        else:
            result[element, : len(chosen)] = chosen
    return result


def farthest_point_sample_dist(
    dist: Tensor, m: list[int], start: list[int], lengths: Tensor | None = None, validate: bool = False
) -> Tensor:
    """The same loop on given distances (B, N, N): row i holds those from point i."""
    op = "farthest_point_sample"
    rows = element_rows(op, dist, lengths, None)
    starts = _starts(op, start, [n for _, n in rows])
    result, counts = _table(m, len(rows), True, dist.device)
    for element, (_, n) in enumerate(rows):
        table = dist[element, :n, :n]
        bad = ~table.isfinite()
        if validate and bool(bad.any()):
            i, j = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"{op}: dist: entry ({element}, {i}, {j}) is not finite; expected finite distances"
            )
        if n == 0:
            continue
        distance = torch.full((n,), float("inf"), dtype=dist.dtype, device=dist.device)
        row = starts[element]
        for place in range(counts[element]):
            result[element, place] = row
            distance = torch.where((table[row] < distance) & ~bad[row], table[row], distance)
            row = _farthest(distance)
    return result
