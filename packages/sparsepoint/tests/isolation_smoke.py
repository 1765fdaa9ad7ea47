"""One minute of use with nothing but the package's declared dependencies installed."""

import sys
import tempfile
from pathlib import Path

import torch

import sparsepoint
from sparsepoint.cli import app
from sparsepoint.data import make_room
from tenfold.io import PointCloud, write_points

assert sum(p.numel() for p in sparsepoint.VoteNet().parameters()) == 953_828
model = sparsepoint.SparsePoint(sparsepoint.make_config("tiny", "rooms"))
criterion = sparsepoint.SetCriterion3d(model.config)
samples = sparsepoint.SceneSamples(sparsepoint.SyntheticRooms(2), model.config)
batch = sparsepoint.collate([samples[0], samples[1]])
criterion(model(batch.points), batch.truth)["loss"].backward()
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write_points(folder / "room.ply", PointCloud(make_room(1_000_000).points))
    assert app(["predict", str(folder / "room.ply"), "tiny", "--out", str(folder / "out")]) == 0
    assert len(list((folder / "out").iterdir())) == 3
    assert app(["export", "tiny", str(folder / "tiny.pt2")]) == 0
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
assert torch.is_grad_enabled()
