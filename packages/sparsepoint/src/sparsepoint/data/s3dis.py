"""S3DIS (Stanford 3D indoor spaces), aligned version 1.2, from its text files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.data.files import DataWarning, boxes_of_instances, first_folder
from sparsepoint.data.scenes import Scene
from tenfold._errors import UserInputError

__all__ = ["S3DISDetection", "read_annotation"]

_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door"),
    *("table", "chair", "sofa", "bookcase", "board", "clutter"),
)
_FOLDER = "Stanford3dDataset_v1.2_Aligned_Version"
_CONTROL = bytes(k for k in range(32) if k not in b"\t\n\r")
_COLUMNS = 6


def read_annotation(path: Path) -> np.ndarray:
    """(N, 6) x, y, z, r, g, b of one object's text file.

    Some official files hold a control byte or a broken line: such bytes are dropped, such lines left out, and a
    `DataWarning` says how many.

    Raises:
        UserInputError: the file cannot be read, or more than one line in a hundred is broken.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserInputError(f"{path}: file: cannot be read ({error.strerror or error})") from error
    clean = data.translate(None, _CONTROL)
    dropped = len(data) - len(clean)
    lines = clean.splitlines()
    try:
        rows = np.array(clean.split(), np.float64).reshape(-1, _COLUMNS)
        broken = 0
        if len(rows) != sum(1 for line in lines if line.strip()):
            raise ValueError("lines and rows differ")
    except ValueError:
        rows, broken = _line_by_line(lines)
    finite = np.isfinite(rows).all(1)
    broken += int((~finite).sum())
    if broken * 100 > len(lines) or (broken and not finite.any()):
        raise UserInputError(f"{path}: lines: {broken} of {len(lines)} are not six numbers")
    if dropped or broken:
        warnings.warn(
            f"{path}: {dropped} control bytes dropped, {broken} broken lines left out",
            DataWarning,
            stacklevel=2,
        )
    return rows[finite]


def _line_by_line(lines: Sequence[bytes]) -> tuple[np.ndarray, int]:
    rows, broken = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            numbers = [float(word) for word in line.split()]
        except ValueError:
            numbers = []
        if len(numbers) == _COLUMNS:
            rows.append(numbers)
        else:
            broken += 1
    return np.asarray(rows, np.float64).reshape(-1, _COLUMNS), broken


class S3DISDetection:
    """A split of S3DIS: five classes of movable things, boxes along the axes, rooms moved to start at 0.

    Args:
        root: the folder with ``Stanford3dDataset_v1.2_Aligned_Version``, or that folder.
        split: "train" (every area but the test area), "val" or "test" (the test area).
        test_area: 1 to 6.

    Raises:
        UserInputError: a missing area or a damaged file.
    """

    def __init__(self, root: str | Path, split: str = "train", test_area: int = 5) -> None:
        if split not in ("train", "val", "test"):
            raise UserInputError(f"{root}: split: got {split!r}; expected train, val or test")
        if not 1 <= test_area <= 6:
            raise UserInputError(f"{root}: test_area: got {test_area}; expected 1 to 6")
        base = Path(root)
        self.root = base / _FOLDER if (base / _FOLDER).is_dir() else base
        wanted = [a for a in range(1, 7) if (a == test_area) == (split != "train")]
        self.labels: LabelSet = LABEL_SETS["s3dis"]
        names = []
        for area in wanted:
            folder = first_folder([self.root / f"Area_{area}"], f"Area_1 to Area_6 of {_FOLDER}")
            names += [
                f"Area_{area}/{f.name}" for f in sorted(folder.iterdir()) if (f / "Annotations").is_dir()
            ]
        if not names:
            raise UserInputError(f"{self.root}: raw: no room with a folder Annotations")
        self._folders = names
        self.names: Sequence[str] = [name.replace("/", "_") for name in names]

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One room."""
        folder = self.root / self._folders[index] / "Annotations"
        files = sorted(f for f in folder.glob("*.txt") if not f.name.startswith("."))
        if not files:
            raise UserInputError(f"{folder}: raw: no annotation file")
        parts, instance, semantic, kinds = [], [], [], {}
        wanted = {number: k for k, number in enumerate(self.labels.ids)}
        for number, path in enumerate(files, 1):
            rows = read_annotation(path)
            kind = re.sub(r"_\d+$", "", path.stem)
            label = _CLASSES.index(kind) if kind in _CLASSES else _CLASSES.index("clutter")  # such as stairs
            parts.append(rows)
            instance.append(np.full(len(rows), number, np.int32))
            semantic.append(np.full(len(rows), label, np.int32))
            if label in wanted:
                kinds[number] = wanted[label]
        rows = np.concatenate(parts)
        if len(rows) == 0:
            raise UserInputError(f"{folder}: raw: the room holds no point")
        low = rows[:, :3].min(0)
        points = (rows[:, :3] - low).astype(np.float32)
        own, classes = np.concatenate(instance), np.concatenate(semantic)
        boxes, labels = boxes_of_instances(points, own, kinds)
        align = np.eye(4)
        align[:3, 3] = -low
        meta = {"points_per_square_metre": float(len(points) / max(np.prod(points.max(0)[:2]), 1e-6))}
        return Scene(
            self.names[index],
            points,
            boxes,
            labels,
            rows[:, 3:].astype(np.float32),
            own,
            classes,
            align,
            meta,
        )
