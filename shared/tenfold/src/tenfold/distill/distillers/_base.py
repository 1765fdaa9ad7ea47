"""What every distiller has in common: its inputs, its interface, and the reductions that several share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Distiller", "InitStage", "Outputs", "Shape", "attention_map", "pool_alike"]

Shape = tuple[int, ...]


@dataclass
class Outputs:
    """What a network says of one batch.

    Attributes:
        logits: ``(B, C)``.
        taps: f0 ... fL; maps ``(B, c, h, w)`` and, last, the vector ``(B, d)`` before the classifier.
    """

    logits: Tensor
    taps: Sequence[Tensor] = ()

    def float(self) -> Outputs:
        """The same with half-precision tensors as float32: losses are computed in float32."""
        return Outputs(as_float(self.logits), [as_float(tap) for tap in self.taps])

    def detach(self) -> Outputs:
        """The same without gradients."""
        return Outputs(self.logits.detach(), [tap.detach() for tap in self.taps])


def as_float(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@dataclass(frozen=True)
class InitStage:
    """A stage before the distillation proper.

    Attributes:
        epochs: its published length.
        student: whether the student's features are trained in it, or the distiller's own parts alone.
        final: whether the distiller has done its work then and the student goes on without it.
    """

    epochs: int = 30
    student: bool = True
    final: bool = False


class Distiller(nn.Module):
    """A loss between what a student and a teacher say of the same images.

    Class attributes (constants of the published recipes):
        weight: factor of the loss in the total.
        preact: it wants the maps before their rectification.
        init_stage: see `InitStage`, or None.
        needs_index: it wants the images' numbers in the data set.
        needs_labels: it wants class labels.
        least_batch: images without which the loss is not defined.
    """

    weight: ClassVar[float] = 1.0
    preact: ClassVar[bool] = False
    init_stage: ClassVar[InitStage | None] = None
    needs_index: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    least_batch: ClassVar[int] = 1

    def loss(
        self,
        student: Outputs,
        teacher: Outputs,
        labels: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The unweighted loss, a scalar; no gradient reaches the teacher.

        Args:
            student: its outputs.
            teacher: the teacher's outputs for the same pixels.
            labels: ``(B,)`` class numbers, where `needs_labels`.
            index: ``(B,)`` numbers of the images in the data set, where `needs_index`.

        Raises:
            ValueError: outputs of other shapes than the distiller was built for, or a missing argument.
        """
        self._check(student, teacher, labels, index)
        return self.compute(student.float(), teacher.detach().float(), labels, index)

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """The arithmetic, on checked arguments."""
        raise NotImplementedError

    def init_loss(self, student: Outputs | None, teacher: Outputs) -> Tensor:
        """The loss of the initial stage; by default the loss itself."""
        if student is None:
            raise ValueError(f"{type(self).__name__}: student: got None; expected its outputs")
        return self.loss(student, teacher)

    def _check(self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None) -> None:
        name = type(self).__name__
        batch = len(student.logits)
        if batch != len(teacher.logits):
            raise ValueError(
                f"{name}: batch: got {batch} images of the student, {len(teacher.logits)} of the teacher"
            )
        if batch < self.least_batch:
            raise ValueError(f"{name}: batch: got {batch} image; expected at least {self.least_batch}")
        for wanted, value, what in (
            (self.needs_labels, labels, "labels"),
            (self.needs_index, index, "index"),
        ):
            if wanted and value is None:
                raise ValueError(f"{name}: {what}: got None; expected ({batch},) numbers")


def check_equal_logits(name: str, student: Tensor, teacher: Tensor) -> None:
    """Both ``(B, C)``.

    Raises:
        ValueError: they differ, such as a teacher with other classes.
    """
    if student.shape != teacher.shape or student.ndim != 2:
        raise ValueError(
            f"{name}: logits: got {tuple(student.shape)} of the student, {tuple(teacher.shape)} of the teacher;"
            " expected equal shapes (B, C)"
        )


def map_pairs(
    name: str, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape], mapping: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """Pairs (student tap, teacher tap) of all maps but the first; f1 ... f(L-1).

    Raises:
        ValueError: different numbers of taps without a mapping, or a mapping that names no map.
    """
    if mapping is None:
        if len(s_shapes) != len(t_shapes):
            raise ValueError(
                f"{name}: taps: the student has {len(s_shapes)}, the teacher {len(t_shapes)}; give the mapping"
                " as pairs (student tap, teacher tap), or choose networks of one family"
            )
        mapping = [(k, k) for k in range(1, len(s_shapes) - 1)]
    return [
        (check_map(name, s_shapes, s, "student"), check_map(name, t_shapes, t, "teacher")) for s, t in mapping
    ]


def check_map(name: str, shapes: Sequence[Shape], index: int, whose: str) -> int:
    """``index`` as a number from 0, if that tap is a map.

    Raises:
        ValueError: no such tap, or a tap that is no map.
    """
    if not -len(shapes) <= index < len(shapes):
        raise ValueError(f"{name}: taps: the {whose} has {len(shapes)}; tap {index} does not exist")
    if len(shapes[index]) != 3:
        raise ValueError(
            f"{name}: taps: {whose} tap {index} has shape {shapes[index]}; expected a map (c, h, w)"
        )
    return index % len(shapes)


def vector_width(name: str, shapes: Sequence[Shape], whose: str) -> int:
    """Width of the last tap.

    Raises:
        ValueError: there is none, or it is no vector.
    """
    if not shapes or len(shapes[-1]) != 1:
        shown = shapes[-1] if shapes else None
        raise ValueError(f"{name}: taps: the {whose}'s last tap has shape {shown}; expected a vector (d,)")
    return shapes[-1][0]


def pool_alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(B, *, h, w)`` averaged down to the smaller of both sizes.

    >>> [x.shape[2] for x in pool_alike(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 4, 4))]
    [4, 4]
    """
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return tuple(x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))  # type: ignore[return-value]


def attention_map(x: Tensor) -> Tensor:
    """``(B, h w)``: mean square over the channels, of length 1 (Zagoruyko & Komodakis 2017, Eq. 2)."""
    return F.normalize(x.square().mean(1).flatten(1), dim=1)
