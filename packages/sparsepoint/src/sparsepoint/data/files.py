"""What the readers of raw data share."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.io import PointCloud

__all__ = ["DataWarning", "boxes_of_instances", "colours_of", "first_folder", "integers", "read_table"]


class DataWarning(UserWarning):
    """Something in a data set was repaired or left out."""


def first_folder(candidates: Iterable[Path], what: str) -> Path:
    """The first folder that exists.

    Raises:
        UserInputError: none does.
    """
    tried = list(candidates)
    for folder in tried:
        if folder.is_dir():
            return folder
    raise UserInputError(f"{tried[0]}: raw: no such folder; expected {what}")


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a head line.

    Raises:
        UserInputError: no such file, or a column is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: file: cannot be read ({error})") from error
    reader = csv.DictReader(io.StringIO(text), delimiter="\t", restval="")  # of rows that end early
    for name in columns:
        if name not in (reader.fieldnames or ()):
            raise UserInputError(
                f"{path}: {name}: no such column; there are {', '.join(reader.fieldnames or ())}"
            )
    return list(reader)


def integers(path: Path, name: str, values: Any, number: int | None = None) -> npt.NDArray[np.int64]:
    """A list of a JSON document as whole numbers.

    Raises:
        UserInputError: not whole numbers, or not as many as wanted.
    """
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise UserInputError(f"{path}: {name}: is no list of whole numbers") from error
    if found.size == 0:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UserInputError(f"{path}: {name}: is no list of whole numbers")
    if number is not None and len(found) != number:
        raise UserInputError(f"{path}: {name}: got {len(found)} entries; expected {number}")
    return found.astype(np.int64)


def colours_of(cloud: PointCloud) -> npt.NDArray[np.float32] | None:
    """(N, 3) colours of a cloud whose file names them, from 0 to 255; None without any."""
    for names in (("red", "green", "blue"), ("r", "g", "b")):
        if all(name in cloud.fields for name in names):
            columns = [np.asarray(cloud.fields[name]).astype(np.float32) for name in names]
            return np.stack(columns, 1)
    return None


def boxes_of_instances(
    points: npt.NDArray[Any], instance: npt.NDArray[Any], kinds: dict[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Smallest boxes along the axes around the points of instances.

    Args:
        points: (N, 3).
        instance: (N,) number of the instance of each point.
        kinds: instance -> label, of those that are wanted; in their order.

    Returns:
        (G, 7) and (G,); an instance without points is left out.
    """
    boxes, labels = [], []
    for number, label in kinds.items():
        own = points[instance == number]
        if len(own):
            low, high = own.min(0), own.max(0)
            boxes.append([*((low + high) / 2), *(high - low), 0.0])
            labels.append(label)
    return np.asarray(boxes, np.float32).reshape(-1, 7), np.asarray(labels, np.int64)
