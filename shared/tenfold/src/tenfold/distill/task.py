"""Training with Lightning: classifiers from labels, students from teachers, and the data of both."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from tenfold._errors import UserInputError
from tenfold.distill.cache import LogitCache
from tenfold.distill.checkpoints import load_classifier
from tenfold.distill.data import (
    CIFAR_MEAN,
    CIFAR_STD,
    Augment,
    FolderImages,
    ImageArrays,
    LabelledImages,
    ResizedCrop,
    batch_as_is,
    read_cifar,
    read_image_folder,
    write_cifar,
)
from tenfold.distill.distillers import DISTILLERS, KD, build
from tenfold.distill.loop import topk_correct
from tenfold.distill.models import create_model
from tenfold.distill.protocols import few_shot_indices, noisy_labels, write_indices
from tenfold.distill.small import CLASS_NAMES, TEST_SEED, TRAIN_SEED
from tenfold.distill.step import DistillStep, check_labels
from tenfold.distill.strokes import BACKGROUND, MEAN, SIZE, STD, strokes
from tenfold.io import make_folder, read_json, write_json
from tenfold.train.processes import gather_values
from tenfold.train.resume import ResumableLoader
from tenfold.train.schedules import GroupSchedule, step_with_warmup

__all__ = ["ClassifierTask", "DistillTask", "ImageData"]

Batch = tuple[Tensor, Tensor, Tensor]
_CENTRE_IMAGES = 5000


class ImageData(LightningDataModule):
    """Labelled images: CIFAR's files, an image folder (ImageNet's layout), or generated strokes.

    Args:
        dataset: cifar100, cifar10, small (a folder or zip of images of one size), folder (images of any
            size), or strokes (generated into root on the first run, in CIFAR-100's layout).
        root: Folder (or zip file) of the data.
        batch_size: Images per process and step.
        eval_batch_size: Images per process and step of an evaluation.
        workers: Loader processes.
        seed: Of order, augmentation, subset and noise.
        size: Side of the images; of folder, the side after cropping; of strokes, unused: 16.
        pad: Padding before the random crop; of folder, unused.
        flip: Probability of a mirror image; of folder, unused: one half.
        train_split: Folder of the training images, for small and folder.
        test_split: Folder of the test images, for small and folder.
        few_shot: Share of each class to train on.
        label_noise: Share of each class whose training labels are replaced by other ones.
        holdout: Images of the training set, class by class, to validate on instead of the test set.
        per_class: Use only so many images of each class, of small.
        drop_last: Leave out the last, smaller batch of an epoch.
        fixed_views: Crops repeat after so many epochs (for cached teacher logits); 0 means never.
        preset: Of strokes: easy or ambiguous.
        images: Of strokes: numbers of training and test images.
        verify: Compare CIFAR's files with the published MD5 sums.
        save_subset: File for the indices of the few-shot subset.
    """

    def __init__(
        self,
        dataset: Literal["cifar100", "cifar10", "small", "folder", "strokes"] = "cifar100",
        root: str = "data",
        batch_size: int = 64,
        eval_batch_size: int = 500,
        workers: int = 0,
        seed: int = 0,
        size: int = 32,
        pad: int = 4,
        flip: float = 0.5,
        train_split: str = "train",
        test_split: str = "test",
        few_shot: float = 1.0,
        label_noise: float = 0.0,
        holdout: int = 0,
        per_class: int | None = None,
        drop_last: bool = False,
        fixed_views: int = 0,
        preset: Literal["easy", "ambiguous"] = "easy",
        images: tuple[int, int] = (4000, 2000),
        verify: bool = False,
        save_subset: str | None = None,
    ) -> None:
        super().__init__()
        if min(batch_size, eval_batch_size) < 1 or workers < 0 or size < 1:
            raise UserInputError("data: batch_size, eval_batch_size, workers, size: a number is too small")
        self.dataset, self.root, self.seed, self.size = dataset, Path(root), seed, size
        self.splits, self.per_class, self.verify = (train_split, test_split), per_class, verify
        self.few_shot, self.label_noise, self.holdout = few_shot, label_noise, holdout
        self.fixed_views, self.preset, self.images, self.save_subset = (
            fixed_views,
            preset,
            images,
            save_subset,
        )
        self.sizes, self.workers, self.drop_last = (batch_size, eval_batch_size), workers, drop_last
        self.augment = self._augment(pad, flip)
        self.train_set: Any = None
        self.test_set: Any = None
        self.class_names: tuple[str, ...] = ()

    def _augment(self, pad: int, flip: float) -> Augment | ResizedCrop:
        if self.dataset == "folder":
            return ResizedCrop(self.size, resize=round(self.size * 256 / 224))
        if self.dataset == "strokes":
            return Augment(pad, flip, MEAN, STD, BACKGROUND)
        return Augment(pad, flip, CIFAR_MEAN, CIFAR_STD)

    def prepare_data(self) -> None:
        """Generates the strokes where they are wanted and not there; one process does it for all.

        Raises:
            UserInputError: the folder holds other strokes.
        """
        if self.dataset != "strokes":
            return
        note, wanted = self.root / "strokes.json", {"preset": self.preset, "images": list(self.images)}
        if (self.root / "cifar-100-python" / "meta").is_file():
            found = read_json(note) if note.is_file() else wanted
            if found != wanted:
                raise UserInputError(
                    f"{note}: data.preset, data.images: got {found} of an earlier run; expected {wanted};"
                    " choose another data.root"
                )
            return
        parts = [
            LabelledImages(*strokes(count, self.preset, seed=seed), CLASS_NAMES)
            for count, seed in zip(self.images, (TRAIN_SEED, TEST_SEED), strict=True)
        ]
        make_folder(self.root, "data.root")
        write_json(note, wanted)
        write_cifar(self.root, parts[0], parts[1])

    def setup(self, stage: str) -> None:
        """Opens the splits; a second call does nothing."""
        if self.test_set is None:
            self._open()

    def _open(self) -> None:
        try:
            labels = self._read()
            self._restrict(labels)
        except ValueError as error:
            raise UserInputError(f"data: {error}") from error

    def _read(self) -> Any:
        plain = self.augment.plain()
        views: dict[str, Any] = {"seed": self.seed, "fixed_views": self.fixed_views}
        if self.dataset == "folder":
            self.train_set = FolderImages(self.root, self.splits[0], self.train_transform(), **views)
            self.test_set = FolderImages(self.root, self.splits[1], plain, random=False)
            self.class_names = self.train_set.class_names
            if self.test_set.class_names != self.class_names:
                raise UserInputError(f"{self.root}: {self.splits[1]}: other classes than {self.splits[0]}")
            return self.train_set.labels
        train, test = self._arrays()
        self.class_names = train.class_names
        self.train_set = ImageArrays(train, self.train_transform(), **views)
        self.test_set = ImageArrays(test, plain, random=False)
        return train.labels

    def _arrays(self) -> tuple[LabelledImages, LabelledImages]:
        if self.dataset == "small":
            first, second = (
                read_image_folder(self.root, split, side=self.size, per_class=self.per_class)
                for split in self.splits
            )
            if first.class_names != second.class_names:
                raise UserInputError(f"{self.root}: {self.splits[1]}: other classes than {self.splits[0]}")
            return first, second
        name = "cifar10" if self.dataset == "cifar10" else "cifar100"
        side = SIZE if self.dataset == "strokes" else self.size
        first, second = (
            read_cifar(self.root, name, train=train, side=side, verify=self.verify) for train in (True, False)
        )
        return first, second

    def _restrict(self, labels: Any) -> None:
        """Holdout, subset and noise, in this order; the test set is never touched."""
        chosen = np.arange(len(labels))
        if self.holdout:
            share = self.holdout / len(labels)
            held = few_shot_indices(labels, share, self.seed)
            chosen = np.setdiff1d(chosen, held)
            self.test_set = self._subset(self.train_set, held, labels, self.augment.plain(), False)
        if self.few_shot < 1.0:
            chosen = chosen[few_shot_indices(labels[chosen], self.few_shot, self.seed)]
            if self.save_subset:
                make_folder(Path(self.save_subset).parent, "data.save_subset")
                write_indices(self.save_subset, chosen, ratio=self.few_shot, seed=self.seed)
        noisy = labels
        if self.label_noise:
            noisy = labels.copy()
            noisy[chosen] = noisy_labels(labels[chosen], self.label_noise, len(self.class_names), self.seed)
        if len(chosen) < len(labels) or self.label_noise:
            self.train_set = self._subset(self.train_set, chosen, noisy, self.train_transform(), True)

    def _subset(self, source: Any, rows: Any, labels: Any, transform: Any, random: bool) -> Any:
        views: dict[str, Any] = {
            "seed": self.seed,
            "random": random,
            "fixed_views": self.fixed_views if random else 0,
        }
        if isinstance(source, FolderImages):
            part: Any = copy.copy(source)
            part.transform, part.random, part.fixed_views = transform, random, views["fixed_views"]
            part.keep(rows, labels)
            return part
        data = LabelledImages(source.data.images, labels, self.class_names).subset(rows)
        return ImageArrays(data, transform, **views)

    def train_transform(self) -> Any:
        """What turns a training image into a tensor; packages with other views override it."""
        return self.augment

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """What a checkpoint must hold to use the network on other images."""
        return {
            "mean": list(self.augment.mean),
            "std": list(self.augment.std),
            "size": SIZE if self.dataset == "strokes" else self.size,
            "class_names": list(self.class_names),
        }

    def _loader(self, data: Any, train: bool) -> ResumableLoader[Any]:
        return ResumableLoader(
            data,
            self.sizes[0 if train else 1],
            seed=self.seed,
            shuffle=train,
            num_workers=self.workers,
            collate_fn=batch_as_is,
            drop_last=train and self.drop_last,
        )

    def train_dataloader(self) -> ResumableLoader[Any]:
        """Augmented images in an order that a resumed run continues."""
        return self._loader(self.train_set, True)

    def centre_dataloader(self) -> ResumableLoader[Any]:
        """A fixed part of the training images as they are, for diagnostics that must not touch test data."""
        labels = self.train_set.labels
        rows = few_shot_indices(labels, min(1.0, _CENTRE_IMAGES / len(labels)), self.seed)
        if isinstance(self.train_set, FolderImages):
            part: Any = copy.copy(self.train_set)
            part.transform, part.random = self.augment.plain(), False
            part.keep(rows)
        else:
            part = ImageArrays(self.train_set.data.subset(rows), self.augment.plain(), random=False)
        return self._loader(part, False)

    def val_dataloader(self) -> ResumableLoader[Any]:
        """Test images (or the holdout) as they are."""
        return self._loader(self.test_set, False)

    test_dataloader = val_dataloader


class ClassifierTask(LightningModule):
    """A classifier trained with labels: SGD with momentum, step schedule, top-1 and top-5.

    Args:
        arch: Network, such as resnet56; see the list of `tenfold.distill.models`.
        num_classes: Classes.
        lr: Learning rate; 0.01 suits MobileNetV2, ShuffleV1 and ShuffleV2, 0.05 the others.
        momentum: Of SGD.
        weight_decay: On all parameters.
        milestones: Epochs after which the learning rate falls.
        gamma: Factor by which it falls.
    """

    best_top1: Tensor

    def __init__(
        self,
        arch: str = "resnet20",
        num_classes: int = 100,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        milestones: Sequence[int] = (150, 180, 210),
        gamma: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._build()
        self.register_buffer("best_top1", torch.zeros(()))
        self._seen: list[Tensor] = []

    def _build(self) -> None:
        self.model: nn.Module = create_model(self.hparams["arch"], self.hparams["num_classes"])

    def network(self) -> nn.Module:
        """The network that is trained and evaluated."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        logits: Tensor = self.network()(x)
        return logits

    def setup(self, stage: str) -> None:
        """Checks that data and network have the same classes."""
        data: Any = getattr(self.trainer, "datamodule", None)
        classes = getattr(data, "num_classes", 0)
        if classes and classes != self.hparams["num_classes"]:
            raise UserInputError(
                f"model.num_classes: got {self.hparams['num_classes']}; the data has {classes} classes"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        x, labels, _ = batch
        logits = self(x).float()
        check_labels("fit", labels, logits)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Remembers which images of the batch were right."""
        x, labels, index = batch
        logits = self(x).float()
        k = min(5, logits.shape[1])
        right = [topk_correct(logits, labels, n) for n in (1, k)]
        self._seen.append(torch.stack([index, *(r.long() for r in right)], 1))

    def on_validation_epoch_end(self) -> None:
        """Accuracy over all processes; an image that fills up the last batch counts once."""
        rows = torch.cat(gather_values(torch.cat(self._seen).cpu()))
        self._seen = []
        unique = {int(row[0]): row[1:] for row in rows}
        top1, top5 = 100.0 * torch.stack(list(unique.values())).double().mean(0)
        stage = "test" if self.trainer.testing else "val"
        if stage == "val" and not self.trainer.sanity_checking:
            self.best_top1.fill_(max(float(self.best_top1), float(top1)))
            self.log("val/best_top1", self.best_top1.float(), rank_zero_only=True)
        self.log(f"{stage}/top1", float(top1), prog_bar=True, rank_zero_only=True)
        self.log(f"{stage}/top5", float(top5), rank_zero_only=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """See `on_validation_epoch_end`."""
        self.on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what one must know to use the network on other images."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "describe"):
            checkpoint["images"] = data.describe()

    def parameters_to_train(self) -> list[nn.Parameter]:
        """For the optimiser."""
        return [p for p in self.network().parameters() if p.requires_grad]

    def first_epoch(self) -> int:
        """Epochs before the schedule starts to count."""
        return 0

    def configure_optimizers(self) -> Any:
        """SGD with a step schedule over epochs."""
        settings = self.hparams
        optimizer = torch.optim.SGD(
            self.parameters_to_train(),
            lr=settings["lr"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
        )
        first, milestones, gamma = self.first_epoch(), list(settings["milestones"]), settings["gamma"]

        def factor(epoch: int) -> float:
            return step_with_warmup(max(epoch - first, 0), milestones, gamma=gamma)

        schedule = GroupSchedule(optimizer, {"lr": factor})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


class DistillTask(ClassifierTask):
    """A student trained by a teacher with any of the shared distillers.

    A method with an initial stage (ab, ft, fsp) spends the first ``init_epochs`` epochs in it, so the trainer
    needs that many epochs more; milestones count from its end.

    Args:
        arch: The student.
        num_classes: Classes.
        teacher: Checkpoint of the teacher, torchvision:<name>:<weights>, or untrained:<name> (a control).
        teacher_arch: The teacher's network, where its file does not say.
        method: kd, or another distiller.
        ce_weight: Of the cross-entropy.
        kd_weight: Of the class scores.
        weight: Of the distiller; by default its published one.
        temperature: Of the class scores.
        options: Of the distiller.
        student_taps: Modules to tap in a student that is not of the zoo.
        teacher_taps: Modules to tap in a teacher that is not of the zoo.
        input_size: Side of the images.
        init_epochs: Length of the initial stage; by default the published one.
        cache_views: Store the teacher's logits for so many fixed crops of each image (needs data.fixed_views).
        lr: See the classifier.
        momentum: Of SGD.
        weight_decay: On all parameters.
        milestones: Epochs after which the learning rate falls.
        gamma: Factor by which it falls.
    """

    in_main_stage: Tensor

    def __init__(
        self,
        arch: str = "resnet20",
        num_classes: int = 100,
        teacher: str = "teacher.ckpt",
        teacher_arch: str | None = None,
        method: str = "kd",
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        weight: float | None = None,
        temperature: float = 4.0,
        options: dict[str, Any] | None = None,
        student_taps: list[str] | None = None,
        teacher_taps: list[str] | None = None,
        input_size: int = 32,
        init_epochs: int | None = None,
        cache_views: int = 0,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        milestones: Sequence[int] = (150, 180, 210),
        gamma: float = 0.1,
    ) -> None:
        super(ClassifierTask, self).__init__()  # this builds another network than the classifier
        self.save_hyperparameters()
        self._build()
        self.register_buffer("best_top1", torch.zeros(()))
        self.register_buffer("in_main_stage", torch.zeros((), dtype=torch.bool))
        self._seen: list[Tensor] = []

    def _build(self) -> None:
        settings = self.hparams
        if settings["method"] not in DISTILLERS:
            build(settings["method"])  # raises with the list of names
        teacher = load_teacher(settings["teacher"], settings["teacher_arch"], settings["num_classes"])
        student = create_model(settings["arch"], settings["num_classes"])
        self.step = self.make_step(student, teacher)

    def make_step(self, student: nn.Module, teacher: nn.Module, labels: Any = None) -> DistillStep:
        """The arithmetic of a batch; methods with another step override this."""
        settings = self.hparams
        side = settings["input_size"]
        method = settings["method"]
        later = method == "crd" and labels is None  # built when the data is known
        return DistillStep(
            student,
            teacher,
            None if later or issubclass(DISTILLERS[method], KD) else method,
            ce_weight=settings["ce_weight"],
            kd_weight=settings["kd_weight"],
            weight=settings["weight"],
            temperature=settings["temperature"],
            student_taps=settings["student_taps"],
            teacher_taps=settings["teacher_taps"],
            input_shape=(3, side, side),
            labels=labels,
            **(settings["options"] or {} if not later else {}),
        )

    def network(self) -> nn.Module:
        """The student."""
        return self.step.student

    def setup(self, stage: str) -> None:
        """Gives the step what depends on the data: memory banks, cache."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if self.hparams["method"] == "crd" and self.step.distiller is None:
            self.step = self.make_step(self.step.student, self.step.teacher, data.train_set.labels)
        if stage != "fit":
            return
        views = self.hparams["cache_views"]
        if views:
            if data.fixed_views != views:
                raise UserInputError(
                    f"data.fixed_views: got {data.fixed_views}; model.cache_views is {views}"
                )
            if self.step.distiller is not None:
                raise UserInputError("model.cache_views: stores class scores only; use it with method kd")
            self.step.cache = LogitCache(len(data.train_set), self.hparams["num_classes"], views)

    def parameters_to_train(self) -> list[nn.Parameter]:
        """The student's and the distiller's."""
        return list(self.step.trainable())

    def first_epoch(self) -> int:
        """Epochs of the initial stage."""
        stage = self.step.distiller.init_stage if self.step.distiller is not None else None
        given = self.hparams.get("init_epochs")
        return 0 if stage is None else stage.epochs if given is None else int(given)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; every part of it is logged."""
        self._choose_stage()
        x, labels, index = batch
        views = self.hparams.get("cache_views") or 1
        losses = self.step(x, labels, index, self.current_epoch % views)
        for name, value in losses.items():
            if value.ndim == 0:
                self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", batch_size=len(x))
        loss: Tensor = losses["loss"]
        return loss

    def _choose_stage(self) -> None:
        first = self.first_epoch()
        if not first:
            return
        main = self.current_epoch >= first
        self.step.stage = "main" if main else "init"
        if main and not bool(self.in_main_stage):
            # The stages have optimisers of their own: the momentum of the first one ends with it.
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()
            self.in_main_stage.fill_(True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the cache."""
        super().on_save_checkpoint(checkpoint)
        if self.step.cache is not None:
            checkpoint["teacher_cache"] = self.step.cache.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the cache back."""
        if self.step.cache is not None and "teacher_cache" in checkpoint:
            self.step.cache.load_state_dict(checkpoint["teacher_cache"])


def load_teacher(given: str, arch: str | None, num_classes: int) -> nn.Module:
    """The teacher that a recipe names.

    Raises:
        UserInputError: no such file, or another number of classes.
    """
    found = load_classifier(given, arch=arch, num_classes=None if ":" not in given else num_classes)
    if found.num_classes != num_classes:
        raise UserInputError(
            f"{given}: num_classes: the teacher has {found.num_classes}, the student {num_classes}"
        )
    return found.model
