"""Cards of the detectors and packages: each runs its own `demo` and shows what that returns."""

from collections.abc import Callable
from pathlib import Path

import torch

from report.kernel_cards import Card
from tenfold.viz import Picture, Table, Text


def second(out: Path) -> Card:
    """A narrow SECOND, trained on simulated scans for two and a half minutes."""
    from tenfold.lidar.demo import run_demo

    torch.set_num_threads(2)
    result = run_demo(out / "second", seed=0, minutes=2.5)
    return Card(
        "SECOND on simulated LiDAR",
        result.claim,
        f"3D average precision {result.number:.1f} (cars, overlap 0.5, moderate, R40)",
        f"{result.control:.1f} for the same network before training",
        result.number > result.control,
        [
            *(Picture(path.read_bytes(), path.stem.replace("_", " ")) for path in result.pictures),
            Table(list(result.columns), [list(row) for row in result.rows]),
            *(Text(note) for note in result.notes),
        ],
    )


CARDS: tuple[Callable[[Path], Card], ...] = (second,)
