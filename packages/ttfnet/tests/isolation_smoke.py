"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys

import torch

import ttfnet
from ttfnet.cli import app

model = ttfnet.TTFNet(backbone="resnet18", num_classes=3)
images = torch.randn(1, 3, 64, 64)
boxes, labels = [torch.tensor([[10.0, 12.0, 50.0, 40.0]])], [torch.tensor([1])]
model.loss(model(images), boxes, labels)["loss"].backward()
assert len(model.eval().predict(images, conf=0.01, max_det=20)) == 1
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d", "pycocotools"):
    assert module not in sys.modules, module
