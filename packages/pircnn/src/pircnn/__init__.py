"""PI-RCNN: LiDAR and image fused on the points by attentive continuous convolution (Xie et al., AAAI 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, pircnn
    >>> fusion = pircnn.PointImageFusion(16, pircnn.PACF(10, out_channels=16))
    >>> fusion(torch.rand(1, 50, 16), torch.rand(1, 50, 10), torch.rand(1, 50, 3)).shape
    torch.Size([1, 50, 16])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_MODULES = ("data", "losses", "seg_metrics")
_EXPORTS = {
    **dict.fromkeys(("KittiCalib", "scene_matrix"), "calibration"),
    **dict.fromkeys(("load_detector", "load_segmentation"), "checkpoints"),
    **dict.fromkeys(
        (
            "PACF",
            "PIRCNN",
            "VARIANTS",
            "FusionConfig",
            "PIRCNNConfig",
            "PointImageFusion",
            "SegUNet",
            "image_tensor",
        ),
        "model",
    ),
    "sample_image_features": "sampling",
}

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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pircnn.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pircnn.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
