"""Where a LiDAR point lies in a camera image, exactly, and what edits of image and scene do to that.

`tenfold.geometry.Calibration` is KITTI's calibration as its usual tools read it: pixels are divided by the rect z.
`KittiCalib` divides by the homogeneous coordinate, which is what the projection matrix means (0.1 pixel apart in the
median of a KITTI frame), and lets the scene move: edits of the image act on P2 from the left, edits of the scene on
the pose from the right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tenfold.geometry import Calibration

__all__ = ["KittiCalib", "scene_matrix"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class KittiCalib:
    """Projection of LiDAR points into one camera image; everything in float64.

    Frames: LiDAR (x forward, y left, z up), rect (x right, y down, z forward), image (u right, v down, pixels, whole
    numbers are pixel centres); metres. ``x_rect = T [x, 1]``, ``[a, b, w] = P2 [x_rect, 1]``, ``u = a / w``,
    ``v = b / w``.

    Args:
        P2: (3, 4) projection from the rect frame, pixels.
        T: (3, 4) from the LiDAR to the rect frame.
        divide_by: "w", or "z" for the rect z, as the official code does.
        near: points with a smaller rect z are not seen, metres.

    Raises:
        ValueError: a wrong shape, a number that is not finite, or a matrix without inverse.

    Example:
        >>> calib = KittiCalib.from_calibration(Calibration.kitti_like())
        >>> uv, depth, valid = calib.lidar_to_image([[20.0, 0, -1], [-5, 0, 0]], (375, 1242))
        >>> valid.tolist(), uv[0].round(1).tolist()
        ([True, False], [609.6, 206.5])
        >>> np.allclose(calib.image_to_lidar(uv[:1], depth[:1]), [[20.0, 0, -1]])
        True
    """

    P2: Floats
    T: Floats
    divide_by: Literal["w", "z"] = "w"
    near: float = 0.1

    def __post_init__(self) -> None:
        for name in ("P2", "T"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != (3, 4) or not np.isfinite(value).all():
                raise ValueError(
                    f"KittiCalib: {name}: got shape {value.shape}; expected (3, 4) finite numbers"
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        for name, square in (("P2", self.P2[:2, :2]), ("T", self.T[:, :3])):
            if abs(np.linalg.det(square)) < 1e-9:
                raise ValueError(f"KittiCalib: {name}: got a matrix without inverse")
        if self.divide_by not in ("w", "z"):
            raise ValueError(f"KittiCalib: divide_by: got {self.divide_by!r}; expected 'w' or 'z'")

    @classmethod
    def from_file(cls, path: str | Path, divide_by: Literal["w", "z"] = "w") -> KittiCalib:
        """Calibration of a KITTI file; its lines may stand in any order.

        Raises:
            UserInputError: a missing file or key, or wrong numbers.
        """
        from tenfold.lidar.kitti import read_calibration

        return cls.from_calibration(read_calibration(path), divide_by)

    @classmethod
    def from_calibration(cls, calibration: Calibration, divide_by: Literal["w", "z"] = "w") -> KittiCalib:
        """The same camera as tenfold's readers describe it."""
        return cls(calibration.p2, calibration.lidar_to_rect_matrix[:3], divide_by)

    @classmethod
    def from_arrays(cls, P2: Any, R0: Any, Tr: Any) -> KittiCalib:
        """Of KITTI's three matrices: (3, 4) P2, (3, 3) R0_rect, (3, 4) Tr_velo_to_cam."""
        return cls.from_calibration(Calibration(P2, R0, Tr))

    @classmethod
    def from_pinhole(cls, K: Any, lidar_to_camera: Any) -> KittiCalib:
        """Of any pinhole camera: (3, 3) intrinsic matrix, (3 or 4, 4) pose (x right, y down, z forward)."""
        return cls(np.hstack((np.asarray(K, np.float64), np.zeros((3, 1)))), np.asarray(lidar_to_camera)[:3])

    @property
    def matrix(self) -> Floats:
        """(3, 4) from the LiDAR frame to (u w, v w, w)."""
        return np.asarray(self.P2 @ _square(self.T))

    def lidar_to_rect(self, points: npt.ArrayLike) -> Floats:
        """Points (N, 3 or more) of the LiDAR frame in the rect frame, (N, 3)."""
        return np.asarray(_rows(points) @ self.T[:, :3].T + self.T[:, 3])

    def rect_to_lidar(self, points: npt.ArrayLike) -> Floats:
        """Points (N, 3) of the rect frame in the LiDAR frame; a general inverse, rotations are rounded."""
        back = np.linalg.inv(_square(self.T))
        return np.asarray(_rows(points) @ back[:3, :3].T + back[:3, 3])

    def lidar_to_image(
        self, points: npt.ArrayLike, image_size: tuple[int, int] | None = None
    ) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Project points (N, 3 or more).

        Args:
            points: of the LiDAR frame, metres.
            image_size: (height, width), pixels; None does not look at the borders.

        Returns:
            uv (N, 2) pixels, 0 where the depth is not positive; depth (N,) rect z, metres; valid (N,): depth of at
            least `near`, 0 <= u < width and 0 <= v < height.
        """
        rect = self.lidar_to_rect(points)
        depth = rect[:, 2]
        image = rect @ self.P2[:, :3].T + self.P2[:, 3]
        divisor = image[:, 2] if self.divide_by == "w" else depth
        seen = (depth >= self.near) & (divisor > 0)
        uv = np.where(seen[:, None], image[:, :2] / np.where(seen, divisor, 1)[:, None], 0.0)
        valid = seen
        if image_size is not None:
            height, width = image_size
            inside = (uv[:, 0] >= 0) & (uv[:, 0] < width) & (uv[:, 1] >= 0) & (uv[:, 1] < height)
            valid = seen & inside
        return uv, depth, valid

    def image_to_lidar(self, uv: npt.ArrayLike, depth: npt.ArrayLike) -> Floats:
        """Points (N, 3) of pixels (N, 2) at known rect z (N,): the inverse of `lidar_to_image`."""
        pixels, z = np.asarray(uv, np.float64), np.asarray(depth, np.float64)
        rows = np.stack((np.zeros_like(z), np.zeros_like(z), z), 1)
        known = rows @ self.P2[:, :3].T + self.P2[:, 3]  # what z and the last column add to a, b, w
        divisor = known[:, 2] if self.divide_by == "w" else z
        xy = (pixels * divisor[:, None] - known[:, :2]) @ np.linalg.inv(self.P2[:2, :2]).T
        return self.rect_to_lidar(np.concatenate((xy, z[:, None]), 1))

    def with_image_matrix(self, matrix: npt.ArrayLike) -> KittiCalib:
        """After an affine pixel map, (3, 3) with last row 0, 0, 1."""
        edit = np.asarray(matrix, np.float64)
        if edit.shape != (3, 3) or not np.array_equal(edit[2], (0, 0, 1)):
            raise ValueError("KittiCalib: matrix: expected (3, 3) with last row 0, 0, 1")
        projection = np.array(self.P2)
        if self.divide_by == "z":  # this reading of the divisor has no third row of its own
            projection[2] = 0, 0, 1, 0
        return replace(self, P2=edit @ projection)

    def with_crop(self, x: float, y: float) -> KittiCalib:
        """After cutting x columns and y rows away at left and top; negative numbers pad."""
        return self.with_image_matrix(np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]))

    def with_resize(self, sx: float, sy: float, half_pixel: bool = True) -> KittiCalib:
        """After resizing by these factors.

        Args:
            sx, sy: new width / width and new height / height; with half_pixel=False (new width - 1) / (width - 1)
                and so on, corners on corners.
            half_pixel: keep pixel areas aligned, as OpenCV and `interpolate(align_corners=False)` do.
        """
        shift_x, shift_y = ((sx - 1) / 2, (sy - 1) / 2) if half_pixel else (0.0, 0.0)
        return self.with_image_matrix(np.array([[sx, 0, shift_x], [0, sy, shift_y], [0, 0, 1]]))

    def with_stride(self, stride: float) -> KittiCalib:
        """Pixels of a feature map with this stride."""
        return self.with_resize(1 / stride, 1 / stride)

    def with_hflip(self, width: int) -> KittiCalib:
        """After mirroring an image of this width; the scene stays as it is."""
        return self.with_image_matrix([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]])

    def with_scene_transform(self, matrix: npt.ArrayLike) -> KittiCalib:
        """After moving all points by a (4, 4) matrix: they project to where they did before.

        Example:
            >>> calib = KittiCalib.from_calibration(Calibration.kitti_like())
            >>> turned = calib.with_scene_transform(scene_matrix(angle=np.pi / 2))
            >>> uv, moved = calib.lidar_to_image([[9.0, 1, 0]])[0], turned.lidar_to_image([[-1.0, 9, 0]])[0]
            >>> bool(np.allclose(uv, moved))
            True
        """
        move = np.asarray(matrix, np.float64)
        if move.shape != (4, 4) or not np.array_equal(move[3], (0, 0, 0, 1)):
            raise ValueError("KittiCalib: matrix: expected (4, 4) with last row 0, 0, 0, 1")
        return replace(self, T=self.T @ np.linalg.inv(move))


def scene_matrix(
    *, flip: str = "", angle: float = 0.0, scale: float = 1.0, shift: tuple[float, float, float] = (0, 0, 0)
) -> Floats:
    """(4, 4) matrix of an augmentation: mirror, then turn, then scale, then shift.

    Args:
        flip: "x" mirrors across the x axis (y changes its sign), "y" across the y axis, "xy" both.
        angle: about z, counter-clockwise, radians.
        scale: factor of all coordinates.
        shift: metres.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    move = np.eye(4)
    move[:3, :3] = scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    move[:3, :3] *= [-1.0 if "y" in flip else 1.0, -1.0 if "x" in flip else 1.0, 1.0]
    move[:3, 3] = shift
    return move


def _square(matrix: Floats) -> Floats:
    return np.vstack((matrix, (0, 0, 0, 1)))


def _rows(points: npt.ArrayLike) -> Floats:
    rows = np.asarray(points, np.float64)
    if rows.ndim != 2 or rows.shape[1] < 3:
        raise ValueError(f"KittiCalib: points: got shape {rows.shape}; expected (N, 3 or more)")
    return rows[:, :3]
