"""Bounding lines: validity, dominance over the interval's box, and the places where rounding bites."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bound_prop.graph.build import _SMOOTH
from bound_prop.lines import Convex, Ramp, check, choose

KNEE = torch.tensor(1.0, dtype=torch.float64)
ACTIVATIONS = {
    "relu": Ramp(0.0),
    "leaky": Ramp(0.01),
    "half": Ramp(0.5),
    "prelu above 1": Ramp(torch.tensor(2.0, dtype=torch.float64)),
    "prelu below 0": Ramp(torch.tensor(-0.5, dtype=torch.float64)),
    "ramp": Ramp(0.0, KNEE),
    "ramp .1": Ramp(0.1, KNEE),
    **_SMOOTH,
}


@pytest.mark.parametrize("strategy", ["tight", "steep", "adaptive", "constant"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lines_are_on_their_side(name, strategy):
    check(
        ACTIVATIONS[name],
        strategy=strategy,
        count=600,
        points=49,
        dominance=strategy in ("tight", "constant"),
    )


def test_the_check_finds_a_wrong_line():
    class Wrong(Ramp):
        def tight(self, lower, upper):
            lines = super().tight(lower, upper)
            return lines._replace(upper_bias=lines.upper_bias * 0.9)

    with pytest.raises(AssertionError, match="upper line is wrong"):
        check(Wrong(0.0))

    class Loose(Ramp):
        def tight(self, lower, upper):
            return super().adaptive(lower, upper)

    with pytest.raises(AssertionError, match="leaves the interval's box"):
        check(Loose(0.0))


@pytest.mark.parametrize("name", ["relu", "leaky", "ramp", "ramp .1", "tanh", "sigmoid"])
def test_tight_lines_of_a_part_dominate_those_of_the_whole(name):
    # Inclusion monotonicity, ingredient (d) of theorem 2.
    generator = torch.Generator().manual_seed(0)
    ends = 3 * torch.randn(4, 2000, generator=generator, dtype=torch.float64)
    low, a, b, high = ends.sort(0).values
    whole, part = (choose(ACTIVATIONS[name], "tight", *pair) for pair in ((low, high), (a, b)))
    for z in (a, b, (a + b) / 2):
        assert (
            part.lower_slope * z + part.lower_bias >= whole.lower_slope * z + whole.lower_bias - 1e-12
        ).all()
        assert (
            part.upper_slope * z + part.upper_bias <= whole.upper_slope * z + whole.upper_bias + 1e-12
        ).all()


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 1.0, 32.0, 1e7, -1e7, math.nextafter(1, 2)]),
)


@given(
    NUMBERS,
    NUMBERS,
    st.sampled_from([1e-4, 1.0, 32.0, 1e6]),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_float32_lines_near_every_threshold(a, b, knee, eta, with_knee):
    low, high = (torch.tensor([v], dtype=torch.float32) for v in sorted((a, b)))
    own = torch.tensor(knee) if with_knee else None
    for strategy in ("tight", "adaptive", "steep"):
        lines = choose(Ramp(eta, own), strategy, low, high)
        assert all(torch.isfinite(part).all() for part in lines)
        exact = Ramp(eta, None if own is None else own.double())
        for z in (low, high, torch.zeros(1), torch.tensor([knee]), (low + high) / 2):
            if not low <= z <= high:
                continue
            value = exact.forward(z.double())
            wide = [part.double() for part in lines]
            slack = 4e-7 * (max(abs(a), abs(b)) + wide[1].abs() + wide[3].abs())  # of the interval's size
            assert wide[0] * z + wide[1] <= value + slack
            assert wide[2] * z + wide[3] >= value - slack


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_steep_tangents_enclose_the_least_area(name):
    # A line's area over the interval is its value in the middle times the width: no valid tangent lies lower there.
    low, high = 4 * torch.randn(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    activation, middle = ACTIVATIONS[name], (low + high) / 2
    lines = choose(activation, "steep", low, high)
    height = lines.upper_slope * middle + lines.upper_bias
    share = torch.linspace(0, 1, 257, dtype=torch.float64)
    inside = torch.lerp(low[:, None], high[:, None], share)
    for touch in inside.T[::16]:
        slope = activation.derivative(touch)
        tangent = activation.forward(touch)[:, None] + slope[:, None] * (inside - touch[:, None])
        valid = (tangent >= activation.forward(inside) - 1e-12).all(1)
        other = activation.forward(touch) + slope * (middle - touch)
        assert (height <= other + 1e-9)[valid].all()


def test_the_point_where_two_states_meet():
    # l = u = r: overlapping comparisons in float32 once gave a lower line of twice the value.
    point = torch.tensor([32.0])
    lines = choose(Ramp(0.0, torch.tensor(32.0)), "tight", point, point)
    assert float(lines.lower_slope * 32 + lines.lower_bias) == 32.0
    assert float(lines.upper_slope * 32 + lines.upper_bias) == 32.0


def test_masked_branches_send_no_nan_back():
    low = torch.tensor([-1.0, 0.0, 1.0, -2.0, 1.5], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([-1.0, 0.0, 1.0, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
    knee = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for activation in (Ramp(0.0), Ramp(0.1, knee), _SMOOTH["tanh"], _SMOOTH["exp"]):
        for strategy in ("tight", "adaptive"):
            total = sum(part.sum() for part in choose(activation, strategy, low, high))
            for gradient in torch.autograd.grad(total, (low, high), retain_graph=True):
                assert torch.isfinite(gradient).all()


def test_bad_requests():
    with pytest.raises(ValueError, match="expected one of tight"):
        choose(Ramp(0.0), "loose", torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="not defined for SShaped"):
        choose(_SMOOTH["tanh"], "same-slope", torch.zeros(1), torch.ones(1))
    log: Convex = _SMOOTH["log"]
    with pytest.raises(ValueError, match="not defined; expected inputs above 0"):
        choose(log, "tight", torch.tensor([-1.0]), torch.ones(1))
