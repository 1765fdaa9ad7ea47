"""Sound: the published spectrogram image, and statistics of mel bands."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moviescenes.shots import ShotList
from moviescenes.video import Video, shot_audio

__all__ = ["MelStatistics", "Spectrogram", "audio_image", "spectrum"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

RATE = 16000
_FFT = 512
_HOP = 128


def spectrum(samples: npt.NDArray[np.floating]) -> Floats:
    """Magnitudes (257, T) of the short-time Fourier transform: 512 points, hop 128, Hann, centred by reflection.

    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    >>> int(spectrum(tone).mean(1).argmax())  # 1000 Hz x 512 / 16000
    32
    """
    half = _FFT // 2
    wave = np.asarray(samples, np.float64)
    if len(wave) <= half:  # reflection needs more samples than it adds
        wave = np.resize(wave, half + 1) if len(wave) else np.zeros(half + 1)
    wave = np.pad(wave, half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FFT)[::_HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)
    out = np.empty((half + 1, len(frames)))
    for start in range(0, len(frames), 4096):  # a long shot must not be in memory 4 times over
        part = frames[start : start + 4096] * window
        out[:, start : start + len(part)] = np.abs(np.fft.rfft(part)).T
    return out


def audio_image(samples: npt.NDArray[np.floating], rate: int = RATE) -> Array:
    """The image (257, 90) that AudioNet reads.

    The shot's sound is scaled to its own range, its spectrum taken in decibels down to 80 below the maximum,
    repeated to four seconds, cut into four parts, and 30 columns are taken around the starts of the last three.

    Args:
        samples: (n,) at `rate`; none count as silence.
        rate: samples per second.

    Source: the authors' released extraction script (facts; see the specification of the method).
    """
    wave = np.asarray(samples, np.float64)
    if not len(wave):
        wave = np.zeros(_FFT)
    middle, half = (wave.max() + wave.min()) / 2, (wave.max() - wave.min()) / 2
    wave = (wave - middle) / (half if half >= 1e-6 else 1.0)
    levels = 20 * np.log10(np.maximum(spectrum(wave), 1e-5))
    levels = np.maximum(levels, levels.max() - 80)
    wanted = math.ceil(4 * levels.shape[1] / (len(wave) / rate))
    levels = np.tile(levels, (1, max(1, -(-wanted // levels.shape[1]))))
    lengths = [levels.shape[1] // 4 + (k < levels.shape[1] % 4) for k in range(4)]
    starts = np.cumsum(lengths)[:3]
    return np.concatenate([levels[:, c - 15 : c + 15] for c in starts], 1).astype(np.float32)


def mel_filters(bands: int = 64) -> Floats:
    """Triangles (bands, 257), evenly spaced on the mel scale from 60 Hz to 7600 Hz."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, 7600.0))
    edges = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    hertz = np.arange(_FFT // 2 + 1) * RATE / _FFT
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


class _Sound:
    """What extractors of sound share: a pass over the sound track, shot by shot."""

    dim: tuple[int, ...]

    def describe(self, samples: Array) -> Array:
        raise NotImplementedError

    def extract(self, video: Video, shots: ShotList) -> Array:
        """Descriptions (n, *dim) of the shots; silence where there is no sound."""
        spans = [(shot.start_time, shot.end_time) for shot in shots]
        out = np.zeros((len(shots), *self.dim), np.float32)
        for row, samples in zip(out, shot_audio(video, spans, RATE), strict=True):
            row[:] = self.describe(samples)
        return out


class Spectrogram(_Sound):
    """The published image (257, 90); see `audio_image`."""

    name, modality, dim, version = "stft", "aud", (257, 90), 1

    def describe(self, samples: Array) -> Array:
        """Image of one shot's sound."""
        return audio_image(samples)


class MelStatistics(_Sound):
    """Logarithms of 64 mel bands: mean, deviation and mean absolute change over the shot (192,)."""

    name, modality, dim, version = "logmel-stats", "aud", (192,), 1

    def __init__(self) -> None:
        self._filters = mel_filters()

    def describe(self, samples: Array) -> Array:
        """Statistics of one shot's sound."""
        bands = np.log10(np.maximum(self._filters @ spectrum(samples) ** 2, 1e-6))
        change = np.abs(np.diff(bands, axis=1))
        moving = change.mean(1) if change.shape[1] else np.zeros(len(bands))
        return np.concatenate((bands.mean(1), bands.std(1), moving)).astype(np.float32)
