"""Reference of the nearest neighbours: all distances, stably sorted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tenfold.ref._batching import element_rows, raise_non_finite

__all__ = ["knn"]


def knn(
    ref: Tensor,
    query: Tensor,
    k: int,
    lengths: Tensor | None = None,
    query_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    query_offsets: Tensor | None = None,
    root: bool = False,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Nearest neighbours as `tenfold.ops.knn` defines them: dist2 (or its root) ascending and idx."""
    points = element_rows("knn", ref, lengths, offsets)
    queries = element_rows("knn", query, query_lengths, query_offsets, "query_")
    dist2 = query.new_full((*query.shape[:-1], k), float("inf"))
    idx = torch.full((*query.shape[:-1], k), -1, dtype=torch.int32, device=query.device)
    for element, ((begin, n), (first, m)) in enumerate(zip(points, queries, strict=True)):
        if validate:
            raise_non_finite("knn", "ref", ref, element, begin, n)
            raise_non_finite("knn", "query", query, element, first, m)
        p = ref.reshape(-1, 3)[begin : begin + n]
        q = query.reshape(-1, 3)[first : first + m]
        d = p[None] - q[:, None]
        d2 = (d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1]) + d[..., 2] * d[..., 2]
        fine = (d2 < float("inf")) & p.isfinite().all(dim=1) & q.isfinite().all(dim=1)[:, None]
        nearest, order = torch.where(fine, d2, float("inf")).sort(dim=1, stable=True)
        nearest, order = nearest[:, :k], order[:, :k]
        base = begin if ref.dim() == 2 else 0
        order = torch.where(nearest < float("inf"), order + base, -1)
        dist2.view(-1, k)[first : first + m, : nearest.shape[1]] = nearest
        idx.view(-1, k)[first : first + m, : nearest.shape[1]] = order.to(torch.int32)
    if root:  # NumPy rounds roots correctly, which torch does not
        dist2 = torch.from_numpy(np.sqrt(dist2.cpu().numpy())).to(dist2.device)
    return dist2, idx
