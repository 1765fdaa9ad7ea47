"""The command line, in this process except where a fresh one is the point."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pircnn.cli import app
from tenfold.lidar.task import simulate_into
from tenfold.testing import PackageReliability, assert_examples_run, require, sample_data

pytestmark = pytest.mark.filterwarnings("ignore")


def frame_words(root, name="000000"):
    folder = root / "training"
    return [
        folder / f"velodyne/{name}.bin", "--calib", folder / f"calib/{name}.txt", "--image",
        folder / f"image_2/{name}.png",
    ]  # fmt: skip


def test_project(cli, kitti, tmp_path, toy):
    root, _ = kitti
    code, out, err = cli("project", "000000", "--root", root)
    assert (code, err) == (0, "")
    told = json.loads((tmp_path / "projections/000000_projection.json").read_text())
    seen = toy[0].calib.lidar_to_image(toy[0].points, (96, 320))[2]
    assert told["in_image"] == seen.sum()
    assert told["in_image"] + told["behind_camera"] + told["outside_image"] == told["points"] == 1024
    assert f"{seen.sum()} of 1024 points" in out
    picture = np.asarray(Image.open(tmp_path / "projections/000000_projection.png"))
    changed = (picture != toy[0].image).any(-1)
    assert 500 < changed.sum() < 96 * 320
    # Points on objects are painted where the objects are.
    assert changed[toy[0].labels > 0].mean() > changed[toy[0].labels == 0].mean()
    assert cli("project", *frame_words(root), "--out", "p2")[0] == 0
    behind = np.fromfile(root / "training/velodyne/000000.bin", "<f4").reshape(-1, 4) * np.float32(
        [-1, 1, 1, 1]
    )
    behind.tofile(root / "training/velodyne/000001.bin")
    code, out, _ = cli("project", "000001", "--root", root)
    assert code == 0
    assert "sees no point" in out


def test_project_a_real_frame(cli, tmp_path):
    code, out, err = cli("project", "000001", "--root", sample_data("kitti"))
    assert (code, err) == (0, "")
    told = json.loads((tmp_path / "projections/000001_projection.json").read_text())
    assert told["objects"] == ["Truck", "Car", "Cyclist"]
    assert 15_000 < told["in_image"] < 25_000
    assert 0.02 < told["divided_by_w_or_z_px"] < 0.5
    assert "behind the camera" in out


def test_predict(cli, kitti, checkpoint, tmp_path):
    root, _ = kitti
    code, out, err = cli("predict", *frame_words(root)[:1], checkpoint, *frame_words(root)[1:])
    assert (code, err) == (0, "")
    names = ["000000.json", "000000.txt", "000000_bev.png", "000000_image.png", "000000_semantics.png"]
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == names
    told = json.loads((tmp_path / "predictions/000000.json").read_text())
    assert f"{len(told['boxes'])} objects in 1024 points, " in out
    assert told["scores"] == sorted(told["scores"], reverse=True)
    assert Image.open(tmp_path / "predictions/000000_semantics.png").size == (320, 96 + 22)
    cloud = frame_words(root)[0]
    code, out, _ = cli("predict", cloud, checkpoint, "--out", "blind")
    assert code == 0
    assert "no image" in out
    assert json.loads((tmp_path / "blind/000000.json").read_text())["boxes"] != told["boxes"]
    points = np.fromfile(cloud, "<f4").reshape(-1, 4)
    (points * np.float32([-1, 1, 1, 1])).tofile(tmp_path / "behind.bin")
    np.zeros(0, "<f4").tofile(tmp_path / "empty.bin")
    for name in ("behind", "empty"):
        code, out, _ = cli("predict", f"{name}.bin", checkpoint, *frame_words(root)[1:], "--out", name)
        assert code == 0
        assert "sees no point" in out
        assert json.loads((tmp_path / name / f"{name}.json").read_text())["boxes"] == []


def test_predict_says_when_the_image_is_not_looked_at(cli, kitti, make_model, narrow, tmp_path):
    root, _ = kitti
    hyper = {"detector": "pircnn", "dataset": "kitti", "branch": "cached", "overrides": narrow}
    state = {f"model.{name}": value for name, value in make_model(branch="cached").state_dict().items()}
    torch.save({"hyper_parameters": hyper, "state_dict": state}, "cached.ckpt")
    words = frame_words(root)
    code, out, _ = cli("predict", words[0], "cached.ckpt", *words[1:])
    assert code == 0
    assert "'cached' has no image network: the boxes are those of LiDAR alone" in out
    assert not (tmp_path / "predictions/000000_semantics.png").exists()


def test_predict_a_real_frame(cli, checkpoint, tmp_path):
    words = frame_words(sample_data("kitti"), "000001")
    code, out, err = cli("predict", words[0], checkpoint, *words[1:])
    assert (code, err) == (0, "")
    assert len(list((tmp_path / "predictions").iterdir())) == 5
    assert "of them in the image" in out


def test_export(cli, checkpoint, seg_checkpoint, tmp_path):
    from pircnn.checkpoints import load_segmentation

    code, _, err = cli("export", checkpoint, "image.pt2", "--height", "32", "--width", "48")
    assert (code, err) == (0, "")
    images = torch.randn(3, 3, 32, 48)
    wanted = load_segmentation(checkpoint)(images).softmax(1)
    program = torch.export.load(str(tmp_path / "image.pt2"))
    torch.testing.assert_close(program.module()(images), wanted)
    for words, message in (
        ((checkpoint, "image.txt"), ".onnx or .pt2"),
        ((checkpoint, "none/image.pt2"), "does not exist"),
        ((seg_checkpoint, "a.pt2", "--height", "8"), "16 or more"),
        (("none.ckpt", "a.pt2"), "none.ckpt"),
    ):
        code, _, err = cli("export", *words)
        assert code == 2
        assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["image.pt2"]


@pytest.mark.slow
def test_onnx_equals_the_network(cli, seg_checkpoint, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module)
    import onnxruntime

    from pircnn.checkpoints import load_segmentation

    code, _, err = cli("export", seg_checkpoint, "image.onnx", "--height", "33", "--width", "50")
    assert code == 0, err
    session = onnxruntime.InferenceSession(str(tmp_path / "image.onnx"))
    images = torch.randn(2, 3, 33, 50)
    with torch.no_grad():
        wanted = load_segmentation(seg_checkpoint)(images).softmax(1)
    found = session.run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_users_mistakes_end_with_two(cli, kitti, checkpoint, seg_checkpoint, tmp_path):
    root, _ = kitti
    words = frame_words(root)
    small = tmp_path / "small.png"
    Image.new("RGB", (100, 30)).save(small)
    cases = (
        (("project", "a.bin"), "calib: missing"),
        (("project", "a.bin", *words[1:]), "a.bin"),
        (("project", "000007", "--root", root), "000007"),
        (("project", *words[:4], small), "does not fit an image of 100 x 30"),
        (("predict", words[0], checkpoint, "--image", words[4]), "needs the calibration"),
        (("predict", words[0], checkpoint, *words[1:4], small), "does not fit an image of 100 x 30"),
        (("predict", words[0], seg_checkpoint), "hyper_parameters"),
        (("predict", "none.bin", checkpoint), "none.bin"),
        (("prepare", root, "--maps", "true"), "--segmentation"),
        (("prepare", "none"), "none"),
        (("projects",), "did you mean 'project'?"),
        (("fit", "--config", "pircnn_smal"), "pircnn_smal"),
    )
    before = sorted(p.name for p in tmp_path.iterdir())
    for line, message in cases:
        code, _, err = cli(*line)
        assert code == 2, line
        assert message in err, (line, err)
        assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_examples_run(cli, checkpoint, seg_checkpoint, tmp_path):
    for module in ("onnx", "onnxscript"):
        require(module)
    simulate_into(tmp_path / "data/kitti", (4, 2), 0, (375, 1242))
    for file in ("velodyne/000001.bin", "calib/000001.txt", "image_2/000001.png"):
        shutil.copy(tmp_path / "data/kitti/training" / file, tmp_path)
    shutil.copy(checkpoint, tmp_path / "last.ckpt")
    shutil.copy(seg_checkpoint, tmp_path / "seg.ckpt")
    small = "--config pircnn_small trainer.max_epochs=1 data.simulate=[4,2] data.batch_size=2"
    replace = {
        "--config pircnn_small": small,
        "--config seg_small": "--config seg_small trainer.max_epochs=1 data.simulate=20",
        "--height 376 --width 1240": "--height 48 --width 64",
    }
    assert_examples_run(cli, app, leave_out="kitti_paper|seg_kitti", replace=replace)


class TestReliability(PackageReliability):
    app = "pircnn.cli:app"

    @pytest.fixture
    def prediction(self, kitti, checkpoint, tmp_path_factory):
        root = tmp_path_factory.mktemp("frame")
        shutil.move(kitti[0], root)
        cloud, *others = frame_words(root / kitti[0].name)
        return checkpoint, lambda path, out: ("predict", cloud, path, *others, "--out", out)
