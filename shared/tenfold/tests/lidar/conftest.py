import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.testing import TINY_DETECTORS, cli_fixture

sys.path.insert(0, str(Path(__file__).parent))  # for lidar_scenes

cli = cli_fixture("tenfold.cli:app", "lidar")

TINY = TINY_DETECTORS["second"]
SIZE = (375, 1242)


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tiny_models():
    return TINY_DETECTORS


@pytest.fixture(scope="session")
def small_kitti(tmp_path_factory):
    """Six frames to train on and two to evaluate, simulated, with the object database."""
    from tenfold.lidar.kitti import KittiObject
    from tenfold.lidar.sampling import build_database
    from tenfold.lidar.task import simulate_into

    root = tmp_path_factory.mktemp("small")
    simulate_into(root, (6, 2), 0)
    build_database(KittiObject(root, "train", image_size=SIZE, with_plane=True))
    return root


@pytest.fixture(scope="session")
def eager_checkpoint(tmp_path_factory):
    """A checkpoint as `fit` writes it, of an untrained detector that believes in many boxes."""
    from tenfold.lidar import build_detector

    torch.manual_seed(0)
    model = build_detector("second", **TINY)
    torch.nn.init.constant_(model.dense_head.conv_cls.bias, -0.5)
    torch.nn.init.normal_(model.dense_head.conv_cls.weight, std=0.3)
    settings = {"detector": "second", "dataset": "kitti", "overrides": TINY}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "eager.ckpt"
    torch.save({"hyper_parameters": settings, "state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def small_nuscenes(tmp_path_factory):
    """Two training scenes and one for validation, three key frames each at 2 Hz and sweeps at 6 Hz."""
    from dataclasses import replace

    from tenfold.lidar.simulator import NUSCENES_32, NUSCENES_SCENE, simulate_nuscenes

    root = tmp_path_factory.mktemp("nuscenes")
    coarse = replace(NUSCENES_32, azimuth_step=1.5)
    # All kinds of traffic, but few of each, and little of what has no label: every object has its price.
    traffic = {**dict(NUSCENES_SCENE.traffic), "car": 5, "pedestrian": 3, "barrier": 3, "traffic_cone": 2}
    bare = replace(
        NUSCENES_SCENE,
        traffic=tuple(traffic.items()),
        **{"n_walls": 2, "n_poles": 1, "n_hedges": 1, "n_trees": 1, "n_blocks": 0},
    )
    simulate_nuscenes(root, (2, 1), 3, config=bare, key_frames=3, sweep_rate=6.0, sensor=coarse)
    return root


CAR = [10.0, 2, -1, 4, 2, 1.5, 0.3]
ENDINGS = (".bin", ".npy", ".ply", ".pcd", ".bin", ".ply")


@pytest.fixture(scope="session")
def write_own():
    """The function that writes a data set of one's own."""
    return write_own_data


def write_own_data(root, frames=6, val=2, *, velocity=False):
    """Frames with one car of 80 points and a walker of 10 in every second, in all formats."""
    from tenfold.io import PointCloud, write_points
    from tenfold.lidar.custom import write_boxes

    rng = np.random.default_rng(0)
    for folder in ("clouds", "boxes", "splits"):
        (root / folder).mkdir(parents=True)
    ids = []
    for k in range(frames):
        car = np.add(CAR, [k, -k, 0, 0, 0, 0, 0.4 * k])
        walker = np.array([20.0, -5 - k, -0.8, 0.8, 0.7, 1.7, 1.0])
        boxes = [("Car", car, 80)] + [("Pedestrian", walker, 10)] * (k % 2)
        points = [np.column_stack((rng.uniform(0, 40, 300), rng.uniform(-20, 20, 300), np.full(300, -1.73)))]
        for _, box, number in boxes:
            local = rng.uniform(-0.49, 0.49, (number, 3)) * box[3:6]
            cos, sin = np.cos(box[6]), np.sin(box[6])
            turned = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
            points.append(turned + box[:3])
        xyz = np.concatenate(points).astype(np.float32)
        ids.append(f"frame.{k}")
        cloud = PointCloud(xyz, {"intensity": rng.random(len(xyz)).astype(np.float32)})
        write_points(root / "clouds" / f"{ids[-1]}{ENDINGS[k % len(ENDINGS)]}", cloud)
        rows = np.array([b for _, b, _ in boxes])
        if velocity:
            rows = np.column_stack((rows, np.tile([3.0, -1.0], (len(rows), 1))))
        write_boxes(root / "boxes" / f"{ids[-1]}.json", [n for n, _, _ in boxes], rows)
    (root / "splits/train.txt").write_text("\n".join(ids[: frames - val]) + "\n")
    (root / "splits/val.txt").write_text("\n".join(ids[frames - val :]) + "\n")
    return root
