"""One training step of SSKD, for any loop."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ssl_kd.heads import SSWrapper
from ssl_kd.losses import SSKDLoss
from ssl_kd.views import VIEWS
from tenfold.distill.step import DistillStep

__all__ = ["SSKDStep"]


class SSKDStep(DistillStep):
    """The losses of a batch of views; call it in your own loop, or wrap it in DistributedDataParallel.

    The teacher, its head included, is frozen in eval mode. The student sees all views together, so its
    normalisation statistics are those of the mixture, as published.

    Args:
        student: with a fresh head.
        teacher: with a trained head.
        loss: see `SSKDLoss`.
        amp: run both networks in bfloat16 or float16; the losses stay in float32.
        check_finite: raise on NaN or infinite logits or losses.

    Example: see the package.
    """

    student: SSWrapper
    teacher: SSWrapper

    def __init__(
        self,
        student: SSWrapper,
        teacher: SSWrapper,
        loss: SSKDLoss | None = None,
        *,
        amp: Literal["bf16", "fp16"] | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__(student, teacher, amp=amp, check_finite=check_finite)
        self.sskd = loss or SSKDLoss()
        self.generator: torch.Generator | None = None

    def forward(
        self, x: Tensor, labels: Tensor | None = None, index: Tensor | None = None, view: int = 0
    ) -> dict[str, Tensor]:
        """Losses of views ``(B, 4, 3, H, W)`` (or ``(4 B, 3, H, W)``, the views of an image together).

        Args:
            x: the views.
            labels: ``(B,)``.
            index: unused; the interface of the shared step.
            view: unused.

        Returns:
            What `SSKDLoss` returns, and ``logits`` ``(B, C)`` of the student for the plain views.

        Raises:
            ValueError: an empty batch, no labels, NaN.
        """
        if labels is None:
            raise ValueError("SSKDStep: labels: got None; expected (B,) class numbers")
        if len(x) == 0:
            raise ValueError("SSKDStep: x: got an empty batch")
        flat, target = self.sskd.task.prepare(x, self.generator)
        with self._autocast(x):
            s_logits, s_z, _ = self.student(flat)
            with torch.no_grad():
                t_logits, t_z, _ = self.teacher(flat)
        with torch.autocast(x.device.type, enabled=False):
            for whose, values in (("student", s_logits), ("teacher", t_logits)):
                self._check_logits(whose, values)
            losses = self.sskd(s_logits, s_z, t_logits, t_z, labels, target)
        if self.check_finite and not torch.isfinite(losses["loss"]):
            raise ValueError("SSKDStep: loss: not finite; lower the learning rate or the weights")
        plain = s_logits.detach().view(-1, VIEWS, s_logits.shape[1])[:, 0]
        return {**losses, "logits": plain}
