"""Distillation of class scores: KD and its decoupled form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.distill.distillers._base import Distiller, Outputs, Shape, as_float, check_equal_logits

__all__ = ["DKD", "KD", "dkd_loss", "kd_loss"]


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """``T² · mean over the batch of KL(softmax(t/T) ‖ softmax(s/T))``; Hinton et al. 2015.

    Args:
        student: logits ``(B, C)``.
        teacher: logits ``(B, C)``; they get no gradient.
        temperature: T > 0.

    Raises:
        ValueError: different shapes, or a temperature that is not above 0.

    >>> float(kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])))
    0.0
    """
    check_equal_logits("kd_loss", student, teacher)
    if not temperature > 0:
        raise ValueError(f"kd_loss: temperature: got {temperature}; expected more than 0")
    if len(student) == 0:  # the library's mean over no rows is NaN
        return student.sum() * 0.0
    log_s = F.log_softmax(as_float(student) / temperature, dim=1)
    log_t = F.log_softmax(as_float(teacher.detach()) / temperature, dim=1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """``T² (alpha · TCKD + beta · NCKD)``, means over the batch; Zhao et al. 2022, Eq. 7.

    TCKD is the divergence of (target, rest) probabilities, NCKD that of the distribution among the other
    classes. With beta replaced by one minus the teacher's target probability, image by image, it is KD.

    Args:
        student: logits ``(B, C)``.
        teacher: logits ``(B, C)``; they get no gradient.
        labels: ``(B,)``.
        alpha: weight of the target part.
        beta: weight of the other part.
        temperature: T > 0.

    >>> logits = torch.tensor([[1.0, 2.0, 0.0]])
    >>> float(dkd_loss(logits, logits, torch.tensor([1])))
    0.0
    """
    check_equal_logits("dkd_loss", student, teacher)
    tckd, nckd = decoupled(student, teacher, labels, temperature)
    return temperature**2 * (alpha * tckd.mean() + beta * nckd.mean())


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``(B,)`` target part and ``(B,)`` non-target part of the divergence, without T²."""
    target = F.one_hot(labels, student.shape[1]).bool()
    parts = []
    for logits in (student, teacher.detach()):
        scaled = as_float(logits) / temperature
        log_all = F.log_softmax(scaled, dim=1)
        log_target = log_all[target]
        log_rest = log_all.masked_fill(target, -torch.inf).logsumexp(dim=1)
        log_others = F.log_softmax(scaled.masked_fill(target, -torch.inf), dim=1).masked_fill(target, 0.0)
        parts.append((torch.stack([log_target, log_rest], 1), log_others))
    (binary_s, others_s), (binary_t, others_t) = parts
    tckd = (binary_t.exp() * (binary_t - binary_s)).sum(1)
    weight = others_t.exp().masked_fill(target, 0.0)
    return tckd, (weight * (others_t - others_s)).sum(1)


class KD(Distiller):
    """Class scores at a temperature, as a distiller of its own; see `kd_loss`.

    >>> same = Outputs(torch.tensor([[1.0, 2.0]]))
    >>> float(KD().loss(same, same))
    0.0
    """

    weight = 0.9

    def __init__(
        self,
        s_shapes: Sequence[Shape] = (),
        t_shapes: Sequence[Shape] = (),
        *,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        return kd_loss(student.logits, teacher.logits, self.temperature)


class DKD(Distiller):
    """Decoupled class scores; see `dkd_loss`."""

    needs_labels = True

    def __init__(
        self,
        s_shapes: Sequence[Shape] = (),
        t_shapes: Sequence[Shape] = (),
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        assert labels is not None
        factors = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        return dkd_loss(student.logits, teacher.logits, labels, **factors)
