"""StyleGAN2: a learnt constant, modulated convolutions with noise, images summed over the resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylegan_distill.config import StyleGAN2Config
from stylegan_distill.networks.generator import Generator, SynthesisResult, make_mapping, pack
from stylegan_distill.networks.layers import Execution, FullyConnected, modulated_conv2d, resample_filter
from tenfold.ops import bias_act, upfirdn2d

__all__ = ["Noise", "StyleGAN2Generator", "StyleGAN2Synthesis", "StyledConv", "ToRGB"]

#: "random", "const", "none", or one map for each convolution: (B, 1, r, r), (r, r) or None.
Noise = str | Sequence[Tensor | None]


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU.

    Args:
        in_channels: I.
        out_channels: O.
        w_dim: length of a style code.
        resolution: side of the output, pixels.
        kernel: side of the filters.
        up: 1 or 2.
        conv_clamp: bound of the output; None for none.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        kernel: int = 3,
        up: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.conv_clamp = conv_clamp
        self.execution: Execution = "auto"
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", resample_filter())
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """(B, I, r, r) and (B, D) to (B, O, r up, r up); noise (B, 1, r up, r up) or (r up, r up)."""
        y = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            up=self.up,
            padding=self.weight.shape[2] // 2,
            up_filter=self.resample_filter,
            execution=self.execution,
        )
        if noise is not None:
            noise = noise.reshape(-1, 1, *y.shape[2:]) * self.noise_strength
        return bias_act(y, self.bias, noise=noise, clamp=self.conv_clamp)


class ToRGB(nn.Module):
    """1x1 modulated convolution without demodulation: styles times 1 / sqrt(I), bias, no activation."""

    def __init__(
        self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.execution: Execution = "auto"
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, I, r, r) and (B, D) to (B, 3, r, r)."""
        styles = self.affine(w) * (1 / math.sqrt(self.weight.shape[1]))
        y = modulated_conv2d(x, self.weight, styles, demodulate=False, execution=self.execution)
        return bias_act(y, self.bias, slope=1.0, gain=1.0, clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution: conv0 (from 8 pixels on, twice the side), conv1, toRGB."""

    resample_filter: Tensor

    def __init__(self, cfg: StyleGAN2Config, index: int) -> None:
        super().__init__()
        side = cfg.block_resolutions[index]
        widths = cfg.layer_widths
        middle, last = widths[2 * index : 2 * index + 2]
        self.is_first = index == 0
        self.register_buffer("resample_filter", resample_filter())
        if self.is_first:
            self.const = nn.Parameter(torch.randn(middle, side, side))
        else:
            self.conv0 = StyledConv(
                widths[2 * index - 1], middle, cfg.w_dim, side, up=2, conv_clamp=cfg.conv_clamp
            )
        kernel = 3 if self.is_first else cfg.second_conv_kernel
        self.conv1 = StyledConv(middle, last, cfg.w_dim, side, kernel=kernel, conv_clamp=cfg.conv_clamp)
        self.torgb = ToRGB(last, cfg.img_channels, cfg.w_dim, cfg.conv_clamp)

    def convolutions(self) -> list[StyledConv]:
        """conv0 (but for the first block), conv1."""
        return [self.conv1] if self.is_first else [self.conv0, self.conv1]

    def forward(
        self, x: Tensor | None, rgb: Tensor | None, ws: list[Tensor], noise: list[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Features and image of the previous block to those of this one."""
        if self.is_first:
            x = self.const[None].expand(ws[0].shape[0], -1, -1, -1)
        assert x is not None
        for conv, w, n in zip(self.convolutions(), ws, noise, strict=False):
            x = conv(x, w, n)
        y = self.torgb(x, ws[-1])
        if rgb is not None:
            y = y + upfirdn2d(rgb, self.resample_filter, up=2, padding=(2, 1, 2, 1), gain=4.0)
        return x, y


class StyleGAN2Synthesis(nn.Module):
    """Style codes to images.

    Args:
        cfg: its configuration.
    """

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__()
        self.cfg = cfg
        for index, side in enumerate(cfg.block_resolutions):
            setattr(self, f"b{side}", SynthesisBlock(cfg, index))

    @property
    def num_ws(self) -> int:
        """Style codes an image is made of."""
        return self.cfg.num_ws

    def blocks(self) -> list[SynthesisBlock]:
        """b4, b8, ..."""
        return [getattr(self, f"b{side}") for side in self.cfg.block_resolutions]

    def convolutions(self) -> list[StyledConv]:
        """b4.conv1, b8.conv0, b8.conv1, ..."""
        return [conv for block in self.blocks() for conv in block.convolutions()]

    def set_execution(self, execution: Execution) -> None:
        """Choose how modulated convolutions run, see `modulated_conv2d`."""
        for module in self.modules():
            if isinstance(module, StyledConv | ToRGB):
                module.execution = execution

    def make_noise(self, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """One N(0, 1) map (B, 1, r, r) for each convolution, to be given to several networks.

        Example:
            >>> net = StyleGAN2Synthesis(StyleGAN2Config(8, widths=(4, 4)))
            >>> [tuple(n.shape) for n in net.make_noise(2)]
            [(2, 1, 4, 4), (2, 1, 8, 8), (2, 1, 8, 8)]
        """
        maps = []
        for conv in self.convolutions():
            shape, like = (batch, 1, conv.resolution, conv.resolution), conv.weight
            maps.append(torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device))
        return maps

    def _noise(self, noise: Noise, batch: int) -> list[Tensor | None]:
        convs = self.convolutions()
        if isinstance(noise, str):
            if noise == "random":
                return list(self.make_noise(batch))
            if noise == "const":
                return [conv.noise_const for conv in convs]
            if noise == "none":
                return [None] * len(convs)
            raise ValueError(f"noise: got {noise!r}; expected random, const, none or a list of tensors")
        if len(noise) != len(convs):
            raise ValueError(f"noise: got {len(noise)} maps; expected {len(convs)}, one a convolution")
        return list(noise)

    def forward(
        self,
        ws: Tensor,
        noise: Noise = "random",
        return_features: bool = False,
        return_rgbs: bool = False,
        update_emas: bool = False,
    ) -> SynthesisResult:
        """Images (B, 3, R, R) of style codes (B, L, D).

        Entry 0 is b4.conv1's and 1 its toRGB's; block j = 1, 2, ... reads 2j - 1 (conv0), 2j (conv1) and 2j + 1
        (toRGB), so that toRGB shares its code with the next block's conv0.

        Args:
            ws: (B, L, D).
            noise: "random" (fresh for each image), "const" (stored maps), "none", or one map for each
                convolution as `make_noise` returns them.
            return_features: also the outputs of conv1 of b8, b16, ...
            return_rgbs: also the image so far behind every block, from 4 pixels on.
            update_emas: accepted for symmetry with StyleGAN3; there is nothing to update.

        Returns:
            The image, or (image, features), (image, rgbs) or (image, features, rgbs).

        Raises:
            ValueError: codes or noise of the wrong shape or number.
        """
        if ws.dim() != 3 or ws.shape[1] != self.num_ws or ws.shape[2] != self.cfg.w_dim:
            expected = f"(B, {self.num_ws}, {self.cfg.w_dim})"
            raise ValueError(f"synthesis: ws: got shape {tuple(ws.shape)}; expected {expected}")
        maps = self._noise(noise, ws.shape[0])
        codes = list(ws.unbind(dim=1))
        x: Tensor | None = None
        rgb: Tensor | None = None
        features: list[Tensor] = []
        rgbs: list[Tensor] = []
        for j, block in enumerate(self.blocks()):
            first = max(2 * j - 1, 0)
            x, rgb = block(x, rgb, codes[first : 2 * j + 2], maps[first : 2 * j + 1])
            rgbs.append(rgb)
            if j > 0:
                features.append(x)
        assert rgb is not None
        return pack(rgb, features, rgbs, return_features, return_rgbs)


class StyleGAN2Generator(Generator):
    """A StyleGAN2 generator, randomly initialised.

    Args:
        cfg: its configuration.

    Example:
        >>> net = StyleGAN2Generator(StyleGAN2Config(16, z_dim=8, w_dim=8, widths=(8, 8, 4)))
        >>> net(torch.randn(2, 8)).shape, net.num_ws, net.widths
        (torch.Size([2, 3, 16, 16]), 6, (8, 8, 8, 8, 4, 4))
    """

    cfg: StyleGAN2Config

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__(cfg, make_mapping(cfg), StyleGAN2Synthesis(cfg))
