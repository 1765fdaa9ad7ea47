"""NumPy in, NumPy out, no torch: loops that are sequential or awkward in arrays, compiled.

Importing this module loads no torch. Inputs are checked, never cast silently; the GIL is released; results
are owned by NumPy; functions are thread-safe.
"""

from tenfold.host._colour import hsv_change
from tenfold.host._greedy import (
    CocoMatches,
    NuscenesMatches,
    VocMatches,
    greedy_assign,
    match_coco,
    match_nuscenes,
    match_voc,
)
from tenfold.host._grouping import Grouping, grouping_gains, optimal_grouping, optimal_partition
from tenfold.host._iou import box_iou_2d, box_iou_3d, box_iou_bev, box_iou_frames
from tenfold.host._matching import KittiCounts, match_kitti, match_kitti_scores
from tenfold.host._points import HostVoxels, points_in_boxes, voxelize
from tenfold.host._precision import average_precision

__all__ = [
    "CocoMatches",
    "Grouping",
    "HostVoxels",
    "KittiCounts",
    "NuscenesMatches",
    "VocMatches",
    "average_precision",
    "box_iou_2d",
    "box_iou_3d",
    "box_iou_bev",
    "box_iou_frames",
    "greedy_assign",
    "grouping_gains",
    "hsv_change",
    "match_coco",
    "match_kitti",
    "match_kitti_scores",
    "match_nuscenes",
    "match_voc",
    "optimal_grouping",
    "optimal_partition",
    "points_in_boxes",
    "voxelize",
]
