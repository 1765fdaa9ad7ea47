"""Networks."""

from torch import nn

from ttfnet.model.backbones import (
    BACKBONES,
    Backbone,
    DarkNet53,
    MobileNetV3,
    ResNet,
    ResNetVD,
    SmallResNet,
    build_backbone,
)
from ttfnet.model.centernet import CenterNet, CenterNetOutput
from ttfnet.model.deform import DeformConv2dPack, deform_conv2d_decomposed
from ttfnet.model.detector import Detector, LossOptions
from ttfnet.model.heads import TTFHead
from ttfnet.model.lite import LiteConv, LiteNeck
from ttfnet.model.neck import CenterNetNeck, TTFNeck
from ttfnet.model.ttfnet import TTFNet, TTFOutput

__all__ = [
    "BACKBONES",
    "Backbone",
    "CenterNet",
    "CenterNetNeck",
    "CenterNetOutput",
    "DarkNet53",
    "DeformConv2dPack",
    "Detector",
    "LiteConv",
    "LiteNeck",
    "LossOptions",
    "MobileNetV3",
    "ResNet",
    "ResNetVD",
    "SmallResNet",
    "TTFHead",
    "TTFNeck",
    "TTFNet",
    "TTFOutput",
    "build_backbone",
    "build_detector",
    "deform_conv2d_decomposed",
    "use_standard_operators",
]


def use_standard_operators(model: nn.Module, on: bool = True) -> None:
    """Whether deformable convolutions compute with standard operators, or (as at first) with torchvision's.

    On a CPU the former are twice as fast, in training several times; `ttfnet fit` and `ttfnet.load` choose them
    there. The results are equal to within rounding.

    Example:
        >>> use_standard_operators(TTFNet("small", 2))
    """
    for module in model.modules():
        if isinstance(module, DeformConv2dPack):
            module.decomposed = on


def build_detector(method: str, **settings: object) -> Detector:
    """``"ttfnet"`` or ``"centernet"`` with its constructor's arguments.

    Raises:
        ValueError: an unknown method.

    Example:
        >>> build_detector("centernet", backbone="small", num_classes=2).num_classes
        2
    """
    methods: dict[str, type[Detector]] = {"ttfnet": TTFNet, "centernet": CenterNet}
    if method not in methods:
        raise ValueError(f"method: got {method!r}; expected one of {', '.join(methods)}")
    return methods[method](**settings)  # type: ignore[arg-type]
