"""The quick card: a small student learns from a small teacher with fewer queries, beside its controls.

The same arms, run with several seeds and at full length, are the package's claim.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tenfold.distill.checkpoints import load_classifier
from tenfold.distill.small import stroke_set, stroke_tile
from tenfold.io import make_folder, write_bytes
from tenfold.train.demo import DemoResult, print_demo, write_demo
from unix_kd.experiment import ARMS, TEACHER, Run, run_arm

__all__ = ["demo", "run_demo"]

_DEMO = ("kd", "unix48", "random48", "reversed48")
_SHOWN = 12


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Distil a small network four ways and compare accuracy with teacher queries.

    Args:
        out: Folder for pictures and demo.json.
        seed: Of everything random.
    """
    print_demo(run_demo(out, seed))


def run_demo(out: Path, seed: int = 0, *, images: int = 1280, epochs: int = 40) -> DemoResult:
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
    teacher = load_classifier(TEACHER)
    train_set, test_set = stroke_set("easy", images, seed=seed), stroke_set("easy", train=False)
    runs = {
        name: run_arm(ARMS[name], train_set, test_set, teacher.model, seed=seed, epochs=epochs)
        for name in _DEMO
    }
    rows = tuple(_row(ARMS[name].title, run) for name, run in runs.items())
    picture = out / "selection.png"
    _draw(picture, runs["unix48"])
    kd, unix, random = (runs[name] for name in ("kd", "unix48", "random48"))
    cost = unix.ledger.report()
    last = unix.selection[-1]
    result = DemoResult(
        title="UNIX: fewer teacher queries",
        claim="What a student learns from three quarters of the teacher queries, chosen by its own uncertainty.",
        number=f"top-1 {unix.top1:.1f} % at {100 * cost['ratio']:.1f} % of KD's computation",
        control=f"KD {kd.top1:.1f} % at 100 %, random choice {random.top1:.1f} %",
        passed=bool(unix.top1 > 50.0 and cost["ratio"] < 0.8),
        pictures=(picture,),
        columns=("way", "teacher images", "cost %", "cost % (backward x2)", "seconds", "top-1 %"),
        rows=rows,
        notes=(
            f"Quick run on generated stroke images, one seed, {epochs} epochs of {images} images; the teacher has"
            f" {teacher.facts.get('top1', 0.0):.1f} % on the same test images.",
            f"The student's entropy of kept images is {last['entropy_kept']:.2f}, of dropped ones"
            f" {last['entropy_dropped']:.2f}.",
            "Cost counts forward and backward passes of both networks; on networks this small the wall time"
            " saves less.",
        ),
        seed=seed,
        seconds=time.perf_counter() - start,
    )
    write_demo(result, out)
    return result


def _row(title: str, run: Run) -> tuple[str | float, ...]:
    once, twice = run.ledger.report(), run.ledger.report(2.0)
    counts = f"{once['teacher_images']:,.0f}"
    return (title, counts, 100 * once["ratio"], 100 * twice["ratio"], run.seconds, run.top1)


def _draw(path: Path, run: Run) -> None:
    """Four rows: the most certain images, the most uncertain ones, the least uncertain kept ones, and these mixed."""
    from PIL import Image, ImageDraw, ImageFont

    from tenfold.viz import encode_image

    assert run.first is not None
    x, batch = run.first
    order = batch.order
    count = min(_SHOWN, len(batch.x), len(order))
    rows = (
        ("dropped: the student is sure", x[order[-count:].flip(0)]),
        ("kept: the student is unsure", x[order[:count]]),
        ("least uncertain of the kept", x[order[len(batch.x) - count : len(batch.x)]]),
        ("and as the teacher saw them, mixed", batch.x[-count:]),
    )
    side, top = 56, 20
    canvas = Image.new("RGB", (count * (side + 4) + 4, len(rows) * (side + top + 6)), (16, 18, 24))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for r, (title, images) in enumerate(rows):
        y = r * (side + top + 6)
        draw.text((4, y + 2), title, fill=(226, 229, 236), font=font)
        for c, image in enumerate(images):
            canvas.paste(stroke_tile(image, side), (4 + c * (side + 4), y + top))
    write_bytes(path, encode_image(np.asarray(canvas)))
