"""Rows of typed columns inside a file: what `.ply` and `.pcd` have in common."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tenfold.io._files import StrPath, bad_file, short

Array = npt.NDArray[np.generic]
Table = dict[str, Array]


def parse_count(path: StrPath, name: str, text: str) -> int:
    """A count from a header: a plain whole number that could be a size at all."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        bad_file(path, name, f"got {short(text)}; expected a whole number")
    return int(text)


def binary_rows(
    path: StrPath, name: str, data: bytes, dtype: np.dtype[np.void], *, count: int, offset: int
) -> npt.NDArray[np.void]:
    """`count` packed rows at `offset`; the file must really be that long."""
    needed, left = count * dtype.itemsize, len(data) - offset
    if needed > left:
        bad_file(path, name, f"the header announces {count} rows ({needed} bytes) but {left} bytes follow")
    if needed == 0:
        return np.empty(0 if dtype.itemsize else count, dtype)
    return np.frombuffer(data, dtype, count, offset)


def ascii_rows(
    path: StrPath, name: str, lines: Sequence[str], dtype: np.dtype[np.void], count: int
) -> npt.NDArray[np.void]:
    """`count` rows of numbers, one a line; whole numbers keep all their digits."""
    if count > len(lines):
        bad_file(path, name, f"the header announces {count} rows but {len(lines)} lines follow")
    if count == 0:
        return np.empty(0, dtype)
    try:
        rows = np.loadtxt(lines[:count], dtype=dtype, comments=None, ndmin=1)
    except (ValueError, OverflowError) as error:
        bad_file(path, name, f"the text is damaged ({short(str(error), 160)})", error)
    return rows


def write_ascii_rows(rows: npt.NDArray[np.void]) -> bytes:
    """One line a row, with as many digits as give back the same bits."""
    flat = [as_matrix(rows[name]) for name in rows.dtype.names or ()]
    columns = [part[:, k] for part in flat for k in range(part.shape[1])]
    packed = np.empty(len(rows), [(f"c{k}", column.dtype) for k, column in enumerate(columns)])
    for k, column in enumerate(columns):
        packed[f"c{k}"] = column
    digits = {4: "%.9g", 8: "%.17g"}
    formats = [digits[c.dtype.itemsize] if c.dtype.kind == "f" else "%d" for c in columns]
    text = io.BytesIO()
    if len(rows):
        np.savetxt(text, packed, fmt=formats)
    return text.getvalue()


def split_rows(rows: npt.NDArray[np.void], names: Sequence[str]) -> Table:
    """Columns of a packed table, each contiguous and in the machine's byte order.

    `names` replaces the dtype's own names; empty ones are dropped.
    """
    fields = zip(names, rows.dtype.names or (), strict=True)
    return {name: native(rows[field]) for name, field in fields if name}


def as_matrix(column: Array) -> Array:
    """(N,) or (N, k) as (N, 1) or (N, k), also for N = 0."""
    return column if column.ndim == 2 else column[:, None]


def native(values: Array) -> Array:
    """A contiguous copy in the machine's byte order."""
    return np.array(values, values.dtype.newbyteorder("="), order="C", copy=True)


def join_rows(table: Table, types: Sequence[str], order: str) -> npt.NDArray[np.void]:
    """Packed rows of the table's columns in byte order "<" or ">"."""
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"table: got columns of lengths {lengths}; expected one length")
    dtype = [
        (f"f{k}", order + code, column.shape[1:])
        for k, (code, column) in enumerate(zip(types, table.values(), strict=True))
    ]
    rows = np.empty(len(next(iter(table.values()))), dtype)
    for k, column in enumerate(table.values()):
        rows[f"f{k}"] = column
    return rows
