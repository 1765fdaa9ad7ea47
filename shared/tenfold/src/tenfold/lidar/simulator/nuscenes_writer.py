"""Simulated scenes in the official nuScenes layout, so that the true reader (and the official kit) reads them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.io import write_image, write_json
from tenfold.lidar.nuscenes.classes import CLASS_OF, RACK, attribute_of
from tenfold.lidar.nuscenes.tables import LIDAR, TABLES, pose_matrix
from tenfold.lidar.simulator.motion import MovingScene, set_in_motion
from tenfold.lidar.simulator.scan import NUSCENES_32, Scan, Sensor, scan
from tenfold.lidar.simulator.scene import SceneConfig, sample_scene
from tenfold.lidar.simulator.shapes import FloatArray

__all__ = ["MINI_SCENES", "NUSCENES_SCENE", "simulate_nuscenes", "write_nuscenes"]

#: Names of the scenes of v1.0-mini: eight for training, two for validation.
MINI_SCENES = (
    tuple(f"scene-{number:04d}" for number in (61, 553, 655, 757, 796, 1077, 1094, 1100)),
    ("scene-0103", "scene-0916"),
)

#: Traffic of all ten classes around the car.
NUSCENES_SCENE = SceneConfig(
    region=(-52.0, -40.0, 75.0, 40.0),
    n_cars=0,
    n_vans=0,
    n_pedestrians=0,
    n_cyclists=0,
    n_walls=(5, 9),
    n_poles=(5, 10),
    n_hedges=(2, 6),
    n_trees=(3, 8),
    n_blocks=(0, 2),
    traffic=(
        ("trailer", (0, 2)),
        ("bus", (1, 2)),
        ("truck", (1, 3)),
        ("construction_vehicle", (0, 2)),
        ("car", (8, 14)),
        ("motorcycle", (1, 3)),
        ("bicycle", (1, 3)),
        ("pedestrian", (4, 9)),
        ("barrier", (2, 8)),
        ("traffic_cone", (2, 8)),
    ),
    sensor_height=1.84,
    drive=40.0,
)

# Where the lidar sits on the car, as on the real one: its y axis looks ahead.
_MOUNT = (0.9437, 0.0, 1.8402)
_TURN = (np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5))
_CATEGORY = {name: category for category, name in reversed(CLASS_OF.items())}
_OTHER_CATEGORIES = (
    *(
        "animal",
        "human.pedestrian.personal_mobility",
        "human.pedestrian.stroller",
        "human.pedestrian.wheelchair",
    ),
    *("movable_object.debris", "movable_object.pushable_pullable", RACK),
    *("vehicle.emergency.ambulance", "vehicle.emergency.police"),
)
_ATTRIBUTES = (
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider"),
    *("pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving"),
)
_SEEN = (0.4, 0.6, 0.8)  # visibility levels 1 to 4
_ANNOTATED = 60.0  # metres from the car up to which objects are annotated
_KEY_RATE = 2.0  # key frames a second
_MICRO = 1_000_000
_START = 1_532_402_927_000_000


def _token(*words: object) -> str:
    return hashlib.md5("/".join(map(str, words)).encode(), usedforsecurity=False).hexdigest()


@dataclass
class _Database:
    """Tables on their way to the disk."""

    root: Path
    version: str
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TABLES})

    def add(self, table: str, *words: object, **values: Any) -> str:
        token = _token(table, *words)
        self.tables[table].append({"token": token, **values})
        return token

    def write(self) -> None:
        for name, records in self.tables.items():
            write_json(self.root / self.version / f"{name}.json", records, indent=0)


def _fixed_tables(data: _Database) -> dict[str, str]:
    """Vocabulary, sensor and map; returns the tokens by name."""
    tokens: dict[str, str] = {}
    for category in (*CLASS_OF, *_OTHER_CATEGORIES):
        tokens[category] = data.add("category", category, name=category, description="", index=len(tokens))
    for attribute in _ATTRIBUTES:
        tokens[attribute] = data.add("attribute", attribute, name=attribute, description="")
    for level, text in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1):
        data.tables["visibility"].append({"token": str(level), "level": text, "description": ""})
    tokens[LIDAR] = data.add("sensor", LIDAR, channel=LIDAR, modality="lidar")
    return tokens


def write_nuscenes(
    root: str | Path,
    scenes: Sequence[tuple[str, MovingScene]],
    *,
    version: str = "v1.0-mini",
    key_frames: int = 4,
    sweep_rate: float = 20.0,
    sensor: Sensor = NUSCENES_32,
    seed: int = 0,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[str]:
    """Drive through scenes and write them as one version of the data set: tables, key frames, sweeps, a map.

    There is one sensor, the lidar: no cameras and radars. Annotated are objects within 60 m of the car that
    some key frame of the scene has measured, also in frames that missed them, with 0 points there.

    Args:
        root: created when it does not exist; tables of that version are replaced.
        scenes: official name and content of each scene.
        version: folder of the tables.
        key_frames: of each scene, at 2 a second.
        sweep_rate: sweeps a second, key frames included; a multiple of 2.
        sensor: lidar preset.
        seed: of noise and of the streets' place in the world.
        progress: wraps the scenes, such as a progress bar.

    Returns:
        Tokens of the samples.
    """
    if key_frames < 1 or sweep_rate < _KEY_RATE or sweep_rate % _KEY_RATE:
        raise ValueError(
            f"write_nuscenes: key_frames, sweep_rate: got {key_frames}, {sweep_rate}; expected 1 or more, and a "
            "multiple of 2"
        )
    root = Path(root)
    for folder in (version, f"samples/{LIDAR}", f"sweeps/{LIDAR}", "maps"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    data = _Database(root, version)
    tokens = _fixed_tables(data)
    for number, (name, scene) in enumerate(progress(scenes)):
        _SceneWriter(data, tokens, name, scene, sensor, (seed, number), round(sweep_rate / _KEY_RATE)).write(
            key_frames
        )
    mask = root / "maps" / f"{_token('map')}.png"
    write_image(mask, np.full((100, 100, 3), 255, np.uint8))
    logs = [record["token"] for record in data.tables["log"]]
    data.add("map", "all", category="semantic_prior", filename=f"maps/{mask.name}", log_tokens=logs)
    data.write()
    return [record["token"] for record in data.tables["sample"]]


class _SceneWriter:
    """Writes one scene."""

    def __init__(
        self,
        data: _Database,
        tokens: dict[str, str],
        name: str,
        scene: MovingScene,
        sensor: Sensor,
        seed: tuple[int, int],
        per_key: int,
    ) -> None:
        self.data, self.tokens, self.name, self.scene = data, tokens, name, scene
        self.sensor, self.seed, self.per_key = sensor, seed, per_key
        self.start = _START + seed[1] * 100 * _MICRO
        rng = np.random.default_rng((*seed, 7))
        heading, place = rng.uniform(-np.pi, np.pi), rng.uniform(300, 1500, 2)
        # The street in the world; its ground at the start lies at height 0.
        self.world = pose_matrix(
            np.array([np.cos(heading / 2), 0, 0, np.sin(heading / 2)]),
            np.append(place, -scene.start.ground.height),
        )
        self.mount = pose_matrix(np.array(_TURN), np.array(_MOUNT))
        self.log = data.add(
            "log",
            name,
            logfile=f"sim-{name}",
            vehicle="sim",
            date_captured="2018-07-24",
            location="simulated",
        )
        self.calibrated = data.add(
            "calibrated_sensor",
            name,
            sensor_token=tokens[LIDAR],
            translation=list(_MOUNT),
            rotation=list(_TURN),
            camera_intrinsic=[],
        )

    def write(self, key_frames: int) -> None:
        data, name = self.data, self.name
        samples = [_token("sample", name, k) for k in range(key_frames)]
        scene = data.add(
            "scene",
            name,
            log_token=self.log,
            nbr_samples=key_frames,
            first_sample_token=samples[0],
            last_sample_token=samples[-1],
            name=name,
            description="simulated",
        )
        frames = (key_frames - 1) * self.per_key + 1
        scans: list[Scan] = []
        for frame in range(frames):
            measured = self._sweep(frame, samples, frames)
            if frame % self.per_key == 0:
                scans.append(measured)
        for k, token in enumerate(samples):
            data.add(
                "sample",
                name,
                k,
                timestamp=self._time(k * self.per_key),
                prev=samples[k - 1] if k else "",
                next=samples[k + 1] if k + 1 < key_frames else "",
                scene_token=scene,
            )
            assert data.tables["sample"][-1]["token"] == token
        self._annotate(scans, samples)

    def _seconds(self, frame: int) -> float:
        return frame / (self.per_key * _KEY_RATE)

    def _time(self, frame: int) -> int:
        return self.start + round(self._seconds(frame) * _MICRO)

    def _sweep(self, frame: int, samples: Sequence[str], frames: int) -> Scan:
        """Measures and writes one sweep, with its records."""
        seconds, key = self._seconds(frame), frame % self.per_key == 0
        pose = self.scene.ego_pose(seconds)
        measured = scan(
            self.scene.at(seconds),
            self.sensor,
            int(np.random.SeedSequence((*self.seed, frame)).generate_state(1)[0]),
            pose @ self.mount,
        )
        rows = np.column_stack(
            (
                measured.points[:, :3],
                np.round(measured.points[:, 3] * 255),
                len(self.sensor.elevations) - 1 - measured.beam,
            )
        )
        folder = "samples" if key else "sweeps"
        filename = f"{folder}/{LIDAR}/{self.name}__{LIDAR}__{self._time(frame)}.pcd.bin"
        rows.astype("<f4").tofile(self.data.root / filename)
        matrix = self.world @ pose
        half = np.arctan2(matrix[1, 0], matrix[0, 0]) / 2
        ego = self.data.add(
            "ego_pose",
            self.name,
            frame,
            timestamp=self._time(frame),
            rotation=[float(np.cos(half)), 0.0, 0.0, float(np.sin(half))],
            translation=matrix[:3, 3].tolist(),
        )
        self.data.add(
            "sample_data",
            self.name,
            frame,
            sample_token=samples[-(-frame // self.per_key)],  # a sweep belongs to the next key frame
            ego_pose_token=ego,
            calibrated_sensor_token=self.calibrated,
            timestamp=self._time(frame),
            fileformat="pcd",
            is_key_frame=key,
            height=0,
            width=0,
            filename=filename,
            prev=_token("sample_data", self.name, frame - 1) if frame else "",
            next=_token("sample_data", self.name, frame + 1) if frame + 1 < frames else "",
        )
        return measured

    def _annotate(self, scans: Sequence[Scan], samples: Sequence[str]) -> None:
        counts = np.array([s.counts for s in scans]).reshape(len(scans), -1)
        near = np.array([np.hypot(s.boxes[:, 0], s.boxes[:, 1]) < _ANNOTATED for s in scans])
        near = near.reshape(counts.shape)
        velocity = self.scene.velocity[self.scene.start.box_index >= 0]
        for thing, name in enumerate(scans[0].names):
            frames: list[int] = np.flatnonzero(near[:, thing]).tolist()
            if counts[frames, thing].sum() == 0:
                continue
            tokens = [_token("sample_annotation", self.name, thing, k) for k in frames]
            instance = self.data.add(
                "instance",
                self.name,
                thing,
                category_token=self.tokens[_CATEGORY[name]],
                nbr_annotations=len(frames),
                first_annotation_token=tokens[0],
                last_annotation_token=tokens[-1],
            )
            for place, k in enumerate(frames):
                box = self.scene.at(self._seconds(k * self.per_key)).boxes[thing].astype(np.float64)
                self.data.add(
                    "sample_annotation",
                    self.name,
                    thing,
                    k,
                    sample_token=samples[k],
                    instance_token=instance,
                    visibility_token=str(1 + int(np.digitize(scans[k].visibility[thing], _SEEN))),
                    attribute_tokens=self._attribute(name, float(np.hypot(*velocity[thing]))),
                    **self._placed(box),
                    prev=tokens[place - 1] if place else "",
                    next=tokens[place + 1] if place + 1 < len(frames) else "",
                    num_lidar_pts=int(counts[k, thing]),
                    num_radar_pts=0,
                )

    def _attribute(self, name: str, speed: float) -> list[str]:
        # Simulated bicycles carry a rider whether they roll or not.
        attribute = "cycle.with_rider" if name == "bicycle" else attribute_of(name, speed)
        return [self.tokens[attribute]] if attribute else []

    def _placed(self, box: FloatArray) -> dict[str, list[float]]:
        """Translation, size and rotation of a box of the scene in the world."""
        turn = np.arctan2(self.world[1, 0], self.world[0, 0])
        half = (box[6] + turn) / 2
        centre = self.world[:3, :3] @ box[:3] + self.world[:3, 3]
        return {
            "translation": centre.tolist(),
            "size": [float(box[4]), float(box[3]), float(box[5])],
            "rotation": [float(np.cos(half)), 0.0, 0.0, float(np.sin(half))],
        }


def simulate_nuscenes(
    root: str | Path,
    n: tuple[int, int] = (8, 2),
    seed: int = 0,
    *,
    config: SceneConfig = NUSCENES_SCENE,
    key_frames: int = 4,
    sweep_rate: float = 20.0,
    sensor: Sensor = NUSCENES_32,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[str]:
    """Draw scenes and write them as v1.0-mini.

    Args:
        root: target folder.
        n: numbers of training and validation scenes, at most 8 and 2, the names of v1.0-mini.
        seed: scene k shows the streets of seed ``1000003 * seed + k``.
        config: of the scenes.
        key_frames, sweep_rate, sensor, progress: as for `write_nuscenes`.

    Returns:
        Tokens of the samples.

    >>> import tempfile
    >>> coarse = replace(NUSCENES_32, azimuth_step=4.0)
    >>> with tempfile.TemporaryDirectory() as root:
    ...     len(simulate_nuscenes(root, (1, 1), key_frames=2, sweep_rate=4, sensor=coarse))
    4
    """
    if not (0 <= n[0] <= len(MINI_SCENES[0]) and 0 <= n[1] <= len(MINI_SCENES[1]) and n[0] + n[1] > 0):
        raise ValueError(f"simulate_nuscenes: n: got {n}; expected up to 8 training and 2 validation scenes")
    names = (*MINI_SCENES[0][: n[0]], *MINI_SCENES[1][: n[1]])
    scenes = []
    for k, name in enumerate(names):
        speed = float(np.random.default_rng((seed, k, 8)).uniform(2, 8))
        drive = speed * (key_frames - 1) / _KEY_RATE
        drawn = sample_scene(1000003 * seed + k, replace(config, drive=max(drive, 1.0)))
        scenes.append((name, set_in_motion(drawn, drawn.seed, speed)))
    return write_nuscenes(
        root,
        scenes,
        key_frames=key_frames,
        sweep_rate=sweep_rate,
        sensor=sensor,
        seed=seed,
        progress=progress,
    )
