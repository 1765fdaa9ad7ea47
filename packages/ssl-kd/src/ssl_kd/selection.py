"""Selective transfer: which of the teacher's wrong answers are worth learning; the paper's Section 3.3."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["error_level", "select"]


def error_level(scores: Tensor, target: Tensor) -> Tensor:
    """Rank of the true entry: the number of strictly larger scores, 0 where the answer is right.

    A tie favours the truth; a true entry that is not finite is as wrong as can be.

    Args:
        scores: ``(n, m)``.
        target: ``(n,)`` true columns.

    Returns:
        ``(n,)`` int64.

    >>> error_level(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), torch.tensor([2, 1])).tolist()
    [1, 0]
    """
    if scores.ndim != 2 or target.shape != scores.shape[:1]:
        raise ValueError(
            f"error_level: got scores {tuple(scores.shape)}, target {tuple(target.shape)}; expected (n, m), (n,)"
        )
    own = scores.gather(1, target[:, None])
    level = (scores > own).sum(1)
    return torch.where(torch.isfinite(own[:, 0]), level, scores.shape[1])


def select(levels: Tensor, ratio: float) -> Tensor:
    """Rows to learn from: all right ones, and the ``floor(ratio · wrong)`` wrong ones of the smallest level.

    Args:
        levels: ``(n,)`` from `error_level`.
        ratio: share of the wrong rows, in [0, 1].

    Returns:
        Row numbers in ascending order, int64.

    >>> select(torch.tensor([0, 0, 3, 1, 2, 9]), 0.75).tolist()
    [0, 1, 2, 3, 4]
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"select: ratio: got {ratio}; expected a number in [0, 1]")
    right = (levels == 0).nonzero()[:, 0]
    wrong = (levels > 0).nonzero()[:, 0]
    count = math.floor(ratio * len(wrong) + 1e-9)
    ranked = wrong[torch.argsort(levels[wrong], stable=True)]
    return torch.cat([right, ranked[:count]]).sort().values
