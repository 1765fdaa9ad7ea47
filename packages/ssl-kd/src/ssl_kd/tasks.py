"""Four self-supervision tasks behind one interface; the paper's Table 2 and Section 3.4.

Contrastive is the published method. Rotation is standard; the details of jigsaw and exemplar are ours, for
the ablation only.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.heads import ContrastiveHeadLoss, cosine_scores, mlp, positives
from ssl_kd.views import VIEWS, MixedViews, RotationViews

__all__ = ["TASKS", "Contrastive", "Exemplar", "Jigsaw", "Rotation", "SSTask"]


class SSTask:
    """What a teacher's head is trained for, and what the student imitates of its answers.

    Class attributes:
        name: in recipes.
    """

    name: ClassVar[str] = ""

    def views(self, transform: Any) -> Any:
        """The maker of an image's views ``(4, 3, H, W)``."""
        return RotationViews(transform)

    def head(self, width: int) -> nn.Module:
        """A fresh head for features of this width."""
        return mlp(width)

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Images ``(4 B, 3, H, W)`` for the networks, and the right answer of each row of `scores`.

        Args:
            x: views ``(B, 4, 3, H, W)`` or ``(4 B, 3, H, W)``.
            generator: of in-batch randomness.
        """
        flat = x.flatten(0, 1) if x.ndim == 5 else x
        return flat, self.positive(len(flat) // VIEWS, flat.device)

    def positive(self, images: int, device: torch.device | None = None) -> Tensor:
        """The right column of each row."""
        raise NotImplementedError

    def scores(self, z: Tensor, columns: Tensor | None = None) -> Tensor:
        """Answers: a row for each question, a column for each candidate."""
        raise NotImplementedError

    def teacher_loss(self, z: Tensor, target: Tensor) -> Tensor:
        """What the teacher's head is trained with."""
        return F.cross_entropy(self.scores(z), target)


class Contrastive(SSTask):
    """Which image of the batch does this transformed view come from?

    Args:
        tau: temperature of the head's training; 1 as released.

    >>> z = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    >>> Contrastive().scores(z).shape
    torch.Size([6, 2])
    """

    name = "contrastive"

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = tau

    def positive(self, images: int, device: torch.device | None = None) -> Tensor:
        """See `positives`."""
        return positives(images, VIEWS - 1, device)

    def scores(self, z: Tensor, columns: Tensor | None = None) -> Tensor:
        """See `cosine_scores`."""
        return cosine_scores(z, VIEWS, columns)

    def teacher_loss(self, z: Tensor, target: Tensor) -> Tensor:
        """See `ContrastiveHeadLoss`."""
        return ContrastiveHeadLoss(self.tau)(z, VIEWS, target)


class Rotation(SSTask):
    """By how much is this view turned?"""

    name = "rotation"

    def head(self, width: int) -> nn.Module:
        """Four answers."""
        return mlp(width, VIEWS)

    def positive(self, images: int, device: torch.device | None = None) -> Tensor:
        """0, 1, 2, 3 for each image."""
        return torch.arange(VIEWS, device=device).repeat(images)

    def scores(self, z: Tensor, columns: Tensor | None = None) -> Tensor:
        """The head's outputs."""
        return z


class Jigsaw(SSTask):
    """In which of the 24 orders are the four quarters of this view?

    The plain view stays; the other three are made of it in the batch, each with an order of its own.
    """

    name = "jigsaw"
    orders: ClassVar[tuple[tuple[int, ...], ...]] = tuple(itertools.permutations(range(4)))

    def head(self, width: int) -> nn.Module:
        """24 answers."""
        return mlp(width, len(self.orders))

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See `SSTask.prepare`."""
        flat, _ = super().prepare(x, generator)
        images = len(flat) // VIEWS
        plain = flat.view(images, VIEWS, *flat.shape[1:])[:, 0].repeat_interleave(VIEWS, 0)
        device = "cpu" if generator is None else generator.device
        drawn = torch.randint(len(self.orders), (images, VIEWS), generator=generator, device=device)
        drawn[:, 0] = 0  # the identity
        target = drawn.flatten().to(flat.device)
        orders = torch.tensor(self.orders, device=flat.device)[target]
        height, width = flat.shape[2] // 2 * 2, flat.shape[3] // 2 * 2
        quarters = [part for half in plain[:, :, :height, :width].chunk(2, 2) for part in half.chunk(2, 3)]
        stacked = torch.stack(quarters, 1)
        moved = stacked[torch.arange(len(stacked), device=flat.device)[:, None], orders]
        top, bottom = (torch.cat([moved[:, k], moved[:, k + 1]], 3) for k in (0, 2))
        return torch.cat([top, bottom], 2), target

    def positive(self, images: int, device: torch.device | None = None) -> Tensor:
        """Of batches that were not permuted: the identity."""
        return torch.zeros(VIEWS * images, dtype=torch.int64, device=device)

    def scores(self, z: Tensor, columns: Tensor | None = None) -> Tensor:
        """The head's outputs."""
        return z


class Exemplar(Contrastive):
    """Which image does this strongly changed copy come from? Trained with a margin instead of a softmax.

    Args:
        margin: by which the right image must be more similar than any other.
    """

    name = "exemplar"

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def views(self, transform: Any) -> Any:
        """Copies with other colours, crops and orientations."""
        return MixedViews(transform)

    def teacher_loss(self, z: Tensor, target: Tensor) -> Tensor:
        """Mean over rows and wrong images of ``max(0, margin - right + wrong)``."""
        scores = self.scores(z)
        right = scores.gather(1, target[:, None])
        wrong = F.one_hot(target, scores.shape[1]) == 0
        hinge = (self.margin - right + scores).clamp(min=0.0)
        return (hinge * wrong).sum() / wrong.sum().clamp(min=1)


#: Name -> class.
TASKS: dict[str, type[SSTask]] = {task.name: task for task in (Contrastive, Rotation, Jigsaw, Exemplar)}
