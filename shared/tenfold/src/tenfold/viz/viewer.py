"""A window with points and boxes; the only place that loads open3d (extra ``viz3d``)."""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tenfold._errors import MissingExtraError
from tenfold.viz._boxes import EDGES, as_boxes, corners
from tenfold.viz.colours import class_colour, ramp

__all__ = ["require_open3d", "scene_geometry", "show_scene"]

_HEIGHTS = (-3.0, 3.0)


def require_open3d() -> ModuleType:
    """The module open3d.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import open3d  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtraError('the viewer needs the extra [viz3d]: pip install "tenfold[viz3d]"') from error
    module: ModuleType = open3d
    return module


def scene_geometry(
    points: ArrayLike, boxes: ArrayLike | None = None, labels: ArrayLike | None = None
) -> list[Any]:
    """open3d geometries: the cloud coloured by height, and one set of lines per box with a mark ahead.

    Args:
        points: (N, C >= 3) x, y, z in metres.
        boxes: (M, 7).
        labels: (M,) 0-based classes, which choose the colours.

    Raises:
        MissingExtraError: open3d is not installed.
        ValueError: shapes that do not fit.
    """
    o3d = require_open3d()
    xyz = np.asarray(points, dtype=np.float64)
    if xyz.ndim != 2 or xyz.shape[1] < 3:
        raise ValueError(f"scene_geometry: points: got shape {xyz.shape}; expected (N, 3 or more)")
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz[:, :3]))
    cloud.colors = o3d.utility.Vector3dVector(ramp(xyz[:, 2], *_HEIGHTS) / 255.0)
    rows = as_boxes("scene_geometry", [] if boxes is None else boxes)
    kinds = np.zeros(len(rows), np.int64) if labels is None else np.asarray(labels, np.int64)
    if kinds.shape != (len(rows),):
        raise ValueError(f"scene_geometry: labels: got shape {kinds.shape}; expected ({len(rows)},)")
    shapes = [cloud]
    for box, corner, kind in zip(rows, corners(rows), kinds.tolist(), strict=True):
        nose = box[:3] + box[3] * 0.75 * np.array([np.cos(box[6]), np.sin(box[6]), 0])
        lines = o3d.geometry.LineSet(
            o3d.utility.Vector3dVector(np.vstack((corner, box[:3], nose))),
            o3d.utility.Vector2iVector(np.array([*EDGES, (8, 9)])),
        )
        lines.paint_uniform_color(np.array(class_colour(kind)) / 255)
        shapes.append(lines)
    return shapes


def show_scene(points: ArrayLike, boxes: ArrayLike | None = None, labels: ArrayLike | None = None) -> None:
    """Open a window with points (N, C) and boxes (M, 7) and wait until it is closed.

    Raises:
        MissingExtraError: open3d is not installed.
        RuntimeError: there is no screen.
    """
    o3d = require_open3d()
    shapes = scene_geometry(points, boxes, labels)
    window = o3d.visualization.Visualizer()
    if not window.create_window(window_name="tenfold"):
        raise RuntimeError("show_scene: no window can be opened; is there a screen?")
    for shape in shapes:
        window.add_geometry(shape)
    window.get_render_option().background_color = np.array([0.06, 0.07, 0.09])
    window.get_render_option().point_size = 1.5
    window.run()
    window.destroy_window()
