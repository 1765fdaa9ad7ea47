"""MATLAB files of version 7.3, which are HDF5: structs, cells, characters and numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tenfold._errors import UserInputError

__all__ = ["read_hdf5_struct"]


def read_hdf5_struct(path: Path, name: str) -> Any:
    """A variable of a MATLAB 7.3 file as scipy gives those of older ones: structs as objects, axes of length 1 gone.

    Raises:
        UserInputError: h5py is missing, the file is damaged, or has no such variable.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserInputError(
            f'{path}: file: is of MATLAB version 7.3 (HDF5), which needs h5py: pip install "sparsepoint[matlab]"; or '
            "save it as version 7 (-v7)"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            if name in file:
                return _value(file, file[name])
    except Exception as error:  # h5py meets damage as any kind of exception
        raise UserInputError(f"{path}: file: is damaged or truncated ({type(error).__name__})") from error
    raise UserInputError(f"{path}: {name}: no such variable")


def _value(file: Any, item: Any) -> Any:
    kind = item.attrs.get("MATLAB_class", b"")
    if not hasattr(item, "dtype"):
        return _struct(file, item)
    if item.attrs.get("MATLAB_empty", 0):
        return "" if kind == b"char" else np.zeros(0)
    data = item[()]
    if kind == b"char":
        return "".join(map(chr, data.T.reshape(-1)))  # MATLAB counts along the other axis first
    if _references(item):
        return _objects([_value(file, file[reference]) for reference in data.T.reshape(-1)])
    return np.squeeze(data.T)


def _struct(file: Any, group: Any) -> Any:
    """One struct, or an array of them: there every field is a list of references, and no cell."""
    fields = dict(group.items())
    if not fields or not all(_references(v) and "MATLAB_class" not in v.attrs for v in fields.values()):
        return SimpleNamespace(**{name: _value(file, item) for name, item in fields.items()})
    columns = {name: item[()].T.reshape(-1) for name, item in fields.items()}
    rows = zip(*columns.values(), strict=True)
    found = [
        SimpleNamespace(**{name: _value(file, file[ref]) for name, ref in zip(columns, row, strict=True)})
        for row in rows
    ]
    return _objects(found)


def _references(item: Any) -> bool:
    return hasattr(item, "dtype") and item.dtype.metadata is not None and "ref" in item.dtype.metadata


def _objects(values: list[Any]) -> Any:
    found = np.empty(len(values), object)
    found[:] = values
    return found
