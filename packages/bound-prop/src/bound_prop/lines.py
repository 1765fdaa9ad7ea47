"""Bounding lines: for an interval of the input, a line below and a line above an activation.

Two pairs are defined for each activation. The *tight* pair passes through the corners of the box that interval
propagation uses, with the steepest slopes that never leave that box: with it no method is looser than interval
propagation (Lyu et al. 2021, theorem 2, for ReLU, LeakyReLU and ParamRamp; the corner construction extends it to
every non-decreasing activation and to any activation whose lines stay inside the box). The *steep* pair is the
other end of the family over which `alpha-crown` optimises; *adaptive* picks, neuron by neuron, as CROWN does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Activation", "Convex", "Lines", "Ramp", "SShaped", "Strategy", "check", "choose"]

Strategy = Literal["tight", "adaptive", "constant", "same-slope", "steep"]
Unary = Callable[[Tensor], Tensor]


class Lines(NamedTuple):
    """``lower_slope z + lower_bias <= f(z) <= upper_slope z + upper_bias``, elementwise."""

    lower_slope: Tensor
    lower_bias: Tensor
    upper_slope: Tensor
    upper_bias: Tensor

    def mix(self, other: Lines, lower: Tensor, upper: Tensor) -> Lines:
        """A convex combination: valid because both pairs are; 0 gives self, 1 gives ``other``."""
        return Lines(
            torch.lerp(self.lower_slope, other.lower_slope, lower),
            torch.lerp(self.lower_bias, other.lower_bias, lower),
            torch.lerp(self.upper_slope, other.upper_slope, upper),
            torch.lerp(self.upper_bias, other.upper_bias, upper),
        )


class Activation:
    """A function of one variable with its lines; subclasses define `forward`, `tight` and `steep`.

    Every method takes interval ends of equal shape and returns tensors of that shape.
    """

    #: Rounding errors of `forward` and of the lines, in units of the dtype's epsilon; see `bound_prop.rounding`.
    ulps: float = 16.0

    def forward(self, z: Tensor) -> Tensor:
        """The function."""
        raise NotImplementedError

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Range of the function on the interval; as it stands, of a non-decreasing one."""
        return self.forward(lower), self.forward(upper)

    def tight(self, lower: Tensor, upper: Tensor) -> Lines:
        """Lines that stay inside the interval's box."""
        raise NotImplementedError

    def steep(self, lower: Tensor, upper: Tensor) -> Lines:
        """The other end of the family of lines."""
        return self.tight(lower, upper)

    def adaptive(self, lower: Tensor, upper: Tensor) -> Lines:
        """Lines chosen to lie close to the function, box or not."""
        return self.steep(lower, upper)

    def same_slope(self, lower: Tensor, upper: Tensor) -> Lines:
        """Two parallel lines (Fast-Lin), where the activation has them."""
        raise ValueError(f"lines: 'same-slope' is not defined for {type(self).__name__}; use 'tight'")

    def constant(self, lower: Tensor, upper: Tensor) -> Lines:
        """Slopes 0: interval propagation."""
        low, high = self.interval(lower, upper)
        zero = torch.zeros_like(low)
        return Lines(zero, low, zero, high)

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where the lines are exact and do not depend on the interval."""
        return torch.zeros_like(lower, dtype=torch.bool)


def choose(activation: Activation, strategy: Strategy, lower: Tensor, upper: Tensor) -> Lines:
    """The pair of lines that a strategy names.

    Raises:
        ValueError: an unknown strategy, or one that the activation lacks.

    >>> from bound_prop.lines import Ramp
    >>> choose(Ramp.leaky(0.0), "adaptive", torch.tensor([-1.0]), torch.tensor([3.0])).lower_slope
    tensor([1.])
    """
    methods = {
        "tight": activation.tight,
        "adaptive": activation.adaptive,
        "constant": activation.constant,
        "same-slope": activation.same_slope,
        "steep": activation.steep,
    }
    if strategy not in methods:
        raise ValueError(f"lines: got {strategy!r}; expected one of {', '.join(methods)}")
    return methods[strategy](lower, upper)


@dataclass(frozen=True)
class Ramp(Activation):
    """Slope ``eta`` outside ``[0, knee]``, slope 1 inside; without a knee LeakyReLU, with eta = 0 ReLU.

    Lyu et al. 2021, equation 139 and appendix A.7 (the table of lines).

    Attributes:
        eta: number or tensor that broadcasts to the input.
        knee: None, or a positive tensor that broadcasts to the input.
    """

    eta: float | Tensor
    knee: Tensor | None = None

    @staticmethod
    def leaky(eta: float | Tensor) -> Ramp:
        """LeakyReLU; slopes above 1 and below 0 (PReLU) are handled too."""
        return Ramp(eta)

    def _slopes(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.eta, dtype=like.dtype, device=like.device).expand_as(like)

    def forward(self, z: Tensor) -> Tensor:
        if not isinstance(self.eta, Tensor):
            if self.knee is None:
                return F.leaky_relu(z, self.eta) if self.eta else torch.relu(z)
            if not self.eta:
                return torch.minimum(torch.relu(z), self.knee)
        eta = torch.as_tensor(self.eta, dtype=z.dtype, device=z.device)
        if self.knee is None:
            return torch.where(z > 0, z, eta * z)
        beyond = eta * z + (1 - eta) * self.knee
        return torch.where(z > self.knee, beyond, torch.where(z > 0, z, eta * z))

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.forward(lower), self.forward(upper)
        if not isinstance(self.eta, Tensor) and self.eta >= 0:
            return low, high
        # A negative slope: the smallest value lies at 0 where the interval holds it.
        least, most = torch.minimum(low, high), torch.maximum(low, high)
        inside = (lower < 0) & (upper > 0) & (self._slopes(lower) < 0)
        return torch.where(inside, torch.zeros_like(least), least), most

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        alive = lower >= 0
        if self.knee is None:
            return (upper <= 0) | alive
        return (upper <= 0) | (alive & (upper <= self.knee)) | (lower >= self.knee)

    def tight(self, lower: Tensor, upper: Tensor) -> Lines:
        return self._lines(lower, upper, "tight")

    def steep(self, lower: Tensor, upper: Tensor) -> Lines:
        return self._lines(lower, upper, "steep")

    def adaptive(self, lower: Tensor, upper: Tensor) -> Lines:
        return self._lines(lower, upper, "adaptive")

    def same_slope(self, lower: Tensor, upper: Tensor) -> Lines:
        if self.knee is not None:
            return super().same_slope(lower, upper)
        lines = self.tight(lower, upper)
        return Lines(lines.upper_slope, torch.zeros_like(lower), lines.upper_slope, lines.upper_bias)

    def _lines(self, lower: Tensor, upper: Tensor, pick: str) -> Lines:
        if self.knee is None:
            return self._leaky_lines(lower, upper, pick)
        return self._ramp_lines(lower, upper, self.knee.expand_as(lower), pick)

    def _leaky_lines(self, lower: Tensor, upper: Tensor, pick: str) -> Lines:
        eta, one, zero = self._slopes(lower), torch.ones_like(lower), torch.zeros_like(lower)
        alive, dead = lower >= 0, upper <= 0
        crossing = ~(alive | dead)
        width = torch.where(crossing, upper - lower, one)
        chord = torch.where(crossing, (upper - eta * lower) / width, one)
        chord_bias = torch.where(crossing, upper - chord * upper, zero)
        # The steeper single piece lies on the other side of 0's piece: below for slopes up to 1, above beyond.
        flat = eta.clamp(min=0) if isinstance(self.eta, Tensor) or self.eta < 0 else eta
        use_flat = _pick_flat(pick, -lower > upper, lower)
        slope = torch.where(alive, one, torch.where(dead, eta, torch.where(use_flat, flat, one)))
        edge = torch.where(alive, one, torch.where(dead, eta, chord))
        if not isinstance(self.eta, Tensor) and self.eta <= 1:
            return Lines(slope, zero, edge, chord_bias)
        concave = eta > 1
        # A concave kink: the tight line above has slope 1, the chord lies below.
        above = torch.where(alive, one, torch.where(dead, eta, torch.where(use_flat, one, eta)))
        return Lines(
            torch.where(concave, edge, slope),
            torch.where(concave, chord_bias, zero),
            torch.where(concave, above, edge),
            torch.where(concave, zero, chord_bias),
        )

    def _ramp_lines(self, lower: Tensor, upper: Tensor, knee: Tensor, pick: str) -> Lines:
        eta, one, zero = self._slopes(lower), torch.ones_like(lower), torch.zeros_like(lower)
        beyond = (1 - eta) * knee
        left, right = lower < 0, upper > knee
        dead_left, dead_right = upper <= 0, lower >= knee
        alive = ~left & ~right
        both = left & right & ~dead_left & ~dead_right
        left_only = left & ~right & ~dead_left
        right_only = right & ~left & ~dead_right
        # Lower lines. Steep: z itself, or the line through (0, 0) and the function's end beyond the knee.
        end = eta * upper + beyond
        reach = torch.where(both, end / torch.where(both, upper, one), one)
        steep_low = torch.where(both, reach, one)
        low_flat = _pick_flat(pick, -lower > upper, lower)
        low_slope = torch.where(low_flat, eta, steep_low)
        chord_r = (end - lower) / torch.where(right_only, upper - lower, one)
        chord_r_bias = lower - chord_r * lower
        lower_slope = torch.where(
            dead_left,
            eta,
            torch.where(
                dead_right, eta, torch.where(alive, one, torch.where(right_only, chord_r, low_slope))
            ),
        )
        lower_bias = torch.where(
            dead_right & ~dead_left,
            beyond,
            torch.where(right_only, chord_r_bias, zero),
        )
        # Upper lines. Steep: z itself, or the line through (knee, knee) and the function's start below 0.
        start = (knee - eta * lower) / torch.where(both, knee - lower, one)
        steep_up = torch.where(both, start, one)
        up_flat = _pick_flat(pick, upper - knee > knee - lower, lower)
        up_slope = torch.where(up_flat, eta, steep_up)
        up_bias = knee - up_slope * knee
        chord_l = (upper - eta * lower) / torch.where(left_only, upper - lower, one)
        chord_l_bias = upper - chord_l * upper
        upper_slope = torch.where(
            dead_left,
            eta,
            torch.where(dead_right, eta, torch.where(alive, one, torch.where(left_only, chord_l, up_slope))),
        )
        # In the order of the slopes: an interval that is the point of the knee is dead and alive at once.
        upper_bias = torch.where(
            dead_left,
            zero,
            torch.where(
                dead_right,
                beyond,
                torch.where(alive, zero, torch.where(left_only, chord_l_bias, up_bias)),
            ),
        )
        return Lines(lower_slope, lower_bias, upper_slope, upper_bias)


def _pick_flat(pick: str, adaptive: Tensor, like: Tensor) -> Tensor:
    if pick == "adaptive":
        return adaptive
    return torch.full_like(like, pick == "tight", dtype=torch.bool)


@dataclass(frozen=True)
class Convex(Activation):
    """A differentiable convex function (``sign`` 1) or concave one (``sign`` -1).

    Attributes:
        function: the function.
        derivative: its derivative.
        turn: where the convex function is smallest (the concave one largest); -inf for a non-decreasing
            convex, +inf for a non-decreasing concave function.
        sign: 1 or -1.
        domain: below this the function is not defined.
    """

    function: Unary
    derivative: Unary
    turn: float
    sign: int = 1
    domain: float = -math.inf
    ulps = 64.0

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        ends = self.function(lower), self.function(upper)
        corner = self.function(self._turn(lower, upper))
        if self.sign > 0:
            return corner, torch.maximum(*ends)
        return torch.minimum(*ends), corner

    def tight(self, lower: Tensor, upper: Tensor) -> Lines:
        return self._lines(lower, upper, self._turn(lower, upper))

    def steep(self, lower: Tensor, upper: Tensor) -> Lines:
        return self._lines(lower, upper, (lower + upper) / 2)

    def _turn(self, lower: Tensor, upper: Tensor) -> Tensor:
        if self.domain > -math.inf and bool((lower <= self.domain).any()):
            raise ValueError(
                f"lines: an interval reaches {float(lower.detach().min()):g}, where the function is not"
                f" defined; expected inputs above {self.domain:g}"
            )
        return torch.minimum(torch.maximum(torch.full_like(lower, self.turn), lower), upper)

    def _lines(self, lower: Tensor, upper: Tensor, touch: Tensor) -> Lines:
        slope = self.derivative(touch)
        tangent = slope, self.function(touch) - slope * touch
        value = self.function(lower)
        chord = _chord(lower, upper, value, self.function(upper), slope)
        secant = chord, value - chord * lower
        return Lines(*tangent, *secant) if self.sign > 0 else Lines(*secant, *tangent)


@dataclass(frozen=True)
class SShaped(Activation):
    """A differentiable non-decreasing function, convex below 0 and concave above, such as tanh.

    Attributes:
        function: the function.
        derivative: its derivative.
    """

    function: Unary
    derivative: Unary
    ulps = 64.0

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)

    def tight(self, lower: Tensor, upper: Tensor) -> Lines:
        low, high = self.function(lower), self.function(upper)
        chord = _chord(lower, upper, low, high, self.derivative(lower))
        down = torch.minimum(self.derivative(lower), chord)
        up = torch.minimum(self.derivative(upper), chord)
        return Lines(down, low - down * lower, up, high - up * upper)

    def steep(self, lower: Tensor, upper: Tensor) -> Lines:
        """Tangents at the middle, where they enclose the least area, or as near to it as one is valid."""
        low, high = self.function(lower), self.function(upper)
        chord = _chord(lower, upper, low, high, self.derivative(lower))
        middle = (lower + upper) / 2
        slope = self.derivative(middle)
        tangent = slope, self.function(middle) - slope * middle
        secant = chord, low - chord * lower
        up_slope, up_bias = self._from_end(lower, upper, chord, secant[1])
        down_slope, down_bias = self._from_end(-upper, -lower, chord, -secant[1], mirrored=True)
        concave, convex = lower >= 0, upper <= 0
        return Lines(
            torch.where(convex, tangent[0], torch.where(concave, secant[0], down_slope)),
            torch.where(convex, tangent[1], torch.where(concave, secant[1], -down_bias)),
            torch.where(concave, tangent[0], torch.where(convex, secant[0], up_slope)),
            torch.where(concave, tangent[1], torch.where(convex, secant[1], up_bias)),
        )

    def _from_end(
        self, lower: Tensor, upper: Tensor, chord: Tensor, bias: Tensor, mirrored: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Upper line that touches the concave part at the middle, or where the one from ``(lower, f(lower))`` does.

        The tangents of the concave part from there on are all valid; where none is, the chord. ``mirrored`` treats
        z -> -f(-z), which turns the lower line into an upper one.
        """
        sign = -1.0 if mirrored else 1.0

        def value(z: Tensor) -> Tensor:
            return sign * self.function(sign * z)

        def slope(z: Tensor) -> Tensor:
            return self.derivative(sign * z)

        with torch.no_grad():
            near, far = torch.zeros_like(lower), upper.clamp(min=0)
            start = value(lower)
            for _ in range(40):
                touch = (near + far) / 2
                above = slope(touch) * (touch - lower) > value(touch) - start
                near, far = torch.where(above, touch, near), torch.where(above, far, touch)
            # The far side of the last bracket: there the tangent lies above the curve at `lower`.
            touch = torch.maximum(far, (lower + upper) / 2)
        use_chord = self.derivative(sign * upper) >= chord
        tangent = slope(touch)
        # Lifted to pass above both the touching point and the end, whatever the bisection has left.
        lift = torch.maximum(value(touch) - tangent * touch, value(lower) - tangent * lower)
        return torch.where(use_chord, chord, tangent), torch.where(use_chord, bias, lift)


def _chord(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor, at_point: Tensor) -> Tensor:
    """Slope of the secant; the derivative where the interval is a point."""
    wide = upper > lower
    return torch.where(
        wide, (high - low) / torch.where(wide, upper - lower, torch.ones_like(lower)), at_point
    )


def check(
    activation: Activation,
    *,
    strategy: Strategy = "tight",
    count: int = 2000,
    points: int = 65,
    scale: float = 4.0,
    seed: int = 0,
    dominance: bool | None = None,
) -> None:
    """Samples intervals and points and raises where a line is on the wrong side of the function.

    For one's own activations, before trusting a bound: soundness on every sampled interval, and for the
    tight strategy that the lines stay inside the interval's box.

    Args:
        activation: what to examine.
        strategy: which lines.
        count: number of intervals; points, tiny and huge ones are among them.
        points: samples in each.
        scale: typical size of the ends.
        seed: of the samples.
        dominance: whether to check the box; by default for "tight".

    Raises:
        AssertionError: with the interval and the point.

    >>> check(Ramp.leaky(0.1))
    """
    generator = torch.Generator().manual_seed(seed)
    middle = scale * torch.randn(count, generator=generator, dtype=torch.float64)
    half = scale * torch.rand(count, generator=generator, dtype=torch.float64) ** 3
    half[::10] = 0
    lower, upper = middle - half, middle + half
    if isinstance(activation, Convex) and activation.domain > -math.inf:
        lower, upper = lower.abs() + 1e-3, lower.abs() + 1e-3 + 2 * half
    lines = choose(activation, strategy, lower, upper)
    share = torch.linspace(0, 1, points, dtype=torch.float64)
    z = torch.lerp(lower[:, None], upper[:, None], share)
    value = activation.forward(z)
    slack = 1e-9 * (1 + value.abs() + z.abs())
    below = lines.lower_slope[:, None] * z + lines.lower_bias[:, None] - value
    above = value - lines.upper_slope[:, None] * z - lines.upper_bias[:, None]
    for name, gap in (("lower", below), ("upper", above)):
        worst = int((gap - slack).amax(1).argmax())
        assert float((gap - slack)[worst].max()) <= 0, (
            f"check: the {name} line is wrong on [{float(lower[worst])}, {float(upper[worst])}] by"
            f" {float(gap[worst].max()):g}"
        )
    if dominance if dominance is not None else strategy == "tight":
        low, high = activation.interval(lower, upper)
        least = lines.lower_slope[:, None] * z + lines.lower_bias[:, None]
        most = lines.upper_slope[:, None] * z + lines.upper_bias[:, None]
        assert bool((least >= low[:, None] - slack).all()), "check: a lower line leaves the interval's box"
        assert bool((most <= high[:, None] + slack).all()), "check: an upper line leaves the interval's box"
