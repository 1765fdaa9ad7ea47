"""Foreign box conventions, converted at the door: KITTI, nuScenes, mmdetection3d, ScanNet."""

import math

import torch

from tenfold.geometry._arrays import Array, dual, require_columns
from tenfold.geometry.boxes import wrap_angle
from tenfold.geometry.calibration import Calibration


def boxes_from_kitti(fields: Array, calibration: Calibration) -> Array:
    """KITTI label geometry to our boxes in the lidar frame.

    Args:
        fields: ``(N, 7)`` in label order: h, w, l (metres), X, Y, Z of the **bottom** centre in the rect
            camera frame, rotation_y (radians about the camera's downward y axis).
        calibration: the frame's calibration.

    The heading is ``-rotation_y - pi/2``: the small rotation between the camera's and the lidar's vertical
    axes is ignored, as in every published KITTI number.

    >>> import numpy as np
    >>> b = boxes_from_kitti(np.array([[1.5, 1.6, 3.9, 0, 1.65, 20, 0]]), Calibration.kitti_like())
    >>> b.round(2).tolist()
    [[20.27, 0.0, -0.98, 3.9, 1.6, 1.5, -1.57]]
    """
    f = fields
    bottom = calibration.rect_to_lidar(f[..., 3:6])
    return _from_bottom_camera(bottom, fields)


@dual
def _from_bottom_camera(bottom: Array, fields: Array) -> Array:
    b = bottom
    f = fields
    require_columns("boxes_from_kitti", "fields", f, (7,))
    h, w, length, ry = f[..., 0], f[..., 1], f[..., 2], f[..., 6]
    heading = wrap_angle(-ry - math.pi / 2)
    return torch.stack((b[..., 0], b[..., 1], b[..., 2] + h / 2, length, w, h, heading), -1)


def boxes_to_kitti(boxes: Array, calibration: Calibration) -> Array:
    """Exact mirror of `boxes_from_kitti`: our boxes ``(N, 7)`` to h, w, l, X, Y, Z, rotation_y.

    >>> import numpy as np
    >>> c, b = Calibration.kitti_like(), np.array([[20.0, 3, -1, 3.9, 1.6, 1.5, 0.7]])
    >>> np.allclose(boxes_from_kitti(boxes_to_kitti(b, c), c), b)
    True
    """
    bottom, size, ry = _to_bottom(boxes)
    rect = calibration.lidar_to_rect(bottom)
    return _join(size, rect, ry)


@dual
def _to_bottom(boxes: Array) -> tuple[Array, Array, Array]:
    b = boxes
    require_columns("boxes_to_kitti", "boxes", b, (7,))
    bottom = torch.stack((b[..., 0], b[..., 1], b[..., 2] - b[..., 5] / 2), -1)
    size = torch.stack((b[..., 5], b[..., 4], b[..., 3]), -1)
    ry = wrap_angle(-b[..., 6:7] - math.pi / 2)
    return bottom, size, ry


@dual
def _join(first: Array, second: Array, third: Array) -> Array:
    parts = (first, second, third)
    return torch.cat(parts, -1)


@dual
def kitti_alpha(boxes: Array) -> Array:
    """KITTI observation angle ``(N,)`` of our boxes ``(N, 7)``: rotation_y minus the viewing direction.

    ``alpha = -atan2(-y, x) + rotation_y`` with lidar coordinates, wrapped into [-pi, pi).

    >>> kitti_alpha(torch.tensor([[10.0, 0, 0, 4, 2, 1, 0]])).tolist()  # doctest: +ELLIPSIS
    [-1.57...]
    """
    b = boxes
    require_columns("kitti_alpha", "boxes", b, (7,))
    ry = -b[..., 6] - math.pi / 2
    return wrap_angle(-torch.atan2(-b[..., 1], b[..., 0]) + ry)


@dual
def boxes_from_nuscenes(centre: Array, wlh: Array, quaternion: Array) -> Array:
    """A nuScenes annotation as our boxes, in the frame of the annotation.

    Args:
        centre: ``(N, 3)`` geometric centre, metres.
        wlh: ``(N, 3)`` width, length, height, metres.
        quaternion: ``(N, 4)`` w, x, y, z, any non-zero length.

    Returns:
        ``(N, 7)``; the heading is the direction of the rotated x axis seen from above.

    >>> q = torch.tensor([[math.cos(0.25), 0, 0, math.sin(0.25)]])
    >>> boxes_from_nuscenes(torch.zeros(1, 3), torch.tensor([[2.0, 4, 1]]), q)[0, 3:].tolist()
    [4.0, 2.0, 1.0, 0.5]
    """
    c = centre
    s = wlh
    q = quaternion
    require_columns("boxes_from_nuscenes", "centre", c, (3,))
    require_columns("boxes_from_nuscenes", "wlh", s, (3,))
    require_columns("boxes_from_nuscenes", "quaternion", q, (4,))
    w, x, y, z = q.unbind(-1)
    # First column of the rotation matrix; the quaternion's length cancels in atan2.
    heading = torch.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)
    sizes = s[..., [1, 0, 2]]
    return torch.cat((c, sizes, heading[..., None]), -1)


@dual
def boxes_to_nuscenes(boxes: Array) -> tuple[Array, Array, Array]:
    """Our boxes ``(N, 7)`` to nuScenes centre, wlh ``(N, 3)`` each, and quaternion ``(N, 4)`` w, x, y, z.

    >>> boxes_to_nuscenes(torch.tensor([[1.0, 2, 3, 4, 2, 1, 0]]))[2].tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    b = boxes
    require_columns("boxes_to_nuscenes", "boxes", b, (7,))
    half = b[..., 6] / 2
    zero = torch.zeros_like(half)
    quaternion = torch.stack((torch.cos(half), zero, zero, torch.sin(half)), -1)
    return b[..., :3], b[..., [4, 3, 5]], quaternion


@dual
def boxes_from_mmdet3d(boxes: Array, *, origin: tuple[float, float, float] = (0.5, 0.5, 0.0)) -> Array:
    """mmdetection3d (1.0 and later) lidar or depth boxes to ours.

    Args:
        boxes: ``(N, 7 | 9)`` x, y, z, dx, dy, dz, yaw(, vx, vy), yaw counter-clockwise.
        origin: where x, y, z sits in the box, as fractions of the *unrotated* extents. The tensors of
            ``LiDARInstance3DBoxes`` and ``DepthInstance3DBoxes`` hold the bottom centre (the default); the
            nuScenes, ScanNet and SUN RGB-D info files hold the geometric centre, ``(0.5, 0.5, 0.5)``.

    >>> boxes_from_mmdet3d(torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]]))[0, 2].item()
    0.5
    """
    b = boxes
    require_columns("boxes_from_mmdet3d", "boxes", b, (7, 9))
    shift = b[..., 3:6] * (0.5 - b.new_tensor(origin))
    return torch.cat((b[..., :3] + shift, b[..., 3:]), -1)


@dual
def boxes_to_mmdet3d(boxes: Array, *, origin: tuple[float, float, float] = (0.5, 0.5, 0.0)) -> Array:
    """Inverse of `boxes_from_mmdet3d`.

    >>> boxes_to_mmdet3d(torch.tensor([[0.0, 0, 0.5, 4, 2, 1, 0]]))[0, 2].item()
    0.0
    """
    b = boxes
    require_columns("boxes_to_mmdet3d", "boxes", b, (7, 9))
    shift = b[..., 3:6] * (b.new_tensor(origin) - 0.5)
    return torch.cat((b[..., :3] + shift, b[..., 3:]), -1)


@dual
def boxes_from_axis_aligned(boxes: Array) -> Array:
    """ScanNet-style boxes ``(N, 6)`` (geometric centre, full extents) to ours, heading 0.

    >>> boxes_from_axis_aligned(torch.tensor([[0.0, 0, 0, 1, 2, 3]])).tolist()
    [[0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0]]
    """
    b = boxes
    require_columns("boxes_from_axis_aligned", "boxes", b, (6,))
    return torch.cat((b, torch.zeros_like(b[..., :1])), -1)


@dual
def boxes_from_min_max(low: Array, high: Array) -> Array:
    """Two opposite corners ``(N, 3)`` each to our boxes ``(N, 7)``, heading 0.

    >>> boxes_from_min_max(torch.zeros(1, 3), torch.ones(1, 3)).tolist()
    [[0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0]]
    """
    a = low
    b = high
    require_columns("boxes_from_min_max", "low", a, (3,))
    require_columns("boxes_from_min_max", "high", b, (3,))
    return torch.cat(((a + b) / 2, b - a, torch.zeros_like(a[..., :1])), -1)
