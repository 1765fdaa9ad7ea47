"""Generated films: video files with known cuts, known scenes and a tone in each scene."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Film", "FilmPlan", "plan_film", "write_film"]

Image = npt.NDArray[np.uint8]
_RATE = 44100


@dataclass(frozen=True)
class FilmPlan:
    """What a generated film shows.

    Args:
        lengths: frames of each shot.
        scene_of: scene of each shot.
        framing_of: which of its scene's two framings each shot shows.
        seed: of the textures.
        dissolve: shot that begins with a dissolve of twelve frames instead of a cut; None for none.
    """

    lengths: tuple[int, ...]
    scene_of: tuple[int, ...]
    framing_of: tuple[int, ...]
    seed: int = 0
    dissolve: int | None = None

    @property
    def starts(self) -> list[int]:
        """First frame of each shot."""
        return [0, *np.cumsum(self.lengths[:-1]).tolist()]

    @property
    def hard_cuts(self) -> list[int]:
        """First frames of the shots that begin with a cut."""
        return [start for k, start in enumerate(self.starts) if k and k != self.dissolve]

    @property
    def scene_cuts(self) -> list[int]:
        """First frames of the scenes but the first."""
        starts = self.starts
        return [starts[k] for k in range(1, len(starts)) if self.scene_of[k] != self.scene_of[k - 1]]


@dataclass(frozen=True)
class Film:
    """A written film: the plan, and when each of its frames is shown.

    Args:
        plan: what it shows.
        times: seconds of each frame.
    """

    plan: FilmPlan
    times: tuple[float, ...]


def plan_film(
    seed: int = 0, scenes: int = 12, *, shots: tuple[int, int] = (3, 8), frames: tuple[int, int] = (18, 44)
) -> FilmPlan:
    """A film of scenes with two alternating framings each, and one dissolve inside a scene.

    Args:
        seed: of everything random.
        scenes: number of them.
        shots: least and largest number of shots a scene.
        frames: least and largest length of a shot.

    >>> plan = plan_film(0, 3)
    >>> len(plan.scene_cuts), plan.lengths == plan_film(0, 3).lengths
    (2, True)
    """
    random = np.random.default_rng([seed, 77])
    counts = random.integers(shots[0], shots[1] + 1, scenes).tolist()
    scene_of = [k for k, count in enumerate(counts) for _ in range(count)]
    framing_of = [m % 2 for count in counts for m in range(count)]
    lengths = random.integers(frames[0], frames[1] + 1, len(scene_of)).tolist()
    inside = [k for k in range(1, len(scene_of)) if scene_of[k] == scene_of[k - 1]]
    dissolve = int(random.choice(inside)) if inside and scenes > 2 else None
    return FilmPlan(tuple(lengths), tuple(scene_of), tuple(framing_of), seed, dissolve)


class _Texture:
    """A moving pattern of a framing: waves in two of its scene's three colours."""

    def __init__(self, seed: int, scene: int, framing: int) -> None:
        palette = np.random.default_rng([seed, scene])
        # Hues of neighbouring scenes lie far apart; brightness sets the two framings of a scene apart.
        hue = (0.11 + 0.381966 * scene + palette.uniform(0, 0.04)) % 1
        random = np.random.default_rng([seed, scene, framing])
        value = (0.85, 0.35)[framing] + palette.uniform(-0.05, 0.05)
        self.colours = np.stack([_rgb(hue, 0.75, value), _rgb((hue + 0.09) % 1, 0.55, value * 0.6)])
        self.waves = random.uniform(0.5, 3.0, (3, 2)) * random.choice((-1, 1), (3, 2))
        self.phase = random.uniform(0, 2 * np.pi, 3)
        self.speed = random.uniform(0.1, 0.35) * random.choice((-1, 1))

    def frame(self, number: int, width: int, height: int) -> npt.NDArray[np.float32]:
        """Pixels (height, width, 3) from 0 to 255; a sum of plane waves is a product of two thin matrices."""
        y, x = np.linspace(0, 1, height), np.linspace(0, 1, width)
        down, right = [], []
        for (a, b), phase in zip(2 * np.pi * self.waves, self.phase, strict=True):
            turn = b * y + phase + self.speed * number * 0.1
            down += [np.cos(turn), np.sin(turn)]
            right += [np.sin(a * x), np.cos(a * x)]
        waves = np.stack(down, 1).astype(np.float32) @ np.stack(right).astype(np.float32)
        mix = np.clip(0.5 + 0.5 * waves, 0, 1)[..., None]
        low, high = (np.float32(255) * self.colours[k].astype(np.float32) for k in (1, 0))
        pixels: npt.NDArray[np.float32] = low + mix * (high - low)
        return pixels


def _rgb(hue: float, saturation: float, value: float) -> npt.NDArray[np.float64]:
    channels = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value - value * saturation * np.clip(np.minimum(channels, 4 - channels), 0, 1)


def film_frames(plan: FilmPlan, width: int, height: int) -> Iterator[Image]:
    """The pictures of a film, one after the other."""
    textures: dict[tuple[int, int], _Texture] = {}
    for shot, length in enumerate(plan.lengths):
        key = (plan.scene_of[shot], plan.framing_of[shot])
        texture = textures.setdefault(key, _Texture(plan.seed, *key))
        before = (
            textures[plan.scene_of[shot - 1], plan.framing_of[shot - 1]] if shot == plan.dissolve else None
        )
        for number in range(length):
            image = texture.frame(number, width, height)
            if before is not None and number < 12:
                share = np.float32((number + 1) / 13)
                image = share * image + (1 - share) * before.frame(number, width, height)
            yield np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _tone(plan: FilmPlan, times: list[float], end: float) -> npt.NDArray[np.float32]:
    """A tone for each scene, faded at the scene's ends."""
    samples = np.zeros(math.ceil(end * _RATE), np.float32)
    edges = [0.0, *(times[cut] for cut in plan.scene_cuts), end]
    for scene, (a, b) in enumerate(itertools.pairwise(edges)):
        low, high = int(a * _RATE), min(len(samples), int(b * _RATE))
        clock = np.arange(high - low) / _RATE
        hertz = 180.0 * 2 ** ((scene * 5 % 24) / 6)
        fade = np.clip(np.minimum(clock, clock[-1] - clock) * 100, 0, 1) if high > low else clock
        samples[low:high] = (
            0.3 * fade * (np.sin(2 * np.pi * hertz * clock) + 0.3 * np.sin(4 * np.pi * hertz * clock))
        )
    return samples


def write_film(
    path: str | Path,
    plan: FilmPlan,
    *,
    fps: Fraction | int = 25,
    size: tuple[int, int] = (320, 180),
    audio: bool = True,
    variable: bool = False,
    audio_seconds: float | None = None,
    first_pts: int = 0,
) -> Film:
    """Write a film as a video file; the ending of the name chooses the container.

    Args:
        path: the file.
        plan: what it shows.
        fps: frame rate.
        size: width and height, even.
        audio: with a tone in each scene.
        variable: every third frame is shown twice as long.
        audio_seconds: length of the sound; that of the picture by default.
        first_pts: stamp of the first frame, in frames; may be below 0.

    Returns:
        The film, with the time of every frame.
    """
    import av

    rate = Fraction(fps)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20"}
        base = 1 / rate
        stream.time_base = stream.codec_context.time_base = base
        sound: Any = container.add_stream("aac", rate=_RATE) if audio else None
        if sound is not None:
            sound.layout = "mono"
        stamps = []
        stamp = 0
        for number, image in enumerate(film_frames(plan, *size)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp + first_pts, base
            stamps.append(stamp)
            stamp += 2 if variable and number % 3 == 2 else 1
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        times = [float(s * base) for s in stamps]
        if sound is not None:
            end = float(stamp * base)
            _write_sound(container, sound, _tone(plan, times, end), audio_seconds)
    return Film(plan, tuple(times))


def _write_sound(
    container: Any, stream: Any, samples: npt.NDArray[np.float32], seconds: float | None
) -> None:
    import av

    kept = samples if seconds is None else samples[: int(seconds * _RATE)]
    for start in range(0, len(kept), 1024):
        part = kept[start : start + 1024]
        frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, start, Fraction(1, _RATE)
        for packet in stream.encode(frame):
            container.mux(packet)
    for packet in stream.encode():
        container.mux(packet)
