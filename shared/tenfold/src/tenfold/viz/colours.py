"""Colours computed in Oklab, where equal steps look equal.

The conversion constants are those of B. Ottosson's definition of Oklab (2020).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LMS_FROM_OKLAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
# Lightness, chroma and hue (degrees) of the ramp's stops: lightness rises steadily, hue turns once.
_STOPS = np.array(
    [[0.42, 0.15, 285.0], [0.56, 0.14, 245.0], [0.68, 0.12, 190.0], [0.80, 0.16, 130.0], [0.92, 0.14, 95.0]]
)
_GOLDEN_ANGLE = 137.50776


def _rgb_from_oklch(lightness: ArrayLike, chroma: ArrayLike, hue_degrees: ArrayLike) -> NDArray[np.uint8]:
    hue = np.deg2rad(np.asarray(hue_degrees, dtype=np.float64))
    lab = np.stack(np.broadcast_arrays(lightness, chroma * np.cos(hue), chroma * np.sin(hue)), axis=-1)
    linear = np.clip((lab @ _LMS_FROM_OKLAB.T) ** 3 @ _RGB_FROM_LMS.T, 0.0, 1.0)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(coded * 255.0), dtype=np.uint8)


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    position = np.linspace(0.0, len(_STOPS) - 1, 256)
    columns = [np.interp(position, np.arange(len(_STOPS)), _STOPS[:, i]) for i in range(3)]
    return _rgb_from_oklch(*columns)


def ramp(values: ArrayLike, low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """Colours of numbers, from dark violet (`low`) through blue and green to light yellow (`high`).

    Args:
        values: any shape; values outside the limits are clamped, non-finite ones become grey.
        low: value of the first colour; the smallest finite value when omitted.
        high: value of the last colour; the largest finite value when omitted.

    Returns:
        uint8 RGB, the shape of `values` plus (3,).

    Example:
        >>> from tenfold.viz import ramp
        >>> ramp([0.0, 0.5, 1.0]).shape
        (3, 3)
    """
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    if finite.any():
        low = float(array[finite].min()) if low is None else low
        high = float(array[finite].max()) if high is None else high
    low, high = low or 0.0, high or 0.0
    span = high - low if high > low else 1.0
    index = np.rint(255.0 * np.clip((np.where(finite, array, low) - low) / span, 0.0, 1.0)).astype(np.int64)
    colours = _table()[index]
    colours[~finite] = 128
    return colours


@lru_cache(maxsize=256)
def class_colour(index: int) -> tuple[int, int, int]:
    """RGB colour of a class: equal lightness, hues a golden angle apart, so that neighbours differ.

    Example:
        >>> from tenfold.viz import class_colour
        >>> class_colour(0) != class_colour(1)
        True
    """
    lightness = (0.76, 0.68, 0.84)[(index // 8) % 3]
    red, green, blue = _rgb_from_oklch(lightness, 0.15, 45.0 + _GOLDEN_ANGLE * index).tolist()
    return red, green, blue
