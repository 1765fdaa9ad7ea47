"""Verdicts: property files, networks in ONNX, complete search, and that failures never become proofs."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_prop import Conjunct, Disjunction, LpBall, UnsupportedOperationError, load_onnx, load_vnnlib
from bound_prop import branch as search_room
from bound_prop.branch import Budget, decide, split_inputs, split_relus
from bound_prop.nn import ParamRamp
from bound_prop.verification import verify, verify_file, verify_property
from bound_prop.vnnlib import parse_vnnlib
from tenfold._errors import UserInputError
from tenfold.testing import corruptions, sample_data

TEXT = """
(declare-const X_0 Real) ; a comment ( with a bracket
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1.5e0))
(assert (<= -2 X_1)) (assert (and (<= X_1 2) (<= X_1 (+ 1 0.5))))
(assert (or (and (>= Y_0 Y_1) (<= X_0 0)) (and (<= (* 2 Y_0) (- Y_1 3)))))
"""


def test_property_files():
    unsafe = parse_vnnlib(TEXT)
    first, second = unsafe.parts
    assert (unsafe.inputs, unsafe.outputs) == (2, 2)
    assert first.box.lower.tolist() == [[-1, -2]]
    assert first.box.upper.tolist() == [[0, 1.5]]  # an input limit inside a disjunct: its own box
    assert second.box.upper.tolist() == [[1.5, 1.5]]
    assert (first.M.tolist(), first.h.tolist()) == ([[-1, 1]], [0])
    assert (second.M.tolist(), second.h.tolist()) == ([[2, -1]], [-3])
    assert first.violation(torch.tensor([[3.0, 1.0], [1.0, 3.0]])).tolist() == [-2, 2]
    modern = parse_vnnlib("""
        (vnnlib-version <2.0>)
        (declare-network net (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
        (assert (and (>= X[0,0] 0) (<= X[0,0] 1) (>= X[0,1] 0) (<= X[0,1] 1)))
        (assert (or (<= Y[0,0] Y[0,1]) (== Y[0,0] 3)))""")
    assert [p.M.tolist() for p in modern.parts] == [[[1, -1]], [[1, 0], [-1, 0]]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: the file holds no commands"),
        ("(assert (<= X_0 1)", "line 1: a '\\(' that is not closed"),
        ("(assert (<= X_0 1)))", "X_0 is not declared"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", "line 2: X_0 is declared twice"),
        ("(declare-const X_0 Int)", "expected X_i or Y_j of type Real"),
        ("(declare-const Y_0 Real)(assert (<= Y_0 1))", "inputs: X_0 is not declared"),
        ("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))", "X_0 has no lower bound"),
        ("(declare-const X_0 Real)(assert (<= X_0 nan))", "expected a finite number"),
        ("(declare-const X_0 Real)(assert (<= (* X_0 X_0) 1))", "product of two variables"),
        ("(declare-const X_0 Real)(assert (exists X_0))", "got 'exists'"),
        ("(frobnicate)", "got the command 'frobnicate'"),
        (
            "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))"
            "(assert (>= X_0 0))(assert (<= X_0 Y_0))",
            "inputs and outputs together",
        ),
    ],
)
def test_malformed_properties(text, sentence):
    with pytest.raises(UserInputError, match=sentence):
        parse_vnnlib(text, "p.vnnlib")


def test_damaged_property_files_are_one_sentence(tmp_path):
    sound = TEXT.encode()
    for name, data in corruptions(sound, flips=40):
        (tmp_path / "p.vnnlib").write_bytes(data)
        try:
            load_vnnlib(tmp_path / "p.vnnlib")
        except UserInputError as error:
            assert "p.vnnlib" in str(error), name  # noqa: PT017
    with pytest.raises(UserInputError, match="does not exist"):
        load_vnnlib(tmp_path / "none.vnnlib")


class Wide(nn.Module):
    """Most operations of the ONNX reader in one network."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.up, self.act = nn.ConvTranspose2d(4, 2, 2, 2), nn.PReLU(2)
        self.ramp = ParamRamp((2, 6, 6), 0.1, 0.4)
        self.fc = nn.Linear(54, 3)

    def forward(self, x):
        y = F.max_pool2d(F.leaky_relu(self.bn(self.conv(x)), 0.1), 2, 1, 1)[:, :, :3, :3]
        z = self.ramp(self.act(self.up(y)))
        z = torch.sigmoid(z) - torch.tanh(z) * 0.5 + F.pad(F.avg_pool2d(z, 3, 1), (1, 1, 1, 1))
        parts = torch.cat([z[:, 0].flatten(1), z.mean((2, 3)), z[:, 1, :4, ::2].flatten(1)], 1)
        parts = torch.cat([parts, torch.clamp(parts[:, :4], -0.2, 0.3)], 1)
        return self.fc(parts)


def write_onnx(model, x, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (x,), str(path), dynamo=True, verbose=False, external_data=False)
    return path


def test_onnx_files_compute_what_onnxruntime_computes(tmp_path):
    torch.manual_seed(0)
    model, x = Wide(), torch.randn(1, 2, 6, 6)
    model.bn.running_mean.normal_()
    network = load_onnx(write_onnx(model, x, tmp_path / "wide.onnx"))
    for _ in range(5):
        x = torch.randn(1, 2, 6, 6)
        own = network.graph.forward(x[None])[0]
        torch.testing.assert_close(own, network.run(x.flatten()), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own, model(x)[0], rtol=1e-4, atol=1e-5)
    kinds = [getattr(node.op, "kind", "") for node in network.graph.nodes]
    assert "param_ramp" in kinds  # the written-out ramp is recognised as one activation
    ball = LpBall(torch.randn(1, 1, 2, 6, 6), 0.1)
    from bound_prop.bounds import compute

    values = torch.stack([network.graph.forward(p) for p in ball.sample(200)])
    for method in ("ibp", "lbp", "crown"):
        found = compute(network.graph, ball, method=method)
        assert (found.lower <= values.amin(0) + 1e-4).all()
        assert (found.upper >= values.amax(0) - 1e-4).all()


def test_onnx_refusals(tmp_path, write_layers):
    path = write_layers(tmp_path / "a.onnx", nn.Linear(3, 3), nn.Softmax(1))
    with pytest.raises(UnsupportedOperationError, match=r"Softmax.* cannot be bounded"):
        load_onnx(path)
    good = write_layers(tmp_path / "b.onnx", nn.Linear(3, 2))
    with pytest.raises(
        UserInputError, match=r"b.onnx: model: has 3 inputs and 2 outputs; the property has 2 and 2"
    ):
        verify_file(good, parse_vnnlib(TEXT), 5)
    for name, data in corruptions(good.read_bytes(), flips=6):
        (tmp_path / "c.onnx").write_bytes(data)
        try:
            load_onnx(tmp_path / "c.onnx").graph.forward(torch.zeros(1, 1, 3))
        except (UserInputError, UnsupportedOperationError) as error:
            assert "c.onnx" in str(error) or "module" in str(error), name  # noqa: PT017


def one_node(path, kind, outputs, constants=(), opset=18, **attributes):
    """A file whose one node reads x (1, 7) and constants."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = [f"c{k}" for k in range(len(constants))]
    node = helper.make_node(kind, ["x", *names], [f"y{k}" for k in range(outputs)], **attributes)
    nodes = [node] if outputs == 1 else [node, helper.make_node("Concat", node.output[::-1], ["y"], axis=1)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7]) for name in ("x", nodes[-1].output[0])
    ]
    weights = [numpy_helper.from_array(v, n) for v, n in zip(constants, names, strict=True)]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_a_split_into_unequal_parts(tmp_path):
    x = torch.arange(7.0)
    for name, opset, more in (("new", 18, {"num_outputs": 3}), ("listed", 11, {"split": [3, 3, 1]})):
        network = load_onnx(one_node(tmp_path / f"{name}.onnx", "Split", 3, opset=opset, axis=1, **more))
        expected = torch.tensor([6.0, 3, 4, 5, 0, 1, 2])
        torch.testing.assert_close(network.graph.forward(x[None, None])[0], expected)
        torch.testing.assert_close(network.run(x), expected)


def test_what_would_be_read_wrongly_is_refused(tmp_path, monkeypatch):
    from onnx import TensorProto

    from bound_prop.graph import onnx as reader

    whole = one_node(tmp_path / "cast.onnx", "Cast", 1, to=TensorProto.INT64)
    with pytest.raises(UnsupportedOperationError, match="Cast to int64"):
        load_onnx(whole)
    negative = one_node(tmp_path / "neg.onnx", "Neg", 1)
    load_onnx(negative)
    monkeypatch.setitem(reader._HANDLERS, "Neg", reader._same)
    with pytest.raises(UserInputError, match=r"neg.onnx: model: onnxruntime computes other outputs"):
        load_onnx(negative)


def unsafe_below(box, threshold, outputs=3):
    """y_0 <= threshold."""
    row = torch.zeros(1, outputs, dtype=torch.float64)
    row[0, 0] = 1
    return Conjunct(box, row, torch.tensor([threshold], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("how", ["inputs", "relus"])
def test_complete_search_agrees_with_mixed_integer_programming(nets, exact_range, seed, how):
    net, x = nets(seed, "relu")
    box = LpBall(x[:1], 0.5).box()
    least = exact_range(net, box)[0, 0]
    from bound_prop import BoundedModule

    graph = BoundedModule(net, x[:1]).graph
    splitter = split_inputs if how == "inputs" else split_relus

    def confirm(point):
        return bool(net(point.double()[None])[0, 0] <= least + 1e-2)

    holds = splitter(graph, unsafe_below(box, least - 5e-2), lambda p: False, Budget(60))
    assert holds.result == "holds", holds.reason
    found = splitter(graph, unsafe_below(box, least + 1e-2), confirm, Budget(60))
    if how == "relus" and found.result == "unknown":
        return  # bounds alone do not lead to an input; attacks do
    assert found.result == "violated"
    assert box.contains(found.witness.double()[None]).all()


def test_without_confirmation_nothing_is_violated(nets):
    net, x = nets(0, "relu")
    from bound_prop import BoundedModule

    graph = BoundedModule(net, x[:1]).graph
    answer = split_inputs(graph, unsafe_below(LpBall(x[:1], 0.5).box(), 1e3), lambda p: False, Budget(0.5))
    assert answer.result == "unknown"


def test_a_numerical_failure_never_holds(nets, monkeypatch):
    net, x = nets(0, "relu")
    from bound_prop import BoundedModule

    graph = BoundedModule(net, x[:1]).graph
    part = unsafe_below(LpBall(x[:1], 0.5).box(), -1e3)
    assert decide(graph, part, lambda p: False, Budget(5)).result == "holds"
    for bad in (math.nan, math.inf):
        real = search_room.Sweep.lower_bound

        def broken(self, index, rows, bad=bad, real=real):
            value, slope, offset = real(self, index, rows)
            return torch.full_like(value, bad), slope, offset

        monkeypatch.setattr(search_room.Sweep, "lower_bound", broken)
        for splitter in (split_inputs, split_relus):
            assert splitter(graph, part, lambda p: False, Budget(0.2)).result == "unknown", bad
        monkeypatch.undo()
    # Weights so large that bounds overflow: unknown, not verified.
    huge = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        huge[0].weight.fill_(1e200)
        huge[2].weight.copy_(torch.tensor([[-1e200], [1e200]], dtype=torch.float64).expand(2, 4))
    spec = margin_of(2)
    verdicts = verify(huge, LpBall(torch.ones(1, 2).double(), 0.5), spec, attack=None)
    assert verdicts[0].result == "unknown"
    zero = nn.Linear(2, 2).double()
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)  # a margin of exactly 0 is not verified
    assert verify(zero, LpBall(torch.ones(1, 2).double(), 0.5), spec, attack=None)[0].result == "unknown"


def margin_of(classes):
    from bound_prop import margin_spec

    return margin_spec(torch.tensor([0]), classes, torch.float64)


def test_planted_counterexamples_are_never_verified():
    # Correct at the centre, wrong in a spike inside the ball.
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [1.0], [1.0]]))
        net[0].bias.copy_(torch.tensor([-0.50, -0.51, -0.52]))
        net[2].weight.copy_(torch.tensor([[-300.0, 600.0, -300.0], [0.0, 0.0, 0.0]]))
        net[2].bias.copy_(torch.tensor([1.0, 0.0]))
    region = LpBall(torch.zeros(1, 1).double(), 1.0)
    for methods in (("ibp",), ("ibp", "crown-lbp", "alpha-crown", "crown")):
        assert verify(net, region, margin_of(2), methods, attack=None)[0].result != "verified"
    box = region.box()
    row = torch.tensor([[1.0, -1.0]]).double()
    answer = verify_property(
        net, torch.zeros(1, 1).double(), Disjunction([Conjunct(box, row, torch.zeros(1).double())])
    )
    assert answer.result == "violated"
    assert 0.5 < float(answer.witness) < 0.52
    safe = LpBall(torch.zeros(1, 1).double(), 0.4)
    assert verify(net, safe, margin_of(2), dtype=torch.float64)[0].result == "verified"


def test_result_files(tmp_path, write_layers):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    path = write_layers(tmp_path / "n.onnx", *net)
    text = TEXT.split("(assert (or")[0]
    sat = verify_file(path, parse_vnnlib(text + "(assert (>= Y_0 -100))"), 10)
    assert (sat.result, sat.word()) == ("violated", "sat")
    lines = sat.text().splitlines()
    assert lines[0] == "sat"
    values = [float(line.strip("()").split()[1]) for line in lines[1:]]
    np.testing.assert_allclose(values[2:], net(torch.tensor([values[:2]])).detach()[0], atol=1e-5)
    unsat = verify_file(path, parse_vnnlib(text + "(assert (>= Y_0 100))"), 10)
    assert (unsat.word(), unsat.text()) == ("unsat", "unsat\n")
    late = verify_file(path, parse_vnnlib(text + "(assert (>= Y_0 100))"), 1e-9)
    assert late.word() == "timeout"


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        pytest.param("1_1-prop_3", "holds", marks=pytest.mark.slow),
        ("1_7-prop_3", "violated"),
        ("1_9-prop_4", "violated"),
    ],
)
def test_a_real_instance(instance, expected):
    folder = sample_data("vnncomp", "acasxu")
    network, unsafe = instance.split("-")
    verdict = verify_file(folder / f"ACASXU_run2a_{network}_batch_2000.onnx", folder / f"{unsafe}.vnnlib", 60)
    assert verdict.result == expected
