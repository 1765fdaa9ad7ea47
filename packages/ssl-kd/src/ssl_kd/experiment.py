"""The ways to train a student that demo and claim compare, and how one of them is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.heads import SSWrapper, feature_width, train_ss_head
from ssl_kd.losses import PRESETS, SSKDLoss
from ssl_kd.metrics import (
    features,
    head_outputs,
    linear_cka,
    retrieval,
    score_correlation,
    teacher_student_kl,
)
from ssl_kd.step import SSKDStep
from ssl_kd.tasks import TASKS, Contrastive, SSTask
from ssl_kd.views import VIEWS, RotationViews
from tenfold.distill.data import Augment, ImageArrays, LabelledImages
from tenfold.distill.loop import accuracy, batches, logits_of, train
from tenfold.distill.models import create_model
from tenfold.distill.step import DistillStep
from tenfold.train.cost import CostLedger, count_macs

__all__ = ["ARMS", "TEACHER", "Arm", "Run", "run_arm", "teacher_with_head"]

#: resnet8 trained with labels on 4000 ambiguous stroke images; its recipe lies beside it.
TEACHER = Path(__file__).parent / "assets" / "teacher.pt"
BATCH = 64
HEAD_EPOCHS = 40
_RETRIEVAL_IMAGES = 1280


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        title: for tables.
        weights: of SSKD's four losses, or a key of `PRESETS`; None trains on plain views with `DistillStep`.
        ce_weight: of the labels, on plain views.
        kd_weight: of the class scores, on plain views.
        length: epochs relative to the setting's.
        permute: the teacher's similarities are shuffled in every step.
        rotate: train with labels on the four views.
        trained_teacher: False puts an untrained network in the teacher's place.
        trained_head: False leaves the teacher's head at its random start.
        options: temperatures and ratios of `SSKDLoss`.
        task: the self-supervision task.
        head: "identity" compares the pooled features themselves; needs ``trained_head`` False.
    """

    title: str
    weights: Mapping[str, float] | str | None = None
    ce_weight: float = 0.1
    kd_weight: float = 0.9
    length: int = 1
    permute: bool = False
    rotate: bool = False
    trained_teacher: bool = True
    trained_head: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    task: str = Contrastive.name
    head: Literal["mlp", "identity"] = "mlp"


_CODE = PRESETS["code"]


def _without(*names: str) -> dict[str, float]:
    return {key: 0.0 if key in names else value for key, value in _CODE.items()}


#: Everything that the claim compares; the demo runs three of them.
ARMS: dict[str, Arm] = {
    "kd": Arm("KD"),
    "sskd": Arm("SSKD", _CODE),
    "kd4x": Arm("KD at SSKD's computation (four times the epochs)", length=VIEWS),
    "kd_tf": Arm("KD + transformed views", _without("ss")),
    "kd_ss": Arm("KD + self-supervision", _without("tf")),
    "kd_ss_permuted": Arm("KD + self-supervision, shuffled targets", _without("tf"), permute=True),
    "sskd_permuted": Arm("SSKD, shuffled targets", _CODE, permute=True),
    "labels": Arm("labels only, no teacher", ce_weight=1.0, kd_weight=0.0),
    "labels_rotated": Arm("labels only, on four rotations", rotate=True),
    "sskd_random_head": Arm("SSKD, head of the teacher untrained", _CODE, trained_head=False),
    "sskd_untrained": Arm("SSKD from an untrained teacher", _CODE, trained_teacher=False),
    "sskd_no_head": Arm("SSKD on the features, no head", _CODE, trained_head=False, head="identity"),
    **{
        f"sskd_{name}{round(100 * ratio)}": Arm(
            f"SSKD, {ratio:g} of the wrong {what}", _CODE, options={f"ratio_{name}": ratio}
        )
        for name, what, ratios in (
            ("ss", "similarity rows", (0.0, 0.25, 0.5, 1.0)),  # 0.75 is the method
            ("tf", "transformed views", (0.0, 0.25, 0.5, 0.75)),  # 1 is the method
        )
        for ratio in ratios
    },
    **{
        f"sskd_t{str(t).replace('.', '')}": Arm(
            f"SSKD, similarities at temperature {t}", _CODE, options={"T_ss": t}
        )
        for t in (0.1, 1.0)  # 0.5 is the method
    },
    **{f"sskd_{name}": Arm(f"SSKD, weights of {name}", name) for name in PRESETS if name != "code"},
    **{
        f"sskd_{name}": Arm(f"SSKD, task {name}", _CODE, task=name)
        for name in TASKS
        if name != Contrastive.name
    },
}


@dataclass
class Run:
    """What a run leaves: the student, in eval mode, and numbers."""

    student: nn.Module
    numbers: dict[str, float]


def teacher_with_head(
    backbone: nn.Module, train_set: ImageArrays, arm: Arm = ARMS["sskd"], *, seed: int
) -> SSWrapper:
    """The teacher and the arm's head, trained on the student's images alone."""
    torch.manual_seed(1000 + seed)
    task = TASKS[arm.task]()
    teacher = _with_head(backbone, arm).eval()
    if arm.trained_head:
        loader = batches(_views(train_set, task), BATCH, seed=seed)
        train_ss_head(teacher, loader, HEAD_EPOCHS, task=task, seed=seed)
    return teacher.requires_grad_(False)


def _with_head(backbone: nn.Module, arm: Arm) -> SSWrapper:
    """A network with a fresh head for the arm's task."""
    if arm.head == "identity":
        return SSWrapper(backbone, head=nn.Identity())
    return SSWrapper(backbone, head=TASKS[arm.task]().head(feature_width(backbone)))


def _views(data: ImageArrays, task: SSTask) -> ImageArrays:
    assert isinstance(data.transform, Augment)
    return ImageArrays(data.data, task.views(data.transform), seed=data.seed)


def run_arm(
    arm: Arm,
    train_set: ImageArrays,
    test_set: ImageArrays,
    teacher: SSWrapper,
    *,
    seed: int = 0,
    epochs: int = 120,
    student: Callable[[], nn.Module] | None = None,
) -> Run:
    """Trains a student one way; all arms of a seed start from the same weights and order."""
    torch.manual_seed(seed)
    classes = len(train_set.data.class_names)
    backbone = student() if student is not None else create_model("plain3", classes)
    wrapper = _with_head(backbone, arm)
    if not arm.trained_teacher:
        teacher = _with_head(create_model("resnet8", classes), arm).eval()
    step, loader = _step_and_loader(arm, wrapper, teacher, train_set, seed)
    ledger = CostLedger()
    pixels = test_set[0][0][None]
    handles = [
        ledger.watch(name, net, count_macs(net, pixels).macs)
        for name, net in (("student", backbone), ("teacher", teacher.backbone))
    ]
    # KD has no use for the student's head: it must not decay to nothing and then be measured.
    parameters = wrapper.parameters() if arm.weights is not None else backbone.parameters()
    start = time.perf_counter()
    train(step, parameters, loader, epochs * arm.length)
    seconds = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    numbers = {
        "top1": accuracy(backbone, test_set),
        "gmacs": ledger.total(1.0) / 1e9,
        "teacher_images": float(ledger.forward_images["teacher"]),
        "seconds": seconds,
        **_likeness(wrapper, teacher, test_set, isinstance(TASKS[arm.task](), Contrastive)),
    }
    return Run(backbone.eval(), numbers)


def _step_and_loader(
    arm: Arm, student: SSWrapper, teacher: SSWrapper, train_set: ImageArrays, seed: int
) -> tuple[Callable[..., dict[str, Tensor]], Any]:
    task = TASKS[arm.task]()
    if arm.weights is not None:
        loss = SSKDLoss(**arm.options, weights=arm.weights, task=task, permute=arm.permute)
        step: Callable[..., dict[str, Tensor]] = SSKDStep(student, teacher, loss).train()
        return step, batches(_views(train_set, task), BATCH, seed=seed)
    if arm.rotate:
        return partial(_labelled_views, student), batches(_views(train_set, task), BATCH, seed=seed)
    weights = {"ce_weight": arm.ce_weight, "kd_weight": arm.kd_weight}
    if not arm.kd_weight:
        return partial(_labelled, student), batches(train_set, BATCH, seed=seed)
    plain = DistillStep(student.backbone, teacher.backbone, **weights).train()  # type: ignore[arg-type]
    return plain, batches(train_set, BATCH, seed=seed)


def _labelled(student: SSWrapper, x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(student.backbone(x), labels)}


def _labelled_views(student: SSWrapper, x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
    logits = student.backbone(x.flatten(0, 1))
    return {"loss": F.cross_entropy(logits, labels.repeat_interleave(VIEWS))}


def _likeness(
    student: SSWrapper, teacher: SSWrapper, test_set: ImageArrays, compares: bool
) -> dict[str, float]:
    """How alike the two are on test images: classes, features, and, of heads that compare images, retrieval."""
    rows = min(_RETRIEVAL_IMAGES, len(test_set)) // BATCH * BATCH
    part = LabelledImages(test_set.data.images[:rows], test_set.data.labels[:rows], test_set.data.class_names)
    plain = ImageArrays(part, test_set.transform, random=False)
    assert isinstance(test_set.transform, Augment)
    views = RotationViews(test_set.transform.plain()).batch(part.images, [None] * rows)
    s_logits, t_logits = (logits_of(net.backbone, plain) for net in (student, teacher))
    s_feature, t_feature = (features(net, views[:, 0]) for net in (student, teacher))
    found = {
        "kl_to_teacher": teacher_student_kl(t_logits, s_logits),
        "cka": linear_cka(s_feature, t_feature),
    }
    if compares:
        s_z, t_z = head_outputs(student, views), head_outputs(teacher, views)
        found["retrieval"] = 100.0 * retrieval(s_z, BATCH)
        found["teacher_retrieval"] = 100.0 * retrieval(t_z, BATCH)
        found["similarity_correlation"] = score_correlation(s_z, t_z, BATCH)
    return found
