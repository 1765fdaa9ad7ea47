"""Annotations of older sets: OVSD, BBC Planet Earth, RAI."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moviescenes.data.text import read_numbers
from tenfold._errors import UserInputError

__all__ = ["OVSD", "RAI", "BBCPlanetEarth", "boundary_labels", "labels_from_starts"]

Ints = npt.NDArray[np.int64]


def boundary_labels(shots: npt.ArrayLike, scenes: npt.ArrayLike) -> Ints:
    """Labels of boundaries whose two shots overlap most with different scenes.

    Args:
        shots: (n, 2) first and last frames, last inclusive.
        scenes: (K, 2) likewise; gaps are allowed.

    Returns:
        (n - 1,) 0 and 1.

    >>> boundary_labels([[0, 9], [10, 19], [20, 29]], [[0, 17], [18, 29]]).tolist()
    [0, 1]
    """
    a, b = np.asarray(shots, np.int64), np.asarray(scenes, np.int64)
    inter = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0]) + 1
    inter = np.maximum(inter, 0)
    owner = inter.argmax(1)
    for k in np.flatnonzero(inter.max(1) == 0):  # a shot in a gap goes with the one before it
        owner[k] = owner[k - 1] if k else 0
    found: Ints = (owner[1:] != owner[:-1]).astype(np.int64)
    return found


def labels_from_starts(
    shots: npt.ArrayLike, starts: npt.ArrayLike, *, fps: float = 24.0, name: str = ""
) -> Ints:
    """Labels from the first frames of scenes: each goes to the boundary nearest in time.

    Args:
        shots: (n, 2), perhaps detected anew.
        starts: first frames of the scenes; the first scene's is no boundary.
        fps: to warn of boundaries more than a second away.
        name: of the film, for the warning.
    """
    table = np.asarray(shots, np.int64)
    labels = np.zeros(max(0, len(table) - 1), np.int64)
    if not len(labels):
        return labels
    edges = table[1:, 0]
    far = 0
    for start in np.asarray(starts, np.int64)[1:]:
        near = int(np.abs(edges - start).argmin())
        far += abs(int(edges[near]) - int(start)) > fps
        labels[near] = 1
    if far:
        warnings.warn(f"{name}: {far} scenes start more than a second from any cut", stacklevel=2)
    return labels


class OVSD:
    """Open video scene detection: ``<name>_scenes.txt`` with first and last frame of each scene.

    Args:
        root: folder.

    Raises:
        UserInputError: no such file.
    """

    def __init__(self, root: str | Path) -> None:
        self.files = sorted(Path(root).rglob("*_scenes.txt"))
        if not self.files:
            raise UserInputError(f"{root}: OVSD: no file *_scenes.txt")
        self.names = [file.name.removesuffix("_scenes.txt") for file in self.files]

    def scenes(self, name: str) -> Ints:
        """First and last frames (K, 2) of a film's scenes.

        Raises:
            UserInputError: no such film, or a damaged file.
        """
        if name not in self.names:
            raise UserInputError(
                f"{type(self).__name__}: {name}: no such film; there are {', '.join(self.names)}"
            )
        rows = read_numbers(self.files[self.names.index(name)], least=2)
        return np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)

    def labels(self, name: str, shots: npt.ArrayLike, *, fps: float = 24.0) -> Ints:
        """Labels (n - 1,) of the boundaries of these shots."""
        return labels_from_starts(shots, self.scenes(name)[:, 0], fps=fps, name=name)


class RAI(OVSD):
    """RAI: ``scenes_<n>.txt`` with first and last frame of each scene."""

    def __init__(self, root: str | Path) -> None:
        self.files = sorted(Path(root).rglob("scenes_*.txt"))
        if not self.files:
            raise UserInputError(f"{root}: RAI: no file scenes_*.txt")
        self.names = [file.stem.removeprefix("scenes_") for file in self.files]


class BBCPlanetEarth:
    """BBC Planet Earth: shots of each episode, and scenes of five annotators.

    Args:
        root: folder ``annotations`` with ``shots`` and ``scenes``.

    Raises:
        UserInputError: no such folders.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.episodes = sorted(file.stem for file in (self.root / "shots").glob("*.txt"))
        self.annotators = sorted(
            folder.name for folder in (self.root / "scenes").glob("*") if folder.is_dir()
        )
        if not self.episodes or not self.annotators:
            raise UserInputError(f"{root}: BBC: expected folders shots and scenes/<annotator>")

    def shots(self, episode: str) -> Ints:
        """First and last frames (n, 2); frames of gradual transitions belong to no shot."""
        rows = read_numbers(self.root / "shots" / f"{episode}.txt", least=2)
        return np.array([row[:2] for row in rows], np.int64)

    def labels(self, episode: str, annotator: str | None = None) -> Ints:
        """Labels (n - 1,) of one annotator, or of the majority of all.

        Args:
            episode: name of the file of shots.
            annotator: one of them; None asks all, of whom more than half must agree.
        """
        count = len(self.shots(episode))
        if annotator is not None:
            return self._one(episode, annotator, count)
        votes = np.sum([self._one(episode, name, count) for name in self.annotators], axis=0)
        found: Ints = (2 * votes > len(self.annotators)).astype(np.int64)
        return found

    def _one(self, episode: str, annotator: str, count: int) -> Ints:
        """First shots of scenes; 0 may be listed or not, and a last one may equal the number of shots."""
        files = sorted((self.root / "scenes" / annotator).glob(f"{episode}*"))
        if not files:
            raise UserInputError(f"{self.root}: scenes: {annotator} has no {episode}")
        labels = np.zeros(count - 1, np.int64)
        for row in read_numbers(files[0]):
            for shot in row:
                if not 0 <= shot <= count:
                    raise UserInputError(f"{files[0]}: got shot {shot}; the episode has {count}")
                if 0 < shot < count:
                    labels[shot - 1] = 1
        return labels
