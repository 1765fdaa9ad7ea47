"""The best cut of a sequence into groups of neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.host._arrays import array, finite
from tenfold.host._backend import call

__all__ = ["Grouping", "grouping_gains", "optimal_grouping", "optimal_partition"]

Floats = NDArray[np.float64]


class Grouping(NamedTuple):
    """A sequence cut into K groups.

    Args:
        starts: (K,) int64, first item of each group; the first is 0.
        value: sum of what the groups are worth.
    """

    starts: NDArray[np.int64]
    value: float


def _square(op: str, name: str, value: object) -> Floats:
    square = array(op, name, value, np.float64, 2)
    if square.shape[0] != square.shape[1]:
        raise ValueError(f"{op}: {name}: got shape {square.shape}; expected (N, N)")
    return finite(op, name, square)


def grouping_gains(similarity: object) -> Floats:
    """What every group of neighbouring items is worth for `optimal_grouping`.

    In a group of two or more, each item adds its mean similarity to the others of the group and the logistic
    function of the largest of these similarities; a group of one is worth 0.

    Args:
        similarity: (N, N) float64; the diagonal is not read.

    Returns:
        (N, N) float64: entry (a, b) is the group of items a..b, both inclusive; 0 below the diagonal.

    Raises:
        ValueError: another shape, or values that are not finite.
        TypeError: another dtype.

    Source: Rao et al., A Local-to-Global Approach to Multi-modal Movie Scene Segmentation (2020), equations of
    the optimal grouping.

    Example:
        >>> grouping_gains([[1.0, 0.5], [0.5, 1.0]]).round(4).tolist()
        [[0.0, 2.2449], [0.0, 0.0]]
    """
    square = _square("grouping_gains", "similarity", similarity)
    gain = np.empty_like(square)
    call("grouping_gains", len(square), square, gain)
    return gain


def optimal_partition(gain: object, k_lo: int, k_hi: int, *, tie: float = 0.0) -> Grouping:
    """Cut N items into k_lo to k_hi groups of neighbours with the largest sum of gains.

    Args:
        gain: (N, N) float64: entry (a, b) is what the group a..b, both inclusive, is worth. Entries below the
            diagonal are not used.
        k_lo: least number of groups.
        k_hi: largest number of groups; values above N mean N.
        tie: differences up to this are ties: fewer groups win, then the earlier start of the last group, of the
            one before it, and so on.

    Raises:
        ValueError: another shape, values that are not finite, no items, or bounds that leave no number of groups.
        TypeError: another dtype.

    Example:
        >>> optimal_partition([[0.0, 3, 4], [0, 0, 2], [0, 0, 1]], 1, 3)
        Grouping(starts=array([0]), value=4.0)
        >>> optimal_partition([[0.0, 3, 4], [0, 0, 2], [0, 0, 1]], 2, 3)
        Grouping(starts=array([0, 2]), value=4.0)
    """
    op = "optimal_partition"
    square = _square(op, "gain", gain)
    n = len(square)
    if n == 0:
        raise ValueError(f"{op}: gain: got shape (0, 0); expected at least one item")
    most = min(int(k_hi), n)
    if not 1 <= k_lo <= most:
        raise ValueError(
            f"{op}: k_lo: got {k_lo} and k_hi {k_hi} for {n} items; expected 1 <= k_lo <= k_hi, N"
        )
    if not 0.0 <= tie < np.inf:
        raise ValueError(f"{op}: tie: got {tie}; expected a finite number >= 0")
    starts, value = np.empty(most, np.int64), np.empty(1)
    groups = call("partition", n, square, int(k_lo), most, float(tie), starts, value)
    return Grouping(starts[:groups].copy(), float(value[0]))


def optimal_grouping(similarity: object, k_lo: int, k_hi: int) -> Grouping:
    """Cut N items into k_lo to k_hi groups of neighbours that are similar within: the movie level of scenes.

    Args:
        similarity: (N, N) float64, e.g. cosines of super shots; the diagonal is not read.
        k_lo: least number of groups.
        k_hi: largest number of groups; values above N mean N.

    Returns:
        The partition with the largest sum of `grouping_gains`. Sums within 1e-9 N of each other are ties: fewer
        groups win, then the earlier start of the last group, of the one before it, and so on.

    Raises:
        ValueError: another shape, values that are not finite, no items, or bounds that leave no number of groups.
        TypeError: another dtype.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
        >>> optimal_grouping(blocks, 2, 4).starts
        array([0, 3])
    """
    square = _square("optimal_grouping", "similarity", similarity)
    return optimal_partition(grouping_gains(square), k_lo, k_hi, tie=1e-9 * len(square))
