"""Shapes of the vehicles and things of nuScenes' ten classes beside cars, people and cyclists."""

import numpy as np

from tenfold.lidar.simulator.shapes import (
    GLASS,
    METAL,
    RUBBER,
    SIGN,
    Material,
    Part,
    Vector,
    _axles,
    _lights_and_plates,
    _limb,
    _paint,
    box_part,
    prism_part,
    round_part,
)

_YELLOW = Material(0.45, (0.85, 0.62, 0.1))
_ORANGE = Material(0.55, (0.9, 0.35, 0.08))
_CONCRETE = Material(0.4, (0.62, 0.61, 0.58))


def truck_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Lorry: a cab with a windscreen in front of a higher box body."""
    length, width, height = size
    bottom, top, end, side = -height / 2, height / 2, length / 2 - 0.03, width / 2 - 0.02
    sill, cab = bottom + 0.5, end - max(1.6, 0.24 * length)
    waist = bottom + 0.55 * height
    body = box_part((-end, -side, sill + 0.3), (cab - 0.15, side, top), _paint(rng))
    chassis = box_part((-end, -0.4 * width, sill), (end, 0.4 * width, sill + 0.3), METAL)
    nose = box_part((cab, -side + 0.05, sill), (end, side - 0.05, waist), _paint(rng))
    window = prism_part(
        (cab, end, -side + 0.05, side - 0.05),
        (cab, end - 0.25, -side + 0.12, side - 0.12),
        waist,
        top - 0.35,
        GLASS,
    )
    wheels = _axles(length, width, bottom, 0.5)
    return (body, chassis, nose, window, *wheels, *_lights_and_plates(length, width, sill, waist))


def bus_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Bus: one long body with a band of windows all round."""
    length, width, height = size
    bottom, top, end, side = -height / 2, height / 2, length / 2 - 0.03, width / 2 - 0.02
    sill, low, high = bottom + 0.35, bottom + 0.42 * height, bottom + 0.78 * height
    paint = _paint(rng)
    parts = (
        box_part((-end, -side, sill), (end, side, low), paint),
        box_part((-end + 0.02, -side + 0.02, low), (end - 0.02, side - 0.02, high), GLASS),
        box_part((-end, -side, high), (end, side, top), paint),
    )
    return (*parts, *_axles(length, width, bottom, 0.5), *_lights_and_plates(length, width, sill, low))


def trailer_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Semi-trailer: a box on a frame, axles at the rear, supports in front."""
    length, width, height = size
    bottom, top, end, side = -height / 2, height / 2, length / 2, width / 2 - 0.02
    floor = bottom + 1.1
    box = box_part((-end, -side, floor), (end, side, top), _paint(rng))
    frame = box_part((-end, -0.3 * width, floor - 0.25), (end, 0.3 * width, floor), METAL)
    wheels = [
        round_part((x * length, 0, bottom + 0.5), (0.5, 1, 0.5), RUBBER, axis=1, half_length=width / 2)
        for x in (-0.40, -0.29)
    ]
    legs = [
        _limb((0.25 * length, 0.25 * length), s * 0.3 * width, (bottom, floor - 0.25), 0.2, METAL)
        for s in (-1, 1)
    ]
    return (box, frame, *wheels, *legs)


def digger_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Excavator: tracks, a body with a cab, and an arm that reaches to the front end."""
    length, width, height = size
    bottom, top, end, side = -height / 2, height / 2, length / 2, width / 2
    deck = bottom + 0.32 * height
    reach = 0.1 * length
    parts = [
        box_part(
            (-0.5 * length, s * side - 0.35 * (s > 0), bottom),
            (reach, s * side + 0.35 * (s < 0), deck),
            RUBBER,
        )
        for s in (-1, 1)
    ]
    body = box_part(
        (-0.45 * length, -0.42 * width, deck), (0.05 * length, 0.42 * width, deck + 0.33 * height), _YELLOW
    )
    cab = box_part((-0.1 * length, 0.02 * width, deck + 0.33 * height), (reach, 0.4 * width, top), GLASS)
    elbow = 0.3 * length
    boom = _limb((0.0, elbow), -0.1 * width, (deck + 0.2 * height, top - 0.05), 0.35, _YELLOW)
    stick = _limb((end - 0.35, elbow), -0.1 * width, (bottom + 0.3, top - 0.05), 0.3, _YELLOW)
    bucket = box_part((end - 0.7, -0.3 * width, bottom), (end, 0.1 * width, bottom + 0.7), METAL)
    return (*parts, body, cab, boom, stick, bucket)


def motorcycle_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Motorcycle without a rider: two wheels, tank and seat, fork and handlebar."""
    length, width, height = size
    bottom, top = -height / 2, height / 2
    wheel = min(0.32, 0.28 * height)
    hub = length / 2 - wheel
    paint = _paint(rng)
    seat = bottom + 0.55 * height
    wheels = [
        round_part((x, 0, bottom + wheel), (wheel, 1, wheel), RUBBER, axis=1, half_length=0.07)
        for x in (-hub, hub)
    ]
    engine = box_part((-0.35, -0.2, bottom + 0.3), (0.35, 0.2, seat - 0.1), METAL)
    tank = prism_part((-0.1, 0.45, -0.18, 0.18), (0.0, 0.4, -0.12, 0.12), seat - 0.1, seat + 0.22, paint)
    saddle = box_part((-hub, -0.15, seat - 0.1), (-0.1, 0.15, seat + 0.06), paint)
    fork = _limb((hub, 0.6 * hub), 0.0, (bottom + wheel, top - 0.1), 0.1, METAL)
    bar = box_part((0.6 * hub - 0.05, -width / 2, top - 0.1), (0.6 * hub + 0.05, width / 2, top), METAL)
    return (*wheels, engine, tank, saddle, fork, bar)


def cone_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Traffic cone: a square foot, a tapering body with a reflecting band."""
    length, width, height = size
    half_x, half_y, bottom, top = length / 2, width / 2, -height / 2, height / 2
    foot = box_part((-half_x, -half_y, bottom), (half_x, half_y, bottom + 0.05), RUBBER)

    def ring(z0: float, z1: float, material: Material) -> Part:
        (a, b) = (0.75 - 0.6 * z for z in (z0, z1))
        low, high = ((-s * half_x, s * half_x, -s * half_y, s * half_y) for s in (a, b))
        at = [bottom + 0.05 + z * (height - 0.05) for z in (z0, z1)]
        return prism_part(low, high, at[0], min(at[1], top), material)

    return (foot, ring(0, 0.45, _ORANGE), ring(0.45, 0.65, SIGN), ring(0.65, 1, _ORANGE))


def barrier_parts(size: Vector, rng: np.random.Generator) -> tuple[Part, ...]:
    """Road barrier: a long block that tapers upwards; its length runs across the heading, as nuScenes labels it."""
    depth, width, height = size
    x, y, bottom, top = depth / 2, width / 2, -height / 2, height / 2
    foot = bottom + 0.25 * height
    material = _CONCRETE if rng.random() < 0.5 else _ORANGE
    return (
        box_part((-x, -y, bottom), (x, y, foot), material),
        prism_part((-x, x, -y, y), (-0.4 * x, 0.4 * x, -y, y), foot, top, material),
    )
