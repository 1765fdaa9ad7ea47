"""The small-scale setting of both packages: stroke images, a resnet8 teacher, a student of three layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.distill.checkpoints import save_classifier
from tenfold.distill.data import Augment, ImageArrays, LabelledImages
from tenfold.distill.loop import accuracy, batches, train
from tenfold.distill.models import create_model
from tenfold.distill.strokes import BACKGROUND, CLASSES, MEAN, SIZE, STD, strokes

__all__ = [
    "CLASS_NAMES",
    "save_stroke_teacher",
    "stroke_set",
    "stroke_tile",
    "train_stroke_teacher",
]

CLASS_NAMES = tuple(f"family {k // 4} class {k % 4}" for k in range(CLASSES))
TEACHER_IMAGES, TEST_IMAGES = 4000, 2000
TRAIN_SEED, TEST_SEED = 1, 2


def stroke_set(preset: str, images: int | None = None, *, train: bool = True, seed: int = 0) -> ImageArrays:
    """The first ``images`` training images, or the 2000 test images, of a preset.

    Args:
        preset: ``"easy"`` or ``"ambiguous"``.
        images: how many; by default 4000 and 2000.
        train: which of the two sets.
        seed: of the augmentation.
    """
    total = TEACHER_IMAGES if train else TEST_IMAGES
    pixels, labels = strokes(total, preset, seed=TRAIN_SEED if train else TEST_SEED)
    data = LabelledImages(pixels, labels, CLASS_NAMES)
    augment = Augment(2, 0.0, MEAN, STD, BACKGROUND)
    chosen = data if images is None else data.subset(range(images))
    return ImageArrays(chosen, augment if train else augment.plain(), seed=seed, random=train)


def stroke_tile(image: Tensor, side: int = 56) -> Any:
    """A Pillow image ``side x side`` of normalised pixels ``(3, 16, 16)``: bright strokes on black."""
    from PIL import Image

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    value = ((image * std + mean) * 3.0 - 1.0).clamp(0, 1)
    pixels = (value * 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def train_stroke_teacher(preset: str, *, seed: int = 0, epochs: int = 15) -> tuple[nn.Module, float]:
    """resnet8 from the labels of 4000 images: the network and its test accuracy in percent."""
    torch.manual_seed(seed)
    model = create_model("resnet8", CLASSES)
    data = stroke_set(preset, seed=seed)

    def step(x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(model(x), labels)}

    train(step, model.parameters(), batches(data, 64, seed=seed), epochs, milestones=(0.6, 0.8))
    return model.eval(), accuracy(model, stroke_set(preset, train=False))


def save_stroke_teacher(path: Path, model: nn.Module, top1: float, **recipe: Any) -> None:
    """Write a teacher with its recipe beside it."""
    facts = {"mean": list(MEAN), "std": list(STD), "size": SIZE, "class_names": list(CLASS_NAMES)}
    save_classifier(path, model, arch="resnet8", num_classes=CLASSES, top1=top1, **facts, **recipe)
