"""Box coders: what detectors regress, and back. ``decode(encode(g, a), a) == g`` for every coder."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tenfold.geometry._arrays import require_columns
from tenfold.geometry.boxes import TAU, wrap_angle

# Extents are clamped from below before their logarithm is taken.
MIN_EXTENT = 1e-5


@dataclass(frozen=True)
class ResidualCoder:
    """Residual code of SECOND (Yan et al. 2018): boxes relative to anchors.

    Offsets x, y over the anchor's ground diagonal, z over its height, logarithms of the extent ratios, and
    the heading: the difference (``angle="residual"``, 7 numbers) or the differences of cosine and sine
    (``angle="sincos"``, 8 numbers, CBGS). With `velocity`, boxes have 9 columns and vx, vy are appended as
    they are.

    >>> coder = ResidualCoder()
    >>> a = torch.tensor([[10.0, 0, -1, 3.9, 1.6, 1.56, 0]])
    >>> g = torch.tensor([[10.5, 1, -0.8, 4.2, 1.7, 1.5, 0.3]])
    >>> torch.allclose(coder.decode(coder.encode(g, a), a), g, atol=1e-5)
    True
    """

    angle: Literal["residual", "sincos"] = "residual"
    velocity: bool = False

    def __post_init__(self) -> None:
        if self.angle not in {"residual", "sincos"}:
            raise ValueError(
                f"ResidualCoder: angle: {self.angle!r} was received; 'residual' or 'sincos' is expected"
            )

    @property
    def code_size(self) -> int:
        """Number of code columns."""
        return (7 if self.angle == "residual" else 8) + 2 * self.velocity

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Codes ``(..., code_size)`` of boxes ``(..., 7 | 9)`` relative to anchors ``(..., 7)``."""
        require_columns("ResidualCoder.encode", "boxes", boxes, (9 if self.velocity else 7,))
        require_columns("ResidualCoder.encode", "anchors", anchors, (7,))
        size, anchor_size = boxes[..., 3:6].clamp(min=MIN_EXTENT), anchors[..., 3:6].clamp(min=MIN_EXTENT)
        scale = _offset_scale(anchor_size)
        heading, anchor_heading = boxes[..., 6:7], anchors[..., 6:7]
        if self.angle == "residual":
            angle = heading - anchor_heading
        else:
            angle = torch.cat(
                (heading.cos() - anchor_heading.cos(), heading.sin() - anchor_heading.sin()), -1
            )
        offset = (boxes[..., :3] - anchors[..., :3]) / scale
        return torch.cat((offset, torch.log(size / anchor_size), angle, boxes[..., 7:]), -1)

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes ``(..., 7 | 9)`` of codes ``(..., code_size)``; headings are not wrapped for "residual"."""
        require_columns("ResidualCoder.decode", "codes", codes, (self.code_size,))
        require_columns("ResidualCoder.decode", "anchors", anchors, (7,))
        anchor_size = anchors[..., 3:6].clamp(min=MIN_EXTENT)
        centre = codes[..., :3] * _offset_scale(anchor_size) + anchors[..., :3]
        size = torch.exp(codes[..., 3:6]) * anchor_size
        if self.angle == "residual":
            heading, rest = codes[..., 6:7] + anchors[..., 6:7], codes[..., 7:]
        else:
            cos = codes[..., 6:7] + anchors[..., 6:7].cos()
            sin = codes[..., 7:8] + anchors[..., 6:7].sin()
            heading, rest = torch.atan2(sin, cos), codes[..., 8:]
        return torch.cat((centre, size, heading, rest), -1)


def _offset_scale(size: Tensor) -> Tensor:
    diagonal = torch.linalg.vector_norm(size[..., :2], dim=-1)
    return torch.stack((diagonal, diagonal, size[..., 2]), -1)


@dataclass(frozen=True)
class PointResidualCoder:
    """Code of a box relative to one of its points and the mean size of its class (8 numbers).

    Offsets from the point over the mean ground diagonal and height, logarithms of the extent ratios, cosine
    and sine of the heading: OpenPCDet's form of the PointRCNN first stage.

    Args:
        mean_sizes: (dx, dy, dz) of each class, metres.

    >>> coder = PointResidualCoder(((3.9, 1.6, 1.56),))
    >>> g, p = torch.tensor([[10.0, 1, -1, 4, 1.7, 1.5, 0.3]]), torch.tensor([[9.0, 1.2, -0.7]])
    >>> label = torch.tensor([0])
    >>> torch.allclose(coder.decode(coder.encode(g, p, label), p, label), g, atol=1e-5)
    True
    """

    mean_sizes: tuple[tuple[float, float, float], ...]
    code_size = 8

    def _sizes(self, labels: Tensor, like: Tensor) -> Tensor:
        return like.new_tensor(self.mean_sizes)[labels]

    def encode(self, boxes: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """Codes ``(N, 8)`` of boxes ``(N, 7)`` at points ``(N, 3)`` with 0-based class labels ``(N,)``."""
        require_columns("PointResidualCoder.encode", "boxes", boxes, (7,))
        require_columns("PointResidualCoder.encode", "points", points, (3,))
        mean = self._sizes(labels, boxes)
        offset = (boxes[..., :3] - points) / _offset_scale(mean)
        size = torch.log(boxes[..., 3:6].clamp(min=MIN_EXTENT) / mean)
        return torch.cat((offset, size, boxes[..., 6:].cos(), boxes[..., 6:].sin()), -1)

    def decode(self, codes: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """Boxes ``(N, 7)``, heading in [-pi, pi]."""
        require_columns("PointResidualCoder.decode", "codes", codes, (8,))
        require_columns("PointResidualCoder.decode", "points", points, (3,))
        mean = self._sizes(labels, codes)
        centre = codes[..., :3] * _offset_scale(mean) + points
        heading = torch.atan2(codes[..., 7:8], codes[..., 6:7])
        return torch.cat((centre, torch.exp(codes[..., 3:6]) * mean, heading), -1)


def direction_bin(heading: Tensor, offset: float = math.pi / 4, bins: int = 2) -> Tensor:
    """Direction class (int64) of headings: the sector of 2 pi / bins, counted from `offset`.

    >>> direction_bin(torch.tensor([1.0, 1.0 + math.pi])).tolist()
    [0, 1]
    """
    sector: Tensor = wrap_angle(heading - offset, 0.0, TAU) / (TAU / bins)
    # Rounding can lift an angle just below a full turn to the full turn itself.
    return sector.floor().long().clamp(max=bins - 1)


def apply_direction(heading: Tensor, direction: Tensor, offset: float = math.pi / 4, bins: int = 2) -> Tensor:
    """Turn a heading that is known modulo 2 pi / bins into its direction class (see `direction_bin`).

    >>> apply_direction(torch.tensor([1.0]), torch.tensor([1])).sub(math.pi).tolist()  # doctest: +ELLIPSIS
    [1.0...]
    """
    sector = TAU / bins
    folded: Tensor = wrap_angle(heading - offset, 0.0, sector)
    return folded + offset + sector * direction.to(heading.dtype)


@dataclass(frozen=True)
class HeadingBinCoder:
    """Heading as a bin and a residual (PointRCNN, Shi et al. 2019; VoteNet, Qi et al. 2019).

    Bin k is centred at ``k * span / bins`` when the span is a full turn (the bins are shifted by half a bin,
    so that heading 0 lies in the middle of bin 0), else at ``-span / 2 + (k + 0.5) * span / bins``.

    Args:
        bins: number of bins.
        span: covered angle, radians; 2 pi (first stages) or a window around 0 such as pi / 2 (PointRCNN's
            second stage). Headings outside a window are folded by pi into it when possible, else clamped
            to its border.
        normalised: residual in units of half a bin (in [-1, 1]) instead of radians.

    >>> coder = HeadingBinCoder(12)
    >>> k, r = coder.encode(torch.tensor([0.6]))
    >>> k.item(), round(coder.decode(k, r).item(), 4)
    (1, 0.6)
    """

    bins: int
    span: float = TAU
    normalised: bool = True

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"HeadingBinCoder: bins: {self.bins} was received; 1 or more is expected")
        if not 0 < self.span <= TAU:
            raise ValueError(
                f"HeadingBinCoder: span: {self.span} was received; a number in (0, 2 pi] is expected"
            )

    @property
    def _full_turn(self) -> bool:
        return math.isclose(self.span, TAU)

    def encode(self, heading: Tensor) -> tuple[Tensor, Tensor]:
        """Bin (int64) and residual of headings of any shape."""
        width = self.span / self.bins
        if self._full_turn:
            position: Tensor = wrap_angle(heading + width / 2, 0.0, TAU)
        else:
            folded: Tensor = wrap_angle(heading)
            outside = folded.abs() > self.span / 2
            folded = torch.where(outside, wrap_angle(folded, 0.5, math.pi), folded)
            position = (folded + self.span / 2).clamp(0, self.span)
        index = (position / width).floor().clamp(0, self.bins - 1)
        residual = position - (index + 0.5) * width
        return index.long(), residual / (width / 2) if self.normalised else residual

    def decode(self, index: Tensor, residual: Tensor) -> Tensor:
        """Headings in [-pi, pi) of bins and residuals."""
        width = self.span / self.bins
        offset = residual * (width / 2) if self.normalised else residual
        start = 0.0 if self._full_turn else -self.span / 2 + width / 2
        heading: Tensor = wrap_angle(index.to(residual.dtype) * width + start + offset)
        return heading


@dataclass(frozen=True)
class AxisBinCoder:
    """Offset along one axis as a bin and a residual (PointRCNN, Shi et al. 2019, eq. 2).

    Args:
        extent: offsets are clamped to [-extent, extent), metres.
        bin_size: metres; the residual is in units of it, in [-0.5, 0.5].

    >>> coder = AxisBinCoder(3.0, 0.5)
    >>> k, r = coder.encode(torch.tensor([0.6]))
    >>> coder.bins, k.item(), round(coder.decode(k, r).item(), 4)
    (12, 7, 0.6)
    """

    extent: float
    bin_size: float

    def __post_init__(self) -> None:
        if not (self.extent > 0 and self.bin_size > 0):
            raise ValueError("AxisBinCoder: extent, bin_size: positive numbers are expected")

    @property
    def bins(self) -> int:
        """Number of bins."""
        return round(2 * self.extent / self.bin_size)

    def encode(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Bin (int64) and residual of offsets of any shape, metres."""
        shifted = (offset + self.extent).clamp(0, 2 * self.extent - 1e-3)
        index = (shifted / self.bin_size).floor().clamp(max=self.bins - 1)
        return index.long(), (shifted - (index + 0.5) * self.bin_size) / self.bin_size

    def decode(self, index: Tensor, residual: Tensor) -> Tensor:
        """Offsets in metres of bins and residuals."""
        return (index.to(residual.dtype) + 0.5 + residual) * self.bin_size - self.extent


class BinBoxCode(NamedTuple):
    """A box as bins and residuals, `BinBoxCoder`; targets, or the predicted columns.

    Args:
        x_bin, y_bin: bin along each axis: ``(N,)`` int64, or ``(N, bins)`` logits.
        x_residual, y_residual: in it: ``(N,)``, or ``(N, bins)``, one per bin.
        z: ``(N,)`` offset along z, metres.
        heading_bin, heading_residual: as the above.
        size: ``(N, 3)`` extents minus the mean size, over the mean size.
    """

    x_bin: Tensor
    y_bin: Tensor
    x_residual: Tensor
    y_residual: Tensor
    z: Tensor
    heading_bin: Tensor
    heading_residual: Tensor
    size: Tensor


@dataclass(frozen=True)
class BinBoxCoder:
    """Box relative to a point by bins and residuals (PointRCNN, Shi et al. 2019, eq. 2 to 4).

    Ground offsets and heading fall into bins, with a residual each; height and extents are direct. The paper's
    camera axes are mirrored ground axes here, which gives the same bins in another order.

    Args:
        mean_size: (dx, dy, dz) of the class, metres.
        extent: ground offsets are clamped to plus or minus this, metres.
        bin_size: metres.
        heading_bins: number of bins.
        heading_span: radians, see `HeadingBinCoder`.

    >>> BinBoxCoder((3.9, 1.6, 1.5)).code_size, BinBoxCoder((3.9, 1.6, 1.5), 1.5, 0.5, 9, math.pi / 2).code_size
    (76, 46)
    >>> coder = BinBoxCoder((3.9, 1.6, 1.5))
    >>> g, p = torch.tensor([[10.0, 1, -1, 4, 1.7, 1.5, 0.3]]), torch.tensor([[9.0, 1.2, -0.7]])
    >>> torch.allclose(coder.decode(coder.exact(g, p), p), g, atol=1e-5)
    True
    """

    mean_size: tuple[float, float, float]
    extent: float = 3.0
    bin_size: float = 0.5
    heading_bins: int = 12
    heading_span: float = TAU

    @property
    def axis(self) -> AxisBinCoder:
        """Of the ground offsets."""
        return AxisBinCoder(self.extent, self.bin_size)

    @property
    def heading(self) -> HeadingBinCoder:
        """Of the heading."""
        return HeadingBinCoder(self.heading_bins, self.heading_span)

    @property
    def code_size(self) -> int:
        """Number of columns: four per axis bin, height, two per heading bin, three extents."""
        return 4 * self.axis.bins + 1 + 2 * self.heading_bins + 3

    def split(self, codes: Tensor) -> BinBoxCode:
        """Columns of predicted codes ``(N, code_size)``."""
        require_columns("BinBoxCoder.split", "codes", codes, (self.code_size,))
        n, h = self.axis.bins, self.heading_bins
        x_bin, y_bin, x_res, y_res, z, heading_bin, heading_res, size = codes.split(
            (n, n, n, n, 1, h, h, 3), -1
        )
        return BinBoxCode(x_bin, y_bin, x_res, y_res, z[..., 0], heading_bin, heading_res, size)

    def encode(self, boxes: Tensor, points: Tensor) -> BinBoxCode:
        """Targets of boxes ``(N, 7)`` at points ``(N, 3)``."""
        require_columns("BinBoxCoder.encode", "boxes", boxes, (7,))
        require_columns("BinBoxCoder.encode", "points", points, (3,))
        offset = boxes[..., :3] - points
        x_bin, x_res = self.axis.encode(offset[..., 0])
        y_bin, y_res = self.axis.encode(offset[..., 1])
        heading_bin, heading_res = self.heading.encode(boxes[..., 6])
        mean = boxes.new_tensor(self.mean_size)
        size = (boxes[..., 3:6] - mean) / mean
        return BinBoxCode(x_bin, y_bin, x_res, y_res, offset[..., 2], heading_bin, heading_res, size)

    def exact(self, boxes: Tensor, points: Tensor) -> Tensor:
        """Codes ``(N, code_size)`` of a perfect prediction: logit 1 and the residual at the true bins."""
        t = self.encode(boxes, points)
        n, h = self.axis.bins, self.heading_bins

        def at(index: Tensor, bins: int, value: Tensor) -> Tensor:
            return value.new_zeros(*value.shape, bins).scatter(-1, index[..., None], value[..., None])

        one = torch.ones_like(t.z)
        return torch.cat(
            (
                at(t.x_bin, n, one),
                at(t.y_bin, n, one),
                at(t.x_bin, n, t.x_residual),
                at(t.y_bin, n, t.y_residual),
                t.z[..., None],
                at(t.heading_bin, h, one),
                at(t.heading_bin, h, t.heading_residual),
                t.size,
            ),
            -1,
        )

    def decode(self, codes: Tensor, points: Tensor) -> Tensor:
        """Boxes ``(N, 7)`` of codes ``(N, code_size)`` at points ``(N, 3)``: the likeliest bins count."""
        require_columns("BinBoxCoder.decode", "points", points, (3,))
        c = self.split(codes)

        def best(logits: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
            index = logits.argmax(-1)
            return index, residual.gather(-1, index[..., None])[..., 0]

        ground = [
            self.axis.decode(*best(c.x_bin, c.x_residual)),
            self.axis.decode(*best(c.y_bin, c.y_residual)),
        ]
        centre = torch.stack((*ground, c.z), -1) + points
        mean = codes.new_tensor(self.mean_size)
        size = (c.size * mean + mean).clamp(min=MIN_EXTENT)
        heading = self.heading.decode(*best(c.heading_bin, c.heading_residual))
        return torch.cat((centre, size, heading[..., None]), -1)
