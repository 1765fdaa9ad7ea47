"""Checked NumPy inputs: dtypes are verified, not cast silently; layout is made contiguous once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["array"]


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
