"""A scene in motion: traffic that rolls, people who walk, and the car that carries the sensor."""

from dataclasses import dataclass, replace

import numpy as np

from tenfold.lidar.simulator.scene import Scene
from tenfold.lidar.simulator.shapes import FloatArray

__all__ = ["MovingScene", "set_in_motion"]

_WALKERS = {"Pedestrian", "pedestrian"}
_STANDING = {"traffic_cone", "barrier", "construction_vehicle"}
_OWN_LANE, _ONCOMING = 0.0, 3.6
_LANE_HALF = 1.2


@dataclass(frozen=True, eq=False)
class MovingScene:
    """A scene whose labelled objects move straight on at constant speed.

    Args:
        start: the scene at time 0, in a frame that stays with the street.
        velocity: ``(K, 2)`` m/s of each of its objects, labelled or not.
        ego_speed: m/s of the sensor's car along +x.
        weave: metres to both sides that the car swings, once in four seconds.

    >>> from tenfold.lidar.simulator import sample_scene
    >>> moving = set_in_motion(sample_scene(0), seed=0)
    >>> bool((moving.at(0.0).boxes == moving.start.boxes).all())
    True
    """

    start: Scene
    velocity: FloatArray
    ego_speed: float = 6.0
    weave: float = 0.25

    def at(self, time: float) -> Scene:
        """The scene at a time, seconds."""
        objects = []
        for thing, velocity in zip(self.start.objects, self.velocity, strict=True):
            box = thing.box.copy()
            box[:2] += time * velocity
            before, now = (self.start.ground.z(b[0], b[1]) for b in (thing.box, box))
            box[2] += now - before
            objects.append(replace(thing, box=box) if velocity.any() else thing)
        return Scene(tuple(objects), self.start.ground, self.start.seed)

    def ego_pose(self, time: float) -> FloatArray:
        """``(4, 4)`` from the car (x forward, origin on the ground) into the scene's frame."""
        rate = np.pi / 2
        y = self.weave * (1 - np.cos(rate * time))
        x = self.ego_speed * time
        yaw = np.arctan2(self.weave * rate * np.sin(rate * time), max(self.ego_speed, 1e-3))
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        pose[:3, 3] = x, y, float(self.start.ground.z(np.asarray(x), np.asarray(y)))
        return pose


def set_in_motion(scene: Scene, seed: int, ego_speed: float = 6.0) -> MovingScene:
    """Give every object of a street scene its speed.

    Vehicles of one lane share one speed, so that none runs into another; the car's own lane goes as fast as
    the car. What stands beside the lanes stays; people walk where they look.
    """
    rng = np.random.default_rng((seed, 6))
    oncoming = float(rng.uniform(4, 10))
    velocity = np.zeros((len(scene.objects), 2))
    for row, thing in zip(velocity, scene.objects, strict=True):
        if not thing.labelled or thing.name in _STANDING:
            continue
        ahead = np.array([np.cos(thing.box[6]), np.sin(thing.box[6])])
        along = abs(ahead[0]) > 0.8
        if thing.name in _WALKERS:
            row[:] = ahead * max(0.0, rng.normal(1.0, 0.5)) * (rng.random() < 0.8)
        elif along and abs(thing.box[1] - _OWN_LANE) < _LANE_HALF:
            row[0] = ego_speed
        elif along and abs(thing.box[1] - _ONCOMING) < _LANE_HALF:
            row[0] = -oncoming
        elif along and thing.name in {"bicycle", "motorcycle"}:
            row[:] = ahead * rng.uniform(2, 5) * (rng.random() < 0.6)
    return MovingScene(scene, velocity, ego_speed)
