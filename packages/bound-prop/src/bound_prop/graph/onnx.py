"""ONNX files to the graph.

Every tensor keeps the shape that ONNX gives it, batch axis of size 1 included, as features: files with and without
a batch axis, and reshapes that move it, need no special case.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bound_prop.graph.build import Graph, GraphBuilder, UnsupportedOperationError, Value
from bound_prop.graph.ops import Const
from tenfold._errors import UserInputError, first_line

__all__ = ["OnnxNetwork", "load_onnx"]


class OnnxNetwork:
    """A network read from a file.

    Attributes:
        path: the file.
        graph: its operations; inputs are ``(N, *input_shape)``.
        input_shape: as in the file, symbolic axes being 1.
        input_name: of the input.
    """

    def __init__(self, path: Path, graph: Graph, input_shape: tuple[int, ...], input_name: str) -> None:
        self.path, self.graph, self.input_shape, self.input_name = path, graph, input_shape, input_name
        self._session: Any = None

    def run(self, x: Tensor) -> Tensor:
        """Output ``(K,)`` float32 of one flat input ``(n,)``, by onnxruntime: independent of our code."""
        import onnxruntime

        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        array = x.detach().cpu().numpy().astype(np.float32).reshape(self.input_shape)
        return torch.from_numpy(np.asarray(self._session.run(None, {self.input_name: array})[0])).flatten()


def load_onnx(path: str | Path) -> OnnxNetwork:
    """Reads a network with one input and one output.

    Raises:
        UserInputError: the file is missing or damaged, or holds NaN.
        UnsupportedOperationError: an operation that cannot be bounded, named with its node.
    """
    import onnx
    from onnx import numpy_helper

    file = Path(path)
    if not file.is_file():
        raise UserInputError(f"{file}: model: {'is no file' if file.exists() else 'does not exist'}")
    try:
        model = onnx.load(str(file))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have no common exception
        reason = first_line(error)
        raise UserInputError(f"{file}: model: is no valid ONNX file ({reason[:160]})") from error
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, value in constants.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise UserInputError(f"{file}: {name}: holds NaN or infinity")
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UserInputError(
            f"{file}: model: has {len(inputs)} inputs and {len(model.graph.output)} outputs; expected one of each"
        )
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(d.dim_value if d.dim_value > 0 else 1 for d in dims)
    reader = _Reader(file, GraphBuilder(shape), constants, inputs[0].name)
    for number, node in enumerate(model.graph.node):
        reader.node(number, node)
    network = OnnxNetwork(file, reader.finish(model.graph.output[0].name), shape, inputs[0].name)
    if inputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        _check_same(network)
    return network


def _check_same(network: OnnxNetwork) -> None:
    """Compares the graph with onnxruntime, where that is installed, on a few inputs."""
    if importlib.util.find_spec("onnxruntime") is None:
        return
    generator = torch.Generator().manual_seed(0)
    inputs = 0.5 * torch.randn(3, math.prod(network.input_shape), generator=generator)
    expected = torch.stack([network.run(x).float() for x in inputs])
    got = network.graph.forward(inputs.view(3, *network.input_shape)).flatten(1).float()
    slack = 1e-4 * (1 + float(expected.abs().max()))
    if not torch.allclose(got, expected, rtol=1e-3, atol=slack, equal_nan=True):
        raise UserInputError(
            f"{network.path}: model: onnxruntime computes other outputs than the operations read from it;"
            " please report this file"
        )


class _Reader:
    def __init__(self, file: Path, build: GraphBuilder, constants: dict[str, Any], source: str) -> None:
        self.file, self.build = file, build
        self.known: dict[str, Any] = {**constants, source: build.input, "": None}

    def node(self, number: int, node: Any) -> None:
        from onnx import helper

        self.build.place = f"{node.name or node.op_type}#{number}"
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        try:
            inputs = [self.known[name] for name in node.input]
        except KeyError as error:
            raise UserInputError(f"{self.file}: {self.build.place}: input {error} is not defined") from error
        if node.op_type == "Constant":
            result: Any = self._constant(attributes)
        elif not any(isinstance(x, Value) for x in inputs):
            result = self._folded(node, inputs)
        elif node.op_type in _HANDLERS:
            if node.op_type == "Split":  # the number of parts was an attribute only later
                attributes.setdefault("num_outputs", len(node.output))
            try:
                result = _HANDLERS[node.op_type](self.build, inputs, attributes)
            except UnsupportedOperationError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
                reason = first_line(error)
                raise UserInputError(
                    f"{self.file}: {self.build.place}: shapes or attributes do not fit ({reason[:160]})"
                ) from error
        else:
            self.build.refuse(f"the ONNX operation {node.op_type} cannot be bounded", "export without it")
        results = result if isinstance(result, list) else [result]
        self.known.update(zip(node.output, results, strict=False))

    @staticmethod
    def _constant(attributes: dict[str, Any]) -> Any:
        from onnx import numpy_helper

        if "value" in attributes:
            return numpy_helper.to_array(attributes["value"])
        (value,) = attributes.values()
        return np.asarray(value)

    def _folded(self, node: Any, inputs: list[Any]) -> Any:
        """Operations on constants alone, by the reference evaluator of onnx."""
        from onnx import TensorProto, helper
        from onnx.reference import ReferenceEvaluator

        names = [name for name in node.input if name]
        info = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
        outs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
        graph = helper.make_graph([node], "constant", info, outs)
        run = ReferenceEvaluator(helper.make_model(graph))
        found: Any = run.run(None, {n: x for n, x in zip(node.input, inputs, strict=True) if n})
        return found if len(found) > 1 else found[0]

    def finish(self, output: str) -> Graph:
        result = self.known.get(output)
        if not isinstance(result, Value):
            raise UserInputError(f"{self.file}: output {output!r}: does not depend on the input")
        flat = self.build.move(result, lambda t: t.reshape(1, -1))
        return self.build.finish(flat)


Build = GraphBuilder


def _tensor(value: Any) -> Tensor:
    array = np.array(value)
    return torch.from_numpy(
        array.astype(np.float64) if array.dtype.kind == "f" and array.itemsize > 4 else array
    )


def _const(value: Any) -> Const:
    return Const.of(_tensor(value))


def _ints(value: Any) -> list[int]:
    return [int(v) for v in np.asarray(value).flatten()]


def _moved(build: Build, x: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """A movement of the whole ONNX tensor."""
    return build.move(x, lambda t: function(t[0]).unsqueeze(0))


def _without_batch(build: Build, x: Value) -> Value:
    if len(x.shape) < 2 or x.shape[0] != 1:
        build.refuse(f"an operation on images meets shape {x.shape}", "expected a batch axis of size 1")
    return build.move(x, lambda t: t[:, 0])


def _with_batch(build: Build, x: Value) -> Value:
    return build.move(x, lambda t: t.unsqueeze(1))


def _gemm(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    x, weight, bias = xs[0], _tensor(xs[1]), None if len(xs) < 3 or xs[2] is None else _tensor(xs[2])
    if not isinstance(x, Value):
        build.refuse("a Gemm whose second factor depends on the input", "swap its factors")
    if a.get("transA"):
        x = _moved(build, x, lambda t: t.T)
    weight = weight * a.get("alpha", 1.0)
    weight = weight if a.get("transB") else weight.T
    if bias is not None:
        bias = bias.flatten() * a.get("beta", 1.0)
        bias = bias.expand(weight.shape[0]) if bias.numel() == 1 else bias
    return build.linear(x, Const.of(weight.contiguous()), None if bias is None else Const.of(bias))


def _matmul(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    if isinstance(xs[0], Value) and not isinstance(xs[1], Value):
        weight = _tensor(xs[1])
        if weight.ndim == 2:
            return build.linear(xs[0], Const.of(weight.T.contiguous()), None)
        if weight.ndim == 1:
            out = build.linear(xs[0], Const.of(weight[None]), None)
            return _moved(build, out, lambda t: t[..., 0])
    if isinstance(xs[1], Value) and not isinstance(xs[0], Value) and _tensor(xs[0]).ndim == 2:
        weight, x = _tensor(xs[0]), xs[1]
        if len(x.shape) == 1:
            return build.linear(x, Const.of(weight), None)
        turned = _moved(build, x, lambda t: t.transpose(-1, -2))
        return _moved(build, build.linear(turned, Const.of(weight), None), lambda t: t.transpose(-1, -2))
    build.refuse("a MatMul of two tensors that depend on the input", "only constant matrices are supported")


def _conv(build: Build, xs: list[Any], a: dict[str, Any], transposed: bool = False) -> Value:
    weight = _tensor(xs[1])
    rank = weight.ndim - 2
    bias = None if len(xs) < 3 or xs[2] is None else Const.of(_tensor(xs[2]))
    pads: Any = list(a.get("pads", [0] * 2 * rank))
    auto = a.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        build.refuse(f"a convolution with auto_pad {auto.decode()}", "export with explicit pads")
    x = _without_batch(build, xs[0])
    if transposed and pads[:rank] != pads[rank:]:
        build.refuse("a transposed convolution with unequal pads", "export with equal pads")
    out = build.conv(
        x,
        Const.of(weight),
        bias,
        stride=a.get("strides", [1] * rank),
        padding=pads[:rank] if transposed else pads,
        dilation=a.get("dilations", [1] * rank),
        groups=a.get("group", 1),
        transposed=transposed,
        output_padding=a.get("output_padding", [0] * rank),
    )
    return _with_batch(build, out)


def _batch_norm(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    gain, bias, mean, variance = (_tensor(v).double() for v in xs[1:5])
    scale = gain / torch.sqrt(variance + a.get("epsilon", 1e-5))
    shape = (1, -1, *[1] * (len(xs[0].shape) - 2))
    shift, size = bias - mean * scale, bias.abs() + (mean * scale).abs()
    return build.scale(xs[0], *(Const.of(value.view(shape)) for value in (scale, shift, size)))


def _add(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    x, y = xs
    if isinstance(x, Value) and isinstance(y, Value):
        return build.add(x, y)
    return build.scale(x, None, _const(y)) if isinstance(x, Value) else build.scale(y, None, _const(x))


def _sub(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    x, y = xs
    if isinstance(x, Value) and isinstance(y, Value):
        return build.add(x, y, -1.0)
    if isinstance(x, Value):
        return build.scale(x, None, Const.of(-_tensor(y)))
    return build.scale(y, Const.of(-1.0), _const(x))


def _mul(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    x, y = xs
    if isinstance(x, Value) and isinstance(y, Value):
        return build.product(x, y)
    return build.scale(x, _const(y), None) if isinstance(x, Value) else build.scale(y, _const(x), None)


def _div(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    if not isinstance(xs[0], Value) or isinstance(xs[1], Value):
        build.refuse(
            "a division by something that depends on the input", "only constant divisors are supported"
        )
    return build.scale(xs[0], Const.of(1 / _tensor(xs[1]).double()), None)


def _limit(build: Build, x: Any, default: float) -> float:
    if x is None:
        return default
    if isinstance(x, Value) or np.asarray(x).size != 1:
        build.refuse("a Clip whose bounds are not constant numbers", "use Min and Max")
    return float(np.asarray(x).item())


def _clip(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    low = a["min"] if "min" in a else _limit(build, xs[1] if len(xs) > 1 else None, -math.inf)
    high = a["max"] if "max" in a else _limit(build, xs[2] if len(xs) > 2 else None, math.inf)
    return build.clip(xs[0], low, high)


def _extreme(build: Build, xs: list[Any], sign: float) -> Value:
    """Max (sign 1) or Min (sign -1) of two."""
    if len(xs) != 2:
        build.refuse(f"Min or Max of {len(xs)} inputs", "only two are supported")
    values = [x for x in xs if isinstance(x, Value)]
    if len(values) == 2:
        x, y = values
        gap = build.add(x, y, -1.0)
        if sign > 0:
            return build.add(y, build.relu(gap))
        return build.add(
            y, build.scale(build.relu(build.scale(gap, Const.of(-1.0), None)), Const.of(-1.0), None)
        )
    bound = _tensor(next(x for x in xs if not isinstance(x, Value)))
    (x,) = values
    if sign < 0:
        knee = _relu_below(build, x, bound)
        if knee is not None:
            return knee
    turned = build.scale(x, Const.of(sign), Const.of(-sign * bound))
    return build.scale(build.relu(turned), Const.of(sign), Const.of(bound))


def _relu_below(build: Build, x: Value, bound: Tensor) -> Value | None:
    """``Min(Relu(z), r)`` with r > 0 is a ramp."""
    from bound_prop.graph.ops import Unary

    node = build.nodes[x.index]
    if not isinstance(node.op, Unary) or node.op.kind != "relu" or bool((bound <= 0).any()):
        return None
    source = Value(node.inputs[0], build.nodes[node.inputs[0]].shape)
    return build.param_ramp(source, Const.of(bound), lambda: 0.0)


def _pool_padding(build: Build, a: dict[str, Any], rank: int) -> list[int]:
    pads = list(a.get("pads", [0] * 2 * rank))
    if pads[:rank] != pads[rank:] or a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        build.refuse("a pooling with unequal or automatic pads", "export with equal explicit pads")
    return pads[:rank]


def _max_pool(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    kernel = list(a["kernel_shape"])
    x = _without_batch(build, xs[0])
    out = build.max_pool(
        x,
        kernel,
        list(a.get("strides", [1] * len(kernel))),
        _pool_padding(build, a, len(kernel)),
        list(a.get("dilations", [1] * len(kernel))),
        bool(a.get("ceil_mode", 0)),
    )
    return _with_batch(build, out)


def _average_pool(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    kernel = list(a["kernel_shape"])
    rank = len(kernel)
    pads = _pool_padding(build, a, rank)
    strides = list(a.get("strides", [1] * rank))
    if rank not in (1, 2):
        build.refuse(f"average pooling over {rank} axes", "only 1d and 2d pooling are supported")
    if any(step != 1 for step in a.get("dilations", ())):
        build.refuse("an average pooling with dilations", "export without them")
    pool: Callable[..., Tensor] = (
        torch.nn.functional.avg_pool1d if rank == 1 else torch.nn.functional.avg_pool2d
    )
    ceil, counted = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    x = _without_batch(build, xs[0])
    out = build.positive(
        x, lambda t: pool(t, kernel, strides, pads, ceil, counted), math.prod(kernel), "pool"
    )
    return _with_batch(build, out)


def _reduce(kind: str) -> Callable[..., Value]:
    def handler(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
        x = xs[0]
        given = a.get("axes") if "axes" in a else (xs[1] if len(xs) > 1 and xs[1] is not None else None)
        axes = list(range(len(x.shape))) if given is None else [v % len(x.shape) for v in _ints(given)]
        keep = bool(a.get("keepdims", 1))
        if kind == "max":
            return build.maximum_over(x, axes, keep)
        dims = [v + 1 for v in axes]
        function = torch.mean if kind == "mean" else torch.sum
        terms = math.prod(x.shape[v] for v in axes)
        return build.positive(x, lambda t: function(t, dims, keepdim=keep), terms, kind)

    return handler


def _global_average(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    dims = list(range(3, len(xs[0].shape) + 1))
    terms = math.prod(xs[0].shape[2:])
    return build.positive(xs[0], lambda t: t.mean(dims, keepdim=True), terms, "mean")


def _reshape(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    shape = _ints(xs[1])
    sizes = [xs[0].shape[k] if n == 0 and not a.get("allowzero") else n for k, n in enumerate(shape)]
    return _moved(build, xs[0], lambda t: t.reshape(sizes))


def _flatten(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    axis = a.get("axis", 1)
    rows = math.prod(xs[0].shape[:axis])
    return _moved(build, xs[0], lambda t: t.reshape(rows, -1))


def _transpose(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    order = a.get("perm", list(range(len(xs[0].shape)))[::-1])
    return _moved(build, xs[0], lambda t: t.permute(order))


def _squeeze(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    given = a.get("axes", xs[1] if len(xs) > 1 else None)
    shape = xs[0].shape
    axes = (
        [k for k, n in enumerate(shape) if n == 1]
        if given is None
        else [v % len(shape) for v in _ints(given)]
    )
    left = [n for k, n in enumerate(shape) if k not in axes]
    return _moved(build, xs[0], lambda t: t.reshape(left))


def _unsqueeze(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    given = _ints(a["axes"] if "axes" in a else xs[1])
    rank = len(xs[0].shape) + len(given)
    axes = sorted(v % rank for v in given)
    shape = list(xs[0].shape)
    for v in axes:
        shape.insert(v, 1)
    return _moved(build, xs[0], lambda t: t.reshape(shape))


def _concat(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    if not all(isinstance(x, Value) for x in xs):
        build.refuse("a Concat with a constant", "use Pad instead")
    return build.concat(xs, a["axis"] % len(xs[0].shape))


def _slice(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    rank = len(xs[0].shape)
    starts = _ints(a["starts"] if "starts" in a else xs[1])
    ends = _ints(a["ends"] if "ends" in a else xs[2])
    given = a.get("axes", xs[3] if len(xs) > 3 else None)
    axes = list(range(len(starts))) if given is None else [v % rank for v in _ints(given)]
    steps = _ints(xs[4]) if len(xs) > 4 and xs[4] is not None else [1] * len(starts)
    cuts: list[Any] = [np.arange(n) for n in xs[0].shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Ends beyond the last element, also before the first one, are allowed; numpy clamps alike.
        cuts[axis] = cuts[axis][slice(start, end if end >= -(2**31) else None, step)]

    def cut(t: Tensor) -> Tensor:
        for axis, index in enumerate(cuts):
            t = t.index_select(axis, torch.from_numpy(np.ascontiguousarray(index)))
        return t

    return _moved(build, xs[0], cut)


def _pad(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    pads = _ints(a["pads"] if "pads" in a else xs[1])
    if a.get("mode", b"constant") != b"constant" or (len(xs) > 3 and xs[3] is not None):
        build.refuse("a Pad that is not constant on all axes", "use constant padding")
    fill = a.get("value", 0.0) if len(xs) < 3 or xs[2] is None else float(np.asarray(xs[2]).item())
    half = len(pads) // 2
    return build.pad(xs[0], list(zip(pads[:half], pads[half:], strict=True)), fill)


def _gather(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    if isinstance(xs[1], Value):
        build.refuse("a Gather whose indices depend on the input", "only constant indices are supported")
    axis, index = a.get("axis", 0) % len(xs[0].shape), _tensor(xs[1]).long()
    shape = (*xs[0].shape[:axis], *index.shape, *xs[0].shape[axis + 1 :])
    size = xs[0].shape[axis]
    return _moved(build, xs[0], lambda t: t.index_select(axis, index.flatten() % size).reshape(shape))


def _split(build: Build, xs: list[Any], a: dict[str, Any]) -> list[Value]:
    axis = a.get("axis", 0) % len(xs[0].shape)
    size = xs[0].shape[axis]
    if "split" in a or len(xs) > 1:
        parts = _ints(a["split"] if "split" in a else xs[1])
    else:
        count = a["num_outputs"]
        step = -(-size // count)  # the last part may be smaller
        parts = [min(step, size - k * step) for k in range(count)]
    starts = np.cumsum([0, *parts])
    return [
        _moved(build, xs[0], lambda t, s=int(s), n=n: t.narrow(axis, s, n))  # type: ignore[misc]
        for s, n in zip(starts, parts, strict=False)
    ]


def _prelu(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    from bound_prop.lines import Ramp

    slope = _tensor(xs[1])
    return build.activation(xs[0], lambda like: Ramp(slope.to(like)), "prelu")


def _pow(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    if not isinstance(xs[1], Value) and np.asarray(xs[1]).size == 1 and float(np.asarray(xs[1]).item()) == 2:
        return build.smooth(xs[0], "square")
    build.refuse("a power other than 2", "only squares are supported")


def _smooth(kind: str) -> Callable[..., Value]:
    return lambda build, xs, a: build.smooth(xs[0], kind)


def _cast(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    from onnx import TensorProto

    if a["to"] not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        kind = TensorProto.DataType.Name(a["to"]).lower()
        build.refuse(f"a Cast to {kind}", "only float and double hold the values as they are")
    return _same(build, xs, a)


def _same(build: Build, xs: list[Any], a: dict[str, Any]) -> Value:
    result: Value = xs[0]
    return result


_HANDLERS: dict[str, Callable[..., Any]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "ConvTranspose": lambda build, xs, a: _conv(build, xs, a, transposed=True),
    "BatchNormalization": _batch_norm,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Neg": lambda build, xs, a: build.scale(xs[0], Const.of(-1.0), None),
    "Relu": lambda build, xs, a: build.relu(xs[0]),
    "LeakyRelu": lambda build, xs, a: build.leaky_relu(xs[0], float(a.get("alpha", 0.01))),
    "PRelu": _prelu,
    "Clip": _clip,
    "Min": lambda build, xs, a: _extreme(build, xs, -1.0),
    "Max": lambda build, xs, a: _extreme(build, xs, 1.0),
    "Pow": _pow,
    **{
        name: _smooth(kind)
        for name, kind in {
            **{"Sigmoid": "sigmoid", "Tanh": "tanh", "Atan": "atan", "Erf": "erf", "Exp": "exp"},
            **{"Log": "log", "Sqrt": "sqrt", "Softplus": "softplus", "Abs": "abs"},
        }.items()
    },
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("max"),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Gather": _gather,
    "Cast": _cast,
    **dict.fromkeys(("Identity", "Dropout"), _same),
}
