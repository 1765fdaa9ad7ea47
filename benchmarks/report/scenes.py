"""The clouds the page shows: real frames where the sample data are present, simulated ones elsewhere."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.frames import data_root, indoor, nuscenes_sweeps
from tenfold.geometry import boxes_from_axis_aligned
from tenfold.lidar import simulator
from tenfold.lidar.kitti import KittiFrame, KittiObject


@dataclass(frozen=True)
class Scene:
    """A cloud with labelled boxes.

    Args:
        points: (N, 4) x, y, z, intensity.
        boxes: (M, 7).
        names: (M,) class of each box.
        source: where it comes from, for the caption.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float64]
    names: tuple[str, ...]
    source: str


def kitti() -> tuple[KittiFrame, str]:
    """A KITTI frame with image, calibration and labels; simulated in the same layout where there is none."""
    root = data_root() / "kitti"
    if (root / "training" / "velodyne" / "000001.bin").is_file():
        frames = KittiObject(root, ids=["000001"], fov_only=False, with_image=True)
        return frames[0], "KITTI frame 000001"
    with tempfile.TemporaryDirectory() as folder:
        simulator.simulate_kitti(folder, 1, seed=7)
        ids = sorted(path.stem for path in Path(folder).glob("training/velodyne/*.bin"))
        return KittiObject(folder, ids=ids, fov_only=False, with_image=True)[
            0
        ], "simulated frame, KITTI layout"


def nuscenes() -> Scene:
    """One nuScenes key frame with its boxes, or a simulated scene."""
    folder = data_root() / "nuscenes"
    if not (folder / "sample.json").is_file():
        scan = simulator.scan(simulator.sample_scene(3), simulator.NUSCENES_32, seed=3)
        return Scene(scan.points, scan.boxes, tuple(scan.names), "simulated 32-beam scene")
    record = json.loads((folder / "sample.json").read_text())
    classes = {number: name for name, number in record["metainfo"]["categories"].items()}
    objects = [o for o in record["data_list"][0]["instances"] if o["bbox_label_3d"] in classes]
    boxes = np.array([o["bbox_3d"] for o in objects], dtype=np.float64)
    names = tuple(classes[o["bbox_label_3d"]] for o in objects)
    sweep = nuscenes_sweeps(1).points
    return Scene(sweep, boxes, names, "nuScenes key frame")


def scannet() -> Scene:
    """One ScanNet scene brought into its aligned frame, or a generated room without boxes."""
    path = data_root() / "scannet" / "scene0000_00.json"
    cloud = indoor()
    if not path.is_file():
        return Scene(cloud.points, np.zeros((0, 7)), (), cloud.source)
    record = json.loads(path.read_text())["data_list"][0]
    align = np.array(record["axis_align_matrix"], dtype=np.float64)
    xyz = cloud.points[:, :3].astype(np.float64) @ align[:3, :3].T + align[:3, 3]
    points = np.concatenate([xyz.astype(np.float32), cloud.points[:, 3:]], axis=1)
    boxes = boxes_from_axis_aligned(np.array([o["bbox_3d"] for o in record["instances"]], dtype=np.float64))
    return Scene(points, boxes, ("object",) * len(boxes), cloud.source)
