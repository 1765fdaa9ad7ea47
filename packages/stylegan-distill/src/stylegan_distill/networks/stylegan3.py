"""StyleGAN3: Fourier features, and layers that never alias."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stylegan_distill.config import LayerPlan, StyleGAN3Config
from stylegan_distill.networks.generator import Generator, SynthesisResult, make_mapping, pack
from stylegan_distill.networks.layers import (
    LRELU_GAIN,
    Execution,
    FullyConnected,
    kaiser_filter,
    modulated_conv2d,
    radial_filter,
)
from tenfold.ops import filtered_lrelu

__all__ = ["AliasFreeLayer", "FourierInput", "StyleGAN3Generator", "StyleGAN3Synthesis"]


class FourierInput(nn.Module):
    """Sinusoids that a style code moves and turns, mixed by a matrix.

    Args:
        cfg: configuration of the network.

    The buffer ``transform`` (3, 3) is the inverse of a further transform of the image, in units of its side.
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, cfg: StyleGAN3Config) -> None:
        super().__init__()
        first = cfg.plan[0]
        channels, count = cfg.layer_widths[0], cfg.num_frequencies
        self.size = first.size
        self.rate = first.rate
        self.cutoff = cfg.first_cutoff
        freqs = torch.randn(count, 2)
        radius = freqs.square().sum(dim=1, keepdim=True).sqrt()
        freqs = freqs / (radius * radius.square().exp().pow(0.25)) * self.cutoff
        self.weight = nn.Parameter(torch.randn(channels, count))
        self.affine = FullyConnected(cfg.w_dim, 4, weight_init=0.0, bias_init=(1.0, 0.0, 0.0, 0.0))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(count) - 0.5)

    def _transform(self, w: Tensor) -> Tensor:
        """(B, 2, 3) rotation, translation and the user's transform, in that order of factors."""
        t = self.affine(w)
        t = t / t[:, :2].square().sum(dim=1, keepdim=True).sqrt()
        c, s, x, y = t.unbind(dim=1)
        move_x, move_y = -(c * x - s * y), -(s * x + c * y)
        rows = torch.stack([torch.stack([c, -s, move_x], 1), torch.stack([s, c, move_y], 1)], 1)
        return rows @ self.transform

    def forward(self, w: Tensor) -> Tensor:
        """(B, D) to (B, C, size, size)."""
        m = self._transform(w)
        phases = self.phases[None] + (self.freqs[None] @ m[:, :, 2:]).squeeze(2)
        freqs = self.freqs[None] @ m[:, :, :2]
        length = freqs.square().sum(dim=2).sqrt()
        amplitudes = (1 - (length - self.cutoff) / (self.rate / 2 - self.cutoff)).clamp(0, 1)
        steps = torch.arange(self.size, device=w.device, dtype=w.dtype)
        axis = (steps * 2 + 1 - self.size) * (0.5 / self.rate)
        # The phase of a wave at (y, x) is a sum of one term for each axis.
        along_x = axis[None, None, :] * freqs[:, :, :1] + phases[:, :, None]
        along_y = axis[None, None, :] * freqs[:, :, 1:]
        x = torch.sin((along_y[:, :, :, None] + along_x[:, :, None, :]) * (2 * math.pi))
        x = x * amplitudes[:, :, None, None]
        mix = self.weight / math.sqrt(self.weight.shape[1])
        return torch.einsum("oc,bchw->bohw", mix, x)


class AliasFreeLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU, or the layer that makes the image.

    Args:
        cfg: configuration of the network.
        plan: of this layer.
        in_channels: I.
        out_channels: O.
    """

    up_filter: Tensor | None
    down_filter: Tensor | None
    magnitude_ema: Tensor

    def __init__(self, cfg: StyleGAN3Config, plan: LayerPlan, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.plan = plan
        self.conv_clamp = cfg.conv_clamp
        self.magnitude_ema_beta = cfg.magnitude_ema_beta
        self.execution: Execution = "auto"
        self.affine = FullyConnected(cfg.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, plan.kernel, plan.kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        rate = max(plan.in_rate, plan.rate) * (1 if plan.is_torgb else cfg.lrelu_upsampling)
        self.up, self.down = rate // plan.in_rate, rate // plan.rate
        up_taps = cfg.filter_size * self.up if self.up > 1 and not plan.is_torgb else 1
        down_taps = cfg.filter_size * self.down if self.down > 1 and not plan.is_torgb else 1
        up_filter = kaiser_filter(up_taps, plan.in_cutoff, plan.in_half_width * 2, rate)
        radial = cfg.use_radial_filters and not plan.is_critical
        design = radial_filter if radial else kaiser_filter
        self.register_buffer("up_filter", up_filter)
        self.register_buffer("down_filter", design(down_taps, plan.cutoff, plan.half_width * 2, rate))
        total = (plan.size - 1) * self.down + 1 - (plan.in_size + plan.kernel - 1) * self.up
        total += up_taps + down_taps - 2
        low = (total + self.up) // 2
        self.padding = (low, total - low, low, total - low)

    def forward(self, x: Tensor, w: Tensor, update_emas: bool = False) -> Tensor:
        """(B, I, in_size, in_size) and (B, D) to (B, O, size, size)."""
        if update_emas:
            magnitude = x.detach().to(self.magnitude_ema.dtype).square().mean()
            self.magnitude_ema.copy_(magnitude.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        styles: Tensor = self.affine(w)
        weight: Tensor = self.weight
        if self.plan.is_torgb:
            styles = styles * (1 / math.sqrt(weight.shape[1] * weight.shape[2] ** 2))
        else:
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            styles = styles * styles.square().mean().rsqrt()
        y = modulated_conv2d(
            x,
            weight,
            styles,
            demodulate=not self.plan.is_torgb,
            padding=self.plan.kernel - 1,
            input_gain=self.magnitude_ema.rsqrt(),
            execution=self.execution,
        )
        return filtered_lrelu(
            y,
            self.bias,
            up_filter=self.up_filter,
            down_filter=self.down_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            slope=1.0 if self.plan.is_torgb else 0.2,
            gain=1.0 if self.plan.is_torgb else LRELU_GAIN,
            clamp=self.conv_clamp,
        )


class StyleGAN3Synthesis(nn.Module):
    """Style codes to images.

    Args:
        cfg: its configuration.
    """

    def __init__(self, cfg: StyleGAN3Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.input = FourierInput(cfg)
        widths = (*cfg.layer_widths, cfg.img_channels)
        self.layer_names: list[str] = []
        for plan in cfg.plan:
            name = f"L{plan.index}_{plan.size}_{widths[plan.index + 1]}"
            layer = AliasFreeLayer(cfg, plan, widths[plan.index], widths[plan.index + 1])
            setattr(self, name, layer)
            self.layer_names.append(name)

    @property
    def num_ws(self) -> int:
        """Style codes an image is made of."""
        return self.cfg.num_ws

    def layers(self) -> list[AliasFreeLayer]:
        """L0, L1, ..."""
        return [getattr(self, name) for name in self.layer_names]

    def set_execution(self, execution: Execution) -> None:
        """Choose how modulated convolutions run, see `modulated_conv2d`."""
        for layer in self.layers():
            layer.execution = execution

    def forward(
        self,
        ws: Tensor,
        noise: object = "none",
        return_features: bool = False,
        return_rgbs: bool = False,
        update_emas: bool = False,
    ) -> SynthesisResult:
        """Images (B, 3, R, R) of style codes (B, L, D): entry 0 is the input's, i + 1 layer i's.

        Args:
            ws: (B, L, D).
            noise: accepted for symmetry with StyleGAN2; there is none.
            return_features: also the output of the last layer of every group of one sampling rate, from the coarsest
                on, rates below the resolution's.
            return_rgbs: also the list of the image alone: there are no intermediate ones.
            update_emas: move the running input magnitudes towards this batch's.

        Returns:
            The image, or (image, features), (image, rgbs) or (image, features, rgbs).

        Raises:
            ValueError: codes of the wrong shape.
        """
        if ws.dim() != 3 or ws.shape[1] != self.num_ws or ws.shape[2] != self.cfg.w_dim:
            expected = f"(B, {self.num_ws}, {self.cfg.w_dim})"
            raise ValueError(f"synthesis: ws: got shape {tuple(ws.shape)}; expected {expected}")
        codes = list(ws.unbind(dim=1))
        wanted = {group[-1] for group in self.cfg.groups}
        features: list[Tensor] = []
        x = self.input(codes[0])
        for layer, w in zip(self.layers(), codes[1:], strict=True):
            x = layer(x, w, update_emas)
            if layer.plan.index in wanted:
                features.append(x)
        image = x * self.cfg.output_scale
        return pack(image, features, [image], return_features, return_rgbs)


class StyleGAN3Generator(Generator):
    """A StyleGAN3 generator, randomly initialised.

    Args:
        cfg: its configuration.

    Example:
        >>> small = StyleGAN3Config(
        ...     32, z_dim=8, w_dim=8, num_layers=6, margin_size=4, channel_base=128, channel_max=8
        ... )
        >>> StyleGAN3Generator(small)(torch.randn(2, 8)).shape
        torch.Size([2, 3, 32, 32])
    """

    cfg: StyleGAN3Config

    def __init__(self, cfg: StyleGAN3Config) -> None:
        super().__init__(cfg, make_mapping(cfg), StyleGAN3Synthesis(cfg))
