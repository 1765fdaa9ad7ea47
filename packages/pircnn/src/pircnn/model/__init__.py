"""Networks: image branch, fusion, detector."""

from pircnn.model.config import BRANCHES, VARIANTS, FusionConfig, PIRCNNConfig, make_config
from pircnn.model.detector import PIRCNN, ImageFeatures, build
from pircnn.model.pacf import PACF, PointImageFusion, PointPainting, neighbours
from pircnn.model.unet import IMAGE_MEAN, IMAGE_STD, SegUNet, image_tensor

__all__ = [
    "BRANCHES",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "PACF",
    "PIRCNN",
    "VARIANTS",
    "FusionConfig",
    "ImageFeatures",
    "PIRCNNConfig",
    "PointImageFusion",
    "PointPainting",
    "SegUNet",
    "build",
    "image_tensor",
    "make_config",
    "neighbours",
]
