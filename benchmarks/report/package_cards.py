"""Cards of the detectors and packages: each runs its own demo in a process of its own.

A package takes part by having `<import name>/demo.py` with `run_demo(out, seed)`. Nothing is listed here but
the core's own detector, which trains on two threads and therefore alone; the others run two at a time.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kernels.frames import REPOSITORY
from report.kernel_cards import Card
from tenfold.train.demo import DemoResult, read_demo
from tenfold.viz import Picture, Table, Text

_RUN = "import sys; from pathlib import Path; from {module} import run_demo; run_demo(Path(sys.argv[1]), 0)"


@dataclass(frozen=True)
class Demo:
    """A demo to run: its package, the module with `run_demo`, and how many threads it may use."""

    name: str
    module: str
    threads: int = 1


def demos(packages: Path = REPOSITORY / "packages") -> tuple[Demo, ...]:
    """The core's detector, then every package that has a demo, by name."""
    files = sorted(packages.glob("*/src/*/demo.py"))
    return (
        Demo("lidar", "tenfold.lidar.demo", threads=2),
        *(Demo(path.parents[2].name, f"{path.parent.name}.demo") for path in files),
    )


def run_all(out: Path, chosen: tuple[Demo, ...]) -> Iterator[tuple[Demo, Callable[[], Card]]]:
    """Run the demos and yield, in order, a builder of each card; the builder raises what went wrong."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        # A demo on two threads has the machine for itself.
        for demo in (d for d in chosen if d.threads > 1):
            yield demo, _builder(_run(demo, out))
        waiting = [(demo, pool.submit(_run, demo, out)) for demo in chosen if demo.threads == 1]
        for demo, done in waiting:
            yield demo, _builder(done.result())


def _run(demo: Demo, out: Path) -> DemoResult | str:
    """The demo's result, or what it printed when it failed."""
    folder = out / demo.name
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(demo.threads)}
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(module=demo.module), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return read_demo(folder) if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-6000:]


def _builder(outcome: DemoResult | str) -> Callable[[], Card]:
    def build() -> Card:
        if isinstance(outcome, str):
            raise RuntimeError(f"the demo failed:\n{outcome}")
        return card(outcome)

    return build


def card(result: DemoResult) -> Card:
    """The card of a demo's result."""
    return Card(
        result.title,
        result.claim,
        result.number,
        result.control,
        result.passed,
        [
            *(Picture(path.read_bytes(), path.stem.replace("_", " ")) for path in result.pictures),
            Table(list(result.columns), [list(row) for row in result.rows]),
            *(Text(note) for note in result.notes),
        ],
        seconds=result.seconds,
    )
