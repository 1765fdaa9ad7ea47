"""The ways to train a student that demo and claim compare, and how one of them is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.distill.cache import LogitCache
from tenfold.distill.data import ImageArrays
from tenfold.distill.distillers import Distiller, build
from tenfold.distill.loop import accuracy, batches, train
from tenfold.distill.models import create_model
from tenfold.distill.step import DistillStep as SharedStep
from tenfold.distill.taps import Tapped
from unix_kd.cost import CostLedger
from unix_kd.losses import UnixLoss
from unix_kd.sampling import MixBatch, UncertaintyMixup
from unix_kd.stats import SelectionStats
from unix_kd.step import DistillStep

__all__ = ["ARMS", "TEACHER", "Arm", "Run", "kept", "run_arm", "whole_batches"]

#: resnet8 trained with labels on 4000 stroke images; its recipe lies beside it.
TEACHER = Path(__file__).parent / "assets" / "teacher.pt"
BATCH = 64
# The student has no stem: its maps are compared with those of the teacher's stages.
_OPTIONS: dict[str, dict[str, Any]] = {"at": {"mapping": ((0, 1), (1, 2), (2, 3))}}


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        title: for tables.
        sampler: options of `UncertaintyMixup`; None is plain KD on whole batches.
        ce_weight: of the labels.
        kd_weight: of the class scores.
        length: epochs relative to the setting's.
        trained_teacher: False puts an untrained network in the teacher's place.
        extra: a further distiller on the images that the teacher sees, at its published weight.
        cached_views: KD on so many fixed crops of each image, whose teacher's scores are kept; 0 is none.
    """

    title: str
    sampler: Mapping[str, Any] | None
    ce_weight: float = 0.0
    kd_weight: float = 1.0
    length: float = 1.0
    trained_teacher: bool = True
    extra: str | None = None
    cached_views: int = 0


def kept(k: int, b: int, **options: Any) -> dict[str, Any]:
    """Options of `UncertaintyMixup` for k images kept of a batch, b of them lightly mixed."""
    return {"keep": k, "b": b, "nominal": BATCH, **options}


_EXTRAS = {"at": "AT", "sp": "SP", "crd": "CRD"}
#: Everything that the claim compares; the demo runs four of them.
ARMS: dict[str, Arm] = {
    "kd": Arm("KD", None),
    "unix48": Arm("UNIX, 48 of 64", kept(48, 32)),
    "uncertain48": Arm("uncertainty only, 48 of 64", kept(48, 32, lam=0.0)),
    "random48": Arm("random, 48 of 64", kept(48, 32, strategy="random", lam=0.0)),
    "mixed48": Arm("random, all mixed alike, 48 of 64", kept(48, 32, strategy="random", gate="open")),
    "reversed48": Arm("UNIX, order reversed, 48 of 64", kept(48, 32, reverse=True)),
    "confidence48": Arm("UNIX by least confidence, 48 of 64", kept(48, 32, strategy="least_confidence")),
    "margin48": Arm("UNIX by margin, 48 of 64", kept(48, 32, strategy="margin")),
    "unix32": Arm("UNIX, 32 of 64", kept(32, 16)),
    "uncertain32": Arm("uncertainty only, 32 of 64", kept(32, 16, lam=0.0)),
    "random32": Arm("random, 32 of 64", kept(32, 16, strategy="random", lam=0.0)),
    "short": Arm("KD with epochs for UNIX's cost", None, length=0.78),
    "labels": Arm("labels only, no teacher", None, ce_weight=1.0, kd_weight=0.0),
    "untrained": Arm("UNIX from an untrained teacher", kept(48, 32), trained_teacher=False),
    **{
        f"cached{v}": Arm(f"KD, {v} fixed crops of each image, scores stored", None, cached_views=v)
        for v in (4, 16)
    },
    **{f"kd-{key}": Arm(f"KD + {name}", None, extra=key) for key, name in _EXTRAS.items()},
    **{
        f"unix48-{key}": Arm(f"UNIX + {name}, 48 of 64", kept(48, 32), extra=key)
        for key, name in _EXTRAS.items()
    },
}


@dataclass
class Run:
    """What a run leaves.

    Attributes:
        student: the trained network.
        top1: test accuracy, percent.
        ledger: what was computed.
        selection: statistics of each epoch.
        seconds: wall time of training.
        first: the first batch of the last epoch as it was offered, and what was made of it.
    """

    student: nn.Module
    top1: float
    ledger: CostLedger
    selection: list[dict[str, float]]
    seconds: float
    first: tuple[Tensor, MixBatch] | None


def run_arm(
    arm: Arm,
    train_set: ImageArrays,
    test_set: ImageArrays,
    teacher: nn.Module,
    *,
    seed: int = 0,
    epochs: int = 50,
    student: Callable[[], nn.Module] | None = None,
) -> Run:
    """Trains a student of three layers one way; all arms of a seed start from the same weights and order."""
    torch.manual_seed(seed)
    shape = tuple(train_set[0][0].shape)
    classes = len(train_set.data.class_names)
    network = student() if student is not None else create_model("plain3", classes)
    if not arm.trained_teacher:
        teacher = create_model("resnet8", classes)
    ledger = CostLedger(network, teacher, shape)  # type: ignore[arg-type]
    stats = SelectionStats(len(train_set))
    if arm.cached_views:
        train_set = ImageArrays(
            train_set.data, train_set.transform, seed=train_set.seed, fixed_views=arm.cached_views
        )
        step = _cached_step(arm, network, teacher, train_set, ledger)
    else:
        sampler = UncertaintyMixup(**arm.sampler) if arm.sampler is not None else whole_batches()
        step = _step(arm, network, teacher, sampler, train_set, ledger, stats)
    length = max(1, round(epochs * arm.length))
    selection: list[dict[str, float]] = []
    first: list[tuple[Tensor, MixBatch]] = []

    def one(x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = step(x, labels, index, train_set.epoch)
        seen = getattr(step, "last", None)
        if len(selection) == length - 1 and not first and seen is not None:
            first.append((x, seen))
        return losses

    def close_epoch(_: int) -> None:
        if not arm.cached_views:
            selection.append(stats.end_epoch())

    start = time.perf_counter()
    loader = batches(train_set, BATCH, seed=seed)
    train(one, step.trainable(), loader, length, after_epoch=close_epoch)
    seconds = time.perf_counter() - start
    ledger.close()
    return Run(network, accuracy(network, test_set), ledger, selection, seconds, first[0] if first else None)


def _step(
    arm: Arm,
    student: nn.Module,
    teacher: nn.Module,
    sampler: UncertaintyMixup,
    train_set: ImageArrays,
    ledger: CostLedger,
    stats: SelectionStats,
) -> DistillStep:
    """UNIX, or KD on whole batches, with the arm's further distiller."""
    extra: Distiller | None = None
    if arm.extra is not None:
        shape: Any = tuple(train_set[0][0].shape)
        shapes = [Tapped(network).shapes(shape) for network in (student, teacher)]
        extra = build(arm.extra, *shapes, labels=train_set.labels, **_OPTIONS.get(arm.extra, {}))
    loss = UnixLoss(4.0, arm.kd_weight, arm.ce_weight, extra)
    return DistillStep(student, teacher, sampler, loss, ledger, stats)


def _cached_step(
    arm: Arm, student: nn.Module, teacher: nn.Module, train_set: ImageArrays, ledger: CostLedger
) -> SharedStep:
    """KD that asks the teacher about a crop once; the ledger counts what it is really asked."""
    cache = LogitCache(len(train_set), len(train_set.data.class_names), arm.cached_views)
    step = _Counted(student, teacher, ce_weight=arm.ce_weight, kd_weight=arm.kd_weight, cache=cache)
    step.ledger = ledger
    return step


class _Counted(SharedStep):
    """The shared step inside a ledger."""

    ledger: CostLedger

    def forward(
        self, x: Tensor, labels: Tensor | None = None, index: Tensor | None = None, view: int = 0
    ) -> dict[str, Tensor]:
        """See the shared step."""
        with self.ledger.step(len(x)):
            return super().forward(x, labels, index, view)


def whole_batches() -> UncertaintyMixup:
    """The sampler of plain KD: every image as it is, without a scoring pass."""
    return UncertaintyMixup(keep=1.0, b=1.0, strategy="random", lam=0.0)
