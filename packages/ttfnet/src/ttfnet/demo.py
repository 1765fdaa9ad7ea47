"""The quick card: the method and its one-pixel control, side by side on generated pictures.

A quick run and not the claim: one seed and a short schedule. The control is the same network with one
regression sample per object.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tenfold.io import make_folder, write_bytes
from tenfold.train.demo import DemoResult, print_demo, step_teller, write_demo
from ttfnet.data.dataset import CocoDataset, collate
from ttfnet.decoding import Detections
from ttfnet.experiment import ARMS, Run, make_data, train_arm

__all__ = ["demo", "run_demo"]

_STEPS = 170
_ARMS = {"many samples (TTFNet)": "many-lr0.01", "one pixel (control)": "one-lr0.01"}
_SHOWN, _ZOOM, _CONF = 6, 2, 0.3


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Train TTFNet and its one-pixel control for 170 steps on generated pictures, and compare them.

    Args:
        out: Folder for pictures and demo.json.
        seed: Of pictures and networks.
    """
    print_demo(run_demo(out, seed, progress=True))


def run_demo(out: Path, seed: int = 0, *, steps: int = _STEPS, progress: bool = False) -> DemoResult:
    """The whole card.

    Args:
        out: folder for pictures and ``demo.json``; created.
        seed: of pictures and networks.
        steps: of each of the two arms.
        progress: tell every 25th step.

    Raises:
        UserInputError: the folder cannot be written.
    """
    start = time.monotonic()
    make_folder(out)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), seed)
        runs = {
            title: train_arm(
                replace(ARMS[name], steps=steps), seed, data, on_step=step_teller(title, steps, 25, progress)
            )
            for title, name in _ARMS.items()
        }
        picture = out / "detections.png"
        _draw(picture, data["val"], list(runs.values()))
    many, one = runs.values()
    result = DemoResult(
        title="TTFNet: detection that trains fast",
        claim="Many weighted regression samples per object let a detector learn from few steps at a large step size.",
        number=f"AP {_percent(many):.1f} after {steps} steps",
        control=f"AP {_percent(one):.1f} with one pixel per object",
        passed=_percent(many) > 1 and bool(np.isfinite(many.losses).all()),
        pictures=(picture,),
        columns=("arm", "AP", "AP50", "AP75", "samples per object", "seconds"),
        rows=tuple(_row(title, run) for title, run in runs.items()),
        notes=(
            "Quick run on 400 generated pictures, one seed; AP is COCO's on 150 unseen ones. Picture: from top to "
            "bottom labels, TTFNet, control.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _percent(run: Run) -> float:
    return 100 * run.result.numbers["AP"]


def _row(title: str, run: Run) -> tuple[str | float, ...]:
    numbers = [100 * run.result.numbers[name] for name in ("AP", "AP50", "AP75")]
    return (title, *numbers, run.samples_per_object, run.seconds)


def _draw(path: Path, data: CocoDataset, runs: list[Run]) -> None:
    """Columns of pictures; rows: labels, then each run."""
    from tenfold.viz import draw_boxes_2d, encode_image

    scenes = [data.scene(k) for k in range(_SHOWN)]
    batch = collate([data[k] for k in range(_SHOWN)])
    labelled = [
        Detections(torch.from_numpy(s.boxes), torch.ones(len(s.boxes)), torch.from_numpy(s.labels))
        for s in scenes
    ]
    lines = [labelled, *(run.model.predict(batch.images, conf=_CONF) for run in runs)]
    rows = []
    for number, found in enumerate(lines):
        line = []
        for scene, own in zip(scenes, found, strict=True):
            large = np.ascontiguousarray(scene.image.repeat(_ZOOM, 0).repeat(_ZOOM, 1))
            boxes, labels = own.boxes.numpy() * _ZOOM, own.labels.numpy()
            scores = own.scores.numpy() if number else None
            drawn = draw_boxes_2d(large, boxes, labels, scores, class_names=data.class_names, text_size=10)
            line.append(np.pad(drawn, ((2, 2), (2, 2), (0, 0)), constant_values=255))
        rows.append(np.concatenate(line, 1))
    write_bytes(path, encode_image(np.concatenate(rows)))
