"""The graph and its builder: one method per operation, shared by the tracer and the ONNX reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from bound_prop.graph import ops
from bound_prop.graph.ops import Const, LinearOp, Operation, Relaxed
from bound_prop.lines import Activation, Convex, Ramp, SShaped
from tenfold._errors import first_line

__all__ = ["Graph", "GraphBuilder", "Node", "UnsupportedOperationError", "Value"]


class UnsupportedOperationError(ValueError):
    """The network holds something that cannot be bounded; the message names it and its module."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the network that depends on the input: node number and features without the batch."""

    index: int
    shape: tuple[int, ...]


@dataclass(eq=False)
class Node:
    """One operation: its inputs are earlier nodes."""

    name: str
    op: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(eq=False)
class Graph:
    """Nodes in order of evaluation; the first is the input.

    Attributes:
        nodes: the operations.
        output: number of the node whose value is the network's.
    """

    nodes: list[Node] = field(default_factory=list)
    output: int = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Features of the input."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Features of the output."""
        return self.nodes[self.output].shape

    def forward(self, x: Tensor) -> Tensor:
        """The network's output for ``x (N, *input)``."""
        return self.values(x)[self.output]

    def values(self, x: Tensor) -> dict[int, Tensor]:
        """Every node's value for ``x (N, *input)``."""
        known: dict[int, Tensor] = {0: x}
        for index, node in enumerate(self.nodes[1:], 1):
            known[index] = node.op.forward(*(known[i] for i in node.inputs))
        return known

    def pruned(self) -> Graph:
        """Without the nodes that the output does not need."""
        needed = {0, self.output}
        for index in range(len(self.nodes) - 1, 0, -1):
            if index in needed:
                needed.update(self.nodes[index].inputs)
        order = sorted(needed)
        place = {old: new for new, old in enumerate(order)}
        nodes = [
            Node(n.name, n.op, tuple(place[i] for i in n.inputs), n.shape)
            for n in (self.nodes[i] for i in order)
        ]
        return Graph(nodes, place[self.output])


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z) ** 2


def _sigmoid_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


class _Softplus(Convex):
    """As torch computes it, which is the identity above 20: that is off by up to 2.1e-9 there."""

    ulps = 2.0**20


_SMOOTH: dict[str, Activation] = {
    "sigmoid": SShaped(torch.sigmoid, _sigmoid_slope),
    "tanh": SShaped(torch.tanh, _tanh_slope),
    "atan": SShaped(torch.atan, lambda z: 1 / (1 + z * z)),
    "erf": SShaped(torch.erf, lambda z: torch.exp(-z * z) * (2 / math.sqrt(math.pi))),
    "exp": Convex(torch.exp, torch.exp, -math.inf),
    "softplus": _Softplus(F.softplus, torch.sigmoid, -math.inf),
    "elu": Convex(F.elu, lambda z: torch.exp(z.clamp(max=0)), -math.inf),
    "log": Convex(torch.log, torch.reciprocal, math.inf, -1, 0.0),
    "sqrt": Convex(torch.sqrt, lambda z: 0.5 * torch.rsqrt(z), math.inf, -1, 0.0),
    "square": Convex(torch.square, lambda z: 2 * z, 0.0),
    "abs": Convex(torch.abs, torch.sign, 0.0),
}


class GraphBuilder:
    """Builds a `Graph`; every method takes values and constants and returns a value.

    Args:
        input_shape: features of the input, without the batch.

    >>> build = GraphBuilder((2,))
    >>> y = build.relu(build.linear(build.input, Const.of(torch.eye(2)), None))
    >>> build.finish(y).forward(torch.tensor([[-1.0, 2.0]]))
    tensor([[0., 2.]])
    """

    def __init__(self, input_shape: Sequence[int]) -> None:
        self.nodes = [Node("input", ops.Input(), (), tuple(input_shape))]
        self.input = Value(0, tuple(input_shape))
        #: Path of the module that is being built, for names and errors.
        self.place = ""
        # A constant factor or shift of a node, for the recognition of ParamRamp.
        self._scaled: dict[int, tuple[int, Const]] = {}
        self._shifted: dict[int, tuple[int, Const]] = {}

    def finish(self, output: Value) -> Graph:
        """The graph whose output is ``output``."""
        return Graph(self.nodes, output.index).pruned()

    @staticmethod
    def flattened(graph: Graph) -> Graph:
        """The graph with flat inputs ``(n,)`` and flat outputs ``(K,)``."""
        size, outputs = math.prod(graph.input_shape), math.prod(graph.output_shape)
        start = Node("input", ops.Input(), (), (size,))
        shaped = Node("input.reshape", ops.Reshape((size,), graph.input_shape), (0,), graph.input_shape)
        moved = [Node(n.name, n.op, tuple(i + 1 for i in n.inputs), n.shape) for n in graph.nodes[1:]]
        nodes = [start, shaped, *moved]
        last = Node(
            "output.reshape", ops.Reshape(graph.output_shape, (outputs,)), (graph.output + 1,), (outputs,)
        )
        return Graph([*nodes, last], len(nodes))

    def refuse(self, what: str, advice: str) -> NoReturn:
        """Raises with the operation, the module's path and what to do."""
        where = f"module {self.place!r}" if self.place else "the network"
        raise UnsupportedOperationError(f"bound_prop: {where}: {what}; {advice}")

    def add_node(self, op: Operation, inputs: Sequence[Value], shape: Sequence[int], kind: str) -> Value:
        """Appends an operation."""
        name = f"{self.place or 'network'}.{kind}.{len(self.nodes)}"
        self.nodes.append(Node(name, op, tuple(v.index for v in inputs), tuple(shape)))
        return Value(len(self.nodes) - 1, tuple(shape))

    # Linear operations.

    def linear(self, x: Value, weight: Const, bias: Const | None) -> Value:
        """``x @ weight.T + bias`` on the last axis."""
        rows, columns = weight().shape
        if not x.shape or x.shape[-1] != columns:
            self.refuse(
                f"a linear layer for {columns} features meets shape {x.shape}", "check the input shape"
            )
        return self.add_node(ops.Linear(weight, bias), [x], (*x.shape[:-1], rows), "linear")

    def conv(
        self,
        x: Value,
        weight: Const,
        bias: Const | None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        transposed: bool = False,
        output_padding: Any = 0,
    ) -> Value:
        """Convolution; padding may be "same", "valid", a number, or one number for each side of each axis."""
        rank = weight().ndim - 2
        if len(x.shape) != rank + 1:
            self.refuse(f"a {rank}d convolution meets features of shape {x.shape}", "check the input shape")
        stride, dilation = _many(stride, rank), _many(dilation, rank)
        kernel = tuple(weight().shape[2:])
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            padding = [t // 2 for t in total] + [t - t // 2 for t in total]
        pads = _many(0 if padding == "valid" else padding, rank)
        if len(pads) == 2 * rank:  # begins, then ends, as ONNX has them
            begins, ends = pads[:rank], pads[rank:]
            pads = begins
            if begins != ends:
                x = self.pad(x, [(0, 0), *zip(begins, ends, strict=True)])
                pads = (0,) * rank
        op = ops.Conv(
            weight,
            bias,
            stride=stride,
            padding=pads,
            dilation=dilation,
            groups=groups,
            in_shape=x.shape,
            transposed=transposed,
            output_padding=_many(output_padding, rank),
        )
        return self._run(op, [x], "conv")

    def batch_norm(self, x: Value, module: torch.nn.Module) -> Value:
        """Batch normalisation with the module's parameters and statistics."""
        return self.add_node(ops.BatchNorm(module, len(x.shape)), [x], x.shape, "batch_norm")

    def scale(
        self, x: Value, factor: Const | None, shift: Const | None, shift_size: Const | None = None
    ) -> Value:
        """``x * factor + shift``; constants have the features' axes, or the batch axis (of size 1) too.

        ``shift_size``: see `ops.Scale`.
        """
        factor, shift, shift_size = (self._features(x, const) for const in (factor, shift, shift_size))
        source = self.nodes[x.index]
        if factor is None and shift is not None and isinstance(source.op, ops.Linear):
            merged = self._with_bias(x, source.op, shift)
            if merged is not None:
                return merged
        shape = torch.broadcast_shapes(x.shape, *(c().shape for c in (factor, shift) if c is not None))
        x = self.expand(x, shape)
        result = self.add_node(ops.Scale(factor, shift, shift_size), [x], shape, "scale")
        if factor is not None and shift is None:
            self._scaled[result.index] = (x.index, factor)
        if shift is not None and factor is None:
            self._shifted[result.index] = (x.index, shift)
        return result

    def _with_bias(self, x: Value, op: ops.Linear, shift: Const) -> Value | None:
        """A matrix product followed by a sum is one linear layer."""
        size = shift().numel()
        if (
            op.bias(shift()) is not None
            or size not in (1, x.shape[-1])
            or size != max(shift().shape, default=1)
        ):
            return None
        if size > 1 and (not shift().ndim or shift().shape[-1] != size):
            return None
        bias = Const(lambda: shift().reshape(-1).expand(x.shape[-1]))
        source = self.nodes[x.index]
        return self.add_node(
            ops.Linear(op.weight, bias),
            [Value(i, self.nodes[i].shape) for i in source.inputs],
            x.shape,
            "linear",
        )

    def _features(self, x: Value, const: Const | None) -> Const | None:
        """A constant without a batch axis."""
        if const is None:
            return None
        value = const()
        if value.ndim <= len(x.shape):
            return const
        if value.ndim == len(x.shape) + 1 and value.shape[0] == 1:
            return Const(lambda: const()[0])
        self.refuse(
            f"a constant of shape {tuple(value.shape)} meets features {x.shape}", "drop its batch axis"
        )

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        """Broadcasts features to ``shape``."""
        return (
            x if tuple(shape) == x.shape else self.move(x, lambda t: t.expand(1, *shape), aligned=len(shape))
        )

    def move(self, x: Value, function: Callable[[Tensor], Tensor], aligned: int | None = None) -> Value:
        """Any function that only moves data: reshape, permute, slice, expand, repeat, flip ...

        Args:
            x: what is moved.
            function: of ``(1, *features)``; -1 marks places that are 0.
            aligned: number of feature axes to have before, by leading axes of size 1.
        """
        shape = x.shape if aligned is None else (1,) * (aligned - len(x.shape)) + x.shape
        numbers = torch.arange(math.prod(x.shape)).view(1, *shape)
        moved = function(numbers)
        if moved.ndim == 0 or moved.shape[0] != 1:
            self.refuse(
                f"an operation moves the batch axis (features {x.shape} become {tuple(moved.shape)})",
                "keep axis 0 for the batch",
            )
        moved = moved[0]
        if moved.numel() == numbers.numel() and torch.equal(moved.flatten(), numbers.flatten()):
            return self.add_node(ops.Reshape(x.shape, moved.shape), [x], moved.shape, "reshape")
        return self.add_node(ops.Gather(moved, x.shape), [x], moved.shape, "gather")

    def pad(self, x: Value, widths: Sequence[tuple[int, int]], fill: float = 0.0) -> Value:
        """Constant padding; ``widths`` has (before, after) of each feature axis."""
        flat = [n for pair in reversed(widths) for n in pair]
        numbers = torch.arange(math.prod(x.shape)).view(1, *x.shape)
        moved = F.pad(numbers, flat, value=-1)[0]
        return self.add_node(ops.Gather(moved, x.shape, fill), [x], moved.shape, "pad")

    def positive(self, x: Value, function: Callable[[Tensor], Tensor], terms: int, kind: str) -> Value:
        """A linear function with entries of at least 0, such as an average."""
        return self._run(ops.PositiveMap(function, x.shape, terms), [x], kind)

    def add(self, x: Value, y: Value, sign: float = 1.0) -> Value:
        """``x + sign y``."""
        if sign == -1.0:
            ramp = self._recognise_ramp(x, y)
            if ramp is not None:
                return ramp
        shape = torch.broadcast_shapes(x.shape, y.shape)
        both = [self.expand(x, shape), self.expand(y, shape)]
        return self.add_node(ops.Sum((1.0, sign)), both, shape, "add")

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        """Values side by side along a feature axis (0 is the first after the batch)."""
        sizes = [x.shape[axis] for x in xs]
        return self._run(ops.Concat(axis, sizes), list(xs), "concat")

    # Relaxed operations.

    def activation(
        self, x: Value, activation: Activation | Callable[[Tensor], Activation], kind: str
    ) -> Value:
        """An elementwise activation, or a function that makes it for a dtype and place."""
        make = activation if not isinstance(activation, Activation) else (lambda like: activation)
        return self.add_node(ops.Unary(make, kind), [x], x.shape, kind)

    def relu(self, x: Value) -> Value:
        """max(x, 0); of ``min(x, r)`` and the like a ramp."""
        return self.activation(x, Ramp(0.0), "relu")

    def leaky_relu(self, x: Value, slope: float = 0.01) -> Value:
        """LeakyReLU with a fixed slope."""
        return self.activation(x, Ramp(float(slope)), "leaky_relu")

    def prelu(self, x: Value, slope: Const) -> Value:
        """LeakyReLU with a learnt slope for all, or for each channel."""

        def make(like: Tensor) -> Ramp:
            value = slope.like(like).flatten()
            shaped = value if value.numel() == 1 else value.view(-1, *[1] * (len(x.shape) - 1))
            return Ramp(shaped)

        return self.activation(x, make, "prelu")

    def param_ramp(self, x: Value, knee: Const, eta: Callable[[], float]) -> Value:
        """ParamRamp with knee ``(*features)`` or a broadcastable shape."""
        return self.activation(x, lambda like: Ramp(eta(), knee.like(like)), "param_ramp")

    def clip(self, x: Value, low: float, high: float) -> Value:
        """min(max(x, low), high): a ramp between two shifts."""
        if low > high:
            self.refuse(f"a clip from {low} to {high}", "expected low <= high")
        if math.isinf(low) and math.isinf(high):
            return x
        if math.isinf(high):
            return self._shift(self.relu(self._shift(x, -low)), low)
        if math.isinf(low):  # min(x, h) = h - relu(h - x)
            turned = self.scale(x, Const.of(-1.0), Const.of(high))
            return self.scale(self.relu(turned), Const.of(-1.0), Const.of(high))
        knee = torch.tensor(high - low, dtype=torch.float64)
        ramp = self.activation(self._shift(x, -low), lambda like: Ramp(0.0, knee.to(like)), "clip")
        return self._shift(ramp, low)

    def _shift(self, x: Value, by: float) -> Value:
        return x if by == 0 else self.scale(x, None, Const.of(torch.tensor(by, dtype=torch.float64)))

    def smooth(self, x: Value, kind: str) -> Value:
        """Sigmoid, tanh, exp, log, softplus ... by name."""
        return self.activation(x, _SMOOTH[kind], kind)

    def product(self, x: Value, y: Value) -> Value:
        """``x * y``, both depending on the input."""
        if x.index == y.index:
            return self.smooth(x, "square")
        shape = torch.broadcast_shapes(x.shape, y.shape)
        both = [self.expand(x, shape), self.expand(y, shape)]
        return self.add_node(ops.Product(), both, shape, "product")

    def max_pool(
        self,
        x: Value,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Value:
        """Largest of each window of the last one or two axes."""
        rank = len(x.shape) - 1
        if rank not in (1, 2):
            self.refuse(f"max pooling of features {x.shape}", "only 1d and 2d pooling are supported")
        kernel = _many(kernel, rank)
        stride = kernel if stride is None or stride == [] else _many(stride, rank)
        padding, dilation = _many(padding, rank), _many(dilation, rank)
        numbers = torch.arange(1, math.prod(x.shape) + 1, dtype=torch.float64).view(1, *x.shape)
        pool = F.max_pool1d if rank == 1 else F.max_pool2d
        size = pool(numbers, kernel, stride, padding, dilation, ceil_mode).shape[2:]
        index = torch.arange(math.prod(x.shape)).view(x.shape)
        for axis, (k, s, p, d, n) in enumerate(zip(kernel, stride, padding, dilation, size, strict=True), 1):
            index = _windows(index, axis, k, s, p, d, n)
        # Axes are now channel, (place, tap) for each spatial axis: places first, taps last.
        order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)]
        windows = index.permute(order).reshape(x.shape[0] * math.prod(size), -1)
        return self.add_node(
            ops.MaxPool(windows, x.shape, (x.shape[0], *size)), [x], (x.shape[0], *size), "max_pool"
        )

    def maximum_over(self, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
        """Largest over feature axes."""
        rest = [a for a in range(len(x.shape)) if a not in axes]
        index = torch.arange(math.prod(x.shape)).view(x.shape).permute(*rest, *axes)
        out = (
            [1 if a in axes else n for a, n in enumerate(x.shape)] if keepdim else [x.shape[a] for a in rest]
        )
        windows = index.reshape(math.prod(x.shape[a] for a in rest), -1)
        return self.add_node(ops.MaxPool(windows, x.shape, out), [x], out, "max")

    def _run(self, op: Operation, inputs: Sequence[Value], kind: str) -> Value:
        """Appends an operation whose output shape is found by running it."""
        with torch.no_grad():
            dtype = next((c().dtype for c in (getattr(op, "weight", None),) if c is not None), torch.float32)
            try:
                out = op.forward(*(torch.zeros(1, *v.shape, dtype=dtype) for v in inputs))
            except RuntimeError as error:
                reason = first_line(error)
                self.refuse(f"{kind} of {[v.shape for v in inputs]} fails: {reason}", "check the input shape")
        return self.add_node(op, inputs, tuple(out.shape[1:]), kind)

    def _recognise_ramp(self, x: Value, y: Value) -> Value | None:
        """``LeakyReLU(z) - (1 - eta) ReLU(z - r)`` is one activation: bounded apart it would be far looser."""
        left = self.nodes[x.index]
        if not isinstance(left.op, ops.Unary) or left.op.kind not in ("relu", "leaky_relu"):
            return None
        inner, factor = self._scaled.get(y.index, (y.index, None))
        right = self.nodes[inner]
        if not isinstance(right.op, ops.Unary) or right.op.kind != "relu":
            return None
        base, shift = self._shifted.get(right.inputs[0], (-1, None))
        made = left.op.make(torch.zeros(1))
        eta = made.eta if isinstance(made, Ramp) else None
        weight = 1.0 if factor is None else factor()
        if base != left.inputs[0] or shift is None or not isinstance(eta, float):
            return None
        same = torch.allclose(
            torch.as_tensor(weight, dtype=torch.float64), torch.tensor(1 - eta).double(), atol=1e-6
        )
        if not same or bool((shift() >= 0).any()):
            return None
        source = Value(base, self.nodes[base].shape)
        return self.param_ramp(source, Const(lambda: -shift()), lambda: eta)


def _windows(
    index: Tensor, axis: int, kernel: int, stride: int, padding: int, dilation: int, places: int
) -> Tensor:
    """Splits axis ``2 axis - 1`` into places and taps; -1 outside."""
    where = 2 * axis - 1
    start = torch.arange(places) * stride - padding
    taps = start[:, None] + torch.arange(kernel) * dilation
    size = index.shape[where]
    outside = (taps < 0) | (taps >= size)
    taken = index.index_select(where, taps.clamp(0, size - 1).flatten())
    taken = taken.reshape(*index.shape[:where], places, kernel, *index.shape[where + 1 :])
    shape = [1] * taken.ndim
    shape[where], shape[where + 1] = places, kernel
    return taken.masked_fill(outside.view(shape), -1)


def _many(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence | torch.Size) else (value,) * rank
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))


def is_linear(node: Node) -> bool:
    """Whether the node is a linear operation."""
    return isinstance(node.op, LinearOp)


def is_relaxed(node: Node) -> bool:
    """Whether the node is bounded by lines or planes."""
    return isinstance(node.op, Relaxed)
