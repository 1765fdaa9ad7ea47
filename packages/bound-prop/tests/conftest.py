"""Random networks and their data, shared by the tests."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bound_prop import BoundedModule
from bound_prop.nn import Leaky, ParamRamp


class Residual(nn.Module):
    """Convolutions, BatchNorm with a negative scale, a skip connection, pooling, concatenation."""

    def __init__(self, kind, pool):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.act1, self.act2 = activation(kind, (4, 3, 4)), activation(kind, (4, 3, 4))
        self.pool = nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2)
        self.fc = nn.Linear(12, 3)
        with torch.no_grad():
            self.bn.weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0]))
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.act1(self.bn(self.conv1(x)))
        y = x + self.act2(self.conv2(x))
        y = self.pool(y)
        return self.fc(torch.cat([y.flatten(1), y[:, :, :, 0].flatten(1)], 1))


def activation(kind, shape):
    if kind == "ramp":
        module = ParamRamp(shape, eta=0.0)
    elif kind == "ramp.01":
        module = ParamRamp(shape, eta=0.01)
    else:
        return {"relu": nn.ReLU(), "leaky": Leaky(0.01), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}[kind]
    with torch.no_grad():
        module.knee.uniform_(0.1, 1.5)
    return module


def mlp(sizes, kind="relu"):
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation(kind, (b,))]
    return nn.Sequential(*layers[:-1])


def random_net(seed, kind, shape="mlp"):
    """A float64 network in evaluation mode and an input like its own."""
    torch.manual_seed(seed)
    if shape == "mlp":
        net, x = mlp([3, 7, 6, 5, 3], kind), torch.randn(2, 3)
    else:
        net, x = Residual(kind, shape), torch.randn(2, 2, 5, 7)
    net, x = net.double().eval(), x.double()
    return net, x


@pytest.fixture(scope="session")
def nets():
    return random_net


def _exact_range(net, box):
    """Exact range of a ReLU network on a box, by mixed-integer programming (scipy)."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    linear = [m for m in net if isinstance(m, nn.Linear)]
    layers = BoundedModule(net, box.center).compute_bounds(box, method="ibp").layers
    blocks = [linear[0].in_features]
    for m in linear[:-1]:
        blocks += [m.out_features] * 3  # z, a, switch
    blocks.append(linear[-1].out_features)
    starts = np.cumsum([0, *blocks])
    count = int(starts[-1])
    low, high = np.full(count, -1e4), np.full(count, 1e4)
    low[: blocks[0]], high[: blocks[0]] = box.lower[0].numpy(), box.upper[0].numpy()
    whole = np.zeros(count)
    rows, least, most = [], [], []

    def add(entries, a, b):
        row = np.zeros(count)
        for index, value in entries:
            row[index] += value
        rows.append(row)
        least.append(a)
        most.append(b)

    source = 0
    for k, m in enumerate(linear):
        z = starts[1 + 3 * k]
        for j in range(m.out_features):
            terms = [(source + i, float(w)) for i, w in enumerate(m.weight[j].detach())]
            add([(z + j, -1.0), *terms], -float(m.bias[j]), -float(m.bias[j]))
        if k == len(linear) - 1:
            break
        a, s = starts[2 + 3 * k], starts[3 + 3 * k]
        low_, up_ = (e[0].detach().numpy() for e in list(layers.values())[k])
        for j in range(m.out_features):
            whole[s + j], low[s + j], high[s + j], low[a + j] = 1, 0, 1, 0
            add([(a + j, 1.0), (z + j, -1.0)], 0, np.inf)
            add([(a + j, 1.0), (z + j, -1.0), (s + j, -low_[j])], -np.inf, -low_[j])
            add([(a + j, 1.0), (s + j, -max(up_[j], 0.0))], -np.inf, 0)
        source = a
    ends = []
    for j, sign in itertools.product(range(linear[-1].out_features), (1, -1)):
        goal = np.zeros(count)
        goal[starts[-2] + j] = sign
        done = milp(
            goal,
            constraints=LinearConstraint(np.array(rows), least, most),
            bounds=Bounds(low, high),
            integrality=whole,
            options={"mip_rel_gap": 0},
        )
        assert done.status == 0
        ends.append(sign * done.fun)
    return np.array(ends).reshape(-1, 2)


@pytest.fixture(scope="session")
def exact_range():
    return _exact_range


def _write_layers(path, *layers):
    """An ONNX file of Linear, ReLU and Softmax layers, written without the seconds that tracing takes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "x"
    for k, layer in enumerate(layers):
        inputs, more = [name], {}
        if isinstance(layer, nn.Linear):
            inputs, more = [name, f"w{k}", f"b{k}"], {"transB": 1}
            weights += [
                numpy_helper.from_array(value.detach().numpy(), entry)
                for value, entry in zip((layer.weight, layer.bias), inputs[1:], strict=True)
            ]
        kind = {nn.Linear: "Gemm", nn.ReLU: "Relu", nn.Softmax: "Softmax"}[type(layer)]
        name = f"y{k}"
        nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}_{k}", **more))
    columns = [layer for layer in layers if isinstance(layer, nn.Linear)]
    ends = [
        helper.make_tensor_value_info(entry, TensorProto.FLOAT, [1, width])
        for entry, width in (("x", columns[0].in_features), (name, columns[-1].out_features))
    ]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def write_layers():
    return _write_layers
