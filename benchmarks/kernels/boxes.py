"""Seeded boxes: uniform and clustered in the image plane, spread and detector-like on the ground."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CAR = np.array([4.2, 1.8, 1.6])


def distinct_scores(rng: np.random.Generator, count: int) -> Floats:
    """A random order of `count` different numbers in (0, 1), different in float32 as well."""
    return (rng.permutation(count) + 0.5) / count


def uniform(rng: np.random.Generator, count: int) -> Floats:
    """(count, 4) boxes of 8 to 64 pixels at constant density: few overlap much, most are kept."""
    side = 32.0 * np.sqrt(count)
    size = rng.uniform(8, 64, (count, 2))
    low = rng.uniform(0, side, (count, 2))
    return np.concatenate([low, low + size], axis=1)


def clustered(rng: np.random.Generator, count: int, each: float = 35.0) -> Floats:
    """(count, 4) boxes around objects, about `each` per object: few are kept."""
    objects = max(1, round(count / each))
    side = 120.0 * np.sqrt(objects)
    centre, size = rng.uniform(0, side, (objects, 2)), rng.uniform(30, 200, (objects, 2))
    chosen = rng.integers(0, objects, count)
    size = size[chosen] * np.exp(rng.normal(0, 0.08, (count, 2)))
    centre = centre[chosen] + rng.normal(0, 0.06, (count, 2)) * size
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def ground_spread(rng: np.random.Generator, count: int, area_each: float = 6.0) -> Floats:
    """(count, 5) car-like footprints x, y, dx, dy, heading, with `area_each` square metres for each."""
    side = np.sqrt(area_each * count)
    size = CAR[:2] * np.exp(rng.normal(0, 0.15, (count, 2)))
    return np.concatenate(
        [rng.uniform(0, side, (count, 2)), size, rng.uniform(-np.pi, np.pi, (count, 1))], axis=1
    )


def ground_clusters(
    rng: np.random.Generator, count: int, *, each: float, shift: float, turn: float, stretch: float
) -> Floats:
    """(count, 5) proposals of a detector, about `each` per object, with the noise asked for."""
    objects = max(1, round(count / each))
    base = ground_spread(rng, objects, area_each=60.0)[rng.integers(0, objects, count)]
    base[:, :2] += rng.normal(0, shift, (count, 2))
    base[:, 2:4] *= np.exp(rng.normal(0, stretch, (count, 2)))
    base[:, 4] += rng.normal(0, turn, count)
    return base


def around_points(rng: np.random.Generator, points: NDArray[np.float32], count: int) -> Floats:
    """(count, 7) driving-like boxes whose centres are near measured points."""
    centre = points[rng.integers(0, len(points), count), :3].astype(np.float64)
    centre[:, :2] += rng.normal(0, 1.0, (count, 2))
    size = CAR * np.exp(rng.normal(0, 0.2, (count, 3)))
    return np.concatenate([centre, size, rng.uniform(-np.pi, np.pi, (count, 1))], axis=1)


def footprint_corners(boxes: Floats) -> Floats:
    """(N, 4, 2) corners in clockwise order, as spconv's polygon code expects them."""
    signs = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
    local = signs[None] * boxes[:, None, 2:4]
    cos, sin = np.cos(boxes[:, None, 4]), np.sin(boxes[:, None, 4])
    x, y = local[..., 0], local[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1) + boxes[:, None, :2]
