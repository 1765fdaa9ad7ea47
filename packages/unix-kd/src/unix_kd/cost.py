"""What distillation costs: images times multiply-accumulates, counted and not computed.

The published percentages count forward and backward passes of both networks, in units of a forward pass, with
a backward pass as dear as a forward pass. Teacher training, data loading, the optimiser and the mixing itself
are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tenfold.train.cost import CostLedger as _Ledger
from tenfold.train.cost import count_macs

__all__ = ["PUBLISHED", "CostLedger", "advice", "break_even", "cost_ratio", "macs_of"]

#: Teacher, student, published R = F_t / F_s and cost in percent of KD, accuracies of teacher, student alone,
#: KD and UNIX on CIFAR-100 (README of the authors' code, means of four runs; the last teacher is not given).
PUBLISHED: tuple[tuple[str, str, float, float, float | None, float, float, float], ...] = (
    ("vgg13", "MobileNetV2", 38.17, 77.49, 75.38, 65.79, 67.94, 68.09),
    ("ResNet50", "MobileNetV2", 174.00, 75.57, 79.10, 65.79, 68.33, 68.76),
    ("ResNet50", "vgg8", 13.56, 81.43, 79.10, 70.68, 73.43, 74.02),
    ("resnet32x4", "ShuffleV1", 27.16, 78.43, 79.63, 70.77, 74.52, 76.48),
    ("resnet32x4", "ShuffleV2", 23.49, 78.92, 79.63, 73.12, 75.07, 76.86),
    ("wrn_40_2", "ShuffleV1", 8.22, 84.79, 76.46, 70.77, 76.04, 77.06),
    ("wrn_40_2", "wrn_16_2", 3.25, 94.06, 76.46, 73.64, 75.40, 75.40),
    ("wrn_40_2", "wrn_40_1", 3.93, 91.88, 76.46, 72.24, 73.77, 74.38),
    ("resnet56", "resnet20", 3.06, 94.76, 73.44, 69.63, 70.72, 70.41),
    ("resnet32x4", "resnet8x4", 6.12, 87.32, 79.63, 72.51, 73.34, 74.86),
    ("vgg13", "vgg8", 2.97, 95.10, 75.38, 70.68, 73.38, 73.55),
    ("vgg16", "vgg8", 4.14, 91.29, None, 70.68, 72.10, 73.06),
)


def cost_ratio(R: float, keep: float, backward_multiplier: float = 1.0, *, scoring: bool = True) -> float:
    """Cost relative to KD: ``keep + 1 / (R + 1 + β)``; without a scoring pass, ``keep``.

    Args:
        R: forward cost of the teacher over that of the student.
        keep: share of the batch kept.
        backward_multiplier: β, cost of a backward pass over that of a forward pass; 1 as published, 2 usual.
        scoring: whether the student scores the whole batch first.

    Raises:
        ValueError: R or β not above 0, or ``keep`` outside (0, 1].

    >>> round(100 * cost_ratio(8.22, 0.75), 2)
    84.78
    """
    if not R > 0 or not backward_multiplier >= 0 or not 0 < keep <= 1:
        raise ValueError(
            f"cost_ratio: got R {R}, keep {keep}, backward_multiplier {backward_multiplier}; expected R > 0,"
            " 0 < keep <= 1, backward_multiplier >= 0"
        )
    return keep + (1.0 / (R + 1.0 + backward_multiplier) if scoring else 0.0)


def break_even(keep: float, backward_multiplier: float = 1.0) -> float:
    """The R below which scoring costs more than the teacher queries it saves: ``1/(1-keep) - 1 - β``.

    >>> break_even(0.75)
    2.0
    """
    if not 0 < keep < 1:
        raise ValueError(f"break_even: keep: got {keep}; expected a number in (0, 1)")
    return 1.0 / (1.0 - keep) - 1.0 - backward_multiplier


def advice(R: float, keep: float, backward_multiplier: float = 1.0) -> str:
    """One sentence on what to expect.

    >>> advice(2.02, 0.75)
    'expected cost 99.9 % of KD: no saving worth having (break-even at R = 2.0)'
    """
    ratio = 100.0 * cost_ratio(R, keep, backward_multiplier)
    text = f"expected cost {ratio:.1f} % of KD"
    if keep < 1 and ratio > 97.0:
        return (
            f"{text}: no saving worth having (break-even at R = {break_even(keep, backward_multiplier):.1f})"
        )
    return text


def macs_of(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image ``(3, H, W)``.

    >>> from tenfold.distill import create_model
    >>> macs_of(create_model("plain3", 20), (3, 16, 16))
    104640
    """
    first = next(model.parameters())
    return count_macs(model, torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)).macs


class CostLedger(_Ledger):
    """Counts the images that really enter both networks, by hooks, and compares with plain KD.

    KD on the same batches would send every offered image through the teacher and through the student's
    training pass.

    Args:
        student: the network that learns.
        teacher: the network that teaches.
        input_shape: ``(3, H, W)``.

    >>> from tenfold.distill import create_model
    >>> student, teacher = create_model("plain3", 20), create_model("resnet8", 20)
    >>> ledger = CostLedger(student, teacher, (3, 16, 16)); ledger.report()["R"]
    29.87...
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.offered = 0
        self.seconds = 0.0
        self._handles = [
            self.watch(name, model, macs_of(model, input_shape))
            for name, model in (("student", _inner(student)), ("teacher", _inner(teacher)))
        ]
        self._keep()

    @contextmanager
    def step(self, images: int) -> Iterator[None]:
        """Enters a batch of ``images`` and the wall time of the block; nothing outside such a block counts."""
        self._restore()
        before = dict(self.forward_images), dict(self.backward_images)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self.forward_images, self.backward_images = before
            raise
        finally:
            self._keep()
        self.offered += images
        self.seconds += time.perf_counter() - start

    def _restore(self) -> None:
        """Passes outside steps, such as evaluations, do not belong to the cost of training."""
        self.forward_images, self.backward_images = (dict(part) for part in self._counted)

    def _keep(self) -> None:
        self._counted = dict(self.forward_images), dict(self.backward_images)

    def report(self, backward_multiplier: float = 1.0) -> dict[str, float]:
        """Counts, cost and its ratio to KD's on the same batches.

        Returns:
            ``ratio`` (0 before the first step), ``R``, ``teacher_images`` (queries),
            ``student_forward_images``, ``student_backward_images``, ``offered_images``, ``macs``, ``kd_macs``,
            ``seconds``.
        """
        self._restore()
        f_s, f_t = self.macs_per_image["student"], self.macs_per_image["teacher"]
        kd_macs = self.offered * (f_t + (1.0 + backward_multiplier) * f_s)
        macs = self.total(backward_multiplier)
        return {
            "ratio": macs / kd_macs if kd_macs else 0.0,
            "R": f_t / f_s,
            "teacher_images": self.forward_images["teacher"],
            "student_forward_images": self.forward_images["student"],
            "student_backward_images": self.backward_images["student"],
            "offered_images": self.offered,
            "macs": macs,
            "kd_macs": kd_macs,
            "seconds": self.seconds,
        }

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, for a checkpoint."""
        self._restore()
        return {**super().state_dict(), "steps": {"offered": self.offered, "seconds": self.seconds}}

    def load_state_dict(self, state: Any) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.offered, self.seconds = state["steps"]["offered"], state["steps"]["seconds"]
        self._keep()

    def close(self) -> None:
        """Takes the hooks off both networks."""
        for handle in self._handles:
            handle.remove()


def _inner(model: nn.Module) -> nn.Module:
    """The network inside a parallel wrapper: the scoring pass goes around the wrapper and must be counted."""
    found = getattr(model, "module", model)
    return found if isinstance(found, nn.Module) else model


def cost(
    teacher: str = "resnet32x4",
    student: str = "ShuffleV2",
    keep: float = 0.75,
    classes: int = 100,
    size: int | None = None,
    table: bool = False,
) -> None:
    """Print what UNIX would cost for a pair of networks, relative to KD, before training anything.

    Args:
        teacher: Network, such as resnet32x4 or torchvision:resnet50.
        student: Network.
        keep: Share of each batch kept.
        classes: Classes.
        size: Side of the images; by default 32, and 224 for torchvision networks and MobileNetV1.
        table: Print every pair of the published table instead, with its published cost beside ours.
    """
    from tenfold._errors import UserInputError
    from tenfold.distill.models import create_model

    if not 0 < keep <= 1:
        raise UserInputError(f"keep: got {keep}; expected a share in (0, 1]")
    if table:
        _print_table(keep)
        return
    big = any(name.startswith("torchvision:") or name == "MobileNetV1" for name in (teacher, student))
    side = size or (224 if big else 32)
    macs = [macs_of(create_model(name, classes), (3, side, side)) for name in (teacher, student)]
    R = macs[0] / macs[1]
    print(
        f"{teacher}: {macs[0]:,} MACs; {student}: {macs[1]:,} MACs per image of {side} x {side}; R = {R:.2f}"
    )
    for beta, meaning in ((1.0, "as published"), (2.0, "a backward pass counts double")):
        print(f"{meaning}: {advice(R, keep, beta)}")


def _print_table(keep: float) -> None:
    from tenfold.distill.models import create_model

    macs: dict[str, int] = {}
    print("teacher      student      R published  ours    cost published  ours   (backward x2)")
    for teacher, student, published, percent, *_ in PUBLISHED:
        for name in (teacher, student):
            macs.setdefault(name, macs_of(create_model(name), (3, 32, 32)))
        R = macs[teacher] / macs[student]
        ours, double = (100.0 * cost_ratio(R, keep, beta) for beta in (1.0, 2.0))
        print(
            f"{teacher:<12} {student:<12} {published:>11.2f} {R:>7.2f} {percent:>14.2f} {ours:>7.2f} {double:>10.2f}"
        )
    print("published: README of the authors' code, keep 0.75; ours: convolutions and linear layers counted")
