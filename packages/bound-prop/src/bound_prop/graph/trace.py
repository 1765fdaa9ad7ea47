"""From any `nn.Module` to the graph: symbolic tracing, or graph export where Python control flow forbids it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bound_prop.graph.build import Graph, GraphBuilder, UnsupportedOperationError, Value
from bound_prop.graph.ops import Const
from bound_prop.lines import Ramp
from bound_prop.nn import Leaky, ParamRamp
from tenfold._errors import first_line

__all__ = ["trace"]

_ADVICE = "rewrite it with supported operations, or register its lines with bound_prop.relaxations.register"


def trace(model: nn.Module, example: Tensor) -> Graph:
    """The graph of ``model`` for inputs like ``example (1, *input)``; parameters stay the model's.

    Raises:
        UnsupportedOperationError: an operation that cannot be bounded; it is named with its module's path.
        ValueError: the graph does not compute what the model computes (a result that depends on the values of
            the input through Python), or parameters are not finite.
    """
    _check_parameters(model)
    training = model.training
    model.eval()
    try:
        graph = _build(model, example[:1])
        _check_same(model, graph, example[:1])
    finally:
        model.train(training)
    return graph


def _check_parameters(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"bound_prop: parameter {name!r}: holds NaN or infinity; expected finite numbers"
            )


def _check_same(model: nn.Module, graph: Graph, example: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *example.shape[1:], generator=generator, dtype=example.dtype).to(example)
    inputs = torch.cat([example, example + 0.3 * noise[:1], noise[1:]])
    with torch.no_grad():
        expected = torch.cat([model(x[None]) for x in inputs]).reshape(3, *graph.output_shape)
        got = graph.forward(inputs)
    if not torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * (1 + float(expected.abs().max()))):
        raise ValueError(
            "bound_prop: tracing does not reproduce the model: its result depends on the input through Python"
            " (a branch or a number taken from a tensor); make that part of the graph"
        )


class _Tracer(fx.Tracer):
    """Traces into every module but those whose forward pass asks for shapes or is one operation of ours."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or type(m) in USER_MODULES


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LEAVES = (*_BATCH_NORMS, ParamRamp, Leaky)
#: Module class -> function from a module to its `Activation`; filled by `bound_prop.relaxations.register`.
USER_MODULES: dict[type[nn.Module], Callable[[nn.Module], Any]] = {}


def _build(model: nn.Module, example: Tensor) -> Graph:
    if isinstance(model, _LEAVES) or type(model) in USER_MODULES:
        model = nn.Sequential(model)
    try:
        nodes = _Tracer().trace(model)
        modules: dict[str, nn.Module] = dict(model.named_modules())
        return _Interpreter(model, modules, example).run(nodes)
    except (fx.proxy.TraceError, TypeError, NotImplementedError) as error:
        return _build_exported(model, example, error)


def _build_exported(model: nn.Module, example: Tensor, reason: Exception) -> Graph:
    try:
        program = torch.export.export(model, (example,), strict=False)
    except Exception as error:  # export raises whatever the model's Python raises
        raise UnsupportedOperationError(
            f"bound_prop: {type(model).__name__}: cannot be traced ({first_line(reason)}) nor exported"
            f" ({first_line(error)}); remove control flow that depends on the input"
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {
        name: program.constants[target]
        for name, target in signature.inputs_to_lifted_tensor_constants.items()
    }
    return _Interpreter(model, {}, example, names, constants).run(program.graph)


def _read(model: nn.Module, path: str) -> Const:
    """A parameter or buffer by path, looked up at each use."""
    owner = model.get_submodule(path.rpartition(".")[0])
    name = path.rpartition(".")[2]
    return Const(lambda: getattr(owner, name))


class _Interpreter:
    """Runs a graph of torch.fx or torch.export, handing what depends on the input to a `GraphBuilder`."""

    def __init__(
        self,
        model: nn.Module,
        modules: dict[str, nn.Module],
        example: Tensor,
        parameters: dict[str, str] | None = None,
        constants: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.modules, self.example = model, modules, example
        self.parameters, self.constants = parameters or {}, constants or {}
        self.build = GraphBuilder(example.shape[1:])
        self.known: dict[fx.Node, Any] = {}

    def run(self, nodes: fx.Graph) -> Graph:
        for node in nodes.nodes:
            self.build.place = _module_path(node)
            if node.op == "output":
                return self._finish(self._values(node.args[0]))
            self.known[node] = self._one(node)
        raise UnsupportedOperationError("bound_prop: the network has no output")

    def _finish(self, result: Any) -> Graph:
        while isinstance(result, tuple | list) and len(result) == 1:
            result = result[0]
        if not isinstance(result, Value):
            self.build.refuse(
                "the network returns something else than one tensor that depends on its input",
                "wrap it in a module that returns one tensor",
            )
        return self.build.finish(result)

    def _values(self, item: Any) -> Any:
        return fx.node.map_aggregate(item, lambda n: self.known[n] if isinstance(n, fx.Node) else n)

    def _one(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            return _read(self.model, str(node.target))
        args, keywords = self._values(node.args), self._values(node.kwargs)
        if node.op == "call_module":
            return self._module(self.modules[str(node.target)], args[0])
        if any(isinstance(v, Value) for v in _flat((args, keywords))):
            return self._operation(node, args, keywords)
        return self._constant(node, args, keywords)

    def _placeholder(self, node: fx.Node) -> Any:
        if node.name in self.parameters:
            return _read(self.model, self.parameters[node.name])
        if node.name in self.constants:
            return Const.of(self.constants[node.name])
        if any(value is self.build.input for value in self.known.values()):
            if node.args:
                return node.args[0]  # the default of an optional argument
            self.build.refuse("the network takes several inputs", "wrap it in a module with one input tensor")
        return self.build.input

    def _module(self, module: nn.Module, x: Any) -> Any:
        if isinstance(module, ParamRamp):

            def ramp(like: Tensor) -> Ramp:
                return Ramp(module.slope(), module.knee.to(like) if module.is_enabled() else None)

            return self.build.activation(x, ramp, "param_ramp")
        if isinstance(module, Leaky):
            return self.build.activation(x, lambda like: Ramp(module.slope()), "leaky_relu")
        if isinstance(module, _BATCH_NORMS):
            return self.build.batch_norm(x, module)
        make = USER_MODULES[type(module)]
        return self.build.activation(x, lambda like: make(module), type(module).__name__)

    def _constant(self, node: fx.Node, args: Any, keywords: Any) -> Any:
        """An expression of parameters stays an expression: it is computed at each use, with gradients."""
        function = _callable(node)
        consts = [v for v in _flat((args, keywords)) if isinstance(v, Const)]
        if not consts:
            return function(*args, **keywords)

        def value() -> Any:
            own = fx.node.map_aggregate((args, keywords), lambda v: v() if isinstance(v, Const) else v)
            return function(*own[0], **own[1])  # type: ignore[index]

        result = value()
        return Const(value) if isinstance(result, Tensor) else result

    def _operation(self, node: fx.Node, args: Any, keywords: Any) -> Any:
        name = _name(node)
        handler = _HANDLERS.get(name)
        if handler is None:
            self.build.refuse(f"the operation {name!r} cannot be bounded", _ADVICE)
        result = handler(self.build, *args, **keywords)
        if name.endswith("_") and isinstance(node.args[0], fx.Node) and not name.startswith("__"):
            self.known[node.args[0]] = result  # an in-place operation: later readers see the new value
        return result


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
    path = str(paths[-1]) if paths else ""
    if node.op == "call_module":
        path = str(node.target)
    return path.removeprefix("L['self'].")


def _flat(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [leaf for value in item.values() for leaf in _flat(value)]
    if isinstance(item, tuple | list):
        return [leaf for value in item for leaf in _flat(value)]
    return [item]


def _callable(node: fx.Node) -> Callable[..., Any]:
    if node.op == "call_method":
        name = str(node.target)
        return lambda self, *args, **keywords: getattr(self, name)(*args, **keywords)
    function: Callable[..., Any] = node.target  # type: ignore[assignment]
    return function


def _name(node: fx.Node) -> str:
    """One name for the function, the method and the exported operator of an operation."""
    target: Any = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__)
    return str(getattr(target, "__name__", target))


# Handlers: called as handler(builder, *args, **keywords) with the arguments of the torch function of that name.

Build = GraphBuilder


def _const(value: Any) -> Const:
    return value if isinstance(value, Const) else Const.of(value)


def _negated(value: Const) -> Const:
    return Const(lambda: -value())


def _axis(x: Value, dim: int) -> int:
    """Feature axis of a dimension of ``(N, *features)``."""
    axis = dim + len(x.shape) + 1 if dim < 0 else dim
    return axis - 1


def _axes(build: Build, x: Value, dim: Any) -> list[int]:
    dims = range(1, len(x.shape) + 1) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [_axis(x, d) for d in dims]
    if min(axes) < 0:
        build.refuse("a reduction over the batch axis", "keep axis 0 for the batch")
    return axes


def _linear(build: Build, x: Value, weight: Any, bias: Any = None) -> Value:
    return build.linear(x, _const(weight), None if bias is None else _const(bias))


def _addmm(build: Build, bias: Any, x: Value, weight: Any) -> Value:
    return build.linear(x, Const(lambda: _const(weight)().T), _const(bias))


def _matmul(build: Build, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and not isinstance(y, Value):
        weight = _const(y)
        if weight().ndim == 2:
            return build.linear(x, Const(lambda: weight().T), None)
    build.refuse("a matrix product other than features times a constant matrix", _ADVICE)


def _conv(build: Build, x: Value, weight: Any, bias: Any = None, *args: Any, **keywords: Any) -> Value:
    return build.conv(x, _const(weight), None if bias is None else _const(bias), *args, **keywords)


def _conv_transpose(
    build: Build,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    return build.conv(
        x,
        _const(weight),
        None if bias is None else _const(bias),
        stride,
        padding,
        dilation,
        groups,
        transposed=True,
        output_padding=output_padding,
    )


def _batch_norm(
    build: Build,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: Any = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
    *rest: Any,
) -> Value:
    centre, spread = _const(mean), _const(var)
    gain, offset = (None if const is None else _const(const) for const in (weight, bias))
    shape = (-1, *[1] * (len(x.shape) - 1))

    def scale() -> Tensor:
        slope = torch.rsqrt(spread() + eps)
        return (slope if gain is None else slope * gain()).view(shape)

    def shift() -> Tensor:
        base = -centre().view(shape) * scale()
        return base if offset is None else base + offset().view(shape)

    def shift_size() -> Tensor:
        base = (centre().view(shape) * scale()).abs()
        return base if offset is None else base + offset().view(shape).abs()

    return build.scale(x, Const(scale), Const(shift), Const(shift_size))


def _add(build: Build, x: Any, y: Any, *, alpha: float = 1) -> Any:
    if alpha != 1:
        y = _mul(build, y, alpha)
    if isinstance(x, Value) and isinstance(y, Value):
        return build.add(x, y)
    value, other = (x, y) if isinstance(x, Value) else (y, x)
    return build.scale(value, None, _const(other))


def _sub(build: Build, x: Any, y: Any, *, alpha: float = 1) -> Any:
    if alpha != 1:
        y = _mul(build, y, alpha)
    if isinstance(x, Value) and isinstance(y, Value):
        return build.add(x, y, -1.0)
    if isinstance(x, Value):
        return build.scale(x, None, _negated(_const(y)))
    return build.scale(y, Const.of(-1.0), _const(x))


def _mul(build: Build, x: Any, y: Any) -> Any:
    if isinstance(x, Value) and isinstance(y, Value):
        return build.product(x, y)
    value, other = (x, y) if isinstance(x, Value) else (y, x)
    if not isinstance(value, Value):
        return Const(lambda: _const(x)() * _const(y)())
    return build.scale(value, _const(other), None)


def _div(build: Build, x: Any, y: Any, *, rounding_mode: Any = None) -> Value:
    if not isinstance(x, Value) or isinstance(y, Value) or rounding_mode is not None:
        build.refuse("a division by something that depends on the input", _ADVICE)
    return build.scale(x, Const(lambda: 1 / _const(y)().double()), None)


def _pow(build: Build, x: Any, exponent: Any) -> Value:
    if isinstance(x, Value) and exponent == 2:
        return build.smooth(x, "square")
    if isinstance(x, Value) and exponent == 0.5:
        return build.smooth(x, "sqrt")
    build.refuse(f"the power {exponent!r}", "only 2 and 0.5 are supported")


def _moved(function: Callable[..., Tensor]) -> Callable[..., Value]:
    return lambda build, x, *args, **keywords: build.move(x, lambda t: function(t, *args, **keywords))


def _reshape(build: Build, x: Value, *shape: Any) -> Value:
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return build.move(x, lambda t: t.reshape(*sizes))


def _getitem(build: Build, x: Any, item: Any) -> Any:
    if isinstance(x, list | tuple):
        return x[item]
    return build.move(x, lambda t: t[item])


def _split(build: Build, x: Value, size: Any, dim: int = 0) -> list[Value]:
    count = len(torch.zeros((1, *x.shape)).split(size, dim))
    return [build.move(x, lambda t, k=k: t.split(size, dim)[k]) for k in range(count)]  # type: ignore[misc]


def _chunk(build: Build, x: Value, chunks: int, dim: int = 0) -> list[Value]:
    count = len(torch.zeros((1, *x.shape)).chunk(chunks, dim))
    return [build.move(x, lambda t, k=k: t.chunk(chunks, dim)[k]) for k in range(count)]  # type: ignore[misc]


def _cat(build: Build, xs: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> Value:
    place = _axis(xs[0], dim if axis is None else axis)
    values = []
    for x in xs:
        if isinstance(x, Value):
            values.append(x)
        else:
            build.refuse("a concatenation with a constant", "pad with torch.nn.functional.pad instead")
    if place < 0:
        build.refuse("a concatenation along the batch axis", "keep axis 0 for the batch")
    return build.concat(values, place)


def _pad(
    build: Build, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    if mode == "constant":
        return build.pad(x, [(0, 0)] * (len(x.shape) - len(pairs)) + pairs, float(value or 0.0))
    return build.move(x, lambda t: torch.nn.functional.pad(t.double(), list(pad), mode).long())


def _reduce(kind: str) -> Callable[..., Value]:
    def handler(
        build: Build, x: Value, dim: Any = None, keepdim: bool = False, *, axis: Any = None, dtype: Any = None
    ) -> Value:
        axes = _axes(build, x, dim if axis is None else axis)
        dims = [a + 1 for a in axes]
        terms = 1
        for a in axes:
            terms *= x.shape[a]
        reduce = torch.mean if kind == "mean" else torch.sum
        return build.positive(x, lambda t: reduce(t, dims, keepdim=keepdim), terms, kind)

    return handler


def _amax(build: Build, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return build.maximum_over(x, _axes(build, x, dim), keepdim)


def _pool(name: str) -> Callable[..., Value]:
    def handler(build: Build, x: Value, *args: Any, **keywords: Any) -> Value:
        function = getattr(torch.nn.functional, name)
        terms = 1
        for n in x.shape[1:]:
            terms *= n
        return build.positive(x, lambda t: function(t, *args, **keywords), terms, name)

    return handler


def _max_pool(
    build: Build,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if return_indices:
        build.refuse("max pooling that returns indices", "only the values can be bounded")
    return build.max_pool(x, kernel_size, stride, padding, dilation, ceil_mode)


def _adaptive_max(build: Build, x: Value, output_size: Any, return_indices: bool = False) -> Value:
    sizes = [output_size] * (len(x.shape) - 1) if isinstance(output_size, int) else list(output_size)
    if any(n % s for n, s in zip(x.shape[1:], sizes, strict=True)):
        build.refuse("adaptive max pooling to a size that does not divide the input's", "use MaxPool")
    return build.max_pool(x, [n // s for n, s in zip(x.shape[1:], sizes, strict=True)])


def _relu(build: Build, x: Value, inplace: bool = False) -> Value:
    return build.relu(x)


def _leaky(build: Build, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return build.leaky_relu(x, negative_slope)


def _hardtanh(
    build: Build, x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value:
    return build.clip(x, float(min_val), float(max_val))


def _clamp(build: Build, x: Value, min: Any = None, max: Any = None) -> Value:
    low = -float("inf") if min is None else _number(build, min)
    high = float("inf") if max is None else _number(build, max)
    return build.clip(x, low, high)


def _number(build: Build, value: Any) -> float:
    if isinstance(value, Value) or (isinstance(value, Const) and value().numel() != 1):
        build.refuse(
            "a clip at a bound that is not one constant number", "use ParamRamp for a bound per neuron"
        )
    return float(value()) if isinstance(value, Const) else float(value)


def _maximum(build: Build, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):  # max(x, y) = y + relu(x - y)
        return build.add(y, build.relu(build.add(x, y, -1.0)))
    value, other = (x, y) if isinstance(x, Value) else (y, x)
    shift = _const(other)
    return build.scale(build.relu(build.scale(value, None, _negated(shift))), None, shift)


def _minimum(build: Build, x: Any, y: Any) -> Value:
    negative = [
        build.scale(v, Const.of(-1.0), None) if isinstance(v, Value) else _negated(_const(v)) for v in (x, y)
    ]
    return build.scale(_maximum(build, *negative), Const.of(-1.0), None)


def _prelu(build: Build, x: Value, weight: Any) -> Value:
    return build.prelu(x, _const(weight))


def _smooth(kind: str) -> Callable[..., Value]:
    return lambda build, x, *args, **keywords: build.smooth(x, kind)


def _softplus(build: Build, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    if beta != 1:
        build.refuse(f"softplus with beta {beta}", "scale its input instead")
    if threshold != 20:
        build.refuse(f"softplus with threshold {threshold}", "only torch's own, 20, is supported")
    return build.smooth(x, "softplus")


def _elu(build: Build, x: Value, alpha: float = 1.0, *rest: Any, **keywords: Any) -> Value:
    if alpha != 1:
        build.refuse(f"ELU with alpha {alpha}", "only alpha 1 is supported")
    return build.smooth(x, "elu")


def _hardsigmoid(build: Build, x: Value, inplace: bool = False) -> Value:
    return build.clip(build.scale(x, Const.of(1 / 6), Const.of(0.5)), 0.0, 1.0)


def _same(build: Build, x: Value, *args: Any, **keywords: Any) -> Value:
    return x


def _dropout(build: Build, x: Value, p: float = 0.5, training: bool = False, inplace: bool = False) -> Value:
    return x


def _size(build: Build, x: Value, dim: int | None = None) -> Any:
    shape = torch.Size((1, *x.shape))
    return shape if dim is None else shape[dim]


def _getattr(build: Build, x: Value, name: str) -> Any:
    if name == "shape":
        return torch.Size((1, *x.shape))
    if name == "ndim":
        return len(x.shape) + 1
    if name in ("T", "mT"):
        return build.move(x, lambda t: getattr(t, name))
    if name in ("dtype", "device", "data"):
        return x if name == "data" else None
    build.refuse(f"the attribute {name!r}", _ADVICE)


def _neg(build: Build, x: Value) -> Value:
    return build.scale(x, Const.of(-1.0), None)


_HANDLERS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "mm", "__matmul__"), _matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "iadd"), _add),
    **dict.fromkeys(("sub", "sub_", "__sub__", "isub", "subtract"), _sub),
    "rsub": lambda build, x, y, alpha=1: _sub(build, y, x, alpha=alpha),
    **dict.fromkeys(("mul", "mul_", "__mul__", "__rmul__", "imul", "multiply"), _mul),
    **dict.fromkeys(("div", "truediv", "true_divide", "div_", "__truediv__"), _div),
    **dict.fromkeys(("pow", "__pow__"), _pow),
    **dict.fromkeys(("neg", "negative"), _neg),
    "square": _smooth("square"),
    "flatten": _moved(torch.flatten),
    **dict.fromkeys(("reshape", "view", "_unsafe_view"), _reshape),
    "view_as": lambda build, x, other: _reshape(build, x, (1, *other.shape)),
    "unflatten": _moved(torch.unflatten),
    "permute": lambda build, x, *dims: build.move(
        x, lambda t: t.permute(*(dims[0] if len(dims) == 1 else dims))
    ),
    "transpose": _moved(torch.transpose),
    "squeeze": _moved(torch.squeeze),
    "unsqueeze": _moved(torch.unsqueeze),
    "getitem": _getitem,
    "select": _moved(torch.select),
    "narrow": _moved(torch.narrow),
    "slice": lambda build, x, dim=0, start=None, end=None, step=1: build.move(
        x, lambda t: t[(slice(None),) * (dim % t.ndim) + (slice(start, end, step),)]
    ),
    "index_select": lambda build, x, dim, index: build.move(
        x, lambda t: t.index_select(dim, _const(index)().long())
    ),
    "flip": lambda build, x, *dims: build.move(x, lambda t: t.flip(*dims)),
    "roll": _moved(torch.roll),
    "repeat": lambda build, x, *sizes: build.move(x, lambda t: t.repeat(*sizes)),
    **dict.fromkeys(
        ("expand",),
        lambda build, x, *sizes, implicit=False: build.move(x, lambda t: t.expand(*sizes)),
    ),
    "repeat_interleave": _moved(torch.repeat_interleave),
    "pixel_shuffle": _moved(torch.pixel_shuffle),
    "split": _split,
    "chunk": _chunk,
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "pad": _pad,
    "constant_pad_nd": lambda build, x, pad, value=0.0: _pad(build, x, pad, "constant", value),
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _amax,
    **{
        name: _pool(name)
        for name in ("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
    },
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "_max_pool1d", "_max_pool2d", "boolean_dispatch"), _max_pool
    ),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max),
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), _leaky),
    "prelu": _prelu,
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    "relu6": lambda build, x, inplace=False: build.clip(x, 0.0, 6.0),
    **dict.fromkeys(("clamp", "clip", "clamp_"), _clamp),
    **dict.fromkeys(("clamp_min", "clamp_min_"), _clamp),
    **dict.fromkeys(("clamp_max", "clamp_max_"), lambda build, x, max: _clamp(build, x, None, max)),
    **dict.fromkeys(("maximum", "max"), _maximum),
    **dict.fromkeys(("minimum", "min"), _minimum),
    **{name: _smooth(name) for name in ("sigmoid", "tanh", "atan", "erf", "exp", "log", "sqrt", "abs")},
    "softplus": _softplus,
    **dict.fromkeys(("elu", "elu_"), _elu),
    "hardsigmoid": _hardsigmoid,
    **dict.fromkeys(("dropout", "dropout2d", "feature_dropout", "alpha_dropout"), _dropout),
    **dict.fromkeys(
        ("contiguous", "clone", "detach", "float", "double", "to", "identity", "_to_copy"), _same
    ),
    **dict.fromkeys(("dropout1d", "dropout3d"), _dropout),
    "size": _size,
    "dim": lambda build, x: len(x.shape) + 1,
    "ndimension": lambda build, x: len(x.shape) + 1,
    "numel": lambda build, x: int(torch.Size(x.shape).numel()),
    "getattr": _getattr,
}
_HANDLERS["sigmoid_"], _HANDLERS["tanh_"] = _smooth("sigmoid"), _smooth("tanh")
_HANDLERS[operator.getitem.__name__] = _getitem
