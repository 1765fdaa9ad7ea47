"""Precision and recall of generated images by neighbourhoods of features (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["compute_pr"]


def compute_pr(real: Tensor, fake: Tensor, *, k: int = 3, chunk: int = 4096) -> tuple[float, float]:
    """Precision: share of *generated* features inside the real set's manifold; recall: the other way round.

    A feature lies inside a set's manifold when some member of the set is at least as near as that member's own
    k-th neighbour.

    Args:
        real: ``(N, D)``.
        fake: ``(M, D)``.
        k: the neighbour whose distance is a member's radius, itself not counted.
        chunk: rows compared at a time.

    Raises:
        ValueError: not more than k features on a side, or other D.

    >>> real = torch.tensor([[0.0], [1.0], [2.0]])
    >>> compute_pr(real, torch.tensor([[0.5], [9.0], [30.0]]), k=1)
    (0.3333333333333333, 1.0)
    """
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"compute_pr: real, fake: got shapes {tuple(real.shape)} and {tuple(fake.shape)}; expected (N, D)"
        )
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"compute_pr: got {len(real)} real and {len(fake)} generated features; expected more than k={k}"
        )
    return _covered(real, fake, k, chunk), _covered(fake, real, k, chunk)


def _covered(members: Tensor, asked: Tensor, k: int, chunk: int) -> float:
    """Share of ``asked`` inside the manifold of ``members``."""
    # Products round differently for large and small norms: distances are exact differences.
    radii = torch.cat(
        [_distance(rows, members).kthvalue(k + 1, dim=1).values for rows in members.split(chunk)]
    )
    inside = [(_distance(rows, members) <= radii).any(1) for rows in asked.split(chunk)]
    return float(torch.cat(inside).double().mean())


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
