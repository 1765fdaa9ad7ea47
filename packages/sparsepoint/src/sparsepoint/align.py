"""Raw scans to the frame that the networks know: floor at zero, walls along the axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.geometry import transform_points

__all__ = ["estimate_alignment"]

Floats = npt.NDArray[np.float64]
_TILT = np.deg2rad(25)
_PLANE, _DRAWS = 0.03, 400
_BIN, _STEP = 0.05, 1.0
_MOST = 20000
_FLOOR_PERCENTILE = 1.0


def estimate_alignment(
    points: npt.ArrayLike, seed: int = 0, gravity: Sequence[float] | None = None
) -> Floats:
    """(4, 4) from a scan's frame to an aligned one: x' = A x.

    Up is opposite to the gravity, or else the normal of the largest plane within 25 degrees of +z; the floor (the first
    percentile along it) goes to z = 0, and the walls are turned along the axes: the turn, modulo 90 degrees, for which
    x and y of the points off the floor pile up most. A scan whose z axis points elsewhere has to be turned first.

    Args:
        points: (N, 3), metres, z roughly up.
        seed: of the planes that are tried.
        gravity: direction of it in the scan's frame, of any length, where it is known (from a phone's sensors, say).

    Raises:
        UserInputError: less than ten finite points, or a gravity more than 25 degrees off -z.

    Example:
        >>> room = np.random.default_rng(0).uniform(0, 1, (3000, 3)) * [4, 3, 2]
        >>> room[np.arange(3000), np.arange(3000) % 3] = 0
        >>> turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
        >>> found = estimate_alignment(room @ turn.T)
        >>> bool(abs(np.rad2deg(np.arctan2(found[1, 0], found[0, 0])) + 17.2) < 1)
        True
    """
    cloud = np.asarray(points, np.float64)
    cloud = cloud[np.isfinite(cloud).all(1)]
    if len(cloud) < 10:
        raise UserInputError(f"align: points: got {len(cloud)} finite points; expected 10 or more")
    rng = np.random.default_rng(seed)
    if len(cloud) > _MOST:
        cloud = cloud[rng.choice(len(cloud), _MOST, replace=False)]
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation_to_z(_up(cloud, rng) if gravity is None else _against(gravity))
    level = transform_points(cloud, matrix)
    floor = np.percentile(level[:, 2], _FLOOR_PERCENTILE)
    angle = _wall_angle(level[level[:, 2] > floor + 0.15, :2])
    cos, sin = np.cos(-angle), np.sin(-angle)
    turn = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, -floor], [0, 0, 0, 1]])
    return np.asarray(turn @ matrix)


def _against(gravity: Sequence[float]) -> Floats:
    """The unit vector opposite to a gravity."""
    down = np.asarray(gravity, np.float64)
    if down.shape != (3,) or not np.isfinite(down).all() or not np.linalg.norm(down) > 0:
        raise UserInputError(f"gravity: got {gravity}; expected three numbers, not all 0")
    up = -down / np.linalg.norm(down)
    if up[2] < np.cos(_TILT):
        raise UserInputError(
            f"gravity: got {gravity}; expected a direction within 25 degrees of -z: turn the scan first"
        )
    return np.asarray(up)


def _up(cloud: Floats, rng: np.random.Generator) -> Floats:
    """Normal of the plane with most points near it among random ones that are almost level."""
    best, most = np.array([0.0, 0.0, 1.0]), -1
    for triple in rng.integers(0, len(cloud), (_DRAWS, 3)):
        a, b, c = cloud[triple]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-6:
            continue
        normal = normal / length * (1 if normal[2] >= 0 else -1)
        if normal[2] < np.cos(_TILT):
            continue
        near = np.abs((cloud - a) @ normal) < _PLANE
        if near.sum() > most:
            most = int(near.sum())
            best = _refined(cloud[near], normal)
    return best


def _refined(points: Floats, normal: Floats) -> Floats:
    """Least-squares normal of the points."""
    centred = points - points.mean(0)
    found = np.asarray(np.linalg.svd(centred.T @ centred)[0][:, 2])
    return found * np.sign(found @ normal)


def _rotation_to_z(up: Floats) -> Floats:
    """The smallest rotation that takes a unit vector with positive z to +z."""
    axis = np.cross(up, [0.0, 0.0, 1.0])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + up[2]))


def _wall_angle(flat: Floats) -> float:
    """Turn of the walls in [-45, 45) degrees, radians: where the histograms along both axes have least entropy."""
    if len(flat) < 10:
        return 0.0
    coarse = np.deg2rad(np.arange(-45, 45, _STEP))
    best = min(coarse, key=lambda a: _entropy(flat, a))
    fine = best + np.deg2rad(np.arange(-1.0, 1.01, 0.1))
    return float(min(fine, key=lambda a: _entropy(flat, a)))


def _entropy(flat: Floats, angle: float) -> float:
    cos, sin = np.cos(-angle), np.sin(-angle)
    total = 0.0
    for axis in (flat @ [cos, -sin], flat @ [sin, cos]):
        # Cells that hold points, not all from the first to the last: a stray point may lie a million metres away.
        share = np.unique(np.floor((axis - axis.min()) / _BIN), return_counts=True)[1] / len(axis)
        total -= float((share * np.log(share)).sum())
    return total
