"""LiDAR detectors as plain modules, and the parts they share."""

from tenfold.lidar.models.anchor_head import AnchorHead, AnchorOutputs, LossWeights
from tenfold.lidar.models.bev import BEVBackbone
from tenfold.lidar.models.build import build_detector
from tenfold.lidar.models.export import export_dense
from tenfold.lidar.models.openpcdet import load_openpcdet
from tenfold.lidar.models.second import Second, SecondConfig
from tenfold.lidar.models.voxel_backbone import (
    MeanVoxelFeatures,
    SparseFeatures,
    VoxelBackBone8x,
    VoxelResBackBone8x,
    height_compression,
)

__all__ = [
    "AnchorHead",
    "AnchorOutputs",
    "BEVBackbone",
    "LossWeights",
    "MeanVoxelFeatures",
    "Second",
    "SecondConfig",
    "SparseFeatures",
    "VoxelBackBone8x",
    "VoxelResBackBone8x",
    "build_detector",
    "export_dense",
    "height_compression",
    "load_openpcdet",
]
