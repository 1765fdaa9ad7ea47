"""Driving LiDAR: data set readers, the simulator and detectors.

The names below load on first use; importing this file loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.lidar.custom import CustomFrames
    from tenfold.lidar.kitti import KittiObject
    from tenfold.lidar.models import build_detector, export_dense, load_openpcdet
    from tenfold.lidar.nuscenes import NuScenesDetection

_EXPORTS = {
    "CustomFrames": "tenfold.lidar.custom",
    "KittiObject": "tenfold.lidar.kitti",
    "NuScenesDetection": "tenfold.lidar.nuscenes",
    "build_detector": "tenfold.lidar.models",
    "export_dense": "tenfold.lidar.models",
    "load_openpcdet": "tenfold.lidar.models",
}

__all__ = [
    "CustomFrames",
    "KittiObject",
    "NuScenesDetection",
    "build_detector",
    "export_dense",
    "load_openpcdet",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
