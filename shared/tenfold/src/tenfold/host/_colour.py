"""How much a frame of video differs from the one before, in 8-bit HSV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tenfold.host._arrays import array
from tenfold.host._backend import call

__all__ = ["hsv_change"]

Pixels = NDArray[np.uint8]


def hsv_change(rgb: object, before: object = None, *, stride: int = 1) -> tuple[Pixels, float]:
    """Convert a frame to 8-bit HSV and compare it with the frame before.

    Args:
        rgb: (H, W, 3) uint8.
        before: what this function returned for the frame before, or None.
        stride: look at every so manieth row and column, h x w of them.

    Returns:
        (h, w, 3) uint8 hue (0 to 179, two degrees a step), saturation and value (0 to 255), rounded as OpenCV does;
        and the mean absolute difference to `before`, 0 without one. Hue is not wrapped: 179 and 0 differ by 179.

    Raises:
        ValueError: other shapes, or a stride below 1.
        TypeError: another dtype.

    Example:
        >>> red, green = np.zeros((2, 4, 4, 3), np.uint8)
        >>> red[..., 0] = green[..., 1] = 255
        >>> hsv, change = hsv_change(green, hsv_change(red)[0])
        >>> hsv[0, 0].tolist(), change
        ([60, 255, 255], 20.0)
    """
    op = "hsv_change"
    image = array(op, "rgb", rgb, np.uint8, 3)
    if image.shape[2] != 3:
        raise ValueError(f"{op}: rgb: got shape {image.shape}; expected (H, W, 3)")
    if stride < 1:
        raise ValueError(f"{op}: stride: got {stride}; expected at least 1")
    height, width = image.shape[:2]
    hsv = np.empty((-(-height // stride), -(-width // stride), 3), np.uint8)
    old = hsv if before is None else array(op, "before", before, np.uint8, 3)
    if old.shape != hsv.shape:
        raise ValueError(f"{op}: before: got shape {old.shape}; expected {hsv.shape}")
    total = call("hsv_change", height, width, int(stride), image, int(before is not None), old, hsv)
    return hsv, total / hsv.size if hsv.size else 0.0
