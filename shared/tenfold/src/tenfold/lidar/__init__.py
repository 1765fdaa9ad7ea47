"""Driving LiDAR: data set readers, the simulator and detectors.

The names below load on first use; importing this file loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.lidar.models import build_detector, export_dense, load_openpcdet

_EXPORTS = {
    "build_detector": "tenfold.lidar.models",
    "export_dense": "tenfold.lidar.models",
    "load_openpcdet": "tenfold.lidar.models",
}

__all__ = ["build_detector", "export_dense", "load_openpcdet"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
