"""Reference of bias, leaky ReLU, gain and clamp in one step, and of the factor its gradient is multiplied by."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["activate", "bias_act", "bias_act_gate", "gate"]


def activate(u: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    """Leaky ReLU times gain, held within +-clamp; a clamp below 0 means none."""
    y = torch.where(u < 0, u * slope, u) * gain
    return y.clamp(-clamp, clamp) if clamp >= 0 else y


def gate(u: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    """Derivative of `activate` at u: 0 where the clamp holds."""
    factor = torch.where(u < 0, slope * gain, gain).to(u.dtype)
    if clamp < 0:
        return factor
    y = torch.where(u < 0, u * slope, u) * gain
    return torch.where(y.abs() < clamp, factor, 0)


def _with_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return x
    return x + bias.reshape([1, -1] + [1] * (x.dim() - 2))


def bias_act(x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float) -> Tensor:
    """Return activate(x + bias) for x (B, C, ...) and bias (C,)."""
    return activate(_with_bias(x, bias), slope, gain, clamp)


def bias_act_gate(
    v: Tensor, x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float
) -> Tensor:
    """Return v times the derivative of `activate` at x + bias."""
    return v * gate(_with_bias(x, bias), slope, gain, clamp)
