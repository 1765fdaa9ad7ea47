"""Kernel distance of two sets of features (KID)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["compute_kid"]


def compute_kid(real: Tensor, fake: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    """Mean over random subsets of the unbiased squared MMD under the kernel ``(x.y / D + 1)^3``.

    Args:
        real: features ``(N, D)``.
        fake: features ``(M, D)``.
        subsets: how many are drawn.
        size: of each, without replacement; at most N and M.
        seed: of the draw.

    Raises:
        ValueError: fewer than two features on a side, or other D.

    >>> x = torch.eye(4)
    >>> abs(compute_kid(x, x, subsets=1, size=4)) < 1
    True
    """
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"compute_kid: real, fake: got shapes {tuple(real.shape)} and {tuple(fake.shape)}; expected (N, D)"
        )
    n = min(size, len(real), len(fake))
    if n < 2:
        raise ValueError(f"compute_kid: size: got {n} features; expected at least 2")
    rng = np.random.default_rng(seed)
    a, b = real.double(), fake.double()
    total = 0.0
    for _ in range(subsets):
        x = a[torch.from_numpy(rng.choice(len(a), n, replace=False))]
        y = b[torch.from_numpy(rng.choice(len(b), n, replace=False))]
        within = _kernel(x, x) + _kernel(y, y)
        off = (within.sum() - within.trace()) / (n * (n - 1))
        total += float(off - 2 * _kernel(x, y).mean())
    return total / subsets


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
