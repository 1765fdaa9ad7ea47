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

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".checkpoint": ["ModelInfo", "convert_checkpoint", "load_backbone", "load_detector", "save_detector"],
        ".data": ["CocoDataset"],
        ".decoding": ["Detections", "decode"],
        ".evaluation": ["coco_evaluate"],
        ".losses": ["generalized_iou", "heatmap_focal_loss", "weighted_giou_loss"],
        ".model": [
            "CenterNet",
            "DeformConv2dPack",
            "LossOptions",
            "TTFHead",
            "TTFNeck",
            "TTFNet",
            "TTFOutput",
            "backbones",
        ],
        ".predict": ["Predictor", "load"],
        ".targets": ["TargetOptions", "Targets", "ttf_targets"],
    },
)
