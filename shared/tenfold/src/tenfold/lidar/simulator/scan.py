"""Spinning lidar: where its rays go, what comes back."""

from dataclasses import dataclass

import numpy as np

from tenfold.geometry import transform_boxes
from tenfold.lidar.simulator.raycast import GROUND, NOTHING, Hits, cast
from tenfold.lidar.simulator.scene import Scene
from tenfold.lidar.simulator.shapes import FloatArray, IntArray


@dataclass(frozen=True)
class Sensor:
    """Beam table and measuring model of a spinning lidar.

    Args:
        elevations: angle of each beam above the horizon, degrees.
        azimuth_step: degrees between firings.
        azimuth_range: first (included) and last (excluded) azimuth, degrees counter-clockwise from +x.
        min_range, max_range: metres.
        range_noise: standard deviation, metres.
        dropout: share of returns lost at random.
        power: how strong a return must be; larger sees darker and farther surfaces.

    >>> Sensor((-1.0, -2.0), 0.5, (-45, 45)).shape
    (2, 180)
    """

    elevations: tuple[float, ...]
    azimuth_step: float
    azimuth_range: tuple[float, float] = (-180.0, 180.0)
    min_range: float = 1.5
    max_range: float = 120.0
    range_noise: float = 0.02
    dropout: float = 0.02
    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.elevations or not all(-90 < e < 90 for e in self.elevations):
            raise ValueError("Sensor: elevations: one or more angles between -90 and 90 degrees are expected")
        if not self.azimuth_step > 0:
            raise ValueError(
                f"Sensor: azimuth_step: {self.azimuth_step} was received; more than 0 is expected"
            )
        low, high = self.azimuth_range
        if not 0 < high - low <= 360:
            raise ValueError(
                f"Sensor: azimuth_range: {self.azimuth_range} was received; "
                "a range of up to 360 degrees is expected"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Sensor: dropout: {self.dropout} was received; a share in [0, 1) is expected")

    @property
    def azimuths(self) -> FloatArray:
        """Azimuth of each column, degrees."""
        low, high = self.azimuth_range
        return low + self.azimuth_step * np.arange(max(1, round((high - low) / self.azimuth_step)))

    @property
    def shape(self) -> tuple[int, int]:
        """Beams and columns."""
        return len(self.elevations), len(self.azimuths)


def _beams(*blocks: tuple[float, float, int]) -> tuple[float, ...]:
    return tuple(float(e) for first, last, n in blocks for e in np.linspace(first, last, n))


KITTI_64 = Sensor(_beams((2.0, -8.33, 32), (-8.83, -24.8, 32)), 360 / 2048, max_range=80.0)
NUSCENES_32 = Sensor(_beams((10.0, -30.0, 32)), 360 / 1088, max_range=100.0, min_range=1.0)
SECTOR_32 = Sensor(_beams((2.0, -24.8, 32)), 0.4, (-45.0, 45.0), max_range=80.0)


class LidarGrid:
    """Rays of a sensor, beam by beam; `pose` ``(4, 4)`` leads from its frame into the scene's."""

    def __init__(self, sensor: Sensor, pose: FloatArray | None = None) -> None:
        elevation = np.radians(sensor.elevations)[:, None]
        azimuth = np.radians(sensor.azimuths)[None, :]
        self.local: FloatArray = np.stack(
            np.broadcast_arrays(
                np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
            ),
            axis=-1,
        ).reshape(-1, 3)
        self._elevation, self._azimuth = elevation[:, 0], azimuth[0]
        self._pose = pose
        self.origin: FloatArray = np.zeros(3) if pose is None else pose[:3, 3]
        self.directions: FloatArray = self.local if pose is None else self.local @ pose[:3, :3].T

    def near(self, centre: FloatArray, radius: float) -> IntArray:
        """Indices of the rays of the beams and columns whose angles touch the sphere."""
        if self._pose is not None:
            centre = (centre - self._pose[:3, 3]) @ self._pose[:3, :3]
        ground_distance, distance = np.hypot(centre[0], centre[1]), np.linalg.norm(centre)
        rows = np.arange(len(self._elevation))
        columns = np.arange(len(self._azimuth))
        if distance > radius:
            off = np.abs(self._elevation - np.arctan2(centre[2], ground_distance))
            rows = rows[off <= np.arcsin(radius / distance)]
        if ground_distance > radius:
            turn = self._azimuth - np.arctan2(centre[1], centre[0])
            off = np.abs(np.mod(turn + np.pi, 2 * np.pi) - np.pi)
            columns = columns[off <= np.arcsin(radius / ground_distance)]
        return (rows[:, None] * len(self._azimuth) + columns[None, :]).ravel()


@dataclass(frozen=True, eq=False)
class Scan:
    """One frame of a simulated lidar.

    Attributes:
        points: ``(N, 4)`` float32 x, y, z and intensity in [0, 1]; metres, sensor frame (x forward, y left,
            z up; nuScenes turns its own lidar by 90 degrees).
        instance: ``(N,)`` int64 index into `boxes`, -1 for everything without a box.
        beam, column: ``(N,)`` int64 position of each point in the sensor's grid.
        boxes: ``(M, 7)`` float32 of all labelled objects of the scene, seen or not.
        names: class name of each box.
        counts: ``(M,)`` points of each object.
        visibility: ``(M,)`` share of the object's rays that nothing else takes (0 where no ray meets it).
        sensor: what made it.
    """

    points: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    instance: IntArray
    beam: IntArray
    column: IntArray
    boxes: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    names: tuple[str, ...]
    counts: IntArray
    visibility: FloatArray
    sensor: Sensor


def scan(scene: Scene, sensor: Sensor = KITTI_64, seed: int = 0, pose: FloatArray | None = None) -> Scan:
    """Measure a scene once.

    Args:
        scene: what to look at; its frame is the sensor's unless there is a `pose`.
        sensor: a preset (`KITTI_64`, `NUSCENES_32`, `SECTOR_32`) or your own.
        seed: of noise, drop-out and foliage; the same scene, sensor and seed give the same bits.
        pose: ``(4, 4)`` rigid transform from the sensor's frame, in which points and boxes are returned, into
            the scene's.

    >>> from tenfold.lidar.simulator import SECTOR_32, sample_scene
    >>> frame = scan(sample_scene(0), SECTOR_32)
    >>> frame.points.shape[1], len(frame.names) == len(frame.boxes)
    (4, True)
    """
    rng = np.random.default_rng((seed, 1))
    grid = LidarGrid(sensor, pose)
    hits = cast(scene.objects, scene.ground, grid, sensor.max_range, rng)
    intensity, strength, lost = _returns(scene, grid, hits, rng)
    distance = hits.distance + rng.normal(0, sensor.range_noise, len(hits.distance))
    # A weak return is missed more often: range and grazing incidence thin out the far road.
    found = rng.random(len(distance)) < 1 - np.exp(-sensor.power * strength)
    kept = found & (rng.random(len(distance)) >= np.maximum(lost, sensor.dropout))
    kept &= (hits.owner != NOTHING) & (distance >= sensor.min_range) & (distance <= sensor.max_range)

    xyz = grid.local[kept] * distance[kept, None]
    points = np.concatenate((xyz, intensity[kept, None]), axis=1).astype(np.float32)
    owner = hits.owner[kept]
    # The appended -1 answers for the ground, whose owner is -1 as well.
    instance = np.append(scene.box_index, -1)[owner]
    beam, column = np.divmod(np.flatnonzero(kept), sensor.shape[1])
    labelled = scene.box_index >= 0
    counts = np.bincount(instance[instance >= 0], minlength=len(scene.names))
    visibility = hits.visibility()[labelled]
    boxes = scene.boxes
    if pose is not None:
        boxes = transform_boxes(boxes, np.linalg.inv(pose))
    return Scan(points, instance, beam, column, boxes, scene.names, counts, visibility, sensor)


def _returns(
    scene: Scene, grid: LidarGrid, hits: Hits, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Intensity in [0, 1], echo strength and share lost to transmission, each ``(R,)``."""
    # The last row stands for rays that meet nothing or the ground, which overwrites it below.
    table = np.array([(p.material.reflectance, p.material.transmission) for p in hits.parts] + [(0.0, 0.0)])
    reflectance, lost = table[np.maximum(hits.part, -1)].T
    ground = hits.owner == GROUND
    where = grid.origin + grid.directions[ground] * hits.distance[ground, None]
    reflectance[ground] = scene.ground.surface(where[:, 0], where[:, 1])[0]

    cosine = np.abs(np.einsum("ij,ij->i", grid.directions, hits.normal))
    distance = np.where(np.isfinite(hits.distance), hits.distance, 1e9)
    # Sensors correct most of range and incidence: the road keeps its brightness down to a few degrees.
    intensity = reflectance * cosine**0.1 * np.exp(-distance / 150) * rng.normal(1, 0.15, len(cosine))
    # Fitted by eye to the share of road points that real frames keep: nearly all at 15 m, half at 40 m.
    strength = 11.7 * reflectance * (cosine / 0.115) ** 0.65 * (15 / np.maximum(distance, 1))
    # KITTI stores hundredths.
    return np.round(np.clip(intensity, 0, 0.99), 2), strength, lost
