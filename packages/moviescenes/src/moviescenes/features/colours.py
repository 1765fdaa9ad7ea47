"""Places by their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moviescenes.shots import Shot
from tenfold.host import hsv_change

__all__ = ["ColourHistogram"]

_BINS = 8 * 4 * 4


class ColourHistogram:
    """Square roots of HSV histograms (8 x 4 x 4 bins) of the picture and its quarters, mean of three keyframes.

    Before the root, the histogram of the picture counts as much as those of its quarters together; the vector has
    length 1.
    """

    name, modality, dim, version, size = "hsv-hist", "place", (5 * _BINS,), 1, 240

    def frames(self, shot: Shot) -> Sequence[int]:
        """The quarter points."""
        return sorted(set(shot.keyframes))

    def describe(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Histogram (640,)."""
        total = sum(_histograms(image) for image in images)
        root: npt.NDArray[np.float32] = np.sqrt(total / np.maximum(np.sum(total), 1e-12)).astype(np.float32)
        return root.ravel()


def _histograms(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    hue, saturation, value = np.moveaxis(hsv_change(image)[0], -1, 0)
    bins = (hue.astype(np.int64) * 8 // 180) * 16 + (saturation // 64) * 4 + value // 64
    top, left = bins.shape[0] // 2, bins.shape[1] // 2
    parts = (bins, bins[:top, :left], bins[:top, left:], bins[top:, :left], bins[top:, left:])
    counts = [np.bincount(part.ravel(), minlength=_BINS) / max(1, part.size) for part in parts]
    weighted: npt.NDArray[np.float64] = np.stack(counts) * np.array([[1.0], *[[0.25]] * 4])
    return weighted
