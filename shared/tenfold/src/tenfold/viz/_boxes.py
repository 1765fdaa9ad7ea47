"""Corners and edges of the house's boxes in plain numpy (drawing must not load torch)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Corner order: bottom face front-left, rear-left, rear-right, front-right, then the top face alike.
_SIGNS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
EDGES = (
    *((i, (i + 1) % 4) for i in range(4)),
    *((4 + i, 4 + (i + 1) % 4) for i in range(4)),
    *((i, i + 4) for i in range(4)),
)
FRONT_FACE = (0, 3, 7, 4)


def as_boxes(op: str, boxes: ArrayLike, columns: int = 7) -> Floats:
    """Boxes as float64 (M, columns); an empty list becomes (0, columns)."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, columns))
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(
            f"{op}: boxes: shape {tuple(array.shape)} was received; (M, {columns}) is expected; "
            f"slice wider rows with boxes[:, :{columns}]"
        )
    return array


def bev_corners(boxes: Floats) -> Floats:
    """Footprint corners (M, 4, 2) of boxes (M, 7), in the order of `_SIGNS`."""
    half = boxes[:, None, 3:5] / 2 * _SIGNS
    cos, sin = np.cos(boxes[:, None, 6]), np.sin(boxes[:, None, 6])
    x = half[..., 0] * cos - half[..., 1] * sin
    y = half[..., 0] * sin + half[..., 1] * cos
    return np.stack([x, y], axis=-1) + boxes[:, None, :2]


def corners(boxes: Floats) -> Floats:
    """All corners (M, 8, 3) of boxes (M, 7): four bottom ones, then four top ones."""
    flat = bev_corners(boxes)
    z = boxes[:, 2:3] + boxes[:, 5:6] / 2 * np.array([[-1.0, 1.0]])
    faces = [
        np.concatenate([flat, np.broadcast_to(z[:, None, i : i + 1], (*flat.shape[:2], 1))], axis=-1)
        for i in (0, 1)
    ]
    return np.concatenate(faces, axis=1)
