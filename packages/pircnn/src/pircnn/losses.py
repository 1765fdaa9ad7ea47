"""Losses of the image branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.losses import mean_count, sigmoid_focal_loss

__all__ = ["IGNORE", "point_segmentation_loss", "segmentation_loss", "segmentation_sums"]

#: Label of pixels that count for nothing.
IGNORE = 255


def segmentation_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss on softmax probabilities, ``-(1 - p)^gamma log p``, averaged over labelled pixels.

    The released code divides by all pixels and leaves a constant for each ignored one; here they change nothing.

    Args:
        logits: (B, Cs, H, W).
        labels: (B, H, W) int64, `IGNORE` where unknown.
        gamma: how fast well classified pixels fade.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> labels = torch.tensor([[[0, 255]]])
        >>> round(segmentation_loss(torch.zeros(1, 2, 1, 2), labels).item(), 4)  # (1/2)^2 ln 2
        0.1733
    """
    total, known = segmentation_sums(logits, labels, gamma)
    return total / mean_count(known)


def segmentation_sums(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
    """What `segmentation_loss` divides: the summed focal loss, and the number of labelled pixels.

    For images of several sizes, whose sums are added before one division.

    Args:
        logits: (B, Cs, H, W).
        labels: (B, H, W) int64, `IGNORE` where unknown.
        gamma: as there.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> total, known = segmentation_sums(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]]))
        >>> round(total.item(), 4), known.item()
        (0.1733, 1)
    """
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"segmentation_loss: labels: got {tuple(labels.shape)}; expected {(logits.shape[0], *logits.shape[2:])}"
        )
    known = labels != IGNORE
    log_p = F.log_softmax(logits, 1).gather(1, torch.where(known, labels, 0)[:, None])[:, 0]
    each = -((1 - log_p.exp()) ** gamma) * log_p
    return torch.where(known, each, 0).sum(), known.sum()


def point_segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Image features as class scores of points, taught by 3-D boxes alone.

    Sigmoid focal loss (alpha 0.25, gamma 2) over the number of foreground points of the whole batch.

    Args:
        logits: (N, 1 + classes), background first; logits and no probabilities.
        labels: (N,) 0 background, 1 and more the class, negative ignored.

    Raises:
        ValueError: shapes that do not fit, or a label beyond the columns.

    Example:
        >>> point_segmentation_loss(torch.tensor([[-20.0, 20.0]]), torch.tensor([1])).item() < 1e-6
        True
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"point_segmentation_loss: logits, labels: got {tuple(logits.shape)}, {tuple(labels.shape)}"
        )
    if labels.numel() and int(labels.max()) >= logits.shape[1]:
        raise ValueError(
            f"point_segmentation_loss: logits: got {logits.shape[1]} columns; expected background and every class"
        )
    one_hot = F.one_hot(labels.clamp(min=0), logits.shape[1]).to(logits.dtype)
    each = sigmoid_focal_loss(logits, one_hot).sum(1)
    foreground = mean_count((labels > 0).sum()).to(logits.dtype)
    return (each * (labels >= 0)).sum() / foreground
