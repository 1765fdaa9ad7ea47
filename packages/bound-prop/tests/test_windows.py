"""Rows kept as windows, LBP in chunks, re-optimised intervals: the same bounds, or tighter ones, another way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bound_prop import BoundedModule, Box, LpBall, windows
from bound_prop.nn import Leaky, ParamRamp


class Branches(nn.Module):
    """Strides, dilation, groups, uneven sizes, two ways that meet again, and a pooled end."""

    def __init__(self, stride, dilation, groups, kernel, pool):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, kernel, stride=stride, padding=(1, 2))
        self.act1 = Leaky(0.1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=dilation, dilation=dilation, groups=groups)
        self.bn = nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2, bias=False)
        self.short = nn.Conv2d(4, 6, 1, stride=2)
        self.pool = pool
        self.head = nn.LazyLinear(3)
        with torch.no_grad():
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)
            self.bn.weight.normal_()

    def forward(self, x):
        x = self.act1(self.conv1(x))
        y = torch.relu(self.bn(self.conv2(x))) - x
        y = torch.relu(2 * y + 0.5)
        z = torch.relu(self.conv3(y)) + self.short(y)[:, :, : (y.shape[2] - 1) // 2, : (y.shape[3] - 1) // 2]
        return self.head(self.pool(torch.tanh(z)).flatten(1))


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, (2, 1)]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([3, 4, (2, 3)]),
    st.sampled_from([nn.Identity(), nn.AvgPool2d(2), nn.MaxPool2d(2)]),
    st.sampled_from([math.inf, 2.0, 1.0]),
)
@settings(max_examples=8, deadline=None)
def test_windows_give_the_dense_bounds(seed, stride, dilation, groups, kernel, pool, norm):
    torch.manual_seed(seed)
    net = Branches(stride, dilation, groups, kernel, pool)
    x = torch.randn(2, 2, 11, 9)
    net(x)
    net, x = net.double().eval(), x.double()
    bounded = BoundedModule(net, x[:1])
    region = LpBall(x, 0.2, norm)
    found = bounded.compute_bounds(region, method="crown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "is_windowed", lambda op: False)
        dense = bounded.compute_bounds(region, method="crown", spec_chunk=1000)
    for name, box in dense.layers.items():
        for a, b in zip(found.layers[name], box, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.lower, dense.lower, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.upper, dense.upper, rtol=1e-10, atol=1e-10)


def test_windows_are_really_used(monkeypatch):
    """Deep enough that windows pass through several activations, and none is written out."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(),
        nn.Conv2d(3, 2, 3, stride=2, padding=1), ParamRamp((2, 10, 10)), nn.Flatten(), nn.Linear(200, 2),
    ).double().eval()  # fmt: skip
    seen = []
    through = windows.Windows.through
    monkeypatch.setattr(
        windows.Windows, "through", lambda self, *rest: seen.append(self.size) or through(self, *rest)
    )
    monkeypatch.setattr(windows.Windows, "dense", lambda self, shape: pytest.fail("written out"))
    x = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    BoundedModule(net, x).compute_bounds(LpBall(x, 0.3), method="crown")
    assert {(3, 3), (5, 5)} <= set(seen)


def test_gradients_pass_through_windows():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Flatten())
    net = net.append(nn.Linear(2 * 36, 2)).double()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    weight = net[0].weight

    def value():
        return BoundedModule(net, x).compute_bounds(LpBall(x, 0.05), method="crown").lower.sum()

    value().backward()
    way, step = torch.randn_like(weight), 1e-6
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            weight.add_(sign * step * way)
        ends.append(value().detach())
    torch.testing.assert_close(
        (weight.grad * way).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
@pytest.mark.parametrize("shape", ["mlp", "avg", "max"])
@pytest.mark.parametrize("method", ["lbp", "crown-lbp"])
def test_lbp_in_chunks_of_the_input(nets, norm, shape, method):
    net, x = nets(3, "relu", shape)
    bounded, region = BoundedModule(net, x[:1]), LpBall(x, 0.3, norm)
    whole = bounded.compute_bounds(region, method=method, return_linear=True)
    for chunk in (1, 4, 1000) if shape == "mlp" else (16, 1000):
        part = bounded.compute_bounds(region, method=method, input_chunk=chunk, return_linear=True)
        torch.testing.assert_close(part.lower, whole.lower, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(part.upper, whole.upper, rtol=1e-11, atol=1e-11)
        for a, b in zip(part.linear, whole.linear, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_chunks_of_the_input_are_refused_where_they_cannot_be(nets):
    net, x = nets(3, "relu", "mlp")
    bounded = BoundedModule(net, x[:1])
    with pytest.raises(ValueError, match="input_chunk: got 0"):
        bounded.compute_bounds(LpBall(x, 0.3), method="lbp", input_chunk=0)
    with pytest.raises(ValueError, match="input_chunk: is not available"):
        bounded.compute_bounds(LpBall(x, 0.3), method="crown-lbp", input_chunk=2, rounding="outward")


@pytest.mark.parametrize("kind", ["relu", "ramp.01", "tanh"])
def test_hidden_intervals_optimised_again(nets, kind):
    net, x = nets(5, kind, "mlp")
    bounded, box = BoundedModule(net, x[:1]), Box(x - 0.5, x + 0.5)
    plain = bounded.compute_bounds(box, method="alpha-crown", steps=10)
    again = bounded.compute_bounds(box, method="alpha-crown", steps=10, hidden_steps=10)
    gained = 0.0
    for name, (low, high) in plain.layers.items():
        tighter = again.layers[name]
        assert (tighter[0] >= low - 1e-12).all()
        assert (tighter[1] <= high + 1e-12).all()
        gained += float((tighter[0] - low).sum() + (high - tighter[1]).sum())
    assert gained > 1e-3
    assert (again.lower - plain.lower).sum() > 0
    points = box.sample(2000, torch.Generator().manual_seed(0))
    values = net(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    assert (values >= again.lower - 1e-9).all()
    assert (values <= again.upper + 1e-9).all()
