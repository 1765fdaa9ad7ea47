"""Reference of the FIR resampler: zeros between the samples, a depth-wise convolution, every down-th sample."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

__all__ = ["upfirdn2d"]


def _stuff(x: Tensor, up_y: int, up_x: int, padding: Sequence[int]) -> Tensor:
    """Put up - 1 zeros behind every sample, then pad (or crop, where negative): left, right, top, bottom."""
    b, c, h, w = x.shape
    if up_y > 1 or up_x > 1:
        x = F.pad(x.reshape(b, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1])
        x = x.reshape(b, c, h * up_y, w * up_x)
    # Zeros first: a crop may be larger than the map that the other side pads.
    x = F.pad(x, [max(p, 0) for p in padding])
    return F.pad(x, [min(p, 0) for p in padding])


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """Return (B, C, H', W') of x (B, C, H, W); up and down are (vertical, horizontal).

    A filter (K,) works along both axes. It convolves; with ``flip`` it correlates.
    """
    channels = x.shape[1]
    if channels == 0:  # convolutions have at least one channel
        x = x.new_zeros(x.shape[0], 1, *x.shape[2:])
    x = _stuff(x, up[0], up[1], padding)
    f = filter.to(x.dtype)
    if not flip:
        f = f.flip(list(range(f.dim())))
    passes = [f[:, None], f[None, :]] if f.dim() == 1 else [f]
    passes[0] = passes[0] * gain
    for kernel in passes:
        x = F.conv2d(x, kernel.expand(max(channels, 1), 1, -1, -1), groups=max(channels, 1))
    return x[:, :channels, :: down[0], :: down[1]]
