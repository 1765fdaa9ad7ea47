"""Bounds against sampling, closed forms, a dense restatement, linear programs and the theorem's chain."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bound_prop import BoundedModule, Box, LpBall, ParamRamp, margin_spec
from bound_prop.sets import _drawn

METHODS = ("ibp", "lbp", "relaxed-crown:1", "relaxed-crown:2", "crown-ibp", "crown-lbp", "crown")
KINDS = ("relu", "leaky", "ramp", "ramp.01", "tanh", "sigmoid")
NORMS = (math.inf, 2.0, 1.0)


def bounds_of(net, region, method, **options):
    return BoundedModule(net, region.center[:1]).compute_bounds(region, method=method, **options)


@given(
    st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(["mlp", "max", "avg"]), st.sampled_from(NORMS),
    st.floats(0.01, 1.0),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_samples_never_escape_and_the_chain_holds(nets, seed, kind, shape, norm, eps):
    net, x = nets(seed, kind, shape)
    ball = LpBall(x, eps, norm)
    points = ball.sample(400, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        values = net(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    low, high = values.amin(0), values.amax(0)
    bounded = BoundedModule(net, x[:1])
    found = {}
    for lines in ("tight", "adaptive"):
        for method in METHODS:
            result = bounded.compute_bounds(ball, method=method, lines=lines)
            assert (result.lower <= low + 1e-9).all(), (lines, method)
            assert (result.upper >= high - 1e-9).all(), (lines, method)
            found[lines, method] = result
    slack = 1e-11 * (found["tight", "ibp"].upper - found["tight", "ibp"].lower).clamp(min=1)
    # Two steps back stop at stored bounds that the middle interval was not built on: no order is promised there, and
    # drawn networks show that there is none.
    above = [("ibp", m) for m in METHODS[1:] if m != "relaxed-crown:2"]
    if shape != "max":  # the input that max pooling follows may change when intervals shrink
        above += [("lbp", "crown-lbp"), ("crown-ibp", "crown"), ("crown-lbp", "crown")]
    for looser, tighter in above:
        a, b = found["tight", looser], found["tight", tighter]
        assert (b.lower >= a.lower - slack).all(), (looser, tighter)
        assert (b.upper <= a.upper + slack).all(), (looser, tighter)


@pytest.mark.slow
def test_a_million_samples(nets):
    net, x = nets(1, "ramp.01", "max")
    ball = LpBall(x, 0.4)
    result = {m: bounds_of(net, ball, m) for m in METHODS}
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        with torch.no_grad():
            values = net(ball.sample(5000, generator).flatten(0, 1)).view(5000, 2, 3)
        for bounds in result.values():
            assert (values >= bounds.lower - 1e-9).all()
            assert (values <= bounds.upper + 1e-9).all()


def one_layer(weights, outputs, kind=nn.ReLU):
    net = nn.Sequential(
        nn.Linear(1, len(weights), bias=False), kind(), nn.Linear(len(weights), 1, bias=False)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(weights)[:, None])
        net[2].weight.copy_(torch.tensor([outputs]))
    return net.double()


def ramp_net(knee, eta):
    net = nn.Sequential(ParamRamp((1,), eta, knee))
    net.double()
    return net


class TwoLayers(nn.Module):
    """a = relu(x + shift); y = relu(a + 5) + relu(-a + 5)."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        a = torch.relu(x + self.shift)
        return torch.relu(a + 5) + torch.relu(5 - a)


CLOSED = [
    (one_layer([1.0, -1.0], [1.0, -1.0]), (-1, 1), (-1, 1), (-1, 1), (-1, 1), (-2, 2)),
    (one_layer([1.0, -1.0], [1.0, 1.0]), (-1, 1), (0, 2), (0, 1), (0, 1), (0, 1)),
    (ramp_net(1.0, 0.0), (-1, 2), (0, 1), (0, 1), (0, 1), (-0.5, 1.5)),
    (ramp_net(1.0, 0.1), (-1, 2), (-0.1, 1.1), (-0.1, 1.1), (-0.1, 1.1), (-0.55, 1.55)),
    (ramp_net(1.0, 0.0), (0.5, 1.5), (0.5, 1), (0.5, 1), (0.5, 1), (0.5, 1.5)),
    (TwoLayers(0.0), (-1, 1), (9, 11), (9, 11), (10, 10), (10, 10)),
    (TwoLayers(2.0), (-1, 1), (8, 12), (10, 10), (10, 10), (10, 10)),
]


@pytest.mark.parametrize("case", CLOSED, ids=range(len(CLOSED)))
def test_closed_forms(case):
    net, ends, ibp, lbp, crown, adaptive = case
    box = Box(*(torch.tensor([[float(e)]], dtype=torch.float64) for e in ends))
    expected = [
        ("ibp", "tight", ibp),
        ("lbp", "tight", lbp),
        ("crown", "tight", crown),
        ("crown", "adaptive", adaptive),
    ]
    for method, lines, (low, high) in expected:
        got = bounds_of(net, box, method, lines=lines)
        assert got.lower.item() == pytest.approx(low, abs=1e-12), (method, lines)
        assert got.upper.item() == pytest.approx(high, abs=1e-12), (method, lines)


def dense_crown(weights, biases, low, high, adaptive=True):
    """CROWN for a ReLU network, restated with plain matrices in NumPy."""
    intervals = []

    def back(matrix, layer):
        # Lower bounds of matrix @ z_layer.
        a, beta = matrix @ weights[layer], matrix @ biases[layer]
        for k in range(layer - 1, -1, -1):
            low_, up_ = intervals[k]
            dead, alive = up_ <= 0, low_ >= 0
            slope_up = np.where(
                alive, 1.0, np.where(dead, 0.0, up_ / np.where(dead | alive, 1.0, up_ - low_))
            )
            shift = np.where(dead | alive, 0.0, -slope_up * low_)
            slope_low = np.where(alive, 1.0, np.where(dead, 0.0, (up_ >= -low_) * 1.0 if adaptive else 0.0))
            plus, minus = np.maximum(a, 0), np.minimum(a, 0)
            beta = beta + minus @ shift
            a = plus * slope_low + minus * slope_up
            beta = beta + a @ biases[k]
            a = a @ weights[k]
        return a @ ((low + high) / 2) - np.abs(a) @ ((high - low) / 2) + beta

    for layer, weight in enumerate(weights):
        eye = np.eye(len(weight))
        intervals.append((back(eye, layer), -back(-eye, layer)))
    return intervals


@pytest.mark.parametrize("lines", ["adaptive", "tight"])
@pytest.mark.parametrize("seed", range(4))
def test_crown_equals_a_dense_restatement(nets, seed, lines):
    net, x = nets(seed, "relu")
    linear = [m for m in net if isinstance(m, nn.Linear)]
    weights, biases = ([getattr(m, n).detach().numpy() for m in linear] for n in ("weight", "bias"))
    ball = LpBall(x[:1], 0.3)
    expected = dense_crown(
        weights, biases, *(e[0].numpy() for e in ball.interval()), adaptive=lines == "adaptive"
    )
    got = bounds_of(net, ball, "crown", lines=lines)
    np.testing.assert_allclose(got.lower[0].detach(), expected[-1][0], atol=1e-10)
    np.testing.assert_allclose(got.upper[0].detach(), expected[-1][1], atol=1e-10)


def test_linear_programs_are_never_looser(nets):
    # The triangle relaxation with CROWN's own hidden intervals, by scipy: at least as tight as CROWN and alpha.
    from scipy.optimize import linprog

    net, x = nets(5, "relu")
    ball = LpBall(x[:1], 0.5)
    bounded = BoundedModule(net, x[:1])
    crown = bounded.compute_bounds(ball, method="crown")
    alpha = bounded.compute_bounds(ball, method="alpha-crown", steps=60)
    lower = lp_bounds(net, ball, crown.layers, linprog)
    assert (alpha.lower[0] <= torch.tensor(lower) + 1e-7).all()
    assert (crown.lower <= alpha.lower + 1e-12).all()
    gap = (torch.tensor(lower) - alpha.lower[0]).mean()
    assert gap <= 0.35 * (torch.tensor(lower) - crown.lower[0]).mean() + 1e-6  # most of the gap is closed


def lp_bounds(net, ball, layers, linprog):
    """Smallest value of each output over the triangle relaxation."""
    linear = [m for m in net if isinstance(m, nn.Linear)]
    sizes = [linear[0].in_features, *[n for m in linear for n in (m.out_features,) * 2][:-1]]
    starts = np.cumsum([0, *sizes])
    count = int(starts[-1])
    low, high = (e[0].numpy() for e in ball.interval())
    limits = [(None, None)] * count
    limits[: sizes[0]] = list(zip(low, high, strict=True))
    equal, right, upper, top = [], [], [], []
    place = 0
    for k, m in enumerate(linear):
        z = starts[2 * k + 1]
        for j in range(m.out_features):
            row = np.zeros(count)
            row[z + j] = -1
            row[starts[place] : starts[place] + m.in_features] = m.weight[j].detach()
            equal.append(row)
            right.append(-float(m.bias[j]))
        if k == len(linear) - 1:
            break
        low_, up_ = (e[0].detach().numpy() for e in list(layers.values())[k])
        a = starts[2 * k + 2]
        for j in range(m.out_features):
            if up_[j] <= 0 or low_[j] >= 0:
                row = np.zeros(count)
                row[a + j], row[z + j] = 1, -1.0 if low_[j] >= 0 else 0.0
                equal.append(row)
                right.append(0.0)
                continue
            slope = up_[j] / (up_[j] - low_[j])
            for sign_a, sign_z, limit in ((-1, 0, 0.0), (-1, 1, 0.0), (1, -slope, -slope * low_[j])):
                row = np.zeros(count)
                row[a + j], row[z + j] = sign_a, sign_z
                upper.append(row)
                top.append(limit)
        place = 2 * k + 2
    result = []
    for j in range(linear[-1].out_features):
        goal = np.zeros(count)
        goal[starts[-2] + j] = 1
        done = linprog(goal, upper or None, top or None, equal, right, limits)
        assert done.status == 0
        result.append(done.fun)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_exact_ranges_by_mixed_integer_programming(nets, exact_range, seed):
    net, x = nets(seed, "relu")
    box = LpBall(x[:1], 0.4).box()
    exact = exact_range(net, box)
    for method in (*METHODS, "alpha-crown"):
        got = bounds_of(net, box, method)
        assert (got.lower[0].detach().numpy() <= exact[:, 0] + 1e-6).all(), method
        assert (got.upper[0].detach().numpy() >= exact[:, 1] - 1e-6).all(), method
    points = box.sample(20000)[:, 0]
    sampled = net(points).detach()
    assert (exact[:, 0] <= sampled.amin(0).numpy() + 1e-6).all()  # the oracle itself


def test_one_dimensional_networks_exactly():
    # A piecewise linear function of one variable: its range is attained at kinks and ends.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 12), nn.ReLU(), nn.Linear(12, 1)).double()
    box = Box(torch.tensor([[-2.0]]).double(), torch.tensor([[3.0]]).double())
    kinks = (-net[0].bias / net[0].weight[:, 0]).detach()
    points = torch.cat([kinks[(kinks > -2) & (kinks < 3)], torch.tensor([-2.0, 3.0]).double()])
    values = net(points[:, None]).detach()
    for method in METHODS:
        got = bounds_of(net, box, method)
        assert got.lower <= values.min() + 1e-12
        assert got.upper >= values.max() - 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_identities_between_methods(nets, kind):
    net, x = nets(3, kind)
    ball = LpBall(x, 0.3)
    bounded = BoundedModule(net, x[:1])

    def both(method, **options):
        found = bounded.compute_bounds(ball, method=method, **options)
        return torch.stack([found.lower, found.upper])

    close = {"atol": 1e-11, "rtol": 0}
    for method in ("lbp", "crown", "crown-ibp", "relaxed-crown:2"):  # constant lines are intervals
        torch.testing.assert_close(both(method, lines="constant"), both("ibp"), **close)
    for lines in ("tight", "adaptive"):
        torch.testing.assert_close(both("relaxed-crown:1", lines=lines), both("lbp", lines=lines), **close)
    # With adaptive lines CROWN is tighter: it leaves neurons alone that intervals have settled.
    torch.testing.assert_close(both("relaxed-crown:9", lines="tight"), both("crown", lines="tight"), **close)
    zero = LpBall(x, 0.0)
    for method in METHODS:
        found = bounded.compute_bounds(zero, method=method)
        torch.testing.assert_close(found.lower, net(x), atol=1e-10, rtol=0)
        torch.testing.assert_close(found.upper, net(x), atol=1e-10, rtol=0)
    shallow = nn.Sequential(*list(net)[:3])
    one = BoundedModule(shallow, x[:1])
    ways = [one.compute_bounds(ball, method=m).lower for m in ("crown", "crown-ibp", "crown-lbp")]
    torch.testing.assert_close(ways[0], ways[1], **close)
    torch.testing.assert_close(ways[0], ways[2], **close)


@pytest.mark.parametrize("method", METHODS)
def test_bounds_grow_with_the_radius(nets, method):
    net, x = nets(4, "ramp")
    bounded = BoundedModule(net, x[:1])
    last = None
    for eps in (0.0, 0.1, 0.3, 0.9):
        found = bounded.compute_bounds(LpBall(x, eps), method=method)
        if last is not None:
            assert (found.lower <= last.lower + 1e-12).all()
            assert (found.upper >= last.upper - 1e-12).all()
        last = found


@pytest.mark.parametrize("norm", NORMS)
def test_affine_networks_are_exact(norm):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(3 * 3 * 3, 4)
    ).double()
    x = torch.randn(2, 2, 5, 5).double()
    ball = LpBall(x, 0.7, norm)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v)[0], x[:1])[:, 0].flatten(1)
    radius = 0.7 * torch.linalg.vector_norm(jacobian, ball.dual, dim=1)
    for method in ("lbp", "crown", "crown-ibp"):
        found = bounds_of(net, ball, method)
        torch.testing.assert_close(found.upper - found.lower, (2 * radius).expand(2, 4), atol=1e-10, rtol=0)
        torch.testing.assert_close(found.upper + found.lower, 2 * net(x), atol=1e-10, rtol=0)
    first = nn.Sequential(net[0], nn.ReLU())  # the first layer's norm at each place, padding included
    own = torch.autograd.functional.jacobian(lambda v: net[0](v)[0], x[:1])[:, :, :, 0].flatten(3)
    width = 2 * 0.7 * torch.linalg.vector_norm(own, ball.dual, dim=3)
    low, high = next(iter(bounds_of(first, ball, "ibp").layers.values()))
    torch.testing.assert_close((high - low)[0], width, atol=1e-10, rtol=0)


def test_chunks_batches_and_order_change_nothing(nets):
    net, x = nets(6, "relu", "max")
    ball, spec = LpBall(x, 0.2), margin_spec(torch.tensor([0, 2]), 3, torch.float64)
    bounded = BoundedModule(net, x[:1])
    for method in METHODS:
        whole = bounded.compute_bounds(ball, spec, method=method)
        for options in ({"spec_chunk": 1}, {"spec_chunk": 3}, {"batch_chunk": 1}):
            parts = bounded.compute_bounds(ball, spec, method=method, **options)
            torch.testing.assert_close(parts.lower, whole.lower, atol=1e-10, rtol=0)
        turned = bounded.compute_bounds(ball[torch.tensor([1, 0])], spec[[1, 0]], method=method)
        torch.testing.assert_close(turned.upper[[1, 0]], whole.upper, atol=1e-10, rtol=0)


def test_merging_the_specification_is_tighter(nets):
    net, x = nets(7, "relu")
    ball, spec = LpBall(x, 0.3), margin_spec(torch.tensor([0, 1]), 3, torch.float64)
    bounded = BoundedModule(net, x[:1])
    merged = bounded.compute_bounds(ball, spec, method="ibp").lower
    logits = bounded.compute_bounds(ball, method="ibp")
    plus, minus = spec.clamp(min=0), spec.clamp(max=0)
    apart = torch.einsum("bsk,bk->bs", plus, logits.lower) + torch.einsum("bsk,bk->bs", minus, logits.upper)
    assert (merged >= apart - 1e-12).all()
    assert (merged > apart + 1e-3).any()
    shifted = bounded.compute_bounds(ball, spec, torch.ones(2, 2), method="ibp").lower
    torch.testing.assert_close(shifted, merged - 1)


def test_linear_functions_bound_the_network(nets):
    net, x = nets(8, "tanh")
    ball = LpBall(x, 0.3)
    for method in ("lbp", "crown", "relaxed-crown:2"):
        found = bounds_of(net, ball, method, return_linear=True)
        a_low, b_low, a_up, b_up = found.linear
        for p in ball.sample(50):
            y = net(p)
            assert (torch.einsum("bsn,bn->bs", a_low.expand(2, 3, 3), p) + b_low <= y + 1e-9).all()
            assert (torch.einsum("bsn,bn->bs", a_up.expand(2, 3, 3), p) + b_up >= y - 1e-9).all()


def test_given_and_intersected_intervals(nets):
    net, x = nets(9, "relu")
    ball = LpBall(x, 0.3)
    bounded = BoundedModule(net, x[:1], lines="adaptive")
    crown = bounded.compute_bounds(ball, method="crown")
    again = bounded.compute_bounds(ball, method="crown-ibp", intermediate=crown.layers)
    torch.testing.assert_close(again.lower, crown.lower)
    both = BoundedModule(net, x[:1], lines="adaptive", intersect=True).compute_bounds(
        ball, method="crown-lbp"
    )
    ibp = bounded.compute_bounds(ball, method="ibp").layers
    for name, (low, high) in both.layers.items():
        assert (low >= ibp[name][0] - 1e-12).all()
        assert (high <= ibp[name][1] + 1e-12).all()
    with pytest.raises(ValueError, match="intermediate: got 'nowhere'"):
        bounded.compute_bounds(ball, intermediate={"nowhere": ball.interval()})


@pytest.mark.parametrize("method", ["ibp", "lbp", "crown-ibp", "crown"])
def test_gradients(method):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2, 4), ParamRamp((4,), 0.1, 0.6), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)
    ).double()
    bounded = BoundedModule(net, torch.zeros(1, 2).double())
    names = [n for n, _ in net.named_parameters()]

    def function(low, width, *values):
        with torch.no_grad():
            for p, v in zip(net.parameters(), values, strict=True):
                p.copy_(v)
        found = bounded.compute_bounds(Box(low, low + width), method=method)
        return found.lower, found.upper

    # Numerical derivatives in every parameter, against those that backward has put into .grad.
    low, width = torch.randn(1, 2).double(), torch.rand(1, 2).double()
    for p in net.parameters():
        p.grad = None
    sum(v.sum() for v in function(low, width, *[p.detach().clone() for p in net.parameters()])).backward()
    for name, p in zip(names, net.parameters(), strict=True):
        flat, step = p.detach().view(-1), 1e-6
        for k in range(min(3, len(flat))):
            old = float(flat[k])
            ends = []
            for value in (old + step, old - step):
                flat[k] = value
                with torch.no_grad():
                    found = bounded.compute_bounds(Box(low, low + width), method=method)
                ends.append(float(found.lower.sum() + found.upper.sum()))
            flat[k] = old
            assert float(p.grad.view(-1)[k]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5), (
                name
            )


def test_memory_estimate():
    from bound_prop.models import dm_large

    bounded = BoundedModule(dm_large(), torch.zeros(1, 1, 28, 28))
    one, two = (bounded.estimate_memory("lbp", batch=b) for b in (1, 2))
    assert two == 2 * one
    assert 5e8 < one < 2e9  # one matrix of 784 x 50,176 float32 is 157 MB; about six are alive
    assert bounded.estimate_memory("ibp") < bounded.estimate_memory("crown-ibp") < one
    with pytest.raises(ValueError, match="expected one of ibp"):
        bounded.estimate_memory("crow")


def test_random_numbers_are_drawn_where_their_generator_lives():
    """A generator of the CPU, such as an attack's, serves a set on any device."""
    places = []

    def draw(shape, **options):
        places.append(options["device"].type)
        return torch.rand(shape, **options)

    drawn = _drawn(draw, (2, 3), torch.zeros(1, device="meta"), torch.Generator())
    assert (places, drawn.device.type) == (["cpu"], "meta")


def test_bad_input(nets):
    net, x = nets(0, "relu")
    bounded = BoundedModule(net, x[:1])
    ball = LpBall(x, 0.1)
    for call, sentence in {
        lambda: LpBall(x, -0.1): "eps: got -0.1; expected finite numbers, at least 0",
        lambda: LpBall(x, math.nan): "eps: got nan",
        lambda: LpBall(x * math.nan, 0.1): "center: holds NaN",
        lambda: LpBall(x, 0.1, 0.5): "norm: got 0.5",
        lambda: LpBall(x, 0.1, 2, (0, 1)): "clip: got a range",
        lambda: Box(x, x - 1): "lower: exceeds upper",
        lambda: Box(x, x[:1]): "upper: got",
        lambda: bounded.compute_bounds(
            LpBall(torch.zeros(1, 4).double(), 0.1)
        ): r"inputs of shape \(4,\); expected \(3,\)",
        lambda: bounded.compute_bounds(ball, torch.ones(2, 3)): "C: got shape",
        lambda: bounded.compute_bounds(ball, torch.ones(2, 1, 3), torch.ones(2)): "rhs: got shape",
        lambda: bounded.compute_bounds(ball, method="crwn"): "method: got 'crwn'; expected one of ibp",
        lambda: bounded.compute_bounds(ball, batch_chunk=0): "batch_chunk: got 0",
        lambda: bounded.compute_bounds(
            ball, method="lbp", rounding="outward"
        ): "'outward' is not available for lbp",
        lambda: BoundedModule(net.float(), x[:1].float()).compute_bounds(
            ball.to(torch.float32), method="ibp", rounding="outward"
        ): "needs float64",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()
