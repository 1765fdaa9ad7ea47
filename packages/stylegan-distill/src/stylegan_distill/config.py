"""What a network is made of: frozen, comparable, written as JSON beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = [
    "DISCRIMINATOR_PRESETS",
    "GENERATOR_PRESETS",
    "DiscriminatorConfig",
    "GeneratorConfig",
    "LayerPlan",
    "StyleGAN2Config",
    "StyleGAN3Config",
    "config_from_dict",
    "config_to_dict",
    "narrow",
]


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _freeze(config: object, *names: str) -> None:
    """Lists (of JSON or YAML) become tuples, so that configurations compare and hash."""
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, tuple(value))


def _resolutions(resolution: int) -> tuple[int, ...]:
    """4, 8, ... up to the output's side, pixels."""
    return tuple(2**i for i in range(2, int(math.log2(resolution)) + 1))


def _check_resolution(resolution: int) -> None:
    fine = resolution >= 4 and resolution & (resolution - 1) == 0
    _require(fine, f"resolution: got {resolution}; expected a power of two, at least 4")


def narrow(widths: Sequence[int], remove_ratio: float) -> tuple[int, ...]:
    """Channels that stay when a share of each layer is removed: c - int(c rho), at least one.

    Raises:
        ValueError: a ratio outside [0, 1).

    Example:
        >>> narrow((512, 256, 128, 64, 32), 0.7)
        (154, 77, 39, 20, 10)
    """
    _require(0 <= remove_ratio < 1, f"remove_ratio: got {remove_ratio}; expected a number in [0, 1)")
    return tuple(max(1, c - int(c * remove_ratio)) for c in widths)


@dataclass(frozen=True)
class _GeneratorFields:
    """What generators of both families are described by."""

    resolution: int = 256
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    mapping_widths: tuple[int, ...] | None = None
    mapping_lr_multiplier: float = 0.01
    w_avg_beta: float = 0.998
    widths: tuple[int, ...] | None = None
    conv_clamp: float | None = None

    def _check_fields(self) -> None:
        _check_resolution(self.resolution)
        for name in ("z_dim", "w_dim", "img_channels", "channel_base", "channel_max", "mapping_layers"):
            value = getattr(self, name)
            _require(value >= 1, f"{name}: got {value}; expected a number >= 1")
        _require(self.c_dim >= 0, f"c_dim: got {self.c_dim}; expected 0 (unconditional) or more")
        _require(self.mapping_lr_multiplier > 0, "mapping_lr_multiplier: expected a positive number")
        _freeze(self, "mapping_widths", "widths")
        if self.mapping_widths is not None:
            fine = len(self.mapping_widths) == self.mapping_layers and self.mapping_widths[-1] == self.w_dim
            _require(
                fine,
                f"mapping_widths: got {self.mapping_widths}; expected {self.mapping_layers} widths (mapping_layers), "
                f"the last {self.w_dim} (w_dim)",
            )
        if self.widths is not None:
            _require(min(self.widths, default=0) >= 1, f"widths: got {self.widths}; expected numbers >= 1")

    @property
    def mapping_sizes(self) -> tuple[int, ...]:
        """Width of every layer of the mapping network, the last one w_dim."""
        return self.mapping_widths or (self.w_dim,) * self.mapping_layers


@dataclass(frozen=True)
class StyleGAN2Config(_GeneratorFields):
    """A StyleGAN2 generator (Karras et al., 2020), "skip" architecture.

    Args:
        resolution: side of the image, a power of two, pixels.
        z_dim: length of a latent code.
        c_dim: length of a label; 0 for none.
        w_dim: length of a style code.
        img_channels: 3 for RGB.
        channel_base: a block of side r has min(channel_base // r, channel_max) channels. 32768 is the published
            "config F", 16384 NVIDIA's "paper256".
        channel_max: see above.
        mapping_layers: of the mapping network.
        mapping_widths: width of each of them, the last one w_dim; None: all w_dim.
        mapping_lr_multiplier: learning rate of the mapping network relative to the rest.
        w_avg_beta: decay of the running mean of w.
        widths: channels. Either one number for each resolution from 4 on, or one for the constant and one for each
            convolution (b4.conv1, b8.conv0, b8.conv1, ...). None: by ``channel_base``.
        conv_clamp: bound of the activations; None for none.
        second_conv_kernel: 3, or 1 for a lighter second convolution of the blocks from 8 pixels on.

    Raises:
        ValueError: a value out of range, or a list of the wrong length.

    Example:
        >>> StyleGAN2Config(resolution=16, channel_base=256).layer_widths
        (64, 64, 32, 32, 16, 16)
        >>> StyleGAN2Config(resolution=1024).num_ws
        18
    """

    second_conv_kernel: int = 3

    def __post_init__(self) -> None:
        self._check_fields()
        _require(
            self.second_conv_kernel in (1, 3),
            f"second_conv_kernel: got {self.second_conv_kernel}; expected 1 or 3",
        )
        short, full = len(self.block_resolutions), 2 * len(self.block_resolutions)
        _require(
            self.widths is None or len(self.widths) in (short, full),
            f"widths: got {len(self.widths or ())} numbers; expected {short} (one a resolution) or {full} "
            "(the constant and every convolution)",
        )

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., resolution."""
        return _resolutions(self.resolution)

    @property
    def num_ws(self) -> int:
        """Style codes an image is made of: 2 log2(R) - 2."""
        return 2 * len(self.block_resolutions)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Channels of the constant, of b4.conv1, then of conv0 and conv1 of every block."""
        per_block = tuple(min(self.channel_base // r, self.channel_max) for r in self.block_resolutions)
        widths = self.widths or per_block
        if len(widths) == self.num_ws:
            return widths
        return tuple(w for w in widths for _ in range(2))


@dataclass(frozen=True)
class LayerPlan:
    """One alias-free layer of a StyleGAN3 synthesis network.

    Args:
        index: 0 ... num_layers, the last one makes the image.
        size: side of its output, margins included, pixels.
        in_size: side of its input.
        rate: sampling rate of the output, samples across the image.
        in_rate: sampling rate of the input.
        cutoff: of its low-pass filter, cycles across the image; likewise ``in_cutoff``.
        half_width: half of the filter's transition band; likewise ``in_half_width``.
        is_torgb: the last layer.
        is_critical: sampled at exactly twice its cutoff.
        kernel: side of the convolution.
    """

    index: int
    size: int
    in_size: int
    rate: int
    in_rate: int
    cutoff: float
    in_cutoff: float
    half_width: float
    in_half_width: float
    is_torgb: bool
    is_critical: bool
    kernel: int


@dataclass(frozen=True)
class StyleGAN3Config(_GeneratorFields):
    """A StyleGAN3 generator (Karras et al., 2021): T (translation) by default, R (rotation) by `r_variant`.

    Args:
        resolution: side of the image, a power of two, pixels.
        z_dim: length of a latent code.
        c_dim: length of a label; 0 for none.
        w_dim: length of a style code.
        img_channels: 3 for RGB.
        channel_base: a layer of cutoff f has round(min(channel_base / 2 / f, channel_max)) channels.
        channel_max: see above.
        mapping_layers: of the mapping network; 2 here.
        mapping_widths: width of each of them, the last one w_dim; None: all w_dim.
        mapping_lr_multiplier: learning rate of the mapping network relative to the rest.
        w_avg_beta: decay of the running mean of w.
        widths: channels of the input and of every layer but the last; None: by ``channel_base``.
        conv_clamp: bound of the activations.
        num_layers: layers in front of the one that makes the image.
        num_critical: critically sampled layers at the end.
        first_cutoff: of the input, cycles across the image.
        first_stopband: of the input.
        last_stopband_rel: stopband of the last layers relative to half the resolution.
        margin_size: pixels around the image that hide the borders.
        output_scale: factor of the image.
        conv_kernel: side of the convolutions: 3 (T) or 1 (R).
        filter_size: taps of a filter for each unit of its factor.
        lrelu_upsampling: oversampling of the activation.
        use_radial_filters: radially symmetric down filters (R).
        fourier_channels: frequencies of the input; None: as many as its channels.
        magnitude_ema_beta: decay of the running input magnitudes.

    Raises:
        ValueError: a value out of range, or a list of the wrong length.

    Example:
        >>> small = StyleGAN3Config(resolution=32, num_layers=6, margin_size=4, channel_base=512, channel_max=32)
        >>> [(layer.size, layer.rate) for layer in small.plan]
        [(24, 16), (24, 16), (40, 32), (40, 32), (40, 32), (32, 32), (32, 32)]
        >>> small.layer_widths
        (32, 32, 32, 32, 27, 16, 16)
    """

    mapping_layers: int = 2
    conv_clamp: float | None = 256.0
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_rel: float = 2.0**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    fourier_channels: int | None = None
    magnitude_ema_beta: float = 0.5 ** (16 / 20000)

    def __post_init__(self) -> None:
        self._check_fields()
        _require(self.conv_kernel in (1, 3), f"conv_kernel: got {self.conv_kernel}; expected 1 or 3")
        _require(
            self.num_layers > self.num_critical >= 0,
            f"num_layers: got {self.num_layers} with num_critical {self.num_critical}; expected more layers than that",
        )
        for name in ("filter_size", "lrelu_upsampling", "fourier_channels"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name}: got {value}; expected a number >= 1")
        _require(self.margin_size >= 0, f"margin_size: got {self.margin_size}; expected a number >= 0")
        fine = 0 < self.first_cutoff < self.first_stopband and self.first_cutoff < self.resolution / 2
        _require(
            fine, "first_cutoff: expected a positive number below first_stopband and half the resolution"
        )
        wanted = self.num_layers + 1
        _require(
            self.widths is None or len(self.widths) == wanted,
            f"widths: got {len(self.widths or ())} numbers; expected {wanted} (the input and every layer but the last)",
        )

    @classmethod
    def r_variant(cls, **options: Any) -> StyleGAN3Config:
        """Settings of StyleGAN3-R: twice the channels, 1x1 convolutions, radial down filters."""
        settings: dict[str, Any] = {"conv_kernel": 1, "use_radial_filters": True, **options}
        settings["channel_base"] = 2 * settings.get("channel_base", 32768)
        settings["channel_max"] = 2 * settings.get("channel_max", 512)
        return cls(**settings)

    @property
    def num_ws(self) -> int:
        """Style codes an image is made of: one for the input and one for each layer."""
        return self.num_layers + 2

    @property
    def plan(self) -> tuple[LayerPlan, ...]:
        """Geometric progression of cutoffs and stopbands, and the sizes that follow."""
        n, last_cutoff = self.num_layers, self.resolution / 2
        last_stopband = last_cutoff * self.last_stopband_rel
        share = [min(i / (n - self.num_critical), 1.0) for i in range(n + 1)]
        cutoff = [self.first_cutoff * (last_cutoff / self.first_cutoff) ** e for e in share]
        stopband = [self.first_stopband * (last_stopband / self.first_stopband) ** e for e in share]
        rate = [2 ** math.ceil(math.log2(min(2 * f, self.resolution))) for f in stopband]
        half = [max(f, s / 2) - c for f, s, c in zip(stopband, rate, cutoff, strict=True)]
        size = [s + 2 * self.margin_size for s in rate]
        size[-2:] = [self.resolution] * 2
        layers = []
        for i in range(n + 1):
            j, last = max(i - 1, 0), i == n
            layers.append(
                LayerPlan(
                    index=i,
                    size=size[i],
                    in_size=size[j],
                    rate=rate[i],
                    in_rate=rate[j],
                    cutoff=cutoff[i],
                    in_cutoff=cutoff[j],
                    half_width=half[i],
                    in_half_width=half[j],
                    is_torgb=last,
                    is_critical=i >= n - self.num_critical,
                    kernel=1 if last else self.conv_kernel,
                )
            )
        return tuple(layers)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the layers that share a sampling rate below the resolution, from the coarsest on."""
        rates = [layer.rate for layer in self.plan[:-1]]
        found = sorted({rate for rate in rates if rate < self.resolution})
        return tuple(tuple(i for i, r in enumerate(rates) if r == rate) for rate in found)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Channels of the input and of every layer but the last, which has ``img_channels``."""
        if self.widths is not None:
            return self.widths
        cut = [self.first_cutoff, *(layer.cutoff for layer in self.plan[:-1])]
        return tuple(round(min(self.channel_base / 2 / f, self.channel_max)) for f in cut)

    @property
    def num_frequencies(self) -> int:
        """Fourier features of the input."""
        return self.fourier_channels or self.layer_widths[0]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The residual discriminator that both families share.

    Args:
        resolution: side of the image, a power of two, pixels.
        c_dim: length of a label; 0 for none.
        img_channels: 3 for RGB.
        channel_base: as `StyleGAN2Config`.
        channel_max: as `StyleGAN2Config`.
        widths: channels of each resolution from 4 on; None: by ``channel_base``.
        conv_clamp: bound of the activations; None for none.
        mapping_layers: of the label's mapping network.
        mbstd_group: images of a group whose spread is a feature; None or a larger batch: the whole batch.
        mbstd_channels: such features.

    Raises:
        ValueError: a value out of range, or a list of the wrong length.

    Example:
        >>> DiscriminatorConfig(resolution=16, widths=(32, 32, 24)).block_widths
        {4: 32, 8: 32, 16: 24}
    """

    resolution: int = 256
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    widths: tuple[int, ...] | None = None
    conv_clamp: float | None = None
    mapping_layers: int = 8
    mbstd_group: int | None = 4
    mbstd_channels: int = 1

    def __post_init__(self) -> None:
        _check_resolution(self.resolution)
        _freeze(self, "widths")
        wanted = len(_resolutions(self.resolution))
        _require(
            self.widths is None or (len(self.widths) == wanted and min(self.widths) >= 1),
            f"widths: got {self.widths}; expected {wanted} numbers >= 1 (one a resolution)",
        )
        _require(self.c_dim >= 0, f"c_dim: got {self.c_dim}; expected 0 (unconditional) or more")

    def divides(self, batch: int) -> bool:
        """Whether the groups whose spread is a feature divide a batch.

        >>> [DiscriminatorConfig().divides(n) for n in (2, 6, 8)]
        [True, False, True]
        """
        group = batch if self.mbstd_group is None else min(self.mbstd_group, batch)
        return self.mbstd_channels == 0 or batch % group == 0

    @property
    def block_widths(self) -> dict[int, int]:
        """Channels at every resolution."""
        sides = _resolutions(self.resolution)
        widths = self.widths or tuple(min(self.channel_base // r, self.channel_max) for r in sides)
        return dict(zip(sides, widths, strict=True))


GeneratorConfig = StyleGAN2Config | StyleGAN3Config

_KINDS: dict[str, type[Any]] = {
    "stylegan2": StyleGAN2Config,
    "stylegan3": StyleGAN3Config,
    "discriminator": DiscriminatorConfig,
}

#: Published sizes; a teacher of another size is described by its own configuration.
GENERATOR_PRESETS: dict[str, GeneratorConfig] = {
    "stylegan2_256": StyleGAN2Config(256),
    "stylegan2_256_paper": StyleGAN2Config(256, channel_base=16384),
    "stylegan2_1024": StyleGAN2Config(1024),
    "stylegan3_t_256": StyleGAN3Config(256, channel_base=16384),
    "stylegan3_t_1024": StyleGAN3Config(1024),
    "stylegan3_r_256": StyleGAN3Config.r_variant(resolution=256, channel_base=16384),
    "stylegan3_r_1024": StyleGAN3Config.r_variant(resolution=1024),
}
DISCRIMINATOR_PRESETS: dict[str, DiscriminatorConfig] = {
    "discriminator_256": DiscriminatorConfig(256),
    "discriminator_256_paper": DiscriminatorConfig(256, channel_base=16384),
    "discriminator_1024": DiscriminatorConfig(1024),
}


def config_to_dict(config: GeneratorConfig | DiscriminatorConfig) -> dict[str, Any]:
    """Plain values for JSON, with the network's kind under "kind".

    Example:
        >>> config_from_dict(config_to_dict(StyleGAN2Config(64))) == StyleGAN2Config(64)
        True
    """
    kind = next(name for name, cls in _KINDS.items() if type(config) is cls)
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    return {"kind": kind, **values}


def config_from_dict(values: Mapping[str, Any]) -> Any:
    """Configuration of what `config_to_dict` wrote.

    Raises:
        ValueError: an unknown kind or field, or a value out of range.
    """
    rest = dict(values)
    kind = rest.pop("kind", None)
    _require(kind in _KINDS, f"kind: got {kind!r}; expected one of {', '.join(_KINDS)}")
    cls = _KINDS[str(kind)]
    unknown = sorted(set(rest) - {field.name for field in fields(cls)})
    _require(not unknown, f"{kind}: unknown fields {', '.join(unknown)}")
    return cls(**rest)
