"""Which shots belong to a boundary's clip, and which boundaries to a segment.

Boundary i lies between shots i and i + 1; a film of n shots has n - 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["average_segments", "clip_windows", "compat_segments", "segment_starts"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def clip_windows(boundaries: npt.ArrayLike, shots: int, half: int) -> Ints:
    """Shots around boundaries: `half` up to each, `half` after it; those beyond the film repeat its ends.

    Args:
        boundaries: (S,) numbers.
        shots: of the film.
        half: shots on each side.

    Returns:
        (S, 2 half) numbers of shots.

    >>> clip_windows([0, 4], 6, 2).tolist()
    [[0, 0, 1, 2], [3, 4, 5, 5]]
    """
    middle = np.asarray(boundaries, np.int64)[:, None]
    found: Ints = np.clip(middle + np.arange(1 - half, half + 1), 0, max(0, shots - 1))
    return found


def segment_starts(boundaries: int, length: int, stride: int) -> Ints:
    """First boundaries of overlapping segments that together hold every boundary.

    >>> segment_starts(23, 10, 5).tolist(), segment_starts(4, 10, 5).tolist()
    ([0, 5, 10, 13], [0])
    """
    last = max(0, boundaries - length)
    return np.unique(np.append(np.arange(0, last + 1, max(1, stride)), last)).astype(np.int64)


def compat_segments(shots: int, half: int, length: int) -> Ints:
    """First boundaries of the released code's segments: disjoint, and only whole ones with whole windows.

    >>> compat_segments(26, 2, 10).tolist()
    [1, 11]
    """
    first, last = half - 1, shots - half  # boundary first is the first with `half` shots up to it
    return np.arange(first, last - length + 1, length, dtype=np.int64)


def average_segments(values: Floats, starts: Ints, boundaries: int, combine: str = "mean") -> Floats:
    """One value for each boundary from overlapping segments.

    Args:
        values: (segments, length).
        starts: (segments,) first boundaries.
        boundaries: of the film.
        combine: "mean", or "central-half": a segment's outer quarters count only where nothing else speaks.

    Returns:
        (boundaries,); NaN where no segment speaks.

    Raises:
        ValueError: another word than these two.

    >>> average_segments(np.array([[1.0, 2], [4, 5]]), np.array([0, 1]), 3).tolist()
    [1.0, 3.0, 5.0]
    """
    if combine not in ("mean", "central-half"):
        raise ValueError(f"average_segments: combine: got {combine!r}; expected 'mean' or 'central-half'")
    length = values.shape[1]
    weight = np.ones(length)
    if combine == "central-half":
        weight[: length // 4] = weight[length - length // 4 :] = 1e-9
    total, count = np.zeros(boundaries), np.zeros(boundaries)
    for start, row in zip(starts, values, strict=True):
        total[start : start + length] += row * weight
        count[start : start + length] += weight
    found: Floats = np.divide(total, count, out=np.full(boundaries, np.nan), where=count > 0)
    return found
