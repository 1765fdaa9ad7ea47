"""References of gathering rows by a table of indices, with and without a maximum over each group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["check_table", "group", "group_max", "group_max_backward", "group_out", "rows_of"]


def check_table(op: str, idx: Tensor, n: int, count: Tensor | None = None) -> None:
    """Raise ValueError for the first index outside -1 ... n - 1 in a group that has members."""
    bad = (idx < -1) | (idx >= n)
    if count is not None:
        bad &= (count > 0)[..., None]
    if bool(bad.any()):
        entry = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(f"{op}: idx: entry {entry} is {int(idx[entry])}; expected values from -1 to {n - 1}")


def rows_of(feats: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
    """Rows named by idx, (..., C), zero where it names none, and which entries name one."""
    n = feats.shape[-2]
    valid = (idx >= 0) & (idx < n)
    row = torch.where(valid, idx, 0).long()
    if n == 0:
        return feats.new_zeros((*idx.shape, feats.shape[-1])), valid
    if feats.dim() == 3:
        element = torch.arange(feats.shape[0], device=feats.device)
        row = row + (element * n).view(-1, *[1] * (idx.dim() - 1))
    rows = feats.flatten(0, -2)[row]
    return torch.where(valid[..., None], rows, torch.zeros_like(rows)), valid


def group(
    feats: Tensor, idx: Tensor, count: Tensor | None, center: Tensor | None, validate: bool = False
) -> Tensor:
    """Rows of feats (N, C) or (B, N, C) in the order of idx, less the centre in the first three columns."""
    if validate:
        check_table("group", idx, feats.shape[-2], count)
    rows, valid = rows_of(feats, idx)
    if count is not None:
        valid = valid & (count > 0)[..., None]
        rows = torch.where(valid[..., None], rows, torch.zeros_like(rows))
    if center is not None:
        shifted = rows[..., :3] - center[..., None, :]
        rows = torch.cat([torch.where(valid[..., None], shifted, rows[..., :3]), rows[..., 3:]], dim=-1)
    return rows


def group_out(
    feats: Tensor,
    idx: Tensor,
    count: Tensor | None,
    center: Tensor | None,
    validate: bool,
    out: Tensor,
) -> None:
    """`group` into a given tensor."""
    out.copy_(group(feats, idx, count, center, validate))


def group_max(
    feats: Tensor, idx: Tensor, count: Tensor | None, validate: bool = False
) -> tuple[Tensor, Tensor]:
    """Maximum over the first ``count`` slots of each group, and the row of its first occurrence."""
    if validate:
        check_table("group_max", idx, feats.shape[-2], count)
    best = feats.new_zeros((*idx.shape[:-1], feats.shape[-1]))
    arg = torch.full(best.shape, -1, dtype=torch.int32, device=feats.device)
    for slot in range(idx.shape[-1]):
        value, valid = rows_of(feats, idx[..., slot])
        if count is not None:
            valid = valid & (slot < count)
        better = ((value > best) | value.isnan()) & ~best.isnan()
        take = valid[..., None] & (better | (arg < 0))
        best = torch.where(take, value, best)
        arg = torch.where(take, idx[..., slot, None].to(torch.int32), arg)
    return best, arg


def group_max_backward(grad: Tensor, arg: Tensor, n: int, padded: bool) -> Tensor:
    """Gradient of the rows (n, C) or (B, n, C): that of every group goes to its arg, in ascending order."""
    channels = grad.shape[-1]
    batch = grad.shape[0] if padded else 1
    result = grad.new_zeros((batch, n, channels))
    groups = math.prod(grad.shape[1 if padded else 0 : -1])
    values, rows = grad.reshape(batch, groups, channels), arg.reshape(batch, groups, channels)
    channel = torch.arange(channels, device=grad.device)
    for element in range(batch):
        for value, row in zip(values[element], rows[element], strict=True):
            used = row >= 0
            result[element, row[used].long(), channel[used]] += value[used]
    return result if padded else result[0]
