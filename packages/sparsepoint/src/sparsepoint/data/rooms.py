"""Generated rooms with four kinds of furniture: the data of the demo, the claim and the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.data.scenes import Scene

__all__ = ["SyntheticRooms", "make_room"]

Floats = npt.NDArray[np.float64]
_POINTS, _NOISE, _WALL = 2048, 0.01, 2.2
_GAP, _JITTER, _TRIES = 0.1, 0.15, 40
_DOUBLED = 0.7
_SIDES = 16


# Faces are rows (3, 3): a corner and two edges whose cross product points outwards.
_EDGES_U, _EDGES_V = [1, 0, 2, 0, 2, 1], [0, 2, 1, 1, 0, 2]
_OUTWARDS = np.array([1.0, 1, 1, -1, -1, -1])[:, None]
_LEGS = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])


def _cuboids(corners: Sequence[Sequence[float]]) -> Floats:
    """(6 K, 3, 3) faces of K cuboids, each given by x, y, z of its lowest corner and then of its highest."""
    ends = np.asarray(corners, float).reshape(-1, 2, 3)
    edges = (ends[:, 1] - ends[:, 0])[:, None] * np.eye(3)
    faces = np.empty((len(ends), 6, 3, 3))
    faces[:, :3, 0], faces[:, 3:, 0] = ends[:, :1], ends[:, 1:]
    faces[:, :, 1], faces[:, :, 2] = edges[:, _EDGES_U] * _OUTWARDS, edges[:, _EDGES_V] * _OUTWARDS
    return faces.reshape(-1, 3, 3)


def _furniture(kind: str, size: Floats) -> Floats:
    """(F, 3, 3) faces of a piece whose footprint is centred at the origin and that stands on z = 0."""
    dx, dy, dz = size.tolist()
    hx, hy = dx / 2, dy / 2
    if kind == "cabinet":
        return _cuboids([(-hx, -hy, 0, hx, hy, dz)])
    if kind == "bin":
        angle = np.arange(_SIDES + 1) * 2 * np.pi / _SIDES
        ring = np.stack((hx * np.cos(angle), hy * np.sin(angle), np.zeros(_SIDES + 1)), 1)
        up = np.broadcast_to((0.0, 0.0, dz), (_SIDES, 3))
        inner = min(hx, hy) / np.sqrt(2)
        bottom = _cuboids([(-inner, -inner, 0, inner, inner, 0.01)])[:1]
        return np.concatenate((np.stack((ring[:-1], np.diff(ring, axis=0), up), 1), bottom))
    top = dz if kind == "table" else dz * 0.5
    slab, leg = 0.04, 0.05
    parts = [(-hx, -hy, top - slab, hx, hy, top)]
    if kind == "chair":
        parts.append((-hx, -hy, top, -hx + slab, hy, dz))
    outer = _LEGS * (hx, hy)
    inside = outer - _LEGS * leg
    low, high = np.minimum(outer, inside), np.maximum(outer, inside)
    legs = [(*a, 0.0, *b, top - slab) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    return _cuboids([*parts, *legs])


def make_room(
    seed: int,
    mode: Literal["aligned", "oriented"] = "aligned",
    points: int = _POINTS,
) -> Scene:
    """One room: floor, two walls and three to seven pieces of furniture, seen from a random place.

    Args:
        seed: names the room.
        mode: furniture turned by multiples of 90 degrees, or by any angle.
        points: sampled in all, on surfaces in proportion to their area, 1 cm of noise.

    Example:
        >>> room = make_room(3)
        >>> room.points.shape, bool((room.boxes[:, 6] == 0).all()), 3 <= len(room.boxes) <= 7
        ((2048, 3), True, True)
    """
    rng = np.random.default_rng([seed, 0 if mode == "aligned" else 1])
    names = LABEL_SETS["rooms"].names
    sides = rng.uniform(3.0, 5.0, 2)
    kinds = rng.integers(0, len(names), rng.integers(3, 8))
    if rng.random() < _DOUBLED:
        kinds[1] = kinds[0]
    x, y, z = np.diag([*sides, _WALL])
    faces = [np.array([[0 * x, x, y], [0 * x, z, x], [0 * x, y, z]])]
    camera = np.array([*(sides * rng.uniform(0.3, 0.9, 2)), rng.uniform(1.2, 1.8)])
    boxes, labels = [], []
    hulls: list[tuple[float, ...]] = []
    for kind in kinds.tolist():
        size = np.asarray(LABEL_SETS["rooms"].sizes[kind]) * rng.uniform(1 - _JITTER, 1 + _JITTER, 3)
        yaw = rng.integers(0, 4) * np.pi / 2 if mode == "aligned" else rng.uniform(-np.pi, np.pi)
        cos, sin = np.cos(yaw), np.sin(yaw)
        half = np.abs([[cos, sin], [sin, cos]]) @ size[:2] / 2
        place = _free_place(rng, sides, half, hulls)
        if place is None:
            continue
        hulls.append((*place, *half.tolist()))
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        turned = _furniture(names[kind], size) @ turn.T
        turned[:, 0, :2] += place
        faces.append(turned)
        extents = (2 * half[0], 2 * half[1]) if mode == "aligned" else (size[0], size[1])
        boxes.append([*place, size[2] / 2, *extents, size[2], 0.0 if mode == "aligned" else yaw])
        labels.append(kind)
    cloud = _sample(rng, np.concatenate(faces), camera, points)
    return Scene(
        f"room{seed:07d}",
        cloud.astype(np.float32),
        np.asarray(boxes, np.float32).reshape(-1, 7),
        np.asarray(labels, np.int64),
    )


def _free_place(
    rng: np.random.Generator, sides: Floats, half: Floats, hulls: Sequence[tuple[float, ...]]
) -> tuple[float, float] | None:
    """A centre where the hull stands free of walls and others by the gap; None if none was found."""
    low, high = half + _GAP, sides - half - _GAP
    if (low >= high).any():
        return None
    (x0, y0), (width, depth), (hx, hy) = low.tolist(), (high - low).tolist(), half.tolist()
    for _ in range(_TRIES):
        u, v = rng.random(2).tolist()
        x, y = x0 + width * u, y0 + depth * v
        if all(abs(a - x) >= i + hx + _GAP or abs(b - y) >= j + hy + _GAP for a, b, i, j in hulls):
            return x, y
    return None


def _sample(rng: np.random.Generator, faces: Floats, camera: Floats, number: int) -> Floats:
    corner, u, v = faces.swapaxes(0, 1)
    normal = np.cross(u, v)
    area = np.linalg.norm(normal, axis=1)
    away = (normal * (camera - corner - (u + v) / 2)).sum(1) < 0
    dropped = away & (rng.random(len(faces)) < 0.5)
    dropped[:3] = False  # floor and walls
    share = np.where(dropped, 0.0, area)
    own = rng.choice(len(faces), number, p=share / share.sum())
    places = corner[own] + rng.random((number, 1)) * u[own] + rng.random((number, 1)) * v[own]
    return np.asarray(places + rng.normal(0, _NOISE, places.shape))


class SyntheticRooms:
    """A split of generated rooms; training rooms have seeds below a million, the others from there on.

    Args:
        number: of rooms.
        first: seed of the first one.
        mode: see `make_room`.
        points: of each room.

    Example:
        >>> rooms = SyntheticRooms(4)
        >>> len(rooms), rooms.labels.names
        (4, ('table', 'chair', 'cabinet', 'bin'))
    """

    def __init__(
        self,
        number: int,
        first: int = 0,
        mode: Literal["aligned", "oriented"] = "aligned",
        points: int = _POINTS,
    ) -> None:
        self.first, self.mode, self.points = first, mode, points
        base = LABEL_SETS["rooms"]
        self.labels: LabelSet = replace(base, heading_bins=1 if mode == "aligned" else 12)
        self.names: Sequence[str] = range_names(first, number)

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One room."""
        return make_room(self.first + index, self.mode, self.points)


def range_names(first: int, number: int) -> list[str]:
    """Names of rooms."""
    return [f"room{seed:07d}" for seed in range(first, first + number)]
