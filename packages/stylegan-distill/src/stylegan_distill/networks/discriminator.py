"""The residual discriminator of StyleGAN2 and StyleGAN3."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan_distill.config import DiscriminatorConfig
from stylegan_distill.networks.layers import LRELU_GAIN, FullyConnected, resample_filter
from stylegan_distill.networks.mapping import Mapping
from tenfold.ops import bias_act, upfirdn2d

__all__ = ["StyleGANDiscriminator", "minibatch_stddev"]


class EqualConv(nn.Module):
    """Convolution with equalised learning rate, FIR filter and stride, bias and leaky ReLU.

    Args:
        in_channels: I.
        out_channels: O.
        kernel: side of the filters.
        down: 1 or 2.
        activate: bias and leaky ReLU; without, neither.
        conv_clamp: bound of the output before ``gain``; None for none.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        down: int = 1,
        activate: bool = True,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.down = down
        self.conv_clamp = conv_clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if activate else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)
        self.register_buffer("resample_filter", resample_filter())

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, I, r, r) to gain times (B, O, r / down, r / down)."""
        weight, kernel = self.weight * self.weight_gain, self.weight.shape[2]
        if self.down == 1:
            x = F.conv2d(x, weight, padding=kernel // 2)
        else:
            # The filter's own margin plus the convolution's: (2, 2) before 3x3, (1, 1) before 1x1.
            margin = self.resample_filter.shape[0] // 2 - 1 + kernel // 2
            if kernel == 1:  # only every second pixel is read: filter those alone
                x = upfirdn2d(x, self.resample_filter, down=2, padding=margin)
                x = F.conv2d(x, weight)
            else:
                x = F.conv2d(upfirdn2d(x, self.resample_filter, padding=margin), weight, stride=2)
        if self.bias is None:
            return x * gain if gain != 1.0 else x
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias, gain=LRELU_GAIN * gain, clamp=clamp)


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip, half the side; the first block reads the image."""

    resample_filter: Tensor

    def __init__(self, cfg: DiscriminatorConfig, side: int) -> None:
        super().__init__()
        width, out = cfg.block_widths[side], cfg.block_widths[side // 2]
        clamp = cfg.conv_clamp
        self.register_buffer("resample_filter", resample_filter())
        self.reads_image = side == cfg.resolution
        if self.reads_image:
            self.fromrgb = EqualConv(cfg.img_channels, width, 1, conv_clamp=clamp)
        self.conv0 = EqualConv(width, width, 3, conv_clamp=clamp)
        self.conv1 = EqualConv(width, out, 3, down=2, conv_clamp=clamp)
        self.skip = EqualConv(width, out, 1, down=2, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, r, r), or the image, to (B, O, r / 2, r / 2)."""
        if self.reads_image:
            x = self.fromrgb(x)
        y: Tensor = self.skip(x, gain=math.sqrt(0.5))
        z: Tensor = self.conv1(self.conv0(x), gain=math.sqrt(0.5))
        return y + z


def minibatch_stddev(x: Tensor, group: int | None = 4, channels: int = 1) -> Tensor:
    """Spread over the images of a group as further channels: (B, C, H, W) to (B, C + channels, H, W).

    Image b belongs to group b mod (B / G); the standard deviation is that of the population (+1e-8 under the root),
    averaged over channels and pixels.

    Args:
        x: (B, C, H, W).
        group: G images a group; None or more than B: all.
        channels: statistics, each of C / channels input channels.

    Raises:
        ValueError: a batch that groups do not divide.

    Example:
        >>> minibatch_stddev(torch.zeros(4, 2, 4, 4)).shape
        torch.Size([4, 3, 4, 4])
    """
    b, c, h, w = x.shape
    g = b if group is None else min(group, b)
    if b % g != 0:
        raise ValueError(f"minibatch_stddev: x: got a batch of {b}; expected a multiple of the group, {g}")
    y = x.reshape(g, b // g, channels, c // channels, h, w)
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))
    y = y.reshape(-1, channels, 1, 1).repeat(g, 1, h, w)
    return torch.cat([x, y], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The last block, at 4x4: spread over the batch, a convolution, two linear layers."""

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        width = cfg.block_widths[4]
        self.group, self.channels = cfg.mbstd_group, cfg.mbstd_channels
        self.reads_image = cfg.resolution == 4
        if self.reads_image:
            self.fromrgb = EqualConv(cfg.img_channels, width, 1, conv_clamp=cfg.conv_clamp)
        self.conv = EqualConv(width + self.channels, width, 3, conv_clamp=cfg.conv_clamp)
        self.fc = FullyConnected(width * 16, width, lrelu=True)
        self.out = FullyConnected(width, 1 if cfg.c_dim == 0 else width)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """(B, C, 4, 4) and the mapped label (B, C) to logits (B, 1)."""
        if self.reads_image:
            x = self.fromrgb(x)
        if self.channels > 0:
            x = minibatch_stddev(x, self.group, self.channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if label is None:
            return x
        return (x * label).sum(dim=1, keepdim=True) * (1 / math.sqrt(label.shape[1]))


class StyleGANDiscriminator(nn.Module):
    """Images to logits, large for real ones; randomly initialised.

    Args:
        cfg: its configuration.

    Example:
        >>> net = StyleGANDiscriminator(DiscriminatorConfig(16, widths=(8, 8, 4)))
        >>> net(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 1])
    """

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self._sides = [side for side in reversed(cfg.block_widths) if side > 4]
        for side in self._sides:
            setattr(self, f"b{side}", DiscriminatorBlock(cfg, side))
        if cfg.c_dim > 0:
            widths = (cfg.block_widths[4],) * cfg.mapping_layers
            self.mapping = Mapping(0, cfg.c_dim, widths, w_avg_beta=None)
        self.b4 = DiscriminatorEpilogue(cfg)

    def blocks(self) -> list[DiscriminatorBlock]:
        """From the image's resolution down to 8."""
        return [getattr(self, f"b{side}") for side in self._sides]

    def forward(self, image: Tensor, c: Tensor | None = None, return_features: bool = False) -> Any:
        """Logits (B, 1) of images (B, 3, R, R) and labels (B, c_dim).

        Args:
            image: (B, 3, R, R).
            c: labels of a conditional network.
            return_features: also the output of every block.

        Returns:
            (B, 1), or (logits, features).

        Raises:
            ValueError: images or labels of the wrong shape.
        """
        side = self.cfg.resolution
        if image.dim() != 4 or image.shape[1:] != (self.cfg.img_channels, side, side):
            expected = f"(B, {self.cfg.img_channels}, {side}, {side})"
            raise ValueError(f"discriminator: image: got shape {tuple(image.shape)}; expected {expected}")
        x, features = image, []
        for block in self.blocks():
            x = block(x)
            features.append(x)
        label = self.mapping(None, c) if self.cfg.c_dim > 0 else None
        logits = self.b4(x, label)
        return (logits, features) if return_features else logits
