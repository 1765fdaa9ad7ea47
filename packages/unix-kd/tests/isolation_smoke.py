"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys
import tempfile
from pathlib import Path

import unix_kd

assert "torch" not in sys.modules

import torch  # noqa: E402

from tenfold.distill import create_model, load_classifier, save_classifier  # noqa: E402
from unix_kd.cli import app  # noqa: E402

student, teacher = create_model("plain3", 10), create_model("resnet8", 10)
step = unix_kd.DistillStep(student, teacher).train()
step(torch.randn(16, 3, 16, 16))["loss"].backward()
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "student.pt"
    save_classifier(file, student, arch="plain3", num_classes=10)
    assert load_classifier(file).arch == "plain3"
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
assert app(["cost", "--teacher", "resnet56", "--student", "resnet20"]) == 0
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
