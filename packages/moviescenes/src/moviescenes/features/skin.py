"""Persons without a detector: where skin is, and what colours lie below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moviescenes.shots import Shot
from tenfold.host import hsv_change

__all__ = ["SkinLayout"]

Image = npt.NDArray[np.uint8]
_GRID = (18, 32)
_BLOBS = 2
_LEAST = 0.01  # share of the picture that must look like skin
_COLOURS = 24


class SkinLayout:
    """A stand-in for faces and bodies: moments of the skin mask, and of its two largest blobs place, size and the
    colours below (clothes). The last number is 1 where there is skin; without any, all are 0.
    """

    name, modality, dim, version, size = "skin-layout", "cast", (5 + _BLOBS * (3 + _COLOURS) + 1,), 1, 240

    def frames(self, shot: Shot) -> Sequence[int]:
        """The quarter points."""
        return sorted(set(shot.keyframes))

    def describe(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """Layout (60,), mean over the frames that show skin."""
        found = [layout for image in images if (layout := _layout(image)) is not None]
        if not found:
            return np.zeros(self.dim, np.float32)
        return np.append(np.mean(found, 0), 1.0).astype(np.float32)


def skin_mask(image: Image) -> npt.NDArray[np.bool_]:
    """Pixels with the usual colours of skin, by a fixed rule on red, green and blue."""
    red, green, blue = (image[..., k].astype(np.int16) for k in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    bright = (red > 95) & (green > 40) & (blue > 20)
    mask: npt.NDArray[np.bool_] = bright & (spread > 15) & (red - green > 15) & (red > blue)
    return mask


def _layout(image: Image) -> npt.NDArray[np.float64] | None:
    share = _cells(skin_mask(image).astype(np.float64))
    if share.mean() < _LEAST:
        return None
    hue, saturation, _ = np.moveaxis(hsv_change(image)[0], -1, 0)
    colours = (hue.astype(np.int64) * 8 // 180) * 3 + np.minimum(saturation // 86, 2)
    parts = [_moments(share)]
    blobs = _blobs(share > 0.4)
    parts += [_blob(blob, colours) for blob in blobs[:_BLOBS]]
    parts += [np.zeros(3 + _COLOURS)] * max(0, _BLOBS - len(blobs))
    return np.concatenate(parts)


def _cells(mask: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over an 18 x 32 grid."""
    rows, columns = (np.linspace(0, n, k + 1).astype(int) for n, k in zip(mask.shape, _GRID, strict=True))
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    corner = total[np.ix_(rows, columns)]
    area = np.outer(np.diff(rows), np.diff(columns))
    sums = corner[1:, 1:] - corner[:-1, 1:] - corner[1:, :-1] + corner[:-1, :-1]
    means: npt.NDArray[np.float64] = sums / np.maximum(area, 1)
    return means


def _moments(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weight = share / share.sum()
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in share.shape), indexing="ij")
    mx, my = (weight * x).sum(), (weight * y).sum()
    deviations = (np.sqrt((weight * (a - m) ** 2).sum()) for a, m in ((x, mx), (y, my)))
    return np.array([share.mean(), mx, my, *deviations])


def _blobs(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """Connected cells (k, 2), largest first."""
    left = {(int(a), int(b)) for a, b in np.argwhere(mask)}
    found = []
    while left:
        stack, blob = [left.pop()], []
        while stack:
            row, column = stack.pop()
            blob.append((row, column))
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
        found.append(np.array(sorted(blob), np.int64))
    return sorted(found, key=lambda blob: (-len(blob), *blob[0].tolist()))


def _blob(cells: npt.NDArray[np.int64], colours: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Size, place, and colours in a box below the blob, as high as itself."""
    (top, left), (bottom, right) = cells.min(0), cells.max(0) + 1
    place = cells.mean(0) / _GRID * 2 - 1
    high, wide = colours.shape
    box = colours[
        bottom * high // _GRID[0] : (2 * bottom - top) * high // _GRID[0],
        left * wide // _GRID[1] : right * wide // _GRID[1],
    ]
    histogram = np.bincount(box.ravel(), minlength=_COLOURS) / max(1, box.size)
    return np.concatenate(([len(cells) / (_GRID[0] * _GRID[1])], place, np.sqrt(histogram)))
