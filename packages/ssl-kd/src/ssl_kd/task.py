"""SSKD with Lightning: the teacher's head, then the student; and the views of both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ssl_kd.heads import SSWrapper, feature_width, load_head, save_head
from ssl_kd.losses import SSKDLoss
from ssl_kd.selection import error_level
from ssl_kd.step import SSKDStep
from ssl_kd.tasks import TASKS
from ssl_kd.views import MixedViews, RotationViews
from tenfold._errors import UserInputError
from tenfold.distill.checkpoints import file_hash
from tenfold.distill.models import create_model
from tenfold.distill.task import Batch, ClassifierTask, DistillTask, ImageData, load_teacher

__all__ = ["ClassifierTask", "DistillTask", "HeadTask", "SSKDTask", "ViewData"]


class ViewData(ImageData):
    """Labelled images, in one view or in four.

    Args:
        views: none (plain images, for teachers and baselines), rotations (published), or mixed.
        shared_flip: One random mirror for the four views of an image.
        **kwargs: Of the images.
    """

    def __init__(
        self,
        views: Literal["none", "rotations", "mixed"] = "none",
        shared_flip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.views, self.shared_flip = views, shared_flip
        if views == "mixed" and self.dataset == "folder":
            raise UserInputError("data.views: mixed is made for small images of one size; use rotations")

    def train_transform(self) -> Any:
        """What turns a training image into its views."""
        if self.views == "none":
            return self.augment
        if self.views == "mixed":
            return MixedViews(self.augment)  # type: ignore[arg-type]
        return RotationViews(self.augment, self.shared_flip)

    def subset_key(self) -> str:
        """Names the training images in file names of heads."""
        parts = (self.dataset, self.few_shot, self.holdout, self.per_class, self.seed, len(self.train_set))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def head_file(folder: str | Path, teacher: str, task: str, data: ViewData) -> Path:
    """Where a head lies: named after teacher, task, data subset and seed, so that it is reused when it fits."""
    owner = (
        file_hash(teacher) if Path(teacher).is_file() else hashlib.sha256(teacher.encode()).hexdigest()[:16]
    )
    return Path(folder) / f"{owner}-{task}-{data.subset_key()}.pt"


def _ss_task(name: str) -> Any:
    if name not in TASKS:
        raise UserInputError(f"model.ss_task: got {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]()


def _views_of(batch: Batch, whose: str) -> tuple[Tensor, Tensor]:
    x, labels, _ = batch
    if x.ndim != 5:
        raise UserInputError(f"data.views: got none; {whose} needs rotations or mixed")
    return x, labels


class HeadTask(ClassifierTask):
    """A teacher's self-supervision head; its backbone stays bit for bit as it is.

    Training logs how often the right one of a batch's images is found (``train/retrieval``): the loss itself can
    fall very little. There is nothing to validate or to test.

    Args:
        teacher: Checkpoint of the teacher, torchvision:<name>:<weights>, or untrained:<name>.
        teacher_arch: The teacher's network, where its file does not say.
        num_classes: Classes.
        ss_task: contrastive, rotation, jigsaw or exemplar.
        tau: Temperature of the contrastive training.
        heads: Folder for the finished head; its name says what it belongs to.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: On the head.
        milestones: Epochs after which the learning rate falls.
        gamma: Factor by which it falls.
    """

    def __init__(
        self,
        teacher: str = "teacher.ckpt",
        teacher_arch: str | None = None,
        num_classes: int = 100,
        ss_task: str = "contrastive",
        tau: float = 1.0,
        heads: str = "runs/heads",
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        milestones: Sequence[int] = (30, 45),
        gamma: float = 0.1,
    ) -> None:
        super(ClassifierTask, self).__init__()  # this builds another network than the classifier
        self.save_hyperparameters()
        self.ss_task = _ss_task(ss_task)
        if ss_task == "contrastive":
            self.ss_task.tau = tau
        backbone = load_teacher(teacher, teacher_arch, num_classes)
        self.head = self.ss_task.head(feature_width(backbone))
        # The frozen backbone is no child: neither trained nor stored.
        object.__setattr__(self, "wrapper", SSWrapper(backbone, head=self.head).eval())

    wrapper: SSWrapper

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.wrapper.backbone._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def network(self) -> nn.Module:
        """The head."""
        head: nn.Module = self.head
        return head

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of the self-supervision task."""
        x, _ = _views_of(batch, "the self-supervision head")
        self.wrapper.backbone.eval()
        prepared, target = self.ss_task.prepare(x)
        z = self.wrapper(prepared, detach_backbone=True)[1].float()
        loss: Tensor = self.ss_task.teacher_loss(z, target)
        right = (error_level(self.ss_task.scores(z.detach()), target) == 0).float().mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(x))
        self.log("train/retrieval", right, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: the head is judged on views."""

    def on_validation_epoch_end(self) -> None:
        """Nothing."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Refuses: there is no accuracy of a head alone."""
        raise UserInputError("model: a self-supervision head has no test; its fit logs train/retrieval")

    def on_fit_end(self) -> None:
        """Writes the head where the student's training looks for it."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        settings = self.hparams
        if self.trainer.is_global_zero and isinstance(data, ViewData) and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = head_file(settings["heads"], settings["teacher"], settings["ss_task"], data)
            facts = {"ss_task": settings["ss_task"], "images": len(data.train_set), "few_shot": data.few_shot}
            save_head(path, self.head.state_dict(), teacher=settings["teacher"], seed=data.seed, **facts)
            print(f"head, trained on {len(data.train_set)} images of the training set -> {path}")


class SSKDTask(DistillTask):
    """A student that learns a teacher's classes and its self-supervision answers.

    Args:
        head: The teacher's head: a file, or a folder in which it is found by teacher, task and data subset;
            ``untrained`` leaves it at its random start (a control).
        ss_task: contrastive, rotation, jigsaw or exemplar.
        weights: code, arxiv, eccv, or weights of ce, kd, tf and ss.
        t_kd: Temperature of the plain views' class scores.
        t_tf: Temperature of the transformed views' class scores.
        t_ss: Temperature of the similarities.
        ratio_tf: Share of the teacher's wrong transformed views to keep.
        ratio_ss: Share of the teacher's wrong similarity rows to keep.
        gather_negatives: Compare with the images of all processes.
        permute: Control: shuffle the teacher's similarities.
        **kwargs: Of the distillation; method, weights, taps, input size and cache of the shared distillers are not
            used.
    """

    def __init__(
        self,
        head: str = "runs/heads",
        ss_task: str = "contrastive",
        weights: str | dict[str, float] = "code",
        t_kd: float = 4.0,
        t_tf: float = 4.0,
        t_ss: float = 0.5,
        ratio_tf: float = 1.0,
        ratio_ss: float = 0.75,
        gather_negatives: bool = False,
        permute: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def _build(self) -> None:
        s = self.hparams
        task = _ss_task(s["ss_task"])
        teacher, student = (
            SSWrapper(net, head=task.head(feature_width(net)))
            for net in (
                load_teacher(s["teacher"], s["teacher_arch"], s["num_classes"]),
                create_model(s["arch"], s["num_classes"]),
            )
        )
        try:
            loss = SSKDLoss(
                s["t_kd"],
                s["t_tf"],
                s["t_ss"],
                s["ratio_tf"],
                s["ratio_ss"],
                s["weights"],
                s["gather_negatives"],
                task=task,
                permute=s["permute"],
            )
        except ValueError as error:
            raise UserInputError(f"model: {error}") from error
        self.step = SSKDStep(student, teacher, loss)

    def network(self) -> nn.Module:
        """The student without its head."""
        backbone: nn.Module = self.step.student.backbone  # type: ignore[assignment]
        return backbone

    def first_epoch(self) -> int:
        """No initial stage: the head was trained before."""
        return 0

    def setup(self, stage: str) -> None:
        """Loads the teacher's head that belongs to teacher, task and data."""
        ClassifierTask.setup(self, stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        given = self.hparams["head"]
        if stage != "fit" or given == "untrained" or not isinstance(data, ViewData):
            return
        path = Path(given)
        if path.suffix != ".pt":
            path = head_file(path, self.hparams["teacher"], self.hparams["ss_task"], data)
        facts = load_head(self.step.teacher, path)  # type: ignore[arg-type]
        images, gathers = facts.get("images", "?"), self.hparams["gather_negatives"]
        if self.trainer.is_global_zero:
            print(
                f"head {path} (trained on {images} images); {data.sizes[0]} images per process and step,"
                f" negatives {'of all processes' if gathers else 'of one process'}: the loss depends on it"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch of views; every part of it is logged."""
        x, labels = _views_of(batch, "SSKD")
        losses = self.step(x, labels)
        for name, value in losses.items():
            if value.ndim == 0:
                self.log(f"train/{name}", value.detach().float(), prog_bar=name == "loss", batch_size=len(x))
        loss: Tensor = losses["loss"]
        return loss
