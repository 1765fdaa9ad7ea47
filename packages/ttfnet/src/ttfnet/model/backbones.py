"""Backbones that return the maps C2 to C5, strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models import resnet as tv

from ttfnet.model.deform import DeformConv2dPack
from ttfnet.model.dla import DLA34

__all__ = [
    "BACKBONES",
    "Backbone",
    "DarkNet53",
    "MobileNetV3",
    "ResNet",
    "ResNetVD",
    "SmallResNet",
    "build_backbone",
    "darknet53",
    "resnet18",
    "resnet34",
]


class Backbone(nn.Module):
    """What the rest of the package needs of a backbone.

    Attributes:
        channels: of C2, C3, C4 and C5.
        frozen_stages: -1 trains everything, 0 freezes the stem, k also the first k stages.
        normalization: ``"imagenet"`` (mean and deviation of ImageNet) or ``"unit"`` (0 to 1), what pretrained
            weights of this backbone expect.
    """

    channels: tuple[int, ...]
    normalization: str = "imagenet"
    frozen_stages: int = -1

    def stage_modules(self) -> list[list[nn.Module]]:
        """The stem's modules, then those of each stage."""
        raise NotImplementedError

    def freeze(self, stages: int) -> None:
        """Stop training the stem and the first ``stages`` stages; their BatchNorm stays in evaluation mode.

        Raises:
            ValueError: more stages than there are.
        """
        groups = self.stage_modules()
        if not -1 <= stages < len(groups):
            raise ValueError(f"freeze: stages: got {stages}; expected -1 to {len(groups) - 1}")
        self.frozen_stages = stages
        for group in groups[: stages + 1]:
            for module in group:
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for group in self.stage_modules()[: self.frozen_stages + 1]:
            for module in group:
                module.eval()
        return self


class ResNet(Backbone):
    """Torchvision's residual network without its classifier; parameter names are torchvision's.

    Args:
        depth: 18, 34, 50 or 101.

    Example:
        >>> import torch
        >>> [tuple(m.shape) for m in ResNet(18)(torch.zeros(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        block: type[tv.BasicBlock] | type[tv.Bottleneck] = tv.BasicBlock if depth < 50 else tv.Bottleneck
        counts = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
        if depth not in counts:
            raise ValueError(f"ResNet: depth: got {depth}; expected one of {', '.join(map(str, counts))}")
        source = tv.ResNet(block, counts[depth])
        self.conv1, self.bn1, self.relu, self.maxpool = source.conv1, source.bn1, source.relu, source.maxpool
        self.layer1, self.layer2 = source.layer1, source.layer2
        self.layer3, self.layer4 = source.layer3, source.layer4
        self.channels = tuple(block.expansion * width for width in (64, 128, 256, 512))

    def stage_modules(self) -> list[list[nn.Module]]:
        """See `Backbone`."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)``; H and W multiples of 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c2, c3, c4, self.layer4(c4)]


class ResNetVD(ResNet):
    """ResNet-D (He et al., CVPR 2019): three small convolutions first, mean pooling before projections.

    Parameter names are those that timm gives to ``resnet50d``.

    Args:
        depth: 50 or 101.
        deformable: deformable 3x3 convolutions in the last three stages, as PAFNet has them.

    Example:
        >>> import torch
        >>> [tuple(m.shape) for m in ResNetVD()(torch.zeros(1, 3, 64, 64))]
        [(1, 256, 16, 16), (1, 512, 8, 8), (1, 1024, 4, 4), (1, 2048, 2, 2)]
    """

    def __init__(self, depth: int = 50, deformable: bool = False) -> None:
        if depth not in (50, 101):
            raise ValueError(f"ResNetVD: depth: got {depth}; expected 50 or 101")
        super().__init__(depth)
        stem: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            stem += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        # The last BatchNorm and ReLU are the network's own.
        self.conv1 = nn.Sequential(*stem[:-2])  # type: ignore[assignment]
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            first = stage[0]
            conv, norm = first.downsample
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if number else nn.Identity()
            conv.stride = (1, 1)
            first.downsample = nn.Sequential(pool, conv, norm)
            for block in stage if deformable and number else ():
                old = block.conv2
                block.conv2 = DeformConv2dPack(old.in_channels, old.out_channels, old.stride[0], bias=False)


class MobileNetV3(Backbone):
    """Torchvision's MobileNetV3-Large without its classifier; parameter names are torchvision's.

    C2 to C4 are the expansions before each halving of the size (as SSDLite takes them), C5 the last layer.

    Example:
        >>> import torch
        >>> [tuple(m.shape) for m in MobileNetV3()(torch.zeros(1, 3, 64, 64))]
        [(1, 72, 16, 16), (1, 240, 8, 8), (1, 672, 4, 4), (1, 960, 2, 2)]
    """

    channels = (72, 240, 672, 960)
    _HALVING = (4, 7, 13)

    def __init__(self) -> None:
        super().__init__()
        self.features = mobilenet_v3_large(weights=None).features

    def stage_modules(self) -> list[list[nn.Module]]:
        """See `Backbone`."""
        ends = (0, 2, *(k + 1 for k in self._HALVING), len(self.features))
        return [list(self.features[a:b]) for a, b in pairwise(ends)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)``; H and W multiples of 32."""
        maps = []
        for k, layer in enumerate(self.features):
            if k not in self._HALVING:
                x = layer(x)
                continue
            expand, *rest = layer.block
            x = expand(x)
            maps.append(x)
            for part in rest:
                x = part(x)
        return [*maps, x]


class _ConvUnit(nn.Module):
    """Convolution without bias, BatchNorm, LeakyReLU(0.1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class _DarkBlock(nn.Module):
    """1x1 to half the channels, 3x3 back, identity added; no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(_ConvUnit(channels, half, 1), _ConvUnit(half, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class DarkNet53(Backbone):
    """DarkNet-53 (Redmon and Farhadi 2018) without its classifier; names are those of the official TTFNet.

    Example:
        >>> from tenfold.train import count_parameters
        >>> count_parameters(DarkNet53())
        40584928
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    layer5: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256, 512, 1024)
        self.stem = _ConvUnit(3, widths[0], 3)
        for stage, blocks in enumerate((1, 2, 8, 8, 4), start=1):
            units = [
                _ConvUnit(widths[stage - 1], widths[stage], 3, stride=2),
                *(_DarkBlock(widths[stage]) for _ in range(blocks)),
            ]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.channels = widths[2:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stage_modules(self) -> list[list[nn.Module]]:
        """See `Backbone`; stage 1 is the one of stride 2."""
        return [[self.stem], *([getattr(self, f"layer{k}")] for k in range(1, 6))]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)``; H and W multiples of 32."""
        x = self.layer1(self.stem(x))
        c2 = self.layer2(x)
        c3 = self.layer3(c2)
        c4 = self.layer4(c3)
        return [c2, c3, c4, self.layer5(c4)]


class SmallResNet(Backbone):
    """A narrow residual network, one block a stage: for experiments and tests on a CPU.

    Args:
        channels: of the stem (stride 2) and of C2 to C5.
    """

    def __init__(self, channels: Sequence[int] = (12, 16, 24, 32, 48)) -> None:
        super().__init__()
        stem, *stages = channels
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.ModuleList(
            self._block(a, b) for a, b in zip([stem, *stages[:-1]], stages, strict=True)
        )
        self.channels = tuple(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _block(inputs: int, outputs: int) -> tv.BasicBlock:
        shrink = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
        return tv.BasicBlock(inputs, outputs, stride=2, downsample=shrink)

    def stage_modules(self) -> list[list[nn.Module]]:
        """See `Backbone`."""
        return [[self.conv1, self.bn1], *([stage] for stage in self.stages)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)``; H and W multiples of 32."""
        x = self.relu(self.bn1(self.conv1(x)))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _DLA34(DLA34, Backbone):
    """DLA-34 as a backbone."""

    def stage_modules(self) -> list[list[nn.Module]]:
        """See `Backbone`; stage 1 is the one of stride 2."""
        return [[self.base, self.level0], *([getattr(self, f"level{k}")] for k in range(1, 6))]


def resnet18() -> ResNet:
    """ResNet-18 with random weights."""
    return ResNet(18)


def resnet34() -> ResNet:
    """ResNet-34 with random weights."""
    return ResNet(34)


def darknet53() -> DarkNet53:
    """DarkNet-53 with random weights."""
    return DarkNet53()


#: Name -> constructor.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": lambda: ResNet(50),
    "resnet101": lambda: ResNet(101),
    "resnet50vd": ResNetVD,
    "resnet50vd_dcn": lambda: ResNetVD(deformable=True),
    "mobilenetv3": MobileNetV3,
    "darknet53": darknet53,
    "dla34": _DLA34,
    "small": SmallResNet,
}


def build_backbone(name: str) -> Backbone:
    """A backbone by its name, with random weights.

    Raises:
        ValueError: an unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone: got {name!r}; expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]()
