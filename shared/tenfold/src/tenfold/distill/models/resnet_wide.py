"""ResNet18, 34 and 50 with a stem for small images; He et al. 2016."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, conv, init_like_resnet, mean_pool
from tenfold.distill.models.resnet import run_stage

__all__ = ["ResNet"]


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    if stride == 1 and c_in == c_out:
        return nn.Sequential()
    return nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(c_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, width, stride)

    def preact(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.preact(x))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = 4 * width
        self.conv1 = conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, c_out, 1)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.shortcut = _shortcut(c_in, c_out, stride)

    def preact(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        total: Tensor = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out))))) + self.shortcut(x)
        return total

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.preact(x))


#: Depth -> block and blocks of each stage.
_DEPTHS: dict[int, tuple[type[_Basic] | type[_Bottleneck], Sequence[int]]] = {
    18: (_Basic, (2, 2, 2, 2)),
    34: (_Basic, (3, 4, 6, 3)),
    50: (_Bottleneck, (3, 4, 6, 3)),
}


class ResNet(TappedNet):
    """ResNet18, 34 or 50 whose stem is one 3x3 convolution without pooling.

    Raises:
        ValueError: another depth.

    >>> sum(p.numel() for p in ResNet(18).parameters())
    11220132
    """

    def __init__(self, depth: int, num_classes: int = 100) -> None:
        super().__init__()
        if depth not in _DEPTHS:
            raise ValueError(f"ResNet: depth: got {depth}; expected one of {', '.join(map(str, _DEPTHS))}")
        block, counts = _DEPTHS[depth]
        self.conv1 = conv(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(counts):
            width, stride = 64 << stage, 1 if stage == 0 else 2
            layers = []
            for index in range(count):
                layers.append(block(channels, width, stride if index == 0 else 1))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(channels, num_classes)
        self.feature_dim = channels
        init_like_resnet(self)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        taps = [x]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x, before = run_stage(stage, x)  # type: ignore[arg-type]
            taps.append(before if preact else x)
        pooled = mean_pool(x)
        return [*taps, pooled], self.linear(pooled)
