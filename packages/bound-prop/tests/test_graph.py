"""Tracing: what is supported is bounded soundly, what is not is named with its module."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_prop import BoundedModule, Box, LpBall, UnsupportedOperationError, relaxations
from bound_prop.graph import ops
from bound_prop.lines import Convex
from bound_prop.nn import ParamRamp


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = {
    "arithmetic": lambda x: 2 * x - 1 + x / 4 - (3 - x),
    "in place": lambda x: F.relu_(x + 0).add_(1).mul_(2),
    "sub of values": lambda x: torch.relu(x) - 0.5 * torch.tanh(x),
    "product": lambda x: torch.relu(x) * torch.sigmoid(x),
    "square": lambda x: x**2 + x.square() + x * x,
    "max of two": lambda x: torch.maximum(x, -x) + torch.minimum(x, torch.relu(x)),
    "max with a number": lambda x: torch.clamp(x, min=0.2) + torch.clamp(x, max=0.1),
    "clip": lambda x: F.hardtanh(x) + F.relu6(x) + torch.clamp(x, -0.3, 0.4),
    "smooth": lambda x: torch.exp(x) + F.softplus(x) + F.elu(x) + torch.atan(x) + torch.erf(x) + torch.abs(x),
    "log": lambda x: torch.log(torch.exp(x) + 0.1) + torch.sqrt(F.softplus(x)),
    "hardsigmoid": lambda x: F.hardsigmoid(x),
    "movement": lambda x: x.flatten(1).view(x.size(0), -1, 2).transpose(1, 2).flip(1).roll(1, 2)[:, :, ::2],
    "permute": lambda x: x.permute(0, 3, 1, 2).reshape(x.shape[0], -1).unsqueeze(1).squeeze(1),
    "split": lambda x: torch.cat([p.flatten(1) for p in x.chunk(2, dim=1)] + [x[:, 0, :, 1]], dim=1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=0.7) * 2,
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "mean": lambda x: x.mean((2, 3)) + x.sum(dim=3).sum(2) + torch.mean(x, dim=[2, 3]),
    "amax": lambda x: x.amax((2, 3)),
    "pools": lambda x: F.avg_pool2d(x, 2, padding=1) + F.max_pool2d(x, 2, padding=1),
    "overlapping": lambda x: F.max_pool2d(torch.relu(x), 3, stride=1, dilation=1, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 1)) + F.adaptive_max_pool2d(x, (2, 1)),
    "repeat": lambda x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, 1),
    "expand": lambda x: x[:, :1] + x,
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "shape": lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]) / x.dim(),
}


def assert_sound(net, x, eps=0.4, methods=("ibp", "lbp", "crown-ibp", "crown"), chain=True):
    bounded = BoundedModule(net.eval(), x[:1])
    ball = LpBall(x, eps)
    torch.testing.assert_close(bounded.graph.forward(x), net(x))
    values = torch.stack([net(p).flatten(1) for p in ball.sample(200)]).detach()
    found = {}
    for lines in ("tight", "adaptive"):
        for method in methods:
            found[lines, method] = result = bounded.compute_bounds(ball, method=method, lines=lines)
            assert (result.lower <= values.amin(0) + 1e-9).all(), (lines, method)
            assert (result.upper >= values.amax(0) - 1e-9).all(), (lines, method)
            outward = None
            if method in ("ibp", "crown"):
                outward = bounded.compute_bounds(ball, method=method, lines=lines, rounding="outward")
            if outward is not None and lines == "tight":
                assert (outward.lower <= result.lower + 1e-12).all()
                # Max pooling follows one of several inputs whose intervals start at the same 0; a rounding decides.
                if not any(isinstance(m, nn.MaxPool1d) for m in net.modules()):
                    assert (outward.lower >= result.lower - 1e-8).all()
    if chain:
        for method in methods[1:]:
            assert (found["tight", method].lower >= found["tight", "ibp"].lower - 1e-9).all(), method
    return bounded


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    torch.manual_seed(0)
    assert_sound(Function(FUNCTIONS[name]), torch.randn(2, 4, 4, 4).double())


LAYERS = {
    "grouped and dilated": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2, groups=2, bias=False),
    "uneven": lambda: nn.Conv2d(4, 3, (2, 3), stride=(3, 2), padding=(1, 0)),
    "same": lambda: nn.Conv2d(4, 3, (2, 3), padding="same"),
    "circular": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
    "prelu": lambda: nn.PReLU(4, init=-0.2),
    "prelu above 1": lambda: nn.PReLU(1, init=1.7),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "pixel shuffle": lambda: nn.PixelShuffle(2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight)
        layer.running_mean.normal_()
    net = nn.Sequential(layer, nn.ReLU()).double()
    assert_sound(net, torch.randn(2, 4, 5, 6).double())


def test_sequences_and_one_axis():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.ConvTranspose1d(3, 2, 2),
    )
    assert_sound(net.double(), torch.randn(2, 2, 7).double())


class Shared(nn.Module):
    """One layer used twice, a value read three times, a weight that is an expression."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.v, self.g = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.rand(3, 1))

    def forward(self, x):
        y = torch.relu(self.fc(x))
        z = torch.relu(self.fc(y)) + y
        return F.linear(z + y, self.g * self.v / self.v.norm(dim=1, keepdim=True))


def test_parameters_stay_the_modules_own():
    torch.manual_seed(0)
    net, x = Shared().double(), torch.randn(2, 4).double()
    bounded = assert_sound(net, x)
    before = bounded.compute_bounds(LpBall(x, 0.1), method="crown")
    before.lower.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    with torch.no_grad():
        net.g.mul_(2)
    after = bounded.compute_bounds(LpBall(x, 0.1), method="crown")
    torch.testing.assert_close(after.lower, 2 * before.lower)
    net.float()  # other dtype, same graph: computed in the region's
    again = bounded.compute_bounds(LpBall(x, 0.1), method="crown")
    torch.testing.assert_close(again.lower, after.lower, rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    """Python control flow over shapes, which symbolic tracing refuses and graph export takes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        if x.dim() == 3:
            x = x.flatten(1)
        if x.shape[1] > 4:
            x = torch.relu(x)
        for _ in range(x.shape[1] // 8):
            x = F.leaky_relu(x, 0.2)
        return self.fc(x)


def test_graph_export_where_tracing_refuses():
    torch.manual_seed(0)
    assert_sound(Branching().double(), torch.randn(2, 2, 4).double())


def test_a_branch_on_values_is_found():
    class OnValues(nn.Module):
        def forward(self, x):
            return x * float(x.detach().sum() > 0) + x

    with pytest.raises((ValueError, UnsupportedOperationError)):
        BoundedModule(OnValues(), torch.ones(1, 3))


def test_unsupported_operations_are_named():
    class Attention(nn.Module):
        def forward(self, x):
            return torch.softmax(x, -1)

    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Attention()))
    with pytest.raises(
        UnsupportedOperationError, match=r"module '1\.0': the operation 'softmax' cannot be bounded; rewrite"
    ):
        BoundedModule(net, torch.zeros(1, 3))
    for function, words in {
        lambda x: x @ x.transpose(1, 2): "matrix product other than",
        lambda x: x / (1 + torch.exp(x)): "division by something that depends",
        lambda x: x.sum(0): "batch axis",
        lambda x: torch.cat([x, x], 0): "batch axis",
        lambda x: x**3: "power 3",
        lambda x: x.reshape(-1): "batch axis",
        lambda x: F.gelu(x): "'gelu' cannot be bounded",
        lambda x: torch.zeros(2): "something else than one tensor",
    }.items():
        with pytest.raises(UnsupportedOperationError, match=words):
            BoundedModule(Function(function), torch.ones(2, 3, 3))


def test_parameters_must_be_finite():
    net = nn.Linear(2, 2)
    net.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="parameter 'weight': holds NaN"):
        BoundedModule(net, torch.zeros(1, 2))


def test_own_activations():
    class Bent(nn.Module):
        def forward(self, z):
            return torch.logaddexp(z, 0 * z)

    net = nn.Sequential(nn.Linear(3, 3), Bent(), nn.Linear(3, 2)).double()
    with pytest.raises(UnsupportedOperationError, match=r"'1'.*logaddexp"):
        BoundedModule(net, torch.zeros(1, 3).double())
    softplus = Convex(F.softplus, torch.sigmoid, -math.inf)
    relaxations.check(softplus)
    relaxations.register(Bent, lambda module: softplus)
    assert_sound(net, torch.randn(2, 3).double())


def test_a_ramp_written_out_is_one_activation():
    class Written(nn.Module):
        def forward(self, z):
            return F.leaky_relu(z, 0.1) - 0.9 * F.relu(z - torch.tensor([1.0, 2.0, 0.5]).double())

    bounded = assert_sound(nn.Sequential(nn.Linear(3, 3), Written()).double(), torch.randn(2, 3).double())
    kinds = [node.op.kind for node in bounded.graph.nodes if isinstance(node.op, ops.Unary)]
    assert kinds == ["param_ramp"]


def test_knees_switch_without_a_new_trace():
    net = nn.Sequential(nn.Linear(3, 4), ParamRamp((4,), init=0.2)).double()
    bounded, x = BoundedModule(net, torch.zeros(1, 3).double()), torch.randn(2, 3).double()
    for enabled in (True, False, True):
        net[1].set_enabled(enabled)
        found = bounded.compute_bounds(LpBall(x, 0.0), method="crown")
        torch.testing.assert_close(found.lower, net(x))


def test_rows_shared_by_all_examples_go_through_chunks():
    bounded, x = BoundedModule(nn.Linear(3, 2), torch.zeros(1, 3)), torch.randn(5, 3)
    rows, ball = torch.randn(1, 4, 2), LpBall(x, 0.1)
    whole, parts = (bounded.compute_bounds(ball, rows, batch_chunk=size) for size in (None, 2))
    torch.testing.assert_close(parts.lower, whole.lower)


def test_batch_statistics_of_the_clean_batch():
    torch.manual_seed(0)
    net = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3), nn.ReLU(), nn.Linear(4, 2))
        .double()
        .train()
    )
    twin = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3), nn.ReLU(), nn.Linear(4, 2))
        .double()
        .train()
    )
    twin.load_state_dict(net.state_dict())
    bounded, x = BoundedModule(net, torch.zeros(1, 3).double()), torch.randn(16, 3).double()
    with bounded.clean(x) as logits:
        torch.testing.assert_close(logits, twin(x))
        found = bounded.compute_bounds(LpBall(x, 0.0), method="crown-ibp")
        torch.testing.assert_close(found.lower, logits)
        found.lower.sum().backward()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value)  # running statistics moved once
    after = bounded.compute_bounds(LpBall(x, 0.0), method="ibp").lower
    net.eval()
    torch.testing.assert_close(after, net(x))  # outside the block: running statistics


def test_a_maximum_is_bounded_by_the_chord_of_its_largest_input():
    # max(a, b) - a for a in [-1, 2], b in [0, 1]: above by a / 3 + 4 / 3, so at most 2, which a = -1, b = 1 reaches.
    net = Function(lambda x: torch.maximum(x[:, :1], x[:, 1:]) - x[:, :1])
    bounded = BoundedModule(net, torch.zeros(1, 2, dtype=torch.float64))
    region = Box(*torch.tensor([[[-1.0, 0.0]], [[2.0, 1.0]]], dtype=torch.float64))
    for method in ("lbp", "crown"):
        found = bounded.compute_bounds(region, method=method)
        torch.testing.assert_close(found.upper, torch.full((1, 1), 2.0, dtype=torch.float64))
    sound = bounded.compute_bounds(region, method="crown", rounding="outward")
    assert 2.0 <= sound.upper.item() < 2.0 + 1e-12


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize(
    ("stride", "padding", "extra", "dilation"),
    [((1, 1), (0, 0), (0, 0), (1, 1)), ((2, 3), (1, 2), (1, 2), (1, 1)), ((2, 2), (2, 0), (1, 0), (2, 3))],
)
@pytest.mark.parametrize("rows", [0, 3])
def test_transposed_convolution_to_few_channels(channels, stride, padding, extra, dilation, rows):
    torch.manual_seed(channels)
    weight = torch.randn(6, channels, 3, 4, dtype=torch.float64, requires_grad=True)
    plain = torch.randn(rows, 6, 5, 4, dtype=torch.float64)
    for x in (plain, plain.contiguous(memory_format=torch.channels_last)):
        got = ops.conv_transpose(x, weight, stride, padding, extra, 1, dilation)
        want = F.conv_transpose2d(x, weight, None, stride, padding, extra, 1, dilation)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        ends = [torch.autograd.grad(out.square().sum(), weight)[0] for out in (got, want)]
        torch.testing.assert_close(*ends, rtol=1e-11, atol=1e-11)


def test_lines_by_the_sign_of_a_coefficient():
    """Exactly what a choice gives, with its gradient, zeros included; rows are never overwritten."""
    torch.manual_seed(0)
    a = torch.randn(1, 5, 7).mul(torch.rand(1, 5, 7) > 0.3)
    for shape in ((1, 1, 7), (3, 1, 7), (1, 5, 7)):
        low, up = torch.randn(shape), torch.randn(shape)
        kept = a.clone()
        assert torch.equal(ops.sloped(ops.halves(a), low, up), torch.where(a > 0, low, up) * a)
        assert torch.equal(a, kept)
        leaf, other = (a.clone().requires_grad_() for _ in range(2))
        ops.sloped(ops.halves(leaf), low, up).sum().backward()
        (torch.where(other > 0, low, up) * other).sum().backward()
        torch.testing.assert_close(leaf.grad, other.grad)
