"""Time of a training step with each distiller and with UNIX's scoring, beside plain KD; images a second of the data.

Every row is one whole step (forward, backward, update) of resnet8 from resnet20 on 64 images of 32 x 32; the
peer is the step of plain KD on the same batch. The pipeline's peer is torchvision's transforms in a loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kernels.model import Case, Peer, Row, within
from speed.common import finite
from tenfold.distill import DISTILLERS, DistillStep, create_model
from tenfold.distill.data import CIFAR_MEAN, CIFAR_STD, Augment, ImageArrays, LabelledImages
from unix_kd import DistillStep as UnixStep
from unix_kd import UncertaintyMixup

BATCH, CLASSES = 64, 100
_OPTIONS: dict[str, dict[str, Any]] = {"crd": {"negatives": 1024}}


def _case(scale: float, dtype: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    torch.manual_seed(0)
    networks = create_model("resnet8", CLASSES), create_model("resnet20", CLASSES)
    return Case(BATCH, f"{BATCH} images", {"x": x, "labels": labels, "networks": networks})


def _stepping(case: Case, step: Any) -> Callable[[], Any]:
    """One update; the result is the loss, which must be finite."""
    step.train()
    optimizer = torch.optim.SGD(step.trainable(), lr=1e-6)
    index = torch.arange(BATCH)

    def call() -> float:
        loss = step(case["x"], case["labels"], index)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return call


def _distiller(name: str) -> Callable[[Case], Callable[[], Any]]:
    def build(case: Case) -> Callable[[], Any]:
        student, teacher = copy.deepcopy(case["networks"])
        labels = torch.arange(5000) % CLASSES
        options = _OPTIONS.get(name, {})
        step = DistillStep(student, teacher, name, input_shape=(3, 32, 32), labels=labels, **options)
        return _stepping(case, step)

    return build


def _unix(**options: Any) -> Callable[[Case], Callable[[], Any]]:
    def build(case: Case) -> Callable[[], Any]:
        return _stepping(case, UnixStep(*copy.deepcopy(case["networks"]), UncertaintyMixup(**options)))

    return build


def _kd(case: Case) -> Callable[[], Any]:
    return _stepping(case, DistillStep(*copy.deepcopy(case["networks"]), ce_weight=0.1, kd_weight=0.9))


_PLAIN_KD = Peer("plain KD", "torch", "torch", _kd, same=False, note="the step that the method is added to")


def _row(key: str, title: str, build: Callable[[Case], Callable[[], Any]], quick: bool = False) -> Row:
    return Row(
        key=f"step-{key}",
        op="DistillStep",
        title=title,
        make=_case,
        ours=build,
        agree=finite,
        peers=(_PLAIN_KD,),
        growth=False,
        quick=quick,
    )


def _images(scale: float, dtype: str) -> Case:
    pixels = np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), dtype=np.uint8)
    data = LabelledImages(pixels, np.arange(512) % CLASSES, tuple(map(str, range(CLASSES))))
    return Case(512, "512 images of 32 x 32", {"data": data})


def _pipeline(case: Case) -> Callable[[], Any]:
    samples = ImageArrays(case["data"], Augment())
    return lambda: samples.__getitems__(range(512))[0]


def _torchvision(case: Case) -> Callable[[], Any]:
    from PIL import Image
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )
    images = [Image.fromarray(pixels) for pixels in case["data"].images]
    return lambda: torch.stack([transform(image) for image in images])


def _statistics(raw: Any, case: Case) -> Any:
    """Both draw their own crops: the mean of 512 images is what can be compared."""
    return raw.mean(dim=(0, 2, 3)).numpy()


ROWS: tuple[Row, ...] = (
    _row("unix", "UNIX, 48 of 64 kept, with its scoring pass", _unix(keep=48, b=32), quick=True),
    _row("unix-32", "UNIX, 32 of 64 kept", _unix(keep=32, b=16)),
    _row("random", "random 48 of 64, no scoring pass", _unix(keep=48, b=32, strategy="random", lam=0.0)),
    _row("scoring", "UNIX keeping all: the price of scoring and mixing", _unix(keep=64, b=32)),
    *(
        _row(name, f"{kind.__name__} beside KD", _distiller(name), quick=name == "at")
        for name, kind in DISTILLERS.items()
        if name != "kd"
    ),
    Row(
        key="pipeline",
        op="ImageArrays",
        title="crop, mirror and normalise 512 images",
        make=_images,
        ours=_pipeline,
        agree=within(0.12),
        normal=_statistics,
        peers=(
            Peer(
                "torchvision v2",
                "torchvision",
                "torchvision",
                _torchvision,
                _statistics,
                note="image by image from Pillow, as its CIFAR data set does; draws its own crops",
            ),
        ),
        growth=False,
        quick=True,
    ),
)
