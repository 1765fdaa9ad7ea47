"""The verbs that both packages share: classify an image, export a network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold._errors import UserInputError
from tenfold.distill import Classifier, create_model, load_classifier, save_classifier
from tenfold.distill.predict import classify, export, predict
from tenfold.testing import corruptions, require, unwritable_path


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    model = create_model("plain3", 4).eval()
    facts = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": 16, "class_names": list("abcd")}
    save_classifier(tmp_path / "net.pt", model, arch="plain3", num_classes=4, **facts)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path, model, pixels


def test_predict_writes_scores_and_a_picture(network, capsys):
    folder, model, pixels = network
    predict(folder / "a.png", folder / "net.pt", folder / "out", top=3)
    found = json.loads((folder / "out" / "a.json").read_text())
    x = (pixels / 255.0 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    with torch.no_grad():
        p = model(torch.from_numpy(x).float().permute(2, 0, 1)[None])[0].softmax(0)
    order = p.argsort(descending=True)[:3]
    assert found["labels"] == order.tolist()
    assert found["scores"] == pytest.approx(p[order].tolist(), abs=1e-5)
    assert found["classes"] == ["abcd"[k] for k in order]
    assert Image.open(folder / "out" / "a_scores.png").size == (560, 248)
    assert "-> " in capsys.readouterr().out
    large = np.kron(pixels, np.ones((4, 4, 1), np.uint8))
    assert classify(load_classifier(folder / "net.pt"), large).argmax() == int(order[0])


def test_networks_of_torchvision_see_images_as_theirs_do(network, monkeypatch):
    folder, model, _ = network
    found = Classifier(model, "torchvision:resnet18", 4)  # a file that says nothing of its images
    pixels = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    x = (pixels / 255.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model(torch.from_numpy(x).float().permute(2, 0, 1)[None])[0].softmax(0)
    np.testing.assert_allclose(classify(found, pixels), expected, atol=1e-5)
    shapes = []
    monkeypatch.setattr("tenfold.distill.predict.load_classifier", lambda *_, **__: found)
    monkeypatch.setattr(
        "tenfold.distill.predict._export_program", lambda _, x, __: shapes.append(x.shape[2:])
    )
    export(folder / "net.pt", folder / "a.pt2")
    assert shapes == [(224, 224)]


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".pt2", ".onnx"])
def test_export_writes_the_same_function(network, ending):
    folder, model, _ = network
    if ending == ".onnx":
        require("onnxscript")
        runtime = require("onnxruntime")
    output = folder / f"exported{ending}"
    export(folder / "net.pt", output)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
    if ending == ".onnx":
        session = runtime.InferenceSession(str(output))
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        found = torch.from_numpy(found)
    elif ending == ".pt2":
        found = torch.export.load(output).module()(x)
    else:
        loaded = load_classifier(output)
        assert loaded.facts["class_names"] == list("abcd")
        found = loaded.model(x).detach()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not list(folder.glob(".export*"))


def test_bad_requests_leave_nothing(network):
    folder, _, _ = network
    for call, message in (
        (lambda: export(folder / "net.pt", folder / "a.bin"), "got the ending '.bin'"),
        (lambda: export(folder / "net.pt", folder / "none" / "a.pt2"), "does not exist"),
        (lambda: export(folder / "no.pt", folder / "a.pt2"), "no.pt"),
        (lambda: predict(folder / "no.png", folder / "net.pt", folder / "o"), "no.png"),
        (lambda: predict(folder / "a.png", folder / "net.pt", folder / "o", top=0), "top: got 0"),
        (lambda: predict(folder / "a.png", folder / "net.pt", unwritable_path(folder)), "cannot be created"),
    ):
        with pytest.raises(UserInputError, match=message):
            call()
    for _, damaged in corruptions((folder / "a.png").read_bytes(), flips=2):
        (folder / "bad.png").write_bytes(damaged)
        try:
            predict(folder / "bad.png", folder / "net.pt", folder / "o2")
        except UserInputError as error:
            assert "bad.png" in str(error)  # noqa: PT017
    assert not (folder / "o").exists()
