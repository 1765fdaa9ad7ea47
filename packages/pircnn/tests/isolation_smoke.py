"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys

import torch

import pircnn
from pircnn.cli import app
from pircnn.data import toy_batch, toy_scene

scene = toy_scene((0, 1))
model = pircnn.PIRCNN.from_config(branch="cached", seg_classes=3, class_names=["Car"], points=1024,
                                  levels=[[64, [[1.6, 8, [8]]]]], up_widths=[[16]], point_widths=[16])  # fmt: skip
batch = toy_batch([scene])
batch["maps"] = [torch.rand(3, 96, 320)]
model(batch)["loss"].backward()
found = model.predict(scene.points, None, scene.calib, torch.rand(3, 96, 320).numpy())
assert found["boxes_3d"].shape[1] == 7
full = pircnn.PIRCNN.from_config(branch="cached")
assert sum(p.numel() for p in full.parameters()) == 4_038_819 + 61_572
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
