"""Operations of the graph: what each does to points, intervals and linear functions.

Feature tensors carry one leading axis that is free: the batch, or batch times rows, or batch times inputs. A
linear operation ``W x + b`` is known by four functions: ``linear`` (W x), ``absolute`` (|W| x), ``transpose``
(W' a) and ``bias``; intervals, LBP and back-substitution are written in these alone. A relaxed operation
replaces itself by linear functions below and above on the interval of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bound_prop.lines import Activation, Lines, Strategy, choose
from bound_prop.sets import Interval

__all__ = [
    "BatchNorm",
    "Concat",
    "Const",
    "Conv",
    "Gather",
    "Input",
    "Linear",
    "LinearOp",
    "MaxPool",
    "Operation",
    "PositiveMap",
    "Product",
    "Relaxed",
    "Reshape",
    "Scale",
    "Sum",
    "Unary",
]


class Const:
    """A tensor that is read when it is needed: a parameter stays the module's own, in any dtype."""

    def __init__(self, read: Callable[[], Tensor]) -> None:
        self._read = read

    @staticmethod
    def of(value: Any) -> Const:
        """A constant of a tensor, or of a number, which keeps its double precision."""
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        return Const(lambda: tensor)

    def __call__(self) -> Tensor:
        return self._read()

    def like(self, x: Tensor) -> Tensor:
        """The value in the dtype and place of ``x``."""
        return self._read().to(dtype=x.dtype, device=x.device)


class Operation:
    """One node's arithmetic."""

    def forward(self, *xs: Tensor) -> Tensor:
        """``(N, *out)`` from each input's ``(N, *in)``."""
        raise NotImplementedError


class Input(Operation):
    """The graph's input."""


class LinearOp(Operation):
    """``W x + b`` of one or several inputs."""

    #: Products that are summed for one entry of W x or of W' a, at most; rounding errors grow with it.
    terms: int = 1
    #: All entries of W are 0 or positive: interval ends map to interval ends.
    positive = False

    def linear(self, *xs: Tensor) -> Tensor:
        """W x."""
        raise NotImplementedError

    def absolute(self, *xs: Tensor) -> Tensor:
        """The magnitudes of W, times x."""
        return self.linear(*xs)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        """W' a for each input."""
        raise NotImplementedError

    def bias(self, like: Tensor) -> Tensor | None:
        """B without a batch axis, or None."""
        return None

    def bias_size(self, like: Tensor) -> Tensor | None:
        """Magnitude to which the rounding errors of b are relative, where b is itself computed: at least that of b."""
        bias = self.bias(like)
        return None if bias is None else bias.abs()

    def forward(self, *xs: Tensor) -> Tensor:
        y, bias = self.linear(*xs), self.bias(xs[0])
        return y if bias is None else y + bias

    def interval(self, *boxes: Interval) -> Interval:
        """Interval of W x + b."""
        if self.positive:
            return self.forward(*(low for low, _ in boxes)), self.forward(*(high for _, high in boxes))
        center = self.forward(*((low + high) / 2 for low, high in boxes))
        radius = self.absolute(*((high - low) / 2 for low, high in boxes))
        return center - radius, center + radius

    def row_norms(self, q: float, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """q-norm of each row of W, ``(*out)``, where that is known without building W; else None."""
        return None


class Linear(LinearOp):
    """``x @ weight.T + bias`` on the last axis."""

    def __init__(self, weight: Const, bias: Const | None) -> None:
        self.weight, self._bias = weight, bias
        self.terms = max(weight().shape)

    def linear(self, *xs: Tensor) -> Tensor:
        return F.linear(xs[0], self.weight.like(xs[0]))

    def forward(self, *xs: Tensor) -> Tensor:
        return F.linear(xs[0], self.weight.like(xs[0]), self.bias(xs[0]))

    def absolute(self, *xs: Tensor) -> Tensor:
        return F.linear(xs[0], self.weight.like(xs[0]).abs())

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a @ self.weight.like(a),)

    def bias(self, like: Tensor) -> Tensor | None:
        return None if self._bias is None else self._bias.like(like)

    def row_norms(self, q: float, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        if len(shape) != 1:
            return None
        norms: Tensor = torch.linalg.vector_norm(self.weight.like(like), q, dim=1)
        return norms


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# Pictures have few channels, for which torch's kernels on a CPU leave most of each vector empty.
_FEW_CHANNELS = 4


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    """Transposed convolution of any dimension; to few channels as one product of matrices and its overlapping sum."""
    if x.is_cpu and weight.ndim == 4 and groups == 1 and weight.shape[1] <= _FEW_CHANNELS:
        kernel = tuple(weight.shape[2:])
        parts = zip(x.shape[2:], stride, padding, output_padding, kernel, dilation, strict=True)
        size = tuple((n - 1) * s - 2 * p + o + d * (k - 1) + 1 for n, s, p, o, k, d in parts)
        columns = torch.matmul(weight.flatten(1).T, x.flatten(2))
        return F.fold(columns, size, kernel, tuple(dilation), tuple(padding), tuple(stride))
    apply = _CONV_TRANSPOSE[weight.ndim - 2]
    return apply(x, weight, None, stride, padding, output_padding, groups, dilation)  # type: ignore[arg-type]


class Conv(LinearOp):
    """Convolution, or transposed convolution, with symmetric zero padding."""

    def __init__(
        self,
        weight: Const,
        bias: Const | None,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        in_shape: tuple[int, ...],
        transposed: bool = False,
        output_padding: tuple[int, ...] | None = None,
    ) -> None:
        self.weight, self._bias = weight, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.transposed = transposed
        kernel = tuple(weight().shape[2:])
        self.terms = math.prod(kernel) * max(weight().shape[:2])
        if transposed:
            self.output_padding = output_padding or (0,) * len(kernel)
            return
        size = in_shape[1:]
        # The input size that a transposed convolution would make, and what is missing to the true one.
        self.output_padding = tuple(
            (n + 2 * p - d * (k - 1) - 1) % s
            for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
        )

    def _conv(self, x: Tensor, weight: Tensor) -> Tensor:
        conv = _CONV[weight.ndim - 2]
        return conv(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def _conv_transpose(self, x: Tensor, weight: Tensor) -> Tensor:
        return conv_transpose(
            x, weight, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_transpose(x, weight) if self.transposed else self._conv(x, weight)

    def linear(self, *xs: Tensor) -> Tensor:
        return self._apply(xs[0], self.weight.like(xs[0]))

    def absolute(self, *xs: Tensor) -> Tensor:
        return self._apply(xs[0], self.weight.like(xs[0]).abs())

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        weight = self.weight.like(a)
        return (self._conv(a, weight) if self.transposed else self._conv_transpose(a, weight),)

    def bias(self, like: Tensor) -> Tensor | None:
        if self._bias is None:
            return None
        bias = self._bias.like(like)
        return bias.view(-1, *[1] * (self.weight().ndim - 2))

    def row_norms(self, q: float, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        # Padding removes taps: the norm differs from place to place at the border.
        weight = self.weight.like(like).abs()
        ones = torch.ones(1, *shape, dtype=like.dtype, device=like.device)
        if math.isinf(q):
            return None
        return self._apply(ones, weight**q)[0] ** (1 / q)


class Scale(LinearOp):
    """``x * scale + shift`` with constants that broadcast to the features.

    ``shift_size``: see `bias_size`; for a shift that is a difference of larger numbers.
    """

    def __init__(self, scale: Const | None, shift: Const | None, shift_size: Const | None = None) -> None:
        self.scale, self.shift, self.shift_size = scale, shift, shift_size

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] if self.scale is None else xs[0] * self.scale.like(xs[0])

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] if self.scale is None else xs[0] * self.scale.like(xs[0]).abs()

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self.linear(a),)

    def bias(self, like: Tensor) -> Tensor | None:
        return None if self.shift is None else self.shift.like(like)

    def bias_size(self, like: Tensor) -> Tensor | None:
        return super().bias_size(like) if self.shift_size is None else self.shift_size.like(like)


class BatchNorm(LinearOp):
    """Batch normalisation as the affine map that its statistics make of it.

    With `batch` set (see `BoundedModule.clean`), mean and variance are those of the clean batch; else the
    running ones.
    """

    def __init__(self, module: torch.nn.Module, rank: int) -> None:
        self.module, self.rank = module, rank
        self.batch: tuple[Tensor, Tensor] | None = None

    def observe(self, x: Tensor) -> None:
        """Takes the statistics of ``x (B, C, *)`` with their gradient, and updates the running ones."""
        module: Any = self.module
        axes = [0, *range(2, x.ndim)]
        mean, variance = x.mean(axes), x.var(axes, unbiased=False)
        self.batch = mean, variance
        if module.track_running_stats and module.running_mean is not None:
            with torch.no_grad():
                count = x.numel() / x.shape[1]
                module.num_batches_tracked.add_(1)
                rate = module.momentum if module.momentum is not None else 1 / module.num_batches_tracked
                module.running_mean.lerp_(mean.detach().to(module.running_mean), rate)
                unbiased = variance.detach() * (count / max(count - 1, 1))
                module.running_var.lerp_(unbiased.to(module.running_var), rate)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, shift, and the magnitude that the shift's rounding errors are relative to."""
        module: Any = self.module
        mean, variance = self.batch or (module.running_mean, module.running_var)
        mean, variance = mean.to(like), variance.to(like)
        scale = torch.rsqrt(variance + module.eps)
        if module.weight is not None:
            scale = scale * module.weight.to(like)
        shift = -mean * scale
        size = shift.abs()
        if module.bias is not None:
            shift, size = shift + module.bias.to(like), size + module.bias.to(like).abs()
        return scale, shift, size

    def _shaped(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (self.rank - 1))

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] * self._shaped(self._affine(xs[0])[0])

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] * self._shaped(self._affine(xs[0])[0]).abs()

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self.linear(a),)

    def bias(self, like: Tensor) -> Tensor | None:
        return self._shaped(self._affine(like)[1])

    def bias_size(self, like: Tensor) -> Tensor | None:
        return self._shaped(self._affine(like)[2])


class Reshape(LinearOp):
    """The same numbers in another shape."""

    positive = True

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].reshape(len(xs[0]), *self.out_shape)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(len(a), *self.in_shape),)


class Gather(LinearOp):
    """Any movement of data: each output is one input, or 0 (then possibly plus a constant, for padding)."""

    positive = True

    def __init__(self, index: Tensor, in_shape: Sequence[int], fill: float = 0.0) -> None:
        self.index, self.in_shape, self.out_shape = index.flatten(), tuple(in_shape), tuple(index.shape)
        self.fill = fill
        self.size = math.prod(self.in_shape)
        inverse = torch.full((self.size,), -1)
        inverse[self.index[self.index >= 0]] = torch.nonzero(self.index >= 0)[:, 0]
        used = torch.unique(self.index[self.index >= 0]).numel()
        # Where no input is used twice, the transpose is a gather too.
        self.inverse = inverse if used == int((self.index >= 0).sum()) else None
        self._counts = int(torch.bincount(self.index[self.index >= 0], minlength=1).max())
        self.terms = max(1, self._counts)

    @staticmethod
    def _take(x: Tensor, index: Tensor) -> Tensor:
        index = index.to(x.device)
        taken = x[:, index.clamp(min=0)]
        return taken if bool((index >= 0).all()) else taken * (index >= 0).to(x)

    def linear(self, *xs: Tensor) -> Tensor:
        return self._take(xs[0].flatten(1), self.index).view(len(xs[0]), *self.out_shape)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        flat = a.flatten(1)
        if self.inverse is not None:
            return (self._take(flat, self.inverse).view(len(a), *self.in_shape),)
        kept = self.index >= 0
        zero = torch.zeros(len(a), self.size, dtype=a.dtype, device=a.device)
        result = zero.index_add(1, self.index[kept].to(a.device), flat[:, kept.to(a.device)])
        return (result.view(len(a), *self.in_shape),)

    def bias(self, like: Tensor) -> Tensor | None:
        if self.fill == 0.0:
            return None
        return (self.index < 0).to(like).view(self.out_shape) * self.fill


class PositiveMap(LinearOp):
    """A linear function with entries of at least 0, such as pooling by average: the transpose is its gradient."""

    positive = True

    def __init__(self, function: Callable[[Tensor], Tensor], in_shape: Sequence[int], terms: int) -> None:
        self.function, self.in_shape, self.terms = function, tuple(in_shape), terms

    def linear(self, *xs: Tensor) -> Tensor:
        return self.function(xs[0])

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        zero = torch.zeros(len(a), *self.in_shape, dtype=a.dtype, device=a.device)
        pull = torch.func.vjp(self.function, zero)[1]
        return (pull(a)[0],)


class Sum(LinearOp):
    """``signs[0] x_0 + signs[1] x_1 + ...`` of equal shapes."""

    def __init__(self, signs: Sequence[float]) -> None:
        self.signs, self.terms = tuple(signs), len(signs)

    def linear(self, *xs: Tensor) -> Tensor:
        total = xs[0] if self.signs[0] == 1 else xs[0] * self.signs[0]
        for sign, x in zip(self.signs[1:], xs[1:], strict=True):
            total = torch.add(total, x, alpha=sign)
        return total

    def absolute(self, *xs: Tensor) -> Tensor:
        total = xs[0] * abs(self.signs[0])
        for sign, x in zip(self.signs[1:], xs[1:], strict=True):
            total = torch.add(total, x, alpha=abs(sign))
        return total

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(a if sign == 1 else a * sign for sign in self.signs)


class Concat(LinearOp):
    """Inputs side by side along feature axis ``axis``."""

    positive = True

    def __init__(self, axis: int, sizes: Sequence[int]) -> None:
        self.axis, self.sizes = axis + 1, list(sizes)

    def linear(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, self.axis)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(a.split(self.sizes, self.axis))


class Planes(NamedTuple):
    """What stands for a relaxed operation on an interval: opaque to everyone but the operation itself."""

    lower: tuple[Tensor, ...]
    lower_bias: Tensor
    upper: tuple[Tensor, ...]
    upper_bias: Tensor


class Relaxed(Operation):
    """An operation that is bounded by linear functions of its inputs."""

    def interval(self, *boxes: Interval) -> Interval:
        """Range over the inputs' intervals."""
        raise NotImplementedError

    def planes(self, boxes: Sequence[Interval], strategy: Strategy) -> Planes:
        """Linear functions below and above, ``(B, *)``."""
        raise NotImplementedError

    def pull(self, a: Tensor, planes: Planes) -> tuple[tuple[Tensor, ...], Tensor]:
        """Rows ``(B, S, *out)`` of a lower bound to rows of the inputs, and the constant ``(B, S)``."""
        parts = halves(a)
        constant = _signed_dot(parts, planes.lower_bias, planes.upper_bias)
        *first, last = zip(planes.lower, planes.upper, strict=True)
        rows = [sloped((parts[0].clone(), parts[1]), _wide(low, a), _wide(up, a)) for low, up in first]
        return (*rows, sloped(parts, *(_wide(line, a) for line in last))), constant

    def push(self, states: Sequence[State], planes: Planes) -> State:
        """LBP: linear functions of the input through the planes."""
        lower, upper = _through(states, planes.lower), _through(states, planes.upper, upper=True)
        return State(lower[0], lower[1] + planes.lower_bias, upper[0], upper[1] + planes.upper_bias)


class State(NamedTuple):
    """Linear functions of the graph's input around a node: matrices ``(B, n_in, *f)``, offsets ``(B, *f)``."""

    lower: Tensor
    lower_bias: Tensor
    upper: Tensor
    upper_bias: Tensor


def _wide(line: Tensor, a: Tensor) -> Tensor:
    """A line ``(B, *f)`` beside rows ``(B, S, *f)``; one that has rows of its own stays."""
    return line if line.ndim == a.ndim else line.unsqueeze(1)


def halves(a: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the negative entries of rows, zero elsewhere; a zero's gradient is the negative part's."""
    plus = torch.relu(a)
    return plus, a - plus


def sloped(parts: tuple[Tensor, Tensor], low: Tensor, up: Tensor) -> Tensor:
    """Positive entries times ``low`` plus negative ones times ``up``; the positive part may be overwritten.

    Much faster than a choice by sign, which torch does not vectorise, and exact: one of the two products is zero.
    """
    plus, minus = parts
    own = plus.shape == torch.broadcast_shapes(plus.shape, low.shape)
    if own and not (plus.requires_grad or low.requires_grad or up.requires_grad):
        return plus.mul_(low).addcmul_(minus, up)
    return torch.addcmul(plus * low, minus, up)


def _signed_dot(parts: tuple[Tensor, Tensor], lower: Tensor, upper: Tensor) -> Tensor:
    """Positive entries of rows times ``lower`` and negative ones times ``upper``, ``(B, S)``.

    Offsets that are all zero, as below a ReLU, cost nothing; under a graph of gradients they may become others.
    """
    a = parts[0]
    total = torch.zeros((), dtype=a.dtype, device=a.device)
    for part, bias in zip(parts, (lower, upper), strict=True):
        if bias.requires_grad or bool((bias != 0).any()):
            total = total + _dot(part, bias)
    return total if total.ndim else total.expand(a.shape[:2])


def _dot(a: Tensor, bias: Tensor) -> Tensor:
    """``(B, S)`` from rows ``(B, S, *f)`` and ``(B, *f)`` or ``(B, S, *f)``."""
    rows = a.flatten(2)
    if bias.ndim == a.ndim:
        return (rows * bias.flatten(2)).sum(2)
    if len(rows) == 1:  # rows that all examples share
        return bias.flatten(1) @ rows[0].T
    return torch.bmm(rows, bias.flatten(1).expand(len(rows), -1).unsqueeze(2)).squeeze(2)


def _through(states: Sequence[State], slopes: Sequence[Tensor], upper: bool = False) -> tuple[Tensor, Tensor]:
    matrix: Tensor | None = None
    offset: Tensor | None = None
    for state, slope in zip(states, slopes, strict=True):
        own = (state.upper, state.upper_bias) if upper else (state.lower, state.lower_bias)
        other = (state.lower, state.lower_bias) if upper else (state.upper, state.upper_bias)
        part, shift = own[0] * slope.unsqueeze(1), own[1] * slope
        if bool((slope < 0).any()):
            plus, minus = slope.clamp(min=0), slope.clamp(max=0)
            part = own[0] * plus.unsqueeze(1) + other[0] * minus.unsqueeze(1)
            shift = own[1] * plus + other[1] * minus
        matrix = part if matrix is None else matrix + part
        offset = shift if offset is None else offset + shift
    assert matrix is not None
    assert offset is not None
    return matrix, offset


class Unary(Relaxed):
    """An elementwise activation; ``make`` gives the `Activation` with its present parameters."""

    def __init__(self, make: Callable[[Tensor], Activation], kind: str) -> None:
        self.make, self.kind = make, kind

    def forward(self, *xs: Tensor) -> Tensor:
        return self.make(xs[0]).forward(xs[0])

    def interval(self, *boxes: Interval) -> Interval:
        return self.make(boxes[0][0]).interval(*boxes[0])

    def lines(self, box: Interval, strategy: Strategy) -> Lines:
        """The activation's lines."""
        return choose(self.make(box[0]), strategy, *box)

    def planes(self, boxes: Sequence[Interval], strategy: Strategy) -> Planes:
        return as_planes(self.lines(boxes[0], strategy))


def as_planes(lines: Lines) -> Planes:
    """Lines of one input as planes."""
    return Planes((lines.lower_slope,), lines.lower_bias, (lines.upper_slope,), lines.upper_bias)


class Product(Relaxed):
    """``x * y`` of two bounded inputs: McCormick's planes."""

    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0] * xs[1]

    def interval(self, *boxes: Interval) -> Interval:
        (a, b), (c, d) = boxes
        corners = torch.stack([a * c, a * d, b * c, b * d])
        return corners.amin(0), corners.amax(0)

    def planes(self, boxes: Sequence[Interval], strategy: Strategy) -> Planes:
        if strategy in ("tight", "constant"):
            low, high = self.interval(*boxes)  # McCormick's planes leave the interval's box
            zero = torch.zeros_like(low)
            return Planes((zero, zero), low, (zero, zero), high)
        (a, b), (c, _) = boxes
        return Planes((c, a), -a * c, (c, b), -b * c)


class MaxPool(Relaxed):
    """Largest of each window, ``windows (P, K)`` of flat input places with -1 for padding.

    Below: the input whose lower bound is largest. Above: the chord of ``max(x, r)``, where x is the input whose upper
    bound is largest and r the largest upper bound of the others: x itself where its lower bound reaches r. Both stay
    inside the interval's box.
    """

    def __init__(self, windows: Tensor, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        self.windows, self.in_shape, self.out_shape = windows, tuple(in_shape), tuple(out_shape)

    def _view(self, x: Tensor) -> Tensor:
        """``(N, P, K)``; padding is -inf."""
        windows = self.windows.to(x.device)
        return x.flatten(1)[:, windows.clamp(min=0)].masked_fill(windows < 0, -math.inf)

    def forward(self, *xs: Tensor) -> Tensor:
        return self._view(xs[0]).amax(2).view(len(xs[0]), *self.out_shape)

    def interval(self, *boxes: Interval) -> Interval:
        return self.forward(boxes[0][0]), self.forward(boxes[0][1])

    def planes(self, boxes: Sequence[Interval], strategy: Strategy) -> Planes:
        low, high = (self._view(end) for end in boxes[0])
        value, pick = low.max(2)
        most, peak = high.max(2)
        if strategy == "constant":
            none = torch.zeros_like(value)
            return Planes((self._places(pick), none), value, (self._places(peak), none), most)
        start = low.gather(2, peak.unsqueeze(2)).squeeze(2)
        rest = torch.maximum(high.scatter(2, peak.unsqueeze(2), -math.inf).amax(2), start)
        slope = (most - rest) / torch.where(most > start, most - start, torch.ones_like(most))
        follow, zero = torch.ones_like(value), torch.zeros_like(value)
        return Planes((self._places(pick), follow), zero, (self._places(peak), slope), rest - slope * start)

    def _places(self, pick: Tensor) -> Tensor:
        """Flat places ``(B, P)`` of picks among the entries of each window."""
        windows = self.windows.to(pick.device).expand(len(pick), -1, -1)
        return windows.gather(2, pick.unsqueeze(2)).squeeze(2)

    def reach(self, planes: Planes, size: Tensor) -> Tensor:
        """Largest magnitude ``(B, *out)`` of slope times input, for inputs of magnitude ``size (B, *in)``."""
        ends = [share * size.flatten(1).gather(1, place) for place, share in (planes.lower, planes.upper)]
        return torch.maximum(*ends).view(-1, *self.out_shape)

    def pull(self, a: Tensor, planes: Planes) -> tuple[tuple[Tensor, ...], Tensor]:
        sides = halves(a.flatten(2))
        result: Tensor | None = None
        for side, (place, share) in zip(sides, (planes.lower, planes.upper), strict=True):
            moved = side * share.unsqueeze(1)
            if result is None:
                result = torch.zeros(
                    *moved.shape[:2], math.prod(self.in_shape), dtype=a.dtype, device=a.device
                )
            result = result.scatter_add(2, place.unsqueeze(1).expand_as(moved), moved)
        assert result is not None
        constant = _dot(sides[0], planes.lower_bias) + _dot(sides[1], planes.upper_bias)
        return (result.view(*result.shape[:2], *self.in_shape),), constant

    def push(self, states: Sequence[State], planes: Planes) -> State:
        def take(
            matrix: Tensor, offset: Tensor, plane: tuple[Tensor, ...], bias: Tensor
        ) -> tuple[Tensor, Tensor]:
            place, share = plane
            places = place.unsqueeze(1).expand(-1, matrix.shape[1], -1)
            moved = matrix.flatten(2).gather(2, places) * share.unsqueeze(1)
            shift = offset.flatten(1).gather(1, place) * share + bias
            return moved.view(*moved.shape[:2], *self.out_shape), shift.view(-1, *self.out_shape)

        lower = take(states[0].lower, states[0].lower_bias, planes.lower, planes.lower_bias)
        upper = take(states[0].upper, states[0].upper_bias, planes.upper, planes.upper_bias)
        return State(*lower, *upper)
