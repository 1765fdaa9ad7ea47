"""PI-RCNN: LiDAR and image fused on the points by attentive continuous convolution (Xie et al., AAAI 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, pircnn
    >>> fusion = pircnn.PointImageFusion(16, pircnn.PACF(10, out_channels=16))
    >>> fusion(torch.rand(1, 50, 16), torch.rand(1, 50, 10), torch.rand(1, 50, 3)).shape
    torch.Size([1, 50, 16])
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from pircnn import data, losses, seg_metrics
    from pircnn.calibration import KittiCalib, scene_matrix
    from pircnn.checkpoints import load_detector, load_segmentation
    from pircnn.model import (
        PACF,
        PIRCNN,
        VARIANTS,
        FusionConfig,
        PIRCNNConfig,
        PointImageFusion,
        SegUNet,
        image_tensor,
    )
    from pircnn.sampling import sample_image_features

__version__ = "0.1.0"

__all__ = [
    "PACF",
    "PIRCNN",
    "VARIANTS",
    "FusionConfig",
    "KittiCalib",
    "PIRCNNConfig",
    "PointImageFusion",
    "SegUNet",
    "data",
    "image_tensor",
    "load_detector",
    "load_segmentation",
    "losses",
    "sample_image_features",
    "scene_matrix",
    "seg_metrics",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".": ["data", "losses", "seg_metrics"],
        ".calibration": ["KittiCalib", "scene_matrix"],
        ".checkpoints": ["load_detector", "load_segmentation"],
        ".model": [
            "PACF",
            "PIRCNN",
            "VARIANTS",
            "FusionConfig",
            "PIRCNNConfig",
            "PointImageFusion",
            "SegUNet",
            "image_tensor",
        ],
        ".sampling": ["sample_image_features"],
    },
)
