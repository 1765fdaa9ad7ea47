"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys

import torch

import xview3d
from tenfold.lidar import build_detector
from xview3d.cli import app

small = {"class_names": ["Car"], "point_range": [0, -12.8, -3, 25.6, 12.8, 1], "voxel_size": [0.2, 0.2, 0.1]}
model = xview3d.add_xview(build_detector("second", **small), [xview3d.View(), xview3d.View((20.0, 0.0, 0.0))])
points = torch.cat((torch.zeros(999, 1), torch.rand(999, 4) * torch.tensor([25.0, 12.0, 1.0, 1.0])), 1)
gt = torch.tensor([[[10.0, 5.0, 0.0, 4.0, 2.0, 1.5, 0.0, 1.0]]])
model({"points": points, "gt_boxes": gt, "batch_size": 1})["loss"].backward()
assert all(p.grad is not None for p in model.view_encoders.parameters())
assert len(model.eval()({"points": points, "batch_size": 1})) == 1
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
