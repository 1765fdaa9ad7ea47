"""Contrastive representation distillation; Tian et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.distill.distillers._base import Distiller, Outputs, Shape, vector_width
from tenfold.train.processes import gather_values, rank_and_world

__all__ = ["CRD"]


class CRD(Distiller):
    """Noise-contrastive estimation between student and teacher embeddings with memory banks; Eq. 14-19.

    For image i and K images of other classes, scores ``exp(<z, m_j> / τ) / Z`` of the student's embedding with
    the teacher's bank, and of the teacher's with the student's. Per direction
    ``-1/B Σ [ln(e_0 / (e_0 + K/n)) + Σ_j ln((K/n) / (e_j + K/n))]``. Z is n times the mean exponential of the
    first batch, then constant. The banks follow with momentum and stay on the unit sphere; in a distributed
    run every process enters the embeddings of all.

    Args:
        s_shapes: shapes of the student's taps.
        t_shapes: shapes of the teacher's taps.
        labels: ``(n,)`` classes of the training set, in the order of its indices.
        negatives: K; at most the number of images of other classes.
        width: of the embedding.
        temperature: τ.
        momentum: of the banks.

    Raises:
        ValueError: labels of fewer than two classes.
    """

    weight = 0.8
    needs_index = True
    bank_s: Tensor
    bank_t: Tensor
    scale: Tensor
    classes: Tensor

    def __init__(
        self,
        s_shapes: Sequence[Shape],
        t_shapes: Sequence[Shape],
        *,
        labels: Tensor | Sequence[int],
        negatives: int = 16_384,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        classes = torch.as_tensor(labels, dtype=torch.int64)
        if classes.ndim != 1 or len(classes.unique()) < 2:
            raise ValueError(
                f"CRD: labels: got shape {tuple(classes.shape)}; expected (n,) of at least two classes"
            )
        others = len(classes) - int(classes.bincount().max())
        self.negatives, self.temperature, self.momentum = min(negatives, others), temperature, momentum
        if self.negatives < 1:
            raise ValueError(f"CRD: negatives: got {negatives}; expected at least 1")
        self.embed_s = nn.Linear(vector_width("CRD", s_shapes, "student"), width)
        self.embed_t = nn.Linear(vector_width("CRD", t_shapes, "teacher"), width)
        bound = (width / 3.0) ** -0.5
        for name in ("bank_s", "bank_t"):
            self.register_buffer(name, torch.empty(len(classes), width).uniform_(-bound, bound))
        self.register_buffer("scale", torch.zeros(2))  # Z of both directions; 0 until the first batch
        self.register_buffer("classes", classes, persistent=False)

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        assert index is not None
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self.classes):
            raise ValueError(
                f"CRD: index: got up to {int(index.max())}; expected 0 to {len(self.classes) - 1}"
            )
        z_s = F.normalize(self.embed_s(student.taps[-1]), dim=1)
        z_t = F.normalize(self.embed_t(teacher.taps[-1]), dim=1)
        rows = torch.cat([index[:, None], self.draw(index)], 1)
        direction_s = self._scores(z_s, self.bank_t[rows], 0)
        direction_t = self._scores(z_t, self.bank_s[rows], 1)
        loss = self.contrast(direction_s) + self.contrast(direction_t)
        if self.training:
            self._remember(z_s.detach(), z_t.detach(), index)
        return loss

    def draw(self, index: Tensor) -> Tensor:
        """``(B, K)`` images of other classes than each image's own, without repetition."""
        rows = []
        for label in self.classes[index].tolist():
            others = (self.classes != label).nonzero()[:, 0]
            rows.append(others[torch.randperm(len(others), device=others.device)[: self.negatives]])
        return torch.stack(rows)

    def contrast(self, scores: Tensor) -> Tensor:
        """Loss of one direction for scores ``(B, 1 + K)`` whose first column is the positive."""
        noise = (scores.shape[1] - 1) / len(self.classes)
        positive = (scores[:, 0] / (scores[:, 0] + noise)).log()
        negative = (noise / (scores[:, 1:] + noise)).log().sum(1)
        return -(positive + negative).mean()

    def _scores(self, z: Tensor, candidates: Tensor, direction: int) -> Tensor:
        raw = (torch.einsum("bd,bkd->bk", z, candidates.to(z.dtype)) / self.temperature).exp()
        if self.scale[direction] == 0:
            mean = raw.detach().mean() * len(self.classes)
            if (world := rank_and_world()[1]) > 1:
                torch.distributed.all_reduce(mean)
                mean = mean / world
            self.scale[direction] = mean
        # A copy: the buffer changes in place for the other direction, which autograd would not forgive.
        return raw / self.scale[direction].clone().to(raw.dtype)

    @torch.no_grad()
    def _remember(self, z_s: Tensor, z_t: Tensor, index: Tensor) -> None:
        if rank_and_world()[1] > 1:
            z_s, z_t, index = (_gather(x) for x in (z_s, z_t, index))
        for bank, z in ((self.bank_s, z_s), (self.bank_t, z_t)):
            mixed = self.momentum * bank[index] + (1.0 - self.momentum) * z.to(bank.dtype)
            bank[index] = F.normalize(mixed, dim=1)


def _gather(x: Tensor) -> Tensor:
    """Rows of all processes; their numbers may differ, as in the last batch of an epoch."""
    return torch.cat(gather_values(x.cpu())).to(x.device)
