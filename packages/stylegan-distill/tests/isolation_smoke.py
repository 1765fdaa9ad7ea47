"""Run by `nox -s isolation` where only this package's wheel and what it declares are installed."""

import sys
from pathlib import Path

import torch

import stylegan_distill as sd
from stylegan_distill.cli import app
from stylegan_distill.experiment import load_teacher

teacher = load_teacher()
student = sd.make_student(teacher, 0.7)
judge = sd.make_discriminator(student, widths=(8, 8, 8))
config = sd.DistillConfig(mimic_blocks=(1, 2), path_weight=0.0)
distiller = sd.Distiller(teacher, student, judge, config, perceptual=sd.LPIPS("tiny"))
assert distiller.step(torch.rand(4, 3, 16, 16))["ld"] > 0
sd.save_checkpoint("student.safetensors", student)
assert sd.load_generator("student.safetensors").widths == student.widths
Path("student.safetensors").unlink()
for verb in app.all_verbs():
    assert app([verb.name, "--help"]) in (0, 4)
for module in ("lightning", "matplotlib", "open3d"):
    assert module not in sys.modules, module
