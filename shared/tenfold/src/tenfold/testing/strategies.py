"""Hypothesis strategies for the inputs on which kernels of this kind go wrong.

An array is drawn as a size, a few switches and a seed, so that examples of hundreds of points cost little;
hypothesis shrinks the size and turns the switches off.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38)
SCALES = (1.0, 1e-6, 1e-3, 1e3, 1e6)
KINDS = ("spread", "rounded", "repeated", "equal", "line", "offset")


@st.composite
def float_arrays(
    draw: st.DrawFn,
    *,
    columns: int | Sequence[int] = 3,
    max_rows: int = 300,
    min_rows: int = 0,
    dtypes: Sequence[Any] = (np.float32, np.float64),
    special: bool = True,
    scales: Sequence[float] = SCALES,
) -> npt.NDArray[np.floating[Any]]:
    """Float arrays (N, columns), or (N, *columns), with the values that break kernels.

    Each example may have rounded values (ties), repeated rows (duplicates), all rows equal, values along a
    line, an offset much larger than the extent, and, with `special`, NaN, infinities, signed zeros, denormals
    and huge values at a few places.

    Args:
        draw: given by hypothesis.
        columns: shape of a row.
        max_rows: largest N.
        min_rows: smallest N.
        dtypes: to choose from.
        special: whether non-finite and extreme values may appear.
        scales: typical sizes of the values, to choose from.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(deadline=None)
        ... @given(float_arrays(columns=2, max_rows=5, special=False))
        ... def check(points):
        ...     assert points.shape[1] == 2 and np.isfinite(points).all()
        >>> check()
    """
    row = (columns,) if isinstance(columns, int) else tuple(columns)
    return _floats(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        (draw(st.integers(min_rows, max_rows)), *row),
        dtype=draw(st.sampled_from(list(dtypes))),
        kind=draw(st.sampled_from(KINDS)),
        scale=draw(st.sampled_from(list(scales))),
        special=special and draw(st.booleans()),
    )


def random_floats(
    rng: np.random.Generator,
    columns: int | Sequence[int] = 3,
    *,
    rows: int | None = None,
    max_rows: int = 300,
    dtype: Any = np.float32,
    special: bool = False,
    scales: Sequence[float] = SCALES,
) -> npt.NDArray[np.floating[Any]]:
    """Arrays of the kinds of `float_arrays` from a NumPy generator: for fuzzing without hypothesis.

    Args:
        rng: decides everything.
        columns: shape of a row.
        rows: N, or None for a random one.
        max_rows: largest random N.
        dtype: of the result.
        special: whether non-finite and extreme values may appear.
        scales: typical sizes of the values, to choose from.

    Example:
        >>> random_floats(np.random.default_rng(0), 3, rows=5).shape
        (5, 3)
    """
    row = (columns,) if isinstance(columns, int) else tuple(columns)
    n = int(rng.integers(0, max_rows + 1)) if rows is None else rows
    kind, scale = str(rng.choice(KINDS)), float(rng.choice(np.array(scales)))
    return _floats(
        rng, (n, *row), dtype=dtype, kind=kind, scale=scale, special=special and bool(rng.random() < 0.5)
    )


def _floats(
    rng: np.random.Generator, shape: tuple[int, ...], *, dtype: Any, kind: str, scale: float, special: bool
) -> npt.NDArray[np.floating[Any]]:
    n = shape[0]
    values = rng.standard_normal(shape)
    if kind == "rounded":
        values = np.round(values * 2) / 2
    elif kind == "repeated" and n:
        values = values[rng.integers(0, max(1, n // 4), n)]
    elif kind == "equal":
        values[:] = values[:1]
    elif kind == "line" and len(shape) > 1:
        values[..., 1:] = 0
    elif kind == "offset":
        values = values + 1000
    values = (values * scale).astype(dtype)
    if special and values.size:
        places = rng.integers(0, values.size, 1 + values.size // 10)
        values.reshape(-1)[places] = rng.choice(np.array(SPECIAL), len(places)).astype(dtype)
    return values


@st.composite
def scores(
    draw: st.DrawFn, length: int, *, dtype: Any = np.float32, special: bool = True
) -> npt.NDArray[np.floating[Any]]:
    """Scores (length,) from 0 to 1 with many ties; with `special` also NaN, infinities and signed zeros.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(deadline=None)
        ... @given(scores(4, special=False))
        ... def check(values):
        ...     assert values.shape == (4,) and (0 <= values).all() and (values <= 1).all()
        >>> check()
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([1, 4, 100, 2**20]))
    values = (rng.integers(0, steps + 1, length) / steps).astype(dtype)
    if special and length and draw(st.booleans()):
        places = rng.integers(0, length, 1 + length // 10)
        values[places] = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0]), len(places))
    return values
