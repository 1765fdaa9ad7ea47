"""Reference of the bilinear sampler: four corners gathered by index."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CLAMP", "PARITY", "ZERO", "bilinear_sample", "bilinear_sample_backward"]

ZERO, CLAMP, PARITY = range(3)


def _axis(u: Tensor, size: int, border: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lower and upper index, their weights, and the slope of the weights (1 where u moves them)."""
    last = size - 1
    slope = torch.ones_like(u)
    if border == CLAMP:
        slope = ((u >= 0) & (u <= last)).to(u.dtype)
        u = u.clamp(0, last)
    low = u.floor().clamp(-2, size)
    high = low + 1
    if border == PARITY:
        low, high = low.clamp(0, last), high.clamp(0, last)
        return low.long(), high.long(), high - u, u - low, slope
    wl, wh = high - u, u - low
    if border == CLAMP:
        return low.long(), high.clamp(max=last).long(), wl, wh, slope
    wl = torch.where((low >= 0) & (low <= last), wl, 0)
    wh = torch.where((high >= 0) & (high <= last), wh, 0)
    return low.clamp(0, last).long(), high.clamp(0, last).long(), wl, wh, slope


def _corners(feat: Tensor, uv: Tensor, valid: Tensor | None, border: int) -> tuple[Tensor, ...]:
    h, w = feat.shape[-2:]
    used = uv.isfinite().all(-1)
    if valid is not None:
        used = used & valid
    uv = torch.where(used[..., None], uv, 0)
    x0, x1, wx0, wx1, sx = _axis(uv[..., 0], w, border)
    y0, y1, wy0, wy1, sy = _axis(uv[..., 1], h, border)
    rows = torch.stack([y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1], -1)
    weights = torch.stack([wy0 * wx0, wy0 * wx1, wy1 * wx0, wy1 * wx1], -1)
    return used, rows, weights, wx0, wx1, wy0, wy1, sx, sy


def _gather(feat: Tensor, rows: Tensor) -> Tensor:
    """(B, N, 4, C) values at the flat indices (B, N, 4)."""
    b, c = feat.shape[:2]
    flat = feat.reshape(b, c, feat.shape[2] * feat.shape[3]).transpose(1, 2)
    index = rows.reshape(b, rows.shape[1] * 4, 1).expand(-1, -1, c)
    return flat.gather(1, index).reshape(*rows.shape, c)


def _check(uv: Tensor, valid: Tensor | None, validate: bool) -> None:
    if not validate:
        return
    bad = ~uv.isfinite().all(-1)
    if valid is not None:
        bad &= valid
    if bool(bad.any()):
        b, n = bad.nonzero()[0].tolist()
        raise ValueError(
            f"bilinear_sample: uv: row {n} of batch element {b} is not finite; expected finite coordinates "
            "where valid"
        )


def bilinear_sample(feat: Tensor, uv: Tensor, valid: Tensor | None, border: int, validate: bool) -> Tensor:
    """Return (B, N, C) for feat (B, C, H, W), uv (B, N, 2) and valid (B, N)."""
    _check(uv, valid, validate)
    b, c, h, w = feat.shape
    if h == 0 or w == 0:
        return feat.new_zeros((b, uv.shape[1], c))
    used, rows, weights, *_ = _corners(feat, uv, valid, border)
    v = _gather(feat, rows) * weights[..., None]
    total = (v[..., 0, :] + v[..., 1, :]) + (v[..., 2, :] + v[..., 3, :])
    return torch.where(used[..., None], total, 0)


def bilinear_sample_backward(
    grad: Tensor, feat: Tensor, uv: Tensor, valid: Tensor | None, border: int, need_feat: bool, need_uv: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of feat (B, C, H, W) and of uv (B, N, 2); empty ones where not needed."""
    b, c, h, w = feat.shape
    grad_feat = feat.new_zeros((b, c, h, w) if need_feat else (0,))
    grad_uv = feat.new_zeros(uv.shape if need_uv else (0,))
    if h == 0 or w == 0:
        return grad_feat, grad_uv
    used, rows, weights, wx0, wx1, wy0, wy1, sx, sy = _corners(feat, uv, valid, border)
    grad = torch.where(used[..., None], grad, 0)
    if need_feat:
        flat = feat.new_zeros((b, h * w, c))
        for n in range(uv.shape[1]):
            for corner in range(4):
                index = rows[:, n, corner, None, None].expand(b, 1, c)
                flat.scatter_add_(1, index, (grad[:, n] * weights[:, n, corner, None])[:, None])
        grad_feat = flat.transpose(1, 2).reshape(b, c, h, w).contiguous()
    if need_uv:
        dot = (_gather(feat, rows) * grad[..., None, :]).sum(-1)
        # A corner left out by "zero" has weight 0 and, where it lies outside, no slope either.
        inside = torch.ones_like(dot) if border != ZERO else _inside(uv, used, h, w).to(dot.dtype)
        dot = dot * inside
        fy0, fy1, fx0, fx1 = (wy0, wy1, wx0, wx1)
        du = fy0 * (dot[..., 1] - dot[..., 0]) + fy1 * (dot[..., 3] - dot[..., 2])
        dv = fx0 * (dot[..., 2] - dot[..., 0]) + fx1 * (dot[..., 3] - dot[..., 1])
        grad_uv = torch.where(used[..., None], torch.stack([du * sx, dv * sy], -1), 0)
    return grad_feat, grad_uv


def _inside(uv: Tensor, used: Tensor, h: int, w: int) -> Tensor:
    """Which of the four corners lie on the map."""
    low = torch.where(used[..., None], uv, 0).floor()
    x = torch.stack([low[..., 0], low[..., 0] + 1], -1)
    y = torch.stack([low[..., 1], low[..., 1] + 1], -1)
    okx, oky = (x >= 0) & (x <= w - 1), (y >= 0) & (y <= h - 1)
    return (oky[..., :, None] & okx[..., None, :]).flatten(-2)
