"""Greedy matching of detections to ground truth: nuScenes, Pascal VOC, COCO, and plain best-first pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.host._arrays import array, column, finite, frame_offsets, frame_overlaps
from tenfold.host._backend import call

__all__ = [
    "COCO_THRESHOLDS",
    "CocoMatches",
    "NuscenesMatches",
    "VocMatches",
    "greedy_assign",
    "match_coco",
    "match_nuscenes",
    "match_voc",
]

#: Overlaps at which COCO averages: 0.5, 0.55, ... 0.95.
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class NuscenesMatches:
    """Matches of D detections at T thresholds.

    Args:
        order: (D,) detections as they were served: by descending score, of equals the later first.
        match: (T, D) row of the ground truth that each detection took, or -1; by row, not by order.
        distance: (T, D) metres between the two centres; infinity without a match.
    """

    order: Rows
    match: Rows
    distance: Floats


@dataclass(frozen=True)
class VocMatches:
    """Matches of D detections.

    Args:
        order: (D,) detections by descending score, of equals the earlier first.
        match: (D,) row of the ground truth that the detection overlaps most and enough, or -1; by row.
        state: (D,) int8: 1 right, 0 wrong, -1 neither, since the object is difficult.
    """

    order: Rows
    match: Rows
    state: NDArray[np.int8]


@dataclass(frozen=True)
class CocoMatches:
    """Matches of D detections at T thresholds.

    Args:
        order: (D,) detections by descending score, of equals the earlier first.
        rank: (D,) place of each detection among those of its frame, from 0. Detections from a rank on can be
            left out afterwards: they never change what the ones before them took.
        match: (T, D) row of the ground truth, or -1; by row.
        ignored: (T, D) the match is an ignored ground truth.
    """

    order: Rows
    rank: Rows
    match: Rows
    ignored: NDArray[np.bool_]


def _thresholds(op: str, value: Sequence[float] | Floats) -> Floats:
    return finite(op, "thresholds", array(op, "thresholds", np.asarray(value, np.float64), np.float64, 1))


def _scores(op: str, value: object) -> Floats:
    return finite(op, "det_score", array(op, "det_score", value, np.float64, 1))


def _centres(op: str, name: str, value: object) -> Floats:
    centres = array(op, name, value, np.float64, 2)
    if centres.shape[1] != 2:
        raise ValueError(f"{op}: {name}: got shape {centres.shape}; expected (N, 2)")
    return finite(op, name, centres)


def _flags(op: str, name: str, value: object, rows: int) -> NDArray[np.uint8]:
    return column(op, name, value, rows, np.bool_).view(np.uint8)


def _descending(score: Floats) -> Rows:
    return np.argsort(-score, kind="stable").astype(np.int64)


def match_nuscenes(
    det_offsets: object,
    gt_offsets: object,
    det_xy: object,
    gt_xy: object,
    det_score: object,
    thresholds: Sequence[float] | Floats = (0.5, 1.0, 2.0, 4.0),
) -> NuscenesMatches:
    """Match detections of one class to ground truth as the nuScenes detection benchmark does.

    By descending score over all frames, each detection takes the nearest free ground truth of its frame if the
    distance of the centres on the ground is strictly below the threshold. Thresholds are independent of each
    other.

    Args:
        det_offsets: (F + 1,) int64, first detection of each frame, and D.
        gt_offsets: (F + 1,) int64, first ground truth of each frame, and G.
        det_xy: (D, 2) float64 centres on the ground, metres.
        gt_xy: (G, 2) float64.
        det_score: (D,) float64. Of equal scores the later detection is served first.
        thresholds: (T,) metres.

    Raises:
        ValueError: sizes that do not fit each other, or values that are not finite.
        TypeError: arrays of another dtype.

    Source: the nuScenes detection task ("average precision metric").

    Example:
        >>> one = match_nuscenes([0, 2], [0, 1], [[0.0, 0], [0.4, 0]], [[0.5, 0.0]], [0.9, 0.8], [0.5, 1.0])
        >>> one.match.tolist()
        [[-1, 0], [0, -1]]
    """
    op = "match_nuscenes"
    det, gt = _centres(op, "det_xy", det_xy), _centres(op, "gt_xy", gt_xy)
    det_rows, gt_rows = frame_offsets(op, det_offsets, gt_offsets, len(det), len(gt))
    score = finite(op, "det_score", column(op, "det_score", det_score, len(det)))
    levels = _thresholds(op, thresholds)
    order = np.argsort(score, kind="stable")[::-1].astype(np.int64)
    match = np.empty((len(levels), len(det)), np.int64)
    distance = np.empty((len(levels), len(det)), np.float64)
    frames = len(det_rows) - 1
    call("nuscenes", frames, det_rows, gt_rows, det, gt, order, len(levels), levels, match, distance)
    return NuscenesMatches(order, match, distance)


def match_voc(
    det_offsets: object,
    gt_offsets: object,
    overlaps: object,
    det_score: object,
    difficult: object,
    min_overlap: float = 0.5,
    *,
    inclusive: bool = True,
) -> VocMatches:
    """Match detections of one class to ground truth as the Pascal VOC benchmark does.

    By descending score, each detection looks only at the ground truth of its frame that it overlaps most. It is
    right if that overlap is enough and the object is still free, wrong if the object was taken before or nothing
    overlaps enough, and neither if the object is difficult.

    Args:
        det_offsets: (F + 1,) int64, first detection of each frame, and D.
        gt_offsets: (F + 1,) int64, first ground truth of each frame, and G.
        overlaps: flat float64: frame after frame, row-major (detections, ground truth), as `box_iou_frames`
            returns them.
        det_score: (D,) float64. Of equal scores the earlier detection is served first.
        difficult: (G,) bool.
        min_overlap: of a match.
        inclusive: whether an overlap of exactly ``min_overlap`` is enough. The benchmark's own code says yes,
            well-known copies in Python and the 3D indoor evaluations say no.

    Raises:
        ValueError: sizes that do not fit each other, or values that are not finite.
        TypeError: arrays of another dtype.

    Source: Everingham et al., The Pascal Visual Object Classes Challenge (2010), section 4.2.

    Example:
        >>> two = match_voc([0, 2], [0, 1], [0.6, 0.9], [0.8, 0.7], [False])
        >>> two.state.tolist()
        [1, 0]
    """
    op = "match_voc"
    score = _scores(op, det_score)
    hard = array(op, "difficult", difficult, np.bool_, 1)
    det_rows, gt_rows = frame_offsets(op, det_offsets, gt_offsets, len(score), len(hard))
    flat = finite(op, "overlaps", frame_overlaps(op, overlaps, det_rows, gt_rows))
    order = _descending(score)
    match, state = np.empty(len(score), np.int64), np.empty(len(score), np.int8)
    call(
        *("voc", len(det_rows) - 1, det_rows, gt_rows, flat, order, hard.view(np.uint8)),
        *(float(min_overlap), int(inclusive), match, state),
    )
    return VocMatches(order, match, state)


def match_coco(
    det_offsets: object,
    gt_offsets: object,
    overlaps: object,
    det_score: object,
    gt_ignored: object,
    gt_crowd: object,
    thresholds: Sequence[float] | Floats = COCO_THRESHOLDS,
) -> CocoMatches:
    """Match detections of one class to ground truth as the COCO benchmark does.

    By descending score, each detection takes the free ground truth that it overlaps most, of equals the last;
    one that is ignored only where no counting one overlaps enough. A crowd can be taken again and again.
    Thresholds are independent of each other. Areas and crowds are the caller's: mark ground truth outside an
    area range as ignored, give the intersection over the detection's area as overlap with a crowd, and leave
    out unmatched detections outside the range.

    Args:
        det_offsets: (F + 1,) int64, first detection of each frame, and D.
        gt_offsets: (F + 1,) int64, first ground truth of each frame, and G.
        overlaps: flat float64: frame after frame, row-major (detections, ground truth), as `box_iou_frames`
            returns them.
        det_score: (D,) float64. Of equal scores the earlier detection is served first.
        gt_ignored: (G,) bool; crowds are ignored too.
        gt_crowd: (G,) bool.
        thresholds: (T,) least overlaps, inclusive.

    Raises:
        ValueError: sizes that do not fit each other, or values that are not finite.
        TypeError: arrays of another dtype.

    Source: Lin et al., Microsoft COCO (2014), and the benchmark's published evaluation.

    Example:
        >>> m = match_coco([0, 2], [0, 2], [0.6, 0.7, 0.6, 0.9], [0.8, 0.7], [False] * 2, [False] * 2, [0.5])
        >>> m.match.tolist()
        [[1, 0]]
    """
    op = "match_coco"
    score = _scores(op, det_score)
    ignored = array(op, "gt_ignored", gt_ignored, np.bool_, 1)
    det_rows, gt_rows = frame_offsets(op, det_offsets, gt_offsets, len(score), len(ignored))
    crowd = _flags(op, "gt_crowd", gt_crowd, len(ignored))
    flat = finite(op, "overlaps", frame_overlaps(op, overlaps, det_rows, gt_rows))
    levels = _thresholds(op, thresholds)
    order = _descending(score)
    match = np.empty((len(levels), len(score)), np.int64)
    forgiven = np.empty((len(levels), len(score)), np.uint8)
    hidden = (ignored | (crowd != 0)).view(np.uint8)
    call(
        *("coco", len(det_rows) - 1, det_rows, gt_rows, flat, order, hidden, crowd),
        *(len(levels), levels, match, forgiven),
    )
    return CocoMatches(order, _ranks(order, det_rows), match, forgiven.view(np.bool_))


def _ranks(order: Rows, det_rows: Rows) -> Rows:
    """(D,) place of each detection among those of its frame, when ``order`` serves them."""
    frame = np.repeat(np.arange(len(det_rows) - 1), np.diff(det_rows))
    grouped = order[np.argsort(frame[order], kind="stable")]
    rank = np.empty(len(order), np.int64)
    rank[grouped] = np.arange(len(order)) - det_rows[frame[grouped]]
    return rank


def greedy_assign(score: object, min_score: float = -np.inf) -> Rows:
    """Pair rows with columns, best score first, each at most once.

    Args:
        score: (N, M) float64. Of equal scores the lowest row goes first, then the lowest column.
        min_score: pairs below it are never made.

    Returns:
        (N,) int64 column of each row, or -1.

    Raises:
        ValueError: another shape, or NaN.
        TypeError: another dtype.

    Example:
        >>> greedy_assign([[0.9, 0.8], [0.7, 0.1], [0.6, 0.5]], min_score=0.3).tolist()
        [0, -1, 1]
    """
    op = "greedy_assign"
    scores = array(op, "score", score, np.float64, 2)
    if np.isnan(scores).any():
        raise ValueError(f"{op}: score: row {int(np.argwhere(np.isnan(scores))[0, 0])} holds NaN")
    match = np.empty(len(scores), np.int64)
    call("greedy_assign", *scores.shape, scores, float(min_score), match)
    return match
