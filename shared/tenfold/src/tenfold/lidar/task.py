"""Training and evaluation of the LiDAR detectors with Lightning."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from tenfold._errors import UserInputError
from tenfold.eval.kitti import KittiResult
from tenfold.io import read_json, write_json
from tenfold.lidar.augment import Augmentation
from tenfold.lidar.data import Batch, DetectionFrames, Frame, collate, detections_to_kitti
from tenfold.lidar.evaluation import Evaluated, evaluate, headline, write_results
from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.predict import build_from, point_range
from tenfold.lidar.progress import bar
from tenfold.lidar.sampling import ObjectDatabase, build_database, prepared_paths
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, simulate_kitti
from tenfold.train.resume import ResumableLoader
from tenfold.train.schedules import decoupled_adam, one_cycle_schedule

__all__ = ["LidarData", "LidarTask"]


class LidarData(LightningDataModule):
    """Frames in KITTI's layout: the official data, your own, or simulated.

    Args:
        root: Folder with `training` and `ImageSets`.
        train_split: Name of the training list in ImageSets.
        val_split: Name of the list that validation and test use.
        batch_size: Frames per process and step.
        workers: Loader processes.
        seed: Seed of order and augmentation.
        augment: Switch all augmentation off with false.
        flip: Probability of a mirror image.
        rotation: Angle about z, uniform in plus or minus this, radians.
        scale: Range of the scaling factor.
        counts: Objects of each class that ground-truth sampling fills a frame up to; {} switches it off.
        scene_limited: Count the objects that are already there.
        road_plane: Put pasted objects on the road plane where the data set has plane files.
        fov_only: Use only points that the camera sees.
        image_size: Height and width of images, for data without image files.
        simulate: Numbers of training and validation frames to simulate into root, if it is not there yet.
    """

    def __init__(
        self,
        root: str = "data/kitti",
        train_split: str = "train",
        val_split: str = "val",
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
        augment: bool = True,
        flip: float = 0.5,
        rotation: float = 0.78539816,
        scale: tuple[float, float] = (0.95, 1.05),
        counts: dict[str, int] | None = None,
        scene_limited: bool = True,
        road_plane: bool = True,
        fov_only: bool = True,
        image_size: tuple[int, int] | None = None,
        simulate: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise UserInputError(f"data: batch_size, workers: got {batch_size}, {workers}; too small")
        self.root, self.splits = Path(root), {"train": train_split, "val": val_split}
        self.seed = seed
        self.loader: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": workers,
            "seed": seed,
            "collate_fn": collate,
        }
        usual = Augmentation().counts if counts is None else counts
        self.augmentation = (
            Augmentation(flip, rotation, scale, usual, scene_limited, road_plane) if augment else None
        )
        self.fov_only, self.image_size, self.simulate = fov_only, image_size, simulate
        self.frames: dict[str, DetectionFrames] = {}

    def prepare_data(self) -> None:
        """Simulates the data where asked to, with its object database; one process does it for all."""
        if self.simulate is not None:
            simulate_into(self.root, self.simulate, self.seed)
            if self._pastes() and not prepared_paths(self.root, self.splits["train"])[0].is_file():
                build_database(self._reader("train"), progress=lambda indices: bar(indices, "prepare"))

    def setup(self, stage: str) -> None:
        """Opens the splits; classes and range are the model's."""
        model: Any = self.trainer.lightning_module.model  # type: ignore[union-attr]
        known: dict[str, Any] = {"class_names": model.class_names, "limits": point_range(model)}
        if stage == "fit":
            self.frames["train"] = self.train_frames(**known)
        self.frames["val"] = DetectionFrames(self._reader("val"), **known)

    def train_frames(self, class_names: Sequence[str], limits: Sequence[float]) -> DetectionFrames:
        """Augmented frames for a detector of these classes that looks at this range."""
        path = prepared_paths(self.root, self.splits["train"])[0]
        return DetectionFrames(
            self._reader("train"),
            class_names=class_names,
            limits=limits,
            augmentation=self.augmentation,
            database=ObjectDatabase.load(path) if self._pastes() else None,
            seed=self.seed,
        )

    def train_dataloader(self) -> ResumableLoader[Batch]:
        """Augmented frames in an order that a resumed run continues."""
        return ResumableLoader(self.frames["train"], **self.loader)  # type: ignore[arg-type]

    def val_dataloader(self) -> ResumableLoader[Batch]:
        """Frames as they are, in their order."""
        return ResumableLoader(self.frames["val"], shuffle=False, **self.loader)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the tensors; what evaluation needs of the frames stays where it is."""
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def _pastes(self) -> bool:
        return self.augmentation is not None and any(self.augmentation.counts.values())

    def _reader(self, name: str) -> KittiObject:
        plane = name == "train" and self.augmentation is not None and self.augmentation.road_plane
        return KittiObject(
            self.root, self.splits[name], fov_only=self.fov_only, image_size=self.image_size, with_plane=plane
        )


def simulate_into(root: Path, frames: tuple[int, int], seed: int) -> None:
    """Write small simulated scenes in KITTI's layout, unless the folder has them already.

    Raises:
        UserInputError: the folder holds something else.
    """
    wanted = {"frames": list(frames), "seed": seed}
    done = root / "simulation.json"
    if done.is_file():
        if read_json(done) != wanted:
            raise UserInputError(
                f"{done}: holds {read_json(done)}; {wanted} is expected; remove the folder or name another"
            )
        return
    if (root / "training").is_dir() and any((root / "training").iterdir()) and not _is_simulated(root):
        raise UserInputError(f"{root}: data.simulate: the folder holds other data; name another folder")
    root.mkdir(parents=True, exist_ok=True)
    (root / ".simulating").touch()
    simulate_kitti(
        root,
        frames,
        seed,
        config=SMALL_SCENE,
        sensor=SECTOR_32,
        images=False,
        planes=True,
        progress=lambda scenes: bar(scenes, "simulate"),
    )
    write_json(done, wanted)
    (root / ".simulating").unlink()


def _is_simulated(root: Path) -> bool:
    """Whether an interrupted simulation left the files."""
    return (root / ".simulating").exists()


class LidarTask(LightningModule):
    """A LiDAR detector in training: one-cycle, Adam with decoupled weight decay, KITTI's evaluation.

    Args:
        detector: Name of the detector, such as second.
        dataset: Whose settings it starts from.
        overrides: Settings that differ from them.
        lr: Peak learning rate.
        weight_decay: Decoupled, on all parameters.
        div: The learning rate starts at lr / div.
        warm_fraction: Share of the run in which it rises.
        results: Folder for KITTI result files of validation and test; none are written without it.
    """

    def __init__(
        self,
        detector: str = "second",
        dataset: str = "kitti",
        overrides: dict[str, Any] | None = None,
        lr: float = 0.003,
        weight_decay: float = 0.01,
        div: float = 10.0,
        warm_fraction: float = 0.4,
        results: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model: Any = build_from(self.hparams)
        self.result: KittiResult | None = None
        self._found: dict[int, Evaluated] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one batch; every part of it is logged."""
        losses = self.model(batch)
        for name, value in losses.items():
            number = value.detach().float()
            self.log(f"train/{name}", number, prog_bar=name == "loss", batch_size=batch["batch_size"])
        loss: torch.Tensor = losses["loss"]
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects the detections of one batch."""
        for frame, found in zip(batch["frames"], self.model(batch), strict=True):
            self._found[frame.index] = self._evaluated(frame, found)

    def _evaluated(self, frame: Frame, found: dict[str, torch.Tensor]) -> Evaluated:
        if frame.labels is None:
            raise UserInputError(f"frame {frame.frame_id}: labels: missing; evaluation needs them")
        detections = {name: value.detach().cpu().numpy() for name, value in found.items()}
        result = detections_to_kitti(detections, self.model.class_names, frame.calibration, frame.image_size)
        return Evaluated(frame.frame_id, frame.labels, result, frame.calibration)

    def on_validation_epoch_end(self) -> None:
        """Evaluates what all processes have found; a frame that fills up the last batch counts once."""
        together: dict[int, Evaluated] = {}
        for part in _gathered(self._found):
            together.update(part)
        self._found = {}
        frames = [together[index] for index in sorted(together)]
        self.result = evaluate(frames, self.model.class_names)
        for name, value in headline(self.result).items():
            stage = "test" if self.trainer.testing else "val"
            self.log(f"{stage}/{name}", value, rank_zero_only=True)
        folder = self.hparams["results"]
        if folder and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            write_results(Path(folder), frames, self.result)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Evaluates, and prints the table."""
        self.on_validation_epoch_end()
        if self.trainer.is_global_zero:
            print(self.result)

    def configure_optimizers(self) -> Any:
        """One cycle over the whole run, stepped with every optimiser step."""
        settings = self.hparams
        optimizer = decoupled_adam(
            self.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"]
        )
        schedule = one_cycle_schedule(
            optimizer,
            _total_steps(self.trainer),
            div=settings["div"],
            warm_fraction=settings["warm_fraction"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _total_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole run.

    Not `trainer.estimated_stepping_batches`: it opens the training loader before a checkpoint's position is
    known, and Lightning then never tells the loader where to go on.
    """
    if trainer.max_epochs in (None, -1):
        return int(trainer.max_steps)
    batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * int(trainer.max_epochs or 1)
    return steps if trainer.max_steps == -1 else min(steps, int(trainer.max_steps))


def _gathered(value: Any) -> list[Any]:
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts
