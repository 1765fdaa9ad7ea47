"""The relational tables of nuScenes v1.0, read by this module alone and checked as they are used.

::

    ROOT/v1.0-{trainval,test,mini}/*.json      or   ROOT/v1.0-X/v1.0-X/*.json
    ROOT/samples/..., ROOT/sweeps/...          or   ROOT/v1.0-X/samples/..., ROOT/v1.0-X/sweeps/...
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.io import read_json

__all__ = ["LIDAR", "TABLES", "NuScenesTables", "pose_matrix"]

Record = dict[str, Any]
Matrix = npt.NDArray[np.float64]

LIDAR = "LIDAR_TOP"

#: The thirteen tables of the schema.
TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)


def data_root(root: Path, version: str) -> Path:
    """Folder that holds a version's tables, samples and sweeps, in either of the two layouts above."""
    nested = root / version
    return nested if (nested / version).is_dir() else root


class NuScenesTables:
    """Tables of one version of the data set, loaded when they are first asked for.

    Args:
        root: folder of the data set, in either of the two layouts above.
        version: "v1.0-trainval", "v1.0-test" or "v1.0-mini"; any folder name with the same tables will do.

    Raises:
        UserInputError: a missing folder or table; and on access a table that is no list of records, a token
            that occurs twice, a reference to a token that no record has, a missing field.

    >>> tables = NuScenesTables("data/nuscenes", "v1.0-mini")  # doctest: +SKIP
    >>> len(tables.all("sample"))  # doctest: +SKIP
    404
    """

    def __init__(self, root: str | Path, version: str) -> None:
        self.root, self.version = Path(root), version
        #: Folder below which the file names of the tables lie.
        self.data_root = data_root(self.root, version)
        self.folder = self.data_root / version
        if not self.folder.is_dir():
            raise UserInputError(f"{self.folder}: version {version!r}: the folder of the tables is missing")
        missing = [name for name in TABLES if not (self.folder / f"{name}.json").is_file()]
        if missing:
            raise UserInputError(
                f"{self.folder / missing[0]}.json: the table is missing ({len(missing)} of {len(TABLES)} tables "
                f"are: {', '.join(missing)})"
            )
        self._tables: dict[str, dict[str, Record]] = {}

    def _table(self, name: str) -> dict[str, Record]:
        if name not in self._tables:
            self._tables[name] = _by_token(self._file(name), read_json(self._file(name)))
        return self._tables[name]

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def all(self, table: str) -> list[Record]:
        """Records of a table in the file's order."""
        return list(self._table(table).values())

    def get(self, table: str, token: str, asked_by: str = "") -> Record:
        """The record with this token.

        Raises:
            UserInputError: there is none; `asked_by` tells where the token stands.
        """
        record = self._table(table).get(token)
        if record is None:
            by = f", to which {asked_by} refers" if asked_by else ""
            raise UserInputError(f"{self._file(table)}: token {token!r} is missing{by}; the chain is broken")
        return record

    def field(self, table: str, record: Record, name: str) -> Any:
        """One field of a record.

        Raises:
            UserInputError: the record has no such field.
        """
        try:
            return record[name]
        except KeyError:
            raise UserInputError(
                f"{self._file(table)}: record {record.get('token')!r}: {name}: missing"
            ) from None

    def follow(self, table: str, record: Record, name: str, target: str) -> Record:
        """The record of `target` to which a field of `record` refers."""
        return self.get(target, self.field(table, record, name), f"{name} of {table} {record.get('token')!r}")

    def numbers(self, table: str, record: Record, name: str, count: int) -> Matrix:
        """A field of `count` finite numbers.

        Raises:
            UserInputError: something else stands there.
        """
        given = self.field(table, record, name)
        try:
            values = np.array(given, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.full(0, np.nan)
        if values.shape != (count,) or not np.isfinite(values).all():
            raise UserInputError(
                f"{self._file(table)}: record {record.get('token')!r}: {name}: got {given!r}; expected "
                f"{count} finite numbers"
            )
        return values

    def pose(self, table: str, record: Record) -> Matrix:
        """``(4, 4)`` matrix of an ego_pose (car to global) or a calibrated_sensor (sensor to car)."""
        quaternion = self.numbers(table, record, "rotation", 4)
        if not quaternion.any():
            raise UserInputError(f"{self._file(table)}: record {record['token']!r}: rotation: length 0")
        return pose_matrix(quaternion, self.numbers(table, record, "translation", 3))

    @cached_property
    def samples_by_scene(self) -> Mapping[str, list[Record]]:
        """Key frames of each scene by its name, in the order of their chain.

        Raises:
            UserInputError: a chain that is broken, runs in a circle, leaves its scene or does not hold as many
                key frames as the scene announces; or a scene's name that occurs twice.
        """
        scenes: dict[str, list[Record]] = {}
        for scene in self.all("scene"):
            name = self.field("scene", scene, "name")
            if name in scenes:
                raise UserInputError(f"{self._file('scene')}: two scenes have the name {name!r}")
            scenes[name] = list(self._chain(scene))
        return scenes

    def _chain(self, scene: Record) -> Iterator[Record]:
        count = int(self.field("scene", scene, "nbr_samples"))
        sample = self.follow("scene", scene, "first_sample_token", "sample")
        for number in range(1, count + 1):
            if self.field("sample", sample, "scene_token") != scene["token"]:
                raise UserInputError(
                    f"{self._file('sample')}: sample {sample['token']!r} belongs to another scene than the one "
                    f"whose chain it is part of ({scene['name']}); the chain is broken"
                )
            yield sample
            following = self.field("sample", sample, "next")
            if (following == "") != (number == count):
                found = "ends" if following == "" else "goes on"
                raise UserInputError(
                    f"{self._file('sample')}: the chain of scene {scene['name']} {found} after {number} samples; "
                    f"the scene announces {count}"
                )
            if following:
                sample = self.follow("sample", sample, "next", "sample")

    @cached_property
    def lidar_key_frames(self) -> Mapping[str, Record]:
        """The lidar's key-frame record of each sample token.

        Raises:
            UserInputError: two records for one sample.
        """
        channel = {
            sensor["token"]: self.follow("calibrated_sensor", sensor, "sensor_token", "sensor").get("channel")
            for sensor in self.all("calibrated_sensor")
        }
        found: dict[str, Record] = {}
        for record in self.all("sample_data"):
            if not record.get("is_key_frame"):
                continue
            if channel.get(self.field("sample_data", record, "calibrated_sensor_token")) != LIDAR:
                continue
            token = self.field("sample_data", record, "sample_token")
            if token in found:
                raise UserInputError(
                    f"{self._file('sample_data')}: sample {token!r} has two key frames of {LIDAR}"
                )
            found[token] = record
        return found

    @cached_property
    def annotations(self) -> Mapping[str, list[Record]]:
        """Annotations of each sample token, in the file's order; samples without any are absent."""
        found: dict[str, list[Record]] = {}
        for record in self.all("sample_annotation"):
            found.setdefault(self.field("sample_annotation", record, "sample_token"), []).append(record)
        return found


def _by_token(file: Path, records: Any) -> dict[str, Record]:
    if not isinstance(records, list):
        raise UserInputError(f"{file}: document: got {type(records).__name__}; expected a list of records")
    table: dict[str, Record] = {}
    for number, record in enumerate(records):
        token = record.get("token") if isinstance(record, dict) else None
        if not isinstance(token, str) or not token:
            raise UserInputError(f"{file}: record {number}: token: missing")
        if token in table:
            raise UserInputError(f"{file}: token {token!r} occurs twice")
        table[token] = record
    return table


def pose_matrix(quaternion: Matrix, translation: Matrix) -> Matrix:
    """``(4, 4)`` rigid transform of a quaternion w, x, y, z (any length but zero) and a translation.

    >>> pose_matrix(np.array([1.0, 0, 0, 1]), np.zeros(3))[:2, :2].round(6).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    matrix = np.eye(4)
    matrix[:3, :3] = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    matrix[:3, 3] = translation
    return matrix
