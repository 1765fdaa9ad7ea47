"""Weighted sums of the rows of a property: an input is safe where some non-negative sum of its rows is positive.

Single rows may each fail to rule out a box while one sum of them does. The weights come from the rows' linear lower
functions, by exponentiated gradient ascent on the least value of the sum over the box. They are rounded to multiples
of 1/256, so that the summed rows are exact numbers and a bound on them is a proof.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bound_prop.rounding import EPS
from bound_prop.sets import Box

__all__ = ["are_exact", "summed", "weights"]

_GRID = 256.0
_FINEST = 4096.0


def are_exact(M: Tensor) -> bool:
    """Whether sums of the rows ``(S, K)`` with our weights are exact in double precision.

    One row has no sum; the rows of a sum are multiples of 1/4096 of moderate size, at most 64 of them.

    >>> are_exact(torch.tensor([[1.0, -1.0], [0.5, 0.0]])), are_exact(torch.tensor([[1.0, -1.0], [0.1, 0.0]]))
    (True, False)
    """
    scaled = M.double() * _FINEST
    fine = bool((scaled == scaled.round()).all()) and bool((M.abs() <= _FINEST).all())
    return 1 < len(M) <= 64 and fine


def weights(slopes: Tensor, offsets: Tensor, box: Box, steps: int = 24) -> tuple[Tensor, Tensor]:
    """Weights ``(B, S)`` whose sum of linear functions has a large least value, and that value ``(B,)``.

    Args:
        slopes: ``(B, S, *input)`` of linear functions.
        offsets: ``(B, S)``.
        box: B boxes.
        steps: of the ascent.

    >>> box = Box(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))  # x + 0.5 and -x + 0.5: the sum is 1
    >>> [x.tolist() for x in weights(torch.tensor([[[1.0], [-1.0]]]), torch.full((1, 2), 0.5), box)]
    [[[0.5, 0.5]], [0.5]]
    """
    a = slopes.flatten(2).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    c = offsets.nan_to_num(nan=-1.0, posinf=0.0, neginf=-1.0)
    low, high = box.lower.flatten(1), box.upper.flatten(1)

    def least(share: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.bmm(share.unsqueeze(1), a).squeeze(1)
        x = torch.where(total > 0, low, high)
        rows = torch.bmm(a, x.unsqueeze(2)).squeeze(2) + c  # the gradient
        return (share * rows).sum(1), rows

    logs = torch.zeros_like(c)
    share = torch.softmax(logs, 1)
    best_share, best = share, torch.full_like(c[:, 0], -torch.inf)
    for step in range(steps):
        share = torch.softmax(logs, 1)
        value, rows = least(share)
        better = value > best
        best, best_share = torch.where(better, value, best), torch.where(better[:, None], share, best_share)
        scale = (rows - rows.mean(1, keepdim=True)).abs().amax(1, keepdim=True).clamp(min=1e-30)
        logs = logs + rows / scale * (2.0 / (1.0 + 0.5 * step))
    rounded = (best_share * _GRID).round().div(_GRID)
    return rounded, least(rounded)[0]


def summed(share: Tensor, M: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(B, 1, K)`` and their limits ``(B, 1)``: where a row exceeds its limit, the box is safe.

    The limits are rounded up; the rows are exact, see `are_exact`.
    """
    rows = share.to(M) @ M
    limit = share.to(h) @ h
    slack = 2.0 * len(h) * EPS * (share.to(h) @ h.abs())
    return rows.unsqueeze(1), (limit + slack).unsqueeze(1)
