"""Reference of the peak ops: every window compared entry by entry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["peaks_at", "topk_peaks"]


def peaks_at(heat: Tensor, kernel: int) -> Tensor:
    """Return (B, C, H, W) bool: no entry of the window is larger, and none is NaN."""
    reach = kernel // 2
    height, width = heat.shape[-2:]
    padded = F.pad(heat, (reach,) * 4, value=-torch.inf)
    peak = torch.ones_like(heat, dtype=torch.bool)
    for dy in range(kernel):
        for dx in range(kernel):
            peak &= padded[..., dy : dy + height, dx : dx + width] <= heat
    return peak


def topk_peaks(
    heat: Tensor, k: int, kernel: int, threshold: float, per_class: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores, classes, ys, xs of shape (B, k) or (B, C, k), as `tenfold.ops.topk_peaks` defines them."""
    b, c, h, w = heat.shape
    groups = (b, c) if per_class else (b,)
    peak = (
        (peaks_at(heat, kernel) & (heat > threshold)).reshape(
            *groups, heat[0].numel() // (c if per_class else 1)
        )
        if b and c
        else heat.new_zeros((*groups, 0), dtype=torch.bool)
    )
    value = torch.where(peak, heat.reshape(peak.shape), -torch.inf)
    ordered, place = value.sort(dim=-1, descending=True, stable=True)
    n = min(k, ordered.shape[-1])
    found = torch.arange(n, device=heat.device) < peak.sum(-1, keepdim=True)
    scores = heat.new_full((*groups, k), -torch.inf)
    scores[..., :n] = torch.where(found, ordered[..., :n], -torch.inf)
    place = place[..., :n]
    channel = (
        torch.arange(c, device=heat.device)[:, None].expand(b, c, n) if per_class else place // max(h * w, 1)
    )
    outputs = [scores]
    for column in (channel, place // max(w, 1) % max(h, 1), place % max(w, 1)):
        table = torch.full((*groups, k), -1, dtype=torch.int64, device=heat.device)
        table[..., :n] = torch.where(found, column, -1)
        outputs.append(table)
    return outputs[0], outputs[1], outputs[2], outputs[3]
