"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys
import tempfile
from pathlib import Path

import ssl_kd

assert "torch" not in sys.modules

import torch  # noqa: E402

from ssl_kd.cli import app  # noqa: E402
from tenfold.distill import create_model, load_classifier, save_classifier  # noqa: E402

student, teacher = (ssl_kd.SSWrapper(create_model(name, 10)) for name in ("plain3", "resnet8"))
step = ssl_kd.SSKDStep(student, teacher).train()
step(torch.randn(4, 4, 3, 16, 16), torch.arange(4))["loss"].backward()
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "student.pt"
    save_classifier(file, student.backbone, arch="plain3", num_classes=10)
    assert load_classifier(file).arch == "plain3"
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
