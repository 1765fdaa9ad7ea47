"""Distances of pixels: mean difference, and the peak signal-to-noise ratio, right and as it was published."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_distill.features import to_uint8

__all__ = ["mean_l1", "psnr"]


def psnr(x: Tensor, y: Tensor, mask: Tensor | None = None, *, legacy_uint8: bool = False) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], clamped to it; float64.

    Args:
        x: ``(B, C, H, W)``.
        y: likewise.
        mask: ``(B, 1, H, W)`` of 0 and 1: only these pixels count.
        legacy_uint8: the published column of StyleKD instead: 8-bit images whose difference and square wrap modulo 256,
            so that no pair whatever falls below 24.1 dB.

    Raises:
        ValueError: shapes differ, or a mask together with ``legacy_uint8``.

    >>> x = torch.zeros(1, 1, 2, 2)
    >>> round(psnr(x, x + 0.2), 4), psnr(x, x)
    (20.0, inf)
    """
    if x.shape != y.shape:
        raise ValueError(f"psnr: x, y: got shapes {tuple(x.shape)} and {tuple(y.shape)}; expected equal ones")
    if legacy_uint8:
        if mask is not None:
            raise ValueError("psnr: mask: got one with legacy_uint8; expected None")
        wrapped = (to_uint8(x).int() - to_uint8(y).int()) % 256
        error, peak = float(((wrapped * wrapped) % 256).double().mean()), 255.0
    else:
        squared = (x.clamp(-1, 1).double() - y.clamp(-1, 1).double()).square()
        if mask is None:
            error = float(squared.mean())
        else:
            weight = mask.double().expand_as(squared)
            error = float((squared * weight).sum() / weight.sum().clamp(min=1))
        peak = 2.0
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def mean_l1(x: Tensor, y: Tensor) -> float:
    """Mean absolute difference.

    >>> mean_l1(torch.zeros(2), torch.tensor([1.0, -2.0]))
    1.5
    """
    return float(torch.mean((x - y).abs().double()))
