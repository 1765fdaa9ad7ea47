"""The quick card: what a second centre does to the cells, and a small SECOND with views, trained in a minute.

A quick run and not the claim: one seed and a short schedule. The number is the geometry, which needs no training; the
average precision beside it shows that the plug-in learns, and nothing more.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tenfold.eval.kitti import KittiResult
from tenfold.io import write_bytes
from tenfold.train.demo import DemoResult, print_demo, write_demo
from xview3d import geometry
from xview3d.experiment import ARMS, Learned, evaluate_again, train_arm
from xview3d.view import View

__all__ = ["demo", "run_demo"]

_SCENES = 16
_SHOWN_SCORE = 0.2
_FAR = slice(4, 7)  # bins beyond 40 m


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Count shared cells in simulated scans, train a small SECOND with views, and draw both.

    Args:
        out: Folder for pictures and demo.json.
        seed: Of scenes and networks.
    """
    print_demo(run_demo(out, seed, progress=True))


def run_demo(
    out: Path, seed: int = 0, *, steps: int = ARMS["demo"].steps, progress: bool = False
) -> DemoResult:
    """The whole card.

    Args:
        out: folder for pictures and ``demo.json``; created.
        seed: of scenes and networks.
        steps: of the training.
        progress: show bars.

    Raises:
        OSError: the folder cannot be written.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    cloud = geometry.simulate_clouds(seed, _SCENES)
    shares = {name: 100 * geometry.shared_by_distance(cloud, f"geometry-{name}") for name in ("ego", "both")}
    arm = replace(ARMS["demo"], steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        run = train_arm(arm, seed, Path(folder) / "data", progress=progress)
        with run.model.without(*run.model.active()):
            muted = evaluate_again(run)
        pictures = [_draw_cells(out / "cells.png", cloud), *_draw_found(out, run)]
    ours, control = (float(np.nanmean(shares[name][_FAR])) for name in ("both", "ego"))
    parameters = sum(p.numel() for p in run.model.parameters())
    result = DemoResult(
        title="X-view: perspective views from anywhere",
        claim="A perspective view centred 40 m ahead of the car keeps far objects in cells of their own.",
        number=f"{ours:.1f} % of object points beyond 40 m share their finest cell with another object",
        control=f"{control:.1f} % with the egocentric view alone",
        passed=ours < control and _fell(run.losses),
        pictures=tuple(pictures),
        columns=("SECOND with views from the car and 20 m ahead", "3D AP@0.5", "3D AP@0.7"),
        rows=(_row(f"after {steps} steps", run.all), _row("the same, its views left out", muted)),
        notes=(
            f"Quick run: {_SCENES} simulated scenes for the cells; {arm.frames[0]} frames and {steps} steps for a"
            f" detector of {parameters:,} parameters, {run.seconds:.0f} s; one seed.",
            "Average precision of so small a training says that the views are used, and nothing about the claim.",
            "cells.png: object points from above, bright where the cell holds another object too; left egocentric,"
            " right the finer of both views.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _fell(losses: list[float]) -> bool:
    third = max(1, len(losses) // 3)
    return math.isfinite(losses[-1]) and sum(losses[-third:]) < sum(losses[:third])


def _row(name: str, result: KittiResult) -> tuple[str | float, ...]:
    return (name, result.ap("Car", "3d", table="loose"), result.ap("Car", "3d"))


def _draw_cells(path: Path, cloud: geometry.Cloud) -> Path:
    """Object points of all scenes from above, coloured by whether they share a cell."""
    from tenfold.viz import bev_image, encode_image
    from xview3d.diagnostics import cell_purity

    of_object = cloud.instance >= 0

    def impure(view: View) -> Tensor:
        return cell_purity(cloud.xyz, cloud.instance, view, frame=cloud.frame).impure[of_object]

    ego = impure(View())
    both = ego & impure(View((40.0, 0.0, 0.0)))
    halves = [
        bev_image(
            cloud.xyz[of_object].numpy(),
            range=(0.0, -36.0, 72.0, 36.0),
            resolution=0.15,
            colour_by=0.25 + 0.75 * shared.double().numpy(),
            point_size=2,
        )
        for shared in (ego, both)
    ]
    write_bytes(path, encode_image(np.concatenate(halves, 1)))
    return path


def _draw_found(out: Path, run: Learned) -> list[Path]:
    """Two unseen frames: detections in colour, labels in white."""
    from tenfold.lidar.predict import detect, point_range
    from tenfold.viz import bev_image, encode_image

    pictures = []
    for k in range(2):
        frame: Any = run.data.frames["val"][k]
        found = detect(run.model, frame.points)
        kept = found["scores"] >= _SHOWN_SCORE
        picture = bev_image(
            frame.points,
            found["boxes"][kept],
            found["labels"][kept],
            found["scores"][kept],
            range=point_range(run.model),
            reference=frame.gt_boxes[:, :7],
            class_names=run.model.class_names,
            point_size=3,
            resolution=0.05,
        )
        pictures.append(out / f"found_{k}.png")
        write_bytes(pictures[-1], encode_image(picture))
    return pictures
