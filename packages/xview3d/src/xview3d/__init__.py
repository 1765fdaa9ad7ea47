"""X-view: perspective views from anywhere for LiDAR detectors (arXiv 2103.13001).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import xview3d
    >>> from tenfold.lidar import build_detector
    >>> views = [xview3d.View(), xview3d.View(center=(40.0, 0.0, 0.0))]
    >>> model = xview3d.add_xview(build_detector("second"), views)
    >>> len(model.view_encoders)
    2
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from xview3d import diagnostics
    from xview3d.centers import propose_centers
    from xview3d.encoder import ViewEncoder
    from xview3d.plugin import add_xview, load_base
    from xview3d.presets import CONTROLS, from_settings, kitti_views, nuscenes_views, pointpillars_views
    from xview3d.projector import MainGrid, ViewProjector, ViewStride
    from xview3d.view import PerspectiveTransform, View

__version__ = "0.1.0"

__all__ = [
    "CONTROLS",
    "MainGrid",
    "PerspectiveTransform",
    "View",
    "ViewEncoder",
    "ViewProjector",
    "ViewStride",
    "add_xview",
    "diagnostics",
    "from_settings",
    "kitti_views",
    "load_base",
    "nuscenes_views",
    "pointpillars_views",
    "propose_centers",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".": ["diagnostics"],
        ".centers": ["propose_centers"],
        ".encoder": ["ViewEncoder"],
        ".plugin": ["add_xview", "load_base"],
        ".presets": ["CONTROLS", "from_settings", "kitti_views", "nuscenes_views", "pointpillars_views"],
        ".projector": ["MainGrid", "ViewProjector", "ViewStride"],
        ".view": ["PerspectiveTransform", "View"],
    },
)
