"""Certified bounds of any module: interval propagation, LBP, and CROWN in all its mixtures.

| method | intervals of hidden layers | output |
|---|---|---|
| ``ibp`` | intervals | intervals |
| ``lbp`` | linear functions, one layer at a time | the same |
| ``relaxed-crown:v`` | back-substitution cut after v layers | the same |
| ``crown-ibp`` | intervals | full back-substitution |
| ``crown-lbp`` | LBP | full back-substitution |
| ``crown`` | full back-substitution for every layer | full back-substitution |
| ``alpha-crown`` | as ``crown`` | back-substitution with optimised lines |

With tight lines (the default) ``ibp`` is never tighter than ``lbp`` and ``crown-ibp``, those never than
``crown-lbp``, and that never than ``crown``, elementwise (Lyu et al. 2021, theorem 2). Through max pooling and
products only the first holds: every method is at least as tight as ``ibp``, but which input a maximum follows may
change as intervals shrink.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bound_prop import rounding, windows
from bound_prop.graph import ops
from bound_prop.graph.build import Graph, is_linear, is_relaxed
from bound_prop.graph.ops import LinearOp, Planes, Relaxed, State, Unary
from bound_prop.graph.trace import trace
from bound_prop.lines import Activation, Lines, Strategy
from bound_prop.sets import Box, InputSet, Interval, Reach, simplest
from bound_prop.windows import Windows

__all__ = ["METHODS", "BoundedModule", "Bounds", "compute"]

METHODS = ("ibp", "lbp", "crown-ibp", "crown-lbp", "crown", "alpha-crown")
LineChoice = Strategy | Callable[[Activation, Tensor, Tensor], Lines]
Rows = Tensor | Windows
# Small enough for buffers to stay in caches and with the allocator, which gives larger ones back to the system and
# has each page of them cleared again.
_FLOATS_AT_ONCE = 2**20
_ELEMENTWISE = (ops.Scale, ops.BatchNorm, ops.Reshape, ops.Gather)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Result of `BoundedModule.compute_bounds`.

    Attributes:
        lower, upper: ``(B, S)``, minus the specification's right-hand side; None where not asked for.
        layers: name of the operation that reads it -> interval of its input ``(B, *f)``. Under ``crown`` the
            interval of a neuron whose lines are exact anyway may be wider than back-substitution would make it.
        activations: the same names -> the `Activation` that reads the interval.
        linear: ``(A_L, b_L, A_U, b_U)``, rows ``(B, S, *input)`` and offsets ``(B, S)`` of linear functions of
            the input around the output, on request.
    """

    lower: Tensor | None
    upper: Tensor | None
    layers: dict[str, Interval] = field(default_factory=dict)
    activations: dict[str, Activation] = field(default_factory=dict)
    linear: tuple[Tensor | None, ...] | None = None


class BoundedModule(nn.Module):
    """Wraps a module for bounds; the module itself is not changed and its parameters are shared.

    Args:
        model: any module of one input and one output tensor.
        example_input: ``(1, *input)``; only its shape, dtype and place matter.
        lines: the lines to use: ``"tight"`` (never looser than intervals), ``"adaptive"`` (CROWN's choice),
            ``"constant"``, ``"same-slope"``, ``"steep"``, or a function of (activation, lower, upper).
        intersect: intersect every hidden interval with that of interval propagation.

    Raises:
        UnsupportedOperationError: an operation that cannot be bounded, named with its module.
        ValueError: parameters that are not finite.

    >>> from bound_prop import LpBall
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> bounded = BoundedModule(net, torch.zeros(1, 2))
    >>> bounds = bounded.compute_bounds(LpBall(torch.zeros(5, 2), 0.1), method="crown")
    >>> bounds.lower.shape, bool((bounds.lower <= bounds.upper).all())
    (torch.Size([5, 3]), True)
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        *,
        lines: LineChoice = "tight",
        intersect: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.lines = lines
        self.intersect = intersect
        self.example = example_input[:1].detach()
        self.graph = trace(model, self.example)

    def retrace(self) -> None:
        """Traces again, after modules were exchanged or knees switched on."""
        parameter = next(self.model.parameters(), self.example)
        self.graph = trace(self.model, self.example.to(parameter))

    def forward(self, x: Tensor) -> Tensor:
        """The module's own output."""
        out: Tensor = self.model(x)
        return out

    def compute_bounds(
        self,
        region: InputSet,
        C: Tensor | None = None,
        rhs: Tensor | None = None,
        method: str = "crown-lbp",
        *,
        lower: bool = True,
        upper: bool = True,
        lines: LineChoice | None = None,
        intermediate: Mapping[str, Interval] | None = None,
        spec_chunk: int | None = None,
        batch_chunk: int | None = None,
        input_chunk: int | None = None,
        return_linear: bool = False,
        rounding: Literal["nearest", "outward"] = "nearest",
        steps: int = 20,
        hidden_steps: int = 0,
    ) -> Bounds:
        """Bounds of ``C f(x) - rhs`` over a set of inputs.

        Args:
            region: the inputs, a batch of B sets; its dtype is the dtype of the computation.
            C: ``(B, S, K)`` rows; None bounds every output.
            rhs: ``(B, S)``, or None for 0.
            method: one of `METHODS` or ``relaxed-crown:v``.
            lower: compute lower bounds.
            upper: compute upper bounds.
            lines: instead of the module's own choice.
            intermediate: intervals of `Bounds.layers` names to use as they are.
            spec_chunk: rows at a time; by default as many as fit 4 MB of float32.
            batch_chunk: examples at a time, all by default.
            input_chunk: input coordinates at a time in LBP (``lbp``, ``crown-lbp``), all by default: the memory of
                its matrices falls with the chunk, and its time grows with the number of hidden activations.
            return_linear: also give the linear functions of the input (not for ``ibp``).
            rounding: ``"outward"``: bounds that hold in exact arithmetic, in float64, for ``ibp``,
                ``crown-ibp``, ``crown-lbp``, ``crown`` and ``alpha-crown``; see `bound_prop.rounding`.
            steps: of the optimiser, for ``alpha-crown``.
            hidden_steps: of the optimiser for every hidden interval before, for ``alpha-crown``; 0 keeps CROWN's.

        Raises:
            ValueError: shapes that do not fit, an unknown method, outward rounding where it is not available.
        """
        call: dict[str, Any] = {
            "method": method,
            "lower": lower,
            "upper": upper,
            "lines": lines or self.lines,
            "spec_chunk": spec_chunk,
            "input_chunk": input_chunk,
            "return_linear": return_linear,
            "outward": rounding == "outward",
            "intersect": self.intersect,
            "steps": steps,
            "hidden_steps": hidden_steps,
        }
        if rounding not in ("nearest", "outward"):
            raise ValueError(f"compute_bounds: rounding: got {rounding!r}; expected 'nearest' or 'outward'")
        size = len(region) if batch_chunk is None else batch_chunk
        if size < 1:
            raise ValueError(f"compute_bounds: batch_chunk: got {size}; expected at least 1")
        parts = []
        for start in range(0, max(len(region), 1), size):
            rows = slice(start, start + size)
            own = (
                None
                if intermediate is None
                else {k: (a[rows], b[rows]) for k, (a, b) in intermediate.items()}
            )
            parts.append(
                compute(
                    self.graph,
                    region if size >= len(region) else region[rows],
                    C if C is None or len(C) == 1 else C[rows],
                    rhs if rhs is None or len(rhs) == 1 else rhs[rows],
                    intermediate=own,
                    **call,
                )
            )
        return parts[0] if len(parts) == 1 else _joined(parts)

    @contextmanager
    def clean(self, x: Tensor) -> Iterator[Tensor]:
        """The clean output of a training batch; inside the block, bounds use its batch statistics.

        In training mode batch normalisation takes mean and variance of this batch, with their gradient, and
        updates its running statistics once; in evaluation mode this is the plain output.

        >>> net = BoundedModule(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.zeros(1, 2))
        >>> with net.train().clean(torch.randn(8, 2)) as logits:
        ...     logits.shape
        torch.Size([8, 2])
        """
        norms = [node.op for node in self.graph.nodes if isinstance(node.op, ops.BatchNorm)]
        known: dict[int, Tensor] = {0: x}
        try:
            for index, node in enumerate(self.graph.nodes[1:], 1):
                inputs = [known[i] for i in node.inputs]
                if isinstance(node.op, ops.BatchNorm) and self.training:
                    node.op.observe(inputs[0])
                known[index] = node.op.forward(*inputs)
            yield known[self.graph.output]
        finally:
            for norm in norms:
                norm.batch = None

    def estimate_memory(
        self,
        method: str = "crown-lbp",
        *,
        batch: int = 1,
        specs: int | None = None,
        bytes_each: int = 4,
        input_chunk: int | None = None,
    ) -> int:
        """About how many bytes a call holds at its peak, parameters not counted; see the docs for its accuracy."""
        return estimate_memory(
            self.graph, method, batch=batch, specs=specs, bytes_each=bytes_each, input_chunk=input_chunk
        )


def estimate_memory(
    graph: Graph,
    method: str,
    *,
    batch: int = 1,
    specs: int | None = None,
    bytes_each: int = 4,
    input_chunk: int | None = None,
) -> int:
    """Peak bytes of one call: what the largest step holds at once."""
    sizes = [math.prod(node.shape) for node in graph.nodes]
    widest, inputs = max(sizes), min(sizes[0], input_chunk or sizes[0])
    rows = specs or math.prod(graph.output_shape)
    intervals = 6 * widest + 2 * sum(sizes)
    back = 5 * min(rows, max(1, _FLOATS_AT_ONCE // max(batch * widest, 1))) * widest
    parts = {"ibp": intervals, "lbp": intervals + 6 * inputs * widest}
    parts["crown-ibp"] = intervals + back
    parts["crown-lbp"] = max(parts["lbp"], parts["crown-ibp"])
    hidden = max((sizes[i] for i in _preactivations(graph)), default=0)
    chunk = min(hidden, max(1, _FLOATS_AT_ONCE // max(batch * widest, 1)))
    parts["crown"] = parts["alpha-crown"] = max(parts["crown-ibp"], intervals + 5 * chunk * widest)
    if method.startswith("relaxed-crown:"):
        return (
            bytes_each * batch * (parts["crown"] + 2 * inputs * sum(sizes[i] for i in _preactivations(graph)))
        )
    if method not in parts:
        raise ValueError(f"estimate_memory: method: got {method!r}; expected one of {', '.join(METHODS)}")
    return bytes_each * batch * parts[method]


def _preactivations(graph: Graph) -> list[int]:
    """Nodes whose intervals relaxed operations read, in order."""
    return sorted({i for node in graph.nodes if is_relaxed(node) for i in node.inputs})


def _joined(parts: list[Bounds]) -> Bounds:
    def cat(values: list[Tensor | None]) -> Tensor | None:
        kept = [v for v in values if v is not None]
        return torch.cat(kept) if kept else None

    layers = {
        name: (torch.cat([p.layers[name][0] for p in parts]), torch.cat([p.layers[name][1] for p in parts]))
        for name in parts[0].layers
    }
    linear = None
    if parts[0].linear is not None:
        linear = tuple(cat([p.linear[k] for p in parts if p.linear is not None]) for k in range(4))
    return Bounds(
        cat([p.lower for p in parts]), cat([p.upper for p in parts]), layers, parts[0].activations, linear
    )


def compute(
    graph: Graph,
    region: InputSet,
    C: Tensor | None = None,
    rhs: Tensor | None = None,
    *,
    method: str = "crown-lbp",
    lower: bool = True,
    upper: bool = True,
    lines: LineChoice = "tight",
    intermediate: Mapping[str, Interval] | None = None,
    spec_chunk: int | None = None,
    input_chunk: int | None = None,
    return_linear: bool = False,
    outward: bool = False,
    intersect: bool = False,
    steps: int = 20,
    hidden_steps: int = 0,
) -> Bounds:
    """`BoundedModule.compute_bounds` for a graph, without chunks over the batch."""
    hidden, final = _parse_method(method, outward)
    # Optimised lines pass no gradient on; what their steps share must not hold a graph that the first step frees.
    with torch.set_grad_enabled(torch.is_grad_enabled() and final != "alpha"):
        sweep = Sweep(
            graph,
            region,
            lines=lines,
            outward=outward,
            intersect=intersect,
            spec_chunk=spec_chunk,
            input_chunk=input_chunk,
        )
        rows = sweep.specification(C, rhs)
        sweep.fix(intermediate or {})
        sweep.hidden(hidden)
        if hidden_steps and final == "alpha":
            from bound_prop.alpha import tighten_hidden

            tighten_hidden(sweep, hidden_steps)
        ends = [
            _end(sweep, rows, final, steps, sign) if wanted else None
            for sign, wanted in ((1, lower), (-1, upper))
        ]
        pair = [None if end is None else end[0] for end in ends]
        linear = None
        if return_linear:
            linear = tuple(part for end in ends for part in ((None, None) if end is None else end[1:]))
        low, high = (p if p is None or rhs is None else p - rhs.to(p) for p in pair)
        return Bounds(low, high, sweep.layers(), sweep.activations(), linear)


def _end(
    sweep: Sweep, rows: Tensor, final: str, steps: int, sign: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Lower (sign 1) or upper (sign -1) bounds of rows times the output, and their linear functions."""
    if final == "alpha":
        from bound_prop.alpha import optimise

        return optimise(sweep, sign * rows, steps) * sign, None, None
    value, slope, offset = sweep.output(sign * rows, final)
    return value * sign, None if slope is None else slope * sign, None if offset is None else offset * sign


def _parse_method(method: str, outward: bool) -> tuple[str, str]:
    """How hidden intervals and the output are computed."""
    name, _, depth = method.partition(":")
    known = {
        "ibp": ("ibp", "ibp"),
        "lbp": ("lbp", "lbp"),
        "crown-ibp": ("ibp", "crown"),
        "crown-lbp": ("lbp", "crown"),
        "crown": ("crown", "crown"),
        "alpha-crown": ("crown", "alpha"),
    }
    if name == "relaxed-crown" and depth.isdigit() and int(depth) >= 1:
        found = (method, method)
    elif method in known:
        found = known[method]
    else:
        raise ValueError(
            f"compute_bounds: method: got {method!r}; expected one of {', '.join(METHODS)} or relaxed-crown:v"
        )
    if outward and (found[1] == "lbp" or found[0].startswith("relaxed")):
        raise ValueError(
            f"compute_bounds: rounding: 'outward' is not available for {method}; use ibp, crown-ibp, crown-lbp,"
            " crown or alpha-crown"
        )
    return found


class Sweep:
    """State of one call: intervals, planes and linear functions of the nodes. Nothing outlives the call.

    Args:
        graph: the network.
        region: the inputs.
        lines: the choice of lines.
        outward: keep every bound sound under rounding; float64 only.
        intersect: intersect hidden intervals with those of interval propagation.
        spec_chunk: rows of back-substitution at a time.
        input_chunk: input coordinates at a time, for LBP.
    """

    def __init__(
        self,
        graph: Graph,
        region: InputSet,
        *,
        lines: LineChoice = "tight",
        outward: bool = False,
        intersect: bool = False,
        spec_chunk: int | None = None,
        input_chunk: int | None = None,
    ) -> None:
        self.graph, self.region = graph, simplest(region)
        self.lines, self.outward, self.intersect = lines, outward, intersect
        self.spec_chunk, self.input_chunk = spec_chunk, input_chunk
        self.boxes: dict[int, Interval] = {}
        self.fixed: set[int] = set()
        self.planes: dict[int, Planes] = {}
        self.states: dict[int, State] = {}
        self.magnitudes: dict[int, Tensor] = {}
        #: Added to the rows at a node: multipliers of constraints (see `bound_prop.branch`).
        self.extra: dict[int, Tensor] = {}
        #: Where not None, receives the rows that reach each relaxed operation.
        self.seen: dict[int, Tensor] | None = None
        self.like = self.region.center
        shape = tuple(self.like.shape[1:])
        if shape != graph.input_shape:
            raise ValueError(
                f"compute_bounds: region: got inputs of shape {shape}; expected {graph.input_shape}"
            )
        for name, value in (("spec_chunk", spec_chunk), ("input_chunk", input_chunk)):
            if value is not None and value < 1:
                raise ValueError(f"compute_bounds: {name}: got {value}; expected at least 1")
        if outward and input_chunk is not None:
            raise ValueError(
                "compute_bounds: input_chunk: is not available with rounding 'outward'; use batch_chunk"
            )
        if outward and self.like.dtype != torch.float64:
            raise ValueError(
                f"compute_bounds: rounding: 'outward' needs float64 inputs; got {self.like.dtype}"
            )

    # What the call starts from.

    def specification(self, C: Tensor | None, rhs: Tensor | None) -> Tensor:
        """Rows ``(B or 1, S, *output)``."""
        shape, batch = self.graph.output_shape, len(self.like)
        size = math.prod(shape)
        if C is None:
            eye = torch.eye(size, dtype=self.like.dtype, device=self.like.device)
            return eye.view(1, size, *shape)
        if C.ndim != 3 or C.shape[0] not in (1, batch) or C.shape[2] != size:
            raise ValueError(f"compute_bounds: C: got shape {tuple(C.shape)}; expected ({batch}, S, {size})")
        if rhs is not None and rhs.shape != C.shape[:2]:
            raise ValueError(
                f"compute_bounds: rhs: got shape {tuple(rhs.shape)}; expected {tuple(C.shape[:2])}"
            )
        return C.to(self.like).view(*C.shape[:2], *shape)

    def fix(self, intermediate: Mapping[str, Interval]) -> None:
        """Takes intervals given by the caller, by the names of `layers`."""
        names = {self._reader(i): i for i in _preactivations(self.graph)}
        for name, (low, high) in intermediate.items():
            if name not in names:
                raise ValueError(
                    f"compute_bounds: intermediate: got {name!r}; expected one of {', '.join(names)}"
                )
            self.boxes[names[name]] = low.to(self.like), high.to(self.like)
            self.fixed.add(names[name])

    def _reader(self, index: int) -> str:
        return next(n.name for n in self.graph.nodes if is_relaxed(n) and index in n.inputs)

    def layers(self) -> dict[str, Interval]:
        """Intervals that relaxed operations have read, by the operation's name."""
        return {self._reader(i): self.boxes[i] for i in _preactivations(self.graph) if i in self.boxes}

    def activations(self) -> dict[str, Activation]:
        """Activations by the same names."""
        return {node.name: node.op.make(self.like) for node in self.graph.nodes if isinstance(node.op, Unary)}

    # Intervals of hidden layers.

    def hidden(self, how: str) -> None:
        """Fills the intervals that relaxed operations read, and everything that `output` needs."""
        if how == "ibp":
            self._intervals()
        elif how == "lbp":
            self._forward_linear()
        else:
            self._backward_intervals(how)

    def _intervals(self) -> None:
        for index in range(len(self.graph.nodes)):
            self._interval(index)

    def _interval(self, index: int) -> None:
        if index in self.boxes:
            return
        node = self.graph.nodes[index]
        if index == 0:
            self.boxes[0] = self.region.interval()
            return
        exact = self._first_layer(index)
        if exact is not None:
            self.boxes[index] = exact
            return
        for i in node.inputs:
            self._interval(i)
        boxes = [self.boxes[i] for i in node.inputs]
        op: Any = node.op
        box = op.interval(*boxes)
        self.boxes[index] = self._widened(op, boxes, box) if self.outward else box

    def _widened(self, op: Any, boxes: list[Interval], box: Interval) -> Interval:
        if isinstance(op, LinearOp):
            # Centre and radius add up to the largest magnitude: one bound for both errors.
            size = op.absolute(*(rounding.largest(b) for b in boxes))
            bias = op.bias_size(self.like)
            size = size if bias is None else size + bias
            return rounding.widen(box, 3 * rounding.gamma(op.terms) * size)
        ulps = op.make(self.like).ulps if isinstance(op, Unary) else 8.0
        return rounding.widen(box, ulps * rounding.EPS * rounding.largest(box))

    def _first_layer(self, index: int) -> Interval | None:
        """Interval of a node that sees a ball of another norm through linear operations alone."""
        if isinstance(self.region, Box) or not self._is_affine(index):
            return None
        node = self.graph.nodes[index]
        op: Any = node.op
        norms = (
            op.row_norms(self.region.dual, self.graph.input_shape, self.like) if node.inputs == (0,) else None
        )
        if norms is None:
            size = math.prod(self.graph.input_shape)
            eye = torch.eye(size, dtype=self.like.dtype, device=self.like.device)
            columns = self._apply_linear(index, eye.view(size, *self.graph.input_shape))
            norms = torch.linalg.vector_norm(columns, self.region.dual, dim=0)
        center = self._affine_value(index)
        radius = norms * self.region.radii.view(-1, *[1] * norms.ndim)
        if self.outward:
            slack = rounding.gamma(math.prod(self.graph.input_shape) + op.terms)
            reach = rounding.largest(self.region.interval()).flatten(1).sum(1)
            radius = radius * (1 + slack) + slack * (center.abs() + norms * reach.view(-1, *[1] * norms.ndim))
        return center - radius, center + radius

    def _is_affine(self, index: int) -> bool:
        """Whether a chain of one-input linear operations leads from the input to the node."""
        while index:
            node = self.graph.nodes[index]
            if not is_linear(node) or len(node.inputs) != 1:
                return False
            index = node.inputs[0]
        return True

    def _chain(self, index: int) -> list[LinearOp]:
        found: list[LinearOp] = []
        while index:
            node = self.graph.nodes[index]
            found.append(node.op)  # type: ignore[arg-type]
            index = node.inputs[0]
        return found[::-1]

    def _apply_linear(self, index: int, x: Tensor) -> Tensor:
        for op in self._chain(index):
            x = op.linear(x)
        return x

    def _affine_value(self, index: int) -> Tensor:
        x = self.like
        for op in self._chain(index):
            x = op.forward(x)
        return x

    def _forward_linear(self) -> None:
        """LBP: linear functions of the input, node by node; freed when nobody reads them any more."""
        if self.input_chunk is not None:
            self._forward_in_chunks(self.input_chunk)
            return
        keep = {self.graph.output, self._stop()}
        self.boxes[0] = self.region.interval()
        self.states.update(self._propagated(slice(None), keep, measure=True))

    def _propagated(self, columns: slice, keep: set[int], measure: bool = False) -> dict[int, State]:
        """States of the nodes in ``keep``, as functions of some input coordinates.

        Args:
            columns: which coordinates of the flat input.
            keep: the nodes.
            measure: make the intervals that relaxed operations read; else they are known.
        """
        needed = self._ancestors(keep)
        last = {i: k for k in needed for i in self.graph.nodes[k].inputs}
        batch, shape = len(self.like), self.graph.input_shape
        place = torch.arange(math.prod(shape), device=self.like.device)
        eye = (place[columns, None] == place).to(self.like).view(1, -1, *shape)
        zero = torch.zeros_like(self.like)
        states = {0: State(eye, zero, eye, zero)}
        for index in sorted(needed - {0}):
            node = self.graph.nodes[index]
            inputs = [states[i] for i in node.inputs]
            if is_relaxed(node):
                for i in node.inputs:
                    if measure and i not in self.boxes:
                        self._store(i, self._state_box(states[i]))
                op: Any = node.op
                state = op.push([_expanded(s, batch) for s in inputs], self._planes_of(index))
            else:
                state = _push_linear(node.op, inputs)  # type: ignore[arg-type]
            states[index] = self._charged_state(index, state, inputs) if self.outward else state
            for i in node.inputs:
                if last[i] == index and i not in keep:
                    del states[i]
        return {i: states[i] for i in keep}

    def _ancestors(self, of: Collection[int]) -> set[int]:
        """The nodes and everything that they are computed from."""
        needed = {0, *of}
        for index in range(max(needed), 0, -1):
            if index in needed:
                needed.update(self.graph.nodes[index].inputs)
        return needed

    def _forward_in_chunks(self, chunk: int) -> None:
        """The same with ``chunk`` input coordinates at a time, from the first layer anew for every interval.

        Memory falls with the chunk, time grows with the number of relaxed layers. What the output needs is added
        up by `_output`.
        """
        self.boxes[0] = self.region.interval()
        for index in _preactivations(self.graph):
            if index not in self.boxes:
                self._store(index, self._chunked_box(index, chunk))

    def _chunked_box(self, index: int, chunk: int) -> Interval:
        """Interval of a node's linear functions, whose reach is summed over chunks of the input."""
        reach = {"lower": Reach(self.region), "upper": Reach(self.region)}
        state: State | None = None
        for columns in self._columns(chunk):
            state = self._propagated(columns, {index})[index]
            reach["lower"].add(state.lower.flatten(2).transpose(1, 2), columns)
            reach["upper"].add(state.upper.flatten(2).transpose(1, 2), columns)
        assert state is not None
        shape = state.lower_bias.shape[1:]
        low = state.lower_bias + reach["lower"].least().view(-1, *shape)
        return low, state.upper_bias + reach["upper"].most().view(-1, *shape)

    def _columns(self, chunk: int) -> Iterator[slice]:
        size = math.prod(self.graph.input_shape)
        return (slice(start, min(start + chunk, size)) for start in range(0, size, chunk))

    def _charged_state(self, index: int, state: State, states: list[State]) -> State:
        """The state with offsets moved outward by what rounding may have done to matrix and offset."""
        node = self.graph.nodes[index]
        sizes = [self._state_magnitude(s) for s in states]
        if isinstance(node.op, LinearOp):
            size, terms = node.op.absolute(*sizes), node.op.terms
            bias = node.op.bias_size(size)
            size = size if bias is None else size + bias
        else:
            planes = self._planes_of(index)
            if isinstance(node.op, ops.MaxPool):
                raise ValueError(
                    "compute_bounds: rounding: 'outward' is not available for lbp through max pooling"
                )
            size = planes.lower_bias.abs() + planes.upper_bias.abs()
            for own, low, up in zip(sizes, planes.lower, planes.upper, strict=True):
                size = size + own * (low.abs() + up.abs())
            terms = 2 * len(sizes)
        error = 4 * rounding.gamma(terms) * size
        return State(state.lower, state.lower_bias - error, state.upper, state.upper_bias + error)

    def _state_magnitude(self, state: State) -> Tensor:
        """Largest magnitude of the products in both functions, ``(B, *f)``."""
        reach = rounding.largest(self.region.interval()).flatten(1).unsqueeze(1)
        total = state.lower_bias.abs() + state.upper_bias.abs()
        for matrix in (state.lower, state.upper):
            total = total + torch.matmul(reach, matrix.abs().flatten(2)).view(-1, *total.shape[1:])
        return total

    def _state_box(self, state: State) -> Interval:
        """Interval of linear functions over the region."""
        shape = state.lower_bias.shape[1:]

        def reach(matrix: Tensor) -> Reach:
            found = Reach(self.region)
            found.add(matrix.flatten(2).transpose(1, 2), slice(None))
            return found

        lower = reach(state.lower)
        upper = lower if state.upper is state.lower else reach(state.upper)
        box = (
            state.lower_bias + lower.least().view(-1, *shape),
            state.upper_bias + upper.most().view(-1, *shape),
        )
        if self.outward:
            terms = rounding.gamma(3 * math.prod(self.graph.input_shape))
            return rounding.widen(box, 3 * terms * self._state_magnitude(state))
        return box

    def _store(self, index: int, box: Interval) -> None:
        if self.intersect:
            inner = self._plain_boxes()[index]
            box = torch.maximum(box[0], inner[0]), torch.minimum(box[1], inner[1])
        self.boxes[index] = box

    def _plain_boxes(self) -> dict[int, Interval]:
        """Intervals of interval propagation alone, for `intersect`."""
        if not hasattr(self, "_ibp_boxes"):
            plain = Sweep(self.graph, self.region, lines=self.lines, outward=self.outward)
            plain._intervals()
            self._ibp_boxes = plain.boxes
        return self._ibp_boxes

    def _backward_intervals(self, how: str) -> None:
        depth = int(how.partition(":")[2]) if ":" in how else None
        self.boxes.setdefault(0, self.region.interval())
        wanted = set(_preactivations(self.graph)) - self.fixed
        for index in range(1, len(self.graph.nodes)):
            if index in wanted:
                if depth is not None:
                    self._relaxed_crown_box(index, depth)
                else:
                    self._crown_box(index)
            elif depth is None:
                self._interval(index)

    def _crown_box(self, index: int) -> None:
        """Back-substitution for the neurons of a node whose lines depend on the interval."""
        self._interval(index)
        places = self.open_neurons(index)
        if places is None:
            return
        low, high = self.boxes[index]
        flat = low.flatten(1).clone(), high.flatten(1).clone()
        for part in places.split(self._neurons_at_once(index), dim=1):
            down, up = self._neuron_bounds(index, part)
            flat = flat[0].scatter(1, part, down), flat[1].scatter(1, part, up)
        del self.boxes[index]
        self._store(index, (flat[0].view_as(low), flat[1].view_as(high)))

    def hidden_nodes(self) -> list[int]:
        """Nodes whose intervals relaxed operations read and the caller has not given, in order."""
        return [index for index in _preactivations(self.graph) if index not in self.fixed]

    def open_neurons(self, index: int) -> Tensor | None:
        """Flat places ``(B, S)`` of neurons whose interval matters and may be improved; None where there is none.

        Examples with fewer of them than others get settled ones as well.
        """
        if self._is_affine(index) and isinstance(self.region, Box):
            # Intervals are exact through one matrix, and whatever scales or moves single numbers.
            mixing = [op for op in self._chain(index) if not isinstance(op, _ELEMENTWISE)]
            if len(mixing) <= 1:
                return None
        open_ = ~self._settled(index).flatten(1)
        count = int(open_.sum(1).max())
        if count == 0:
            return None
        return torch.argsort(open_.to(torch.uint8), dim=1, descending=True, stable=True)[:, :count]

    def unit_rows(self, index: int, places: Tensor) -> Tensor:
        """Rows ``(B, S, *f)`` that pick the neurons at flat ``places (B, S)`` of a node."""
        shape = self.graph.nodes[index].shape
        zero = torch.zeros(*places.shape, math.prod(shape)).to(self.like)
        return zero.scatter(2, places.unsqueeze(2), 1.0).view(*places.shape, *shape)

    def replace_box(self, index: int, box: Interval) -> None:
        """Another interval for a node; lines that were made from the old one are forgotten."""
        self.boxes[index] = box
        self.planes = {k: v for k, v in self.planes.items() if index not in self.graph.nodes[k].inputs}
        self.magnitudes.pop(index, None)

    def _neuron_bounds(self, index: int, places: Tensor) -> Interval:
        """Bounds ``(B, S)`` of the neurons at flat ``places (B, S)`` of a node, from one pass for both ends."""
        found = None if self.outward or self.extra else self._own_rows(index, places)
        if found is None:
            units = self.unit_rows(index, places)
            down, up = self.lower_bound(index, torch.cat([units, -units], 1))[0].chunk(2, 1)
            return down, -up
        rows, offset = found
        both: Rows = rows.mirrored() if isinstance(rows, Windows) else torch.cat([rows, -rows], 1)
        left, beta = self.pull_back({self.graph.nodes[index].inputs[0]: both})
        a = left.get(0)
        if isinstance(a, Windows):
            beta = beta + a.concretise(self.region)
        elif a is not None:
            beta = self._concretise(a, beta, None)
        down, up = beta.expand(len(self.like), -1).chunk(2, 1)
        return down + offset, offset - up

    def _own_rows(self, index: int, places: Tensor) -> tuple[Rows, Tensor] | None:
        """Rows of neurons in terms of their node's input and their offsets, read off the weights; or None."""
        node = self.graph.nodes[index]
        if isinstance(node.op, ops.Linear) and len(node.shape) == 1:
            weight, bias = node.op.weight.like(self.like), node.op.bias(self.like)
            offset = torch.zeros(places.shape).to(self.like) if bias is None else bias[places]
            return weight[places], offset
        if windows.is_windowed(node.op):
            return windows.neurons(node.op, places, node.shape, self.like)  # type: ignore[arg-type]
        return None

    def _settled(self, index: int) -> Tensor:
        """Neurons whose lines are exact whatever the interval, for every operation that reads them."""
        low, high = self.boxes[index]
        settled = torch.ones_like(low, dtype=torch.bool)
        for node in self.graph.nodes:
            if is_relaxed(node) and index in node.inputs:
                if not isinstance(node.op, Unary) or self.lines == "constant" or callable(self.lines):
                    return torch.zeros_like(settled)
                settled &= node.op.make(low).settled(low, high)
        return settled

    def _rows_at_once(self) -> int:
        if self.spec_chunk is not None:
            return self.spec_chunk
        widest = max(math.prod(node.shape) for node in self.graph.nodes)
        return max(1, _FLOATS_AT_ONCE // (len(self.like) * widest))

    def _neurons_at_once(self, index: int) -> int:
        """Neurons of a node whose rows, for both ends, are handled together."""
        if self.spec_chunk is not None:
            return self.spec_chunk
        each = windows.floats_of_a_row(self.graph, index)
        return max(1, _FLOATS_AT_ONCE // (2 * len(self.like) * each))

    def _relaxed_crown_box(self, index: int, depth: int) -> None:
        """Relaxed-CROWN-v: back-substitution that stops ``depth`` layers before, at stored functions."""
        shape = self.graph.nodes[index].shape
        size, batch = math.prod(shape), len(self.like)
        eye = torch.eye(size, dtype=self.like.dtype, device=self.like.device).view(1, size, *shape)
        down = self._cut_rows(index, eye, depth)
        up = self._cut_rows(index, -eye, depth)

        def columns(rows: Tensor) -> Tensor:
            flat = rows.expand(batch, *rows.shape[1:]).flatten(2).transpose(1, 2)
            return flat.reshape(batch, -1, *shape)

        state = State(
            columns(down[0]), down[1].expand(batch, -1).reshape(batch, *shape),
            -columns(up[0]), -up[1].expand(batch, -1).reshape(batch, *shape),
        )  # fmt: skip
        self.states[index] = state
        self._store(index, self._state_box(state))

    def _cut_rows(self, index: int, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Rows of the input and offsets, through stored functions where the cut is reached."""
        level = self._levels()
        target = level[index] - depth
        stored = [i for i in self.states if i and i != index and level[i] <= target]
        left, beta = self.pull_back({index: rows}, stored)
        total = left.pop(0, None)
        for i, a in left.items():
            part, beta = _composed(a, beta, self.states[i])
            part = part.view(*part.shape[:2], *self.graph.input_shape)
            total = part if total is None else total + part
        assert total is not None
        return total, beta

    def _levels(self) -> list[int]:
        """Number of relaxed operations on the longest way from the input to each node."""
        levels = [0]
        for node in self.graph.nodes[1:]:
            before = max((levels[i] for i in node.inputs), default=0)
            levels.append(before + is_relaxed(node))
        return levels

    # Back-substitution.

    def _planes_of(self, index: int) -> Planes:
        if index not in self.planes:
            node = self.graph.nodes[index]
            op: Any = node.op
            boxes = [self.boxes[i] for i in node.inputs]
            if callable(self.lines):
                if not isinstance(op, Unary):
                    planes = op.planes(boxes, "tight")
                else:
                    planes = ops.as_planes(self.lines(op.make(boxes[0][0]), *boxes[0]))
            else:
                planes = op.planes(boxes, self.lines)
            self.planes[index] = rounding.lift(op, planes, boxes) if self.outward else planes
        return self.planes[index]

    def pull_back(
        self,
        rows: Mapping[int, Rows],
        until: Collection[int] = (),
        charge: list[Tensor] | None = None,
    ) -> tuple[dict[int, Any], Tensor]:
        """Rows ``(B or 1, S, *f)`` of nodes to rows of the input and of the nodes in ``until``; and offsets.

        Args:
            rows: where to start; the result bounds the sum of rows times values from below.
            until: nodes at which to stop, besides the input.
            charge: receives bounds of the rounding errors, ``(B, S)``, under outward rounding.
        """
        open_: dict[int, Rows] = dict(rows)
        left: dict[int, Any] = {}
        first = next(iter(open_.values()))
        count = first.rows if isinstance(first, Windows) else first.shape[1]
        beta = torch.zeros(1, count, dtype=self.like.dtype, device=self.like.device)
        while open_:
            index = max(open_)
            a = open_.pop(index)
            if index in self.extra:
                a = windows.added(a, self.extra[index], self.graph.nodes[index].shape)
            if index == 0 or index in until:
                left[index] = a
                continue
            parts, constant = self._pull_one(index, a, charge)
            if constant is not None:
                beta = beta + constant
            for i, part in zip(self.graph.nodes[index].inputs, parts, strict=True):
                open_[i] = (
                    part if i not in open_ else windows.added(open_[i], part, self.graph.nodes[i].shape)
                )
        if charge is not None:
            charge.append(rounding.gamma(len(self.graph.nodes)) * beta.abs())
        return left, beta

    def _pull_one(
        self, index: int, a: Rows, charge: list[Tensor] | None
    ) -> tuple[Sequence[Rows], Tensor | None]:
        """Rows of one node to rows of its inputs, and the constant that this leaves."""
        node = self.graph.nodes[index]
        if isinstance(a, Windows):
            if windows.passes(node.op, node.shape, self.like) and not windows.too_wide(a.size, node.shape):
                planes = self._planes_of(index) if isinstance(node.op, Unary) else None
                return a.through(node.op, planes, node.shape)
            a = a.dense(node.shape)
        constant: Tensor | None
        if isinstance(node.op, Relaxed):
            planes = self._planes_of(index)
            if self.seen is not None:
                self.seen[index] = a
            parts, constant = node.op.pull(a, planes)
            if charge is not None:
                self._charge_planes(index, a, planes, constant, charge)
            return parts, constant
        op: LinearOp = node.op  # type: ignore[assignment]
        flat = a.reshape(-1, *node.shape)
        parts = tuple(p.view(*a.shape[:2], *p.shape[1:]) for p in op.transpose(flat))
        bias = op.bias(a)
        constant = None if bias is None else a.flatten(2) @ bias.expand(node.shape).flatten()
        if charge is not None:
            self._charge_linear(index, op, a, charge)
        return parts, constant

    def _magnitude(self, index: int) -> Tensor:
        """Largest magnitude of a node's value, from sound intervals."""
        if index not in self.magnitudes:
            self._interval(index)
            self.magnitudes[index] = rounding.largest(self.boxes[index])
        return self.magnitudes[index]

    def _charge_linear(self, index: int, op: LinearOp, a: Tensor, charge: list[Tensor]) -> None:
        node = self.graph.nodes[index]
        size, bias = op.absolute(*(self._magnitude(i) for i in node.inputs)), op.bias_size(a)
        size = size if bias is None else size + bias
        terms = op.terms + (math.prod(node.shape) if bias is not None else 0) + len(self.graph.nodes)
        charge.append(rounding.gamma(terms) * ops._dot(a.abs(), size))

    def _charge_planes(
        self, index: int, a: Tensor, planes: Planes, constant: Tensor, charge: list[Tensor]
    ) -> None:
        node = self.graph.nodes[index]
        size = torch.maximum(planes.lower_bias.abs(), planes.upper_bias.abs())
        # Max pooling keeps its offsets flat; optimised lines have rows of their own.
        flat = size.flatten(2) if size.ndim == a.ndim else size.flatten(1)
        terms = rounding.gamma(math.prod(node.shape))
        charge.append(terms * ops._dot(a.abs().flatten(2), flat))
        if isinstance(node.op, ops.MaxPool):
            size = self._magnitude(node.inputs[0])
            charge.append(terms * ops._dot(a.abs(), node.op.reach(planes, size)))
            return
        for i, low, up in zip(node.inputs, planes.lower, planes.upper, strict=True):
            slope = torch.maximum(low.abs(), up.abs())
            reach = slope * (self._magnitude(i) if slope.ndim < a.ndim else self._magnitude(i).unsqueeze(1))
            charge.append(rounding.gamma(2) * ops._dot(a.abs(), reach))

    def lower_bound(self, index: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lower bound ``(B, S)`` of rows times a node's value, with the linear function that gives it."""
        charge: list[Tensor] | None = [] if self.outward else None
        left, beta = self.pull_back({index: rows}, charge=charge)
        a = left.get(0)
        if a is None:  # the node does not depend on the input
            a = torch.zeros(1, rows.shape[1], *self.graph.input_shape).to(self.like)
        return self._concretise(a, beta, charge), a, beta

    def _concretise(self, a: Tensor, beta: Tensor, charge: list[Tensor] | None) -> Tensor:
        flat, batch = a.flatten(2), len(self.like)
        if len(flat) == 1:
            center = self.like.flatten(1) @ flat[0].T
            flat = flat.expand(batch, -1, -1)
        else:
            center = torch.bmm(flat, self.like.flatten(1).unsqueeze(2)).squeeze(2)
        value = beta + center - self.region.radius_times(flat)
        if charge is None:
            return value
        low, high = self.region.interval()
        size = rounding.largest((low, high)).flatten(1)
        reach = 3 * ops._dot(flat.abs(), size) + beta.abs()
        slack = rounding.gamma(flat.shape[2] + len(charge)) * reach
        for item in charge:
            slack = slack + item
        return value - slack * (1 + 2.0**-20) - 4 * rounding.EPS * value.abs()

    # The output.

    def _stop(self) -> int:
        """The node before the last chain of one-input linear operations, into which rows are merged."""
        index = self.graph.output
        while index and is_linear(self.graph.nodes[index]) and len(self.graph.nodes[index].inputs) == 1:
            index = self.graph.nodes[index].inputs[0]
        return index

    def output(self, rows: Tensor, how: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Lower bound ``(B, S)`` of rows times the output; with the linear function, but for intervals."""
        results = [self._output(part, how) for part in rows.split(self._rows_at_once(), dim=1)]
        if len(results) == 1:
            return results[0]
        value = torch.cat([r[0] for r in results], 1)
        if results[0][1] is None:
            return value, None, None
        batch = len(self.like)
        linear = torch.cat([r[1].expand(batch, *r[1].shape[1:]) for r in results], 1)  # type: ignore[union-attr]
        return value, linear, torch.cat([r[2].expand(batch, -1) for r in results], 1)  # type: ignore[union-attr]

    def _output(self, rows: Tensor, how: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if how == "crown":
            return self.lower_bound(self.graph.output, rows)
        if how.startswith("relaxed-crown"):
            a, beta = self._cut_rows(self.graph.output, rows, int(how.partition(":")[2]))
            return self._concretise(a, beta, None), a, beta
        stop = self._stop()
        if stop == 0:
            return self.lower_bound(self.graph.output, rows)
        charge: list[Tensor] | None = [] if self.outward else None
        left, beta = self.pull_back({self.graph.output: rows}, (stop,), charge)
        a = left[stop]
        if how == "ibp":
            return self._at_box(a, beta, self.boxes[stop], charge), None, None
        if self.input_chunk is None:
            linear, beta = _composed(a, beta, self.states[stop])
        else:
            parts = [
                _composed(a, beta, self._propagated(columns, {stop})[stop])
                for columns in self._columns(self.input_chunk)
            ]
            linear, beta = torch.cat([part[0] for part in parts], 2), parts[0][1]
        linear = linear.view(*linear.shape[:2], *self.graph.input_shape)
        return self._concretise(linear, beta, None), linear, beta

    def _at_box(self, a: Tensor, beta: Tensor, box: Interval, charge: list[Tensor] | None) -> Tensor:
        plus, minus = a.clamp(min=0), a.clamp(max=0)
        value = beta + ops._dot(plus, box[0]) + ops._dot(minus, box[1])
        if charge is None:
            return value
        size = ops._dot(a.abs(), rounding.largest(box)) + beta.abs()
        slack = rounding.gamma(a[0, 0].numel() + len(charge)) * size
        for item in charge:
            slack = slack + item
        return value - slack * (1 + 2.0**-20) - 4 * rounding.EPS * value.abs()


def _composed(a: Tensor, beta: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Rows ``(B, S, *f)`` of a node bounded from below by its linear functions: rows ``(B, S, n)``, offsets."""
    flat = a.flatten(2)
    plus, minus = flat.clamp(min=0), flat.clamp(max=0)
    linear = plus @ state.lower.flatten(2).transpose(1, 2) + minus @ state.upper.flatten(2).transpose(1, 2)
    offsets = ops._dot(plus, state.lower_bias.flatten(1)) + ops._dot(minus, state.upper_bias.flatten(1))
    return linear, beta + offsets


def _expanded(state: State, batch: int) -> State:
    """A state with the batch written out, for lines that differ from example to example."""
    if len(state.lower) == batch:
        return state
    lower = state.lower.expand(batch, *state.lower.shape[1:])
    upper = lower if state.upper is state.lower else state.upper.expand(batch, *state.upper.shape[1:])
    return State(lower, state.lower_bias, upper, state.upper_bias)


def _push_linear(op: LinearOp, states: list[State]) -> State:
    """LBP through ``W x + b``: the positive part of W takes its own side, the negative part the other."""
    batch = max(len(s.lower) for s in states)
    states = [_expanded(s, batch) if len(s.lower) != batch else s for s in states]

    def fold(matrix: Tensor) -> Tensor:
        return matrix.reshape(-1, *matrix.shape[2:])

    def unfold(matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.view(*like.shape[:2], *matrix.shape[1:])

    bias = op.bias(states[0].lower_bias)
    if all(s.upper is s.lower for s in states):
        matrix = unfold(op.linear(*(fold(s.lower) for s in states)), states[0].lower)
        offset = op.forward(*(s.lower_bias for s in states))
        return State(matrix, offset, matrix, offset)
    if op.positive:
        lower = unfold(op.linear(*(fold(s.lower) for s in states)), states[0].lower)
        upper = unfold(op.linear(*(fold(s.upper) for s in states)), states[0].lower)
        low = op.linear(*(s.lower_bias for s in states))
        high = op.linear(*(s.upper_bias for s in states))
    else:
        middle = unfold(op.linear(*(fold(s.lower + s.upper) / 2 for s in states)), states[0].lower)
        half = unfold(op.absolute(*(fold(s.upper - s.lower) / 2 for s in states)), states[0].lower)
        lower, upper = middle - half, middle + half
        center = op.linear(*((s.lower_bias + s.upper_bias) / 2 for s in states))
        radius = op.absolute(*((s.upper_bias - s.lower_bias) / 2 for s in states))
        low, high = center - radius, center + radius
    if bias is not None:
        low, high = low + bias, high + bias
    return State(lower, low, upper, high)
