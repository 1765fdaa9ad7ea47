"""One pinhole camera calibration, as KITTI defines it, with exact inverses and image transforms."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tenfold.geometry._arrays import Array, NDArray, dual, require_columns
from tenfold.geometry.boxes import BOX_EDGES, box_corners


@dataclass(frozen=True, eq=False)
class Calibration:
    """Projection matrix, rectifying rotation and lidar-to-camera pose of one camera.

    Frames: *lidar* (x forward, y left, z up), *rect* (x right, y down, z forward), *image* (u right, v down,
    pixels; pixel centres at whole numbers). ``rect = R0 (Tr [lidar, 1])`` and
    ``(u, v) = (P2[:2] [rect, 1]) / depth`` where **depth is the rect z**, the reading of the common KITTI
    tools (the third row of P2 adds 3 mm, which they ignore as well).

    Args:
        p2: ``(3, 4)`` projection of the left colour camera, pixels.
        r0: ``(3, 3)`` rectifying rotation.
        velo_to_cam: ``(3, 4)`` pose of the lidar in the unrectified camera frame, metres.

    Raises:
        ValueError: a wrong shape, a number that is not finite, or a matrix without inverse.

    >>> c = Calibration.kitti_like()
    >>> uv, depth = c.lidar_to_image(np.array([[20.0, 0.0, -1.0]]))
    >>> np.allclose(c.image_to_lidar(uv, depth), [[20.0, 0.0, -1.0]])
    True
    """

    p2: NDArray
    r0: NDArray
    velo_to_cam: NDArray

    def __post_init__(self) -> None:
        for name, shape in (("p2", (3, 4)), ("r0", (3, 3)), ("velo_to_cam", (3, 4))):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(
                    f"Calibration: {name}: shape {value.shape} was received; {shape} is expected"
                )
            if not np.isfinite(value).all():
                raise ValueError(
                    f"Calibration: {name}: NaN or infinity was received; finite numbers are expected"
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        for name, square in (
            ("p2", self.p2[:2, :2]),
            ("r0", self.r0),
            ("velo_to_cam", self.velo_to_cam[:, :3]),
        ):
            if abs(np.linalg.det(square)) < 1e-9:
                raise ValueError(f"Calibration: {name}: a matrix without inverse was received")

    @classmethod
    def kitti_like(
        cls, image_size: tuple[int, int] = (375, 1242), focal: float = 721.5, camera_height: float = 1.65
    ) -> "Calibration":
        """An ideal forward camera placed like KITTI's: 0.27 m ahead of the lidar.

        Args:
            image_size: (height, width), pixels; the focal length scales with the width.
            focal: pixels at a width of 1242.
            camera_height: metres above the ground, with the lidar at 1.73 m.
        """
        height, width = image_size
        f = focal * width / 1242
        p2 = np.array([[f, 0, 0.4908 * width, 0], [0, f, 0.461 * height, 0], [0, 0, 1, 0]])
        tr = np.array([[0, -1, 0, 0], [0, 0, -1, camera_height - 1.73], [1, 0, 0, -0.27]], dtype=np.float64)
        return cls(p2, np.eye(3), tr)

    @cached_property
    def lidar_to_rect_matrix(self) -> NDArray:
        """``(4, 4)`` float64 matrix from the lidar to the rect frame."""
        rect = np.eye(4)
        rect[:3] = self.r0 @ self.velo_to_cam
        return rect

    @cached_property
    def rect_to_lidar_matrix(self) -> NDArray:
        """``(4, 4)`` exact inverse of `lidar_to_rect_matrix` (published rotations are rounded)."""
        return np.linalg.inv(self.lidar_to_rect_matrix)

    def lidar_to_rect(self, points: Array) -> Array:
        """Points ``(..., 3)`` from the lidar to the rect frame, metres."""
        return _apply(points, _like(self.lidar_to_rect_matrix, points))

    def rect_to_lidar(self, points: Array) -> Array:
        """Points ``(..., 3)`` from the rect to the lidar frame, metres."""
        return _apply(points, _like(self.rect_to_lidar_matrix, points))

    def rect_to_image(self, points: Array) -> tuple[Array, Array]:
        """Project points ``(..., 3)`` of the rect frame.

        Returns:
            ``uv (..., 2)`` in pixels and ``depth (...)`` in metres. Points at depth 0 give infinite or NaN
            pixels and points behind the camera mirrored ones: test the depth.
        """
        return _project(points, _like(self.p2, points))

    def image_to_rect(self, uv: Array, depth: Array) -> Array:
        """Exact inverse of `rect_to_image`: pixels ``(..., 2)``, depth ``(...)`` to points ``(..., 3)``."""
        return _unproject(uv, depth, _like(self.p2, uv))

    def lidar_to_image(self, points: Array) -> tuple[Array, Array]:
        """Project lidar points ``(..., 3)``; returns as `rect_to_image`."""
        return self.rect_to_image(self.lidar_to_rect(points))

    def image_to_lidar(self, uv: Array, depth: Array) -> Array:
        """Exact inverse of `lidar_to_image`."""
        return self.rect_to_lidar(self.image_to_rect(uv, depth))

    def in_image(self, points: Array, image_size: tuple[int, int]) -> Array:
        """Mask ``(...)`` of lidar points ``(..., 3)`` that project into an image of (height, width) pixels.

        A point counts when 0 <= u < width, 0 <= v < height and its depth is not negative.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            uv, depth = self.lidar_to_image(points)
        height, width = image_size
        inside: Any = (uv[..., 0] >= 0) & (uv[..., 0] < width) & (uv[..., 1] >= 0) & (uv[..., 1] < height)
        return inside & (depth >= 0)

    def transformed(self, image_matrix: NDArray) -> "Calibration":
        """Calibration of the image after an affine pixel map, a ``(3, 3)`` matrix with last row 0 0 1."""
        matrix = np.asarray(image_matrix, dtype=np.float64)
        if matrix.shape != (3, 3) or not np.array_equal(matrix[2], (0, 0, 1)):
            raise ValueError(
                "Calibration.transformed: image_matrix: a (3, 3) matrix with last row 0, 0, 1 is expected"
            )
        # The depth row is made exact first, so that shifting the image shifts every pixel by the same amount.
        projection = np.vstack((self.p2[:2], (0, 0, 1, 0)))
        return replace(self, p2=matrix @ projection)

    def cropped(self, left: float, top: float) -> "Calibration":
        """Calibration after cutting `left` columns and `top` rows away (negative numbers pad)."""
        return self.transformed(np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]))

    def resized(self, scale_x: float, scale_y: float) -> "Calibration":
        """Calibration after resizing the image by these factors, with pixel *areas* kept aligned."""
        shift_x, shift_y = (scale_x - 1) / 2, (scale_y - 1) / 2
        return self.transformed(np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1.0]]))

    def flipped(self, width: int) -> "Calibration":
        """Calibration after mirroring an image of `width` columns left to right: u becomes width - 1 - u.

        Only the image is mirrored: the points keep their frame.
        """
        return self.transformed(np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1.0]]))


def _like(matrix: NDArray, points: Any) -> Any:
    """The matrix as the same kind (array or tensor), dtype and device as the points."""
    if isinstance(points, torch.Tensor):
        return torch.tensor(matrix, dtype=points.dtype, device=points.device)
    return matrix.astype(points.dtype)


@dual
def _apply(points: Array, matrix: Array) -> Array:
    p = points
    require_columns("Calibration", "points", p, (3,))
    return p @ matrix[:3, :3].T + matrix[:3, 3]


@dual
def _project(points: Array, projection: Array) -> tuple[Array, Array]:
    p = points
    require_columns("Calibration", "points", p, (3,))
    m = projection
    depth = p[..., 2]
    return (p @ m[:2, :3].T + m[:2, 3]) / depth[..., None], depth


@dual
def _unproject(uv: Array, depth: Array, projection: Array) -> Array:
    pixels = uv
    d = depth
    require_columns("Calibration", "uv", pixels, (2,))
    m = projection
    # u depth = P[0, :2] (x, y) + P[0, 2] depth + P[0, 3], the same for v: two equations in x and y.
    right = (pixels - m[:2, 2]) * d[..., None] - m[:2, 3]
    xy = right @ torch.linalg.inv(m[:2, :2]).T
    return torch.cat((xy, d[..., None]), dim=-1)


def project_boxes(
    boxes: Array, calibration: Calibration, image_size: tuple[int, int] | None = None, near: float = 0.1
) -> tuple[Array, Array]:
    """2-D boxes around the projected corners of 3-D boxes.

    Box edges that pass the near plane are cut there, so a box beside or around the camera gets the extent of
    its visible part and no mirrored corners.

    Args:
        boxes: ``(N, 7)`` in the lidar frame.
        calibration: camera.
        image_size: (height, width); the result is clipped to
            [0, width - 1] x [0, height - 1]. None: not clipped.
        near: metres of depth.

    Returns:
        ``boxes2d (N, 4)`` as x1, y1, x2, y2 in pixels, and ``visible (N,)``: some part lies before the near
        plane and, when an image size is given, inside the image. Rows that are not visible are 0.

    >>> box = np.array([[20.0, 0, -1, 4, 1.6, 1.5, 0]])
    >>> b, seen = project_boxes(box, Calibration.kitti_like(), (375, 1242))
    >>> bool(seen[0]), b[0].round().tolist()
    (True, [577.0, 179.0, 642.0, 241.0])
    """
    corners = calibration.lidar_to_rect(box_corners(boxes))
    result = _project_corners(corners, _like(calibration.p2, corners), image_size, near)
    return result


@dual
def _project_corners(
    corners: Array, projection: Array, image_size: tuple[int, int] | None, near: float
) -> tuple[Array, Array]:
    rect = corners
    edges = torch.tensor(BOX_EDGES, device=rect.device)
    start, end = rect[:, edges[:, 0]], rect[:, edges[:, 1]]
    span = end[..., 2] - start[..., 2]
    crosses = (start[..., 2] < near) != (end[..., 2] < near)
    at = torch.where(crosses, (near - start[..., 2]) / torch.where(crosses, span, 1), 0)
    cuts = start + at[..., None] * (end - start)
    candidates = torch.cat((rect, cuts), dim=1)
    valid = torch.cat((rect[..., 2] >= near, crosses), dim=1)

    depth = torch.where(valid, candidates[..., 2], 1)
    uv = _project(torch.cat((candidates[..., :2], depth[..., None]), -1), projection)[0]
    low = torch.where(valid[..., None], uv, torch.inf).amin(1)
    high = torch.where(valid[..., None], uv, -torch.inf).amax(1)
    visible = valid.any(1)
    if image_size is not None:
        limit = rect.new_tensor((image_size[1] - 1, image_size[0] - 1))
        visible = visible & (high > 0).all(-1) & (low < limit).all(-1)
        low, high = (torch.minimum(v.clamp(min=0), limit) for v in (low, high))
    found = torch.where(visible[:, None], torch.cat((low, high), -1), 0)
    return found, visible
