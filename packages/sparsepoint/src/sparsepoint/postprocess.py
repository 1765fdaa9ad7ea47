"""From network outputs to lists of detections: no suppression unless it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepoint.models.output import Detections3D
from tenfold.geometry import box_corners
from tenfold.ops import nms_3d, points_in_boxes

__all__ = ["axis_aligned_hull", "dense_detections", "sparse_detections", "suppress"]

_LEAST_POINTS = 5


def _thresholds(value: float | Sequence[float], like: Tensor, classes: int) -> Tensor:
    levels = like.new_tensor(value)
    if levels.dim() > 1 or (levels.dim() == 1 and len(levels) != classes):
        raise ValueError(
            f"predict: score_thr: got {tuple(levels.shape)}; expected one number or {classes}, one for each class"
        )
    return levels.expand(classes)


def sparse_detections(
    logits: Tensor,
    boxes: Tensor,
    *,
    score_thr: float | Sequence[float] = 0.01,
    max_dets: int | None = None,
    single_label: bool = False,
    nms: float | None = None,
) -> list[Detections3D]:
    """The best (class, proposal) pairs of every scene; a box can appear under several classes.

    Args:
        logits: (B, K, C).
        boxes: (B, K, 7).
        score_thr: pairs must exceed it; one number, or one for each class.
        max_dets: pairs kept before the threshold; K by default.
        single_label: each box under its best class alone.
        nms: IoU above which boxes of one class suppress each other; None does nothing at all.

    Source: SRDet's code, inference.
    """
    classes = logits.shape[-1]
    levels = _thresholds(score_thr, logits, classes)
    number = logits.shape[1] if max_dets is None else max_dets
    results = []
    for scores, own in zip(logits.sigmoid(), boxes, strict=True):
        ranked = scores
        if single_label:
            ranked = torch.where(scores == scores.max(1, keepdim=True).values, scores, -1.0)
        order = torch.argsort(ranked.flatten(), descending=True, stable=True)[:number]
        proposal, label = order // classes, order % classes
        score = ranked.flatten()[order]
        kept = score > levels[label].clamp(min=0.0)
        found = Detections3D(own[proposal], score, label, proposal).pick(kept)
        results.append(suppress(found, nms))
    return results


def suppress(found: Detections3D, nms: float | None) -> Detections3D:
    """Class-wise suppression by the IoU of volumes; the same detections with None."""
    if nms is None:
        return found
    return found.pick(nms_3d(found.boxes, found.scores, nms, labels=found.labels))


def axis_aligned_hull(boxes: Tensor) -> Tensor:
    """Smallest boxes (N, 7) along the axes around boxes (N, 7).

    Example:
        >>> turned = torch.tensor([[0.0, 0, 0, 2, 1, 1, torch.pi * 5 / 180]])
        >>> axis_aligned_hull(turned)[0, 3:5].tolist()  # doctest: +ELLIPSIS
        [2.0795..., 1.1705...]
    """
    corners = box_corners(boxes)
    low, high = corners.amin(-2), corners.amax(-2)
    return torch.cat(((low + high) / 2, high - low, torch.zeros_like(boxes[..., :1])), -1)


def dense_detections(
    objectness: Tensor,
    classes: Tensor,
    boxes: Tensor,
    points: Tensor,
    *,
    score_thr: float | Sequence[float] = 0.05,
    single_label: bool = False,
    nms: float | None = 0.25,
) -> list[Detections3D]:
    """VoteNet's post-processing: boxes with five points, suppression ranked by objectness, every class of a survivor.

    Args:
        objectness: (B, Q, 2).
        classes: (B, Q, C) logits.
        boxes: (B, Q, 7).
        points: (B, N, 3) of the scenes.
        score_thr: objectness times class probability must exceed it.
        single_label: each box under its best class alone.
        nms: IoU of the axis-aligned hulls above which boxes of one class suppress each other; None leaves all.

    Source: VoteNet's evaluation.
    """
    number = classes.shape[-1]
    levels = _thresholds(score_thr, classes, number)
    results = []
    for obj, cls, own, cloud in zip(
        objectness.softmax(-1)[..., 1], classes.softmax(-1), boxes, points, strict=True
    ):
        inside = points_in_boxes(cloud, own, mode="mask", margin=0.0).sum(1) >= _LEAST_POINTS
        rows = inside.nonzero()[:, 0]
        if nms is not None:
            kept = nms_3d(axis_aligned_hull(own[rows]), obj[rows], nms, labels=cls[rows].argmax(1))
            rows = rows[kept]
        scores = obj[rows, None] * cls[rows]
        if single_label:
            scores = torch.where(cls[rows] == cls[rows].max(1, keepdim=True).values, scores, -1.0)
        row, label = (scores > levels.clamp(min=0.0)).nonzero(as_tuple=True)
        score = scores[row, label]
        order = torch.argsort(score, descending=True, stable=True)
        row, label = row[order], label[order]
        results.append(Detections3D(own[rows[row]], score[order], label, rows[row]))
    return results
