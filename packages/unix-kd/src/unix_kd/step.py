"""One training step of UNIX, for any loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tenfold.distill.step import DistillStep as _DistillStep
from unix_kd.cost import CostLedger
from unix_kd.losses import UnixLoss
from unix_kd.sampling import MixBatch, UncertaintyMixup
from unix_kd.stats import SelectionStats

__all__ = ["DistillStep"]


class DistillStep(_DistillStep):
    """Scores, selects, mixes, asks the teacher, and returns the loss: one call for each batch.

    Teacher and student see the same mixed pixels; the teacher is frozen. In a distributed run wrap this module
    (or the student inside your own module): the scoring pass goes around the wrapper.

    Args:
        student: the network to train.
        teacher: the trained network.
        sampler: see `UncertaintyMixup`.
        loss: see `UnixLoss`.
        ledger: see `CostLedger`; it counts what this step does.
        stats: see `SelectionStats`.
        student_taps: names of modules to tap for ``loss.extra``, in a network that is not of the zoo.
        teacher_taps: likewise.
        amp: run both networks in bfloat16 or float16; scores and losses stay in float32.
        check_finite: raise on NaN or infinite logits or losses.

    Attributes:
        last: the `MixBatch` of the last call.

    Example: see the package.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        sampler: UncertaintyMixup | None = None,
        loss: UnixLoss | None = None,
        ledger: CostLedger | None = None,
        stats: SelectionStats | None = None,
        *,
        student_taps: Sequence[str] | None = None,
        teacher_taps: Sequence[str] | None = None,
        amp: Literal["bf16", "fp16"] | None = None,
        check_finite: bool = True,
    ) -> None:
        loss = loss or UnixLoss()
        super().__init__(
            student,
            teacher,
            loss.extra,
            ce_weight=loss.ce_weight,
            kd_weight=loss.kd_weight,
            temperature=loss.T,
            student_taps=student_taps,
            teacher_taps=teacher_taps,
            amp=amp,
            check_finite=check_finite,
        )
        self.sampler, self.unix_loss = sampler or UncertaintyMixup(), loss
        self.ledger, self.stats = ledger, stats
        self.last: MixBatch | None = None

    def forward(
        self, x: Tensor, labels: Tensor | None = None, index: Tensor | None = None, view: int = 0
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            x: images ``(N, 3, H, W)``.
            labels: ``(N,)``; unused at ``ce_weight`` 0, except by some distillers and by the statistics.
            index: ``(N,)`` numbers in the data set, for counters, `CRD` and cached scores.
            view: unused; the interface of the shared step.

        Returns:
            ``loss``, its parts, and the student's ``logits`` ``(k, C)`` for the mixed images.

        Raises:
            ValueError: an empty batch, NaN logits, other classes.
        """
        counting: Any = self.ledger.step(len(x)) if self.ledger is not None else nullcontext()
        with counting:
            with self._autocast(x):
                batch = self.sampler(self.student, x, labels, index)
            student = self.run_student(batch.x)
            teacher = self.run_teacher(batch.x)
        with torch.autocast(x.device.type, enabled=False):
            student, teacher = student.float(), teacher.float()
            self._check_logits("student", student.logits)
            self._check_logits("teacher", teacher.logits)
            losses = self.unix_loss(student.logits, teacher.logits, batch, student.taps, teacher.taps)
        if self.check_finite and not torch.isfinite(losses["loss"]):
            raise ValueError("DistillStep: loss: not finite; lower the learning rate or the weights")
        self.sampler.remember(batch, student.logits)
        if self.stats is not None:
            features = student.taps[-1] if student.taps else None
            self.stats.update(batch, teacher.logits, features)
        self.last = batch
        return {**losses, "logits": student.logits.detach()}
