"""Baselines that any result must be printed beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moviescenes.grouping import normalised, shot_similarity
from moviescenes.segment import cosine_scores

__all__ = ["Baseline", "cosine_window", "random_guess", "shot_length", "similarity_of", "sweep"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


class Baseline(NamedTuple):
    """What a baseline says of a film.

    Args:
        scores: (n - 1,) from 0 to 1.
        decisions: (n - 1,) which boundaries it cuts.
    """

    scores: Floats
    decisions: Labels


def random_guess(shots: int, seed: int = 0) -> Baseline:
    """A uniform number for each boundary, cut above a half.

    >>> random_guess(4).scores.shape
    (3,)
    """
    scores = np.random.default_rng([seed, 11]).random(max(0, shots - 1))
    return Baseline(scores, scores > 0.5)


def shot_length(table: npt.ArrayLike) -> Baseline:
    """The length of the shot before each boundary: long shots end scenes.

    Args:
        table: (n, 2) first and last frames, last inclusive.

    >>> shot_length([[0, 9], [10, 29], [30, 39]]).scores.tolist()
    [0.5, 1.0]
    """
    frames = np.asarray(table, np.int64)
    lengths = (frames[:-1, 1] - frames[:-1, 0] + 1).astype(float)
    scores = lengths / max(1.0, lengths.max(initial=1.0))
    return Baseline(scores, scores > scores.mean() + scores.std() if len(scores) else scores > 1)


def cosine_window(features: Mapping[str, npt.ArrayLike], window: int = 2) -> Baseline:
    """One minus the cosine of the mean shots before and after; cut above mean plus deviation."""
    scores = cosine_scores(features, window, centre=False)
    return Baseline(scores, scores > scores.mean() + scores.std() if len(scores) else scores > 1)


def similarity_of(features: Mapping[str, npt.ArrayLike]) -> Floats:
    """Weighted sum of cosines of all pairs of shots (n, n)."""
    return shot_similarity(normalised(features))


def sweep(shots: int, count: int = 24) -> list[int]:
    """Numbers of scenes from n/40 to n/4, evenly spaced in their logarithm.

    >>> sweep(80)[0], sweep(80)[-1]
    (2, 20)
    """
    low, high = max(2.0, shots / 40), max(2.0, shots / 4)
    return sorted({min(shots, round(k)) for k in np.geomspace(low, high, count).tolist()})
