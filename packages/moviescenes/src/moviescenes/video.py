"""Video and sound as streams: two frames in memory at a time, times from presentation stamps.

Frame numbers count the frames that could be decoded, in the order in which they are shown, from 0. Times are
seconds since the first of them, whatever stamp the file starts with.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError

__all__ = ["Frame", "Video", "frame_rate", "probe", "read_audio", "read_frames", "shot_audio"]

Image = npt.NDArray[np.uint8]

#: Frames in a row that may be damaged before the file is given up.
MAX_DAMAGED = 8

#: Pixels of a picture that is decoded faster by the reader alone than with helpers, which have to be woken.
SMALL = 160_000

_RATES = tuple(Fraction(n, d) for n in (24, 25, 30, 48, 50, 60, 100, 120) for d in (1,)) + tuple(
    Fraction(1000 * n, 1001) for n in (24, 30, 48, 60, 120)
)


@dataclass(frozen=True)
class Video:
    """What is known of a file before it is decoded.

    Args:
        path: the file.
        fps: nominal frame rate, such as 24000/1001.
        width: of an upright frame, pixels.
        height: of an upright frame, pixels.
        has_audio: there is a sound track.
        frames: number of frames that the file announces; 0 where it does not.
        first: presentation time of the first frame in the file, seconds.
    """

    path: Path
    fps: Fraction
    width: int
    height: int
    has_audio: bool
    frames: int
    first: float


class _Pixels:
    """The converters of one file, each of which keeps its tables from frame to frame: one a size and thread."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self.full, self.small, self.ahead = VideoReformatter(), VideoReformatter(), VideoReformatter()
        self.wanted = False  # the caller looks at whole frames


class Frame:
    """A decoded frame.

    Args:
        index: number from 0.
        time: seconds since the first frame.
        duration: seconds that it is shown, as the file says or as the rate suggests.
    """

    __slots__ = ("_frame", "_pixels", "_rgb", "_turns", "duration", "index", "time")

    def __init__(self, index: int, time: float, duration: float, frame: Any, pixels: _Pixels) -> None:
        self.index, self.time, self.duration = index, time, duration
        self._frame, self._turns, self._pixels = frame, _turns(frame), pixels
        self._rgb = _rgb(pixels.ahead, frame) if pixels.wanted else None

    def rgb(self, stride: int = 1) -> Image:
        """Upright pixels (H, W, 3), to be read only; of a stride above 1 every so manieth row and column."""
        self._pixels.wanted = True
        if self._rgb is None:
            self._rgb = _rgb(self._pixels.full, self._frame)
        image = self._rgb[::stride, ::stride]
        return np.rot90(image, self._turns) if self._turns else image

    def small(self, width: int) -> Image:
        """Upright pixels, at most `width` wide or high before turning, filtered."""
        frame = self._frame
        scale = width / max(frame.width, frame.height)
        if scale < 1:
            size = [max(2, round(side * scale)) for side in (frame.width, frame.height)]
            image = _rgb(self._pixels.small, frame, width=size[0], height=size[1])
        else:
            image = _rgb(self._pixels.full, frame)
        return np.rot90(image, self._turns) if self._turns else image


def _rgb(converter: Any, frame: Any, **size: int) -> Image:
    # One thread: by default PyAV takes all, which wait for each other longer than a frame takes.
    image: Image = converter.reformat(frame, format="rgb24", threads=1, **size).to_ndarray()
    return image


def probe(path: str | Path) -> Video:
    """Look into a file: sizes, rate and tracks, and the first frame's time.

    Raises:
        UserInputError: it is missing, no video that can be decoded, or has no picture.
    """
    for frame, stream, audio in _decode(path):
        turned = _turns(frame) % 2
        width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
        return Video(
            path=Path(path),
            fps=frame_rate(stream.average_rate or stream.guessed_rate or stream.base_rate),
            width=width,
            height=height,
            has_audio=audio,
            frames=int(stream.frames),
            first=_seconds(frame.pts, stream.time_base) if frame.pts is not None else 0.0,
        )
    raise UserInputError(f"{path}: video: no frame can be decoded")


def frame_rate(rate: Fraction | None) -> Fraction:
    """The usual rate that a file's average means; 2997/125 is 24000/1001.

    >>> frame_rate(Fraction(2997, 125)), frame_rate(Fraction(13, 1)), frame_rate(None)
    (Fraction(24000, 1001), Fraction(13, 1), Fraction(25, 1))
    """
    if not rate or rate <= 0:
        return Fraction(25)
    near = min(_RATES, key=lambda usual: abs(usual - rate))
    return near if abs(near - rate) / rate < Fraction(1, 5000) else Fraction(rate)


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Decode a file, frame by frame; a thread makes the next one while the caller looks at this one.

    Damaged frames are left out, up to eight in a row.

    Raises:
        UserInputError: the file is missing, no video, or damaged beyond that.
    """
    frames = _frames(path)
    with ThreadPoolExecutor(1, "tenfold-reader") as reader:
        try:
            coming = reader.submit(next, frames, None)
            while (frame := coming.result()) is not None:
                coming = reader.submit(next, frames, None)
                yield frame
        finally:  # in the thread, after the frame that it may be at
            reader.submit(frames.close)


def _frames(path: str | Path) -> Generator[Frame, None, None]:
    pixels = _Pixels()
    count, first, last, step, base = 0, None, 0.0, 0.04, Fraction(1)
    for frame, stream, _ in _decode(path):
        if count == 0:
            step, base = float(1 / frame_rate(stream.average_rate or stream.guessed_rate)), stream.time_base
        stamp = None if frame.pts is None else _seconds(frame.pts, base)
        first = stamp if first is None and stamp is not None else first
        time = last + step if stamp is None or first is None else stamp - first
        if count == 0:
            time = 0.0
        elif time <= last:  # two frames cannot be shown at once
            time = last + step * 1e-3
        duration = _seconds(frame.duration, base) if frame.duration else step
        yield Frame(count, time, duration, frame, pixels)
        count, last = count + 1, time
    if count == 0:
        raise UserInputError(f"{path}: video: no frame can be decoded")


def _seconds(stamp: int, base: Fraction) -> float:
    # As float(stamp * base), without the common divisor that every product of fractions looks for.
    return stamp * base.numerator / base.denominator


def _turns(frame: Any) -> int:
    """Quarter turns counter-clockwise that make the frame upright."""
    return round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """An open container; what goes wrong on opening names the file."""
    import av

    file = Path(path)
    if not file.is_file():
        raise UserInputError(f"{path}: video: {'is no file' if file.exists() else 'does not exist'}")
    try:
        container = av.open(f"file:{file.absolute()}", metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserInputError(f"{path}: video: cannot be read ({_reason(error)})") from error
    with container:
        yield container


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _decode(path: str | Path) -> Iterator[tuple[Any, Any, bool]]:
    """Frames as PyAV has them, the picture's stream, and whether there is sound."""
    import av

    with _opened(path) as container:
        if not container.streams.video:
            raise UserInputError(f"{path}: video: has no picture track")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if stream.codec_context.width * stream.codec_context.height <= SMALL:
            stream.codec_context.thread_count = 1
        audio, damaged, seen = bool(container.streams.audio), 0, 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except (av.error.FFmpegError, ValueError) as error:
                damaged += 1
                if damaged > MAX_DAMAGED:
                    raise UserInputError(
                        f"{path}: video: more than {MAX_DAMAGED} frames in a row are damaged after frame"
                        f" {seen} ({_reason(error)})"
                    ) from error
                continue
            for frame in frames:
                damaged, seen = 0, seen + 1
                yield frame, stream, audio


def read_audio(path: str | Path, rate: int = 16000) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """Decode the first sound track as the mean of its channels.

    Args:
        path: the file.
        rate: samples per second.

    Yields:
        Time of the first sample in the file's own clock (the clock of `Video.first`), seconds, and samples
        (n,) from -1 to 1. Nothing where there is no sound track; the sound ends where it is damaged.

    Raises:
        UserInputError: the file cannot be opened.
    """
    import av

    with _opened(path) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        resampler: Any = None
        origin, done = None, 0
        try:
            for frame in container.decode(stream):
                if resampler is None:
                    layout = frame.layout.name
                    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
                if frame.pts is not None:
                    stamp = _seconds(frame.pts, frame.time_base)
                    ahead = 0.0 if origin is None else stamp - (origin + done / rate)
                    if origin is None or abs(ahead) > 0.1:  # a gap in the track: time goes on
                        origin, done = stamp, 0
                for part in resampler.resample(frame):
                    samples = part.to_ndarray().mean(0, dtype=np.float64).astype(np.float32)
                    yield (origin or 0.0) + done / rate, samples
                    done += len(samples)
            for part in resampler.resample(None) if resampler is not None else ():
                samples = part.to_ndarray().mean(0, dtype=np.float64).astype(np.float32)
                yield (origin or 0.0) + done / rate, samples
                done += len(samples)
        except (av.error.FFmpegError, ValueError):
            return


def shot_audio(
    video: Video, spans: list[tuple[float, float]], rate: int = 16000, longest: float = 600.0
) -> Iterator[npt.NDArray[np.float32]]:
    """The sound of each of consecutive spans of time, one after the other in memory.

    Args:
        video: the file.
        spans: start and end of each, seconds since the first frame, ascending.
        rate: samples per second.
        longest: seconds kept of a span; the rest of a longer one is left out.

    Yields:
        Samples of each span; silence where the track is shorter than the picture.
    """
    stream = read_audio(video.path, rate)
    chunk: tuple[float, npt.NDArray[np.float32]] | None = next(stream, None)
    for start, end in spans:
        low = math.floor(start * rate)
        high = max(low + 1, math.floor(min(end, start + longest) * rate))
        part = np.zeros(high - low, np.float32)
        while chunk is not None:
            place = round((chunk[0] - video.first) * rate)
            first, last = max(low, place), min(high, place + len(chunk[1]))
            if last > first:
                part[first - low : last - low] = chunk[1][first - place : last - place]
            if place + len(chunk[1]) > high:  # the rest belongs to the next span
                break
            chunk = next(stream, None)
        yield part
