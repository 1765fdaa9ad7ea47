"""What the readers of all data sets have in common: frames with points and objects, and lists of frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["LidarFrame", "LidarReader", "Objects", "Resampled", "balanced_indices"]


@dataclass(frozen=True, eq=False)
class Objects:
    """Labelled objects of one frame in the lidar frame.

    Attributes:
        names: class of each object.
        boxes: ``(M, 7)``, or ``(M, 9)`` with vx, vy (m/s; NaN where unknown).
        difficulty: ``(M,)`` 0 easy, 1 moderate, 2 hard, -1 none of them; 0 where a data set knows no levels.
    """

    names: tuple[str, ...]
    boxes: npt.NDArray[np.float64]
    difficulty: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


class LidarFrame(Protocol):
    """A frame as a reader returns it."""

    @property
    def frame_id(self) -> str:
        """Name of the frame."""

    @property
    def points(self) -> npt.NDArray[np.float32]:
        """``(N, C)`` x, y, z in metres, then features."""

    @property
    def objects(self) -> Objects | None:
        """Labelled objects; None without labels."""


class LidarReader(Protocol):
    """A list of frames, one split of a data set."""

    root: Path

    @property
    def ids(self) -> Sequence[str]:
        """Names of the frames."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    @property
    def prepared_name(self) -> str:
        """Names the files that `prepare` writes for this split."""

    @property
    def settings(self) -> list[Any]:
        """What decides the content of frames, as JSON types."""


class Resampled:
    """Frames of a reader in a list of one's own, in which they may occur several times or never.

    Args:
        frames: the reader.
        indices: ``(K,)`` its frames to use.

    >>> class Two:
    ...     root, ids, prepared_name, settings = Path("."), ("a", "b"), "x", []
    ...     def __len__(self): return 2
    ...     def __getitem__(self, index): return index
    >>> again = Resampled(Two(), np.array([1, 1, 0]))
    >>> len(again), again[0], again.ids
    (3, 1, ('b', 'b', 'a'))
    """

    def __init__(self, frames: LidarReader, indices: npt.NDArray[np.int64]) -> None:
        self.frames, self.indices = frames, np.asarray(indices, dtype=np.int64)
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < len(frames):
            raise ValueError(f"Resampled: indices: got some outside 0 to {len(frames) - 1}")
        self.root, self.prepared_name, self.settings = frames.root, frames.prepared_name, frames.settings
        self.ids = tuple(frames.ids[k] for k in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.frames[int(self.indices[index])]


def balanced_indices(
    classes_of_frames: Sequence[Sequence[str]], class_names: Sequence[str], seed: int = 0
) -> npt.NDArray[np.int64]:
    """Frames of a class-balanced epoch (CBGS): every class draws equally many of the frames that show it.

    With C classes, of which class c occurs in n_c frames, each draws (sum of n_c) / C frames with replacement.
    A class that no frame shows draws none.

    Args:
        classes_of_frames: classes of the objects of each frame.
        class_names: classes to balance.
        seed: of the draws.

    Source: Zhu et al. 2019, section 3.1 (DS sampling), as OpenPCDet computes it.

    >>> balanced_indices([["car"], ["car"], ["car", "bus"]], ["car", "bus"], 0)[2:].tolist()
    [2, 2]
    """
    holders = [
        np.array([k for k, names in enumerate(classes_of_frames) if name in names], dtype=np.int64)
        for name in class_names
    ]
    each = int(sum(map(len, holders)) / max(len(class_names), 1))
    rng = np.random.default_rng([seed, 0xCB65])
    drawn = [rng.choice(frames, each) for frames in holders if len(frames)]
    return np.concatenate([np.zeros(0, np.int64), *drawn])
