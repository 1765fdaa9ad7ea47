"""The pieces of both families: equalised layers, modulated convolution, filters."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.ops import bias_act, upfirdn2d

__all__ = [
    "LRELU_GAIN",
    "Execution",
    "FullyConnected",
    "kaiser_filter",
    "modulated_conv2d",
    "normalize_moment",
    "radial_filter",
    "resample_filter",
]

#: Leaky ReLU of slope 0.2 is followed by this factor, which keeps the second moment.
LRELU_GAIN = math.sqrt(2)

Execution = Literal["auto", "scale", "grouped", "folded"]


def normalize_moment(x: Tensor) -> Tensor:
    """Scale every row (B, C) to second moment 1: x (mean x^2 + 1e-8)^-1/2."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnected(nn.Module):
    """A linear layer whose learning rate is equalised at run time.

    The stored weight is N(0, 1) / mu; the effective one is stored mu / sqrt(n), the effective bias stored mu.

    Args:
        in_features: n.
        out_features: rows.
        lrelu: apply leaky ReLU (slope 0.2, gain sqrt 2).
        lr_multiplier: mu.
        weight_init: standard deviation of the effective weight times sqrt(n).
        bias_init: effective bias, one number or one a row.

    Example:
        >>> FullyConnected(4, 2)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lrelu: bool = False,
        lr_multiplier: float = 1.0,
        weight_init: float = 1.0,
        bias_init: float | tuple[float, ...] = 0.0,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.lrelu = lrelu
        self.lr_multiplier = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * (weight_init / lr_multiplier))
        start = torch.as_tensor(bias_init, dtype=torch.float32) / lr_multiplier
        self.bias = nn.Parameter(start.expand(out_features).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        y = x @ (self.weight * (self.lr_multiplier / math.sqrt(self.in_features))).t()
        bias = self.bias * self.lr_multiplier
        return bias_act(y, bias) if self.lrelu else y + bias

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"{self.in_features}, {self.out_features}, lr_multiplier={self.lr_multiplier:g}"


def resample_filter(taps: tuple[float, ...] = (1, 3, 3, 1)) -> Tensor:
    """The binomial low-pass filter of StyleGAN2, normalised outer product (K, K)."""
    f = torch.tensor(taps, dtype=torch.float32)
    f = torch.outer(f, f)
    return f / f.sum()


def _kaiser_beta(taps: int, width: float, rate: float) -> float:
    """Shape of the Kaiser window whose transition band is ``width`` wide (Kaiser's formulas)."""
    attenuation = 2.285 * (taps - 1) * math.pi * (width / (rate / 2)) + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return float(0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21))
    return 0.0


def kaiser_filter(taps: int, cutoff: float, width: float, rate: float) -> Tensor | None:
    """Kaiser-windowed sinc low-pass filter (taps,) with gain 1 at frequency 0.

    Args:
        taps: length; 1 means no filter and returns None.
        cutoff: cycles for each unit, where the gain is one half.
        width: of the transition band.
        rate: samples for each unit.

    Example:
        >>> f = kaiser_filter(12, cutoff=2.0, width=8.0, rate=32.0)
        >>> f.shape, round(float(f.sum()), 5)
        (torch.Size([12]), 1.0)
    """
    if taps == 1:
        return None
    n = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    window = torch.kaiser_window(taps, False, _kaiser_beta(taps, width, rate), dtype=torch.float64)
    f = torch.sinc(2 * cutoff / rate * n) * window
    return (f / f.sum()).float()


def radial_filter(taps: int, cutoff: float, width: float, rate: float) -> Tensor | None:
    """Radially symmetric low-pass filter (taps, taps) with gain 1 at frequency 0, of StyleGAN3-R.

    f(r) = J1(2 pi cutoff r) / (pi r) on the grid of half samples, times an outer Kaiser window. Arguments as
    `kaiser_filter`; an odd number of taps has a sample at r = 0, where f takes its limit.
    """
    if taps == 1:
        return None
    x = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / rate
    r = torch.hypot(x[:, None], x[None, :])
    safe = r.clamp(min=1e-12)
    f: Tensor = torch.special.bessel_j1(2 * math.pi * cutoff * safe) / (math.pi * safe)
    window = torch.kaiser_window(taps, False, _kaiser_beta(taps, width, rate), dtype=torch.float64)
    f = f * torch.outer(window, window)
    return (f / f.sum()).float()


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Factors d (B, O) = (sum over inputs and taps of (weight s)^2 + 1e-8)^-1/2."""
    return (styles.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()


def _convolve(x: Tensor, weight: Tensor, up: int, padding: int, groups: int = 1) -> Tensor:
    """Convolution; with ``up`` 2 its stride-2 transpose, which makes 2 r + k - 2 pixels of r."""
    if up == 1:
        return F.conv2d(x, weight, padding=padding, groups=groups)
    if groups == 1:
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=up)
    o, i, kh, kw = weight.shape
    weight = weight.reshape(groups, o // groups, i, kh, kw).transpose(1, 2).reshape(-1, o // groups, kh, kw)
    return F.conv_transpose2d(x, weight, stride=up, groups=groups)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up: int = 1,
    padding: int = 0,
    up_filter: Tensor | None = None,
    input_gain: Tensor | None = None,
    execution: Execution = "auto",
) -> Tensor:
    """Convolution whose input channels are scaled for each image, and whose filters then have norm 1.

    theta'_oi = theta_oi s_i, d_o = (sum theta'^2 + 1e-8)^-1/2, y = conv(x, theta' d) (Karras et al., 2020, eq. 1 and
    3). "grouped" does so, with weights for each image; "scale" multiplies the input by s and the output by d instead,
    which is the same sum, and quick on a CPU; "folded" convolves one image after the other with its own weights. "auto"
    is "scale", or without gradients "folded" where the maps are larger than the weights.

    Args:
        x: (B, I, H, W).
        weight: (O, I, k, k).
        styles: (B, I).
        demodulate: divide by the filters' norms.
        up: 1, or 2: a transposed convolution of stride 2 followed by ``up_filter`` with gain 4, which equals zeros
            between the pixels, convolution with the turned kernel and then the filter.
        padding: zeros around x.
        up_filter: (K, K) low-pass filter, needed with ``up`` 2.
        input_gain: () factor of x.
        execution: see above.

    Returns:
        (B, O, H', W').

    Raises:
        ValueError: ``up`` without its filter.
    """
    if up > 1 and up_filter is None:
        raise ValueError("modulated_conv2d: up_filter: got None; expected a filter with up 2")
    factor = _demodulation(weight, styles) if demodulate else None
    scale = styles if input_gain is None else styles * input_gain
    if execution == "auto":
        execution = "folded" if _folding_pays(x, weight, scale) else "scale"
    if execution == "folded":
        y = _folded(x, weight, scale, factor, up, padding)
    elif execution == "scale":
        y = _convolve(x * scale[:, :, None, None], weight, up, padding)
        if factor is not None:
            y = y * factor[:, :, None, None]
    else:
        y = _grouped(x, weight, scale, factor, up, padding)
    if up > 1:
        assert up_filter is not None
        # Output 2 r + k - 2; the filter's margin leaves 2 r.
        k, taps = weight.shape[2], up_filter.shape[0]
        total = taps - 1 - (k - 2)
        low = (total + 1) // 2
        y = upfirdn2d(y, up_filter, padding=(low, total - low, low, total - low), gain=float(up * up))
    return y


def _folding_pays(x: Tensor, weight: Tensor, scale: Tensor) -> bool:
    """No gradient, no graph of any batch, and maps that are larger than the weights."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, scale)):
        return False
    return x.shape[0] > 0 and x.shape[1:].numel() >= weight.numel()


def _folded(x: Tensor, weight: Tensor, scale: Tensor, factor: Tensor | None, up: int, padding: int) -> Tensor:
    """One convolution for each image, with its own weights."""
    images = []
    for b in range(x.shape[0]):
        w = weight * scale[b, None, :, None, None]
        w = w if factor is None else w * factor[b, :, None, None, None]
        images.append(_convolve(x[b : b + 1], w, up, padding))
    return images[0] if len(images) == 1 else torch.cat(images)


def _grouped(
    x: Tensor, weight: Tensor, scale: Tensor, factor: Tensor | None, up: int, padding: int
) -> Tensor:
    """One group of filters for each image."""
    batch = x.shape[0]
    w = weight[None] * scale[:, None, :, None, None]
    if factor is not None:
        w = w * factor[:, :, None, None, None]
    y = _convolve(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1), up, padding, groups=batch)
    return y.reshape(batch, -1, *y.shape[2:])
