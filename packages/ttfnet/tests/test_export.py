"""Exported files against their network: onnxruntime, torch.export, raw pictures."""

import json

import numpy as np
import pytest
import torch

from tenfold._errors import UserInputError
from tenfold.testing import require
from ttfnet.benchmark import benchmark
from ttfnet.checkpoint import ModelInfo, describe, save_detector
from ttfnet.data.shapes import draw_scene
from ttfnet.export import Graph, compare, export, export_detector, parity
from ttfnet.predict import load

pytestmark = pytest.mark.filterwarnings("ignore")
for module in ("onnx", "onnxscript", "onnxruntime"):
    require(module)


@pytest.fixture(scope="module")
def facts(eager_model):
    model = eager_model()
    return model, describe(model, ["rectangle", "ellipse", "triangle"], size=(64, 96))


@pytest.mark.parametrize(
    ("dcn", "operator"),
    [("native", "DeformConv"), pytest.param("decomposed", "GridSample", marks=pytest.mark.slow)],
)
def test_onnx_equals_the_network(facts, tmp_path, dcn, operator):
    import onnx

    model, info = facts
    file = tmp_path / "m.onnx"
    export_detector(model, info, file, dcn=dcn, dynamic=dcn == "native")
    score, box, rows = parity(model, info, file)
    assert rows > 200
    assert score < 1e-4
    assert box < 0.05
    kinds = {node.op_type for node in onnx.load(str(file)).graph.node}
    assert operator in kinds
    assert ("DeformConv" in kinds) == (dcn == "native")
    # The same raw pictures through both: preprocessing, network, and boxes in original pixels.
    save_detector(tmp_path / "m.pt", model, info)
    pictures = [draw_scene(np.random.default_rng(k), 150)[0][: 50 + 20 * k] for k in range(4)]
    ours, theirs = (load(p).predict_images(pictures, conf=0.1) for p in (tmp_path / "m.pt", file))
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b) > 3
        torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
    assert load(file).info == info
    with pytest.raises(UserInputError, match=r"m\.onnx is an ONNX file, which runs on the CPU"):
        load(file, "cuda")
    with pytest.raises(UserInputError, match="half: got true"):
        benchmark(str(file), half=True)


def test_rows_without_an_object_are_zero(eager_model):
    graph = Graph(eager_model(), 100).eval()
    boxes, scores, labels = graph(torch.randn(1, 3, 32, 32))
    assert boxes.shape == (1, 100, 4)
    empty = scores[0] == 0
    assert empty.any()
    assert boxes[0][empty].abs().max() == 0
    assert labels[0][empty].max() == 0


def test_programs_equal_the_network(facts, tmp_path):
    model, info = facts
    export_detector(model, info, tmp_path / "m.pt2", dynamic=True)
    program = torch.export.load(tmp_path / "m.pt2").module()
    graph = Graph(model).eval()
    with torch.no_grad():
        for batch in (1, 3):
            images = torch.randn(batch, 3, 64, 96)
            score, box, rows = compare(graph(images), program(images))
            assert rows > 20 * batch
            assert (score, box) == (0, 0)


def test_torchscript_equals_the_network(facts, tmp_path):
    model, info = facts
    save_detector(tmp_path / "m.pt", model, info)
    export(tmp_path / "m.pt", tmp_path / "m.torchscript")  # checks itself on 20 pictures
    extra = {"ttfnet.json": ""}
    script = torch.jit.load(tmp_path / "m.torchscript", _extra_files=extra)
    assert ModelInfo.from_document(json.loads(extra["ttfnet.json"]), "x") == info
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        score, box, rows = compare(Graph(model).eval()(images), script(images))
    assert rows > 20
    assert (score, box) == (0, 0)


def test_the_check_catches_another_network(facts, tmp_path, eager_model, monkeypatch):
    model, info = facts
    save_detector(tmp_path / "m.pt", model, info)
    other = eager_model()
    with torch.no_grad():
        other.head.distances[-1].bias.add_(0.1)

    def wrong(_, *args, **options):
        return export_detector(other, *args, **options)

    monkeypatch.setattr("ttfnet.export.export_detector", wrong)
    with pytest.raises(UserInputError, match=r"check: scores differ by .* boxes by 1\.6 pixels"):
        export(tmp_path / "m.pt", tmp_path / "m.torchscript")
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_onnx_files_take_as_many_threads_as_torch(facts, monkeypatch):
    asked = []

    def runner(path, threads):
        asked.append(threads)
        return facts[1], None

    monkeypatch.setattr("ttfnet.runtime.onnx_runner", runner)
    load("m.onnx")
    assert asked == [torch.get_num_threads()]


def test_foreign_onnx_files_are_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    with pytest.raises(UserInputError, match=r"bad\.onnx: onnx: cannot be run"):
        load(tmp_path / "bad.onnx")
    with pytest.raises(UserInputError, match="does not exist"):
        load(tmp_path / "none.onnx")
