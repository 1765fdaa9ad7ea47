"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import json
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import torch

import moviescenes
from moviescenes.cli import app
from moviescenes.data.film import plan_film, write_film

with tempfile.TemporaryDirectory() as folder:
    movie = Path(folder) / "movie.mp4"
    plan = plan_film(0, 3, shots=(3, 3), frames=(16, 18))
    write_film(movie, plan, fps=Fraction(24000, 1001), size=(96, 64))
    out = Path(folder) / "scenes"
    assert app(["segment", str(movie), "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 6
    found = json.loads((out / "movie.json").read_text())
    assert {s["start_frame"] for s in found["shots"]} >= set(plan.hard_cuts)
    assert found["scenes"][-1]["end_frame"] == sum(plan.lengths) - 1
net = moviescenes.LGSS(moviescenes.LGSSConfig(dims={"place": 8, "aud": 8}, channels=4, hidden=4, head=4))
net({key: torch.rand(1, 10, 4, 8) for key in ("place", "aud")}).sum().backward()
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
