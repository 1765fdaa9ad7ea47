"""NumPy in, NumPy out, no torch: loops that are sequential or awkward in arrays, compiled.

Importing this module loads no torch. Inputs are checked, never cast silently; the GIL is released; results
are owned by NumPy; functions are thread-safe.
"""

from tenfold.host._iou import box_iou_2d, box_iou_3d, box_iou_bev, box_iou_frames
from tenfold.host._matching import KittiCounts, match_kitti, match_kitti_scores
from tenfold.host._points import HostVoxels, points_in_boxes, voxelize

__all__ = [
    "HostVoxels",
    "KittiCounts",
    "box_iou_2d",
    "box_iou_3d",
    "box_iou_bev",
    "box_iou_frames",
    "match_kitti",
    "match_kitti_scores",
    "points_in_boxes",
    "voxelize",
]
