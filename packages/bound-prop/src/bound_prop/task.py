"""Training and evaluation with Lightning."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import Dataset

from bound_prop.attack import PGD
from bound_prop.bounds import BoundedModule
from bound_prop.checkpoint import build_from
from bound_prop.data import Images, load
from bound_prop.evaluation import Report, evaluate, write_csv
from bound_prop.losses import ibp_init_
from bound_prop.nn import calibrate_param_ramp, param_ramps, set_eta, set_knee_enabled
from bound_prop.objective import Method, RobustObjective
from bound_prop.schedules import Plan
from tenfold._errors import UserInputError
from tenfold.io import make_folder, write_json
from tenfold.train.processes import gather_values
from tenfold.train.resume import ResumableLoader, sample_generator

__all__ = ["ImageData", "RobustTask"]

Batch = tuple[Tensor, Tensor, Tensor]


class _Augmented(Dataset[Batch]):
    """Images with a random shift and mirror that depend on (seed, epoch, index) alone."""

    def __init__(self, data: Images, pad: int, flip: bool, crop: int | None, seed: int, train: bool) -> None:
        self.data, self.pad, self.flip, self.crop, self.seed = data, pad, flip, crop, seed
        self.train, self.epoch = train, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        image, label = self.data.images[index], self.data.labels[index]
        if self.train and (self.pad or self.flip or self.crop):
            image = self._moved(image, index)
        elif self.crop:
            image = _cut(
                image, (image.shape[1] - self.crop) // 2, (image.shape[2] - self.crop) // 2, self.crop
            )
        return image, label, torch.tensor(index)

    def _moved(self, image: Tensor, index: int) -> Tensor:
        draw = sample_generator(self.seed, self.epoch, index)
        size = self.crop or image.shape[1]
        if self.flip and draw.random() < 0.5:
            image = image.flip(2)
        image = F.pad(image, (self.pad,) * 4)  # black in pixel space
        top, left = (int(draw.integers(0, n - size + 1)) for n in image.shape[1:])
        return _cut(image, top, left, size)


def _cut(image: Tensor, top: int, left: int, size: int) -> Tensor:
    return image[:, top : top + size, left : left + size]


class ImageData(LightningDataModule):
    """Images in memory: MNIST, CIFAR-10, Tiny-ImageNet in their official layouts, or generated glyphs.

    Args:
        name: mnist, cifar10, tiny_imagenet or glyphs.
        root: Folder of the files.
        batch_size: Images per process and step.
        test_batch_size: Images per process in evaluation.
        workers: Loader processes.
        seed: Seed of order and augmentation.
        pad: Random shifts by up to this many pixels (4 for CIFAR-10).
        flip: Random mirror images.
        crop: Train on random, test on central squares of this size (56 for Tiny-ImageNet).
        train_limit: Use only the first images of the training set.
        test_limit: Use only the first images of the test set.
        val_images: Hold out this many of the last training images for validation; 0 validates on test images.
    """

    def __init__(
        self,
        name: Literal["mnist", "cifar10", "tiny_imagenet", "glyphs"] = "mnist",
        root: str = "data",
        batch_size: int = 256,
        test_batch_size: int = 100,
        workers: int = 0,
        seed: int = 0,
        pad: int = 0,
        flip: bool = False,
        crop: int | None = None,
        train_limit: int | None = None,
        test_limit: int | None = None,
        val_images: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or test_batch_size < 1 or workers < 0:
            raise UserInputError(
                f"data: batch_size, test_batch_size, workers: got {batch_size}, {test_batch_size}, {workers};"
                " too small"
            )
        self.dataset, self.root, self.seed, self.workers = name, root, seed, workers
        self.batch_size, self.test_batch_size = batch_size, test_batch_size
        self.moves = {"pad": pad, "flip": flip, "crop": crop}
        self.limits = {"train": train_limit, "test": test_limit}
        self.val_images = val_images
        self.sets: dict[str, Images] = {}

    def setup(self, stage: str) -> None:
        """Reads the files that the stage needs."""
        if stage == "fit" and "train" not in self.sets:
            train = load(self.dataset, self.root, "train").head(self.limits["train"])
            if self.val_images:
                if self.val_images >= len(train):
                    raise UserInputError(
                        f"data: val_images: got {self.val_images}; expected fewer than {len(train)} images"
                    )
                cut = len(train) - self.val_images
                self.sets["val"] = Images(train.images[cut:], train.labels[cut:], train.names, train.title)
                train = train.head(cut)
            self.sets["train"] = train
        if "test" not in self.sets and not (stage == "fit" and self.val_images):
            self.sets["test"] = load(self.dataset, self.root, "test").head(self.limits["test"])

    def _loader(self, split: str, batch_size: int, train: bool) -> ResumableLoader[Batch]:
        data = _Augmented(self.sets[split], **self.moves, seed=self.seed, train=train)  # type: ignore[arg-type]
        return ResumableLoader(data, batch_size, seed=self.seed, shuffle=train, num_workers=self.workers)

    def train_dataloader(self) -> ResumableLoader[Batch]:
        """Augmented images in an order that a resumed run continues."""
        return self._loader("train", self.batch_size, True)

    def val_dataloader(self) -> ResumableLoader[Batch]:
        """Held-out or test images, as they are."""
        return self._loader("val" if "val" in self.sets else "test", self.test_batch_size, False)

    def test_dataloader(self) -> ResumableLoader[Batch]:
        """Test images, as they are."""
        return self._loader("test", self.test_batch_size, False)

    def calibration_batches(self, rank: int = 0, world: int = 1) -> Any:
        """Un-augmented training images of this process."""
        data = _Augmented(self.sets["train"], **{**self.moves, "pad": 0, "flip": False}, seed=0, train=False)  # type: ignore[arg-type]
        images = range(rank, len(data), world)
        for start in range(0, len(images), 256):
            yield torch.stack([data[i][0] for i in images[start : start + 256]])


class RobustTask(LightningModule):
    """Certified training of an image classifier (Lyu et al. 2021).

    Args:
        network: Name of a network of `bound_prop.models`.
        shape: Channels, height, width of an image.
        classes: Number of classes.
        activation: relu, leaky_relu or param_ramp.
        method: Bounds of the robust loss, see `RobustObjective`.
        eps: Training radius in pixel units, such as 0.4 or 0.0345 (8.8/255).
        test_eps: Radii for evaluation; by default the training radius.
        clean_epochs: Epochs with the plain loss.
        ramp_epochs: Length of the ramp of eps after them.
        ramp: linear or smoothed.
        kappa: Weight of the clean loss before and after the ramp.
        beta: Weight of the back-substituted bound in crown-ibp before and after the ramp.
        eta: Slope of the flat sides before and after its own ramp.
        eta_epochs: First and last epoch of that ramp.
        eta_ramp: linear or smoothed.
        jitter: Noise on the knees after each step, in units of their mean (0.01 for CIFAR-10 at 2.2/255).
        per_channel: One knee per channel instead of one per neuron.
        freeze_knee: Keep the knees at their first value.
        lr: Adam's learning rate.
        lr_milestones: Epochs at which it falls.
        lr_gamma: By this factor.
        fused: Loss fusion, for many classes.
        alpha: Weight in the later losses, see `RobustObjective`.
        regulariser: Weight of the warm-up regulariser of Shi et al. 2021.
        ibp_init: Start from weights for which intervals keep their width.
        mean: Channel means of a normalisation layer in front.
        std: Channel deviations of that layer.
        test_methods: Methods of the evaluation.
        test_lines: Their lines.
        pgd_steps: Steps of the evaluation's attack; 0 leaves it out.
        pgd_restarts: Its restarts.
        pgd_step_size: Its step in pixel units; a tenth of the radius by default.
        pgd_count: any or last, see `bound_prop.attack.PGD`.
        radius: Also bisect certified radii up to this value in test.
        results: Folder for a CSV per radius and `report.json`.
    """

    def __init__(
        self,
        network: str = "dm_small",
        shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        activation: Literal["relu", "leaky_relu", "param_ramp"] = "relu",
        method: Method = "ibp",
        eps: float = 0.4,
        test_eps: Sequence[float] | None = None,
        clean_epochs: int = 10,
        ramp_epochs: int = 50,
        ramp: Literal["linear", "smoothed"] = "linear",
        kappa: tuple[float, float] = (1.0, 0.5),
        beta: tuple[float, float] = (1.0, 0.0),
        eta: tuple[float, float] = (0.0, 0.0),
        eta_epochs: tuple[int, int] | None = None,
        eta_ramp: Literal["linear", "smoothed"] = "smoothed",
        jitter: float = 0.0,
        per_channel: bool = False,
        freeze_knee: bool = False,
        lr: float = 5e-4,
        lr_milestones: Sequence[int] = (130, 190),
        lr_gamma: float = 0.1,
        fused: bool = False,
        alpha: float = 0.5,
        regulariser: float = 0.0,
        ibp_init: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        test_methods: Sequence[str] = ("ibp", "crown-lbp"),
        test_lines: Literal["tight", "adaptive"] = "tight",
        pgd_steps: int = 200,
        pgd_restarts: int = 10,
        pgd_step_size: float | None = None,
        pgd_count: Literal["any", "last"] = "any",
        radius: float | None = None,
        results: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.plan = Plan(
            eps, clean_epochs, ramp_epochs, ramp, tuple(kappa), tuple(beta), tuple(eta),  # type: ignore[arg-type]
            eta_epochs, eta_ramp, jitter, tuple(lr_milestones), lr_gamma,
        )  # fmt: skip
        model = build_from(dict(self.hparams))
        if ibp_init:
            ibp_init_(model)
        example = torch.zeros(1, *shape)
        self.objective = RobustObjective(
            BoundedModule(model, example),
            method,
            classes,
            fused=fused,
            alpha=alpha,
            regulariser=regulariser,
        )
        set_knee_enabled(model, clean_epochs == 0 or freeze_knee)
        for ramp_module in param_ramps(model):
            ramp_module.knee.requires_grad_(not freeze_knee)
        self.reports: dict[float, Report] = {}
        self._found: dict[float, dict[int, dict[str, Any]]] = {}

    @property
    def bounded(self) -> BoundedModule:
        """The network with its bounds."""
        return self.objective.bounded

    def _steps_per_epoch(self) -> int:
        batches = int(self.trainer.num_training_batches)
        return max(1, -(-batches // self.trainer.accumulate_grad_batches))

    def on_train_epoch_start(self) -> None:
        """Sets the slope of the epoch; at the end of the clean epochs sets the knees and switches them on."""
        epoch = self.current_epoch
        set_eta(self.bounded, self.plan.eta_at(epoch))
        ramps = param_ramps(self.bounded)
        if ramps and epoch == self.plan.clean_epochs and not ramps[0].is_enabled():
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            batches = data.calibration_batches(self.global_rank, self.trainer.world_size)
            calibrate_param_ramp(self.bounded, (b.to(self.device) for b in batches))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.bounded(x)
        return out

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch at this step's radius and weights."""
        x, labels, _ = batch
        eps = self.plan.eps_at(self.global_step, self._steps_per_epoch())
        kappa = self.plan.kappa_at(eps)
        losses = self.objective(x, labels, eps, kappa, self.plan.beta_at(eps), self.plan.eps)
        self.log("train/eps", eps)
        for name, value in losses.items():
            self.log(
                f"train/{name}", value.detach(), prog_bar=name in ("loss", "verified"), batch_size=len(x)
            )
        loss: Tensor = losses["loss"]
        return loss

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        """A step, after which knees are jittered and stay above their least value."""
        super().optimizer_step(*args, **keywords)
        for index, ramp in enumerate(param_ramps(self.bounded)):
            if self.plan.jitter and ramp.is_enabled():
                generator = sample_generator(0, self.global_step, index, "torch")
                ramp.jitter_(self.plan.jitter, generator)
            ramp.clamp_()

    def _radii(self) -> list[float]:
        given = self.hparams["test_eps"]
        return [float(e) for e in given] if given else [self.plan.eps]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Clean error and the interval-verified error."""
        self._measure(batch, methods=("ibp",), attack=None, radii=[self._radii()[-1]], radius=None)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """All methods and the attack, for every radius."""
        settings = self.hparams
        attack = None
        if settings["pgd_steps"]:
            attack = PGD(
                settings["pgd_steps"],
                settings["pgd_restarts"],
                settings["pgd_step_size"],
                settings["pgd_count"],
            )
        self._measure(batch, tuple(settings["test_methods"]), attack, self._radii(), settings["radius"])

    def _measure(
        self,
        batch: Batch,
        methods: Sequence[str],
        attack: PGD | None,
        radii: list[float],
        radius: float | None,
    ) -> None:
        x, labels, places = batch
        for eps in radii:
            report = evaluate(
                self.bounded, x, labels, eps, methods=methods, attack=attack, batch_size=len(x),
                num_classes=self.hparams["classes"], lines=self.hparams["test_lines"], radius=radius, status=False,
            )  # fmt: skip
            rows = self._found.setdefault(eps, {})
            columns = {name: values.tolist() for name, values in report.columns.items()}
            for k, place in enumerate(places.tolist()):
                rows[place] = {name: values[k] for name, values in columns.items()}

    def _collect(self) -> None:
        """Reports over the whole set; an image that fills up the last batch counts once."""
        self.reports = {}
        for eps, rows in self._found.items():
            together: dict[int, dict[str, Any]] = {}
            for part in gather_values(rows):
                together.update(part)
            order = sorted(together)
            columns = {
                name: torch.tensor([together[i][name] for i in order])
                for name in (together[order[0]] if order else ())
            }
            self.reports[eps] = Report(eps, columns)
        self._found = {}

    def on_validation_epoch_end(self) -> None:
        """Logs the errors."""
        self._collect()
        for report in self.reports.values():
            for name, value in report.summary().items():
                self.log(f"val/{name}", value, rank_zero_only=True)

    def on_test_epoch_end(self) -> None:
        """Logs and prints the errors; writes the CSV files where asked to."""
        self._collect()
        for eps, report in self.reports.items():
            for name, value in report.summary().items():
                self.log(f"test/{name}@{eps:g}", value, rank_zero_only=True)
        if self.trainer.is_global_zero:
            for eps, report in self.reports.items():
                print(f"eps {eps:g}, {len(report.columns['label'])} images\n{report.table()}")
            if self.hparams["results"]:
                self._write(Path(self.hparams["results"]))

    def _write(self, folder: Path) -> None:
        make_folder(folder, "results")
        document = {
            "settings": json.loads(json.dumps(dict(self.hparams), default=list)),
            "select": "last epoch",
            "errors": {
                f"{eps:g}": {name: v if math.isfinite(v) else None for name, v in report.summary().items()}
                for eps, report in self.reports.items()
            },
        }
        for eps, report in self.reports.items():
            write_csv(report, folder / f"images-eps{eps:g}.csv")
        write_json(folder / "report.json", document)

    def configure_optimizers(self) -> Any:
        """Adam without weight decay; the rate falls by epochs."""
        free = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(free, lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.plan.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
