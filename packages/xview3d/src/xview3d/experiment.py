"""Small detectors with and without views on simulated scenes: reported beside their controls, never as evidence.

At this size average precision moves as much with the seed as with the arm, and views whose look-up is shuffled have won
before: what a small experiment can show is in `xview3d.geometry` and `xview3d.probe`.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tenfold.eval.kitti import FewObjectsWarning, KittiResult, kitti_eval
from tenfold.lidar.demo import small_overrides
from tenfold.lidar.evaluation import Evaluated
from tenfold.lidar.evaluation import annotations as in_camera
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, SceneConfig, simulate_kitti
from xview3d.diagnostics import branch_effect, hit_rate
from xview3d.fusion import has_views

__all__ = ["ARMS", "Arm", "Learned", "measure", "train_arm"]

FAR = 25.0
_NEAR_RANGE = [0.0, -12.8, -3.0, 25.6, 12.8, 1.0]
_NEAR_SCENE = replace(
    SMALL_SCENE, region=(3.0, -12.0, 25.0, 12.0), n_cars=4, n_poles=2, n_hedges=2, n_blocks=1
)
_CELL = {"voxel": [0.1, 0.02, 0.02]}
_EGO: dict[str, Any] = {"center": [0.0, 0.0, 0.0], **_CELL}


def _at(x: float) -> dict[str, Any]:
    return {**_EGO, "center": [x, 0.0, 0.0]}


@dataclass(frozen=True)
class Arm:
    """One training.

    Args:
        detector: name.
        xview: arguments of `add_xview`, or None.
        near: look at a quarter of the area, 25.6 m ahead, and simulate cars there.
        steps: of training.
        frames: simulated frames to train on, and unseen ones.
    """

    detector: str = "second"
    xview: Mapping[str, Any] | None = None
    near: bool = False
    steps: int = 110
    frames: tuple[int, int] = (100, 50)
    lr: float = 0.01
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scene(self) -> SceneConfig:
        """What is simulated."""
        return _NEAR_SCENE if self.near else SMALL_SCENE

    def settings(self) -> dict[str, Any]:
        """Fields of the detector's configuration."""
        near = {"point_range": _NEAR_RANGE} if self.near else {}
        return {**small_overrides(self.detector), **near, **self.overrides}


_BEV: dict[str, Any] = {"kind": "cartesian", "voxel": [0.1, 0.1, 0.1]}
_SMALL: dict[str, Mapping[str, Any] | None] = {
    "base": None,
    "bev2": {"views": [_BEV]},
    "ego2": {"views": [_EGO, _EGO]},
    "xview": {"views": [_EGO, _at(32.0)]},
    "shuffled": {"views": [_EGO, _at(32.0)], "shuffle_gather": True},
}
_COARSE: dict[str, Any] = {"voxel": [0.2, 0.04, 0.04]}
_DEMO = {"views": [{"center": [0.0, 0.0, 0.0], **_COARSE}, {"center": [20.0, 0.0, 0.0], **_COARSE}]}
_OTHERS: dict[str, Mapping[str, Any] | None] = {
    "base": None,
    "xview": {"views": [_EGO, _at(20.0)]},
    "shuffled": {"views": [_EGO, _at(20.0)], "shuffle_gather": True},
}


def _arms() -> dict[str, Arm]:
    arms = {f"small-{name}": Arm(xview=views) for name, views in _SMALL.items()}
    arms["demo"] = Arm(xview=_DEMO, near=True, steps=120, frames=(60, 20))
    for detector in ("pointrcnn", "parta2", "pv_rcnn"):
        for name, views in _OTHERS.items():
            arms[f"{detector}-{name}"] = Arm(detector, views, near=True, steps=60, frames=(80, 40))
    return arms


#: Name -> training. "small" is SECOND with its controls, "demo" the demo; the others are there to be seen whole.
ARMS: Mapping[str, Arm] = _arms()


class Learned(NamedTuple):
    """A trained detector and what it finds in unseen frames.

    Args:
        model: in evaluation mode.
        data: its data module.
        all: evaluation of all objects.
        far: of objects at 25 m and beyond.
        losses: of every step.
        seconds: of the training.
    """

    model: Any
    data: Any
    all: KittiResult
    far: KittiResult
    losses: list[float]
    seconds: float


def train_arm(arm: Arm, seed: int, root: Path, *, progress: bool = False) -> Learned:
    """Train and evaluate one arm; needs the extra train.

    Args:
        arm: see `ARMS`.
        seed: of weights, order and augmentation; of frames that are not there yet, too.
        root: folder of the simulated frames, written on the first use.
        progress: show a bar.
    """
    from tenfold.train.lightning import quiet, seed_everything
    from xview3d.task import XViewData, XViewTask

    losses: list[float] = []

    class Recorded(XViewTask):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(float(loss.detach()))
            return loss

    with quiet():
        seed_everything(seed, verbose=False)
        if not (root / "ImageSets" / "trainval.txt").is_file():
            simulate_kitti(root, arm.frames, seed, config=arm.scene, sensor=SECTOR_32, images=False)
        data = XViewData(str(root), batch_size=4, seed=seed, counts={}, image_size=(375, 1242))
        task = Recorded(
            xview=None if arm.xview is None else dict(arm.xview),
            detector=arm.detector,
            overrides=arm.settings(),
            lr=arm.lr,
        )
        for module in task.modules():
            # So few steps: statistics with the recipes' momentum of 0.01 would still be those of the first.
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.1
        start = time.monotonic()
        _trainer(progress=progress, max_steps=arm.steps, limit_val_batches=0).fit(task, datamodule=data)
        seconds = time.monotonic() - start
        with contextlib.redirect_stdout(io.StringIO()):
            _trainer(progress=False).test(task, datamodule=data, verbose=False)
    return Learned(task.model.eval(), data, *_evaluations(task.records), losses, seconds)


def _trainer(*, progress: bool, **options: Any) -> Any:
    from tenfold.train import make_trainer

    return make_trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        num_sanity_val_steps=0,
        gradient_clip_val=10.0,
        **{"max_epochs": -1, **options},
    )


def _evaluations(records: Any) -> tuple[KittiResult, KittiResult]:
    frames = [record for record in records if isinstance(record, Evaluated)]
    truth = [in_camera(frame.labels, frame.calibration) for frame in frames]
    found = [in_camera(frame.found, frame.calibration) for frame in frames]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewObjectsWarning)
        return (
            kitti_eval(truth, found, ("Car",)),
            kitti_eval(truth, found, ("Car",), distance=(FAR, 70.0)),
        )


def measure(name: str, seed: int, root: Path) -> dict[str, float]:
    """Average precision in 3D (moderate, R40) and what the views do, for the claim records."""
    arm = ARMS[name]
    learned = train_arm(arm, seed, root)
    window = max(1, arm.steps // 12)
    numbers = {
        "AP@0.5": learned.all.ap("Car", "3d", table="loose"),
        "AP@0.7": learned.all.ap("Car", "3d"),
        "far AP@0.5": learned.far.ap("Car", "3d", table="loose"),
        "far AP@0.7": learned.far.ap("Car", "3d"),
        "objects": float(learned.all.curve("Car", "3d", table="loose").n_gt),
        "first loss": sum(learned.losses[:window]) / window,
        "last loss": sum(learned.losses[-window:]) / window,
        "parameters": float(sum(p.numel() for p in learned.model.parameters())),
        "training, s": learned.seconds,
    }
    return {**numbers, **_of_views(learned)}


def _of_views(learned: Learned) -> dict[str, float]:
    """Smallest hit rate, effect and gradient of the views; 0 without views."""
    if not has_views(learned.model):
        return {"hit rate, %": 0.0, "change, %": 0.0, "gradient": 0.0}
    from tenfold.lidar.data import collate

    batch = collate([learned.data.frames["val"][k] for k in range(4)])
    effects = branch_effect(learned.model, batch)
    rows_match = not len(learned.model.projectors)
    hits = [1.0] if rows_match else hit_rate(learned.model, batch)
    return {
        "hit rate, %": 100 * min(hits),
        "change, %": 100 * min(effect.change for effect in effects),
        "gradient": min(effect.gradient for effect in effects),
    }
