"""LiDAR detectors as plain modules, and the parts they share."""

from tenfold.lidar.models.anchor_head import AnchorHead, AnchorOutputs, LossWeights
from tenfold.lidar.models.bev import BEVBackbone
from tenfold.lidar.models.build import build_detector
from tenfold.lidar.models.detector import Detector, PointFeatures
from tenfold.lidar.models.export import export_dense
from tenfold.lidar.models.multi_head import MultiHead, MultiOutputs
from tenfold.lidar.models.openpcdet import load_openpcdet
from tenfold.lidar.models.part_a2 import PartA2, PartA2Config, PartA2Head
from tenfold.lidar.models.point_heads import PointHead, PointOutputs, PointWeights
from tenfold.lidar.models.pointpillars import (
    PillarFeatures,
    PointPillars,
    PointPillarsConfig,
    scatter_pillars,
)
from tenfold.lidar.models.pointrcnn import PointRCNN, PointRCNNConfig, PointRCNNHead
from tenfold.lidar.models.pv_rcnn import PVRCNN, PVRCNNConfig, PVRCNNHead, VoxelSetAbstraction
from tenfold.lidar.models.roi_head import RoIHead, RoIOutputs, SecondStageConfig
from tenfold.lidar.models.second import Second, SecondConfig, VoxelStages
from tenfold.lidar.models.two_stage import FirstStage, TwoStage
from tenfold.lidar.models.unet import UNetV2
from tenfold.lidar.models.voxel_backbone import (
    MeanVoxelFeatures,
    SparseFeatures,
    VoxelBackBone8x,
    VoxelResBackBone8x,
    height_compression,
    site_centres,
)

__all__ = [
    "PVRCNN",
    "AnchorHead",
    "AnchorOutputs",
    "BEVBackbone",
    "Detector",
    "FirstStage",
    "LossWeights",
    "MeanVoxelFeatures",
    "MultiHead",
    "MultiOutputs",
    "PVRCNNConfig",
    "PVRCNNHead",
    "PartA2",
    "PartA2Config",
    "PartA2Head",
    "PillarFeatures",
    "PointFeatures",
    "PointHead",
    "PointOutputs",
    "PointPillars",
    "PointPillarsConfig",
    "PointRCNN",
    "PointRCNNConfig",
    "PointRCNNHead",
    "PointWeights",
    "RoIHead",
    "RoIOutputs",
    "Second",
    "SecondConfig",
    "SecondStageConfig",
    "SparseFeatures",
    "TwoStage",
    "UNetV2",
    "VoxelBackBone8x",
    "VoxelResBackBone8x",
    "VoxelSetAbstraction",
    "VoxelStages",
    "build_detector",
    "export_dense",
    "height_compression",
    "load_openpcdet",
    "scatter_pillars",
    "site_centres",
]
