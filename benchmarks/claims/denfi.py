"""Claims of denfi: boundary proposals carry sampling points to the edges that hold the evidence (Xu et al. 2020)."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claims.gates import Gate, Means, judge
from claims.model import Claim
from denfi.experiment import DETECTION, MECHANISM, measure_detection, measure_mechanism
from denfi.model import VARIANTS

# None of them was looked at while the experiments were written.
_SEEDS = (101, 102, 103)
_MORE_SEEDS = (*_SEEDS, 104, 105)
_MODULE = ("denfi.model.conv", "denfi.data")
_DETECTOR = (
    "denfi.model",
    "denfi.losses",
    "denfi.targets",
    "denfi.recipe",
)

_MECHANISM_TEXT = """
Two objects on each map carry a hidden class on their front edge alone; pixels in their middles must tell it. All arms
train the same depth-wise separable convolution for 600 steps and differ in where its offset comes from: the vectors to
the four edges ("geometric"), the paper's five raw numbers ("raw"), the features ("self"), nothing ("dsc"), proposals of
other pixels ("shuffled"). "short" trains for 300 steps, too few for some starts; "zero" starts the offset layer at
zero; "axis" turns all headings to 0, where a constant shift helps. Accuracy in percent on 160 held-out maps, 50 is
chance. "on edge" is the share of interior pixels whose sampling point lies within 1.5 cells of their own object's front
edge.
""".strip()
_DETECTION_TEXT = """
A tiny detector on generated bird's-eye scenes whose points lie on the edges that face a sensor in a random direction;
600 steps, 100 held-out scenes, AP|R40 of bird's-eye boxes. "dsc" has the module's convolutions and nothing else,
"dsc+dbpm" adds the boundary losses, "denfi" adds the paper's moved sampling, "denfi-geo" makes offsets of edge vectors;
"shuffled" rows get the proposals of other pixels, "oracle" the true ones. "own" and "reg occupancy" are the measured
density around positive pixels and around their sampling points in the regression branch, "reg spread" the deviation of
the shift over pixels. No gap in AP is claimed that the shuffled rows also show.
""".strip()
_SIMULATED_TEXT = """
The same rows on a narrow SECOND, trained on simulated scans by the package's own task: 80 frames of a quarter of the
usual area, 120 steps, 40 unseen frames; cars, moderate, AP|R40, overlap 0.5. Short runs: they show that everything
works together in 3D, and are printed whole.
""".strip()

_SIMULATED = tuple(
    f"sim-{name}" for name in ("base", "dsc", "dsc+dbpm", "denfi", "denfi-geo", "denfi-shuffled")
)
_STEPS, _FRAMES = 120, (80, 40)
_NARROW: dict[str, Any] = {
    "point_range": [0.0, -12.8, -3.0, 25.6, 12.8, 1.0],
    "voxel_size": [0.1, 0.1, 0.1],
    "channels": [8, 16, 24, 32],
    "out_channels": 32,
    "bev_layers": [2, 2],
    "bev_channels": [32, 64],
    "up_channels": [32, 32],
    "post": {"score_threshold": 0.05},
}


def measure_simulated(arm: str, seed: int) -> Mapping[str, float]:
    """Train a narrow SECOND with a row of the ablation on simulated scans, and evaluate it on others."""
    from lightning.pytorch import Callback, seed_everything

    from denfi.task import DenfiTask, LidarData
    from tenfold.train import make_trainer

    losses: list[float] = []

    class Recorder(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
            losses.append(float(outputs["loss"].detach()))

    seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        data = LidarData(folder, batch_size=4, seed=seed, counts={}, image_size=(375, 1242), simulate=_FRAMES)
        data.prepare_data()
        task = DenfiTask(
            "denfidet_second_car", arm.removeprefix("sim-"), overrides=_NARROW, lr=0.01, bn_momentum=0.1
        )
        trainer = make_trainer(
            default_root_dir=Path(folder),
            max_steps=_STEPS,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            gradient_clip_val=10.0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=[Recorder()],
        )
        trainer.fit(task, datamodule=data)
        trainer.limit_val_batches = 1.0
        trainer.validate(task, datamodule=data, verbose=False)
    result = task.result
    return {
        "BEV AP@0.5": result.ap("Car", "bev", table="loose"),
        "3D AP@0.5": result.ap("Car", "3d", table="loose"),
        "BEV AP@0.7": result.ap("Car", "bev"),
        "objects": float(result.curve("Car", "3d", table="loose").n_gt),
        "first loss": sum(losses[:12]) / 12,
        "last loss": sum(losses[-12:]) / 12,
    }


CLAIMS = (
    Claim(
        name="mechanism",
        package="denfi",
        title="Does the sampling point move onto the edge that holds the evidence?",
        arms=tuple(MECHANISM),
        seeds=_MORE_SEEDS,
        measure=measure_mechanism,
        dataset="generated maps with evidence on one edge, 40 x 40 (4,800 to train on, 160 to evaluate)",
        sources=("denfi.experiment", *_MODULE),
        metrics=("accuracy", "on edge, %", "cells to edge", "shift, cells"),
        control="edge-shuffled",
        config=lambda arm: asdict(MECHANISM[arm]),
        text=_MECHANISM_TEXT,
        digits=1,
    ),
    Claim(
        name="detection",
        package="denfi",
        title="What it brings a tiny detector, supervision and sampling apart",
        arms=DETECTION,
        seeds=_SEEDS,
        measure=measure_detection,
        dataset="generated bird's-eye scenes, 19.2 m square (4,800 to train on, 100 to evaluate)",
        sources=("denfi.experiment", "denfi.data", *_DETECTOR),
        metrics=(
            "AP@0.5",
            "AP@0.7",
            "reg shift",
            "reg spread",
            "own occupancy",
            "reg occupancy",
            "last loss",
        ),
        control="bev-dsc+dbpm",
        config=lambda arm: asdict(VARIANTS[arm.removeprefix("bev-")]),
        text=_DETECTION_TEXT,
        digits=3,
    ),
    Claim(
        name="simulated",
        package="denfi",
        title="The same rows on a narrow SECOND and simulated scans",
        arms=_SIMULATED,
        seeds=_SEEDS,
        measure=measure_simulated,
        dataset=f"simulated 32-beam scans, {_FRAMES[0]} frames to train on, {_FRAMES[1]} to evaluate",
        sources=(*_DETECTOR, "denfi.task"),
        metrics=("BEV AP@0.5", "3D AP@0.5", "BEV AP@0.7", "first loss", "last loss"),
        control="sim-dsc+dbpm",
        config=lambda arm: {
            "steps": _STEPS,
            "overrides": _NARROW,
            **asdict(VARIANTS[arm.removeprefix("sim-")]),
        },
        text=_SIMULATED_TEXT,
        digits=1,
    ),
)


def _accuracy(found: Means, arm: str) -> float:
    return found[arm]["accuracy"]


def gates() -> list[Gate]:
    """What must hold, from the records there are."""
    bev = "bev-denfi"
    wanted: tuple[tuple[str, Any, float], ...] = (
        ("edge vectors, rotated: at least 95 % right", lambda m: _accuracy(m, "edge-geometric"), 95.0),
        ("raw numbers, rotated: at least 62 % right", lambda m: _accuracy(m, "edge-raw"), 62.0),
        ("control, nothing moves: at most 55 % right", lambda m: -_accuracy(m, "edge-dsc"), -55.0),
        ("control, other pixels' edges: at most 65 % right", lambda m: -_accuracy(m, "edge-shuffled"), -65.0),
        (
            "control, other pixels' raw numbers: at most 65 % right",
            lambda m: -_accuracy(m, "edge-raw-shuffled"),
            -65.0,
        ),
        (
            "detection: losses fall",
            lambda m: min(m[arm]["first loss"] - m[arm]["last loss"] for arm in ("bev-dsc+dbpm", bev)),
            0.0,
        ),
        (
            "detection: denfi - dsc+dbpm at least -1 AP@0.5",
            lambda m: m[bev]["AP@0.5"] - m["bev-dsc+dbpm"]["AP@0.5"],
            -1.0,
        ),
        (
            "detection: density where it looks above the pixel's own",
            lambda m: m[bev]["reg occupancy"] - m[bev]["own occupancy"],
            0.0,
        ),
        (
            "detection: spread of the shift at least 5 times that of the shuffled control",
            lambda m: m[bev]["reg spread"] / m["bev-denfi-shuffled"]["reg spread"],
            5.0,
        ),
    )
    # The mechanism is the claim; bounds on the detection experiment come from pilot runs.
    return [
        judge(text, value, least, "denfi", pilot=text.startswith("detection"))
        for text, value, least in wanted
    ]
