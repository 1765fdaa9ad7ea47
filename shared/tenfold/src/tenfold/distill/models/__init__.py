"""Networks to teach and to learn: the CIFAR zoo of the distillation literature, and ImageNet models.

| room | networks |
|---|---|
| `resnet` | resnet8, 14, 20, 32, 44, 56, 110 and resnet8x4, 14x4, 32x4 |
| `wrn` | wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2 |
| `vgg` | vgg8, 11, 13, 16, 19 |
| `resnet_wide` | ResNet18, 34, 50 for small images |
| `mobilenet` | MobileNetV2 (half width), MobileNetV1 (ImageNet) |
| `shufflenet` | ShuffleV1, ShuffleV2 |
| `plain` | plain3: the student of the small-scale runs |

``torchvision:<name>`` names any classifier of torchvision, ``torchvision:<name>:<weights>`` one with published
weights; torchvision is imported only then.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tenfold._errors import MissingExtraError, UserInputError
from tenfold.distill.models._base import TappedNet, tap_shapes
from tenfold.distill.models.mobilenet import MobileNetV1, MobileNetV2
from tenfold.distill.models.plain import PlainNet
from tenfold.distill.models.resnet import CifarResNet
from tenfold.distill.models.resnet_wide import ResNet
from tenfold.distill.models.shufflenet import ShuffleV1, ShuffleV2
from tenfold.distill.models.vgg import CONVOLUTIONS, VGG
from tenfold.distill.models.wrn import WideResNet
from tenfold.train.cli import nearest

__all__ = ["MODELS", "SLOW_STARTERS", "TappedNet", "create_model", "tap_shapes"]

_WIDE = (32, 64, 128, 256)

#: Name -> function of ``num_classes``.
MODELS: dict[str, Callable[..., TappedNet]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(CifarResNet, depth, _WIDE) for depth in (8, 14, 32)},
    **{f"wrn_{d}_{w}": partial(WideResNet, d, w) for d, w in ((16, 1), (16, 2), (40, 1), (40, 2))},
    **{f"vgg{depth}": partial(VGG, depth) for depth in CONVOLUTIONS},
    **{f"ResNet{depth}": partial(ResNet, depth) for depth in (18, 34, 50)},
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
    "MobileNetV1": MobileNetV1,
    "plain3": PlainNet,
}

#: Students that the published recipes train at learning rate 0.01 instead of 0.05.
SLOW_STARTERS = ("MobileNetV2", "ShuffleV1", "ShuffleV2")


def create_model(name: str, num_classes: int = 100) -> nn.Module:
    """A freshly initialised classifier by name.

    Args:
        name: a key of `MODELS`, ``torchvision:<name>`` or ``torchvision:<name>:<weights>``.
        num_classes: classes.

    Raises:
        UserInputError: an unknown name, or published weights for another number of classes.
        MissingExtraError: torchvision is not installed.

    >>> sum(p.numel() for p in create_model("resnet20").parameters())
    278324
    """
    if num_classes < 1:
        raise UserInputError(f"num_classes: got {num_classes}; expected at least 1")
    if name.startswith("torchvision:"):
        return _from_torchvision(*name.split(":")[1:], num_classes=num_classes)
    if name not in MODELS:
        known = list(MODELS)
        raise UserInputError(
            f"model: got {name!r}{nearest(name, known)}; expected torchvision:<name> or one of {', '.join(known)}"
        )
    return MODELS[name](num_classes=num_classes)


def _from_torchvision(name: str, weights: str | None = None, *, num_classes: int) -> nn.Module:
    try:
        module: Any = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise MissingExtraError("torchvision:... models need: pip install torchvision") from error
    try:
        model: nn.Module = module.get_model(name, weights=weights, num_classes=num_classes)
    except (ValueError, KeyError) as error:
        raise UserInputError(f"model: torchvision:{name}: {error}") from error
    return model
