"""Scenes of a video: what `segment` returns, and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from moviescenes.shots import Shot, ShotList
from tenfold._errors import UserInputError
from tenfold.io import field as member
from tenfold.io import read_json

__all__ = ["SCHEMA", "Scene", "SceneList", "VideoFacts"]

SCHEMA = "moviescenes/1"


@dataclass(frozen=True)
class Scene:
    """A run of consecutive shots.

    Args:
        index: number from 0.
        first_shot: first shot.
        last_shot: last shot, inclusive.
        start_frame: first frame.
        end_frame: last frame, inclusive.
        start_time: seconds since the first frame of the video.
        end_time: seconds, exclusive.
        score_in: score of the boundary before it, from 0 to 1; None at the start.
        score_out: of the boundary after it; None at the end.
        threads: thread of each shot, see `scene_threads`; empty where not computed.
    """

    index: int
    first_shot: int
    last_shot: int
    start_frame: int
    end_frame: int
    start_time: float
    end_time: float
    score_in: float | None = None
    score_out: float | None = None
    threads: tuple[int, ...] = ()

    @property
    def confidence(self) -> float:
        """The smaller score of its two boundaries; 1 for the only scene of a video."""
        return min((s for s in (self.score_in, self.score_out) if s is not None), default=1.0)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end_time - self.start_time


@dataclass(frozen=True)
class VideoFacts:
    """What exports say of the video.

    Args:
        path: as the user named it.
        fps: nominal frame rate.
        frames: number of frames analysed and before them.
        duration: seconds up to the end of the last shot.
        width: pixels.
        height: pixels.
        vfr: the time between frames varies.
    """

    path: str
    fps: Fraction
    frames: int
    duration: float
    width: int = 0
    height: int = 0
    vfr: bool = False

    @property
    def name(self) -> str:
        """Name of the file without folders."""
        return Path(self.path).name


@dataclass
class SceneList(Sequence[Scene]):
    """The scenes of a video; they tile its shots.

    Args:
        scenes: in order.
        shots: of the video.
        video: facts about the file.
        probabilities: (n - 1,) of the boundaries before grouping; NaN where not scored.
        scores: (n - 1,) after grouping.
        params: how it was made.
        thumbnails: shot -> JPEG bytes.
    """

    scenes: tuple[Scene, ...]
    shots: ShotList
    video: VideoFacts
    probabilities: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    params: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def from_cuts(
        cls,
        cuts: Sequence[int] | npt.NDArray[np.integer],
        shots: ShotList,
        video: VideoFacts,
        *,
        probabilities: npt.ArrayLike | None = None,
        scores: npt.ArrayLike | None = None,
        threads: Sequence[Sequence[int]] = (),
        params: Mapping[str, Any] | None = None,
    ) -> SceneList:
        """From the boundaries that separate scenes: boundary i lies after shot i.

        Raises:
            ValueError: boundaries that the shots do not have.
        """
        edges = sorted({int(cut) for cut in cuts})
        if edges and not 0 <= edges[0] <= edges[-1] < len(shots) - 1:
            raise ValueError(f"SceneList: cuts: got {edges}; expected boundaries of {len(shots)} shots")
        p = np.zeros(len(shots) - 1) if probabilities is None else np.asarray(probabilities, np.float64)
        s = p if scores is None else np.asarray(scores, np.float64)
        starts, ends = [0, *(cut + 1 for cut in edges)], [*edges, len(shots) - 1]
        scenes = []
        for k, (a, b) in enumerate(zip(starts, ends, strict=True)):
            first, last = shots[a], shots[b]
            scenes.append(
                Scene(
                    *(k, a, b, first.start_frame, last.end_frame, first.start_time, last.end_time),
                    score_in=float(s[a - 1]) if a else None,
                    score_out=float(s[b]) if b < len(shots) - 1 else None,
                    threads=tuple(threads[k]) if threads else (),
                )
            )
        return cls(tuple(scenes), shots, video, p, s, dict(params or {}))

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | Sequence[Scene]:
        """A scene, or several."""
        return self.scenes[index]

    def __iter__(self) -> Iterator[Scene]:
        """Scenes in order."""
        return iter(self.scenes)

    def shots_of(self, scene: Scene) -> Sequence[Shot]:
        """The shots of a scene."""
        return self.shots[scene.first_shot : scene.last_shot + 1]

    def to_dict(self) -> dict[str, Any]:
        """The document of the JSON file."""
        video = self.video
        return {
            "schema": SCHEMA,
            "video": {
                "path": video.path,
                "fps_num": video.fps.numerator,
                "fps_den": video.fps.denominator,
                "frames": video.frames,
                "duration": round(video.duration, 6),
                "width": video.width,
                "height": video.height,
                "vfr": video.vfr,
            },
            "params": dict(self.params),
            "shots": [
                {
                    "index": shot.index,
                    "start_frame": shot.start_frame,
                    "end_frame": shot.end_frame,
                    "start_time": round(shot.start_time, 6),
                    "end_time": round(shot.end_time, 6),
                }
                for shot in self.shots
            ],
            "boundaries": [
                {"shot": k, "probability": _number(p), "score": _number(s)}
                for k, (p, s) in enumerate(zip(self.probabilities, self.scores, strict=True))
            ],
            "scenes": [
                {
                    "index": scene.index,
                    "first_shot": scene.first_shot,
                    "last_shot": scene.last_shot,
                    "start_frame": scene.start_frame,
                    "end_frame": scene.end_frame,
                    "start_time": round(scene.start_time, 6),
                    "end_time": round(scene.end_time, 6),
                    "confidence": _number(scene.confidence),
                    "threads": list(scene.threads),
                    "thumbnail": self._thumbnail(scene),
                }
                for scene in self.scenes
            ],
        }

    def _thumbnail(self, scene: Scene) -> int:
        """The frame that stands for a scene in pictures: the middle of its longest shot."""
        return self.longest_shot(scene).images[1]

    def longest_shot(self, scene: Scene) -> Shot:
        """The longest shot of a scene; of equals the first."""
        return max(self.shots_of(scene), key=lambda s: (s.end_time - s.start_time, -s.index))

    @classmethod
    def from_json(cls, path: str | Path) -> SceneList:
        """Read what `save` wrote as JSON.

        Raises:
            UserInputError: not such a file; names the field.
        """
        document = read_json(path)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise UserInputError(f"{path}: schema: expected {SCHEMA!r}")
        number = {name: member(document, f"video.{name}", int, path=path) for name in ("fps_num", "fps_den")}
        if number["fps_num"] < 1 or number["fps_den"] < 1:
            raise UserInputError(f"{path}: video.fps_num, fps_den: expected numbers above 0")
        fps = Fraction(number["fps_num"], number["fps_den"])
        kinds = {"path": str, "frames": int, "duration": float, "width": int, "height": int, "vfr": bool}
        facts: dict[str, Any] = {
            name: member(document, f"video.{name}", kind, path=path) for name, kind in kinds.items()
        }
        video = VideoFacts(fps=fps, **facts)
        shots = []
        for k in range(len(member(document, "shots", list, path=path))):
            names = (("start_frame", int), ("end_frame", int), ("start_time", float), ("end_time", float))
            values = [member(document, f"shots[{k}].{name}", kind, path=path) for name, kind in names]
            shots.append(Shot(k, *values))
        boundaries = member(document, "boundaries", list, path=path)
        rows = [member(document, f"boundaries[{k}]", dict, path=path) for k in range(len(boundaries))]
        columns = [np.array([_value(row.get(name)) for row in rows]) for name in ("probability", "score")]
        scenes = member(document, "scenes", list, path=path)
        cuts = [member(document, f"scenes[{k}].last_shot", int, path=path) for k in range(len(scenes) - 1)]
        threads = [
            member(document, f"scenes[{k}].threads", list, path=path)
            if "threads" in member(document, f"scenes[{k}]", dict, path=path)
            else []
            for k in range(len(scenes))
        ]
        if not shots or len(boundaries) != len(shots) - 1:
            raise UserInputError(f"{path}: boundaries: expected one between every two shots")
        try:
            return cls.from_cuts(
                *(cuts, ShotList(shots, fps, video.vfr), video),
                probabilities=columns[0],
                scores=columns[1],
                threads=threads,
                params=member(document, "params", dict, path=path),
            )
        except ValueError as error:
            raise UserInputError(f"{path}: scenes: {error}") from error

    def save(self, path: str | Path, format: str | None = None, **options: Any) -> list[Path]:
        """Write the scenes; see `moviescenes.export.save`."""
        from moviescenes.export import save

        return save(self, path, format, **options)


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _value(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
