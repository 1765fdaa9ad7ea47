"""Point clouds: real frames where the sample data are present, simulated ones elsewhere."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold._errors import UserInputError

Cloud = NDArray[np.float32]

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Frame:
    """A cloud (N, 4) x, y, z, intensity and where it comes from."""

    points: Cloud
    source: str


def data_root() -> Path:
    """Folder of the sample data, which need not exist; a relative name counts from the repository."""
    named = os.environ.get("TENFOLD_TEST_DATA")
    return REPOSITORY / named if named else REPOSITORY.parent / "shared" / "data"


def sample_folder(name: str) -> Path:
    """A folder of the sample data.

    Raises:
        UserInputError: it is not on this machine.
    """
    return _present(name, Path.is_dir, "folder")


def sample_file(name: str) -> Path:
    """A file of the sample data.

    Raises:
        UserInputError: it is not on this machine.
    """
    return _present(name, Path.is_file, "file")


def _present(name: str, is_kind: Callable[[Path], bool], kind: str) -> Path:
    path = data_root() / name
    if not is_kind(path):
        raise UserInputError(f"{path}: sample data: is no {kind} (set TENFOLD_TEST_DATA)")
    return path


@lru_cache(maxsize=1)
def kitti() -> Frame:
    """A full sweep of a 64-beam scanner, about 120,000 points."""
    path = data_root() / "kitti" / "training" / "velodyne" / "000001.bin"
    if path.is_file():
        return Frame(np.fromfile(path, dtype=np.float32).reshape(-1, 4), "KITTI frame 000001")
    return _simulated("KITTI_64")


@lru_cache(maxsize=1)
def nuscenes_sweeps(count: int = 10) -> Frame:
    """Ten sweeps of a 32-beam scanner in one cloud, about 347,000 points.

    With one real sweep at hand, the others are that sweep moved as a car at 5 m/s would see it, 0.05 s apart,
    with 2 cm of noise.
    """
    folder = data_root() / "nuscenes"
    path = next(iter(sorted(folder.glob("*LIDAR_TOP*.bin"))), None)
    if path is None:
        frame = _simulated("NUSCENES_32")
        sweep, source = frame.points, frame.source
    else:
        sweep = np.ascontiguousarray(np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, :4])
        source = "one nuScenes sweep"
    rng = np.random.default_rng(0)
    sweeps = []
    for index in range(count):
        moved = sweep.copy()
        moved[:, 1] -= 0.25 * index
        moved[:, :3] += rng.normal(0, 0.02 if index else 0.0, (len(sweep), 3)).astype(np.float32)
        sweeps.append(moved)
    return Frame(np.concatenate(sweeps), f"{source}, repeated {count} times with motion and noise")


@lru_cache(maxsize=1)
def indoor() -> Frame:
    """A scanned room, about 41,000 points."""
    path = data_root() / "scannet" / "scene0000_00.bin"
    if path.is_file():
        raw = np.fromfile(path, dtype=np.float32).reshape(-1, 6)
        return Frame(np.ascontiguousarray(raw[:, :4]), "ScanNet scene0000_00, sub-sampled")
    return Frame(furnished_room(np.random.default_rng(0), 41_000), "generated room")


def _simulated(sensor: str) -> Frame:
    from tenfold.lidar import simulator

    points = simulator.scan(simulator.sample_scene(0), getattr(simulator, sensor), seed=0).points
    return Frame(np.asarray(points, dtype=np.float32), f"simulated scene, sensor {sensor}")


def furnished_room(rng: np.random.Generator, count: int) -> Cloud:
    """Points on the floor, the walls and 30 boxes of an 8 x 7 x 2.7 m room, by area."""
    low = np.concatenate([[[0.0, 0, 0]], rng.uniform([0, 0, 0], [7, 6, 0.01], (30, 3))])
    size = np.concatenate([[[8.0, 7, 2.7]], rng.uniform([0.3, 0.3, 0.3], [1.5, 1.0, 1.4], (30, 3))])
    area = size[:, [1, 0, 0]] * size[:, [2, 2, 1]]
    chosen = rng.choice(area.size, count, p=area.ravel() / area.sum())
    item, axis = np.divmod(chosen, 3)
    place = rng.uniform(0, 1, (count, 3))
    place[np.arange(count), axis] = rng.integers(0, 2, count)
    points = low[item] + place * size[item] + rng.normal(0, 0.005, (count, 3))
    return np.concatenate([points, rng.uniform(0, 1, (count, 1))], axis=1).astype(np.float32)


def denser(points: Cloud, scale: float, seed: int = 0) -> Cloud:
    """The same place with `scale` times as many points: every n-th one, or copies with 2 cm of noise."""
    if scale <= 1:
        return np.ascontiguousarray(points[:: round(1 / scale)])
    rng = np.random.default_rng(seed)
    copies = [points]
    for _ in range(round(scale) - 1):
        copy = points.copy()
        copy[:, :3] += rng.normal(0, 0.02, (len(points), 3)).astype(np.float32)
        copies.append(copy)
    return np.concatenate(copies)


def wider(points: Cloud, scale: float) -> Cloud:
    """The same density over `scale` times the area: a part by azimuth, or copies side by side."""
    if scale <= 1:
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        order = np.argsort(azimuth, kind="stable")[: round(len(points) * scale)]
        return np.ascontiguousarray(points[np.sort(order)])
    extent = points[:, :2].max(axis=0) - points[:, :2].min(axis=0)
    copies = []
    for index in range(round(scale)):
        copy = points.copy()
        copy[:, :2] += (np.array([index % 2, index // 2]) * (extent + 5)).astype(np.float32)
        copies.append(copy)
    return np.concatenate(copies)
