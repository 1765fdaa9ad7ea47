"""Driving LiDAR: data set readers, the simulator and detectors.

The names below load on first use; importing this file loads nothing.
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold.lidar.custom import CustomFrames
    from tenfold.lidar.kitti import KittiObject
    from tenfold.lidar.models import build_detector, export_dense, load_openpcdet
    from tenfold.lidar.nuscenes import NuScenesDetection

__all__ = [
    "CustomFrames",
    "KittiObject",
    "NuScenesDetection",
    "build_detector",
    "export_dense",
    "load_openpcdet",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".custom": ["CustomFrames"],
        ".kitti": ["KittiObject"],
        ".models": ["build_detector", "export_dense", "load_openpcdet"],
        ".nuscenes": ["NuScenesDetection"],
    },
)
