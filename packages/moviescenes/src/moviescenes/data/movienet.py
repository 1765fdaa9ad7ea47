"""MovieNet's scene segmentation data ("scene318"): the published layout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moviescenes.data.films import FilmData, Uncertain, apply_uncertain
from moviescenes.data.text import read_lines
from moviescenes.features.networks import prepare
from moviescenes.shots import read_shot_rows
from tenfold._errors import UserInputError
from tenfold.io import read_image, read_json, restricted_load
from tenfold.io.arrays import read_npy

__all__ = ["KeyframeFiles", "MovieNetSceneSeg", "PickledRows", "ShotFiles", "read_labels"]


class ShotFiles:
    """Features of one film, a file for each shot: ``shot_0000.npy``, read when asked for.

    Args:
        folder: of the film.
        count: number of shots.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        """Number of shots."""
        return self.count

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Features of these shots, each file read once."""
        numbers = np.arange(self.count)[index]
        unique, places = np.unique(numbers, return_inverse=True)
        rows = np.stack([self._read(f"shot_{number:04d}") for number in unique.tolist()])
        return rows[places.reshape(numbers.shape)].astype(np.float32, copy=False)

    def _read(self, shot: str) -> npt.NDArray[Any]:
        return read_npy(self.folder / f"{shot}.npy")


class KeyframeFiles(ShotFiles):
    """Middle keyframes of one film, ``shot_0000_img_1.jpg``, made ready for a network: (3, 224, 224) each."""

    def _read(self, shot: str) -> npt.NDArray[Any]:
        return prepare(read_image(self.folder / f"{shot}_img_1.jpg"))


class PickledRows:
    """Features of one film in a pickle: shot id -> (d,), or (persons, d) whose mean counts; none gives zeros.

    Args:
        file: the pickle; only arrays and tensors are read from it.
        count: number of shots.
        dim: d where no shot has a row.
        presence: add a last number: 1 where there is a row.
    """

    def __init__(self, file: Path, count: int, *, dim: int = 512, presence: bool = False) -> None:
        self.file, self.count, self.dim, self.presence = file, count, dim, presence

    def __len__(self) -> int:
        """Number of shots."""
        return self.count

    @cached_property
    def table(self) -> npt.NDArray[np.float32]:
        """All rows (n, d)."""
        found = restricted_load(self.file, tensors=True, encoding="latin1")
        if not isinstance(found, dict):
            raise UserInputError(f"{self.file}: pickle: expected a dict of shots")
        try:
            rows = {int(key): _mean(value) for key, value in found.items()}
        except (TypeError, ValueError) as error:
            raise UserInputError(f"{self.file}: pickle: expected shot id -> numbers ({error})") from error
        known = [row for row in rows.values() if row is not None]
        dim = len(known[0]) if known else self.dim
        out = np.zeros((self.count, dim + self.presence), np.float32)
        for number, row in rows.items():
            if row is not None and 0 <= number < self.count:
                if len(row) != dim:
                    raise UserInputError(
                        f"{self.file}: shot {number}: got {len(row)} numbers; others have {dim}"
                    )
                out[number, :dim] = row
                if self.presence:
                    out[number, dim] = 1
        return out

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Rows of these shots."""
        rows: npt.NDArray[Any] = self.table[index]
        return rows


def _mean(value: Any) -> npt.NDArray[np.float64] | None:
    """Mean over persons; a mean over nobody, NaN in the authors' files, is None."""
    rows = np.asarray(value, np.float64)
    if rows.ndim == 1:
        rows = rows[None]
    if rows.ndim != 2:
        return None
    whole = rows[np.isfinite(rows).all(1)]
    mean: npt.NDArray[np.float64] | None = whole.mean(0) if whole.size else None
    return mean


def read_labels(path: str | Path, shots: int) -> npt.NDArray[np.int64]:
    """Labels (n - 1,) from lines ``0000 0``: shot id, label of the boundary after it (0, 1 or -1).

    A line for the last shot is left out, missing ones count as 0; both are warned of.

    Raises:
        UserInputError: unreadable, or other labels.
    """
    labels = np.zeros(max(0, shots - 1), np.int64)
    count = 0
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words:
            continue
        try:
            shot, label = int(words[0]), int(words[1])
        except (IndexError, ValueError) as error:
            raise UserInputError(f"{path}: line {number}: expected a shot and a label") from error
        if label not in (-1, 0, 1) or shot < 0:
            raise UserInputError(
                f"{path}: line {number}: got shot {shot}, label {label}; expected 0, 1 or -1"
            )
        count += 1
        if shot < len(labels):
            labels[shot] = label
    if count != len(labels):
        warnings.warn(f"{path}: {count} labels for {shots} shots; expected {len(labels)}", stacklevel=2)
    return labels


class MovieNetSceneSeg:
    """The films of a split.

    Args:
        root: folder with meta, label318, shot_movie318, place_feat, aud_feat, cast_feat, act_feat.
        split: train, val, test or all.
        keys: modalities to read.
        uncertain: what label -1 counts as; "positive" in all published code.
        presence: add a number to cast that says whether there is anybody.
        keyframes: folder with a folder of pictures for each film; they stand for place's features.

    Raises:
        UserInputError: files of the layout are missing or damaged.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        keys: Sequence[str] = ("place", "cast", "act", "aud"),
        *,
        uncertain: Uncertain = "positive",
        presence: bool = False,
        keyframes: str | Path | None = None,
    ) -> None:
        self.keyframes = None if keyframes is None else Path(keyframes)
        self.root, self.keys, self.uncertain, self.presence = Path(root), tuple(keys), uncertain, presence
        splits = read_json(self.root / "meta" / "split318.json")
        if not isinstance(splits, dict) or not isinstance(splits.get(split), list):
            raise UserInputError(f"{self.root / 'meta' / 'split318.json'}: {split}: no such split")
        self.ids: list[str] = [str(name) for name in splits[split]]

    def __len__(self) -> int:
        """Number of films."""
        return len(self.ids)

    def __getitem__(self, index: int) -> FilmData:
        """A film; its features are read when used."""
        name = self.ids[index]
        rows = read_shot_rows(self.root / "shot_movie318" / f"{name}.txt")
        labels = read_labels(self.root / "label318" / f"{name}.txt", len(rows))
        features = {key: self._features(key, name, len(rows)) for key in self.keys}
        return FilmData(name, features, apply_uncertain(labels, self.uncertain), np.array(rows, np.int64))

    def _features(self, key: str, name: str, count: int) -> PickledRows | ShotFiles:
        if key == "place" and self.keyframes is not None:
            if not (self.keyframes / name).is_dir():
                raise UserInputError(f"{self.keyframes}: {name}: no folder of that name")
            return KeyframeFiles(self.keyframes / name, count)
        folder = self.root / f"{key}_feat"
        if (folder / f"{name}.pkl").is_file():
            return PickledRows(folder / f"{name}.pkl", count, presence=self.presence and key == "cast")
        if (folder / name).is_dir():
            return ShotFiles(folder / name, count)
        raise UserInputError(f"{folder}: {name}: neither {name}.pkl nor a folder of that name")
