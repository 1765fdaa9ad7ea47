"""Distillation of relations between the images of a batch: SP, CC, RKD, PKT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.distill.distillers._base import Distiller, Outputs, Shape, check_map, vector_width

__all__ = ["CC", "PKT", "RKD", "SP", "angle_cosines", "pairwise_distances"]


class SP(Distiller):
    """Similarity preserving: ``‖G^s - G^t‖² / B²``, G the row-normalised Gram matrix; Tung & Mori 2019, Eq. 2-4.

    Args:
        s_shapes: shapes of the student's taps.
        t_shapes: shapes of the teacher's taps.
        tap: which tap; -2 is the last map.
    """

    weight = 3000.0

    def __init__(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape], *, tap: int = -2) -> None:
        super().__init__()
        for shapes, whose in ((s_shapes, "student"), (t_shapes, "teacher")):
            check_map("SP", shapes, tap, whose)
        self.tap = tap

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        return (_gram(student.taps[self.tap]) - _gram(teacher.taps[self.tap])).square().mean()


def _gram(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


class CC(Distiller):
    """Correlation congruence between neighbours in the batch; Peng et al. 2019, in its released form.

    With δ the absolute difference of 128-wide linear embeddings: the mean over i of ``Σ_d δ_i δ_(i+1)``.
    """

    weight = 0.02
    least_batch = 2

    def __init__(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape], *, width: int = 128) -> None:
        super().__init__()
        self.embed_s = nn.Linear(vector_width("CC", s_shapes, "student"), width)
        self.embed_t = nn.Linear(vector_width("CC", t_shapes, "teacher"), width)

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        delta = (self.embed_s(student.taps[-1]) - self.embed_t(teacher.taps[-1])).abs()
        loss: Tensor = (delta[:-1] * delta[1:]).sum(1).mean()
        return loss


class RKD(Distiller):
    """Relational KD: distances and angles among the vectors of a batch; Park et al. 2019, Eq. 4-9.

    Args:
        s_shapes: shapes of the student's taps.
        t_shapes: shapes of the teacher's taps.
        distance: weight of the distances, each divided by the mean of the positive ones.
        angle: weight of the cosines of all triplets.
    """

    least_batch = 2

    def __init__(
        self,
        s_shapes: Sequence[Shape] = ((1,),),
        t_shapes: Sequence[Shape] = ((1,),),
        *,
        distance: float = 25.0,
        angle: float = 50.0,
    ) -> None:
        super().__init__()
        vector_width("RKD", s_shapes, "student")
        vector_width("RKD", t_shapes, "teacher")
        self.distance, self.angle = distance, angle

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        s, t = student.taps[-1], teacher.taps[-1]
        distances = F.smooth_l1_loss(_relative(pairwise_distances(s)), _relative(pairwise_distances(t)))
        angles = F.smooth_l1_loss(angle_cosines(s), angle_cosines(t))
        return self.distance * distances + self.angle * angles


def pairwise_distances(x: Tensor) -> Tensor:
    """``(B, B)`` Euclidean distances of rows ``(B, d)``, with a zero diagonal and finite gradients.

    >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    squares = x.square().sum(1)
    squared = (squares[:, None] + squares[None] - 2.0 * (x @ x.T)).clamp(min=1e-12)
    off_diagonal = 1.0 - torch.eye(len(x), dtype=x.dtype, device=x.device)
    return squared.sqrt() * off_diagonal


def _relative(distances: Tensor) -> Tensor:
    positive = distances[distances > 0]
    return distances / positive.mean() if len(positive) else distances


def angle_cosines(x: Tensor) -> Tensor:
    """``(B, B, B)``: cosine at row i between the directions from rows j and k, for rows ``(B, d)``."""
    directions = F.normalize(x[None] - x[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


class PKT(Distiller):
    """Probabilistic knowledge transfer: neighbourhood probabilities by cosine; Passalis & Tefas 2018, Eq. 5-9.

    With P the row-normalised ``(1 + cos) / 2``: the mean over all pairs of ``P^t ln((P^t + ε)/(P^s + ε))``.
    """

    weight = 30_000.0
    epsilon = 1e-7

    def __init__(self, s_shapes: Sequence[Shape] = ((1,),), t_shapes: Sequence[Shape] = ((1,),)) -> None:
        super().__init__()
        vector_width("PKT", s_shapes, "student")
        vector_width("PKT", t_shapes, "teacher")

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        s, t = self._neighbours(student.taps[-1]), self._neighbours(teacher.taps[-1])
        return (t * ((t + self.epsilon) / (s + self.epsilon)).log()).mean()

    def _neighbours(self, x: Tensor) -> Tensor:
        unit = x / (x.norm(dim=1, keepdim=True) + self.epsilon)
        similarity: Tensor = (unit @ unit.T + 1.0) / 2.0
        return similarity / similarity.sum(1, keepdim=True)
