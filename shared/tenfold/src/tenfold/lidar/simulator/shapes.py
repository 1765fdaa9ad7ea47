"""Solids of the simulated world: convex parts, and the objects that are built from them.

An object lives in its own frame: origin at the centre of its box, +x along its heading. A part is the
intersection of half-spaces and, where it is round, of an ellipsoid or an elliptic cylinder. That one form
covers boxes, tapered cabins, wheels, limbs and tree crowns, and a ray meets it in one interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
Vector = tuple[float, float, float]
Corner = Sequence[float] | FloatArray


@dataclass(frozen=True)
class Material:
    """How a surface answers light: to the laser by `reflectance` (0-1), to the camera by `colour` (RGB 0-1).

    `transmission` is the share of pulses that pass without a return (glass); `pattern` names a texture that
    the camera paints ("windows", "leaves", "" for none).
    """

    reflectance: float
    colour: Vector
    transmission: float = 0.0
    pattern: str = ""


GLASS = Material(0.12, (0.10, 0.12, 0.14), transmission=0.7)
RUBBER = Material(0.08, (0.04, 0.04, 0.045))
PLATE = Material(0.95, (0.85, 0.85, 0.8))
TAIL_LIGHT = Material(0.8, (0.65, 0.05, 0.04))
HEAD_LIGHT = Material(0.7, (0.9, 0.9, 0.85))
SKIN = Material(0.45, (0.75, 0.55, 0.45))
METAL = Material(0.5, (0.45, 0.46, 0.48))
SIGN = Material(0.95, (0.75, 0.1, 0.1))
BARK = Material(0.3, (0.25, 0.18, 0.12))
LEAVES = Material(0.38, (0.16, 0.27, 0.09), pattern="leaves")


@dataclass(frozen=True, eq=False)
class Part:
    """Convex solid in the frame of its object.

    Args:
        planes: ``(K, 4)``; a point p is inside when ``n . p <= d`` for each row ``(n, d)``, n of unit length.
        material: of the whole surface.
        centre: of the round constraint.
        radii: semi-axes of the round constraint, infinite along the axis of a cylinder; None: no such
            constraint.
        free_path: 0 for a solid; for foliage the mean length (metres) that a ray travels inside before it
            meets a leaf.
    """

    planes: FloatArray
    material: Material
    centre: Vector = (0.0, 0.0, 0.0)
    radii: Vector | None = None
    free_path: float = 0.0


@dataclass(frozen=True, eq=False)
class SceneObject:
    """A thing in the world: its box ``(7,)``, its class name and its parts; `labelled` things get boxes."""

    name: str
    box: FloatArray
    parts: tuple[Part, ...]
    labelled: bool = True
    bounding_radius: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounding_radius", float(np.linalg.norm(self.box[3:6])) / 2 + 1e-3)


def box_part(low: Corner, high: Corner, material: Material, free_path: float = 0.0) -> Part:
    """Axis-parallel box between two corners."""
    return Part(_box_planes(low, high), material, free_path=free_path)


def _box_planes(low: Corner, high: Corner) -> FloatArray:
    planes = np.zeros((6, 4))
    for axis in range(3):
        planes[2 * axis, axis], planes[2 * axis, 3] = 1, high[axis]
        planes[2 * axis + 1, axis], planes[2 * axis + 1, 3] = -1, -low[axis]
    return planes


def _plane_through(
    axis: int, side: int, ends: tuple[float, float], heights: tuple[float, float]
) -> FloatArray:
    """Half-space below, above or beside a slanted plane.

    Its border runs through coordinate `ends[k]` on x (axis 0) or y (axis 1) at height `heights[k]`.
    """
    (at_bottom, at_top), (z0, z1) = ends, heights
    normal = np.zeros(3)
    normal[axis], normal[2] = side * (z1 - z0), -side * (at_top - at_bottom)
    normal /= np.linalg.norm(normal)
    return np.append(normal, normal[axis] * at_bottom + normal[2] * z0)


def prism_part(
    bottom: tuple[float, float, float, float],
    top: tuple[float, float, float, float],
    z0: float,
    z1: float,
    material: Material,
) -> Part:
    """Solid between two horizontal rectangles ``(x0, x1, y0, y1)`` at heights z0 < z1; may taper and lean."""
    planes = [
        _plane_through(0, -1, (bottom[0], top[0]), (z0, z1)),
        _plane_through(0, 1, (bottom[1], top[1]), (z0, z1)),
        _plane_through(1, -1, (bottom[2], top[2]), (z0, z1)),
        _plane_through(1, 1, (bottom[3], top[3]), (z0, z1)),
        np.array([0, 0, 1, z1]),
        np.array([0, 0, -1, -z0]),
    ]
    return Part(np.stack(planes), material)


def round_part(
    centre: Vector,
    radii: Vector,
    material: Material,
    *,
    axis: int | None = None,
    half_length: float = 0.0,
    free_path: float = 0.0,
) -> Part:
    """Ellipsoid, or with `axis` a cylinder along that axis of the given half length."""
    if axis is None:
        return Part(np.zeros((0, 4)), material, centre, radii, free_path)
    open_radii: Vector = (
        np.inf if axis == 0 else radii[0],
        np.inf if axis == 1 else radii[1],
        np.inf if axis == 2 else radii[2],
    )
    planes = np.zeros((2, 4))
    planes[:, axis] = 1, -1
    planes[:, 3] = centre[axis] + half_length, -(centre[axis] - half_length)
    return Part(planes, material, centre, open_radii, free_path)


def _paint(rng: np.random.Generator) -> Material:
    colours: list[Vector] = [
        (0.75, 0.76, 0.78),
        (0.08, 0.08, 0.09),
        (0.85, 0.85, 0.85),
        (0.35, 0.37, 0.40),
        (0.45, 0.06, 0.07),
        (0.10, 0.16, 0.38),
        (0.12, 0.25, 0.16),
        (0.55, 0.50, 0.38),
    ]
    base = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.1)
    colour: Vector = tuple(np.clip(base, 0.03, 0.95).tolist())
    return Material(0.08 + 0.5 * float(np.mean(colour)) * rng.uniform(0.6, 1.2), colour)


def _cloth(rng: np.random.Generator) -> Material:
    colour: Vector = tuple(rng.uniform(0.08, 0.7, 3).tolist())
    return Material(0.15 + 0.4 * float(np.mean(colour)), colour)


def _lights_and_plates(length: float, width: float, low: float, high: float) -> list[Part]:
    """Lamps and number plates in the last 3 cm of both ends of a vehicle."""
    end, inner, side = length / 2, length / 2 - 0.03, width / 2
    lamp = low + 0.62 * (high - low), low + 0.85 * (high - low)
    plate = low + 0.3 * (high - low), low + 0.3 * (high - low) + 0.12
    parts = []
    for x0, x1, material in ((-end, -inner, TAIL_LIGHT), (inner, end, HEAD_LIGHT)):
        for sign in (-1, 1):
            y = sorted((sign * 0.92 * side, sign * 0.62 * side))
            parts.append(box_part((x0, y[0], lamp[0]), (x1, y[1], lamp[1]), material))
        parts.append(box_part((x0, -0.26, plate[0]), (x1, 0.26, plate[1]), PLATE))
    return parts


def _axles(length: float, width: float, bottom: float, radius: float) -> list[Part]:
    return [
        round_part((x, 0, bottom + radius), (radius, 1, radius), RUBBER, axis=1, half_length=width / 2)
        for x in (-0.3 * length, 0.31 * length)
    ]


def car_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Passenger car: wheels, body with falling bonnet, tapered window band, roof, lamps and plates."""
    length, width, height = size
    paint = _paint(rng)
    bottom, top = -height / 2, height / 2
    sill, waist = bottom + 0.17, bottom + (0.56 + 0.04 * rng.random()) * height
    # The wheels stand out by 2 cm on both sides, the lamps by 3 cm at both ends.
    end, side = length / 2 - 0.03, width / 2 - 0.02
    body = box_part((-end, -side, sill), (end, side, waist), paint)
    bonnet = _plane_through(0, 1, (end + 0.25, 0.12 * length), (waist - 0.2 * height, waist))
    body = Part(np.vstack((body.planes, bonnet)), paint)

    rear = rng.uniform(0.40, 0.48)
    base = (-rear * length, 0.24 * length, -side + 0.02, side - 0.02)
    roof = (-(rear - 0.10) * length, 0.04 * length, -0.78 * side, 0.78 * side)
    split = 0.8
    between = tuple(b + split * (r - b) for b, r in zip(base, roof, strict=True))
    z_split = waist + split * (top - waist)
    windows = prism_part(base, between, waist, z_split, GLASS)  # type: ignore[arg-type]
    cover = prism_part(between, roof, z_split, top, paint)  # type: ignore[arg-type]
    wheels = _axles(length, width, bottom, 0.2 * height)
    return (body, windows, cover, *wheels, *_lights_and_plates(length, width, sill, waist))


def van_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Van: tall box body with a sloped front, windscreen and side windows in front."""
    length, width, height = size
    paint = _paint(rng)
    bottom, top = -height / 2, height / 2
    sill, waist = bottom + 0.2, bottom + 0.52 * height
    # The wheels stand out by 2 cm on both sides, the lamps by 3 cm at both ends.
    end, side = length / 2 - 0.03, width / 2 - 0.02
    lower = box_part((-end, -side, sill), (end, side, waist), paint)
    nose = _plane_through(0, 1, (end + 0.1, 0.36 * length), (waist - 0.12 * height, waist))
    lower = Part(np.vstack((lower.planes, nose)), paint)
    hull = prism_part(
        (-end, 0.1 * length, -side, side), (-end, 0.1 * length, -0.92 * side, 0.92 * side), waist, top, paint
    )
    cab = prism_part(
        (0.1 * length, 0.37 * length, -side + 0.01, side - 0.01),
        (0.1 * length, 0.24 * length, -0.92 * side, 0.92 * side),
        waist,
        top - 0.12,
        GLASS,
    )
    roof = box_part((0.1 * length, -0.91 * side, top - 0.12), (0.25 * length, 0.91 * side, top - 0.01), paint)
    wheels = _axles(length, width, bottom, 0.34)
    return (lower, hull, cab, roof, *wheels, *_lights_and_plates(length, width, sill, waist))


def _limb(x: tuple[float, float], y: float, z: tuple[float, float], thick: float, material: Material) -> Part:
    """Bar of square section from ``(x[0], y, z[0])`` up to ``(x[1], y, z[1])``."""
    half = thick / 2
    low, high = ((c - half, c + half, y - half, y + half) for c in x)
    return prism_part(low, high, z[0], z[1], material)


def pedestrian_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Walking person: two legs in a stride, swinging arms, torso and head."""
    length, width, height = size
    trousers, coat = _cloth(rng), _cloth(rng)
    bottom, top = -height / 2, height / 2
    hip, neck = bottom + 0.48 * height, bottom + 0.83 * height
    leg, arm = 0.17 * height / 1.76, 0.11
    stride, shoulder = length / 2 - leg / 2, width / 2 - arm / 2
    head = 0.09 * height
    parts = [
        _limb((stride, 0.02), 0.09, (bottom, hip), leg, trousers),
        _limb((-stride, -0.02), -0.09, (bottom, hip), leg, trousers),
        _limb((-0.7 * stride, 0.0), shoulder, (bottom + 0.42 * height, neck - 0.03), arm, coat),
        _limb((0.7 * stride, 0.0), -shoulder, (bottom + 0.42 * height, neck - 0.03), arm, coat),
        round_part(
            (0, 0, (hip + neck) / 2), (0.15, shoulder, 1), coat, axis=2, half_length=(neck - hip) / 2 + 0.01
        ),
        round_part((0, 0, top - head), (0.09, 0.08, head), SKIN),
    ]
    return tuple(parts)


def cyclist_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Bicycle with rider: two wheels, frame, handlebar; legs, leaning torso, arms and head."""
    length, width, height = size
    trousers, coat, frame = _cloth(rng), _cloth(rng), _paint(rng)
    bottom, top = -height / 2, height / 2
    wheel = min(0.34, 0.2 * length)
    hub = length / 2 - wheel
    saddle, bar = bottom + 0.55 * height, bottom + 0.6 * height
    seat_x, bar_x, chest_x = -0.12 * length, 0.22 * length, 0.1 * length
    half = width / 2
    neck = top - 0.17 * height
    parts = [
        *(
            round_part((x, 0, bottom + wheel), (wheel, 1, wheel), RUBBER, axis=1, half_length=0.03)
            for x in (-hub, hub)
        ),
        _limb((0.0, seat_x), 0.0, (bottom + 0.9 * wheel, saddle), 0.06, frame),
        _limb((hub, bar_x), 0.0, (bottom + wheel, bar), 0.06, frame),
        box_part(
            (-0.1, -0.025, bottom + 1.4 * wheel), (hub - 0.05, 0.025, bottom + 1.4 * wheel + 0.06), frame
        ),
        box_part((bar_x - 0.03, -half, bar - 0.03), (bar_x + 0.03, half, bar + 0.03), METAL),
        _limb((0.1, seat_x + 0.05), 0.11, (bottom + 0.16 * height, saddle), 0.14, trousers),
        _limb((-0.05, seat_x + 0.05), -0.11, (bottom + 0.26 * height, saddle), 0.14, trousers),
        prism_part(
            (seat_x - 0.13, seat_x + 0.13, -0.16, 0.16),
            (chest_x - 0.11, chest_x + 0.11, -0.2, 0.2),
            saddle - 0.02,
            neck,
            coat,
        ),
        _limb((bar_x, chest_x), 0.22, (bar, neck - 0.05), 0.09, coat),
        _limb((bar_x, chest_x), -0.22, (bar, neck - 0.05), 0.09, coat),
        round_part((chest_x + 0.06, 0, top - 0.09 * height), (0.1, 0.08, 0.09 * height), SKIN),
    ]
    return tuple(parts)


def wall_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """House front or free-standing wall: a plain block, with painted windows when it is tall."""
    tone = rng.uniform(0.45, 0.8)
    colour: Vector = tuple(
        np.clip(tone * np.array([1, 0.93, 0.82]) * rng.uniform(0.9, 1.1, 3), 0, 1).tolist()
    )
    material = Material(0.2 + 0.35 * tone, colour, pattern="windows" if size[2] > 3 else "")
    half = np.array(size) / 2
    return (box_part(-half, half, material),)


def pole_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Lamp post or sign post; every second one carries a retro-reflecting sign."""
    length, width, height = size
    radius = min(length, width) * 0.17
    parts = [round_part((0, 0, 0), (radius, radius, 1), METAL, axis=2, half_length=height / 2)]
    if rng.random() < 0.5:
        z = -height / 2 + min(2.2, 0.7 * height)
        parts.append(box_part((-radius - 0.02, -width / 2, z), (-radius, width / 2, z + width), SIGN))
    return tuple(parts)


def hedge_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Porous block of leaves: rays end at a random depth or pass."""
    half = np.array(size) / 2
    return (box_part(-half, half, LEAVES, free_path=rng.uniform(0.15, 0.4)),)


def tree_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Trunk and porous crown."""
    length, width, height = size
    crown = 0.33 * height
    trunk = round_part((0, 0, -crown), (0.18, 0.18, 1), BARK, axis=2, half_length=height / 2 - crown)
    leaves = round_part(
        (0, 0, height / 2 - crown), (length / 2, width / 2, crown), LEAVES, free_path=rng.uniform(0.5, 1.0)
    )
    return (trunk, leaves)


def block_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Car-sized distractor without the shape of a car (skip, crate, low wall)."""
    tone = rng.uniform(0.25, 0.6)
    half = np.array(size) / 2
    return (box_part(-half, half, Material(0.1 + 0.5 * tone, (tone, tone, 0.95 * tone))),)
