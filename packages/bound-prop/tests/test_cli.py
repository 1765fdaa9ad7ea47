"""The command line, as a user meets it."""

import contextlib
import json
import re
import runpy
import shutil
import sys

import pytest
import torch
from PIL import Image

from bound_prop import evaluation
from bound_prop.cli import app
from bound_prop.data import glyphs
from tenfold.testing import PackageReliability, cli_fixture, help_examples, unwritable_path

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = (
    "data.train_limit=128 data.test_limit=8 trainer.limit_val_batches=1 model.clean_epochs=1 model.ramp_epochs=1"
    " model.pgd_steps=2"
)
PROPERTY = """(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)
(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))(assert (>= Y_0 100))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_layers):
    """A checkpoint, an image, a network file and a property."""
    root = tmp_path_factory.mktemp("cli")
    with contextlib.chdir(root):
        assert app(["fit", "--config", "glyphs_ramp", "trainer.max_epochs=2", *TINY.split()]) == 0
    (root / "last.ckpt").write_bytes((root / "runs/glyphs_ramp/checkpoints/last.ckpt").read_bytes())
    picture = (glyphs(split="test").images[3, 0] * 255).byte().numpy()
    Image.fromarray(picture).save(root / "digit.png")
    write_layers(root / "model.onnx", torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    (root / "property.vnnlib").write_text(PROPERTY)
    return root


cli = cli_fixture("bound_prop.cli:app")


def test_verify(cli, folder, tmp_path):
    code, out, err = cli("verify", folder / "model.onnx", folder / "property.vnnlib", "--out", "r.txt")
    assert (code, err) == (0, "")
    assert out.startswith("holds: ")
    assert (tmp_path / "r.txt").read_text() == "unsat\n"
    assert json.loads((tmp_path / "r.json").read_text())["result"] == "holds"


def test_predict_images(cli, folder, tmp_path):
    words = (folder / "digit.png", "--labels", "[3]", "--radius", "0.3", "--eps", "0.01")
    code, out, _ = cli("predict", folder / "last.ckpt", *words, "--out", "r.csv")
    assert code == 0
    assert "of 1 certified -> r.csv" in out
    head, row = (tmp_path / "r.csv").read_text().splitlines()
    assert head == "image,label,predicted,clean,margin/ibp,margin/crown-lbp,radius,certified"
    assert row.split(",")[1] == "3"


def test_a_bound_that_is_not_finite_certifies_nothing(cli, folder, tmp_path, monkeypatch):
    real = evaluation.evaluate

    def infinite(*args, **keywords):
        report = real(*args, **keywords)
        report.columns["margin/ibp"] = torch.full_like(report.columns["margin/ibp"], torch.inf)
        return report

    monkeypatch.setattr(evaluation, "evaluate", infinite)
    words = ("predict", folder / "last.ckpt", folder / "digit.png", "--methods", "[ibp]", "--out", "r.csv")
    code, out, err = cli(*words)
    assert code == 0, err
    assert "0 of 1 certified" in out
    assert json.loads((tmp_path / "r.json").read_text())["images"][0]["margin/ibp"] is None


def test_a_worker_process_that_imports_the_main_module_runs_nothing():
    runpy.run_module("bound_prop.__main__", run_name="__mp_main__")


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_export(cli, folder, tmp_path, ending):
    assert cli("export", folder / "last.ckpt", f"model.{ending}")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == [f"model.{ending}"]
    from bound_prop.checkpoint import load_network
    from bound_prop.graph.onnx import load_onnx

    network, _ = load_network(folder / "last.ckpt")
    x = glyphs(split="test").images[:1]
    if ending == "pt2":
        torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), network(x))
        return
    read = load_onnx(tmp_path / "model.onnx")
    torch.testing.assert_close(read.run(x.flatten()), network(x)[0].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read.graph.forward(x[None])[0], network(x)[0], rtol=1e-4, atol=1e-5)


def test_bad_input_is_one_sentence_and_leaves_nothing(cli, folder, tmp_path):
    model, unsafe, checkpoint = folder / "model.onnx", folder / "property.vnnlib", folder / "last.ckpt"
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:200])
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:500])
    (tmp_path / "bad.vnnlib").write_text("(assert")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    image = folder / "digit.png"
    blocked = unwritable_path(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    cases = {
        ("verify", "none.onnx", unsafe): "none.onnx: model: does not exist",
        ("verify", "cut.onnx", unsafe): "cut.onnx: model: is no valid ONNX file",
        ("verify", model, "none.vnnlib"): "none.vnnlib: property: does not exist",
        ("verify", model, "bad.vnnlib"): "bad.vnnlib: line 1",
        ("verify", model): "target",
        ("verify", model, unsafe, "--timeout", "-1"): "timeout: got -1",
        ("verify", model, unsafe, "--timeout", "nan"): "timeout: got nan",
        ("verify", model, unsafe, "--out", "r.json"): "r.json: out: got the ending '.json'",
        ("verify", model, unsafe, "--out", blocked / "r.txt"): "out: cannot be created",
        ("predict", "cut.ckpt", image): "cut.ckpt: checkpoint: is damaged",
        ("predict", "foreign.ckpt", image): "foreign.ckpt: hyper_parameters: missing",
        ("predict", checkpoint, "none.png"): "none.png",
        (
            "predict",
            checkpoint,
            image,
            "--labels",
            "[11]",
        ): "labels: expected 1 classes from 0 to 9",
        ("predict", checkpoint, image, "--eps", "8"): "eps: got 8; expected pixel units",
        ("predict", checkpoint, image, "--methods", "[crwn]"): "methods: got 'crwn'",
        ("predict", checkpoint, image, "--methods", "[relaxed-crown:0]"): "methods: got 'relaxed-crown:0'",
        ("predict", checkpoint, image, "--radius", "-1"): "radius: got -1",
        ("export", checkpoint, "a.bin"): "expected .onnx or .pt2",
        ("export", checkpoint, "nowhere/a.onnx"): "the folder nowhere does not exist",
        ("fit", "--config", "glyphs_rump"): "did you mean 'glyphs_ramp'",
        ("fit", "--config", "glyphs_ramp", "model.eps=-1"): "eps: got -1",
        ("fit", "--config", "glyphs_ramp", "model.network=vgg"): "network|name: got 'vgg'",
        ("fit", "--config", "mnist_dm_small_ibp_relu", "data.root=nowhere"): "nowhere",
        ("prove",): "verb: got 'prove'",
    }
    for words, sentence in cases.items():
        code, _, err = cli(*words)
        last = err.strip().splitlines()[-1]
        assert (code, last.startswith("bound-prop: ")) == (2, True), (words, err[-500:])
        assert re.search(sentence, last), (words, last)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name not in ("runs", "verdicts")) == before


class TestReliability(PackageReliability):
    app = "bound_prop.cli:app"

    @pytest.fixture
    def prediction(self, folder, tmp_path_factory):
        pictures = tmp_path_factory.mktemp("pictures")
        for number in range(6):
            shutil.copy(folder / "digit.png", pictures / f"{number}.png")
        return folder / "last.ckpt", lambda checkpoint, out: (
            "predict", checkpoint, pictures, "--methods", "[ibp]", "--out", out / "r.csv",
        )  # fmt: skip


def test_recipes_are_complete():
    names = {p.stem for p in app.config_folder().glob("*.yaml")}
    assert len([n for n in names if n.startswith("mnist_")]) == 36
    assert len([n for n in names if n.startswith("cifar10_")]) == 24
    assert len([n for n in names if n.startswith("tiny_")]) == 6


@pytest.mark.slow
def test_the_examples_run(folder):
    done = help_examples(
        [sys.executable, "-m", "bound_prop"],
        name="bound-prop",
        folder=folder,
        verbs=["demo", "fit", "test", "predict", "export"],
        keep=lambda line: "mnist" not in line and "--seed 1" not in line,
        replace={"--config glyphs_ramp": f"--config glyphs_ramp {TINY}", "max_epochs=50": "max_epochs=3"},
        timeout=600,
    )
    assert {e.line.split()[1] for e in done} >= {"demo", "fit", "test", "verify", "predict", "export"}
