"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys

import torch

from bound_prop import BoundedModule, LpBall, margin_spec
from bound_prop.cli import app

net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
x, labels = torch.randn(8, 4), torch.arange(8) % 3
bounded = BoundedModule(net, torch.zeros(1, 4))
bounds = [bounded.compute_bounds(LpBall(x, 0.05), margin_spec(labels, 3), method=m) for m in ("ibp", "crown")]
margins = (margin_spec(labels, 3) @ net(x).unsqueeze(2)).squeeze(2)
assert all((b.lower <= margins + 1e-5).all() and (b.upper >= margins - 1e-5).all() for b in bounds)
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
