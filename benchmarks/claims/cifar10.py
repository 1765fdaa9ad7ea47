"""A part of CIFAR-10 small enough for two cores, and a teacher for it; needs the sample data."""

import time
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.frames import REPOSITORY, sample_file
from tenfold.distill.checkpoints import load_classifier, save_classifier
from tenfold.distill.data import (
    CIFAR_MEAN,
    CIFAR_STD,
    Augment,
    ImageArrays,
    LabelledImages,
    read_image_folder,
)
from tenfold.distill.loop import accuracy, batches, train
from tenfold.distill.models import create_model
from tenfold.train.claims import source_hash

__all__ = ["DATASET", "EPOCHS", "TEACHER_DATASET", "TEACHER_SOURCES", "sets", "teacher", "teacher_facts"]

DATASET = "CIFAR-10 (JPEG re-encoded), 1000 training images for the student, 2000 test images"
EPOCHS = 30
TEACHER_PER_CLASS, TEACHER_EPOCHS = 500, 10
STUDENT_PER_CLASS, TEST_PER_CLASS = 100, 200
TEACHER_DATASET = f"CIFAR-10 (JPEG re-encoded), {10 * TEACHER_PER_CLASS} training images, 2000 test images"
TEACHER_SOURCES = (__file__, "tenfold.distill.models.resnet", "tenfold.distill.loop")
_AUGMENT = Augment(4, 0.5)


@cache
def _read(split: str, per_class: int) -> LabelledImages:
    return read_image_folder(sample_file("cifar10-jpeg.zip"), split, per_class=per_class)


def sets(seed: int, per_class: int = STUDENT_PER_CLASS) -> tuple[ImageArrays, ImageArrays]:
    """The student's training images and the test images."""
    test = ImageArrays(_read("test", TEST_PER_CLASS), _AUGMENT.plain(), random=False)
    return ImageArrays(_read("train", per_class), _AUGMENT, seed=seed), test


def teacher() -> nn.Module:
    """resnet8 from labels, trained once and kept in build/, keyed by its sources."""
    return load_classifier(_teacher_file()).model


def teacher_facts() -> dict[str, float]:
    """Test accuracy in percent and what it was trained on."""
    facts = load_classifier(_teacher_file()).facts
    return {name: float(facts[name]) for name in ("top1", "train_images", "epochs", "seconds")}


def _teacher_file() -> Path:
    path = REPOSITORY / "build" / "claims" / f"cifar10-{source_hash(TEACHER_SOURCES)[:12]}.pt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        model, top1 = _train()
        facts = {"mean": list(CIFAR_MEAN), "std": list(CIFAR_STD), "size": 32, "top1": top1}
        facts |= {"train_images": 10 * TEACHER_PER_CLASS, "epochs": TEACHER_EPOCHS}
        facts["seconds"] = time.perf_counter() - start
        save_classifier(path, model, arch="resnet8", num_classes=10, **facts)
    return path


def _train() -> tuple[nn.Module, float]:
    torch.manual_seed(0)
    model = create_model("resnet8", 10)
    train_set, test_set = sets(0, TEACHER_PER_CLASS)

    def step(x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(model(x), labels)}

    train(step, model.parameters(), batches(train_set, 64), TEACHER_EPOCHS, milestones=(0.6, 0.8))
    return model.eval(), accuracy(model, test_set)
