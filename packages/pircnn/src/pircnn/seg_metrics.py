"""Metrics of the image branch, on pixels and on points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pircnn.losses import IGNORE
from tenfold import host

__all__ = ["average_precision", "confusion", "per_image_metrics", "roc_auc", "seg_metrics"]

Counts = npt.NDArray[np.int64]


def confusion(found: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], classes: int) -> Counts:
    """(classes, classes) counts, rows the truth; ignored pixels count nowhere.

    Example:
        >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 255]), 2).tolist()
        [[1, 1], [0, 0]]
    """
    known = labels != IGNORE
    index = labels[known].astype(np.int64) * classes + found[known].astype(np.int64)
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def seg_metrics(counts: Counts) -> dict[str, float]:
    """Metrics of a whole split, in percent; classes that do not occur in the truth are left out of the means.

    Args:
        counts: sum of `confusion` over all images.

    Returns:
        ``pixel_accuracy``, ``mean_accuracy``, ``miou``, ``fwiou`` (weighted by frequency).

    Example:
        >>> seg_metrics(np.array([[3, 1], [0, 0]]))["miou"]
        75.0
    """
    truth, found, right = counts.sum(1), counts.sum(0), np.diag(counts)
    total = max(int(counts.sum()), 1)
    present = truth > 0
    union = np.maximum(truth + found - right, 1)
    iou = right / union
    accuracy = right[present] / truth[present]
    return {
        "pixel_accuracy": float(100 * right.sum() / total),
        "mean_accuracy": float(100 * accuracy.mean()) if present.any() else 0.0,
        "miou": float(100 * iou[present].mean()) if present.any() else 0.0,
        "fwiou": float(100 * (truth / total * iou).sum()),
    }


def per_image_metrics(counts: Sequence[Counts]) -> dict[str, float]:
    """The same averaged over images, as the official code does: classes absent from an image cost nothing."""
    each = [seg_metrics(one) for one in counts]
    return {name: float(np.mean([e[name] for e in each])) for name in each[0]} if each else {}


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Average precision in percent: mean precision at the positives; equal scores share one threshold.

    0 where there is no positive.

    Example:
        >>> average_precision([0.9, 0.8, 0.1], [True, False, True])  # doctest: +ELLIPSIS
        83.33...
    """
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    return 100 * host.average_precision(s, p, kind="step") if p.any() else 0.0


def roc_auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    Example:
        >>> roc_auc([0.1, 0.5, 0.5, 0.9], [False, False, True, True])
        0.875
    """
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    values, inverse = np.unique(s, return_inverse=True)
    of_positives = np.bincount(inverse[p], minlength=len(values))
    of_negatives = np.bincount(inverse[~p], minlength=len(values))
    below = np.cumsum(of_negatives) - of_negatives
    pairs = max(int(p.sum()) * int((~p).sum()), 1)
    return float((of_positives * (below + of_negatives / 2)).sum() / pairs)
