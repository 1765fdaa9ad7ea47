"""Seeded ray-cast street scenes: lidar frames, camera images and labels without any data set.

>>> scene = sample_scene(seed=0)
>>> frame = scan(scene, SECTOR_32)
"""

from tenfold.lidar.simulator.camera import CameraView, render_camera, view_objects
from tenfold.lidar.simulator.ground import Ground
from tenfold.lidar.simulator.kitti_writer import kitti_labels, simulate_kitti, write_kitti
from tenfold.lidar.simulator.motion import MovingScene, set_in_motion
from tenfold.lidar.simulator.nuscenes_writer import (
    MINI_SCENES,
    NUSCENES_SCENE,
    simulate_nuscenes,
    write_nuscenes,
)
from tenfold.lidar.simulator.scan import KITTI_64, NUSCENES_32, SECTOR_32, Scan, Sensor, scan
from tenfold.lidar.simulator.scene import KINDS, SMALL_SCENE, Scene, SceneConfig, make_object, sample_scene
from tenfold.lidar.simulator.shapes import Material, Part, SceneObject

__all__ = [
    "KINDS",
    "KITTI_64",
    "MINI_SCENES",
    "NUSCENES_32",
    "NUSCENES_SCENE",
    "SECTOR_32",
    "SMALL_SCENE",
    "CameraView",
    "Ground",
    "Material",
    "MovingScene",
    "Part",
    "Scan",
    "Scene",
    "SceneConfig",
    "SceneObject",
    "Sensor",
    "kitti_labels",
    "make_object",
    "render_camera",
    "sample_scene",
    "scan",
    "set_in_motion",
    "simulate_kitti",
    "simulate_nuscenes",
    "view_objects",
    "write_kitti",
    "write_nuscenes",
]
