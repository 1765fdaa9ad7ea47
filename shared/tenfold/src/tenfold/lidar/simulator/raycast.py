"""First hits of a grid of rays in a scene, vectorised over rays and looped over objects."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tenfold.lidar.simulator.ground import Ground
from tenfold.lidar.simulator.shapes import FloatArray, IntArray, Part, SceneObject, Vector

NOTHING, GROUND = -2, -1


class RayGrid(Protocol):
    """Rays from one origin, arranged so that the rays near a sphere are a rectangle of the grid."""

    origin: FloatArray
    directions: FloatArray  # (R, 3), unit length, row-major over the grid

    def near(self, centre: FloatArray, radius: float) -> IntArray:
        """Indices of a superset of the rays that pass the sphere."""
        ...


@dataclass(frozen=True, eq=False)
class Hits:
    """First hit of every ray.

    Attributes:
        distance: ``(R,)`` metres, infinite where nothing was met.
        part: ``(R,)`` index into `parts`, `GROUND` or `NOTHING`.
        owner: ``(R,)`` index of the object, `GROUND` or `NOTHING`.
        normal: ``(R, 3)`` outward unit normals.
        alone: ``(M,)`` number of rays that would meet each object were it alone in the world.
        parts: the parts of all objects in order.
    """

    distance: FloatArray
    part: IntArray
    owner: IntArray
    normal: FloatArray
    alone: IntArray
    parts: tuple[Part, ...]

    def visibility(self) -> FloatArray:
        """Share of each object's rays ``(M,)`` that no other object takes; 0 where no ray meets it."""
        seen = np.bincount(self.owner[self.owner >= 0], minlength=len(self.alone))
        return seen / np.maximum(self.alone, 1)


def cast(
    objects: tuple[SceneObject, ...],
    ground: Ground,
    grid: RayGrid,
    max_range: float,
    rng: np.random.Generator,
) -> Hits:
    """Cast all rays of the grid; `rng` decides how deep rays enter foliage."""
    rays = len(grid.directions)
    distance = np.full(rays, np.inf)
    part = np.full(rays, NOTHING)
    owner = np.full(rays, NOTHING)
    normal = np.zeros((rays, 3))

    met = ground.intersect(grid.origin, grid.directions, max_range)
    on_ground = np.isfinite(met)
    distance[on_ground] = met[on_ground]
    part[on_ground] = owner[on_ground] = GROUND
    normal[on_ground] = (0, 0, 1)

    alone = np.zeros(len(objects), dtype=np.int64)
    first_part = 0
    for index, thing in enumerate(objects):
        rows, t, local_part, local_normal = _cast_object(thing, grid, max_range, rng)
        alone[index] = len(rows)
        closer = t < distance[rows]
        rows = rows[closer]
        distance[rows] = t[closer]
        part[rows] = first_part + local_part[closer]
        owner[rows] = index
        normal[rows] = local_normal[closer]
        first_part += len(thing.parts)
    return Hits(distance, part, owner, normal, alone, tuple(p for o in objects for p in o.parts))


def _cast_object(
    thing: SceneObject, grid: RayGrid, max_range: float, rng: np.random.Generator
) -> tuple[IntArray, FloatArray, IntArray, FloatArray]:
    """Rays that meet the object, with distance, index of the part and normal in the world."""
    rows = grid.near(thing.box[:3], thing.bounding_radius)
    cos, sin = np.cos(thing.box[6]), np.sin(thing.box[6])
    to_local = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    origin = to_local @ (grid.origin - thing.box[:3])
    directions = grid.directions[rows] @ to_local.T
    possible = _meets_box(origin, directions, thing.box[3:6] / 2 + 1e-6)
    rows, directions = rows[possible], directions[possible]

    distance = np.full(len(rows), np.inf)
    part = np.zeros(len(rows), dtype=np.int64)
    normal = np.zeros((len(rows), 3))
    for index, piece in enumerate(thing.parts):
        enter, leave, facing = _interval(piece, origin, directions)
        if piece.free_path > 0:
            enter = np.maximum(enter, 0) + rng.exponential(piece.free_path, len(rows))
            facing = _leaf_normals(directions, rng)
        hit = (enter < leave) & (enter > 0) & (enter < distance) & (enter <= max_range)
        distance[hit] = enter[hit]
        part[hit] = index
        normal[hit] = facing[hit]
    met = np.isfinite(distance)
    return rows[met], distance[met], part[met], normal[met] @ to_local


def _meets_box(origin: FloatArray, directions: FloatArray, half: FloatArray) -> npt.NDArray[np.bool_]:
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / directions
        a, b = (-half - origin) * inverse, (half - origin) * inverse
    # fmin and fmax pass over the NaN of a ray that runs inside a face.
    enter = np.fmin(a, b).max(axis=1)
    leave = np.fmax(a, b).min(axis=1)
    return (enter <= leave) & (leave > 0)  # type: ignore[no-any-return]


def _interval(
    piece: Part, origin: FloatArray, directions: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Where each ray enters and leaves a convex part, and the normal at the entrance (local frame)."""
    rays = len(directions)
    enter, leave = np.full(rays, -np.inf), np.full(rays, np.inf)
    normal = np.zeros((rays, 3))
    for nx, ny, nz, offset in piece.planes:
        along = directions @ (nx, ny, nz)
        gap = offset - origin @ (nx, ny, nz)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = gap / along
        inward = along < 0
        later = inward & (t > enter)
        enter[later] = t[later]
        normal[later] = (nx, ny, nz)
        outward = along > 0
        leave[outward] = np.minimum(leave[outward], t[outward])
        if gap < 0:
            leave[along == 0] = -np.inf
    if piece.radii is not None:
        near, far, outward = _round_interval(piece.centre, piece.radii, origin, directions)
        later = near > enter
        enter[later], normal[later] = near[later], outward[later]
        leave = np.minimum(leave, far)
    return enter, leave, normal


def _round_interval(
    centre: Vector, radii: Vector, origin: FloatArray, directions: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `_interval` for an ellipsoid or a cylinder (one infinite radius); an empty interval for a miss."""
    # In units of the radii the solid is a unit ball or cylinder.
    scale = 1 / np.asarray(radii)
    o, d = (origin - centre) * scale, directions * scale
    a, b, c = np.einsum("ij,ij->i", d, d), d @ o, o @ o - 1
    root = b * b - a * c
    missed = (root <= 0) | (a == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.sqrt(np.maximum(root, 0))
        near, far = np.where(missed, np.inf, (-b - half) / a), np.where(missed, -np.inf, (-b + half) / a)
        outward = (o + np.where(missed, 0, near)[:, None] * d) * scale
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    return near, far, outward


def _leaf_normals(directions: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Random unit normals that face the rays."""
    normal = rng.standard_normal(directions.shape)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    facing = np.einsum("ij,ij->i", normal, directions) < 0
    return np.where(facing[:, None], normal, -normal)
