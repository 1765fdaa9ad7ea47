"""Neck and head layers of PAFNet-Lite: depthwise convolutions for phones (PaddleDetection's TTFNet family)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["LiteConv", "LiteNeck"]


def _unit(inputs: int, outputs: int, kernel: int, act: bool = True) -> list[nn.Module]:
    """Convolution (depthwise if wider than one pixel), BatchNorm, ReLU6."""
    groups = inputs if kernel > 1 else 1
    conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU6(inplace=True)] if act else [])]


class LiteConv(nn.Sequential):
    """In place of a 3x3 convolution: depthwise 5x5, two 1x1, depthwise 5x5, each with BatchNorm and ReLU6.

    Args:
        inputs: channels.
        outputs: channels.
        act: False leaves out the second and the last ReLU6, at the end of a shortcut.

    Example:
        >>> LiteConv(8, 4)(torch.zeros(1, 8, 6, 6)).shape
        torch.Size([1, 4, 6, 6])
    """

    def __init__(self, inputs: int, outputs: int, act: bool = True) -> None:
        super().__init__(
            *_unit(inputs, inputs, 5),
            *_unit(inputs, outputs, 1, act),
            *_unit(outputs, outputs, 1),
            *_unit(outputs, outputs, 5, act),
        )


class _LiteUp(nn.Module):
    """Doubles the size in two ways, by a depthwise transposed convolution and by interpolation, and adds."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, groups=outputs, bias=False)
        nn.init.xavier_uniform_(up.weight)
        self.learnt = nn.Sequential(
            *_unit(inputs, outputs, 1),
            up,
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
            *_unit(outputs, outputs, 1),
        )
        self.smooth = nn.Sequential(
            LiteConv(inputs, outputs), nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.learnt(x) + self.smooth(x)
        return out


class LiteNeck(nn.Module):
    """As `ttfnet.TTFNeck` of depthwise convolutions; shortcuts are joined as channels instead of added.

    Args:
        in_channels: of C2 to C5.
        channels: of each step before its shortcut is joined.
        shortcuts: layers of the shortcuts from C4, C3 and C2, at least one each.

    Raises:
        ValueError: not three widths or shortcuts.

    Example:
        >>> maps = [torch.zeros(1, c, 16 // 2**k, 16 // 2**k) for k, c in enumerate((8, 16, 16, 24))]
        >>> LiteNeck((8, 16, 16, 24))(maps).shape
        torch.Size([1, 48, 16, 16])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] = (96, 48, 24),
        shortcuts: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        if len(channels) != 3 or len(shortcuts) != 3 or min(shortcuts) < 1:
            raise ValueError(
                f"LiteNeck: channels, shortcuts: got {tuple(channels)}, {tuple(shortcuts)}; expected three "
                "widths and three numbers of layers"
            )
        widths = [in_channels[-1], *(2 * c for c in channels[:-1])]
        self.up = nn.ModuleList(_LiteUp(a, b) for a, b in zip(widths, channels, strict=True))
        lateral = reversed(in_channels[:-1])
        self.shortcuts = nn.ModuleList(
            nn.Sequential(*(LiteConv(a if k == 0 else b, b, act=k < n - 1) for k in range(n)))
            for a, b, n in zip(lateral, channels, shortcuts, strict=True)
        )
        self.out_channels = 2 * channels[-1]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """``(B, 2 * channels[-1], H/4, W/4)`` of the backbone's four maps."""
        x = maps[-1]
        for k, (up, shortcut) in enumerate(zip(self.up, self.shortcuts, strict=True)):
            x = torch.cat((up(x), shortcut(maps[2 - k])), 1)
        return x
