"""A data set of one's own: a folder of point clouds, one JSON file of boxes for each, lists of frames.

::

    ROOT/clouds/ID.{bin,npy,npz,ply,pcd}
    ROOT/boxes/ID.json
    ROOT/splits/{train,val,...}.txt        one ID a line
    ROOT/dataset.json                      optional

A file of boxes is what `tenfold lidar predict` writes, so that corrected predictions are labels::

    {"names": ["Car"], "boxes": [[x, y, z, dx, dy, dz, heading]]}

with boxes in the frame of the cloud: geometric centre and full extents in metres, heading in radians,
counter-clockwise from +x; vx, vy in metres per second may follow in all boxes. Further keys are not read.
``dataset.json`` may hold ``columns`` (names of the columns of .bin, .npy and .npz files), ``features`` (those
after x, y, z that detectors get; ["intensity"] by default) and ``intensity_scale``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.io import read_json, read_text, write_json
from tenfold.lidar.clouds import ENDINGS, frame_name, read_cloud
from tenfold.lidar.frames import Objects
from tenfold.lidar.kitti import FloatArray

__all__ = ["CustomFrame", "CustomFrames", "box_problems", "read_boxes", "write_boxes"]

_SETTINGS = {"columns", "features", "intensity_scale"}


@dataclass(frozen=True, eq=False)
class CustomFrame:
    """One frame.

    Attributes:
        frame_id: name of its files without ending.
        points: ``(N, 3 + F)`` float32 x, y, z, then features.
        objects: boxes ``(M, 7)`` or ``(M, 9)``; None when read without labels.
    """

    frame_id: str
    points: FloatArray
    objects: Objects | None


def box_problems(document: Any) -> list[str]:
    """Everything that is wrong with a document of boxes, box by box; empty when it can be used."""
    if not isinstance(document, dict):
        return [f"document: got {type(document).__name__}; expected names and boxes"]
    names, boxes = document.get("names"), document.get("boxes")
    for key, value in (("names", names), ("boxes", boxes)):
        if not isinstance(value, list):
            return [f"{key}: missing; expected a list"]
    if len(names) != len(boxes):  # type: ignore[arg-type]
        return [f"names, boxes: got {len(names)} and {len(boxes)}; expected one name per box"]  # type: ignore[arg-type]
    widths = {len(box) for box in boxes if isinstance(box, list)}  # type: ignore[union-attr]
    if len(widths) > 1:
        return [f"boxes: got rows of {sorted(widths)} numbers; expected 7 in all, or 9 with vx, vy"]
    problems = []
    for number, (name, box) in enumerate(zip(names, boxes, strict=True)):  # type: ignore[arg-type]
        if not isinstance(name, str) or not name:
            problems.append(f"names[{number}]: got {name!r}; expected a class name")
        problems += [f"boxes[{number}]: {what}" for what in _box_problem(box)]
    return problems


def _box_problem(box: Any) -> list[str]:
    if not isinstance(box, list) or len(box) not in {7, 9}:
        return ["expected a list of 7 numbers, or 9 with vx, vy"]
    if not all(isinstance(v, float | int) and not isinstance(v, bool) for v in box):
        return ["something else than numbers"]
    if not np.isfinite(box).all():
        return ["NaN or infinity"]
    return [] if min(box[3:6]) > 0 else ["an extent of 0 or less"]


def read_boxes(file: str | Path) -> Objects:
    """Objects of one frame.

    Raises:
        UserInputError: no JSON of this form; the first problem is named.
    """
    document = read_json(file)
    problems = box_problems(document)
    if problems:
        raise UserInputError(
            f"{file}: {problems[0]}" + (f" (and {len(problems) - 1} more)" * (len(problems) > 1))
        )
    boxes = np.array(document["boxes"], dtype=np.float64)
    boxes = boxes.reshape(len(document["names"]), boxes.shape[1] if boxes.size else 7)
    return Objects(tuple(document["names"]), boxes, np.zeros(len(boxes), np.int64))


def write_boxes(file: str | Path, names: Sequence[str], boxes: npt.NDArray[Any]) -> None:
    """Write boxes ``(M, 7)`` or ``(M, 9)`` as this data set reads them, atomically.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_boxes(file, ["Car"], np.array([[9.0, 0, -1, 4, 2, 1.5, 0.1]]))
    >>> read_boxes(file).names
    ('Car',)
    """
    document = {"names": list(names), "boxes": np.asarray(boxes, np.float64).tolist()}
    if problems := box_problems(document):
        raise ValueError(f"write_boxes: {problems[0]}")
    write_json(file, document, indent=None)


class CustomFrames(Dataset[CustomFrame]):
    """Frames of one list of a data set of one's own; see the module for the layout.

    Args:
        root: folder of the data set.
        split: name of a list in ``splits``.
        labels: read boxes; False for frames without.
        checked: refuse a list with an ID twice or without files; `tenfold lidar check-data` counts them
            instead.

    Raises:
        UserInputError: a missing list or file, an ID twice, two clouds for one ID, unknown settings; and on
            access an unreadable cloud, a wrong number, a wrong box.
    """

    def __init__(
        self, root: str | Path, split: str = "train", *, labels: bool = True, checked: bool = True
    ) -> None:
        self.root, self.split, self.labels = Path(root), split, labels
        self._columns, self._features, self._scale = _read_settings(self.root / "dataset.json")
        listing = self.root / "splits" / f"{split}.txt"
        if not listing.is_file():
            raise UserInputError(f"{listing}: the list of frames of split {split!r} is missing")
        listed = read_text(listing).split()
        if bad := [i for i in listed if not re.fullmatch(r"[\w.-]+", i)]:
            raise UserInputError(f"{listing}: {bad[0]!r} is no name of a file")
        self.ids = tuple(dict.fromkeys(listed))
        #: IDs that the list holds more than once.
        self.duplicates = (
            tuple(i for i in self.ids if listed.count(i) > 1) if len(self.ids) < len(listed) else ()
        )
        if checked and self.duplicates:
            raise UserInputError(
                f"{listing}: {self.duplicates[0]} stands there twice ({len(self.duplicates)} IDs do)"
            )
        self._clouds: dict[str, list[Path]] = {}
        for file in sorted((self.root / "clouds").glob("*")):
            if file.suffix.lower() in ENDINGS:
                self._clouds.setdefault(frame_name(file), []).append(file)
        if checked:
            self._require_files()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> CustomFrame:
        frame_id = self.ids[index]
        points = read_cloud(self.cloud(frame_id), self._features, self._columns, self._scale, say=False)
        return CustomFrame(frame_id, points, read_boxes(self.boxes(frame_id)) if self.labels else None)

    @property
    def prepared_name(self) -> str:
        """Part of the names of prepared files."""
        return self.split

    @property
    def settings(self) -> list[Any]:
        """What decides the content of frames."""
        return ["custom", self._columns, list(self._features), self._scale]

    def classes_of_frames(self) -> list[list[str]]:
        """Classes of the objects of each frame, for `balanced_indices`."""
        return [sorted({*read_boxes(self.boxes(i)).names}) for i in self.ids]

    def cloud(self, frame_id: str) -> Path:
        """File of a frame's points.

        Raises:
            UserInputError: there is none, or more than one.
        """
        found = self._clouds.get(frame_id, [])
        if len(found) == 1:
            return found[0]
        place = self.root / "clouds" / frame_id
        if not found:
            raise UserInputError(f"{place}.*: no cloud of this name; expected one of {', '.join(ENDINGS)}")
        raise UserInputError(
            f"{place}.*: {len(found)} clouds of this name: {', '.join(f.name for f in found)}"
        )

    def boxes(self, frame_id: str) -> Path:
        """File of a frame's boxes."""
        return self.root / "boxes" / f"{frame_id}.json"

    def _require_files(self) -> None:
        for frame_id in self.ids:
            self.cloud(frame_id)
        missing = [i for i in self.ids if self.labels and not self.boxes(i).is_file()]
        if missing:
            raise UserInputError(
                f"{self.boxes(missing[0])}: the file of boxes is missing ({len(missing)} of {len(self.ids)} frames "
                'lack theirs; a frame without objects has {"names": [], "boxes": []})'
            )


def _read_settings(file: Path) -> tuple[list[str] | None, tuple[str, ...], float]:
    """Columns, features and the factor of the intensity."""
    if not file.is_file():
        return None, ("intensity",), 1.0
    document = read_json(file)
    if not isinstance(document, dict) or (unknown := set(document) - _SETTINGS):
        what = min(unknown) if isinstance(document, dict) else "document"
        raise UserInputError(f"{file}: {what}: unknown; expected {', '.join(sorted(_SETTINGS))}")
    columns, features = document.get("columns"), document.get("features", ["intensity"])
    for key, value in (("columns", columns), ("features", features)):
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise UserInputError(f"{file}: {key}: got {value!r}; expected a list of names")
    scale = document.get("intensity_scale", 1.0)
    if not isinstance(scale, float | int) or isinstance(scale, bool) or not np.isfinite(scale):
        raise UserInputError(f"{file}: intensity_scale: got {scale!r}; expected a number")
    if columns is not None and not ({"x", "y", "z"} <= set(columns) and len(set(columns)) == len(columns)):
        raise UserInputError(f"{file}: columns: got {columns}; expected distinct names with x, y and z")
    return columns, tuple(features or ()), float(scale)
