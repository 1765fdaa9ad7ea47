"""Wide residual networks for small images; Zagoruyko & Komodakis 2016."""

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, conv, init_like_vgg, mean_pool

__all__ = ["WideResNet"]


class PreactBlock(nn.Module):
    """Normalise, rectify, convolve, twice; where widths differ a bare 1x1 shortcut of the rectified input."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv(c_in, c_out, 3, stride)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out)
        self.convShortcut = conv(c_in, c_out, 1, stride) if c_in != c_out else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and the normalised input on the way (the tap before its rectification)."""
        normed = self.bn1(x)
        active = torch.relu(normed)
        out = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active)), normed


class Group(nn.Module):
    """Blocks of one width."""

    def __init__(self, blocks: int, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        rest = [PreactBlock(c_out, c_out, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(PreactBlock(c_in, c_out, stride), *rest)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The group's output, and its normalised input."""
        normed = x
        for index, block in enumerate(self.layer):
            x, first = block(x)
            normed = first if index == 0 else normed
        return x, normed


class WideResNet(TappedNet):
    """WRN of depth 6 n + 4 and a width factor.

    The maps f1 ... f3 are raw sums, not rectified; with ``preact`` they are what the next normalisation made
    of them in this very pass (calling that layer again would update its statistics twice).

    Raises:
        ValueError: a depth that is not 6 n + 4.

    >>> sum(p.numel() for p in WideResNet(16, 2).parameters())
    703284
    """

    def __init__(self, depth: int, width: int, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"WideResNet: depth: got {depth}; expected 6 n + 4, at least 10")
        blocks = (depth - 4) // 6
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = conv(3, 16)
        self.block1 = Group(blocks, widths[0], widths[1], 1)
        self.block2 = Group(blocks, widths[1], widths[2], 2)
        self.block3 = Group(blocks, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        self.feature_dim = widths[3]
        init_like_vgg(self, linear_std=None)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        f0 = self.conv1(x)
        f1, _ = self.block1(f0)
        f2, f1_normed = self.block2(f1)
        f3, f2_normed = self.block3(f2)
        f3_normed = self.bn1(f3)
        pooled = mean_pool(torch.relu(f3_normed))
        maps = [f1_normed, f2_normed, f3_normed] if preact else [f1, f2, f3]
        return [f0, *maps, pooled], self.fc(pooled)
