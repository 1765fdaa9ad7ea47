"""Key frames of nuScenes with their sweeps, in the lidar's own frame (x right, y forward, z up)."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.eval.nuscenes import NuScenesSample
from tenfold.io import read_point_array
from tenfold.lidar.frames import Objects
from tenfold.lidar.kitti import FloatArray, require_finite
from tenfold.lidar.nuscenes.classes import RACK
from tenfold.lidar.nuscenes.index import FrameIndex, build_index, index_path
from tenfold.lidar.nuscenes.tables import NuScenesTables, data_root

__all__ = ["NuScenesDetection", "NuScenesFrame", "SkippedSweepWarning", "read_sweep"]

_COLUMNS = 5
_CLOSE = 1.0  # metres; what an earlier sweep sees there is the car itself


class SkippedSweepWarning(UserWarning):
    """An earlier sweep could not be read and was left out."""


@dataclass(frozen=True, eq=False)
class NuScenesFrame:
    """One key frame.

    Attributes:
        frame_id: token of the sample.
        points: ``(N, 5)`` float32 x, y, z (metres), intensity (0 to 255), age in seconds (0 for the key
            frame).
        objects: boxes ``(M, 9)`` of the ten classes with at least one lidar point, with vx, vy (0 where
            unknown); None without labels.
        sample: ground truth as the evaluation takes it, whatever its points; None without labels.
        lidar_to_global: ``(4, 4)``.
        scene: name of the scene.
        timestamp: microseconds.
    """

    frame_id: str
    points: FloatArray
    objects: Objects | None
    sample: NuScenesSample | None
    lidar_to_global: npt.NDArray[np.float64]
    scene: str
    timestamp: int


def read_sweep(file: str | Path) -> FloatArray:
    """Points ``(N, 4)`` x, y, z, intensity of a ``.pcd.bin`` file of five columns; the ring is left out.

    Raises:
        UserInputError: a missing file, a size that is no multiple of 20 bytes, a value that is not finite.
    """
    points = read_point_array(file, _COLUMNS)[:, :4]
    require_finite(points, file)
    return points


class NuScenesDetection(Dataset[NuScenesFrame]):
    """The nuScenes data set, or data in its layout, as detection frames of several sweeps.

    Points of earlier sweeps are moved into the key frame by the car's poses; those within 1 m of the sensor
    in x and y, which see the car itself, are left out of them. Where a scene starts, its oldest sweep is
    repeated.

    Args:
        root: folder of the data set (see `NuScenesTables`).
        version: "v1.0-trainval", "v1.0-test" or "v1.0-mini".
        split: train, val, test, mini_train, mini_val, or a list in ``splits.json`` beside the tables.
        sweeps: of each frame, the key frame included.
        bad_sweeps: what to do with an *earlier* sweep that is missing or damaged: "error", or "skip": it is
            left out, counted in `skipped`, and a `SkippedSweepWarning` names it. A key frame is always an
            error.
        use_index: take the file that `tenfold lidar prepare` wrote, where there is one, instead of the tables.
        progress: wraps the samples while tables are read.

    Raises:
        UserInputError: whatever is broken in the tables; a missing key-frame file; and on access a damaged
            file.

    >>> frames = NuScenesDetection("data/nuscenes", "v1.0-mini", "mini_train")  # doctest: +SKIP
    >>> frames[0].points.shape[1], frames[0].objects.boxes.shape[1]  # doctest: +SKIP
    (5, 9)
    """

    def __init__(
        self,
        root: str | Path,
        version: str = "v1.0-trainval",
        split: str = "train",
        *,
        sweeps: int = 10,
        bad_sweeps: Literal["error", "skip"] = "error",
        use_index: bool = True,
        progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    ) -> None:
        if bad_sweeps not in {"error", "skip"}:
            raise ValueError(f"NuScenesDetection: bad_sweeps: got {bad_sweeps!r}; expected 'error' or 'skip'")
        self.root, self.version, self.split = Path(root), version, split
        self.sweeps, self.bad_sweeps = sweeps, bad_sweeps
        self.data_root = data_root(self.root, version)
        file = index_path(self.root, version, split, sweeps)
        if use_index and file.is_file():
            self.index = FrameIndex.load(file)
        else:
            self.index = build_index(NuScenesTables(root, version), split, sweeps, progress)
        self.ids = tuple(self.index.tokens.tolist())
        #: Sweeps that were left out so far in this process, and why.
        self.skipped: dict[str, str] = {}
        self._require_files()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def prepared_name(self) -> str:
        """Part of the names of prepared files."""
        return f"{self.version}_{self.split}"

    @property
    def settings(self) -> list[Any]:
        """What decides the content of frames."""
        return ["nuscenes", self.version, self.split, self.sweeps]

    def classes_of_frames(self) -> list[list[str]]:
        """Classes of the usable objects of each frame, for `balanced_indices`."""
        return [sorted({*self._objects(k).names}) for k in range(len(self))]

    def __getitem__(self, index: int) -> NuScenesFrame:
        data = self.index
        return NuScenesFrame(
            frame_id=self.ids[index],
            points=self._points(index),
            objects=self._objects(index) if data.labelled else None,
            sample=data.sample(index) if data.labelled else None,
            lidar_to_global=data.lidar_to_global[index],
            scene=str(data.scenes[index]),
            timestamp=int(data.timestamps[index]),
        )

    def _objects(self, index: int) -> Objects:
        data, rows = self.index, self.index.boxes(index)
        usable = (data.box_lidar_points[rows] >= 1) & (data.box_name[rows] != RACK)
        boxes = data.box_lidar[rows][usable].copy()
        boxes[:, 7:] = np.nan_to_num(boxes[:, 7:])
        names = tuple(data.box_name[rows][usable].tolist())
        return Objects(names, boxes, np.zeros(len(names), np.int64))

    def _points(self, index: int) -> FloatArray:
        data, rows = self.index, self.index.sweeps(index)
        parts, read = [], {}
        for number, row in enumerate(range(rows.start, rows.stop)):
            name = str(data.sweep_file[row])
            if name not in read:
                read[name] = self._sweep(name, earlier=number > 0)
            points = read[name]
            if points is None:
                continue
            if number:
                points = points[(np.abs(points[:, :2]) >= _CLOSE).any(axis=1)]
            matrix = data.sweep_matrix[row]
            part = np.empty((len(points), _COLUMNS), np.float32)
            part[:, :3] = points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3] if number else points[:, :3]
            part[:, 3], part[:, 4] = points[:, 3], data.sweep_lag[row]
            parts.append(part)
        return np.concatenate(parts)

    def _sweep(self, name: str, *, earlier: bool) -> FloatArray | None:
        try:
            return read_sweep(self.data_root / name)
        except UserInputError as error:
            if not earlier or self.bad_sweeps == "error":
                raise
            self.skipped[name] = str(error)
            warnings.warn(f"sweep left out: {error}", SkippedSweepWarning, stacklevel=4)
            return None

    def _require_files(self) -> None:
        keys = self.index.sweep_file[self.index.sweep_offsets[:-1]]
        missing = [name for name in keys if not (self.data_root / str(name)).is_file()]
        if missing:
            raise UserInputError(
                f"{self.data_root / str(missing[0])}: the key frame's file is missing ({len(missing)} of "
                f"{len(keys)} frames lack theirs)"
            )
