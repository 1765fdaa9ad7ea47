"""DENFI: a boundary-aware dense feature indicator for single-stage LiDAR detectors (Xu et al., 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, denfi
    >>> plug = denfi.Denfi(16, 3, denfi.BevGrid(0.0, -4.0, 0.4, height=20, width=10))
    >>> cls_feat, reg_feat, boundary = plug(torch.zeros(1, 16, 20, 10))
    >>> cls_feat.shape, boundary.proposals.shape
    (torch.Size([1, 16, 20, 10]), torch.Size([1, 5, 20, 10]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_EXPORTS = {
    "BevGrid": "grid",
    **dict.fromkeys(("BoundaryWeights", "boundary_iou_loss"), "losses"),
    **dict.fromkeys(
        (
            "VARIANTS",
            "AnchorFreeHead",
            "BoundaryOutput",
            "Denfi",
            "DenfiConfig",
            "DenfiConv",
            "DenfiDet",
            "DenseBoundaryProposal",
            "plug_in",
        ),
        "model",
    ),
    "load_detector": "predict",
    **dict.fromkeys(
        ("BoundaryTargets", "boundary_targets", "decode_boundary", "decode_heading", "encode_heading"),
        "targets",
    ),
}

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


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("denfi.losses")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"denfi.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
