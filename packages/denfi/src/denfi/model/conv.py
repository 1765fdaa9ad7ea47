"""Depth-wise separable convolution whose sampling point moves: the offsets come from boundary proposals."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.lidar.models.voxel_backbone import NORM_EPS, NORM_MOMENTUM
from tenfold.ops._checks import as_compute, require, require_float, require_shape

__all__ = ["BACKENDS", "ENCODINGS", "DenfiConv", "SeparableConv", "encode_proposals", "sample_shifted"]

#: Encoding of the proposals -> channels that the offset layer reads.
ENCODINGS = {"raw": 5, "geometric": 8}
BACKENDS = ("grid_sample", "deform_conv")


def encode_proposals(proposals: Tensor, encoding: str = "raw") -> Tensor:
    """What the offset layer reads.

    "raw" is the paper's: the five numbers as they are. A linear layer cannot make the vector to an edge of them,
    which is a product of a distance with the heading's sine and cosine; "geometric" gives it these vectors.

    Args:
        proposals: (B, 5, H, W) left, front, right, rear in cells, heading in radians.
        encoding: "raw" or "geometric".

    Returns:
        (B, 5, H, W), or (B, 8, H, W) row and column components, in cells, of the vectors to the front, rear, left
        and right edge.

    Example:
        >>> p = torch.tensor([1.0, 3.0, 1.0, 2.0, torch.pi / 2]).view(1, 5, 1, 1)
        >>> encode_proposals(p, "geometric").flatten().round().tolist()  # the front lies along +y: 3 rows on
        [3.0, -0.0, -2.0, 0.0, -0.0, -1.0, 0.0, 1.0]
    """
    if encoding == "raw":
        return proposals
    left, front, right, rear, theta = proposals.unbind(1)
    sin, cos = theta.sin(), theta.cos()
    rows = (front * sin, -rear * sin, left * cos, -right * cos)
    columns = (front * cos, -rear * cos, -left * sin, right * sin)
    return torch.stack([part for pair in zip(rows, columns, strict=True) for part in pair], 1)


def sample_shifted(feat: Tensor, offset: Tensor) -> Tensor:
    """Bilinear values of a map at every pixel's own place plus an offset; zero outside the map.

    Coordinates are computed in float32 at least: half precision cannot address 200 cells in fractions of one.

    Args:
        feat: (B, C, H, W).
        offset: (B, 2, H, W) rows, then columns, in cells.

    Returns:
        (B, C, H, W) in the dtype of ``feat``.

    Raises:
        ValueError: a map of one row or column.

    Example:
        >>> offset = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
        >>> sample_shifted(torch.arange(6.0).view(1, 1, 2, 3), offset)[0, 0, 0]
        tensor([0.5000, 1.5000, 1.0000])
    """
    height, width = feat.shape[-2:]
    values, offset = as_compute(feat), as_compute(offset).to(as_compute(feat).dtype)
    rows = torch.arange(height, dtype=offset.dtype, device=offset.device)[:, None] + offset[:, 0]
    columns = torch.arange(width, dtype=offset.dtype, device=offset.device) + offset[:, 1]
    # With aligned corners -1 and 1 are the centres of the outermost pixels.
    grid = torch.stack((_normalised(columns, width), _normalised(rows, height)), -1)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return sampled.to(feat.dtype)


def _normalised(place: Tensor, size: int) -> Tensor:
    if size == 1:
        raise ValueError("sample_shifted: feat: got a single row or column; expected two or more")
    return place * (2 / (size - 1)) - 1


class SeparableConv(nn.Module):
    """Depth-wise 3x3 and point-wise 1x1 convolution, normalisation, ReLU.

    Args:
        in_channels: of the features.
        out_channels: of the result; by default the same.
        norm: "bn" (with the LiDAR detectors' momentum and epsilon) or "none".

    Example:
        >>> SeparableConv(4)(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    def __init__(self, in_channels: int, out_channels: int | None = None, norm: str = "bn") -> None:
        super().__init__()
        require(norm in ("bn", "none"), f"{type(self).__name__}: norm: got {norm!r}; expected 'bn' or 'none'")
        outputs = in_channels if out_channels is None else out_channels
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, NORM_EPS, NORM_MOMENTUM) if norm == "bn" else nn.Identity()
        for layer in (self.depthwise, self.pointwise):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, feat: Tensor, proposals: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C', H, W); proposals are not looked at."""
        return F.relu(self.norm(self.pointwise(self.depthwise(feat))))


class DenfiConv(SeparableConv):
    """Boundary-guided depth-wise separable deformable convolution.

    The depth-wise 3x3 convolution is plain; its result is read at ``p + offset(p)``, one offset per pixel, made
    by a 1x1 convolution of the boundary proposals; then come the point-wise convolution, normalisation, ReLU.

    Args:
        in_channels: of the features.
        out_channels: of the result; by default the same.
        offset_encoding: see `encode_proposals`.
        detach_proposals: keep the head's gradient out of the proposals.
        norm: "bn" or "none".
        backend: "grid_sample" (standard operators) or "deform_conv" (torchvision's operator with one tap).
        offset_std: standard deviation of the offset layer's first weights; its bias starts at 0.

    Source:
        Figures 2c and 5 of the paper.

    Example:
        >>> conv = DenfiConv(256, norm="none")
        >>> sum(p.numel() for p in conv.parameters())
        67852
        >>> conv(torch.zeros(1, 256, 3, 4), torch.ones(1, 5, 3, 4)).shape, conv.last_offset.shape
        (torch.Size([1, 256, 3, 4]), torch.Size([1, 2, 3, 4]))
    """

    #: (B, 2, H, W) rows and columns in cells, of the last call; without gradient.
    last_offset: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        offset_encoding: Literal["raw", "geometric"] = "raw",
        detach_proposals: bool = True,
        norm: str = "bn",
        backend: Literal["grid_sample", "deform_conv"] = "grid_sample",
        *,
        offset_std: float = 0.1,
    ) -> None:
        super().__init__(in_channels, out_channels, norm)
        for name, value, known in (
            ("offset_encoding", offset_encoding, tuple(ENCODINGS)),
            ("backend", backend, BACKENDS),
        ):
            require(value in known, f"DenfiConv: {name}: got {value!r}; expected one of {', '.join(known)}")
        self.offset_encoding, self.backend = offset_encoding, backend
        self.detach_proposals = detach_proposals
        self.offset = nn.Conv2d(ENCODINGS[offset_encoding], 2, 1)
        nn.init.normal_(self.offset.weight, std=offset_std)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.last_offset = None

    def forward(self, feat: Tensor, proposals: Tensor | None = None) -> Tensor:
        """Features (B, C, H, W) with proposals (B, 5, H, W) in cells and radians to (B, C', H, W).

        Raises:
            ValueError: shapes that do not fit.
        """
        _check("DenfiConv", feat, proposals, self.depthwise.in_channels)
        assert proposals is not None
        offset = self.offsets(proposals)
        if not torch.compiler.is_compiling():
            self.last_offset = offset.detach()
        deep = self.depthwise(feat)
        if self.backend == "deform_conv":
            mixed = self._deformed(deep, offset)
        else:
            mixed = self.pointwise(sample_shifted(deep, offset))
        return F.relu(self.norm(mixed))

    def offsets(self, proposals: Tensor) -> Tensor:
        """(B, 2, H, W) rows and columns, in cells, never in half precision."""
        guide = proposals.detach() if self.detach_proposals else proposals
        with torch.autocast(guide.device.type, enabled=False):
            read = encode_proposals(as_compute(guide), self.offset_encoding)
            result: Tensor = self.offset(read.to(self.offset.weight.dtype))
        return result

    def _deformed(self, deep: Tensor, offset: Tensor) -> Tensor:
        from torchvision.ops import deform_conv2d

        values = as_compute(deep)
        weight = self.pointwise.weight.to(values.dtype)
        mixed: Tensor = deform_conv2d(values, offset.to(values.dtype), weight)
        return mixed.to(deep.dtype)


def _check(op: str, feat: Tensor, guide: Tensor | None, channels: int, guides: int = 5) -> None:
    if guide is None:
        raise ValueError(f"{op}: proposals: got none; expected (B, {guides}, H, W)")
    require_float(op, "feat", feat)
    require_shape(op, "feat", feat, ("B", channels, "H", "W"))
    require_shape(op, "proposals", guide, (feat.shape[0], guides, *feat.shape[-2:]))
