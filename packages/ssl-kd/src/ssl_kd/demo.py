"""The quick card: a student learns from few labelled images, with and without self-supervision.

The same arms, run with several seeds and at full length, are the package's claim.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ssl_kd.experiment import ARMS, TEACHER, Run, run_arm, teacher_with_head
from ssl_kd.views import RotationViews
from tenfold.distill.checkpoints import load_classifier
from tenfold.distill.small import stroke_set, stroke_tile
from tenfold.io import make_folder, write_bytes
from tenfold.train.demo import DemoResult, print_demo, write_demo

__all__ = ["demo", "run_demo"]

_DEMO = ("kd", "kd4x", "sskd")


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Distil from few labelled images, with and without self-supervision.

    Args:
        out: Folder for pictures and demo.json.
        seed: Of everything random.
    """
    print_demo(run_demo(out, seed))


def run_demo(out: Path, seed: int = 0, *, images: int = 320, epochs: int = 80) -> DemoResult:
    """The whole card, about a minute on one thread.

    Args:
        out: folder for the picture and ``demo.json``; created.
        seed: of everything random.
        images: for the student.
        epochs: of an arm of length 1.

    Raises:
        UserInputError: the folder cannot be written.
    """
    start = time.perf_counter()
    make_folder(out)
    found = load_classifier(TEACHER)
    train_set = stroke_set("ambiguous", images, seed=seed)
    test_set = stroke_set("ambiguous", train=False)
    teacher = teacher_with_head(found.model, train_set, seed=seed)
    runs = {
        name: run_arm(ARMS[name], train_set, test_set, teacher, seed=seed, epochs=epochs) for name in _DEMO
    }
    picture = out / "views.png"
    _draw(picture, test_set.data.images[:6])
    sskd, kd, long = (runs[name].numbers for name in ("sskd", "kd", "kd4x"))
    result = DemoResult(
        title="SSKD: distillation with self-supervision",
        claim="What a student learns from few labels when its teacher also answers for rotated views.",
        number=f"top-1 {sskd['top1']:.1f} %; finds the own image of {sskd['retrieval']:.0f} % of rotated views",
        control=f"KD {kd['top1']:.1f} %, KD at the same computation {long['top1']:.1f} %",
        passed=bool(sskd["top1"] > 30.0 and sskd["retrieval"] > 5.0),
        pictures=(picture,),
        columns=("way", "teacher images", "GMACs", "seconds", "top-1 %", "retrieval %", "CKA x100"),
        rows=tuple(_row(ARMS[name].title, run) for name, run in runs.items()),
        notes=(
            f"Quick run on generated stroke images, one seed, {epochs} epochs of {images} labelled images; the"
            f" teacher was trained on 4000 and has {found.facts.get('top1', 0.0):.1f} % on the same test images.",
            f"Retrieval by the teacher's own head: {sskd['teacher_retrieval']:.0f} %; chance is 1.6 %. KD trains no"
            " head.",
        ),
        seed=seed,
        seconds=time.perf_counter() - start,
    )
    write_demo(result, out)
    return result


def _row(title: str, run: Run) -> tuple[str | float, ...]:
    n = run.numbers
    images = f"{n['teacher_images']:,.0f}"
    return (title, images, n["gmacs"], n["seconds"], n["top1"], n["retrieval"], 100.0 * n["cka"])


def _draw(path: Path, images: np.ndarray) -> None:
    """Six images in their four views."""
    from PIL import Image

    from tenfold.viz import encode_image

    transform: Any = stroke_set("ambiguous", 1, train=False).transform
    views = RotationViews(transform).batch(images, [None] * len(images))
    side = 56
    canvas = Image.new("RGB", (len(images) * (side + 4) + 4, 4 * (side + 4) + 4), (16, 18, 24))
    for c, image in enumerate(views):
        for r, view in enumerate(image):
            canvas.paste(stroke_tile(view, side), (4 + c * (side + 4), 4 + r * (side + 4)))
    write_bytes(path, encode_image(np.asarray(canvas)))
