"""Average precision of ranked detections."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tenfold.host._arrays import array, column, finite
from tenfold.host._backend import call

__all__ = ["average_precision"]

_KINDS = {"step": (0, 0), "area": (1, 0), "11": (2, 11), "101": (2, 101)}


def average_precision(
    score: object,
    right: object,
    positives: int | None = None,
    *,
    kind: Literal["step", "area", "11", "101"] = "area",
) -> float:
    """Average precision of detections or decisions ranked by score.

    Args:
        score: (N,) float64; higher is surer. Equal scores keep their order, except for "step".
        right: (N,) bool: whether each is a true positive. Leave out those that are neither right nor wrong.
        positives: number of true objects, found or not. None means that all are among ``right``.
        kind: "step" sums recall step times precision with equal scores taken together (information retrieval);
            "area" is the area below the precision made monotone (VOC from 2010 on); "11" and "101" are the mean
            of that precision at 11 or 101 evenly spaced recalls (VOC 2007, COCO).

    Returns:
        A number from 0 to 1; NaN where there is no positive.

    Raises:
        ValueError: sizes that do not fit each other, fewer positives than right ones, or scores that are not
            finite.
        TypeError: arrays of another dtype.

    Example:
        >>> average_precision([0.9, 0.8, 0.7], [True, False, True], 2)
        0.8333333333333333
    """
    op = "average_precision"
    scores = finite(op, "score", array(op, "score", score, np.float64, 1))
    good = column(op, "right", right, len(scores), np.bool_)
    found = int(good.sum())
    total = found if positives is None else int(positives)
    if kind not in _KINDS:
        raise ValueError(f"{op}: kind: got {kind!r}; expected one of 'step', 'area', '11', '101'")
    if total < found:
        raise ValueError(f"{op}: positives: got {total}; expected at least {found}, the number of right ones")
    if total == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    number, points = _KINDS[kind]
    value = np.empty(1)
    call(
        *("average_precision", len(scores), good[order].view(np.uint8), scores[order], total, number, points),
        *(np.linspace(0.0, 1.0, points), value),
    )
    return float(value[0])
