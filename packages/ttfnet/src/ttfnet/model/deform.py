"""Modulated deformable convolution (Zhu et al., CVPR 2019), with offsets and mask from its own input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

__all__ = ["DeformConv2dPack", "deform_conv2d_decomposed"]


class DeformConv2dPack(nn.Module):
    """3x3 deformable convolution, padding 1, one offset group.

    An inner 3x3 convolution makes 27 channels: 18 offsets (dy, dx) of the nine taps in row-major order, then
    nine mask logits. It starts at zero, so that the layer begins as half the plain convolution.

    Args:
        inputs: channels.
        outputs: channels.
        stride: input pixels per output pixel.
        bias: whether a bias is added.

    Attributes:
        decomposed: compute with `deform_conv2d_decomposed`, for runtimes without the operator.

    Example:
        >>> layer = DeformConv2dPack(4, 2)
        >>> x = torch.randn(1, 4, 5, 5)
        >>> plain = torch.nn.functional.conv2d(x, layer.weight, padding=1)
        >>> torch.allclose(layer(x), 0.5 * plain, atol=1e-6)
        True
    """

    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.register_parameter("bias", nn.Parameter(torch.zeros(outputs)) if bias else None)
        self.offset_mask = nn.Conv2d(inputs, 27, 3, stride, 1)
        self.stride = stride
        self.decomposed = False
        bound = 1 / math.sqrt(9 * inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_out, H / stride, W / stride)`` of ``(B, C_in, H, W)``."""
        made = self.offset_mask(x)
        offset, mask = made[:, :18], made[:, 18:].sigmoid()
        # Autocast leaves the operator alone, and its kernels know no bfloat16, nor on a CPU float16.
        narrow = x.dtype == torch.bfloat16 or (x.dtype == torch.float16 and not x.is_cuda)
        kind = torch.float32 if narrow else x.dtype
        wide, offset, weight, mask = (t.to(kind) for t in (x, offset, self.weight, mask))
        bias = None if self.bias is None else self.bias.to(kind)
        if self.decomposed:
            return deform_conv2d_decomposed(wide, offset, weight, bias, mask, self.stride).to(x.dtype)
        out: Tensor = deform_conv2d(wide, offset, weight, bias, stride=self.stride, padding=1, mask=mask)
        return out.to(x.dtype)


def deform_conv2d_decomposed(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor, stride: int = 1
) -> Tensor:
    """The same in standard operators: one grid_sample for each tap, then a 1x1 convolution.

    Sampling with zeros outside and ``align_corners=True`` is the operator's rule at the border.

    Args:
        x: ``(B, C_in, H, W)``; H and W at least 2.
        offset: ``(B, 18, H', W')``, (dy, dx) of each tap, row-major; the size of the output.
        weight: ``(C_out, C_in, 3, 3)``.
        bias: ``(C_out,)`` or None.
        mask: ``(B, 9, H', W')``, in [0, 1].
        stride: input pixels per output pixel.

    Returns:
        ``(B, C_out, H', W')``.

    Example:
        >>> x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
        >>> offset, mask = torch.zeros(1, 18, 4, 4), torch.ones(1, 9, 4, 4)
        >>> out = deform_conv2d_decomposed(x, offset, w, torch.zeros(3), mask)
        >>> torch.allclose(out, torch.nn.functional.conv2d(x, w, padding=1), atol=1e-5)
        True
    """
    height, width = x.shape[-2:]
    rows = torch.arange(offset.shape[-2], dtype=x.dtype, device=x.device)[:, None] * stride
    columns = torch.arange(offset.shape[-1], dtype=x.dtype, device=x.device) * stride
    taps = []
    for k in range(9):
        v = rows + (k // 3 - 1) + offset[:, 2 * k]
        u = columns + (k % 3 - 1) + offset[:, 2 * k + 1]
        grid = torch.stack((u * (2 / (width - 1)) - 1, v * (2 / (height - 1)) - 1), -1)
        sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        taps.append(sampled * mask[:, k : k + 1])
    kernel = weight.permute(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)  # tap-major, as the taps are joined
    return F.conv2d(torch.cat(taps, 1), kernel, bias)
