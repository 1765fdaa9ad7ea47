"""The dense half as ONNX and torch.export program: standard operators, equal numbers."""

import pytest
import torch

from denfi.export import export
from denfi.model import DenfiDet
from denfi.predict import load_detector
from tenfold._errors import UserInputError
from tenfold.lidar import export_dense
from tenfold.testing import require

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["classes", "boxes", "direction", "dist", "bin_logits", "bin_res", "proposals"]


def outputs_of(model, bev):
    with torch.no_grad():
        outputs = model.dense_head(model.backbone_2d(bev))
    return [t for part in outputs if part is not None for t in part if t is not None]


def test_onnx_equals_the_network(eager_checkpoint, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module)
    import onnx
    import onnxruntime

    export(eager_checkpoint, tmp_path / "m.onnx")
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    kinds = {node.op_type for node in graph.node}
    assert "GridSample" in kinds
    assert "DeformConv" not in kinds
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert [o.name for o in graph.output] == NAMES
    model = load_detector(eager_checkpoint).detector
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    for batch in (1, 3):
        bev = torch.randn(batch, model.config.bev_input_channels, 16, 16)
        wanted = outputs_of(model, bev)
        for ours, theirs in zip(wanted, session.run(None, {"bev": bev.numpy()}), strict=True):
            assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-4


def test_program_equals_the_network(eager_checkpoint, tmp_path):
    export(eager_checkpoint, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    model = load_detector(eager_checkpoint).detector
    bev = torch.randn(2, model.config.bev_input_channels, 16, 16)
    for ours, theirs in zip(outputs_of(model, bev), program(bev), strict=True):
        assert torch.equal(ours, theirs)


# "denfi" itself is exported by the tests above.
@pytest.mark.parametrize("variant", [pytest.param("denfi", marks=pytest.mark.slow), "dsc", "denfi-geo", "ga"])
def test_the_tiny_detector_and_its_rows(variant):
    torch.manual_seed(0)
    model = DenfiDet.from_config("denfidet_tiny", variant).eval().detector
    program = export_dense(model)
    bev = torch.randn(1, 2, 96, 96)
    for ours, theirs in zip(outputs_of(model, bev), program.module()(bev), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_bad_files_are_named(tmp_path, eager_checkpoint):
    with pytest.raises(UserInputError, match=r"output: got the ending '\.txt'"):
        export(eager_checkpoint, tmp_path / "m.txt")
    with pytest.raises(UserInputError, match="does not exist"):
        export(eager_checkpoint, tmp_path / "none" / "m.onnx")
    torch.save({"hyper_parameters": {"detector": "denfidet_x"}, "state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(UserInputError, match="name: got 'denfidet_x'"):
        load_detector(tmp_path / "x.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserInputError, match=r"bad\.ckpt"):
        load_detector(tmp_path / "bad.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.ckpt", "x.ckpt"]
