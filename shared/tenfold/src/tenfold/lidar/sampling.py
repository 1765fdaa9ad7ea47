"""Ground-truth sampling: a database of labelled objects with their points, and pasting from it.

The database is one ``.npz`` file, written by `build_database` (``tenfold lidar prepare``) and replaced as a
whole or not at all. Each frame leaves a part file while the work goes on, so that an interrupted run
continues where it stopped.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tenfold._errors import UserInputError
from tenfold.geometry import Calibration
from tenfold.io import make_folder, write_bytes, write_json
from tenfold.io.arrays import read_npz
from tenfold.lidar.augment import Augmentation, BoolArray, Sample
from tenfold.lidar.frames import LidarFrame, LidarReader
from tenfold.lidar.kitti import FloatArray, IntArray, KittiFrame, frame_info
from tenfold.ops import box_iou_bev, points_in_boxes

__all__ = ["ObjectDatabase", "ObjectSampler", "build_database", "prepared_paths", "road_height"]

_FORMAT = 1
_COLUMNS = ("points", "offsets", "boxes", "names", "difficulty", "frame_ids")


@dataclass(frozen=True, eq=False)
class ObjectDatabase:
    """Labelled objects with the points inside them.

    Attributes:
        points: ``(sum N, C)`` float32; x, y, z relative to the box centre, not turned; then features.
        offsets: ``(K + 1,)`` first point of each object.
        boxes: ``(K, 7)`` or ``(K, 9)`` (with vx, vy) float32 where each object stood.
        names: ``(K,)`` class names.
        difficulty: ``(K,)`` 0 easy, 1 moderate, 2 hard, -1 none.
        frame_ids: ``(K,)`` frame that each object comes from.
    """

    points: FloatArray
    offsets: IntArray
    boxes: FloatArray
    names: npt.NDArray[np.str_]
    difficulty: IntArray
    frame_ids: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_points(self) -> IntArray:
        """``(K,)`` points of each object."""
        return np.diff(self.offsets)

    def object_points(self, index: int) -> FloatArray:
        """Points ``(N, C)`` of one object, relative to its centre."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def from_frame(cls, frame: LidarFrame, min_points: int = 0) -> "ObjectDatabase":
        """The labelled objects of one frame with at least `min_points` points; a point may belong to several.

        Raises:
            UserInputError: the frame has no labels.
        """
        objects = frame.objects
        if objects is None:
            raise UserInputError(f"frame {frame.frame_id}: labels: missing; the test split has no objects")
        xyz = torch.from_numpy(frame.points[:, :3].astype(np.float64))
        everything = torch.from_numpy(np.ascontiguousarray(objects.boxes[:, :7]))
        counts = points_in_boxes(xyz, everything, mode="csr")[0].diff().numpy()
        kept = counts >= min_points
        boxes = objects.boxes[kept]
        first, rows = points_in_boxes(xyz, torch.from_numpy(np.ascontiguousarray(boxes[:, :7])), mode="csr")
        offsets, points = first.numpy(), frame.points[rows.numpy()]
        points[:, :3] -= np.repeat(boxes[:, :3], np.diff(offsets), axis=0).astype(np.float32)
        return cls(
            points,
            offsets,
            boxes.astype(np.float32),
            np.array(objects.names, dtype=np.str_)[kept],
            objects.difficulty[kept],
            np.full(len(boxes), frame.frame_id, dtype=f"<U{len(frame.frame_id)}"),
        )

    @classmethod
    def joined(cls, parts: Sequence["ObjectDatabase"]) -> "ObjectDatabase":
        """One database of several."""
        if not parts:
            raise ValueError("ObjectDatabase.joined: parts: none was received; one or more are expected")
        counts = np.concatenate([part.num_points for part in parts])
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS}
        joined["offsets"] = np.concatenate(([0], np.cumsum(counts)))
        return cls(**joined)

    def save(self, path: str | Path) -> None:
        """Write the file atomically."""
        packed = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _COLUMNS}
        np.savez(packed, format=np.array(_FORMAT), **arrays)
        write_bytes(path, packed.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "ObjectDatabase":
        """Read a file written by `save`.

        Raises:
            UserInputError: missing, damaged, of another format, or inconsistent.
        """
        if not Path(path).is_file():
            raise UserInputError(
                f"{path}: no such database; write it with `tenfold lidar prepare`, or switch ground-truth "
                "sampling off with data.counts={}"
            )
        found: dict[str, Any] = dict(read_npz(path))
        if int(found.pop("format", -1)) != _FORMAT or set(found) != set(_COLUMNS):
            raise UserInputError(f"{path}: format: no object database of this version; run prepare again")
        data = cls(**found)
        counts = {len(data.boxes), len(data.names), len(data.difficulty), len(data.frame_ids)}
        bounds = data.offsets
        whole = counts == {len(bounds) - 1} and bounds[0] == 0 and bounds[-1] == len(data.points)
        if not whole or (np.diff(bounds) < 0).any():
            raise UserInputError(f"{path}: offsets: do not fit the other arrays; run prepare again")
        return data


def prepared_paths(root: str | Path, name: str) -> tuple[Path, Path]:
    """Where `build_database` writes: the object database and the frames' facts.

    Args:
        root: of the data set.
        name: ``prepared_name`` of the reader; KITTI's is the split.
    """
    folder = Path(root) / "prepared"
    return folder / f"objects_{name}.npz", folder / f"frames_{name}.json"


def build_database(
    data: LidarReader,
    *,
    min_points: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda frames: frames,
) -> ObjectDatabase:
    """Write the object database and the frames' facts of a labelled split; continue an interrupted run.

    The facts are one JSON document, for KITTI's layout only: image size, calibration, labels, difficulty and
    points of each object.

    Args:
        data: the reader, with its split and filters; the same settings continue earlier part files.
        min_points: leave out objects with fewer points, which are never pasted; it saves space where there are
            many.
        progress: wraps the frames' indices, such as a progress bar.

    Raises:
        UserInputError: no frame, an unreadable one, or a folder that cannot be written.
    """
    if not data.ids:
        raise UserInputError(f"{data.root}: {data.prepared_name}: lists no frame; expected one or more")
    database_file, facts_file = prepared_paths(data.root, data.prepared_name)
    settings = json.dumps([_FORMAT, min_points, *data.settings, list(data.ids)])
    stamp = hashlib.sha256(settings.encode()).hexdigest()[:12]
    parts = database_file.with_name(f".parts_{data.prepared_name}_{stamp}")
    make_folder(parts, "root")
    for index in progress(range(len(data))):
        part = parts / f"{data.ids[index]}.npz"
        if not part.exists():
            frame = data[index]
            if isinstance(frame, KittiFrame):
                write_json(part.with_suffix(".json"), _plain(frame_info(frame)), indent=None)
            # The database part comes last: where it exists, the frame is done.
            ObjectDatabase.from_frame(frame, min_points).save(part)
    database = ObjectDatabase.joined([ObjectDatabase.load(parts / f"{i}.npz") for i in data.ids])
    files = [parts / f"{i}.json" for i in data.ids]
    if all(file.is_file() for file in files):
        write_json(facts_file, [json.loads(file.read_text(encoding="utf-8")) for file in files], indent=None)
    database.save(database_file)
    shutil.rmtree(parts)
    return database


def _plain(value: Any) -> Any:
    """Arrays and tuples as lists, for JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def road_height(
    plane: npt.NDArray[np.float64], calibration: Calibration, centres: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Height z ``(M,)`` of the road, in the lidar frame, below or above the box centres ``(M, 3)``.

    The plane (a, b, c, d) lies in the rect frame; the road point is the one that the camera's vertical
    through the centre meets.
    """
    rect = calibration.lidar_to_rect(centres.astype(np.float64))
    a, b, c, d = plane
    rect[:, 1] = -(d + a * rect[:, 0] + c * rect[:, 2]) / b
    height: npt.NDArray[np.float64] = calibration.rect_to_lidar(rect)[:, 2]
    return height


@dataclass(eq=False)
class ObjectSampler:
    """Pastes objects from other frames into a frame.

    For each class, in the order of `settings.counts`, as many objects as are missing are drawn without
    replacement from the whole database, by the sample's own generator (and not from a running list as
    elsewhere, whose place a resumed run would have to restore). A draw stays only if its rotated bird's-eye
    overlap is zero with every box of the frame, with every accepted draw, and with every other draw of its
    class: of two draws that collide, both go.

    Args:
        database: the objects.
        settings: counts and options.
        min_points: objects with fewer points are never drawn, nor are those of difficulty -1.
    """

    database: ObjectDatabase
    settings: Augmentation
    min_points: int = 5
    _pool: dict[str, IntArray] = field(init=False)

    def __post_init__(self) -> None:
        data = self.database
        fine = (data.num_points >= self.min_points) & (data.difficulty >= 0)
        self._pool = {name: np.flatnonzero(fine & (data.names == name)) for name in self.settings.counts}

    def paste(
        self,
        sample: Sample,
        rng: np.random.Generator,
        plane: npt.NDArray[np.float64] | None = None,
        calibration: Calibration | None = None,
    ) -> Sample:
        """The sample with objects added, points inside them replaced by the objects' own.

        Args:
            sample: objects of all classes: each of them keeps its place free.
            rng: source of randomness.
            plane: road plane in the rect frame; None leaves heights alone.
            calibration: needed with `plane`.
        """
        for name in ("points", "boxes"):
            ours, theirs = getattr(self.database, name).shape[1], getattr(sample, name).shape[1]
            if ours != theirs:
                raise UserInputError(
                    f"object database: {name}: {ours} columns, the frames have {theirs}; run prepare again"
                )
        boxes, chosen = sample.boxes, np.zeros(0, dtype=np.int64)
        for name, count in self.settings.counts.items():
            missing = count - int((sample.names == name).sum()) if self.settings.scene_limited else count
            pool = self._pool[name]
            number = min(max(missing, 0), len(pool))
            draws = rng.choice(pool, number, replace=False) if number else pool[:0]
            kept = draws[_free(self.database.boxes[draws], boxes)]
            boxes = np.concatenate((boxes, self.database.boxes[kept]))
            chosen = np.concatenate((chosen, kept))
        if not len(chosen):
            return sample
        return self._insert(sample, chosen, plane, calibration)

    def _insert(
        self,
        sample: Sample,
        chosen: IntArray,
        plane: npt.NDArray[np.float64] | None,
        calibration: Calibration | None,
    ) -> Sample:
        boxes = self.database.boxes[chosen].copy()
        if plane is not None and calibration is not None and self.settings.road_plane:
            bottom = road_height(plane, calibration, boxes[:, :3])
            boxes[:, 2] = (bottom + boxes[:, 5] / 2).astype(np.float32)
        pasted = []
        for index, box in zip(chosen, boxes, strict=True):
            points = self.database.object_points(int(index)).copy()
            points[:, :3] += box[:3]
            pasted.append(points)
        inside = points_in_boxes(
            torch.from_numpy(np.ascontiguousarray(sample.points[:, :3])),
            torch.from_numpy(np.ascontiguousarray(boxes[:, :7])),
        )
        scene = sample.points[inside.numpy() < 0]
        return Sample(
            np.concatenate((*pasted, scene)),
            np.concatenate((sample.boxes, boxes)),
            np.concatenate((sample.names, self.database.names[chosen])),
        )


def _free(draws: FloatArray, standing: FloatArray) -> BoolArray:
    """``(K,)``: draws that overlap neither a standing box nor another draw, seen from above."""
    mine = torch.from_numpy(np.ascontiguousarray(draws[:, :7]))
    among = box_iou_bev(mine, mine).fill_diagonal_(0)
    against = box_iou_bev(mine, torch.from_numpy(np.ascontiguousarray(standing[:, :7])))
    taken = (among > 0).any(dim=1) | (against > 0).any(dim=1)
    free: BoolArray = ~taken.numpy()
    return free
