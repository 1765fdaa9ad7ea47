"""Annotations of KITTI frames as plain arrays, and their text files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold._errors import UserInputError
from tenfold.io import read_text

__all__ = ["KittiAnnotations", "finite_numbers", "read_annotation_folder", "read_annotations", "read_objects"]

Floats = NDArray[np.float64]

_COLUMNS = {"bbox": 4, "dimensions": 3, "location": 3}


@dataclass(frozen=True, eq=False)
class KittiAnnotations:
    """Objects of one frame as KITTI writes them: ground truth, or detections when ``score`` is set.

    Any array-like is accepted and kept as float64.

    Args:
        name: (n,) type of each object; upper and lower case are the same.
        truncated: (n,) share outside the image. float32 values are read as the short decimals that they stand
            for, because the float32 nearest to 0.15 or 0.3 exceeds the limit of that name.
        occluded: (n,) 0 visible, 1 partly, 2 largely occluded, 3 unknown.
        alpha: (n,) observation angle, radians; -10 where there is none.
        bbox: (n, 4) x1, y1, x2, y2 in the image, pixels.
        dimensions: (n, 3) height, width, length in metres, the order of the files.
        location: (n, 3) x, y, z of the bottom centre in the rectified camera frame, metres.
        rotation_y: (n,) about the camera's y axis, radians.
        score: (n,) or None for ground truth.

    Raises:
        ValueError: lengths that differ, wrong shapes, or values that are not finite.

    Example:
        >>> one = KittiAnnotations(
        ...     ["Car"], [0], [0], [-1.6], [[600, 150, 700, 210]], [[1.5, 1.6, 3.9]], [[1, 1.7, 20]], [-1.5])
        >>> len(one)
        1
    """

    name: Sequence[str]
    truncated: Floats
    occluded: Floats
    alpha: Floats
    bbox: Floats
    dimensions: Floats
    location: Floats
    rotation_y: Floats
    score: Floats | None = None

    def __post_init__(self) -> None:
        rows = len(self.name)
        object.__setattr__(self, "name", tuple(str(n) for n in self.name))
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is None and field.name == "score":
                continue
            object.__setattr__(self, field.name, _column(field.name, value, rows))

    def __len__(self) -> int:
        return len(self.name)


def _column(name: str, value: Any, rows: int) -> Floats:
    given = np.asarray(value)
    shape = (rows, _COLUMNS[name]) if name in _COLUMNS else (rows,)
    if given.size == 0 and rows == 0:
        return np.zeros(shape)
    if given.shape != shape:
        raise ValueError(
            f"KittiAnnotations: {name}: got shape {given.shape}; expected {shape}, one row per name"
        )
    result = given.astype(np.float64)
    if name == "truncated" and given.dtype == np.float32:
        result = result.round(6)
    if not np.isfinite(result).all():
        raise ValueError(f"KittiAnnotations: {name}: got NaN or infinity; expected finite numbers")
    return result


def finite_numbers(words: Sequence[str], place: str) -> Floats:
    """The numbers ``(len(words),)`` that the words stand for.

    Args:
        words: of a text file.
        place: named in the error, such as a file and a line.

    Raises:
        UserInputError: a word that is no finite number.

    Example:
        >>> finite_numbers(["1", "-0.5"], "a.txt: line 1")
        array([ 1. , -0.5])
    """
    try:
        values = np.array([float(w) for w in words], np.float64)
    except ValueError as error:
        raise UserInputError(f"{place}: a number is expected ({error})") from None
    if not np.isfinite(values).all():
        raise UserInputError(f"{place}: NaN or infinity was found; finite numbers are expected")
    return values


def read_objects(
    file: str | Path, fields: Collection[int], expected: str
) -> Iterator[tuple[str, str, Floats]]:
    """Objects of a label or result file: where each stands, its type, and the numbers after it.

    Args:
        file: one line per object; blank lines are passed over.
        fields: numbers of fields that a line may have, the type included.
        expected: what an error says of other numbers.

    Raises:
        UserInputError: a missing file, a line with another number of fields, or a field that is no finite
            number.
    """
    path = Path(file)
    if not path.exists():
        raise UserInputError(f"{path}: the file is missing; a frame without objects has an empty one")
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        place, words = f"{path}: line {number}", line.split()
        if not words:
            continue
        if len(words) not in fields:
            raise UserInputError(f"{place}: {len(words)} fields were found; {expected}")
        yield place, words[0], finite_numbers(words[1:], place)


def read_annotations(file: str | Path, *, scores: bool) -> KittiAnnotations:
    """Read a label file (15 fields a line) or a result file (16 fields, the last one the score).

    Args:
        file: one line per object; an empty file is a frame without objects.
        scores: whether this is a result file. Labels with a score are refused, and so are results without.

    Raises:
        UserInputError: a missing file, a line with another number of fields, or a field that is no finite
            number.
    """
    width = 16 if scores else 15
    kind = "results (with a score)" if scores else "labels (without a score)"
    found = list(read_objects(file, {width}, f"{width} are expected in {kind}"))
    names, rows = [name for _, name, _ in found], [numbers for _, _, numbers in found]
    t = np.array(rows, np.float64).reshape(len(rows), width - 1)
    return KittiAnnotations(
        *(names, t[:, 0], t[:, 1], t[:, 2], t[:, 3:7], t[:, 7:10], t[:, 10:13], t[:, 13]),
        score=t[:, 14] if scores else None,
    )


def read_annotation_folder(
    folder: str | Path, *, scores: bool, ids: Iterable[str] | None = None
) -> dict[str, KittiAnnotations]:
    """Read the files of many frames.

    Args:
        folder: holds ID.txt for every frame.
        scores: as for `read_annotations`.
        ids: frames to read, in this order; None reads every ``*.txt``, sorted.

    Raises:
        UserInputError: as `read_annotations`; a missing folder, or one without text files.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserInputError(f"{root}: the folder is missing")
    wanted = list(ids) if ids is not None else sorted(p.stem for p in root.glob("*.txt"))
    if not wanted and ids is None:
        raise UserInputError(f"{root}: the folder holds no .txt file")
    return {i: read_annotations(root / f"{i}.txt", scores=scores) for i in wanted}
