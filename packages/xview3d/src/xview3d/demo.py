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
import torch
from torch import Tensor

from tenfold.io import make_folder, write_bytes
from tenfold.lidar.data import collate
from tenfold.lidar.demo import real_frames
from tenfold.train.demo import DemoResult, print_demo, write_demo
from xview3d import geometry
from xview3d.diagnostics import branch_effect, cell_extent, cell_purity
from xview3d.experiment import ARMS, Learned, train_arm
from xview3d.view import View

__all__ = ["demo", "run_demo"]

_SCENES = 16
_SHOWN_SCORE = 0.1
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
        UserInputError: the folder cannot be written.
    """
    start = time.monotonic()
    make_folder(out)
    cloud = geometry.simulate_clouds(seed, _SCENES)
    shares = {name: 100 * geometry.shared_by_distance(cloud, f"geometry-{name}") for name in ("ego", "both")}
    arm = replace(ARMS["demo"], steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        run = train_arm(arm, seed, Path(folder) / "data", progress=progress)
        batch = collate([run.data.frames["val"][k] for k in range(2)])
        changes = [100 * effect.change for effect in branch_effect(run.model, batch)]
        pictures = [_draw_cells(out / "cells.png", cloud), *_draw_real(out), *_draw_found(out, run)]
    ours, control = (float(np.nanmean(shares[name][_FAR])) for name in ("both", "ego"))
    parameters = sum(p.numel() for p in run.model.parameters())
    result = DemoResult(
        title="X-view: perspective views from anywhere",
        claim="A perspective view centred 40 m ahead of the car keeps far objects in cells of their own.",
        number=f"{ours:.1f} % of object points beyond 40 m share their finest cell with another object",
        control=f"{control:.1f} % with the egocentric view alone",
        passed=ours < control and _fell(run.losses),
        pictures=tuple(pictures),
        columns=("SECOND with views from the car and 20 m ahead", "3D AP@0.5", "BEV AP@0.5", "parameters"),
        rows=(_row(f"after {steps} steps", run, parameters),),
        notes=(
            f"Quick run: {_SCENES} simulated scenes for the cells; {arm.frames[0]} frames and {run.seconds:.0f} s of"
            " training for the detector; one seed. So small an average precision says that it learns, nothing more.",
            f"Leaving out a view changes its fused features by {changes[0]:.0f} and {changes[1]:.0f} %.",
            "cells: points of cars from above, bright where the cell holds another car too; left egocentric, right the"
            " finer of both views. On a real frame (where present): bright where the points of a cell lie far apart.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _fell(losses: list[float]) -> bool:
    third = max(1, len(losses) // 3)
    return math.isfinite(losses[-1]) and sum(losses[-third:]) < sum(losses[:third])


def _row(name: str, run: Learned, parameters: int) -> tuple[str | float, ...]:
    precision = [run.all.ap("Car", metric, table="loose") for metric in ("3d", "bev")]
    return (name, *precision, f"{parameters:,}")


def _draw_cells(path: Path, cloud: geometry.Cloud) -> Path:
    """Object points from above, coloured by whether they share a cell: from the car, and in the finer of two views."""
    from tenfold.viz import bev_image, encode_image

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


def _draw_real(out: Path) -> list[Path]:
    """A real KITTI frame where the sample data are present: how far apart the points of each cell lie, both ways."""
    from tenfold.viz import bev_image, encode_image

    frame = next(
        (f for f in real_frames((0.0, -36.0, -3.0, 72.0, 36.0, 1.0)) if f.name.startswith("KITTI")), None
    )
    if frame is None:
        return []
    xyz = torch.from_numpy(frame.points[frame.points[:, 0] > 0][:, :3].copy())
    ego, ahead = (cell_extent(xyz, View((x, 0.0, 0.0))).points for x in (0.0, 40.0))
    # One picture, the second half beside the first: both have one scale of colours.
    beside = xyz - xyz.new_tensor((0.0, 50.0, 0.0))
    picture = bev_image(
        torch.cat((xyz, beside)).numpy(),
        range=(0.0, -75.0, 72.0, 25.0),
        resolution=0.12,
        colour_by=torch.cat((ego, torch.minimum(ego, ahead))).clamp(max=6).numpy(),
        point_size=2,
    )
    path = out / "cells_kitti.png"
    write_bytes(path, encode_image(picture))
    return [path]


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
