"""What moves in a shot, and how the camera does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moviescenes.shots import Shot

__all__ = ["MotionHistogram"]

Floats = npt.NDArray[np.float64]
_PAIRS = 6
_BLOCK = 8
_REACH = 3


class MotionHistogram:
    """Of up to six pairs of neighbouring frames: energy of their difference, the camera's translation by phase
    correlation, and directions of 8 x 8 blocks by matching within three pixels; mean and deviation over the pairs.
    """

    name, modality, dim, version, size = "motion-hist", "act", (28,), 1, 96

    def frames(self, shot: Shot) -> Sequence[int]:
        """Pairs of neighbours, evenly over the shot."""
        last = shot.end_frame - 1
        if last < shot.start_frame:
            return [shot.start_frame]
        firsts = np.linspace(shot.start_frame, last, min(_PAIRS, last - shot.start_frame + 1)).astype(int)
        return sorted({int(f) + k for f in firsts for k in (0, 1)})

    def describe(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Motion (28,)."""
        grey = [image.astype(np.float64) @ (0.299, 0.587, 0.114) for image in images]
        pairs = [_pair(a, b) for a, b in zip(grey[::2], grey[1::2], strict=False) if a.shape == b.shape]
        if not pairs:
            return np.zeros(self.dim, np.float32)
        table = np.stack(pairs)
        return np.concatenate((table.mean(0), table.std(0))).astype(np.float32)


def _pair(a: Floats, b: Floats) -> Floats:
    energy = np.abs(b - a).mean() / 255
    dx, dy = translation(a, b)
    return np.concatenate(([energy, dx, dy, np.hypot(dx, dy)], _directions(a, b)))


def translation(a: Floats, b: Floats) -> tuple[float, float]:
    """By how many pixels (right, down) the picture has moved from `a` to `b`, by phase correlation."""
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    spectra = (np.fft.rfft2((image - image.mean()) * window) for image in (a, b))
    first, second = spectra
    cross = np.conj(first) * second
    peak = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), a.shape)
    row, column = np.unravel_index(int(peak.argmax()), peak.shape)
    down = int(row) - (a.shape[0] if row > a.shape[0] // 2 else 0)
    right = int(column) - (a.shape[1] if column > a.shape[1] // 2 else 0)
    return float(right), float(down)


def _directions(a: Floats, b: Floats) -> Floats:
    """Shares of blocks that move into each of eight directions, share at rest, mean distance (10,)."""
    rows, columns = ((n - 2 * _REACH) // _BLOCK for n in a.shape)
    if rows < 1 or columns < 1:
        return np.zeros(10)
    high, wide = rows * _BLOCK, columns * _BLOCK
    target = b[_REACH : _REACH + high, _REACH : _REACH + wide]
    shifts = [(y, x) for y in range(-_REACH, _REACH + 1) for x in range(-_REACH, _REACH + 1)]
    shifts.sort(key=lambda s: s[0] ** 2 + s[1] ** 2)  # of equals the smallest movement
    costs = np.stack(
        [
            np.abs(target - a[_REACH - y : _REACH - y + high, _REACH - x : _REACH - x + wide])
            .reshape(rows, _BLOCK, columns, _BLOCK)
            .mean((1, 3))
            for y, x in shifts
        ]
    )
    moved = np.array(shifts, np.float64)[costs.argmin(0).ravel()]
    length = np.hypot(moved[:, 0], moved[:, 1])
    sector = np.rint(np.arctan2(moved[:, 0], moved[:, 1]) / (np.pi / 4)).astype(int) % 8
    shares = np.bincount(sector[length > 0], minlength=8) / len(moved)
    return np.concatenate((shares, [(length == 0).mean(), length.mean() / _REACH]))
