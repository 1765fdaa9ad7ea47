"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys

import torch

import denfi
from denfi.cli import app
from tenfold.lidar import build_detector

model = denfi.DenfiDet.from_config("denfidet_tiny")
gt_boxes = torch.tensor([[[1.0, 2.0, 0.0, 4.0, 1.8, 1.0, 0.3, 1.0]]])
points = torch.cat((torch.zeros(50, 1), torch.rand(50, 3)), 1)
losses = model({"points": points, "gt_boxes": gt_boxes, "batch_size": 1})
losses["loss"].backward()
assert len(model.eval().predict(torch.rand(50, 3))) == 1
second = denfi.plug_in(build_detector("second"))
assert sum(p.numel() for p in second.parameters()) == 5_877_056
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
