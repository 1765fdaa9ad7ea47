"""Matching loops of the KITTI metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.host._arrays import array, column, frame_offsets, frame_overlaps
from tenfold.host._backend import call

__all__ = ["KittiCounts", "match_kitti", "match_kitti_scores"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class KittiCounts:
    """Counts at each score threshold (T,).

    Args:
        true_positives: matched ground truth.
        false_positives: detections without ground truth, not forgiven by a DontCare box.
        misses: ground truth without a detection.
        similarity: sum over the true positives of (1 + cos(difference of alpha)) / 2.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    misses: NDArray[np.int64]
    similarity: Floats


def _frames(
    op: str, det_offsets: object, gt_offsets: object, overlaps: object, det_state: object, gt_state: object
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, NDArray[np.int8], NDArray[np.int8]]:
    det = array(op, "det_state", det_state, np.int8, 1)
    gt = array(op, "gt_state", gt_state, np.int8, 1)
    det_rows, gt_rows = frame_offsets(op, det_offsets, gt_offsets, len(det), len(gt))
    return det_rows, gt_rows, frame_overlaps(op, overlaps, det_rows, gt_rows), det, gt


def match_kitti_scores(
    det_offsets: object,
    gt_offsets: object,
    overlaps: object,
    det_state: object,
    gt_state: object,
    det_score: object,
    min_overlap: float,
) -> Floats:
    """Scores of the true positives of the KITTI evaluation when every detection counts.

    Ground truth is visited in order; each takes the free detection with the highest score among those whose
    overlap is strictly greater than ``min_overlap``. Recall-spaced thresholds are chosen from these scores.

    Args:
        det_offsets: (F+1,) first detection of each frame.
        gt_offsets: (F+1,) first ground truth of each frame.
        overlaps: frame after frame, the row-major (detections, ground truth) overlaps.
        det_state: (D,) 0 counts, 1 ignored, -1 of another class.
        gt_state: (G,) likewise.
        det_score: (D,).
        min_overlap: e.g. 0.7 for cars.

    Returns:
        (n,) scores, frame after frame, in ground-truth order.

    Raises:
        ValueError: sizes that do not fit each other.
        TypeError: arrays of another kind.
    """
    op = "match_kitti_scores"
    det_rows, gt_rows, flat, det, gt = _frames(op, det_offsets, gt_offsets, overlaps, det_state, gt_state)
    score = column(op, "det_score", det_score, len(det))
    out = np.empty(len(gt), np.float64)
    frames = len(det_rows) - 1
    found = call("kitti_scores", frames, det_rows, gt_rows, flat, det, gt, score, float(min_overlap), out)
    return out[:found].copy()


def match_kitti(
    det_offsets: object,
    gt_offsets: object,
    overlaps: object,
    det_state: object,
    gt_state: object,
    det_score: object,
    det_alpha: object,
    gt_alpha: object,
    dontcare: object,
    min_overlap: float,
    thresholds: object,
) -> KittiCounts:
    """Count true positives, false positives and misses of the KITTI evaluation at each score threshold.

    Ground truth is visited in order; each takes the free detection (score at or above the threshold) with the
    highest overlap, an ignored detection only where no counting one overlaps enough.

    Args:
        det_offsets: (F+1,) first detection of each frame.
        gt_offsets: (F+1,) first ground truth of each frame.
        overlaps: frame after frame, the row-major (detections, ground truth) overlaps.
        det_state: (D,) 0 counts, 1 ignored, -1 of another class.
        gt_state: (G,) likewise.
        det_score: (D,).
        det_alpha: (D,) observation angles, radians.
        gt_alpha: (G,).
        dontcare: (D,) largest share of a detection's area inside a DontCare box; zeros where those have none.
        min_overlap: strict lower bound of a match's overlap.
        thresholds: (T,).

    Raises:
        ValueError: sizes that do not fit each other.
        TypeError: arrays of another kind.
    """
    op = "match_kitti"
    det_rows, gt_rows, flat, det, gt = _frames(op, det_offsets, gt_offsets, overlaps, det_state, gt_state)
    levels = array(op, "thresholds", thresholds, np.float64, 1)
    counts = np.empty((len(levels), 3), np.int64)
    similarity = np.empty(len(levels), np.float64)
    columns = (
        column(op, "det_score", det_score, len(det)),
        column(op, "det_alpha", det_alpha, len(det)),
        column(op, "gt_alpha", gt_alpha, len(gt)),
        column(op, "dontcare", dontcare, len(det)),
    )
    frames = len(det_rows) - 1
    call(
        *("kitti_counts", frames, det_rows, gt_rows, flat, det, gt, *columns),
        *(float(min_overlap), len(levels), levels, counts, similarity),
    )
    return KittiCounts(counts[:, 0].copy(), counts[:, 1].copy(), counts[:, 2].copy(), similarity)
