"""The paper's four metrics and their relatives; NumPy only.

Boundary i lies after shot i: a film of n shots has labels ``y`` and scores ``p`` of length n - 1 and a table of
first and last frames (n, 2), last inclusive. Decisions are p > 0.5 unless given.

Two modes. "strict": scenes are half-open intervals of frames, the last scene counts, unions are true unions.
"compat": as the released code has it: lengths without the last frame, unions as hulls, shots after the last
boundary dropped, 24 frames a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from tenfold.host import average_precision as host_precision

__all__ = [
    "average_precision",
    "coverage_overflow",
    "evaluate",
    "evaluate_films",
    "miou",
    "recall",
    "recall_at_3s",
    "scene_intervals",
]

Mode = Literal["strict", "compat"]
Labels = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Table = npt.NDArray[np.int64]


def average_precision(y: npt.ArrayLike, p: npt.ArrayLike) -> float:
    """Sum over distinct scores, descending, of the step of recall times precision; equal scores enter together.

    Returns:
        0 to 1; NaN without a positive.

    >>> average_precision([0, 1, 1], [0.1, 0.9, 0.4])
    1.0
    """
    right = np.asarray(y).astype(bool)
    return host_precision(np.asarray(p, np.float64), right, kind="step")


def recall(y: npt.ArrayLike, z: npt.ArrayLike) -> float:
    """Share of true boundaries that were decided to be; NaN without one.

    >>> recall([1, 0, 1], [1, 1, 0])
    0.5
    """
    truth, found = np.asarray(y).astype(bool), np.asarray(z).astype(bool)
    return float((truth & found).sum() / truth.sum()) if truth.any() else float("nan")


def scene_intervals(z: npt.ArrayLike, shots: npt.ArrayLike, mode: Mode = "strict") -> Table:
    """Scenes as intervals of frames (K, 2).

    Args:
        z: (n - 1,) decisions.
        shots: (n, 2) first and last frames, last inclusive.
        mode: "strict" has half-open ends and all scenes; "compat" inclusive ends and none after the last boundary.

    >>> scene_intervals([0, 1], [[0, 9], [10, 19], [20, 29]]).tolist()
    [[0, 20], [20, 30]]
    """
    table, cuts = np.asarray(shots, np.int64), np.flatnonzero(np.asarray(z).astype(bool))
    ends = np.append(cuts, len(table) - 1) if mode == "strict" else cuts
    starts = np.concatenate(([0], cuts + 1))[: len(ends)]
    extra = 1 if mode == "strict" else 0
    return (
        np.stack((table[starts, 0], table[ends, 1] + extra), 1) if len(ends) else np.zeros((0, 2), np.int64)
    )


def miou(y: npt.ArrayLike, z: npt.ArrayLike, shots: npt.ArrayLike, mode: Mode = "strict") -> float:
    """Mean over true scenes of the best overlap with a found one, and the other way round; mean of both.

    >>> table = [[10 * k, 10 * k + 9] for k in range(6)]
    >>> round(miou([0, 1, 0, 1, 0], [0, 1, 0, 0, 0], table), 4), miou([0, 1, 0, 1, 0], [0, 1, 0, 0, 0], table, "compat")
    (0.7083, 0.75)
    """
    truth, found = (scene_intervals(one, shots, mode) for one in (y, z))
    if not len(truth) or not len(found):
        return 0.0
    low, high = (pick(truth[:, None, k], found[None, :, k]) for k, pick in ((0, np.maximum), (1, np.minimum)))
    inter = np.maximum(0, high - low).astype(float)
    lengths = [(one[:, 1] - one[:, 0]).astype(float) for one in (truth, found)]
    if mode == "strict":
        union = lengths[0][:, None] + lengths[1][None] - inter
    else:
        union = (
            np.maximum(truth[:, None, 1], found[None, :, 1])
            - np.minimum(truth[:, None, 0], found[None, :, 0])
        ).astype(float)
    overlap = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return float((overlap.max(1).mean() + overlap.max(0).mean()) / 2)


def recall_at_3s(
    y: npt.ArrayLike,
    z: npt.ArrayLike,
    shots: npt.ArrayLike,
    *,
    fps: float = 24.0,
    reach: int = 5,
    seconds: float = 3.0,
    one_to_one: bool = False,
) -> float:
    """Share of true boundaries with a found one at most `reach` shots and less than three seconds away.

    Args:
        y: (n - 1,) labels.
        z: (n - 1,) decisions.
        shots: (n, 2).
        fps: frames a second; the released code assumes 24.
        reach: shots to either side.
        seconds: strictly less than this.
        one_to_one: a found boundary serves one true one only.

    >>> recall_at_3s([1, 0], [0, 1], [[0, 9], [10, 80], [81, 90]])  # 71 frames apart
    0.99999...
    """
    truth = np.flatnonzero(np.asarray(y).astype(bool))
    if not len(truth):
        return float("nan")
    pairs = _near(truth, np.flatnonzero(np.asarray(z).astype(bool)), shots, fps, reach, seconds)
    hits = _matching(pairs) if one_to_one else int(pairs.any(1).sum())
    return hits / (len(truth) + 1e-5)


def _near(truth: Table, found: Table, shots: npt.ArrayLike, fps: float, reach: int, seconds: float) -> Labels:
    ends = np.asarray(shots, np.int64)[:, 1]
    gap = np.abs(ends[truth][:, None] - ends[found][None]) / fps
    near: Labels = (np.abs(truth[:, None] - found[None]) <= reach) & (gap < seconds)
    return near


def _matching(pairs: Labels) -> int:
    """Size of a largest matching of rows and columns."""
    taken: dict[int, int] = {}

    def serve(row: int, seen: set[int]) -> bool:
        for column in np.flatnonzero(pairs[row]).tolist():
            if column not in seen:
                seen.add(column)
                if column not in taken or serve(taken[column], seen):
                    taken[column] = row
                    return True
        return False

    return sum(serve(row, set()) for row in range(len(pairs)))


def coverage_overflow(y: npt.ArrayLike, z: npt.ArrayLike, shots: npt.ArrayLike) -> tuple[float, float]:
    """Coverage and overflow of Vendrig and Worring, in shots weighted by the true scenes' lengths.

    Coverage: the longest found scene inside a true scene, over its length. Overflow: shots of found scenes that
    overlap a true one and lie outside it, over the length of its two neighbours.

    >>> coverage_overflow([0, 1, 0], [0, 1, 0], [[0, 0], [1, 1], [2, 2], [3, 3]])
    (1.0, 0.0)
    """
    n = len(np.asarray(shots))

    def spans(one: npt.ArrayLike) -> list[tuple[int, int]]:
        edges = [0, *(np.flatnonzero(np.asarray(one).astype(bool)) + 1).tolist(), n]
        return list(itertools.pairwise(edges))

    truth, found = spans(y), spans(z)
    covered, spilled = 0.0, 0.0
    for k, (a, b) in enumerate(truth):
        over = [(c, d) for c, d in found if min(b, d) > max(a, c)]
        covered += max(min(b, d) - max(a, c) for c, d in over)
        around = sum(truth[m][1] - truth[m][0] for m in (k - 1, k + 1) if 0 <= m < len(truth))
        outside = sum((d - c) - (min(b, d) - max(a, c)) for c, d in over)
        spilled += (b - a) * min(1.0, outside / around if around else 0.0)
    return covered / n, spilled / n


def _auc(y: Labels, p: Floats) -> float:
    """Area below the receiver operating characteristic: the share of pairs in the right order, ties a half."""
    positive, negative = p[y], p[~y]
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.searchsorted(np.sort(negative), positive, "left")
    equal = np.searchsorted(np.sort(negative), positive, "right") - below
    return float((below + equal / 2).sum() / (len(positive) * len(negative)))


def _f1(truth: int, found: int, hits: int) -> float:
    return 2 * hits / (truth + found) if truth + found else 0.0


def _best_f1(y: Labels, p: Floats) -> float:
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(y[order])
    last = np.append(np.diff(p[order]) != 0, True)  # equal scores enter together
    counts = np.arange(1, len(p) + 1)
    return float((2 * hits / (counts + y.sum()))[last].max(initial=0.0)) if y.any() else 0.0


def evaluate(
    gt: npt.ArrayLike,
    scores: npt.ArrayLike,
    shots: npt.ArrayLike,
    mode: Mode = "strict",
    *,
    decisions: npt.ArrayLike | None = None,
    fps: float | None = None,
) -> dict[str, float]:
    """All metrics of one film.

    Args:
        gt: (n - 1,) labels 0 and 1; boundaries with another label (-1) are left out of AP, recall, precision,
            F1 and AUC and count as no boundary elsewhere.
        scores: (n - 1,) from 0 to 1; higher is surer. NaN counts as 0.
        shots: (n, 2) first and last frames, last inclusive.
        mode: see the module.
        decisions: (n - 1,) 0 and 1; scores > 0.5 by default.
        fps: of Recall@3s; 24 by default, as the released code assumes.

    Returns:
        ``ap, miou, recall, recall@3s, precision, f1, best_f1, f1@3s, auc, coverage, overflow``.

    Raises:
        ValueError: lengths that do not fit each other, or another mode.
    """
    label, p = np.asarray(gt), np.nan_to_num(np.asarray(scores, np.float64))
    table = np.asarray(shots, np.int64)
    if label.shape != p.shape or len(table) != len(p) + 1 or table.shape[1:] != (2,):
        raise ValueError(
            f"evaluate: got {label.shape} labels, {p.shape} scores and shots {table.shape};"
            " expected n - 1, n - 1 and (n, 2)"
        )
    if mode not in ("strict", "compat"):
        raise ValueError(f"evaluate: mode: got {mode!r}; expected 'strict' or 'compat'")
    known = (label == 0) | (label == 1)
    y = label == 1
    z = p > 0.5 if decisions is None else np.asarray(decisions).astype(bool)
    hits, truth, found = int((y & z)[known].sum()), int(y.sum()), int(z[known].sum())
    rate = 24.0 if fps is None else fps
    near = _near(np.flatnonzero(y), np.flatnonzero(z), table, rate, 5, 3.0)
    coverage, overflow = coverage_overflow(y, z, table)
    return {
        "ap": average_precision(y[known], p[known]),
        "miou": miou(y, z, table, mode),
        "recall": recall(y[known], z[known]),
        "recall@3s": recall_at_3s(y, z, table, fps=rate),
        "precision": hits / found if found else 0.0,
        "f1": _f1(truth, found, hits),
        "best_f1": _best_f1(y[known], p[known]),
        "f1@3s": _f1(truth, int(z.sum()), _matching(near)),
        "auc": _auc(y[known], p[known]),
        "coverage": coverage,
        "overflow": overflow,
    }


def evaluate_films(
    films: Iterable[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    mode: Mode = "strict",
    *,
    decisions: Sequence[npt.ArrayLike] | None = None,
    fps: Mapping[int, float] | None = None,
) -> dict[str, float]:
    """Means over films, films without a true boundary left out, and the pooled AP of all boundaries together.

    Args:
        films: (labels, scores, shots) of each.
        mode: see the module.
        decisions: of each film; scores > 0.5 by default.
        fps: number of a film -> its rate.

    Returns:
        The metrics of `evaluate`, and ``pooled_ap``.

    Raises:
        ValueError: no film has a boundary.
    """
    rows, pooled_y, pooled_p = [], [], []
    for k, (y, p, shots) in enumerate(films):
        label = np.asarray(y)
        if not (label == 1).any():
            continue
        chosen = None if decisions is None else decisions[k]
        rate = None if fps is None else fps.get(k)
        rows.append(evaluate(label, p, shots, mode, decisions=chosen, fps=rate))
        known = (label == 0) | (label == 1)
        pooled_y.append(label[known] == 1)
        pooled_p.append(np.nan_to_num(np.asarray(p, np.float64))[known])
    if not rows:
        raise ValueError("evaluate_films: films: none has a scene boundary")
    means = {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    means["pooled_ap"] = average_precision(np.concatenate(pooled_y), np.concatenate(pooled_p))
    return means
