"""Checked NumPy inputs: dtypes are verified, not cast silently; layout is made contiguous once."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["array", "offsets", "raise_not_finite", "suffix"]

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
