"""Protocols of the comparison: few examples of each class, and wrong labels; both fixed by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.io import field, read_json, write_json

__all__ = ["few_shot_indices", "noisy_labels", "read_indices", "write_indices"]

Ints = npt.NDArray[np.int64]


def few_shot_indices(labels: Sequence[int] | npt.ArrayLike, ratio: float, seed: int = 0) -> Ints:
    """Indices of a class-stratified subset, in ascending order.

    Of a class with n images ``round(ratio n)`` stay, at least one. Subsets of different ratios are drawn
    independently: a smaller one need not lie in a larger one.

    Args:
        labels: ``(N,)``.
        ratio: share to keep, in (0, 1].
        seed: of the draw.

    Raises:
        ValueError: a ratio outside (0, 1].

    >>> few_shot_indices([0, 0, 0, 0, 1, 1], 0.5).tolist()
    [1, 3, 4]
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"few_shot_indices: ratio: got {ratio}; expected a number in (0, 1]")
    values = np.asarray(labels, dtype=np.int64)
    chosen = []
    for label in np.unique(values):
        members = np.flatnonzero(values == label)
        count = max(1, round(ratio * len(members)))
        rng = np.random.default_rng([seed, int(label), round(ratio * 1_000_000)])
        chosen.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(chosen)) if chosen else values[:0]


def noisy_labels(
    labels: Sequence[int] | npt.ArrayLike, ratio: float, num_classes: int, seed: int = 0
) -> Ints:
    """Labels of which exactly ``round(ratio n)`` in every class are replaced by a uniformly drawn other one.

    Args:
        labels: ``(N,)``.
        ratio: share to replace, in [0, 1].
        num_classes: classes to draw from.
        seed: of the draw.

    Raises:
        ValueError: a ratio outside [0, 1], or a single class.

    >>> noisy_labels([0, 0, 1, 1], 0.5, 2).tolist().count(0)
    2
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"noisy_labels: ratio: got {ratio}; expected a number in [0, 1]")
    if num_classes < 2 and ratio > 0:
        raise ValueError(f"noisy_labels: num_classes: got {num_classes}; expected at least 2")
    clean = np.asarray(labels, dtype=np.int64)
    noisy = clean.copy()
    for label in np.unique(clean):
        members = np.flatnonzero(clean == label)
        rng = np.random.default_rng([seed, int(label), round(ratio * 1_000_000)])
        flipped = rng.permutation(members)[: round(ratio * len(members))]
        noisy[flipped] = (label + rng.integers(1, num_classes, len(flipped))) % num_classes
    return noisy


def write_indices(path: Any, indices: Ints, **facts: Any) -> None:
    """Write a subset beside a checkpoint as JSON, with facts such as ``ratio`` and ``seed``."""
    write_json(path, {**facts, "indices": [int(k) for k in indices]}, indent=None)


def read_indices(path: Any, images: int) -> Ints:
    """Inverse of `write_indices`.

    Raises:
        UserInputError: damaged, or an index outside a data set of this many images.
    """
    found = field(read_json(path), "indices", list, path=path)
    if not all(isinstance(k, int) and 0 <= k < images for k in found):
        raise UserInputError(f"{path}: indices: expected whole numbers from 0 to {images - 1}")
    return np.array(found, dtype=np.int64)
