"""Pictures of rooms, and boxes as a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold.geometry import BOX_EDGES, box_corners
from tenfold.viz import bev_image, class_colour, draw_boxes_3d, draw_points

__all__ = ["box_mesh", "room_picture", "titled"]

Pixels = npt.NDArray[np.uint8]
_SIDE = 560
_EDGE = 0.015


def _range(points: npt.NDArray[Any], boxes: npt.NDArray[Any]) -> tuple[float, float, float, float]:
    low, high = np.percentile(points[:, :2], 0.2, axis=0), np.percentile(points[:, :2], 99.8, axis=0)
    if len(boxes):
        reach = np.hypot(boxes[:, 3], boxes[:, 4])[:, None] / 2
        low = np.minimum(low, np.maximum((boxes[:, :2] - reach).min(0), low - 2))
        high = np.maximum(high, np.minimum((boxes[:, :2] + reach).max(0), high + 2))
    middle, side = (low + high) / 2, max(float(np.max(high - low)), 0.5) / 2 + 0.2
    return middle[0] - side, middle[1] - side, middle[0] + side, middle[1] + side


def _camera(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(3, 4) projection from a corner above the room onto a square picture."""
    low, high = np.percentile(points, 1, axis=0), np.percentile(points, 99, axis=0)
    target = np.array([*(low + high)[:2] / 2, low[2]])
    reach = max(float(np.linalg.norm((high - low)[:2])), 1.0)
    eye = target + np.array([0.75, 0.75, 0.85]) * reach
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    focal = 0.95 * _SIDE
    k = np.array([[focal, 0, _SIDE / 2], [0, focal, _SIDE / 2], [0, 0, 1.0]])
    rotation = np.stack((right, down, forward))
    return np.asarray(k @ np.column_stack((rotation, -rotation @ eye)))


def room_picture(
    points: npt.ArrayLike,
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike | None,
    class_names: Sequence[str],
    reference: npt.ArrayLike | None = None,
) -> Pixels:
    """A room from above and from a corner, (560, 1120, 3) uint8.

    Args:
        points: (N, 3) metres, z up.
        boxes: (M, 7).
        labels: (M,).
        scores: (M,) or None.
        class_names: by label.
        reference: (R, 7) true boxes, white.
    """
    cloud = np.asarray(points, np.float64)[:, :3]
    own = np.asarray(boxes, np.float64).reshape(-1, 7)
    limits = _range(cloud, own)
    shown: dict[str, Any] = {"labels": labels, "scores": scores, "class_names": class_names}
    resolution = (limits[2] - limits[0]) / _SIDE
    flat = bev_image(
        cloud, own, reference=reference, range=limits, resolution=resolution * 1.0001, point_size=2, **shown
    )
    view = _camera(cloud)
    canvas = np.full((_SIDE, _SIDE, 3), 16, np.uint8)
    canvas = draw_points(canvas, cloud, view, colour_by="height", size=2)
    corner = draw_boxes_3d(canvas, own, view, **shown)
    height = min(len(flat), len(corner))
    return np.concatenate((flat[:height, :_SIDE], corner[:height]), 1)


def titled(picture: Pixels, title: str) -> Pixels:
    """The picture below a line of text."""
    from PIL import Image, ImageDraw, ImageFont

    bar = Image.new("RGB", (picture.shape[1], 26), (16, 18, 24))
    ImageDraw.Draw(bar).text((8, 4), title, fill=(235, 238, 244), font=ImageFont.load_default(size=15))
    return np.concatenate((np.asarray(bar, np.uint8), picture))


def box_mesh(
    boxes: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The edges of boxes as thin bars: vertices (V, 3), colours by class (V, 3), triangles (F, 3).

    Args:
        boxes: (M, 7).
        labels: (M,).
    """
    vertices: list[npt.NDArray[Any]] = []
    colours: list[tuple[int, int, int]] = []
    faces: list[list[int]] = []
    own = np.asarray(boxes, np.float64).reshape(-1, 7)
    quads = ((0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7), (4, 5, 6, 7), (3, 2, 1, 0))
    for box, label in zip(own, np.asarray(labels).tolist(), strict=True):
        corners = np.asarray(box_corners(box))
        across = np.array(
            [[np.cos(box[6]), np.sin(box[6]), 0], [-np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1.0]]
        )
        for a, b in BOX_EDGES:
            along = corners[b] - corners[a]
            sides = [v for v in across if abs(v @ along) < 0.5 * np.linalg.norm(along)][:2]
            if len(sides) < 2:
                continue
            u, v = sides[0] * _EDGE / 2, sides[1] * _EDGE / 2
            start = len(vertices)
            for end in (corners[a], corners[b]):
                vertices += [end + u + v, end - u + v, end - u - v, end + u - v]
            colours += [class_colour(int(label))] * 8
            for q in quads:
                faces += [
                    [start + q[0], start + q[1], start + q[2]],
                    [start + q[0], start + q[2], start + q[3]],
                ]
    return (
        np.asarray(vertices).reshape(-1, 3),
        np.asarray(colours, np.uint8).reshape(-1, 3),
        np.asarray(faces, np.int64).reshape(-1, 3),
    )
