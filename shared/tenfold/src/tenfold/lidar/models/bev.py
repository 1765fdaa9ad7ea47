"""The 2D backbone on the bird's-eye map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.lidar.models.voxel_backbone import NORM_EPS, NORM_MOMENTUM


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM), nn.ReLU()


def _block(c_in: int, c_out: int, layers: int, stride: int) -> nn.Sequential:
    parts = [nn.ZeroPad2d(1), nn.Conv2d(c_in, c_out, 3, stride=stride, bias=False), *_norm_relu(c_out)]
    for _ in range(layers):
        parts += [nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), *_norm_relu(c_out)]
    return nn.Sequential(*parts)


def _resize(c_in: int, c_out: int, up: float) -> nn.Module:
    if up >= 1:
        return nn.ConvTranspose2d(c_in, c_out, int(up), stride=int(up), bias=False)
    down = round(1 / up)
    return nn.Conv2d(c_in, c_out, down, stride=down, bias=False)


class BEVBackbone(nn.Module):
    """Blocks of 3x3 convolutions whose outputs are brought to one resolution and concatenated.

    Args:
        in_channels: of the bird's-eye map.
        layers: convolutions of each block after its first.
        strides: of each block's first convolution.
        channels: of each block.
        up_strides: of the transposed convolution (kernel = stride) behind each block; below 1, such as 0.5,
            a convolution that goes down instead.
        up_channels: of the same.

    Raises:
        ValueError: lists of different lengths, or strides that do not lead to one resolution.

    Example:
        >>> sum(p.numel() for p in BEVBackbone(256).parameters())
        4576768
    """

    def __init__(
        self,
        in_channels: int,
        layers: tuple[int, ...] = (5, 5),
        strides: tuple[int, ...] = (1, 2),
        channels: tuple[int, ...] = (128, 256),
        up_strides: tuple[float, ...] = (1, 2),
        up_channels: tuple[int, ...] = (256, 256),
    ) -> None:
        super().__init__()
        self.stride = bev_stride(layers, strides, channels, up_strides, up_channels)
        widths = (in_channels, *channels[:-1])
        self.blocks = nn.ModuleList(map(_block, widths, channels, layers, strides))
        self.deblocks = nn.ModuleList(
            nn.Sequential(_resize(c_in, c_out, s), *_norm_relu(c_out))
            for c_in, c_out, s in zip(channels, up_channels, up_strides, strict=True)
        )
        self.out_channels = sum(up_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        ups = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            ups.append(deblock(x))
        return torch.cat(ups, 1)


def bev_stride(layers: tuple[int, ...], strides: tuple[int, ...], *rest: tuple[float, ...]) -> int:
    """Stride of the concatenated map; checks that the lists agree (arguments as `BEVBackbone`)."""
    lengths = {len(layers), len(strides), *map(len, rest)}
    if lengths == {0} or len(lengths) != 1:
        raise ValueError(
            "BEVBackbone: layers, strides, channels, up_strides, up_channels: got lists of lengths "
            f"{[len(item) for item in (layers, strides, *rest)]}; expected one length, 1 or more"
        )
    reached, results = 1, set()
    for step, up in zip(strides, rest[1], strict=True):
        if up <= 0 or not (float(up).is_integer() or (1 / up).is_integer()):
            raise ValueError(f"BEVBackbone: up_strides: got {up}; expected a whole number, or 1 / one")
        reached *= step
        results.add(reached / up)
    if len(results) != 1 or not (value := results.pop()).is_integer():
        raise ValueError(
            f"BEVBackbone: strides, up_strides: got {strides}, {rest[1]}; "
            "expected all blocks to end at one whole stride"
        )
    return int(value)
