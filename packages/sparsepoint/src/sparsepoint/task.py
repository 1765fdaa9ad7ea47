"""Training and evaluation with Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.config import SparsePointConfig, make_config
from sparsepoint.data import Augmentation, Batch, Scenes, SceneSamples, SyntheticRooms, collate, open_scenes
from sparsepoint.data.custom import CustomDetection
from sparsepoint.data.scenes import PreparedScenes
from sparsepoint.evaluation import Evaluation, both_ways, summarise
from sparsepoint.losses import SetCriterion3d, make_criterion, match_histogram
from sparsepoint.models import Detections3D, build
from tenfold._errors import UserInputError
from tenfold.io import write_json
from tenfold.train.claims import environment_stamp
from tenfold.train.lightning import steps_per_epoch
from tenfold.train.processes import gather_values
from tenfold.train.resume import ResumableLoader
from tenfold.train.schedules import GroupSchedule, step_with_warmup

__all__ = ["DetectionTask", "IndoorData", "labels_of"]

_FIRST_VAL = 1_000_000


def labels_of(word: str) -> LabelSet | str:
    """Classes that a recipe names: a data set's, or those of a prepared folder's dataset.json or a boxes.json.

    Raises:
        UserInputError: neither.
    """
    if word in LABEL_SETS:
        return word
    path = Path(word)
    if path.name == "dataset.json" or (path / "dataset.json").is_file():
        folder = path.parent if path.name == "dataset.json" else path
        first = next(iter(sorted(folder.glob("*.txt"))), None)
        return PreparedScenes(folder, first.stem if first else "train").labels
    if path.suffix == ".json" or (path / "boxes.json").is_file():
        return CustomDetection(path).labels
    known = ", ".join(LABEL_SETS)
    raise UserInputError(
        f"model: labels: got {word!r}; expected one of {known}, or a dataset.json or boxes.json"
    )


class IndoorData(LightningDataModule):
    """Scenes: prepared ones, official files, your own, or generated rooms.

    Args:
        root: Folder that `sparsepoint prepare` wrote, folder with boxes.json, or official files (then say which).
        dataset: Whose official files; not needed for the other two.
        train_split: Name of the training list.
        val_split: Name of the list that validation and test use.
        generate: Numbers of training and validation rooms to generate instead.
        oriented: Generated furniture is turned by any angle.
        batch_size: Scenes per process and step.
        repeat: Passes over the training list in an epoch.
        workers: Loader processes.
        seed: Of order, subsamples and augmentation.
        eval_seeds: Evaluate the test split with so many different subsamples and print mean and deviation.
        augment: Switch all augmentation off with false.
        flip_x: Probability that x changes its sign.
        flip_y: Probability that y does.
        rotation: About z, uniform in plus or minus this, radians.
        scale: Range of the factor on all lengths.
        labels: Annotations of SUN RGB-D, v1 or v2.
        test_area: Of S3DIS.
    """

    def __init__(
        self,
        root: str = "data/scannet",
        dataset: str | None = None,
        train_split: str = "train",
        val_split: str = "val",
        generate: tuple[int, int] | None = None,
        oriented: bool = False,
        batch_size: int = 4,
        repeat: int = 1,
        workers: int = 0,
        seed: int = 0,
        eval_seeds: int = 1,
        augment: bool = True,
        flip_x: float = 0.5,
        flip_y: float = 0.5,
        rotation: float = math.pi / 36,
        scale: tuple[float, float] = (1.0, 1.0),
        labels: Literal["v1", "v2"] = "v2",
        test_area: int = 5,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("repeat", repeat), ("eval_seeds", eval_seeds)):
            if value < 1:
                raise UserInputError(f"data: {name}: got {value}; expected 1 or more")
        if workers < 0 or not 0 < scale[0] <= scale[1]:
            raise UserInputError(f"data: workers, scale: got {workers}, {scale}")
        if generate is not None and not (0 < generate[0] < _FIRST_VAL and generate[1] > 0):
            raise UserInputError(
                f"data: generate: got {generate}; expected two numbers from 1 on, the first below {_FIRST_VAL:,}"
            )
        self.root, self.dataset, self.generate, self.oriented = root, dataset, generate, oriented
        self.lists = {"train": train_split, "val": val_split}
        self.batch_size, self.repeat, self.workers = batch_size, repeat, workers
        self.seed, self.eval_seeds = seed, eval_seeds
        self.augmentation = (
            Augmentation(flip_x, flip_y, rotation, (float(scale[0]), float(scale[1]))) if augment else None
        )
        self.options: dict[str, Any] = {}
        if dataset == "sunrgbd":
            self.options = {"labels": labels}
        elif dataset == "s3dis":
            self.options = {"test_area": test_area}
        self.scenes: dict[str, Scenes] = {}
        self.samples: dict[str, SceneSamples] = {}

    def open(self, name: str) -> Scenes:
        """The "train" or "val" split."""
        if self.generate is not None:
            mode: Any = "oriented" if self.oriented else "aligned"
            if name == "train":
                # Whatever the seed: training rooms lie below those of the evaluation.
                return SyntheticRooms(
                    self.generate[0], self.seed * 10_000 % (_FIRST_VAL - self.generate[0]), mode
                )
            return SyntheticRooms(self.generate[1], _FIRST_VAL, mode)
        return open_scenes(self.root, self.lists[name], self.dataset, **self.options)

    def setup(self, stage: str) -> None:
        """Opens the splits; classes and number of points are the model's."""
        task: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        config: SparsePointConfig = task.config
        for name in ("train", "val") if stage == "fit" else ("val",):
            scenes = self.open(name)
            if tuple(scenes.labels.names) != tuple(config.class_names):
                raise UserInputError(
                    f"{self.root}: classes: the {name} split has {', '.join(scenes.labels.names)}; the model detects "
                    f"{', '.join(config.class_names)} (model.labels)"
                )
            self.scenes[name] = scenes
        if stage == "fit":
            self.samples["train"] = SceneSamples(
                self.scenes["train"],
                config,
                self.augmentation,
                seed=self.seed,
                repeat=self.repeat,
                votes=config.votes,
            )

    def _loader(self, samples: SceneSamples, **options: Any) -> ResumableLoader[Any]:
        return ResumableLoader(
            samples,  # type: ignore[arg-type]
            self.batch_size,
            seed=self.seed,
            num_workers=self.workers,
            collate_fn=collate,
            **options,
        )

    def train_dataloader(self) -> ResumableLoader[Batch]:
        """Augmented scenes in an order that a resumed run continues; a last short batch is left out."""
        samples = self.samples["train"]
        return self._loader(samples, drop_last=len(samples) >= self.batch_size)

    def val_dataloader(self) -> ResumableLoader[Batch]:
        """Scenes as they are, in their order, one subsample each."""
        config: Any = self.trainer.lightning_module.config  # type: ignore[union-attr]
        return self._loader(SceneSamples(self.scenes["val"], config, seed=self.seed), shuffle=False)

    def test_dataloader(self) -> list[ResumableLoader[Batch]]:
        """One loader for each subsample seed."""
        config: Any = self.trainer.lightning_module.config  # type: ignore[union-attr]
        return [
            self._loader(SceneSamples(self.scenes["val"], config, seed=self.seed + k), shuffle=False)
            for k in range(self.eval_seeds)
        ]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch."""
        return batch.to(device)


_Found = tuple[Detections3D, Detections3D, tuple[torch.Tensor, torch.Tensor], tuple[float, float]]
_PRINTED = {"ms": "ms a scene", "ms with NMS": "ms a scene with NMS"}


class DetectionTask(LightningModule):
    """A detector in training.

    Args:
        preset: sparsepoint, srdet, votenet, tiny or tiny_votenet.
        labels: Classes to detect: those of a data set (scannet, sunrgbd, s3dis, matterport3d, rooms), of a prepared
            folder's dataset.json, or of a boxes.json.
        overrides: Settings of the detector that differ from the preset's.
        lr: Learning rate of this run as it is; nothing scales it with processes or batch size.
        optimizer: adamw or adam.
        weight_decay: Of adamw, on all parameters.
        milestones: Epochs after which the learning rate falls to a tenth.
        warmup_steps: In which it rises from 1 % of it.
        bn_decay: Momentum of the normalisations 0.5, halved every 20 epochs, as VoteNet's recipe has it.
        start_from: Checkpoint whose weights a new run starts from.
        results: JSON file for the figures of the test.
        config: What a checkpoint says of the detector; it then decides, and nothing above does.
    """

    def __init__(
        self,
        preset: str = "sparsepoint",
        labels: str = "scannet",
        overrides: dict[str, Any] | None = None,
        lr: float = 1.8e-3,
        optimizer: Literal["adamw", "adam"] = "adamw",
        weight_decay: float = 0.01,
        milestones: Sequence[int] = (24, 32),
        warmup_steps: int = 500,
        bn_decay: bool = False,
        start_from: str | None = None,
        results: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.config = (
            SparsePointConfig.from_dict(config)
            if config
            else make_config(preset, labels_of(labels), **(overrides or {}))
        )
        self.hparams["config"] = self.config.to_dict()
        self.model: Any = build(self.config)
        self.criterion = make_criterion(self.config)
        self.evaluations: list[Evaluation] = []
        self._found: dict[int, dict[int, _Found]] = {}

    def on_fit_start(self) -> None:
        """Takes over the weights of another run, unless this one is resumed."""
        if self.hparams["start_from"] and self.trainer.ckpt_path is None:
            from sparsepoint.checkpoint import load_detector
            from tenfold.io import load_strict

            other = load_detector(self.hparams["start_from"])
            load_strict(self.model, other.state_dict(), source=self.hparams["start_from"])

    def on_train_epoch_start(self) -> None:
        """VoteNet's schedule of the normalisations' momentum."""
        if self.hparams["bn_decay"]:
            momentum = max(0.5 * 0.5 ** (self.current_epoch // 20), 0.001)
            for module in self.model.modules():
                if isinstance(module, torch.nn.BatchNorm1d):
                    module.momentum = momentum

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one batch; every part of it is logged."""
        losses = self.criterion(self.model(batch.points), batch.truth)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", batch_size=len(batch))
        if isinstance(self.criterion, SetCriterion3d):
            self.log(
                "train/unmatched objects",
                float(self.criterion.unmatched),
                on_step=False,
                on_epoch=True,
                reduce_fx="sum",
                sync_dist=True,
            )
        loss: torch.Tensor = losses["loss"]
        return loss

    def on_train_epoch_end(self) -> None:
        """How often proposals were matched, in all processes: one that never is keeps its box."""
        if isinstance(self.criterion, SetCriterion3d):
            counts = torch.stack(gather_values(self.criterion.match_counts.cpu())).sum(0)
            for times, share in match_histogram(counts).items():
                self.log(f"train/proposals matched {times} times", share, rank_zero_only=True)
            self.criterion.match_counts.zero_()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collects the detections of one batch, without and with suppression."""
        plain, less, times = both_ways(self.model, batch.points)
        found = self._found.setdefault(dataloader_idx, {})
        truth = zip(batch.truth.boxes, batch.truth.labels, strict=True)
        for index, bare, kept, objects in zip(batch.index, plain, less, truth, strict=True):
            found[index] = (_on_cpu(bare), _on_cpu(kept), (objects[0].cpu(), objects[1].cpu()), times)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Evaluates what all processes have found; a scene that fills up the last batch counts once."""
        self.evaluations = []
        for _, found in sorted(_merged(self._found).items()):
            rows = [found[index] for index in sorted(found)]
            plain, less, truth, times = zip(*rows, strict=True)
            before, after = zip(*times, strict=True)
            self.evaluations.append(summarise(plain, less, truth, self.config.class_names, (before, after)))
        self._found = {}
        stage = "test" if self.trainer.testing else "val"
        for name, (mean, _) in self.numbers().items():
            if not name.startswith("ms"):
                self.log(f"{stage}/{name}", mean, rank_zero_only=True)

    def on_test_epoch_end(self) -> None:
        """Evaluates, prints the table, and writes the figures where asked to."""
        self.on_validation_epoch_end()
        if not self.trainer.is_global_zero:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        options = getattr(data.scenes["val"], "meta", {}).get("options") or data.options
        note = "".join(f", {name} {value}" for name, value in options.items())
        print(f"{self.config.preset} on {data.lists['val']}{note}; {len(self.evaluations)} subsamples")
        print(self.evaluations[0].plain)
        for name, (mean, deviation) in self.numbers().items():
            print(f"{_PRINTED.get(name, name):<24}{mean:10.4f} ± {deviation:.4f}")
        if self.hparams["results"]:
            write_json(Path(self.hparams["results"]), self.document())

    def numbers(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation of every figure over the subsamples of the last evaluation."""
        rows = [evaluation.numbers() for evaluation in self.evaluations]
        found = {}
        for name in rows[0] if rows else ():
            values = np.asarray([row[name] for row in rows])
            found[name] = (float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0)
        return found

    def document(self) -> dict[str, Any]:
        """The last evaluation as JSON types."""
        figures = {name: {"mean": m, "deviation": d} for name, (m, d) in self.numbers().items()}
        return {
            "preset": self.config.preset,
            "figures": {k: v for k, v in figures.items() if not math.isnan(v["mean"])},
            "subsamples": [evaluation.plain.to_dict() for evaluation in self.evaluations],
            "environment": environment_stamp(),
        }

    def configure_optimizers(self) -> Any:
        """AdamW (or Adam), steps down at the milestones after a linear rise; stepped with every optimiser step."""
        settings = self.hparams
        optimizer: torch.optim.Optimizer
        if settings["optimizer"] == "adam":
            optimizer = torch.optim.Adam(self.model.parameters(), lr=settings["lr"])
        else:
            optimizer = torch.optim.AdamW(
                self.model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"]
            )
        steps = steps_per_epoch(self.trainer)
        milestones = [epoch * steps for epoch in settings["milestones"]]
        warm = settings["warmup_steps"]
        schedule = GroupSchedule(
            optimizer, {"lr": lambda step: step_with_warmup(step, milestones, warmup_steps=warm, start=0.01)}
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _on_cpu(found: Detections3D) -> Detections3D:
    return Detections3D(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), found.proposal_index.cpu())


def _merged(found: dict[int, dict[int, _Found]]) -> dict[int, dict[int, _Found]]:
    """What all processes have found."""
    together: dict[int, dict[int, _Found]] = {}
    for part in gather_values(found):
        for loader, rows in part.items():
            together.setdefault(loader, {}).update(rows)
    return together
