"""Reference of the ball query: all distances, then the first k hits in index order."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.ref._batching import element_rows, raise_non_finite

__all__ = ["ball_query", "ball_query_multi"]


def ball_hits(xyz: Tensor, centers: Tensor, radius: float, min_radius: float) -> Tensor:
    """Return (M, N) bool: squared distance strictly below fl(radius^2), in the points' precision."""
    d = xyz[None, :, :] - centers[:, None, :]
    d2 = (d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1]) + d[..., 2] * d[..., 2]
    r = torch.tensor(radius, dtype=xyz.dtype, device=xyz.device)
    r_min = torch.tensor(min_radius, dtype=xyz.dtype, device=xyz.device)
    return (d2 < r * r) & ((d2 >= r_min * r_min) | (d2 == 0))


def first_hits(hits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the first k true columns of each row (the first repeated, or zeros) and how many there are."""
    m, n = hits.shape
    count = hits.sum(dim=1).clamp(max=k)
    if n == 0:
        return hits.new_zeros((m, k), dtype=torch.int32), count.to(torch.int32)
    column = torch.arange(n, device=hits.device).expand(m, n)
    order = torch.where(hits, column, n).sort(dim=1).values[:, :k]
    order = torch.cat([order, order.new_full((m, k - order.shape[1]), n)], dim=1)
    first = torch.where(count > 0, order[:, 0], 0)
    idx = torch.where(order < n, order, first[:, None])
    return idx.to(torch.int32), count.to(torch.int32)


def ball_query(
    xyz: Tensor,
    centers: Tensor,
    radius: float,
    min_radius: float,
    k: int,
    lengths: Tensor | None = None,
    center_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    center_offsets: Tensor | None = None,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Ball query as `tenfold.ops.ball_query` defines it."""
    points = element_rows("ball_query", xyz, lengths, offsets)
    queries = element_rows("ball_query", centers, center_lengths, center_offsets, "center_")
    idx = centers.new_zeros((*centers.shape[:-1], k), dtype=torch.int32)
    count = centers.new_zeros(centers.shape[:-1], dtype=torch.int32)
    for element, ((begin, n), (first, m)) in enumerate(zip(points, queries, strict=True)):
        if validate:
            raise_non_finite("ball_query", "xyz", xyz, element, begin, n)
            raise_non_finite("ball_query", "centers", centers, element, first, m)
        hits = ball_hits(
            xyz.reshape(-1, 3)[begin : begin + n],
            centers.reshape(-1, 3)[first : first + m],
            radius,
            min_radius,
        )
        found, number = first_hits(hits, k)
        if xyz.dim() == 2:
            found = torch.where(number[:, None] > 0, found + begin, 0)
        idx.view(-1, k)[first : first + m] = found
        count.view(-1)[first : first + m] = number
    return idx, count


def ball_query_multi(
    xyz: Tensor,
    centers: Tensor,
    radii: list[float],
    min_radii: list[float],
    ks: list[int],
    lengths: Tensor | None = None,
    center_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    center_offsets: Tensor | None = None,
    validate: bool = False,
) -> list[Tensor]:
    """One ball query after the other: idx and count of each radius in turn."""
    tables: list[Tensor] = []
    for radius, min_radius, k in zip(radii, min_radii, ks, strict=True):
        tables += ball_query(
            xyz, centers, radius, min_radius, k, lengths, center_lengths, offsets, center_offsets, validate
        )
    return tables
