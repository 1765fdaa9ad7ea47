"""Reference of bias, leaky ReLU, gain and clamp in one step, and of the factor its gradient is multiplied by."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["activate", "activation_slope", "bias_act", "bias_act_gate"]


def activate(u: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    """Leaky ReLU times gain, held within +-clamp; a clamp below 0 means none."""
    y = torch.where(u < 0, u * slope, u) * gain
    return y.clamp(-clamp, clamp) if clamp >= 0 else y


def activation_slope(u: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    """Derivative of `activate` at u: 0 where the clamp holds, slope * gain below 0, gain elsewhere."""
    factor = torch.where(u < 0, torch.full_like(u, slope * gain), torch.full_like(u, gain))
    if clamp < 0:
        return factor
    y = torch.where(u < 0, u * slope, u) * gain
    return torch.where((y >= -clamp) & (y <= clamp), factor, 0)


def _shifted(x: Tensor, bias: Tensor | None, noise: Tensor | None) -> Tensor:
    if bias is not None:
        x = x + bias.reshape([1, -1] + [1] * (x.dim() - 2))
    return x if noise is None else x + noise


def bias_act(
    x: Tensor, bias: Tensor | None, noise: Tensor | None, slope: float, gain: float, clamp: float
) -> Tensor:
    """Return activate(x + bias + noise) for x (B, C, ...), bias (C,) and noise (B or 1, 1, ...)."""
    return activate(_shifted(x, bias, noise), slope, gain, clamp)


def bias_act_gate(
    v: Tensor,
    x: Tensor,
    bias: Tensor | None,
    noise: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """Return v times the derivative of `activate` at x + bias + noise."""
    return v * activation_slope(_shifted(x, bias, noise), slope, gain, clamp)
