"""Films whose features, shots and labels come in one file each."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moviescenes.data.annotations import boundary_labels
from moviescenes.data.films import FilmData
from moviescenes.data.text import read_lines
from tenfold._errors import UserInputError
from tenfold.io import read_json, restricted_load
from tenfold.io.arrays import read_npz

__all__ = ["FeaturePack", "SceneFeatures", "read_movienet_scenes", "read_ndjson", "read_scrl"]

Ints = npt.NDArray[np.int64]


class FeaturePack:
    """Pickles of one film each: ``place``, ``cast``, ``action``, ``audio``, labels and ends of shots.

    Args:
        root: folder of the pickles, or one of them.

    Raises:
        UserInputError: no file, or one without a field.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root)
        self.files = [path] if path.is_file() else sorted(path.glob("*.pkl"))
        if not self.files:
            raise UserInputError(f"{root}: feature pack: no .pkl file")

    def __len__(self) -> int:
        """Number of films."""
        return len(self.files)

    def __getitem__(self, index: int) -> FilmData:
        """A film."""
        return self.read(self.files[index])[0]

    @staticmethod
    def read(path: Path) -> tuple[FilmData, npt.NDArray[np.float64] | None]:
        """A film, and the published scores of its boundaries where the file has them."""
        found = restricted_load(path, tensors=True)
        names = {"place": "place", "cast": "cast", "act": "action", "aud": "audio"}
        try:
            ends = np.asarray(found["shot_end_frame"], np.int64).ravel()
            labels = np.asarray(found["scene_transition_boundary_ground_truth"], np.int64).ravel()
            features = {
                key: np.asarray(found[name], np.float32) for key, name in names.items() if name in found
            }
            name = str(found.get("imdb_id", path.stem))
            scores = found.get("scene_transition_boundary_prediction")
        except (KeyError, TypeError, ValueError) as error:
            raise UserInputError(f"{path}: feature pack: {error} is missing or damaged") from error
        shots = np.stack((np.append(0, ends[:-1] + 1), ends), 1)
        film = _film(path, name, features, labels, shots)
        return film, None if scores is None else np.asarray(scores, np.float64).ravel()


class SceneFeatures:
    """``.npz`` files of one film each: ``features`` (n, d), ``shots`` and ``scenes`` (start, end frame).

    A boundary is a scene boundary where its two shots overlap most with different scenes.

    Args:
        root: folder.
        pattern: of the files' names, such as ``bbc_*.npz``.

    Raises:
        UserInputError: no file, or one without a field.
    """

    def __init__(self, root: str | Path, pattern: str = "*.npz") -> None:
        self.files = sorted(Path(root).glob(pattern))
        if not self.files:
            raise UserInputError(f"{root}: scene features: no {pattern}")

    def __len__(self) -> int:
        """Number of films."""
        return len(self.files)

    def __getitem__(self, index: int) -> FilmData:
        """A film."""
        path = self.files[index]
        found = read_npz(path)
        missing = [name for name in ("features", "shots", "scenes") if name not in found]
        if missing:
            raise UserInputError(f"{path}: {missing[0]}: is missing")
        shots = found["shots"].astype(np.int64)
        labels = boundary_labels(shots, found["scenes"].astype(np.int64))
        return _film(path, path.stem, {"place": found["features"].astype(np.float32)}, labels, shots)


def _film(path: Path, name: str, features: dict[str, Any], labels: Ints, shots: Ints) -> FilmData:
    try:
        return FilmData(name, features, labels, shots)
    except ValueError as error:
        raise UserInputError(f"{path}: {error}") from error


def read_ndjson(path: str | Path) -> dict[str, Ints]:
    """BaSSL's list: a line a shot with ``video_id``, ``shot_id``, ``num_shot`` and ``boundary_label``.

    Returns:
        Film -> labels (n - 1,) of its boundaries.

    Raises:
        UserInputError: unreadable; names the line.
    """
    films: dict[str, Ints] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, shot, count = str(row["video_id"]), int(row["shot_id"]), int(row["num_shot"])
            label = int(row["boundary_label"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserInputError(
                f"{path}: line {number}: expected a shot's video_id, shot_id, num_shot"
            ) from error
        labels = films.setdefault(name, np.zeros(max(0, count - 1), np.int64))
        if 0 <= shot < len(labels):
            labels[shot] = label
    return films


def read_scrl(path: str | Path) -> list[FilmData]:
    """SCRL's pickle: film -> list of (features (1, d), label) a shot.

    Frames are not stored: each shot counts as one frame.

    Raises:
        UserInputError: unreadable or of another form.
    """
    found = restricted_load(path, tensors=True)
    films = []
    try:
        for name, rows in found.items():
            table = np.stack([np.asarray(row[0], np.float32).ravel() for row in rows])
            labels = np.array([int(row[1]) for row in rows[:-1]], np.int64)
            number = np.arange(len(table))
            films.append(FilmData(str(name), {"place": table}, labels, np.stack((number, number), 1)))
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise UserInputError(f"{path}: pickle: expected film -> list of (features, label)") from error
    return films


def read_movienet_scenes(path: str | Path) -> list[tuple[int, int]]:
    """First and last shot of each scene from a MovieNet annotation, both inclusive.

    Where the second number of ``shot`` is the first of the next scene, it is read as exclusive.

    Raises:
        UserInputError: unreadable, or no scenes.
    """
    found = read_json(path)
    scenes = found.get("scene") if isinstance(found, dict) else None
    if not isinstance(scenes, list):
        raise UserInputError(f"{path}: scene: is missing")
    try:
        spans = [(int(scene["shot"][0]), int(scene["shot"][1])) for scene in scenes]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserInputError(f"{path}: scene: shot: expected two numbers") from error
    shared = len(spans) > 1 and all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    return [(first, last - shared) for first, last in spans]
