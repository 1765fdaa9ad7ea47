"""DLA-34 (Yu et al., CVPR 2018) and CenterNet's deformable up-sampling on it (Zhou et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import conv3x3

from ttfnet.model.deform import DeformConv2dPack

__all__ = ["DLA34", "DLAUp", "bilinear_upsampler"]


class _Block(nn.Module):
    """Two 3x3 convolutions; what is added may come from outside."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(x)) + residual)
        return out


class _Root(nn.Module):
    """Aggregates several maps by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(torch.cat(maps, 1))))
        return out


class _Tree(nn.Module):
    """Hierarchical aggregation: two subtrees, their outputs and those of the ancestors joined at the root.

    A projection of the input exists only in the leaves, which use it; the usual implementation also creates
    unused ones in the inner nodes, which distributed training rejects.
    """

    def __init__(
        self, levels: int, inputs: int, outputs: int, stride: int, joined: int, level_root: bool
    ) -> None:
        super().__init__()
        self.levels, self.level_root = levels, level_root
        joined += inputs if level_root else 0
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        if levels > 1:
            self.tree1: nn.Module = _Tree(levels - 1, inputs, outputs, stride, 2 * outputs, False)
            self.tree2: nn.Module = _Tree(levels - 1, outputs, outputs, 1, joined + outputs, False)
            return
        self.tree1 = _Block(inputs, outputs, stride)
        self.tree2 = _Block(outputs, outputs, 1)
        self.root = _Root(joined, outputs)
        self.project: nn.Module = nn.Identity()
        if inputs != outputs:
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, children: list[Tensor] | None = None) -> Tensor:
        children = list(children or [])
        bottom = self.downsample(x)
        if self.level_root:
            children.append(bottom)
        if self.levels > 1:
            first = self.tree1(x)
            deep: Tensor = self.tree2(first, [*children, first])
            return deep
        first = self.tree1(x, self.project(bottom))
        out: Tensor = self.root([self.tree2(first, first), first, *children])
        return out


class DLA34(nn.Module):
    """Deep layer aggregation, 34 layers, without its classifier; returns C2 to C5.

    Example:
        >>> [m.shape[1] for m in DLA34()(torch.zeros(1, 3, 64, 64))]
        [64, 128, 256, 512]
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128, 256, 512)
        self.base = self._unit(3, widths[0], 7, 1)
        self.level0 = self._unit(widths[0], widths[0], 3, 1)
        self.level1 = self._unit(widths[0], widths[1], 3, 2)
        for level, (depth, root) in enumerate(((1, False), (2, True), (2, True), (1, True)), start=2):
            width = widths[level]
            self.add_module(f"level{level}", _Tree(depth, widths[level - 1], width, 2, 2 * width, root))
        self.channels: tuple[int, ...] = widths[2:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _unit(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)``; H and W multiples of 32."""
        x = self.level1(self.level0(self.base(x)))
        maps = []
        for level in range(2, 6):
            x = getattr(self, f"level{level}")(x)
            maps.append(x)
        return maps


def bilinear_upsampler(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Grouped transposed convolution that starts as bilinear up-sampling.

    Example:
        >>> up = bilinear_upsampler(1, 2)
        >>> up(torch.ones(1, 1, 3, 3))[0, 0, 1:-1, 1:-1].unique()
        tensor([1.], grad_fn=<Unique2Backward0>)
    """
    up = nn.ConvTranspose2d(channels, channels, 2 * factor, factor, factor // 2, groups=channels, bias=False)
    place = torch.arange(2 * factor, dtype=torch.float32)
    line = 1 - (place / factor - (2 * factor - 1) / (2 * factor)).abs()
    with torch.no_grad():
        up.weight.copy_((line[:, None] * line).expand_as(up.weight))
    return up


def _deform_unit(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(DeformConv2dPack(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Merge(nn.Module):
    """Brings finer and finer maps of one aggregation step to the first map's width and size."""

    def __init__(self, width: int, channels: list[int], factors: list[int]) -> None:
        super().__init__()
        self.project = nn.ModuleList(_deform_unit(c, width) for c in channels[1:])
        self.up = nn.ModuleList(bilinear_upsampler(width, f) for f in factors[1:])
        self.node = nn.ModuleList(_deform_unit(width, width) for _ in channels[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        merged = [maps[0]]
        for x, project, up, node in zip(maps[1:], self.project, self.up, self.node, strict=True):
            merged.append(node(up(project(x)) + merged[-1]))
        return merged


class DLAUp(nn.Module):
    """CenterNet's iterative deep aggregation of C2 to C5 into one 64-channel map of stride 4.

    Example:
        >>> maps = [torch.zeros(1, c, 16 // 2**k, 16 // 2**k) for k, c in enumerate((64, 128, 256, 512))]
        >>> DLAUp((64, 128, 256, 512))(maps).shape
        torch.Size([1, 64, 16, 16])
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths, scales = list(channels), [2**k for k in range(len(channels))]
        steps = []
        for j in range(len(channels) - 2, -1, -1):
            factors = [scale // scales[j] for scale in scales[j:]]
            steps.append(_Merge(channels[j], widths[j:], factors))
            widths[j + 1 :] = [channels[j]] * (len(channels) - j - 1)
            scales[j + 1 :] = [scales[j]] * (len(channels) - j - 1)
        self.steps = nn.ModuleList(steps)
        self.final = _Merge(channels[0], list(channels[:-1]), [2**k for k in range(len(channels) - 1)])
        self.out_channels = channels[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """``(B, 64, H/4, W/4)`` of the backbone's four maps."""
        level = list(maps)
        ends = [level[-1]]
        for k, step in enumerate(self.steps):
            start = len(level) - 2 - k
            level[start:] = step(level[start:])
            ends.insert(0, level[-1])
        return self.final(ends[:-1])[-1]  # type: ignore[no-any-return]
