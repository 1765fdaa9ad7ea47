"""What stands where: seeded street scenes without overlaps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tenfold.geometry import bev_corners
from tenfold.lidar.simulator import shapes, traffic
from tenfold.lidar.simulator.ground import KERBS, Ground
from tenfold.lidar.simulator.shapes import FloatArray, IntArray, Part, SceneObject, Vector


@dataclass(frozen=True)
class Kind:
    """Size statistics (mean and deviation of dx, dy, dz in metres) and shape of one kind of object."""

    mean: Vector
    deviation: Vector
    build: Callable[[Vector, np.random.Generator], tuple[Part, ...]]
    labelled: bool = True


# Means and spreads of the four classes follow the KITTI training labels.
KINDS = {
    "Car": Kind((3.88, 1.63, 1.53), (0.42, 0.10, 0.13), shapes.car_parts),
    "Van": Kind((5.08, 1.90, 2.20), (0.70, 0.14, 0.28), shapes.van_parts),
    "Pedestrian": Kind((0.84, 0.66, 1.76), (0.18, 0.10, 0.10), shapes.pedestrian_parts),
    "Cyclist": Kind((1.76, 0.60, 1.74), (0.14, 0.08, 0.08), shapes.cyclist_parts),
    "wall": Kind((14.0, 5.0, 5.5), (5.0, 2.0, 1.8), shapes.wall_parts, labelled=False),
    "pole": Kind((0.5, 0.5, 4.0), (0.1, 0.1, 1.2), shapes.pole_parts, labelled=False),
    "hedge": Kind((4.5, 0.8, 1.8), (1.5, 0.3, 0.4), shapes.hedge_parts, labelled=False),
    "tree": Kind((4.5, 4.5, 7.0), (1.0, 1.0, 1.2), shapes.tree_parts, labelled=False),
    "block": Kind((2.2, 2.0, 1.2), (0.3, 0.3, 0.2), shapes.block_parts, labelled=False),
    # The ten classes of nuScenes; means follow its mean sizes.
    "car": Kind((4.63, 1.97, 1.74), (0.35, 0.12, 0.15), shapes.car_parts),
    "truck": Kind((6.93, 2.51, 2.84), (1.2, 0.15, 0.35), traffic.truck_parts),
    "bus": Kind((10.5, 2.94, 3.47), (1.2, 0.12, 0.25), traffic.bus_parts),
    "trailer": Kind((12.29, 2.9, 3.87), (1.5, 0.15, 0.3), traffic.trailer_parts),
    "construction_vehicle": Kind((6.37, 2.85, 3.19), (0.8, 0.25, 0.35), traffic.digger_parts),
    "pedestrian": Kind((0.73, 0.67, 1.77), (0.12, 0.08, 0.12), shapes.pedestrian_parts),
    "motorcycle": Kind((2.11, 0.77, 1.47), (0.15, 0.08, 0.1), traffic.motorcycle_parts),
    "bicycle": Kind((1.7, 0.6, 1.28), (0.12, 0.06, 0.1), shapes.cyclist_parts),
    "traffic_cone": Kind((0.41, 0.41, 1.07), (0.04, 0.04, 0.12), traffic.cone_parts),
    "barrier": Kind((0.5, 2.53, 0.98), (0.06, 0.3, 0.08), traffic.barrier_parts),
}


Count = int | tuple[int, int]


@dataclass(frozen=True)
class SceneConfig:
    """How `sample_scene` fills the world.

    Args:
        region: x0, y0, x1, y1 in metres; the centres of all objects lie in it.
        n_cars, n_vans, ...: how many of each, a number or an inclusive range. What finds no free place after
            100 tries is left out.
        layout: "street" puts traffic into lanes, people on pavements and houses behind; "open" scatters
            everything over the region, with vehicles at `headings`.
        headings: radians, main directions of vehicles and obstacles in the "open" layout.
        heading_deviation: standard deviation around them, radians.
        pair_fraction: share of cars that get a parked neighbour beside them, on top of `n_cars`.
        pair_distance: range of the distance between the centres of such a pair, metres.
        clearance: free metres around every box.
        slope: standard deviation of the ground's rise per metre.
        undulation: amplitude of the ground's waves, metres; 0 for a plane.
        sensor_height: of the sensor above the ground, metres.
        traffic: further kinds of objects (see `KINDS`) with their counts, placed before all others.
        drive: metres that the sensor's car will go along +x; nothing may stand there.
    """

    region: tuple[float, float, float, float] = (0.0, -30.0, 70.0, 30.0)
    n_cars: Count = (5, 10)
    n_vans: Count = (0, 2)
    n_pedestrians: Count = (1, 5)
    n_cyclists: Count = (0, 3)
    n_walls: Count = (3, 6)
    n_poles: Count = (3, 8)
    n_hedges: Count = (2, 6)
    n_trees: Count = (2, 6)
    n_blocks: Count = (0, 2)
    layout: str = "street"
    headings: tuple[float, ...] = (0.0, np.pi / 2)
    heading_deviation: float = 0.15
    pair_fraction: float = 0.3
    pair_distance: tuple[float, float] = (2.15, 2.5)
    clearance: float = 0.2
    slope: float = 0.004
    undulation: float = 0.04
    sensor_height: float = 1.73
    traffic: tuple[tuple[str, Count], ...] = ()
    drive: float = 0.0

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.region
        if not (x0 < x1 and y0 < y1):
            raise ValueError(
                f"SceneConfig: region: {self.region} was received; x0 < x1 and y0 < y1 are expected"
            )
        if self.layout not in {"street", "open"}:
            raise ValueError(
                f"SceneConfig: layout: {self.layout!r} was received; 'street' or 'open' is expected"
            )
        if unknown := [kind for kind, _ in self.traffic if kind not in KINDS]:
            raise ValueError(
                f"SceneConfig: traffic: {unknown[0]!r} was received; one of {', '.join(KINDS)} is expected"
            )
        if not 0 <= self.pair_fraction <= 1:
            raise ValueError("SceneConfig: pair_fraction: a share in [0, 1] is expected")


# Cars and distractors on a flat square of 51.2 m: what small experiments train on within minutes.
SMALL_SCENE = SceneConfig(
    region=(0.0, -25.6, 51.2, 25.6),
    n_cars=6,
    n_vans=0,
    n_pedestrians=0,
    n_cyclists=0,
    n_walls=0,
    n_poles=3,
    n_hedges=3,
    n_trees=0,
    n_blocks=2,
    layout="open",
    pair_fraction=0.5,
    pair_distance=(2.15, 2.4),
    slope=0.0,
    undulation=0.0,
)

# Order of placement: what must stand where traffic rules put it comes before what fits anywhere.
_COUNTS = {
    "Car": "n_cars",
    "Van": "n_vans",
    "Cyclist": "n_cyclists",
    "Pedestrian": "n_pedestrians",
    "wall": "n_walls",
    "pole": "n_poles",
    "tree": "n_trees",
    "hedge": "n_hedges",
    "block": "n_blocks",
}

# Kinds that park side by side.
_PAIRED = ("Car", "car")

# The sensor's own car: nothing may stand in it.
_EGO = np.array([[0.3, 0.0, 0.0, 5.0, 2.2, 1.6, 0.0]])


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects on a ground, in the frame of the sensor (x forward, y left, z up; the ground lies below)."""

    objects: tuple[SceneObject, ...]
    ground: Ground
    seed: int = 0

    @cached_property
    def box_index(self) -> IntArray:
        """Index into `boxes` of each object, -1 for objects without a box."""
        labelled = np.array([o.labelled for o in self.objects], dtype=bool)
        return np.where(labelled, np.cumsum(labelled) - 1, -1).astype(np.int64)

    @property
    def boxes(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Boxes ``(M, 7)`` float32 of the labelled objects."""
        rows = [o.box for o in self.objects if o.labelled]
        return np.array(rows, dtype=np.float32).reshape(-1, 7)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names of the labelled objects."""
        return tuple(o.name for o in self.objects if o.labelled)


def make_object(kind: str, box: FloatArray, seed: int = 0) -> SceneObject:
    """Build one object of a kind (see `KINDS`) that fills the box ``(7,)``.

    >>> make_object("Car", np.array([10.0, 0, -0.9, 4, 1.7, 1.5, 0])).name
    'Car'
    """
    if kind not in KINDS:
        raise ValueError(f"make_object: kind: {kind!r} was received; one of {', '.join(KINDS)} is expected")
    box = np.asarray(box, dtype=np.float64)
    if box.shape != (7,) or not (np.isfinite(box).all() and (box[3:6] > 0).all()):
        raise ValueError("make_object: box: seven finite numbers with positive extents are expected")
    rng = np.random.default_rng((seed, 2))
    size: Vector = (float(box[3]), float(box[4]), float(box[5]))
    return SceneObject(kind, box, KINDS[kind].build(size, rng), KINDS[kind].labelled)


def sample_scene(seed: int, config: SceneConfig | None = None, **overrides: Any) -> Scene:
    """Draw a scene.

    Args:
        seed: the same seed and settings give the same scene.
        config: settings; defaults if None.
        overrides: single fields of `SceneConfig`.

    >>> scene = sample_scene(3, n_cars=4, pair_fraction=0.0)
    >>> scene.names.count("Car")
    4
    """
    config = replace(config or SceneConfig(), **overrides)
    rng = np.random.default_rng((seed, 0))
    ground = _sample_ground(config, rng)
    placed: list[tuple[str, FloatArray]] = []
    counts = (*config.traffic, *((kind, getattr(config, field)) for kind, field in _COUNTS.items()))
    for kind, count in counts:
        for _ in range(_draw_count(count, rng)):
            _place(kind, config, ground, placed, rng)
    objects = tuple(make_object(kind, box, int(rng.integers(2**31))) for kind, box in placed)
    return Scene(objects, ground, seed)


def _draw_count(count: Count, rng: np.random.Generator) -> int:
    return count if isinstance(count, int) else int(rng.integers(count[0], count[1] + 1))


def _sample_ground(config: SceneConfig, rng: np.random.Generator) -> Ground:
    slope = (float(rng.normal(0, config.slope)), float(rng.normal(0, config.slope)))
    waves = None
    if config.undulation > 0:
        # Wave lengths of 20 to 60 m: longer than a car, so that boxes stand upright on them.
        length, direction = rng.uniform(20, 60, 3), rng.uniform(0, 2 * np.pi, 3)
        k = 2 * np.pi / length
        amplitude = config.undulation * rng.uniform(0.3, 1, 3)
        waves = np.stack(
            (amplitude, k * np.cos(direction), k * np.sin(direction), rng.uniform(0, 6.28, 3)), 1
        )
    return Ground(-config.sensor_height, slope, waves)


def _place(
    kind: str,
    config: SceneConfig,
    ground: Ground,
    placed: list[tuple[str, FloatArray]],
    rng: np.random.Generator,
) -> None:
    """Append one object (and perhaps its parked neighbour) where it overlaps nothing."""
    for _ in range(100):
        box = _stand(kind, _propose(kind, config, rng), ground, rng)
        if not _is_free(box, config, placed):
            continue
        placed.append((kind, box))
        if kind in _PAIRED and rng.random() < config.pair_fraction:
            _place_neighbour(kind, box, config, ground, placed, rng)
        return


def _place_neighbour(
    kind: str,
    box: FloatArray,
    config: SceneConfig,
    ground: Ground,
    placed: list[tuple[str, FloatArray]],
    rng: np.random.Generator,
) -> None:
    for side in rng.permutation((-1.0, 1.0)):
        away = side * rng.uniform(*config.pair_distance)
        along = rng.normal(0, 0.25)
        cos, sin = np.cos(box[6]), np.sin(box[6])
        x, y = box[0] + along * cos - away * sin, box[1] + along * sin + away * cos
        heading = box[6] + rng.normal(0, 0.03) + np.pi * rng.integers(2)
        neighbour = _stand(kind, (x, y, heading), ground, rng)
        if _is_free(neighbour, config, placed):
            placed.append((kind, neighbour))
            return


def _stand(
    kind: str, pose: tuple[float, float, float], ground: Ground, rng: np.random.Generator
) -> FloatArray:
    """Box of a random size on the ground at a pose (x, y, heading)."""
    x, y, heading = pose
    mean, deviation = np.array(KINDS[kind].mean), np.array(KINDS[kind].deviation)
    size = mean + deviation * np.clip(rng.standard_normal(3), -2, 2)
    size = np.maximum(size, 0.4 * mean)
    z = float(ground.z(np.asarray(x), np.asarray(y))) + size[2] / 2
    return np.array([x, y, z, *size, np.mod(heading + np.pi, 2 * np.pi) - np.pi])


def _propose(kind: str, config: SceneConfig, rng: np.random.Generator) -> tuple[float, float, float]:
    x0, y0, x1, y1 = config.region
    x = rng.uniform(x0, x1)
    if config.layout == "street":
        y, heading = _STREET[kind](rng)
        return x, y, heading
    free = kind in {"Pedestrian", "pedestrian", "pole", "tree", "traffic_cone", "barrier"}
    heading = rng.uniform(-np.pi, np.pi) if free else rng.choice(config.headings)
    heading += rng.normal(0, config.heading_deviation) + np.pi * rng.integers(2)
    return x, rng.uniform(y0, y1), heading


def _car_on_street(rng: np.random.Generator) -> tuple[float, float]:
    """Lateral position and heading: lanes at y = 0 and 3.6, kerb parking, bays behind the pavement."""
    kind = rng.choice(5, p=(0.16, 0.22, 0.2, 0.2, 0.22))
    if kind < 2:
        return (0.0, 3.6)[kind] + rng.normal(0, 0.25), (0.0, np.pi)[kind] + rng.normal(0, 0.03)
    if kind < 4:
        y = (-3.05, 6.65)[kind - 2] + rng.normal(0, 0.12)
        return y, np.pi * rng.integers(2) + rng.normal(0, 0.04)
    y = rng.choice((-10.0, 13.6)) + rng.normal(0, 0.5)
    return y, rng.choice((-1, 1)) * np.pi / 2 + rng.normal(0, 0.08)


def _pedestrian_on_street(rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() < 0.2:
        return rng.uniform(-4, 7.5), rng.choice((-1, 1)) * np.pi / 2 + rng.normal(0, 0.3)
    y = rng.choice((rng.uniform(-6.9, -4.7), rng.uniform(8.3, 10.5)))
    return y, np.pi * rng.integers(2) + rng.normal(0, 0.5)


def _cyclist_on_street(rng: np.random.Generator) -> tuple[float, float]:
    y, heading = ((-1.7, 0.0), (5.2, np.pi), (-5.0, 0.0), (8.6, np.pi))[rng.integers(4)]
    return y + rng.normal(0, 0.25), heading + rng.normal(0, 0.12)


def _beside(
    near: float, far: float, heading_deviation: float, turn: float = 0.0
) -> Callable[[np.random.Generator], tuple[float, float]]:
    """Positions between `near` and `far` metres behind one of the kerbs; a share `turn` stands across."""

    def propose(rng: np.random.Generator) -> tuple[float, float]:
        away = rng.uniform(near, far)
        y = rng.choice((KERBS[0] - away, KERBS[1] + away))
        across = np.pi / 2 if rng.random() < turn else 0.0
        return y, across + rng.normal(0, heading_deviation)

    return propose


def _heavy_on_street(rng: np.random.Generator) -> tuple[float, float]:
    """Lorries and buses: in the oncoming lane, in the own one, or at the kerb."""
    kind = rng.choice(4, p=(0.2, 0.35, 0.2, 0.25))
    y = (0.0, 3.6, -3.3, 7.0)[kind] + rng.normal(0, 0.15)
    return y, (0.0, np.pi, 0.0, np.pi)[kind] + rng.normal(0, 0.02)


def _roadworks(rng: np.random.Generator) -> tuple[float, float]:
    """Along the right edge of the own lane; barriers stand across their thin side."""
    return rng.choice((-2.4, -4.9, 8.4)) + rng.normal(0, 0.15), rng.choice((-1, 1)) * np.pi / 2 + rng.normal(
        0, 0.2
    )


_STREET: dict[str, Callable[[np.random.Generator], tuple[float, float]]] = {
    "Car": _car_on_street,
    "Van": _car_on_street,
    "Pedestrian": _pedestrian_on_street,
    "Cyclist": _cyclist_on_street,
    "wall": _beside(10.0, 20.0, 0.04, turn=0.25),
    "pole": _beside(0.3, 0.6, 0.2),
    "tree": _beside(4.5, 16.0, 3.0),
    "hedge": _beside(3.6, 9.0, 0.06, turn=0.15),
    "block": _beside(3.6, 12.0, 0.5),
    "car": _car_on_street,
    "truck": _heavy_on_street,
    "bus": _heavy_on_street,
    "trailer": _heavy_on_street,
    "construction_vehicle": _beside(4.5, 9.0, 0.4),
    "pedestrian": _pedestrian_on_street,
    "motorcycle": _cyclist_on_street,
    "bicycle": _cyclist_on_street,
    "traffic_cone": _roadworks,
    "barrier": _roadworks,
}


def _is_free(box: FloatArray, config: SceneConfig, placed: list[tuple[str, FloatArray]]) -> bool:
    x0, y0, x1, y1 = config.region
    if not (x0 <= box[0] <= x1 and y0 <= box[1] <= y1):
        return False
    grown = box.copy()
    grown[3:5] += 2 * config.clearance
    ego = _EGO + np.array([[config.drive / 2, 0, 0, config.drive, 0, 0, 0]])
    others = np.concatenate((ego, np.array([b for _, b in placed]).reshape(-1, 7)))
    return not _overlaps(grown, others).any()


def _overlaps(box: FloatArray, others: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether the footprint of `box` meets each other footprint ``(N,)``: separating axes of rectangles."""
    mine, theirs = bev_corners(box[None])[0], bev_corners(others)
    apart = np.zeros(len(others), dtype=bool)
    for heading in (np.full(len(others), box[6]), others[:, 6]):
        for angle in (heading, heading + np.pi / 2):
            axis = np.stack((np.cos(angle), np.sin(angle)), -1)
            a = np.einsum("cd,nd->nc", mine, axis)
            b = np.einsum("ncd,nd->nc", theirs, axis)
            apart |= (a.max(1) < b.min(1)) | (b.max(1) < a.min(1))
    return ~apart
