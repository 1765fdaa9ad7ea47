"""Lines for one's own activations."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bound_prop.graph.trace import USER_MODULES
from bound_prop.lines import Activation, Convex, Lines, Ramp, SShaped, check

__all__ = ["Activation", "Convex", "Lines", "Ramp", "SShaped", "check", "register"]


def register(module: type[nn.Module], make: Callable[[nn.Module], Activation]) -> None:
    """Teaches the tracer an activation module.

    Args:
        module: its class; one elementwise function of one input.
        make: from a module to its `Activation`, read at each use. Run `check` on the result first.

    >>> import torch
    >>> class Mish2(nn.Module):
    ...     def forward(self, z):
    ...         return torch.nn.functional.softplus(z)
    >>> softplus = Convex(torch.nn.functional.softplus, torch.sigmoid, float("-inf"))
    >>> check(softplus)
    >>> register(Mish2, lambda module: softplus)
    """
    USER_MODULES[module] = make
