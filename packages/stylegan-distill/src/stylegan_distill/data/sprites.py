"""Generated images with few, known factors: one coloured shape on a coloured ground."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["sprites"]

Pixels = npt.NDArray[np.uint8]

_SUPERSAMPLE, _CHUNK = 4, 256


def sprites(count: int, size: int = 16, seed: int = 0) -> Pixels:
    """One circle, square or plus in each image.

    Centre uniform in [.3, .7]^2, radius in [.14, .26] of the side; the two hues uniform, the shape's colour of
    amplitude .9 around grey, the ground's of .35 around a darker one. Edges are smoothed by 4x supersampling.

    Args:
        count: images.
        size: side, pixels.
        seed: of everything; the first images do not depend on ``count``.

    Returns:
        ``(count, size, size, 3)`` of 0 to 255.

    Raises:
        ValueError: a count or size below 1.

    >>> sprites(2, 16).shape, bool((sprites(3)[:2] == sprites(2)).all())
    ((2, 16, 16, 3), True)
    """
    if count < 1 or size < 1:
        raise ValueError(f"sprites: count, size: got {count}, {size}; expected numbers >= 1")
    # One row of seven numbers an image: shape, centre, radius, two hues and one that is kept free.
    rows = np.random.default_rng(seed).random((count, 7))
    parts = [_draw(rows[start : start + _CHUNK], size) for start in range(0, count, _CHUNK)]
    return np.concatenate(parts)


def _draw(rows: npt.NDArray[np.float64], size: int) -> Pixels:
    axis = (np.arange(size * _SUPERSAMPLE) + 0.5) / (size * _SUPERSAMPLE)
    centre_x, centre_y = (0.3 + 0.4 * rows[:, k, None, None] for k in (1, 2))
    radius = 0.14 + 0.12 * rows[:, 3, None, None]
    dx, dy = np.abs(axis[None, None, :] - centre_x), np.abs(axis[None, :, None] - centre_y)
    kind = (rows[:, 0] * 3).astype(int)
    inside = np.where(
        (kind == 0)[:, None, None],
        dx**2 + dy**2 < radius**2,
        np.where(
            (kind == 1)[:, None, None],
            np.maximum(dx, dy) < 0.9 * radius,
            (np.maximum(dx, dy) < radius) & (np.minimum(dx, dy) < radius / 3),
        ),
    )
    sides = (len(rows), size, _SUPERSAMPLE, size, _SUPERSAMPLE)
    cover = inside.reshape(sides).mean((2, 4))[..., None]
    shape, ground = 0.9 * _hue(rows[:, 4]), 0.35 * _hue(rows[:, 5]) - 0.3
    mixed = cover * shape[:, None, None] + (1 - cover) * ground[:, None, None]
    found: Pixels = np.clip(np.rint(mixed * 127.5 + 127.5), 0, 255).astype(np.uint8)
    return found


def _hue(turn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) angles in turns to (N, 3) colours around grey, amplitude 1."""
    found: npt.NDArray[np.float64] = np.cos(2 * np.pi * (turn[:, None] - np.arange(3) / 3))
    return found
