"""Reference of the interpolation by weighted neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tenfold.ref._group import check_table, rows_of

__all__ = ["interpolate", "interpolate_backward"]


def interpolate(feats: Tensor, idx: Tensor, weight: Tensor, validate: bool = False) -> Tensor:
    """Weighted sums (..., C) of the rows that idx (..., k) names, from the first slot to the last."""
    if validate:
        check_table("three_interpolate", idx, feats.shape[-2])
    result = feats.new_zeros((*idx.shape[:-1], feats.shape[-1]))
    for slot in range(idx.shape[-1]):
        rows, valid = rows_of(feats, idx[..., slot])
        term = weight[..., slot, None] * rows
        result = result + torch.where(valid[..., None], term, torch.zeros_like(term))
    return result


def interpolate_backward(
    grad: Tensor, feats: Tensor, idx: Tensor, weight: Tensor, need_feats: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of feats (summed over rows, then slots) and of weight; empty where not needed."""
    n, channels = feats.shape[-2:]
    batch = feats.shape[0] if feats.dim() == 3 else 1
    grad_feats = feats.new_zeros((batch, n, channels) if need_feats else (0,))
    if need_feats:
        groups, k = math.prod(idx.shape[feats.dim() - 2 : -1]), idx.shape[-1]
        g = grad.reshape(batch, groups, channels)
        i, w = idx.reshape(batch, groups, k), weight.reshape(batch, groups, k)
        for element in range(batch):
            for row in range(g.shape[1]):
                for slot, target in enumerate(i[element, row].tolist()):
                    if 0 <= target < n:
                        grad_feats[element, target] += w[element, row, slot] * g[element, row]
        grad_feats = grad_feats.reshape(feats.shape)
    grad_weight = weight.new_zeros(weight.shape if need_weight else (0,))
    if need_weight:
        for slot in range(idx.shape[-1]):
            rows, _ = rows_of(feats, idx[..., slot])
            grad_weight[..., slot] = (rows * grad).sum(dim=-1)
    return grad_feats, grad_weight
