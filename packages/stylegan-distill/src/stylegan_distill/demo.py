"""The quick card: students of one teacher, side by side for the same latent codes.

A quick run and not the claim: one seed, few steps, the deciding arms and the control.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from stylegan_distill.experiment import ARMS, SCALES, Run, evaluate, load_teacher, run_arm, sprite_set
from stylegan_distill.grids import labelled_rows
from stylegan_distill.networks import Generator
from tenfold.io import make_folder, write_image
from tenfold.train.demo import DemoResult, print_demo, write_demo

__all__ = ["demo", "run_demo"]

_DEMO = {
    "kd_mapping": "student, teacher's mapping copied",
    "kd_random": "student, random mapping",
    "kd_shuffled": "control: the mapping's weights shuffled",
}
_STEPS, _SHOWN = 120, 12


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Distil a small generator three ways and show all of them for the same latent codes.

    Args:
        out: Folder for the picture and demo.json.
        seed: Of the students.
    """
    print_demo(run_demo(out, seed))


def run_demo(
    out: Path, seed: int = 0, *, steps: int = _STEPS, codes: int = 256, samples: int = 512
) -> DemoResult:
    """The whole card.

    Args:
        out: folder for the picture and ``demo.json``; created.
        seed: of students, codes and order.
        steps: of each student.
        codes: that teacher and students are compared on.
        samples: images of the Frechet distances.

    Raises:
        UserInputError: the folder cannot be written.
    """
    start = time.perf_counter()
    make_folder(out)
    teacher, images, scale = load_teacher(), sprite_set(), SCALES["sprites"]
    runs: dict[str, Run] = {}
    for name in _DEMO:
        run = run_arm(ARMS[name], teacher, images, scale, seed=seed, steps=steps, evaluated=False)
        run.numbers |= evaluate(
            teacher,
            run.student,
            images,
            scale,
            student_directions=run.directions,
            codes=codes,
            samples=samples,
        )
        runs[name] = run
    picture = out / "same_codes.png"
    z = torch.randn(_SHOWN, teacher.z_dim, generator=torch.Generator().manual_seed(7))
    rows = {"teacher": _images(teacher, z)}
    rows |= {_DEMO[name]: _images(run.student, z) for name, run in runs.items()}
    write_image(picture, labelled_rows(rows))
    ratios = {name: run.numbers["ratio"] for name, run in runs.items()}
    result = DemoResult(
        title="Distilling StyleGANs: mind the mapping",
        claim="A student that starts with its teacher's mapping network draws the teacher's image for the same code.",
        number=f"output discrepancy {ratios['kd_mapping']:.2f} of that of unrelated images",
        control=f"random mapping {ratios['kd_random']:.2f}, shuffled mapping {ratios['kd_shuffled']:.2f}",
        passed=ratios["kd_mapping"] < min(ratios["kd_random"], ratios["kd_shuffled"]),
        pictures=(picture,),
        columns=(
            "student",
            "discrepancy, %",
            "perceptual, %",
            "edit cosine, %",
            "fd_tiny to teacher, %",
            "seconds",
        ),
        rows=tuple(_row(_DEMO[name], run) for name, run in runs.items()),
        notes=(
            f"Quick run on generated sprites of 16 pixels, one seed, {steps} steps a student of 30 % of the channels.",
            "The discrepancy is L1 between teacher and student for the same code over L1 for different codes: 100 % "
            "means no correspondence. fd_tiny is a Frechet distance on a small fixed network, times 100.",
        ),
        seed=seed,
        seconds=time.perf_counter() - start,
    )
    write_demo(result, out)
    return result


def _row(title: str, run: Run) -> tuple[str | float, ...]:
    names = ("ratio", "perceptual", "edit_cosine", "fd_teacher")
    return (title, *(100 * run.numbers[name] for name in names), run.numbers["seconds"])


@torch.no_grad()
def _images(generator: Generator, z: Tensor) -> Tensor:
    found: Tensor = generator(z, noise="none")
    return found
