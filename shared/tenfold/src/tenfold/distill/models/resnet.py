"""CIFAR ResNets: resnet8 ... resnet110 and the four times wider x4 ones; He et al. 2016.

The shortcut is a strided 1x1 convolution with normalisation wherever shapes change, as in the networks of the
distillation literature (Tian et al. 2020), not the zero-padded one of the original CIFAR networks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, conv, init_like_resnet, mean_pool

__all__ = ["CifarResNet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out)
        self.bn2 = nn.BatchNorm2d(c_out)
        changes = stride != 1 or c_in != c_out
        self.downsample = (
            nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out)) if changes else None
        )

    def preact(self, x: Tensor) -> Tensor:
        """The sum before its rectification."""
        out: Tensor = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return out + (x if self.downsample is None else self.downsample(x))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return torch.relu(self.preact(x))


def run_stage(stage: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output of a stage, and the same before its last rectification."""
    *first, last = stage
    for block in first:
        x = block(x)
    before: Tensor = last.preact(x)  # type: ignore[operator]
    return torch.relu(before), before


class CifarResNet(TappedNet):
    """ResNet of depth 6 n + 2 for small images.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110 ...
        widths: of the stem and the three stages.
        num_classes: classes.

    Raises:
        ValueError: a depth that is not 6 n + 2.

    >>> model = CifarResNet(8, num_classes=10)
    >>> [tuple(tap.shape[1:]) for tap in model.forward_features(torch.zeros(1, 3, 32, 32))[0]]
    [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)]
    """

    def __init__(self, depth: int, widths: Sequence[int] = (16, 16, 32, 64), num_classes: int = 100) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"CifarResNet: depth: got {depth}; expected 6 n + 2, at least 8")
        blocks = (depth - 2) // 6
        self.conv1 = conv(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._stage(widths[0], widths[1], blocks, 1)
        self.layer2 = self._stage(widths[1], widths[2], blocks, 2)
        self.layer3 = self._stage(widths[2], widths[3], blocks, 2)
        self.fc = nn.Linear(widths[3], num_classes)
        self.feature_dim = widths[3]
        init_like_resnet(self)

    @staticmethod
    def _stage(c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(c_in, c_out, stride), *rest)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        taps = [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            x, before = run_stage(stage, x)
            taps.append(before if preact else x)
        pooled = mean_pool(x)
        return [*taps, pooled], self.fc(pooled)
