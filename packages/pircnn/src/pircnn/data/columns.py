"""What a point carries about the camera: where it is seen, and whether it is.

A detector's points are x, y, z, features, then ``u, v, state`` and, where objects are pasted from a database with
stored semantics, those. Columns travel through augmentation untouched, so a point keeps the pixel at which it was
measured wherever the scene is moved to; `KittiCalib.with_scene_transform` says the same with matrices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pircnn.calibration import KittiCalib

__all__ = ["CAMERA_COLUMNS", "SEEN", "STORED", "UNSEEN", "with_camera"]

#: u, v, state.
CAMERA_COLUMNS = 3
#: States: the camera does not see the point; read the image at u, v; take the stored semantics.
UNSEEN, SEEN, STORED = 0.0, 1.0, 2.0


def with_camera(
    points: npt.NDArray[np.float32],
    calib: KittiCalib | None,
    image_size: tuple[int, int] | None,
    stored: int = 0,
) -> npt.NDArray[np.float32]:
    """Points (N, F) with their camera columns, (N, F + 3 + stored) float32.

    Args:
        points: x, y, z in metres, then features.
        calib: of the camera; None sees nothing.
        image_size: (height, width) of the image that will be read; None is a missing image.
        stored: columns for stored semantics, which are 0 here.

    Example:
        >>> with_camera(np.ones((2, 4), np.float32), None, None, stored=2).shape
        (2, 9)
    """
    more = np.zeros((len(points), CAMERA_COLUMNS + stored), np.float32)
    if calib is not None and image_size is not None:
        uv, _, valid = calib.lidar_to_image(points, image_size)
        # Rounding to float32 must not carry a pixel across the border.
        height, width = image_size
        limit = np.nextafter(np.array([width, height], np.float32), np.float32(0))
        more[:, :2] = np.where(valid[:, None], np.minimum(uv.astype(np.float32), limit), 0)
        more[:, 2] = np.where(valid, SEEN, UNSEEN)
    return np.concatenate((np.asarray(points, np.float32), more), 1)
