"""MobileNetV2 at half width for small images (Sandler et al. 2018), and MobileNetV1 (Howard et al. 2017)."""

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, conv, init_like_resnet, init_like_vgg, mean_pool

__all__ = ["MobileNetV1", "MobileNetV2"]


def _layer(c_in: int, c_out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [conv(c_in, c_out, size, stride, groups), nn.BatchNorm2d(c_out), nn.ReLU()]


class _InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = c_in * expansion
        self.keeps = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            *_layer(c_in, middle, 1),
            *_layer(middle, middle, 3, stride, middle),
            conv(middle, c_out, 1),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.keeps else out


#: (expansion, channels at half width, blocks, stride) of the seven stages.
_STAGES = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
_TAPPED = (1, 2, 4, 6)


class MobileNetV2(TappedNet):
    """The half-width network of the distillation literature: plain ReLU, 1280 channels before the classifier.

    Weaker than other "MobileNetV2 for CIFAR" variants; compare tables only of the same variant.

    >>> sum(p.numel() for p in MobileNetV2().parameters())
    812836
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_layer(3, 16, 3, 2))
        channels = 16
        self.blocks = nn.ModuleList()
        for expansion, width, count, stride in _STAGES:
            layers = []
            for index in range(count):
                layers.append(_InvertedResidual(channels, width, stride if index == 0 else 1, expansion))
                channels = width
            self.blocks.append(nn.Sequential(*layers))
        self.conv2 = nn.Sequential(*_layer(channels, 1280, 1))
        self.classifier = nn.Linear(1280, num_classes)
        self.feature_dim = 1280
        init_like_vgg(self)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`; its maps are linear, so ``preact`` changes nothing."""
        x = self.conv1(x)
        taps = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPPED:
                taps.append(x)
        pooled = mean_pool(self.conv2(x))
        return [*taps, pooled], self.classifier(pooled)


#: (output channels, stride) of the thirteen depthwise-separable layers.
_SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *(((512, 1),) * 5),
    (1024, 2),
    (1024, 1),
)
_V1_TAPPED = (0, 2, 4, 10, 12)


class MobileNetV1(TappedNet):
    """MobileNetV1 1.0 for 224x224 images, 4,231,976 parameters with 1000 classes.

    >>> sum(p.numel() for p in MobileNetV1(1000).parameters())
    4231976
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_layer(3, 32, 3, 2))
        self.layers = nn.ModuleList()
        channels = 32
        for width, stride in _SEPARABLE:
            depthwise = _layer(channels, channels, 3, stride, channels)
            self.layers.append(nn.Sequential(*depthwise, *_layer(channels, width, 1)))
            channels = width
        self.classifier = nn.Linear(channels, num_classes)
        self.feature_dim = channels
        init_like_resnet(self)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`; taps are the last maps of each size."""
        x = self.stem(x)
        taps = []
        for index, layer in enumerate(self.layers):
            before = layer[:-1](x)  # type: ignore[index]
            x = torch.relu(before)
            if index in _V1_TAPPED:
                taps.append(before if preact else x)
        pooled = mean_pool(x)
        return [*taps, pooled], self.classifier(pooled)
