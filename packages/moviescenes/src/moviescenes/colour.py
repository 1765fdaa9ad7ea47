"""CIE Luv on 8 bits, as the published shot detector uses it; HSV is `tenfold.host.hsv_change`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["luv8"]

Image = npt.NDArray[np.uint8]

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_TO_XYZ = np.array(  # sRGB primaries, white D65
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    np.float32,
)
_WHITE = np.array([0.950456, 1.0, 1.088754])
_UN, _VN = 4 * _WHITE[0] / (_WHITE @ (1, 15, 3)), 9 * _WHITE[1] / (_WHITE @ (1, 15, 3))


def luv8(rgb: Image) -> Image:
    """CIE Luv of sRGB under D65, scaled to 8 bits: L 255/100, (u + 134) 255/354, (v + 140) 255/262.

    Args:
        rgb: (H, W, 3).

    Returns:
        (3, H, W) uint8.

    >>> luv8(np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8))[:, 0].T.tolist()
    [[255, 97, 136], [0, 97, 136]]
    """
    linear = _LINEAR[rgb]
    x, y, z = np.moveaxis(linear @ _TO_XYZ.T, -1, 0)
    light = np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)
    total = np.maximum(x + 15 * y + 3 * z, np.float32(1e-12))
    u, v = 13 * light * (4 * x / total - _UN), 13 * light * (9 * y / total - _VN)
    scaled = np.stack((light * 2.55, (u + 134) * (255 / 354), (v + 140) * (255 / 262)))
    found: Image = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return found
