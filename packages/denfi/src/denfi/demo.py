"""The quick card: does the sampling point of a rotated object move onto the edge that holds the evidence?

A quick run of the mechanism test and not the claim: one seed. The control gets the proposals of other pixels.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from denfi.experiment import MECHANISM, EdgeRun, read_edges
from tenfold.io import make_folder, write_bytes
from tenfold.train.demo import DemoResult, print_demo, step_teller, write_demo
from tenfold.train.processes import use_threads

__all__ = ["demo", "run_demo"]

_ARMS = {
    "edge vectors (geometric)": "edge-geometric",
    "raw numbers (the paper)": "edge-raw",
    "control: other pixels' edges": "edge-shuffled",
    "nothing moves (dsc)": "edge-dsc",
}
_STEPS = 600


def demo(out: Path = Path("demo"), seed: int = 0, threads: int = 1) -> None:
    """Train four readers of maps whose evidence lies on one edge, and draw where they look.

    Args:
        out: Folder for the picture and demo.json.
        seed: Of maps and networks.
        threads: Threads to use.
    """
    use_threads(threads)
    print_demo(run_demo(out, seed, progress=True))


def run_demo(out: Path, seed: int = 0, *, steps: int = _STEPS, progress: bool = False) -> DemoResult:
    """The whole card.

    Args:
        out: folder for the picture and ``demo.json``; created.
        seed: of maps and networks.
        steps: of each of the four arms.
        progress: tell every 50th step.

    Raises:
        UserInputError: the folder cannot be written.
    """
    from denfi.pictures import edge_panels
    from tenfold.viz import encode_image

    start = time.monotonic()
    make_folder(out)
    runs = {
        title: read_edges(
            replace(MECHANISM[name], steps=steps), seed, step_teller(title, steps, 50, progress)
        )
        for title, name in _ARMS.items()
    }
    picture = out / "where_it_looks.png"
    write_bytes(picture, encode_image(edge_panels(runs)))
    geometric, raw, shuffled, _ = (run.numbers for run in runs.values())
    result = DemoResult(
        title="DENFI: look at the boundary",
        claim="Offsets made of predicted boundaries move a pixel's sampling point onto the edge with the evidence.",
        number=f"{geometric['accuracy']:.0f} % right with edge vectors, {raw['accuracy']:.0f} % with raw numbers",
        control=f"{shuffled['accuracy']:.0f} % with the proposals of other pixels",
        passed=all(torch.isfinite(run.offsets).all() for run in runs.values())
        and geometric["accuracy"] > shuffled["accuracy"],
        pictures=(picture,),
        columns=("offsets from", "right, %", "on the edge, %", "cells to the edge", "shift, cells"),
        rows=tuple(_row(title, run) for title, run in runs.items()),
        notes=(
            "Quick run on generated maps, one seed: two rotated objects on each, whose class only the front edge tells "
            "(red or blue); 50 % is chance. Every dot is where a pixel in an object's middle reads the map.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _row(title: str, run: EdgeRun) -> tuple[str | float, ...]:
    numbers = [run.numbers[name] for name in ("accuracy", "on edge, %", "cells to edge", "shift, cells")]
    return (title, *numbers)
