"""Checked NumPy inputs: dtypes are verified, not cast silently; layout is made contiguous once."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "array",
    "column",
    "finite",
    "frame_offsets",
    "frame_overlaps",
    "offsets",
    "raise_not_finite",
    "suffix",
]

_SUFFIXES = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}


def array(op: str, name: str, value: object, dtype: Any, ndim: int) -> NDArray[Any]:
    """Return value as a C-contiguous array of exactly this dtype.

    Plain Python sequences are converted; arrays of another dtype are refused.

    Raises:
        TypeError: another dtype.
        ValueError: another number of dimensions.
    """
    given = value if isinstance(value, np.ndarray) else np.asarray(value, dtype=dtype)
    if given.dtype != np.dtype(dtype):
        raise TypeError(f"{op}: {name}: got {given.dtype}; expected {np.dtype(dtype)}")
    if given.ndim != ndim:
        raise ValueError(f"{op}: {name}: got shape {given.shape}; expected {ndim} dimension(s)")
    return np.ascontiguousarray(given)


def offsets(op: str, name: str, value: object, rows: int) -> NDArray[np.int64]:
    """Return first rows of consecutive groups and the end of the last, checked against the number of rows.

    Raises:
        TypeError: not int64.
        ValueError: decreasing, or not from 0 to rows.
    """
    result = array(op, name, value, np.int64, 1)
    fits = len(result) > 0 and result[0] == 0 and result[-1] == rows and bool((np.diff(result) >= 0).all())
    if not fits:
        raise ValueError(f"{op}: {name}: expected non-decreasing offsets from 0 to {rows}")
    return result


def column(op: str, name: str, value: object, rows: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Return value as a checked array of one entry per row.

    Raises:
        TypeError: another dtype.
        ValueError: another number of entries or dimensions.
    """
    result = array(op, name, value, dtype, 1)
    if len(result) != rows:
        raise ValueError(f"{op}: {name}: got {len(result)} entries; expected {rows}")
    return result


def finite(op: str, name: str, value: NDArray[Any]) -> NDArray[Any]:
    """Return value when all its entries are finite.

    Raises:
        ValueError: the first row that is not finite.
    """
    good = np.isfinite(value)
    if not good.all():
        raise_not_finite(op, name, int(np.argwhere(~good)[0, 0]))
    return value


def frame_offsets(
    op: str, det_offsets: object, gt_offsets: object, detections: int, truths: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first detection and the first ground truth of each frame, and the ends, checked.

    Raises:
        TypeError: not int64.
        ValueError: decreasing, not from 0 to the number of rows, or not of equally many frames.
    """
    det_rows = offsets(op, "det_offsets", det_offsets, detections)
    gt_rows = offsets(op, "gt_offsets", gt_offsets, truths)
    if len(det_rows) != len(gt_rows):
        raise ValueError(
            f"{op}: gt_offsets: got {len(gt_rows)} entries; expected {len(det_rows)}, one per frame + 1"
        )
    return det_rows, gt_rows


def frame_overlaps(
    op: str, value: object, det_rows: NDArray[np.int64], gt_rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the flat blocks (detections, ground truth) of all frames, checked against their sizes.

    Raises:
        TypeError: not float64.
        ValueError: another number of entries.
    """
    flat = array(op, "overlaps", value, np.float64, 1)
    entries = int((np.diff(det_rows) * np.diff(gt_rows)).sum())
    if len(flat) != entries:
        raise ValueError(
            f"{op}: overlaps: got {len(flat)} entries; expected {entries}, detections x truths per frame"
        )
    return flat


def suffix(op: str, name: str, value: NDArray[Any]) -> str:
    """Return which build of a kernel serves this floating-point array.

    Raises:
        TypeError: neither float32 nor float64.
    """
    found = _SUFFIXES.get(value.dtype)
    if found is None:
        raise TypeError(f"{op}: {name}: got {value.dtype}; expected float32 or float64")
    return found


def raise_not_finite(op: str, name: str, row: int) -> NoReturn:
    """Raise for content that a kernel refused."""
    raise ValueError(f"{op}: {name}: row {row} is not finite; expected finite numbers")
