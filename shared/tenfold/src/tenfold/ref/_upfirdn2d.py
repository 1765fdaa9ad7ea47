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
    left, right, top, bottom = padding
    return F.pad(x, [left, right, top, bottom])


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
    x = _stuff(x, up[0], up[1], padding)
    f = filter.to(x.dtype)
    if not flip:
        f = f.flip(list(range(f.dim())))
    passes = [f[:, None], f[None, :]] if f.dim() == 1 else [f]
    for i, kernel in enumerate(passes):
        kernel = kernel * gain if i == 0 else kernel
        x = F.conv2d(x, kernel.expand(channels, 1, -1, -1), groups=channels)
    return x[:, :, :: down[0], :: down[1]]
