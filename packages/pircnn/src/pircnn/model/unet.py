"""The segmentation network of the image branch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["IMAGE_MEAN", "IMAGE_STD", "SegUNet", "image_tensor"]

#: Of RGB images in [0, 1] (ImageNet).
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_tensor(image: Tensor) -> Tensor:
    """A picture (H, W, 3) uint8 RGB as the networks take it: (3, H, W) float32, normalised.

    Example:
        >>> image_tensor(torch.zeros(4, 6, 3, dtype=torch.uint8))[0, 0, 0].item()  # doctest: +ELLIPSIS
        -2.117...
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        raise ValueError(
            f"image_tensor: image: got {tuple(image.shape)} {image.dtype}; expected (H, W, 3) uint8"
        )
    scaled = image.permute(2, 0, 1).float() / 255
    mean, std = (scaled.new_tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return (scaled - mean) / std


class _DoubleConv(nn.Sequential):
    def __init__(self, c_in: int, c_out: int) -> None:
        layers: list[nn.Module] = []
        for c in (c_in, c_out):
            layers += [nn.Conv2d(c, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class SegUNet(nn.Module):
    """U-Net with bilinear upsampling; any image size of at least 16 pixels a side.

    Source: the official code's `pcdet/models/backbones_2d/unet.py`: four poolings, the deepest level as wide as the
    one before; 13,395,914 parameters with ten classes.

    Args:
        in_channels: of the image.
        num_classes: Cs.
        widths: of the levels, finest first; the last serves twice.

    Example:
        >>> net = SegUNet()
        >>> sum(p.numel() for p in net.parameters())
        13395914
        >>> SegUNet(num_classes=3, widths=(4, 8, 8, 8))(torch.zeros(1, 3, 37, 50)).shape
        torch.Size([1, 3, 37, 50])
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 10, widths: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(*widths, num_classes, in_channels) < 1:
            raise ValueError(f"SegUNet: widths, num_classes: got {tuple(widths)}, {num_classes}")
        down = [*widths, widths[-1]]
        self.num_classes = num_classes
        self.first = _DoubleConv(in_channels, down[0])
        self.down = nn.ModuleList(_DoubleConv(a, b) for a, b in pairwise(down))
        self.up = nn.ModuleList()
        for level in range(len(widths) - 1, -1, -1):
            self.up.append(_DoubleConv(2 * widths[level], widths[max(level - 1, 0)]))
        self.out = nn.Conv2d(widths[0], num_classes, 1)
        self.width = widths[0]

    def features(self, images: Tensor) -> Tensor:
        """The map before the last layer, (B, widths[0], H, W), of images (B, C, H, W)."""
        least = 2 ** len(self.down)
        if images.ndim != 4 or min(images.shape[-2:]) < least:
            raise ValueError(
                f"SegUNet: images: got {tuple(images.shape)}; expected (B, C, H, W) of at least {least} pixels a side"
            )
        levels = [self.first(images)]
        for block in self.down:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for block in self.up:
            skip = levels.pop()
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            dy, dx = (skip.shape[k] - x.shape[k] for k in (2, 3))
            x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
            x = block(torch.cat((skip, x), 1))
        result: Tensor = x
        return result

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, Cs, H, W) of normalised images (B, C, H, W)."""
        logits: Tensor = self.out(self.features(images))
        return logits
