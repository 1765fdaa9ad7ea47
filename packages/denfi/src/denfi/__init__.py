"""DENFI: a boundary-aware dense feature indicator for single-stage LiDAR detectors (Xu et al., 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, denfi
    >>> plug = denfi.Denfi(16, 3, denfi.BevGrid(0.0, -4.0, 0.4, height=20, width=10))
    >>> cls_feat, reg_feat, boundary = plug(torch.zeros(1, 16, 20, 10))
    >>> cls_feat.shape, boundary.proposals.shape
    (torch.Size([1, 16, 20, 10]), torch.Size([1, 5, 20, 10]))
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from denfi import losses
    from denfi.grid import BevGrid
    from denfi.losses import BoundaryWeights, boundary_iou_loss
    from denfi.model import (
        VARIANTS,
        AnchorFreeHead,
        BoundaryOutput,
        Denfi,
        DenfiConfig,
        DenfiConv,
        DenfiDet,
        DenseBoundaryProposal,
        plug_in,
    )
    from denfi.predict import load_detector
    from denfi.targets import (
        BoundaryTargets,
        boundary_targets,
        decode_boundary,
        decode_heading,
        encode_heading,
    )

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "AnchorFreeHead",
    "BevGrid",
    "BoundaryOutput",
    "BoundaryTargets",
    "BoundaryWeights",
    "Denfi",
    "DenfiConfig",
    "DenfiConv",
    "DenfiDet",
    "DenseBoundaryProposal",
    "boundary_iou_loss",
    "boundary_targets",
    "decode_boundary",
    "decode_heading",
    "encode_heading",
    "load_detector",
    "losses",
    "plug_in",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".": ["losses"],
        ".grid": ["BevGrid"],
        ".losses": ["BoundaryWeights", "boundary_iou_loss"],
        ".model": [
            "VARIANTS",
            "AnchorFreeHead",
            "BoundaryOutput",
            "Denfi",
            "DenfiConfig",
            "DenfiConv",
            "DenfiDet",
            "DenseBoundaryProposal",
            "plug_in",
        ],
        ".predict": ["load_detector"],
        ".targets": [
            "BoundaryTargets",
            "boundary_targets",
            "decode_boundary",
            "decode_heading",
            "encode_heading",
        ],
    },
)
