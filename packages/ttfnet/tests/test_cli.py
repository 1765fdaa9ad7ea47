"""The command line, called in this process except where a fresh one is the point."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from official_layout import official
from PIL import Image
from ttfnet_without_extras import exit_codes

from tenfold.io import write_image
from tenfold.testing import PackageReliability, call_apart, help_examples, require
from ttfnet.checkpoint import describe, load_detector, save_detector
from ttfnet.cli import app
from ttfnet.data.shapes import draw_scene, write_shapes
from ttfnet.predict import Predictor, find_sources, load, read_video

pytestmark = pytest.mark.filterwarnings("ignore")


def picture(path, seed=0, size=(60, 90)):
    write_image(path, draw_scene(np.random.default_rng(seed), 120)[0][: size[0], : size[1]])


def video(path, frames=4, size=(64, 80)):
    av = require("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for k in range(frames):
            pixels = draw_scene(np.random.default_rng(k), 120)[0][: size[0], : size[1]]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_predict_writes_what_the_detector_finds(cli, eager_checkpoint, tmp_path):
    picture(tmp_path / "a.jpg")
    code, out, err = cli("predict", "a.jpg", eager_checkpoint, "--conf", "0.2")
    assert (code, err) == (0, "")
    assert out == "1 of 1 files -> predictions\n"
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == ["a.json", "a.png"]
    document = json.loads((tmp_path / "predictions/a.json").read_text())
    found = load(eager_checkpoint).predict_images([tmp_path / "a.jpg"], conf=0.2)[0]
    assert len(found) > 3
    np.testing.assert_allclose(document["boxes"], found.boxes.numpy(), rtol=1e-6)
    assert document["names"] == [["rectangle", "ellipse", "triangle"][k] for k in found.labels]
    assert (document["width"], document["height"]) == (90, 60)
    boxes = np.array(document["boxes"])
    assert (boxes >= 0).all()
    assert (boxes <= [90, 60, 90, 60]).all()
    assert document["scores"] == sorted(document["scores"], reverse=True)
    assert Image.open(tmp_path / "predictions/a.png").size == (90, 60)


def test_boxes_are_rescaled_by_both_factors(eager_checkpoint):
    """A tall picture squashed to 64 x 96: twice as wide and half as high in the network."""
    _, info = load_detector(eager_checkpoint)
    boxes = torch.tensor([[[10.0, 10, 20, 20], [90, 60, 99, 70]]])

    def run(images):
        assert images.shape == (1, 3, 64, 96)
        return boxes, torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 1]])

    found = Predictor(info, run).predict_images([np.zeros((128, 48, 3), np.uint8)])[0]
    assert found.boxes.tolist() == [[5, 20, 10, 40], [45, 120, 48, 128]]


def test_official_checkpoints_add_a_pixel(eager_checkpoint, tmp_path):
    model, info = load_detector(eager_checkpoint)
    save_detector(
        tmp_path / "legacy.pt", model, describe(model, info.class_names, size=info.size, legacy_boxes=True)
    )
    pixels = draw_scene(np.random.default_rng(0), 120)[0][:64, :96]
    ours, theirs = (
        load(p).predict_images([pixels], conf=0.2)[0].boxes
        for p in (eager_checkpoint, tmp_path / "legacy.pt")
    )
    inside = (theirs[:, 2] < 96) & (theirs[:, 3] < 64)
    assert inside.any()
    torch.testing.assert_close(theirs[inside], ours[inside] + torch.tensor([0.0, 0, 1, 1]))


def test_folders_patterns_and_names_that_collide(cli, eager_checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "a.png", "b.jpg", "c.bmp"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    assert cli("predict", "photos", eager_checkpoint, "--batch_size", "3", "--draw", "false")[0] == 0
    names = sorted(p.name for p in (tmp_path / "predictions").iterdir())
    assert names == ["a_jpg.json", "a_png.json", "b.json", "c.json"]
    batch = json.loads((tmp_path / "predictions/b.json").read_text())["boxes"]
    assert cli("predict", "photos/*.jpg", eager_checkpoint, "--out", "other", "--draw", "false")[0] == 0
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == ["a.json", "b.json"]
    np.testing.assert_allclose(json.loads((tmp_path / "other/b.json").read_text())["boxes"], batch, atol=1e-3)
    assert [p.name for p in find_sources(str(tmp_path / "photos"))] == ["a.jpg", "a.png", "b.jpg", "c.bmp"]


def test_a_bad_picture_among_good_ones_is_left_out_and_told(cli, eager_checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "c.jpg"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b.jpg").write_bytes((tmp_path / "photos" / "a.jpg").read_bytes()[:300])
    code, out, err = cli("predict", "photos", eager_checkpoint, "--batch_size", "2")
    assert (code, out) == (2, "2 of 3 files -> predictions\n")
    assert re.search(r"left out: photos/b\.jpg: image: is damaged", err)
    assert len(list((tmp_path / "predictions").iterdir())) == 4
    (tmp_path / "file").touch()
    code, out, err = cli("predict", "photos", eager_checkpoint, "--out", "file/below", "--batch_size", "2")
    assert (code, out, "file/below: out: cannot be created" in err) == (2, "", True)


def test_videos(cli, eager_checkpoint, tmp_path):
    av = require("av")
    video(tmp_path / "ride.mp4")
    assert cli("predict", "ride.mp4", eager_checkpoint, "--conf", "0.2")[0] == 0
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == ["ride.json", "ride.mp4"]
    document = json.loads((tmp_path / "predictions/ride.json").read_text())
    assert (len(document["frames"]), document["fps"]) == (4, 10)
    assert [f["time"] for f in document["frames"]] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert sum(len(f["boxes"]) for f in document["frames"]) > 0
    with av.open(str(tmp_path / "predictions/ride.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert (len(frames), frames[0].shape) == (4, (64, 80, 3))
    # The same turned by its metadata: a quarter clockwise.
    data = bytearray((tmp_path / "ride.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    for offset, value in ((0, 0), (4, 1), (12, -1), (16, 0)):
        data[matrix + offset : matrix + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    (tmp_path / "turned.mp4").write_bytes(data)
    whole, turned = (next(read_video(tmp_path / name))[1] for name in ("ride.mp4", "turned.mp4"))
    np.testing.assert_array_equal(turned, np.rot90(whole, -1))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "ride.mp4").read_bytes()[:200])
    code, _, err = cli("predict", "cut.mp4", eager_checkpoint, "--out", "o")
    assert (code, "cut.mp4: video: cannot be read" in err) == (2, True)
    assert not (tmp_path / "o").exists()


def test_bad_input_is_one_sentence_and_leaves_nothing(cli, eager_checkpoint, tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    (tmp_path / "cut.ckpt").write_bytes(eager_checkpoint.read_bytes()[:4000])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    ckpt = eager_checkpoint
    cases = {
        ("predict", "cut.jpg", ckpt): "cut.jpg: image: is damaged",
        ("predict", "none.jpg", ckpt): "none.jpg: file: cannot be read",
        ("predict", "notes.txt", ckpt): "notes.txt: source: got the ending '.txt'",
        ("predict", "empty", ckpt): "empty: source: no pictures",
        ("predict", "*.gif", ckpt): "no picture or video matches",
        ("predict", "a.jpg", "none.ckpt"): "none.ckpt: checkpoint: does not exist",
        ("predict", "a.jpg", "cut.ckpt"): "cut.ckpt: checkpoint: is damaged",
        ("predict", "a.jpg", "foreign.ckpt"): "foreign.ckpt: ttfnet: missing",
        ("predict", "a.jpg", ckpt, "--out", "notes.txt/deep"): "notes.txt/deep: out: cannot be created",
        ("predict", "a.jpg", ckpt, "--conf", "high"): "conf: got high; expected float",
        ("predict", "a.jpg", ckpt, "--batch_size", "0"): "batch_size: got 0",
        ("predict", "a.jpg", ckpt, "--device", "gpu"): "device: got gpu, which cannot be used",
        ("benchmark", "small", "--device", "gpu"): "device: got gpu, which cannot be used",
        ("export", ckpt, "m.tflite"): "expected .onnx, .pt2 or .torchscript",
        ("export", ckpt, "nowhere/m.onnx"): "the folder nowhere does not exist",
        ("convert", ckpt, "out.pt"): "bbox_head: no such keys",
        ("convert", ckpt, "out.bin"): "expected .pt",
        ("check-data", "notes.txt"): "notes.txt: line 1, column 1: is not JSON",
        ("benchmark", "none.pt"): "none.pt: checkpoint: does not exist",
        ("prepare", "empty"): "empty/data.yaml: no such file",
        ("fit", "--config", "r18_3x"): "r18_3x: config: no such file or recipe",
        ("fit", "--config", "r18_1x", "data.root=nowhere"): "nowhere/annotations/instances_train2017.json",
        ("fit", "model.betta=0.3"): "model.betta: no such option .did you mean 'model.beta'",
    }
    before = sorted(p.name for p in tmp_path.iterdir())
    for words, sentence in cases.items():
        code, _, err = cli(*words)
        last = err.strip().splitlines()[-1]
        assert (code, last.startswith("ttfnet: ")) == (2, True), (words, err)
        assert re.search(sentence, last), (words, last)
        assert "Traceback" not in err
    left = sorted(p.name for p in tmp_path.iterdir() if p.name not in ("runs", "lightning_logs"))
    assert left == before


def test_predict_needs_no_extra(eager_checkpoint, tmp_path, monkeypatch):
    picture(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    done = call_apart(exit_codes, str(eager_checkpoint))
    assert done.value == (0, 4, 4), done
    assert 'pip install "ttfnet[train]"' in done.stderr
    assert 'pip install "ttfnet[export]"' in done.stderr


class TestReliability(PackageReliability):
    app = "ttfnet.cli:app"

    @pytest.fixture
    def prediction(self, eager_checkpoint, tmp_path_factory):
        path = tmp_path_factory.mktemp("photo") / "a.jpg"
        picture(path, size=(110, 110))
        words = ("predict", path)
        return eager_checkpoint, lambda checkpoint, out: (*words, checkpoint, "--conf", "0.2", "--out", out)


def test_convert_and_info(cli, tmp_path):
    from ttfnet.model import TTFNet

    torch.manual_seed(0)
    model = TTFNet("resnet18", 4)
    state = official(model, {"hm": 2, "wh": 1})
    torch.save({"state_dict": state}, tmp_path / "official.pth")
    assert cli("convert", "official.pth", "ours.pt")[0] == 0
    assert torch.equal(
        load_detector(tmp_path / "ours.pt")[0].head.distances[2].weight, model.head.distances[2].weight
    )
    code, out, _ = cli("info", "ours.pt")
    assert code == 0
    assert "legacy_boxes: True" in out


def test_every_recipe_is_valid_and_says_what_the_table_says():
    from ttfnet.model import BACKBONES

    folder = app.config_folder()
    recipes = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    table = {"r18_1x": 12, "r18_2x": 24, "r34_2x": 24, "d53_1x": 12, "d53_2x": 24, "d53_aug_10x": 120}
    others = {"centernet_r18", "centernet_r101", "centernet_dla34", "centernet_r18_2x", "dla34_2x"}
    others |= {"pafnet_10x", "pafnet_lite_20x", "custom", "shapes_small"}
    assert set(table) | others <= set(recipes)
    for name, epochs in table.items():
        recipe = recipes[name]
        assert recipe["trainer"]["max_epochs"] == epochs
        deep = name.startswith("d53")
        assert (recipe["model"]["base_lr"], recipe["model"]["base_batch"]) == (
            (0.015, 96) if deep else (0.016, 128)
        )
        assert 8 * recipe["data"]["batch_size"] == recipe["model"]["base_batch"]
        assert recipe["data"]["augment"] == ("heavy" if "10x" in name else "flip")
        assert recipe["trainer"]["gradient_clip_val"] == 35
    assert all(r["model"]["backbone"] in BACKBONES for r in recipes.values())
    assert recipes["r18_scratch_aug_10x"]["model"]["frozen_stages"] == -1
    pafnet, lite = recipes["pafnet_10x"], recipes["pafnet_lite_20x"]
    assert (8 * pafnet["data"]["batch_size"], pafnet["model"]["base_batch"]) == (144, 144)
    assert (pafnet["data"]["sizes"][0], pafnet["data"]["sizes"][-1]) == (416, 672)
    assert (pafnet["model"]["ema"], pafnet["trainer"]["sync_batchnorm"]) == (0.9998, True)
    assert (pafnet["trainer"]["max_epochs"], lite["trainer"]["max_epochs"]) == (120, 240)
    for name in ("centernet_r18", "centernet_r101", "centernet_dla34"):
        assert recipes[name]["data"]["resize"] == "original"


@pytest.mark.parametrize("recipe", sorted(p.stem for p in app.config_folder().glob("*.yaml")))
def test_every_recipe_is_understood(cli, recipe):
    # The data is missing, which is the first thing that may go wrong after the recipe has been accepted.
    root = "data.root=nowhere"
    words = ["data.generate=null"] if recipe == "shapes_small" else []
    code, _, err = cli(
        "fit", "--config", recipe, root, *words, "trainer.logger=false", "trainer.accelerator=cpu"
    )
    assert (code, "nowhere/annotations/instances_" in err) == (2, True), err


@pytest.mark.slow
def test_the_examples_run(eager_checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("street.jpg", "photos/a.jpg", "photos/b.jpg"):
        picture(tmp_path / name)
    video(tmp_path / "ride.mp4")
    shutil.copy(eager_checkpoint, tmp_path / "last.ckpt")
    write_shapes(tmp_path / "data/mine/images", {"train": 4, "val": 4}, size=64)
    shutil.move(tmp_path / "data/mine/images/annotations", tmp_path / "data/mine/annotations")
    yolo = tmp_path / "data/yolo"
    (yolo / "images/train").mkdir(parents=True)
    (yolo / "labels/train").mkdir(parents=True)
    picture(yolo / "images/train/a.jpg")
    (yolo / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (yolo / "classes.txt").write_text("thing\n")
    small = "data.generate=[8,4] trainer.accelerator=cpu trainer.enable_progress_bar=false"
    ran = help_examples(
        [sys.executable, "-m", "ttfnet"],
        name="ttfnet",
        folder=tmp_path,
        verbs=["demo", "fit", "test", "predict", "export", "benchmark", "check-data", "prepare", "info"],
        # Without the official data and checkpoints, and without the demo at full length.
        keep=lambda line: not re.search(r"r18_1x|ttfnet demo|--config custom", line),
        replace={"--config shapes_small": f"--config shapes_small {small}", "max_epochs=15": "max_epochs=6"},
        timeout=600,
    )
    verbs = {example.line.split()[1] for example in ran}
    assert verbs == {"fit", "test", "predict", "export", "benchmark", "check-data", "prepare", "info"}
