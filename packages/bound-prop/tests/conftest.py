"""Random networks and their data, shared by the tests."""

from itertools import pairwise

import pytest
import torch
from torch import nn

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
    for module in net.modules():
        if isinstance(module, ParamRamp | Leaky):
            module.eta = module.eta.double()
    return net, x


@pytest.fixture(scope="session")
def nets():
    return random_net
