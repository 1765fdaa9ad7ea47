"""TTFNet: object detection that trains in a fraction of the usual time (Liu et al., AAAI 2020).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, ttfnet
    >>> model = ttfnet.TTFNet(backbone="small", num_classes=3)
    >>> out = model(torch.zeros(2, 3, 64, 64))
    >>> boxes = [torch.tensor([[8.0, 8.0, 40.0, 32.0]]), torch.zeros(0, 4)]
    >>> labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.long)]
    >>> sorted(model.loss(out, boxes, labels))
    ['loss', 'loss_box', 'loss_heatmap', 'num_pos', 'peak_iou', 'weight_sum']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttfnet.checkpoint import (
        ModelInfo,
        convert_checkpoint,
        load_backbone,
        load_detector,
        save_detector,
    )
    from ttfnet.data import CocoDataset
    from ttfnet.decoding import Detections, decode
    from ttfnet.evaluation import coco_evaluate
    from ttfnet.losses import generalized_iou, heatmap_focal_loss, weighted_giou_loss
    from ttfnet.model import (
        CenterNet,
        DeformConv2dPack,
        LossOptions,
        TTFHead,
        TTFNeck,
        TTFNet,
        TTFOutput,
        backbones,
    )
    from ttfnet.predict import Predictor, load
    from ttfnet.targets import TargetOptions, Targets, ttf_targets

__version__ = "0.1.0"

_EXPORTS = {
    **dict.fromkeys(
        ("ModelInfo", "convert_checkpoint", "load_backbone", "load_detector", "save_detector"), "checkpoint"
    ),
    "CocoDataset": "data",
    **dict.fromkeys(("Detections", "decode"), "decoding"),
    "coco_evaluate": "evaluation",
    **dict.fromkeys(("generalized_iou", "heatmap_focal_loss", "weighted_giou_loss"), "losses"),
    **dict.fromkeys(
        ("CenterNet", "DeformConv2dPack", "LossOptions", "TTFHead", "TTFNeck", "TTFNet", "TTFOutput"), "model"
    ),
    **dict.fromkeys(("Predictor", "load"), "predict"),
    **dict.fromkeys(("TargetOptions", "Targets", "ttf_targets"), "targets"),
}

__all__ = [
    "CenterNet",
    "CocoDataset",
    "DeformConv2dPack",
    "Detections",
    "LossOptions",
    "ModelInfo",
    "Predictor",
    "TTFHead",
    "TTFNeck",
    "TTFNet",
    "TTFOutput",
    "TargetOptions",
    "Targets",
    "backbones",
    "coco_evaluate",
    "convert_checkpoint",
    "decode",
    "generalized_iou",
    "heatmap_focal_loss",
    "load",
    "load_backbone",
    "load_detector",
    "save_detector",
    "ttf_targets",
    "weighted_giou_loss",
]


def __getattr__(name: str) -> Any:
    if name == "backbones":
        return import_module("ttfnet.model.backbones")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ttfnet.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
