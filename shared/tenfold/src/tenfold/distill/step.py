"""One training step of distillation, for any loop: any teacher into any student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.distill.cache import LogitCache
from tenfold.distill.distillers import Distiller, Outputs, build, kd_loss
from tenfold.distill.distillers._base import as_float, check_equal_logits
from tenfold.distill.taps import Tapped

__all__ = ["DistillStep"]

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DistillStep(nn.Module):
    """The losses of one batch; call it in your own loop, or wrap it in DistributedDataParallel.

    ``loss = ce_weight · CE + kd_weight · KD(temperature) + weight · distiller``. The teacher is frozen: it
    stays in eval mode whatever ``train()`` is called on, gets no gradient, and is not part of the step's
    parameters or state dict, though it moves along to another device.

    Args:
        student: the network to train.
        teacher: the trained network.
        distiller: a `Distiller`, the name of one, or None for CE and KD alone. A name needs ``input_shape``.
        ce_weight: of the cross-entropy with the labels; 0 leaves the labels unused.
        kd_weight: of the class scores.
        weight: of the distiller; by default its published one.
        temperature: of the class scores.
        student_taps: names of modules to tap in a network that is not of the zoo; see `Tapped`.
        teacher_taps: likewise.
        input_shape: ``(3, H, W)``, to find the shapes of the taps.
        labels: ``(n,)`` classes of the training set, for the distiller ``crd``.
        cache: stores the teacher's logits; see `LogitCache`. Not together with a distiller of features.
        amp: run both networks in bfloat16 or float16; the losses stay in float32.
        check_finite: raise on NaN or infinite logits or losses (one look at the device for each step).
        **options: of the named distiller.

    Raises:
        ValueError: a cache with a distiller that needs features, or a name without ``input_shape``.

    >>> from tenfold.distill.models import create_model
    >>> step = DistillStep(create_model("plain3", 4), create_model("resnet8", 4), ce_weight=0.1, kd_weight=0.9)
    >>> losses = step(torch.zeros(2, 3, 16, 16), torch.tensor([0, 3]))
    >>> sorted(losses)
    ['ce', 'kd', 'logits', 'loss']
    >>> losses["loss"].backward()
    """

    teacher: nn.Module

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        distiller: Distiller | str | None = None,
        *,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        weight: float | None = None,
        temperature: float = 4.0,
        student_taps: Sequence[str] | None = None,
        teacher_taps: Sequence[str] | None = None,
        input_shape: tuple[int, int, int] | None = None,
        labels: Any = None,
        cache: LogitCache | None = None,
        amp: Literal["bf16", "fp16"] | None = None,
        check_finite: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if student is teacher:
            raise ValueError("DistillStep: teacher: got the student itself; expected another network")
        self.student = student
        # Not a registered child: a frozen network belongs neither to the parameters nor to checkpoints.
        object.__setattr__(self, "teacher", teacher.eval().requires_grad_(False))
        preact = _wants_preact(distiller)
        self.student_taps = Tapped(student, student_taps, preact=preact)
        self.teacher_taps = Tapped(teacher, teacher_taps, preact=preact)
        if isinstance(distiller, str):
            if input_shape is None:
                raise ValueError(f"DistillStep: input_shape: got None; {distiller!r} needs (3, H, W)")
            shapes = self.student_taps.shapes(input_shape), self.teacher_taps.shapes(input_shape)
            distiller = build(distiller, *shapes, labels=labels, **options)
        elif options:
            raise ValueError(
                f"DistillStep: {', '.join(options)}: only a distiller given by name takes options"
            )
        if cache is not None and distiller is not None:
            raise ValueError("DistillStep: cache: holds class scores only; use it with distiller=None")
        self.distiller = distiller
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.weight = weight if weight is not None else (distiller.weight if distiller is not None else 0.0)
        self.cache, self.amp, self.check_finite = cache, amp, check_finite
        #: "init": the distiller's initial stage; "main": after it; "joint": there is or was none.
        self.stage: Literal["joint", "init", "main"] = "joint"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.teacher._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def trainable(self) -> Iterator[nn.Parameter]:
        """Parameters for the optimiser: the student's and the distiller's own."""
        return (p for p in self.parameters() if p.requires_grad)

    def forward(
        self, x: Tensor, labels: Tensor | None = None, index: Tensor | None = None, view: int = 0
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            x: images ``(B, 3, H, W)``.
            labels: ``(B,)``; not needed at ``ce_weight`` 0, except by some distillers.
            index: ``(B,)`` numbers in the data set, for a cache and for `CRD`.
            view: which of the fixed crops, for a cache.

        Returns:
            ``loss`` and its unweighted parts ``ce``, ``kd``, ``distiller`` where used, and the student's
            ``logits`` ``(B, C)`` without gradient.

        Raises:
            ValueError: an empty batch, missing labels or index, other classes, NaN.
        """
        if len(x) == 0:
            raise ValueError("DistillStep: x: got an empty batch")
        if self.stage == "init":
            return self._init_losses(x)
        student = self.run_student(x)
        return self.losses(student, self.run_teacher(x, index, view), labels, index)

    def run_student(self, x: Tensor) -> Outputs:
        """The student's outputs, with gradients."""
        with self._autocast(x):
            return self.student_taps(x)

    def run_teacher(self, x: Tensor, index: Tensor | None = None, view: int = 0) -> Outputs:
        """The teacher's outputs, without gradients, or its stored class scores."""
        with torch.no_grad(), self._autocast(x):
            if self.cache is None:
                return self.teacher_taps(x)
            if index is None:
                raise ValueError("DistillStep: index: got None; the cache needs the images' numbers")
            return Outputs(self.cache(self.teacher, x, index, view))

    def losses(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of both networks' outputs for the same pixels; see `forward`."""
        with torch.autocast(student.logits.device.type, enabled=False):
            student, teacher = student.float(), teacher.float()
            self._check_logits("student", student.logits)
            self._check_logits("teacher", teacher.logits)
            parts: dict[str, tuple[float, Tensor]] = {}
            if self.ce_weight:
                parts["ce"] = (self.ce_weight, self._cross_entropy(student.logits, labels))
            if self.kd_weight:
                check_equal_logits("DistillStep", student.logits, teacher.logits)
                parts["kd"] = (self.kd_weight, kd_loss(student.logits, teacher.logits, self.temperature))
            if self.distiller is not None and self._distils_now():
                value = self.distiller.loss(student, teacher, labels, index)
                parts["distiller"] = (self.weight, value)
            return self._total(parts, student.logits)

    def _total(self, parts: dict[str, tuple[float, Tensor]], logits: Tensor) -> dict[str, Tensor]:
        loss = (
            torch.stack([factor * value for factor, value in parts.values()]).sum()
            if parts
            else logits.sum() * 0
        )
        if self.check_finite and not torch.isfinite(loss):
            shown = ", ".join(f"{name} {float(value.detach()):g}" for name, (_, value) in parts.items())
            raise ValueError(
                f"DistillStep: loss: not finite ({shown}); lower the learning rate or the weights"
            )
        return {
            "loss": loss,
            **{name: value for name, (_, value) in parts.items()},
            "logits": logits.detach(),
        }

    def _cross_entropy(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(f"DistillStep: labels: got None; ce_weight is {self.ce_weight}")
        check_labels("DistillStep", labels, logits)
        return F.cross_entropy(logits, labels)

    def _distils_now(self) -> bool:
        stage = self.distiller.init_stage if self.distiller is not None else None
        return not (self.stage == "main" and stage is not None and stage.final)

    def _init_losses(self, x: Tensor) -> dict[str, Tensor]:
        if self.distiller is None or self.distiller.init_stage is None:
            raise ValueError("DistillStep: stage: got 'init'; this distiller has no initial stage")
        student = self.run_student(x) if self.distiller.init_stage.student else None
        teacher = self.run_teacher(x)
        with torch.autocast(x.device.type, enabled=False):
            value = self.distiller.init_loss(student.float() if student else None, teacher.float())
            seen = (student or teacher).logits
            return self._total({"distiller": (1.0, value)}, as_float(seen))

    def _check_logits(self, whose: str, logits: Tensor) -> None:
        if self.check_finite:
            bad = int((~torch.isfinite(logits)).any(1).sum())
            if bad:
                raise ValueError(
                    f"DistillStep: {whose} logits: NaN or infinite in {bad} of {len(logits)} images"
                )

    def _autocast(self, x: Tensor) -> Any:
        if self.amp is None:
            return torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type))
        return torch.autocast(x.device.type, dtype=_AMP[self.amp])


def check_labels(name: str, labels: Tensor, logits: Tensor) -> None:
    """``(B,)`` class numbers of logits ``(B, C)``.

    Raises:
        ValueError: another shape, or a label outside the classes.
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"{name}: labels: got shape {tuple(labels.shape)}; expected ({len(logits)},)")
    if labels.device.type == "cpu" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(f"{name}: labels: got {low} to {high}; expected 0 to {logits.shape[1] - 1}")


def _wants_preact(distiller: Distiller | str | None) -> bool:
    from tenfold.distill.distillers import DISTILLERS

    if isinstance(distiller, str):
        found = DISTILLERS.get(distiller)
        return found is not None and found.preact
    return distiller is not None and distiller.preact
