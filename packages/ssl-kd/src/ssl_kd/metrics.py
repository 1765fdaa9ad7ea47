"""How alike two networks are; the paper's Table 6 and our retrieval statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.heads import SSWrapper, cosine_scores, positives
from ssl_kd.selection import error_level
from ssl_kd.views import VIEWS
from tenfold.train.modes import evaluating

__all__ = ["linear_cka", "retrieval", "score_correlation", "teacher_student_kl"]


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment ``‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖)``; Kornblith et al. 2019, Eq. 3.

    Args:
        x: features ``(N, d)``.
        y: features ``(N, d')`` of the same images.

    Returns:
        0 to 1; unchanged by rotation and scaling of either. 0 where one side is constant.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> round(linear_cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"linear_cka: got shapes {tuple(x.shape)}, {tuple(y.shape)}; expected (N, d), (N, d')"
        )
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).square().sum() / scale) if scale > 0 else 0.0


def teacher_student_kl(teacher: Tensor, student: Tensor) -> float:
    """Mean ``KL(softmax t ‖ softmax s)`` at temperature 1, for logits ``(N, C)``.

    >>> teacher_student_kl(torch.zeros(2, 3), torch.ones(2, 3))
    0.0
    """
    log_t, log_s = teacher.double().log_softmax(1), student.double().log_softmax(1)
    return float(F.kl_div(log_s, log_t, reduction="batchmean", log_target=True))


def retrieval(z: Tensor, batch: int = 64) -> float:
    """Share of transformed views whose own image is the most similar of a batch.

    Args:
        z: head outputs ``(4 N, d)``, the views of an image next to each other.
        batch: images that each view is compared with; the last, smaller batch is left out.

    >>> retrieval(torch.eye(4).repeat_interleave(4, 0), batch=4)
    1.0
    """
    right = total = 0
    for part in z.split(VIEWS * batch):
        if len(part) == VIEWS * batch:
            level = error_level(cosine_scores(part), positives(batch, VIEWS - 1, part.device))
            right, total = right + int((level == 0).sum()), total + len(level)
    if not total:
        raise ValueError(f"retrieval: z: got {len(z) // VIEWS} images; expected at least {batch}")
    return right / total


def score_correlation(a: Tensor, b: Tensor, batch: int = 64) -> float:
    """Pearson correlation of two networks' similarities, from head outputs ``(4 N, d)`` and ``(4 N, d')``."""
    pairs = zip(a.split(VIEWS * batch), b.split(VIEWS * batch), strict=True)
    found = [(cosine_scores(x).flatten(), cosine_scores(y).flatten()) for x, y in pairs]
    x, y = (torch.cat([pair[k] for pair in found]).double() for k in (0, 1))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def head_outputs(network: SSWrapper, views: Tensor, batch: int = 64) -> Tensor:
    """``(4 N, d)`` of views ``(N, 4, 3, H, W)``, in eval mode; the modes are as before afterwards."""
    return _outputs(network, views.flatten(0, 1), 1, views.shape[1] * batch)


def features(network: SSWrapper, x: Tensor, batch: int = 256) -> Tensor:
    """``(N, d)`` of images ``(N, 3, H, W)``, in eval mode; the modes are as before afterwards."""
    return _outputs(network, x, 2, batch)


@torch.no_grad()
def _outputs(network: SSWrapper, x: Tensor, which: int, batch: int) -> Tensor:
    with evaluating(network):
        return torch.cat([network(part)[which] for part in x.split(batch)])
