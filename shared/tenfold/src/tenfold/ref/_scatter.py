"""Reference of the segment reduction: rows in ascending order, one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["scatter", "scatter_backward"]

SUM, MEAN, MAX, MIN = range(4)


def scatter(
    feats: Tensor, index: Tensor, num: int, reduce: int, need_arg: bool, validate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the reduction (num, C), the arg of max and min (num, C) int32, and the rows of each segment."""
    if validate:
        bad = (index < -1) | (index >= num)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"scatter: index: row {row} holds {int(index[row])}; expected values from -1 to {num - 1}"
            )
    result = feats.new_zeros((num, feats.shape[1]))
    arg = torch.full((num, feats.shape[1]), -1, dtype=torch.int32, device=feats.device)
    seen = [0] * num
    for row, segment in enumerate(index.tolist()):
        if not 0 <= segment < num:
            continue
        value, best = feats[row], result[segment]
        if reduce in (SUM, MEAN):
            result[segment] = best + value
        else:
            better = (value > best) if reduce == MAX else (value < best)
            take = (
                (better | value.isnan()) & ~best.isnan() if seen[segment] else torch.ones_like(value).bool()
            )
            result[segment] = torch.where(take, value, best)
            arg[segment] = torch.where(take, row, arg[segment])
        seen[segment] += 1
    count = torch.tensor(seen, dtype=torch.int32, device=feats.device)
    if reduce == MEAN:
        result /= count.clamp(min=1)[:, None]
    if not (need_arg and reduce in (MAX, MIN)):
        arg = arg[:0]
    return result, arg, count


def scatter_backward(grad: Tensor, index: Tensor, arg: Tensor, count: Tensor, reduce: int) -> Tensor:
    """Gradient of the rows: that of their segment, shared by mean, to the first arg alone by max and min."""
    used = (index >= 0) & (index < grad.shape[0])
    segment = index.long()[used]
    values = grad[segment]
    if reduce == MEAN:
        values = values / count[segment][:, None]
    if reduce in (MAX, MIN):
        rows = used.nonzero()
        values = torch.where(arg[segment] == rows, values, torch.zeros_like(values))
    result = grad.new_zeros((index.shape[0], grad.shape[1]))
    result[used] = values
    return result
