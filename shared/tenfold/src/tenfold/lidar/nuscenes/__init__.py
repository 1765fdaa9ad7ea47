"""The nuScenes data set: tables, key frames with sweeps, detection classes, submissions."""

from tenfold.lidar.nuscenes.classes import CLASS_OF, RACK, SAMPLING_COUNTS, attribute_of, scene_split
from tenfold.lidar.nuscenes.index import FrameIndex, build_index, index_path
from tenfold.lidar.nuscenes.reader import NuScenesDetection, NuScenesFrame, SkippedSweepWarning, read_sweep
from tenfold.lidar.nuscenes.submission import detections_to_nuscenes
from tenfold.lidar.nuscenes.tables import LIDAR, TABLES, NuScenesTables, pose_matrix

__all__ = [
    "CLASS_OF",
    "LIDAR",
    "RACK",
    "SAMPLING_COUNTS",
    "TABLES",
    "FrameIndex",
    "NuScenesDetection",
    "NuScenesFrame",
    "NuScenesTables",
    "SkippedSweepWarning",
    "attribute_of",
    "build_index",
    "detections_to_nuscenes",
    "index_path",
    "pose_matrix",
    "read_sweep",
    "scene_split",
]
