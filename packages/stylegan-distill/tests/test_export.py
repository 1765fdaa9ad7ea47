"""Exported programs draw what the network draws."""

import pytest
import torch

from stylegan_distill.config import StyleGAN2Config
from stylegan_distill.export import Deployed, export_generator, onnx_parity
from stylegan_distill.networks import StyleGAN2Generator, StyleGAN3Generator
from tenfold._errors import UserInputError

pytestmark = pytest.mark.filterwarnings("ignore")


def _loud(net):
    """A network whose noise and mean code matter."""
    for conv in net.synthesis.convolutions():
        torch.nn.init.constant_(conv.noise_strength, 0.2)
    net.mapping.w_avg.normal_()
    return net.eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return _loud(StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(6, 6), mapping_layers=2)))


def test_onnx_equals_the_network(net, tmp_path):
    """Noise maps as inputs, truncation, and batches that tracing never saw."""
    pytest.importorskip("onnxruntime")
    module = export_generator(net, tmp_path / "g.onnx", noise="input", truncation_psi=0.7)
    assert onnx_parity(module, tmp_path / "g.onnx", (1, 5)) < 1e-4
    import onnx

    graph = onnx.load(tmp_path / "g.onnx").graph
    assert [entry.name for entry in graph.input] == ["z", *(f"noise{k}" for k in range(3))]
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    # The check can fail: another network gives other images.
    torch.manual_seed(9)
    other = Deployed(_loud(StyleGAN2Generator(net.cfg)), "input", 0.7)
    assert onnx_parity(other, tmp_path / "g.onnx", (1,)) > 1e-2


@pytest.mark.slow
def test_onnx_of_stylegan3(tiny3, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net3 = StyleGAN3Generator(tiny3).eval()
    module = export_generator(net3, tmp_path / "g3.onnx", noise="none")
    assert onnx_parity(module, tmp_path / "g3.onnx", (1, 2)) < 1e-4


def test_pt2_equals_the_network(net, tmp_path):
    module = export_generator(net, tmp_path / "g.pt2")
    program = torch.export.load(tmp_path / "g.pt2")
    assert not any("tenfold" in str(node.target) for node in program.graph.nodes)
    for batch in (1, 4):
        inputs = module.example(batch, seed=batch)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_named(net, tiny3, tmp_path):
    with pytest.raises(UserInputError, match=r"\.onnx or \.pt2"):
        export_generator(net, tmp_path / "g.bin")
    with pytest.raises(UserInputError, match="does not exist"):
        export_generator(net, tmp_path / "no" / "g.onnx")
    with pytest.raises(UserInputError, match="reads no noise"):
        export_generator(StyleGAN3Generator(tiny3), tmp_path / "g.onnx", noise="input")
    assert list(tmp_path.iterdir()) == []
