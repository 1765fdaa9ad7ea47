"""strokes-20: generated images of twenty classes in five families of near neighbours.

A family has four strokes; each of its four classes moves, turns and recolours one of them. Images are 8-bit:
the value v of a stroke image is stored as ``(v + 1) / 3 · 255``, so that noise below zero survives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BACKGROUND", "MEAN", "PRESETS", "STD", "Strokes", "strokes"]

Floats = npt.NDArray[np.float64]

SIZE, CLASSES, FAMILIES, STROKES = 16, 20, 5, 4
#: Pixel value of an empty canvas, and the normalisation ``(v - .15) / .35`` in units of the full range.
BACKGROUND = 85
MEAN = (1.15 / 3.0,) * 3
STD = (0.35 / 3.0,) * 3


@dataclass(frozen=True)
class Strokes:
    """How hard the images are.

    Attributes:
        noise: deviation of the pixel noise.
        rotation: deviation of the rotation, radians.
        shift: deviation of the shift along each axis, half-widths of the canvas.
        drop: probability that a stroke is absent.
    """

    noise: float = 0.12
    rotation: float = 0.4
    shift: float = 0.2
    drop: float = 0.0


#: ``easy``: classes are certain, many images are easy. ``ambiguous``: dropped strokes make siblings equal.
PRESETS = {"easy": Strokes(), "ambiguous": Strokes(0.25, 0.35, 0.18, 0.25)}


def strokes(
    images: int, preset: Strokes | str = "easy", *, seed: int = 0, classes_seed: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``(N, 16, 16, 3)`` and their labels ``(N,)``, balanced.

    Args:
        images: N.
        preset: a `Strokes`, or a key of `PRESETS`.
        seed: of the samples; different seeds give disjoint sets.
        classes_seed: of the twenty classes themselves.

    >>> images, labels = strokes(40)
    >>> images.shape, labels.tolist()[:3], np.bincount(labels).tolist() == [2] * 20
    ((40, 16, 16, 3), [0, 1, 2], True)
    """
    how = PRESETS[preset] if isinstance(preset, str) else preset
    centres, angles, lengths, colours = _classes(classes_seed)
    labels = np.arange(images) % CLASSES
    rng = np.random.default_rng([seed, 7])
    turn = rng.normal(0.0, how.rotation, images)
    scale = np.exp(rng.normal(0.0, 0.12, images))
    shift = rng.normal(0.0, how.shift, (images, 2))
    kept = rng.random((images, STROKES)) >= how.drop
    tint = np.exp(rng.normal(0.0, 0.25, (images, STROKES, 3)))
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.stack([cos, -sin, sin, cos], 1).reshape(-1, 1, 2, 2)
    places = (rotation @ centres[labels][..., None])[..., 0] * scale[:, None, None] + shift[:, None]
    canvas = _draw(
        places, angles[labels] + turn[:, None], lengths[labels] * scale[:, None], colours[labels] * tint, kept
    )
    canvas += rng.normal(0.0, how.noise, canvas.shape)
    stored = np.clip(np.rint((canvas + 1.0) / 3.0 * 255.0), 0, 255).astype(np.uint8)
    return stored, labels.astype(np.int64)


def _classes(seed: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Centres (20, 4, 2), angles (20, 4), half-lengths (20, 4), colours (20, 4, 3)."""
    rng = np.random.default_rng([seed, 20])
    centre = rng.uniform(-0.5, 0.5, (FAMILIES, STROKES, 2)).repeat(STROKES, 0)
    angle = rng.uniform(0.0, np.pi, (FAMILIES, STROKES)).repeat(STROKES, 0)
    length = rng.uniform(0.25, 0.55, (FAMILIES, STROKES)).repeat(STROKES, 0)
    colour = rng.uniform(0.2, 1.0, (FAMILIES, STROKES, 3)).repeat(STROKES, 0)
    for label in range(CLASSES):
        own = label % STROKES
        centre[label, own] *= -1.0
        angle[label, own] += np.pi / 3.0
        colour[label, own] = np.roll(colour[label, own], 1)
    return centre, angle, length, colour


def _draw(
    centre: Floats, angle: Floats, length: Floats, colour: Floats, kept: npt.NDArray[np.bool_]
) -> Floats:
    """``(N, 16, 16, 3)``: strokes with soft edges, composed by the maximum."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2.0 - 1.0
    x, y = axis[None, None, :], axis[None, :, None]
    canvas = np.zeros((len(centre), SIZE, SIZE, 3))
    for k in range(STROKES):
        dx, dy = x - centre[:, k, 0, None, None], y - centre[:, k, 1, None, None]
        cos, sin = np.cos(angle[:, k])[:, None, None], np.sin(angle[:, k])[:, None, None]
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        beyond = np.maximum(np.abs(along) - length[:, k, None, None], 0.0)
        strength = np.exp(-(beyond**2 + across**2) / (2.0 * 0.12**2)) * kept[:, k, None, None]
        canvas = np.maximum(canvas, strength[..., None] * colour[:, k, None, None])
    return canvas
