"""Boxes, rotations, frames and cameras: the one definition of the box convention.

``(x, y, z, dx, dy, dz, heading)``: geometric centre, full extents, heading counter-clockwise about +z from
+x; metres and radians. Functions take torch tensors or NumPy arrays.
"""

from tenfold.geometry.boxes import (
    BOX_EDGES,
    CORNER_SIGNS,
    bev_corners,
    box_corners,
    enlarge_boxes,
    flip_boxes,
    flip_points,
    limit_heading,
    points_from_box_frame,
    points_to_box_frame,
    rotate_boxes,
    rotate_z,
    scale_boxes,
    transform_boxes,
    transform_points,
    wrap_angle,
)
from tenfold.geometry.calibration import Calibration, project_boxes
from tenfold.geometry.coders import (
    AxisBinCoder,
    BinBoxCode,
    BinBoxCoder,
    HeadingBinCoder,
    PointResidualCoder,
    ResidualCoder,
    apply_direction,
    direction_bin,
)
from tenfold.geometry.convert import (
    boxes_from_axis_aligned,
    boxes_from_kitti,
    boxes_from_min_max,
    boxes_from_mmdet3d,
    boxes_from_nuscenes,
    boxes_to_kitti,
    boxes_to_mmdet3d,
    boxes_to_nuscenes,
    kitti_alpha,
)

__all__ = [
    "BOX_EDGES",
    "CORNER_SIGNS",
    "AxisBinCoder",
    "BinBoxCode",
    "BinBoxCoder",
    "Calibration",
    "HeadingBinCoder",
    "PointResidualCoder",
    "ResidualCoder",
    "apply_direction",
    "bev_corners",
    "box_corners",
    "boxes_from_axis_aligned",
    "boxes_from_kitti",
    "boxes_from_min_max",
    "boxes_from_mmdet3d",
    "boxes_from_nuscenes",
    "boxes_to_kitti",
    "boxes_to_mmdet3d",
    "boxes_to_nuscenes",
    "direction_bin",
    "enlarge_boxes",
    "flip_boxes",
    "flip_points",
    "kitti_alpha",
    "limit_heading",
    "points_from_box_frame",
    "points_to_box_frame",
    "project_boxes",
    "rotate_boxes",
    "rotate_z",
    "scale_boxes",
    "transform_boxes",
    "transform_points",
    "wrap_angle",
]
