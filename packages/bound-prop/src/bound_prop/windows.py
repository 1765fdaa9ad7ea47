"""Rows of single neurons through convolutions: what is zero outside a window is kept as the window.

A neuron of a convolution sees a small part of the maps before it. Its row of coefficients is stored as that part and
the place of its corner, which moves with stride and padding from layer to layer; parts that reach beyond a map are
padding and count as zero. Where an operation mixes places in another way, or a window has grown to most of a map, the
row is written out (`Windows.dense`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bound_prop.graph import ops
from bound_prop.graph.build import Graph
from bound_prop.graph.ops import Planes
from bound_prop.sets import Box, InputSet

__all__ = ["Windows", "added", "floats_of_a_row", "is_windowed", "neurons", "passes", "too_wide"]

#: A window that covers more than this share of a map is written out.
_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows ``(B, S)`` of a node with maps ``(C, H, W)``; those of both ends of a neuron have the same window.

    Attributes:
        values: ``(B S, C, h, w)``, channels last in memory; S counts all rows of the first end, then the second's.
        start: ``(B, S / ends, 2)`` place of the neuron in its own map.
        stride: places in this map for each place in the neuron's map, down and right.
        shift: the window's corner is ``start * stride - shift``.
        clean: everything beyond the map is zero already.
        ends: rows of each neuron, 1 or 2.
    """

    values: Tensor
    start: Tensor
    stride: tuple[int, int]
    shift: tuple[int, int]
    clean: bool = True
    ends: int = 1

    @property
    def rows(self) -> int:
        """S."""
        return self.ends * self.start.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.values.shape[2], self.values.shape[3]

    def mirrored(self) -> Windows:
        """The rows, and behind them their negatives: ``(B, 2 S)``."""
        own = self.entries()
        return self._with(torch.cat([own, -own], 1), ends=2)

    def entries(self) -> Tensor:
        """The rows as ``(B, ends, S / ends, h w, C)``; a view."""
        h, w = self.size
        flat = self.values.permute(0, 2, 3, 1)
        return flat.reshape(self.start.shape[0], self.ends, -1, h * w, flat.shape[3])

    def _with(self, entries: Tensor, **changes: Any) -> Windows:
        """The same windows with other entries."""
        values = entries.reshape(-1, *self.size, entries.shape[4]).permute(0, 3, 1, 2)
        return replace(self, values=values, **changes)

    def corner(self) -> Tensor:
        """``(B S / ends, 2)`` first place of each window; may lie before the map."""
        both = torch.tensor([self.stride, self.shift], device=self.start.device)
        return (self.start * both[0] - both[1]).flatten(0, 1)

    def of(self, maps: Tensor) -> Tensor:
        """What maps ``(B, C, H, W)`` hold in each window, beside `entries`; zero beyond them."""
        padded, corner = self._padded(maps)
        h, w = self.size
        b, height, width, c = padded.shape
        sb, sy, sx, sc = padded.stride()
        view = padded.as_strided((b, height - h + 1, width - w + 1, h, w, c), (sb, sy, sx, sy, sx, sc))
        example = torch.arange(b, device=maps.device).repeat_interleave(self.start.shape[1])
        if b == 1:
            example = torch.zeros(len(corner), dtype=torch.long, device=maps.device)
        return view[example, corner[:, 0], corner[:, 1]].view(b, 1, -1, h * w, c)

    def _padded(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, H', W', C)`` with room for every window, and the corners in them."""
        corner, (height, width) = self.corner(), maps.shape[2:]
        before, after = self._overhang(corner, height, width)
        wide = F.pad(maps, (before[1], after[1], before[0], after[0]))
        moved = corner + torch.tensor(before, device=corner.device)
        return wide.permute(0, 2, 3, 1).contiguous(), moved

    def _overhang(self, corner: Tensor, height: int, width: int) -> tuple[list[int], list[int]]:
        """Places before and behind the map that some window reaches, down and right."""
        if not len(corner):
            return [0, 0], [max(0, self.size[0] - height), max(0, self.size[1] - width)]
        low, high = corner.amin(0).tolist(), corner.amax(0).tolist()
        before = [max(0, -int(v)) for v in low]
        ends = [int(v) + s - n for v, s, n in zip(high, self.size, (height, width), strict=True)]
        return before, [max(0, e) for e in ends]

    def masked(self, shape: Sequence[int]) -> Windows:
        """With zeros where a window lies beyond a map of ``shape (C, H, W)``."""
        if self.clean:
            return self
        before, after = self._overhang(self.corner(), shape[1], shape[2])
        if not any(before) and not any(after):
            return replace(self, clean=True)
        ones = torch.ones(1, 1, *shape[1:], dtype=self.values.dtype, device=self.values.device)
        inside = self.of(ones.expand(self.start.shape[0], -1, -1, -1))
        return self._with(self.entries() * inside, clean=True)

    def dense(self, shape: Sequence[int]) -> Tensor:
        """Rows ``(B, S, C, H, W)``."""
        batch, (c, height, width), (h, w) = self.start.shape[0], shape, self.size
        corner = self.corner()
        before, after = self._overhang(corner, height, width)
        tall, wide = height + before[0] + after[0], width + before[1] + after[1]
        place = corner + torch.tensor(before, device=corner.device)
        down = place[:, :1] + torch.arange(h, device=corner.device)
        right = place[:, 1:] + torch.arange(w, device=corner.device)
        index = (down.unsqueeze(2) * wide + right.unsqueeze(1)).view(batch, 1, -1, h * w, 1)
        own = self.entries()
        zero = torch.zeros(*own.shape[:3], tall * wide, c, dtype=own.dtype, device=own.device)
        full = zero.scatter(3, index.expand_as(own), own).view(batch, self.rows, tall, wide, c)
        inner = full[:, :, before[0] : before[0] + height, before[1] : before[1] + width]
        return inner.permute(0, 1, 4, 2, 3)

    def __add__(self, other: Windows) -> Windows:
        """The sum of two windows of the same rows and stride, on the union of both."""
        before = [max(a, b) for a, b in zip(self.shift, other.shift, strict=True)]
        ends = [
            max(n - a, m - b)
            for n, a, m, b in zip(self.size, self.shift, other.size, other.shift, strict=True)
        ]

        def grown(part: Windows) -> Tensor:
            top, left = (b - s for b, s in zip(before, part.shift, strict=True))
            bottom, right = (e - (n - s) for e, n, s in zip(ends, part.size, part.shift, strict=True))
            return F.pad(part.values, (left, right, top, bottom))

        total = grown(self) + grown(other)
        clean = self.clean and other.clean
        return replace(self, values=total, shift=(before[0], before[1]), clean=clean)

    def through(self, op: Any, planes: Planes | None, shape: Sequence[int]) -> tuple[list[Windows], Tensor]:
        """Rows of a node of ``shape (C, H, W)`` to rows of its inputs, and the constants ``(B, S)``."""
        if planes is not None:
            return self._relaxed(planes)
        here = self.masked(shape)
        bias = op.bias(self.values)
        constant = torch.zeros((), dtype=self.values.dtype, device=self.values.device)
        if bias is not None:
            each = bias.expand(shape).flatten(1)[:, 0]  # constant over a map: `_passes` has seen to it
            constant = (here.values.sum((2, 3)) @ each).view(-1, self.rows)
        if isinstance(op, ops.Conv):
            return [here._convolved(op)], constant
        if isinstance(op, ops.Sum):
            parts = [here if s == 1 else replace(here, values=here.values * s) for s in op.signs]
            return parts, constant
        return [replace(here, values=op.linear(here.values))], constant

    def _relaxed(self, planes: Planes) -> tuple[list[Windows], Tensor]:
        # Lines are zero beyond their maps: so is what comes out.
        halves = ops.halves(self.entries())
        constant = torch.zeros((), dtype=self.values.dtype, device=self.values.device)
        for half, bias in zip(halves, (planes.lower_bias, planes.upper_bias), strict=True):
            if bool((bias != 0).any()):
                constant = constant + (half * self.of(bias)).sum((3, 4)).flatten(1)
        slopes = self.of(planes.lower[0]), self.of(planes.upper[0])
        return [self._with(ops.sloped(halves, *slopes), clean=True)], constant

    def _convolved(self, op: ops.Conv) -> Windows:
        weight = op.weight.like(self.values).contiguous(memory_format=torch.channels_last)
        values = ops.conv_transpose(self.values, weight, op.stride, (0, 0), (0, 0), op.groups, op.dilation)
        return self._moved(op, values)

    def _moved(self, op: ops.Conv, values: Tensor) -> Windows:
        (sy, sx), (py, px) = op.stride, op.padding
        stride = self.stride[0] * sy, self.stride[1] * sx
        shift = self.shift[0] * sy + py, self.shift[1] * sx + px
        return replace(self, values=values, stride=stride, shift=shift, clean=False)

    def concretise(self, region: InputSet) -> Tensor:
        """Least values ``(B, S)`` over a set of inputs."""
        own = self.entries()
        center = (own * self.of(region.center)).sum((3, 4)).flatten(1)
        if isinstance(region, Box):
            reach = self.of((region.upper - region.lower) / 2)
            return center - (own.abs() * reach).sum((3, 4)).flatten(1)
        rows = self.masked(region.center.shape[1:]).values.flatten(1).view(*center.shape, -1)
        return center - region.radius_times(rows)


def neurons(op: ops.Conv, places: Tensor, shape: Sequence[int], like: Tensor) -> tuple[Windows, Tensor]:
    """Rows of neurons of a convolution in terms of its input, and their offsets ``(B, S)``.

    Args:
        op: the convolution.
        places: ``(B, S)`` flat numbers of neurons.
        shape: ``(C, H, W)`` of its output.
        like: gives dtype and place.
    """
    weight = op.weight.like(like)
    area = shape[1] * shape[2]
    channel, rest = places // area, places % area
    start = torch.stack([rest // shape[2], rest % shape[2]], -1)
    bias = op.bias(weight)
    offset = torch.zeros(places.shape).to(weight) if bias is None else bias.flatten()[channel]
    flat = channel.flatten()
    if op.groups == 1 and set(op.dilation) == {1}:
        # The row of one neuron is a slice of the weights: nothing is multiplied.
        values = weight.permute(0, 2, 3, 1)[flat].permute(0, 3, 1, 2)
        return Windows(values, start, (1, 1), (0, 0))._moved(op, values), offset
    one = F.one_hot(flat, shape[0]).to(weight).view(-1, shape[0], 1, 1)
    return Windows(one, start, (1, 1), (0, 0))._convolved(op), offset


def added(a: Tensor | Windows, b: Tensor | Windows, shape: Sequence[int]) -> Tensor | Windows:
    """The sum of two sets of rows of a node, as windows where both are and belong together."""
    if isinstance(a, Windows) and isinstance(b, Windows) and a.stride == b.stride:
        return a + b
    wide = [part.dense(shape) if isinstance(part, Windows) else part for part in (a, b)]
    return wide[0] + wide[1]


def is_windowed(op: Any) -> bool:
    """Whether neurons of the operation have windows: plain convolutions of pictures."""
    return isinstance(op, ops.Conv) and not op.transposed and op.weight().ndim == 4


def passes(op: Any, shape: Sequence[int], like: Tensor) -> bool:
    """Whether windows of a node of ``shape`` go through its operation as windows."""
    if len(shape) != 3:
        return False
    if isinstance(op, ops.Unary | ops.Sum | ops.BatchNorm):
        return True
    if isinstance(op, ops.Scale):
        return all(part is None or _by_channel(part.like(like), shape[0]) for part in (op.scale, op.shift))
    return is_windowed(op)


def _by_channel(constant: Tensor, channels: int) -> bool:
    return constant.numel() == 1 or (constant.numel() == channels and constant.shape[-2:] == (1, 1))


def too_wide(window: tuple[int, int], shape: Sequence[int]) -> bool:
    """Whether a window is better written out."""
    return math.prod(min(a, b) for a, b in zip(window, shape[1:], strict=True)) > _SHARE * shape[1] * shape[2]


def floats_of_a_row(graph: Graph, index: int) -> int:
    """The most numbers that one neuron's row holds at any node on its way to the input."""
    node = graph.nodes[index]
    whole = max(math.prod(n.shape) for n in graph.nodes[: index + 1])
    if not is_windowed(node.op):
        return whole
    most, sizes = 1, {index: (1, 1)}
    for k in range(index, -1, -1):
        if k not in sizes:
            continue
        node, window = graph.nodes[k], sizes[k]
        if k < index and (len(node.shape) != 3 or too_wide(window, node.shape)):
            return whole
        most = max(most, node.shape[0] * window[0] * window[1])
        op: Any = node.op
        if k == 0:
            continue
        if is_windowed(op):
            spans = zip(window, op.stride, op.dilation, op.weight().shape[2:], strict=True)
            h, w = ((n - 1) * s + d * (m - 1) + 1 for n, s, d, m in spans)
            window = int(h), int(w)
        elif not isinstance(op, ops.Unary | ops.Sum | ops.BatchNorm | ops.Scale):
            return whole
        for i in node.inputs:
            old = sizes.get(i, (1, 1))
            sizes[i] = max(old[0], window[0]), max(old[1], window[1])
    return most
