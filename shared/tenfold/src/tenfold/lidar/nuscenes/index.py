"""Everything that training and evaluation need of the tables, frame by frame, in one file of plain arrays."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.eval.nuscenes import NuScenesBoxes, NuScenesSample
from tenfold.geometry import boxes_from_nuscenes, transform_boxes
from tenfold.io import read_json, write_bytes
from tenfold.io.arrays import read_npz
from tenfold.lidar.nuscenes.classes import CLASS_OF, RACK, scene_split
from tenfold.lidar.nuscenes.tables import LIDAR, NuScenesTables, Record

__all__ = ["FrameIndex", "build_index", "index_path"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FORMAT = 1
_MAX_GAP = 1.5  # seconds between annotations that a velocity may span
_SWEEP_COLUMNS = ("sweep_file", "sweep_matrix", "sweep_lag")
_BOX_COLUMNS = (
    *("box_name", "box_lidar", "box_lidar_points", "box_points", "box_attribute"),
    *("box_translation", "box_size", "box_rotation", "box_velocity"),
)
_FRAME_COLUMNS = ("tokens", "scenes", "timestamps", "lidar_to_global", "ego")


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Key frames of a split.

    Attributes:
        tokens, scenes: ``(F,)`` token of each sample and name of its scene.
        timestamps: ``(F,)`` int64 microseconds of the lidar.
        lidar_to_global: ``(F, 4, 4)``.
        ego: ``(F, 3)`` place of the car in the global frame.
        sweep_offsets: ``(F + 1,)`` first sweep of each frame; the key frame itself comes first, then earlier
            ones, newest first.
        sweep_file, sweep_matrix, sweep_lag: ``(S,)`` file below the data root, ``(S, 4, 4)`` into the key
            frame's lidar frame, ``(S,)`` seconds before it.
        box_offsets: ``(F + 1,)`` first box; bicycle racks stand among them, with `RACK` as their name.
        box_name: ``(M,)`` detection class, or `RACK`.
        box_lidar: ``(M, 9)`` in the lidar frame, with vx, vy (NaN where unknown).
        box_lidar_points, box_points: ``(M,)`` lidar points; lidar and radar points.
        box_attribute: ``(M,)`` "" for none.
        box_translation, box_size, box_rotation, box_velocity: ``(M, 3 | 3 | 4 | 2)`` as annotated, in the global
            frame; width, length, height; w, x, y, z; m/s.
        labelled: False for the test split.
    """

    tokens: npt.NDArray[np.str_]
    scenes: npt.NDArray[np.str_]
    timestamps: Ints
    lidar_to_global: Floats
    ego: Floats
    sweep_offsets: Ints
    sweep_file: npt.NDArray[np.str_]
    sweep_matrix: Floats
    sweep_lag: Floats
    box_offsets: Ints
    box_name: npt.NDArray[np.str_]
    box_lidar: Floats
    box_lidar_points: Ints
    box_points: Ints
    box_attribute: npt.NDArray[np.str_]
    box_translation: Floats
    box_size: Floats
    box_rotation: Floats
    box_velocity: Floats
    labelled: bool = field(default=True)

    def __len__(self) -> int:
        return len(self.tokens)

    def boxes(self, frame: int) -> slice:
        """Rows of a frame's boxes."""
        return slice(int(self.box_offsets[frame]), int(self.box_offsets[frame + 1]))

    def sweeps(self, frame: int) -> slice:
        """Rows of a frame's sweeps."""
        return slice(int(self.sweep_offsets[frame]), int(self.sweep_offsets[frame + 1]))

    def sample(self, frame: int) -> NuScenesSample:
        """Ground truth of a frame as the evaluation takes it."""
        rows = self.boxes(frame)
        everything = NuScenesBoxes(
            self.box_name[rows].tolist(),
            self.box_translation[rows],
            self.box_size[rows],
            self.box_rotation[rows],
            self.box_velocity[rows],
            self.box_attribute[rows].tolist(),
            num_points=self.box_points[rows],
        )
        rack = self.box_name[rows] == RACK
        return NuScenesSample(everything.select(~rack), self.ego[frame], everything.select(rack))

    def save(self, path: str | Path) -> None:
        """Write the index atomically."""
        packed = io.BytesIO()
        np.savez_compressed(packed, format=np.array(_FORMAT), **vars(self))
        write_bytes(path, packed.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "FrameIndex":
        """Read a file written by `save`.

        Raises:
            UserInputError: missing, damaged, of another format, or inconsistent.
        """
        found: dict[str, Any] = dict(read_npz(path))
        if int(found.pop("format", -1)) != _FORMAT or set(found) != set(cls.__dataclass_fields__):
            raise UserInputError(
                f"{path}: format: no index of this version; run `tenfold lidar prepare` again"
            )
        index = cls(**{**found, "labelled": bool(found["labelled"])})
        for offsets, columns in (("sweep_offsets", _SWEEP_COLUMNS), ("box_offsets", _BOX_COLUMNS)):
            bounds = found[offsets]
            rows = {len(found[name]) for name in columns}
            if len(bounds) != len(index) + 1 or rows != {int(bounds[-1])} or (np.diff(bounds) < 0).any():
                raise UserInputError(f"{path}: {offsets}: do not fit the other arrays; run prepare again")
        if {len(found[name]) for name in _FRAME_COLUMNS} != {len(index)}:
            raise UserInputError(f"{path}: tokens: do not fit the other arrays; run prepare again")
        return index


def index_path(root: str | Path, version: str, split: str, sweeps: int) -> Path:
    """Where `prepare` keeps the index of a split."""
    return Path(root) / "prepared" / f"{version}_{split}_{sweeps}sweeps.npz"


def build_index(
    tables: NuScenesTables,
    split: str,
    sweeps: int = 10,
    progress: Callable[[Sequence[Record]], Iterable[Record]] = iter,
) -> FrameIndex:
    """Gather the frames of a split from the tables.

    Args:
        tables: of one version.
        split: train, val, test, mini_train, mini_val, or a list in ``splits.json`` beside the tables.
        sweeps: of each frame, the key frame included; where a scene starts, the oldest one is repeated.
        progress: wraps the samples, such as a progress bar.

    Raises:
        UserInputError: an unknown or empty split, no sweep, or whatever is broken in the tables.
    """
    if sweeps < 1:
        raise UserInputError(f"{tables.folder}: sweeps: got {sweeps}; expected 1 or more")
    scenes = tables.samples_by_scene
    chosen = _scenes_of(tables, split, tuple(scenes))
    samples = [sample for name in chosen for sample in scenes[name]]
    scene_of = {sample["token"]: name for name in chosen for sample in scenes[name]}
    if not samples:
        raise UserInputError(f"{tables.folder}: split {split!r}: no sample of it is in this version")
    labelled = len(tables.all("sample_annotation")) > 0
    builder = _Builder(tables, sweeps)
    for sample in progress(samples):
        builder.add(sample, scene_of[sample["token"]])
    return builder.index(labelled)


def _scenes_of(tables: NuScenesTables, split: str, names: tuple[str, ...]) -> list[str]:
    own = tables.folder / "splits.json"
    listed = read_json(own) if own.is_file() else {}
    if split in listed:
        unknown = [name for name in listed[split] if name not in names]
        if unknown:
            raise UserInputError(f"{own}: {split}: no scene has the name {unknown[0]!r}")
        return list(listed[split])
    try:
        return [name for name, is_in in zip(names, scene_split(names, split), strict=True) if is_in]
    except ValueError as error:
        raise UserInputError(f"{own}: {error}, or one of the lists in this file") from error


class _Builder:
    """Collects rows of the index, sample by sample."""

    def __init__(self, tables: NuScenesTables, sweeps: int) -> None:
        self.tables, self.sweeps = tables, sweeps
        self.attributes = {a["token"]: a.get("name", "") for a in tables.all("attribute")}
        self.frames: list[tuple[Any, ...]] = []
        self.sweep_rows: list[tuple[str, Floats, float]] = []
        self.box_rows: list[dict[str, Any]] = []
        self.sweep_counts: list[int] = []
        self.box_counts: list[int] = []

    def add(self, sample: Record, scene: str) -> None:
        t = self.tables
        token = sample["token"]
        key = t.lidar_key_frames.get(token)
        if key is None:
            raise UserInputError(
                f"{t.folder / 'sample_data.json'}: sample {token!r} has no key frame of {LIDAR}"
            )
        to_car = t.pose(
            "calibrated_sensor", t.follow("sample_data", key, "calibrated_sensor_token", "calibrated_sensor")
        )
        pose = t.pose("ego_pose", t.follow("sample_data", key, "ego_pose_token", "ego_pose"))
        to_global = pose @ to_car
        before = len(self.sweep_rows), len(self.box_rows)
        self._add_sweeps(key, np.asarray(np.linalg.inv(to_global), np.float64))
        annotations = t.annotations.get(token, [])
        self.box_rows += [row for a in annotations if (row := self._box(a, token)) is not None]
        self._turn_boxes(before[1], to_global, token)
        self.sweep_counts.append(len(self.sweep_rows) - before[0])
        self.box_counts.append(len(self.box_rows) - before[1])
        self.frames.append((token, scene, int(key["timestamp"]), to_global, pose[:3, 3]))

    def _add_sweeps(self, key: Record, from_global: Floats) -> None:
        t, record = self.tables, key
        time = self._time(key)
        rows: list[tuple[str, Floats, float]] = []
        while len(rows) < self.sweeps:
            if rows:
                sensor = t.follow("sample_data", record, "calibrated_sensor_token", "calibrated_sensor")
                pose = t.pose("ego_pose", t.follow("sample_data", record, "ego_pose_token", "ego_pose"))
                matrix = from_global @ pose @ t.pose("calibrated_sensor", sensor)
            else:
                matrix = np.eye(4)
            lag = (time - self._time(record)) * 1e-6
            if rows and lag <= rows[-1][2]:
                raise UserInputError(
                    f"{t.folder / 'sample_data.json'}: record {record['token']!r} is no older than the one after "
                    "it; the chain is broken"
                )
            rows.append((str(t.field("sample_data", record, "filename")), matrix, lag))
            if not t.field("sample_data", record, "prev"):
                break
            record = t.follow("sample_data", record, "prev", "sample_data")
        self.sweep_rows += rows + [rows[-1]] * (self.sweeps - len(rows))

    def _time(self, record: Record) -> int:
        value = self.tables.field("sample_data", record, "timestamp")
        if not isinstance(value, int) or isinstance(value, bool):
            file = self.tables.folder / "sample_data.json"
            raise UserInputError(
                f"{file}: record {record['token']!r}: timestamp: got {value!r}; expected a number"
            )
        return value

    def _box(self, record: Record, sample: str) -> dict[str, Any] | None:
        t = self.tables
        instance = t.follow("sample_annotation", record, "instance_token", "instance")
        category = t.field("category", t.follow("instance", instance, "category_token", "category"), "name")
        name = CLASS_OF.get(category, RACK if category == RACK else None)
        if name is None:
            return None
        size = t.numbers("sample_annotation", record, "size", 3)
        rotation = t.numbers("sample_annotation", record, "rotation", 4)
        if not (size > 0).all() or not rotation.any():
            raise UserInputError(
                f"{t.folder / 'sample_annotation.json'}: record {record['token']!r}: size, rotation: got "
                f"{record['size']}, {record['rotation']}; expected positive sizes and a quaternion"
            )
        lidar = int(t.field("sample_annotation", record, "num_lidar_pts"))
        return {
            "name": name,
            "translation": t.numbers("sample_annotation", record, "translation", 3),
            "size": size,
            "rotation": rotation,
            "velocity": self._velocity(record),
            "attribute": self._attribute(record),
            "lidar_points": lidar,
            "points": lidar + int(t.field("sample_annotation", record, "num_radar_pts")),
        }

    def _attribute(self, record: Record) -> str:
        tokens = self.tables.field("sample_annotation", record, "attribute_tokens")
        file = self.tables.folder / "sample_annotation.json"
        if len(tokens) > 1:
            raise UserInputError(f"{file}: record {record['token']!r}: attribute_tokens: more than one")
        if tokens and tokens[0] not in self.attributes:
            raise UserInputError(f"{file}: record {record['token']!r}: attribute_tokens: no such attribute")
        return str(self.attributes[tokens[0]]) if tokens else ""

    def _velocity(self, record: Record) -> Floats:
        """(3,) metres per second in the global frame: between the annotations before and after, NaN if none.

        A difference over more than 1.5 s, or 3 s from before to after, is no estimate.
        """
        t, name = self.tables, "sample_annotation"
        ends = []
        for side in ("prev", "next"):
            token = t.field(name, record, side)
            ends.append(t.get(name, token, f"{side} of {name} {record['token']!r}") if token else None)
        first, last = ends[0] or record, ends[1] or record
        times = [self._sample_time(r) for r in (first, last)]
        seconds = times[1] - times[0]
        most = _MAX_GAP * (2 if ends[0] and ends[1] else 1)
        if first is last or seconds > most or seconds <= 0:
            return np.full(3, np.nan)
        moved = t.numbers(name, last, "translation", 3) - t.numbers(name, first, "translation", 3)
        return np.asarray(moved / seconds)

    def _sample_time(self, annotation: Record) -> float:
        sample = self.tables.follow("sample_annotation", annotation, "sample_token", "sample")
        return 1e-6 * float(self.tables.field("sample", sample, "timestamp"))

    def _turn_boxes(self, first: int, to_global: Floats, sample: str) -> None:
        """Adds each new box in the lidar frame."""
        rows = self.box_rows[first:]
        if not rows:
            return
        columns = {
            name: np.array([row[name] for row in rows])
            for name in ("translation", "size", "rotation", "velocity")
        }
        boxes = boxes_from_nuscenes(columns["translation"], columns["size"], columns["rotation"])
        from_global = np.linalg.inv(to_global)
        try:
            boxes = transform_boxes(boxes, from_global)
        except ValueError as error:
            raise UserInputError(f"{self.tables.folder}: pose of sample {sample!r}: {error}") from error
        speed = columns["velocity"] @ from_global[:3, :3].T
        for row, box, velocity in zip(rows, boxes, speed, strict=True):
            row["lidar"] = np.concatenate((box, velocity[:2]))

    def index(self, labelled: bool) -> FrameIndex:
        def column(name: str, *shape: int, dtype: Any = np.float64) -> Any:
            values = [row[name] for row in self.box_rows]
            return np.array(values, dtype=dtype).reshape(len(values), *shape)

        tokens, scenes, times, matrices, ego = zip(*self.frames, strict=True)
        files, transforms, lags = zip(*self.sweep_rows, strict=True)
        return FrameIndex(
            tokens=np.array(tokens, np.str_),
            scenes=np.array(scenes, np.str_),
            timestamps=np.array(times, np.int64),
            lidar_to_global=np.array(matrices),
            ego=np.array(ego),
            sweep_offsets=np.concatenate(([0], np.cumsum(self.sweep_counts))),
            sweep_file=np.array(files, np.str_),
            sweep_matrix=np.array(transforms),
            sweep_lag=np.array(lags, np.float64),
            box_offsets=np.concatenate(([0], np.cumsum(self.box_counts))),
            box_name=column("name", dtype=np.str_),
            box_lidar=column("lidar", 9),
            box_lidar_points=column("lidar_points", dtype=np.int64),
            box_points=column("points", dtype=np.int64),
            box_attribute=column("attribute", dtype=np.str_),
            box_translation=column("translation", 3),
            box_size=column("size", 3),
            box_rotation=column("rotation", 4),
            box_velocity=column("velocity", 3)[:, :2],
            labelled=labelled,
        )
