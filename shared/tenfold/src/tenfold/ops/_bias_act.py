"""Bias, noise and leaky ReLU in one pass."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tenfold import ref
from tenfold.ops._checks import HALVES, as_compute, require, require_float, require_shape
from tenfold.ops._library import define, invoke

__all__ = ["bias_act"]


def _fake_gate(
    v: Tensor,
    x: Tensor,
    bias: Tensor | None,
    noise: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    return v.new_empty(v.shape)


def _fake(
    x: Tensor, bias: Tensor | None, noise: Tensor | None, slope: float, gain: float, clamp: float
) -> Tensor:
    return x.new_empty(x.shape)


def _setup_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, x, bias, noise, *ctx.numbers = inputs
    ctx.save_for_backward(x, bias, noise)


def _backward_gate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gate is linear in v, with itself as transpose; in the rest it is constant almost everywhere."""
    x, bias, noise = ctx.saved_tensors
    return invoke(_gate, grad, x, bias, noise, *ctx.numbers), None, None, None, None, None, None


_gate = define(
    "bias_act_gate(Tensor v, Tensor x, Tensor? bias, Tensor? noise, float slope, float gain, float clamp) -> Tensor",
    contract=1,
    reference=ref.bias_act_gate,
    fake=_fake_gate,
    backward=_backward_gate,
    setup_context=_setup_gate,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, noise, *ctx.numbers = inputs
    ctx.save_for_backward(x, bias, noise)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, noise = ctx.saved_tensors
    g = invoke(_gate, grad, x, bias, noise, *ctx.numbers)
    inner = list(range(2, g.dim()))
    grad_bias = g.sum(dim=[0, *inner]) if ctx.needs_input_grad[1] else None
    grad_noise = None
    if ctx.needs_input_grad[2]:
        grad_noise = g.sum(dim=[0, 1] if noise.shape[0] != g.shape[0] else [1], keepdim=True)
    return g, grad_bias, grad_noise, None, None, None


_bias_act = define(
    "bias_act(Tensor x, Tensor? bias, Tensor? noise, float slope, float gain, float clamp) -> Tensor",
    contract=1,
    reference=ref.bias_act,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def check_bias(op: str, bias: Tensor | None, x: Tensor) -> None:
    """Raise unless bias is None or has one number a channel of x."""
    if bias is None:
        return
    require_float(op, "bias", bias)
    require_shape(op, "bias", bias, (x.shape[1],), "one number a channel")
    require(bias.device == x.device, f"{op}: bias: on {bias.device}; expected {x.device}")


def check_activation(op: str, slope: float, gain: float, clamp: float | None) -> None:
    """Raise unless the numbers describe a leaky ReLU."""
    # By comparison: torch.compile may trace the numbers, and math.isfinite cannot be.
    require(abs(slope) < math.inf, f"{op}: slope: got {slope}; expected a finite number")
    require(abs(gain) < math.inf, f"{op}: gain: got {gain}; expected a finite number")
    require(clamp is None or clamp >= 0, f"{op}: clamp: got {clamp}; expected None or a number >= 0")


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    slope: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    """Add a bias and noise, apply leaky ReLU, a gain and a clamp, in one pass over the map.

    With u = x + bias + noise: ``y = gain * u`` where u >= 0, ``gain * slope * u`` elsewhere, held within +-clamp.

    Args:
        x: (B, C, ...) float32, float64 or half precision (then computed in float32).
        bias: (C,) or None.
        noise: (B, 1, ...) or (1, 1, ...), one map for all channels, or None.
        slope: 1 makes it linear, 0 the plain ReLU.
        gain: see above.
        clamp: bound, or None.

    Returns:
        As x. Differentiable in x, bias and noise any number of times; at a kink the derivative is that from above, and
        0 beyond the clamp.

    Raises:
        ValueError: wrong shapes or numbers.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> from tenfold.ops import bias_act
        >>> bias_act(torch.tensor([[-2.0, 1.0]]), torch.tensor([1.0, 2.0]), gain=1.0, clamp=2.5)
        tensor([[-0.2000,  2.5000]])
    """
    op = "bias_act"
    require_float(op, "x", x)
    require(x.dim() >= 2, f"{op}: x: got shape {tuple(x.shape)}; expected (B, C, ...)")
    check_bias(op, bias, x)
    if noise is not None:
        require_float(op, "noise", noise)
        fine = noise.dim() == x.dim() and noise.shape[0] in (1, x.shape[0]) and noise.shape[1] == 1
        fine = fine and noise.shape[2:] == x.shape[2:]
        size = ", ".join(["B or 1", "1", *(str(n) for n in x.shape[2:])])
        require(fine, f"{op}: noise: got shape {tuple(noise.shape)}; expected ({size})")
        require(noise.device == x.device, f"{op}: noise: on {noise.device}; expected {x.device}")
    check_activation(op, slope, gain, clamp)
    wide = as_compute(x)
    shift = None if bias is None else bias.to(wide.dtype)
    field = None if noise is None else noise.to(wide.dtype)
    limit = -1.0 if clamp is None else float(clamp)
    result: Tensor = invoke(_bias_act, wide, shift, field, float(slope), float(gain), limit)
    return result.to(x.dtype) if x.dtype in HALVES else result
