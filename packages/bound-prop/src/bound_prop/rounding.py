"""Outward rounding: bounds in double precision that hold in exact arithmetic.

Every floating-point result of the propagation is accompanied by a bound on its distance to the exact result, by
the usual model (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3): a sum of n products computed in
any order is off by at most ``gamma_n = n eps / (1 - n eps)`` times the sum of the magnitudes. In back-substitution the
error of a computed row ``fl(a W)`` is charged where it meets its input, whose magnitude is known from sound intervals:
``|fl(a W) x - a W x| <= gamma |a| |W| |x|``. Lines are lifted by the rounding error of their slope and offset over the
interval. The guarantee is for the network with the given parameters in real arithmetic, computed on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bound_prop.graph.ops import Planes, Relaxed, Unary
from bound_prop.sets import Interval

__all__ = ["gamma", "largest", "lift", "widen"]

EPS = torch.finfo(torch.float64).eps
# Twice the textbook factor: the error bounds are themselves computed in floating point.
_SAFETY = 2.0


def gamma(terms: int) -> float:
    """Relative error of a sum of ``terms`` products, with room for the rounding of the bound itself."""
    return _SAFETY * (terms + 4) * EPS


def largest(box: Interval) -> Tensor:
    """Largest magnitude in an interval."""
    return torch.maximum(box[0].abs(), box[1].abs())


def widen(box: Interval, error: Tensor) -> Interval:
    """The interval with both ends moved outward by ``error`` and by the rounding of that move."""
    low, high = box
    return (
        low - (error + 2 * EPS * (low.abs() + error)),
        high + (error + 2 * EPS * (high.abs() + error)),
    )


def lift(op: Relaxed, planes: Planes, boxes: Sequence[Interval]) -> Planes:
    """Planes moved away from the function by what rounding may have done to them."""
    ulps = op.make(boxes[0][0]).ulps if isinstance(op, Unary) else 16.0
    low, high = op.interval(*boxes)
    scale = torch.maximum(low.abs(), high.abs()).flatten(1)
    sizes = [largest(box).flatten(1) for box in boxes]
    down, up = scale + planes.lower_bias.abs().flatten(1), scale + planes.upper_bias.abs().flatten(1)
    if isinstance(op, Unary) or len(planes.lower) == len(sizes):
        for size, below, above in zip(sizes, planes.lower, planes.upper, strict=True):
            down = down + below.abs().flatten(1) * size
            up = up + above.abs().flatten(1) * size
    pad = ulps * EPS
    return planes._replace(
        lower_bias=planes.lower_bias - (pad * down).view_as(planes.lower_bias),
        upper_bias=planes.upper_bias + (pad * up).view_as(planes.upper_bias),
    )
