"""A film in training, and its segments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from moviescenes.windows import clip_windows, segment_starts

__all__ = ["FilmData", "Rows", "SegmentDataset", "apply_uncertain"]

Uncertain = Literal["positive", "ignore", "negative"]
Ints = npt.NDArray[np.int64]


class Rows(Protocol):
    """Features of shots that may lie in files: read by number."""

    def __len__(self) -> int:
        """Number of shots."""
        ...

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Features of the shots with these numbers (any shape), or a slice of them."""
        ...


@dataclass
class FilmData:
    """A film: features of its shots, which boundaries are scene boundaries, and where the shots lie.

    Args:
        name: of the film.
        features: modality -> (n, ...), an array or something that reads like one.
        labels: (n - 1,) of the boundaries: 0, 1, or -1 for unknown.
        shots: (n, 2) first and last frame, last inclusive.
    """

    name: str
    features: Mapping[str, Rows]
    labels: Ints
    shots: Ints

    def __post_init__(self) -> None:
        """Check the lengths."""
        counts = {key: len(value) for key, value in self.features.items()}
        if any(count != len(self.shots) for count in counts.values()) or len(self.labels) != len(self) - 1:
            raise ValueError(
                f"FilmData: {self.name}: got {len(self.shots)} shots, {len(self.labels)} labels, features {counts};"
                " expected n, n - 1 and n"
            )

    def __len__(self) -> int:
        """Number of shots."""
        return len(self.shots)

    def arrays(self, keys: Sequence[str] | None = None) -> dict[str, npt.NDArray[np.float32]]:
        """All features in memory."""
        chosen = self.features if keys is None else {key: self.features[key] for key in keys}
        return {key: np.asarray(value[:], np.float32) for key, value in chosen.items()}


def apply_uncertain(labels: Ints, uncertain: Uncertain) -> Ints:
    """Labels with -1 turned into what they count as.

    Raises:
        ValueError: another word than the three.

    >>> apply_uncertain(np.array([0, -1, 1]), "positive").tolist()
    [0, 1, 1]
    """
    values = {"positive": 1, "ignore": -1, "negative": 0}
    if uncertain not in values:
        raise ValueError(f"uncertain: got {uncertain!r}; expected one of {', '.join(values)}")
    return np.where(labels < 0, values[uncertain], labels).astype(np.int64)


class SegmentDataset:
    """Segments of boundaries of all films, at stride half their length, shifted anew in each epoch.

    Args:
        films: to train on.
        keys: modalities.
        half_window: shots on each side of a boundary.
        seq_len: boundaries of a segment; those beyond a short film have label -1.
        seed: of the shifts.
        shuffle_scenes: permute whole scenes within a segment.
    """

    def __init__(
        self,
        films: Sequence[FilmData],
        keys: Sequence[str],
        *,
        half_window: int = 2,
        seq_len: int = 10,
        seed: int = 0,
        shuffle_scenes: bool = False,
    ) -> None:
        self.films, self.keys = list(films), tuple(keys)
        self.half, self.length, self.seed, self.shuffle_scenes = half_window, seq_len, seed, shuffle_scenes
        self.epoch = 0
        self._places = [
            (number, int(start))
            for number, film in enumerate(self.films)
            if len(film) > 1
            for start in segment_starts(len(film) - 1, seq_len, max(1, seq_len // 2))
        ]

    def set_epoch(self, epoch: int) -> None:
        """Shifts and permutations of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of segments."""
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[dict[str, npt.NDArray[np.float32]], Ints]:
        """Windows of a segment: modality -> (S, 2w, ...), and labels (S,)."""
        number, start = self._places[index]
        film = self.films[number]
        random = np.random.default_rng([self.seed, self.epoch, number])
        reach = max(1, self.length // 2)
        last = max(0, len(film) - 1 - self.length)
        start = int(np.clip(start + random.integers(-(reach // 2), reach - reach // 2 + 1), 0, last))
        numbers = np.arange(start, start + self.length)
        labels = np.full(self.length, -1, np.int64)
        inside = min(self.length, len(film) - 1 - start)
        labels[:inside] = film.labels[start : start + inside]
        windows = clip_windows(numbers, len(film), self.half)
        if self.shuffle_scenes:
            windows, labels = _shuffled(
                windows, labels, np.random.default_rng([self.seed, self.epoch, number, start])
            )
        return {key: np.asarray(film.features[key][windows], np.float32) for key in self.keys}, labels


def _shuffled(windows: Ints, labels: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Whole scenes of a segment in another order; the last label, whose scene goes on, stays."""
    known = int((labels >= 0).sum())
    half = windows.shape[1] // 2
    shots = windows[:known, half - 1]  # the shot before each boundary
    edges = [0, *(np.flatnonzero(labels[: known - 1] == 1) + 1).tolist(), known]
    runs = [shots[a:b] for a, b in itertools.pairwise(edges)]
    if len(runs) < 2:
        return windows, labels
    order = random.permutation(len(runs))
    mixed = np.concatenate([runs[k] for k in order])
    changed = np.concatenate([np.append(np.zeros(len(runs[k]) - 1, np.int64), 1) for k in order])
    labels = labels.copy()
    labels[: known - 1] = changed[:-1]
    # What lies before and after the segment stays in its place.
    before = np.clip(shots[0] - np.arange(half - 1, 0, -1), 0, None)
    line = np.concatenate((before, mixed, windows[known - 1, half:]))
    moved = windows.copy()
    for k in range(known):
        moved[k] = line[k : k + 2 * half]
    return moved, labels
