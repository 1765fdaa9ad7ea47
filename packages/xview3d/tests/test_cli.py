"""The command line and the task, called in this process."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from xview3d_tiny import tiny_model, tiny_views

from tenfold.geometry import Calibration
from tenfold.lidar.kitti import write_calibration, write_labels
from tenfold.lidar.predict import EXTENSIONS
from tenfold.lidar.simulator import KITTI_64, SMALL_SCENE, kitti_labels, sample_scene, scan, view_objects
from tenfold.lidar.task import simulate_into
from tenfold.testing import (
    TINY_DETECTORS,
    PackageReliability,
    assert_examples_run,
    require,
    sample_data,
    undrawn,
)
from xview3d import CONTROLS, from_settings, kitti_views, nuscenes_views
from xview3d.cli import app
from xview3d.presets import views_from

pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = sorted(app.config_folder().glob("*.yaml"))


def recipe(path, views=2, **more):
    fields = ("center", "kind", "voxel")
    listed = [{name: getattr(view, name) for name in fields} for view in tiny_views("second")[:views]]
    listed = [{k: list(v) if isinstance(v, tuple) else v for k, v in view.items()} for view in listed]
    document = {
        "model": {
            "detector": "second", "dataset": "kitti", "xview": {"views": listed},
            "overrides": dict(TINY_DETECTORS["second"]),
        },
        "data": {
            "root": "data", "simulate": [2, 1], "image_size": [375, 1242], "batch_size": 2, "counts": {},
        },
        "trainer": {"default_root_dir": "run", "accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0},
    }  # fmt: skip
    document["model"].update(more)
    path.write_text(yaml.safe_dump(document))
    return path


def frame(folder):
    """A scan with labels and calibration in KITTI's format."""
    scene = sample_scene(3, SMALL_SCENE, region=(6.0, -10.0, 24.0, 10.0))
    seen = scan(scene, KITTI_64, 3)
    seen.points.tofile(folder / "000001.bin")
    calibration = Calibration.kitti_like()
    write_calibration(folder / "000001.txt", calibration)
    labels = kitti_labels(seen, view_objects(scene, calibration, (375, 1242)))
    write_labels(folder / "000001_labels.txt", labels, calibration)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as `fit` writes it, beside a scan of one's own."""
    folder = tmp_path_factory.mktemp("frame")
    frame(folder)
    settings = yaml.safe_load(recipe(folder / "own.yaml").read_text())["model"]
    settings["overrides"]["post"] = {"score_threshold": 0.0}
    state = {f"model.{name}": value for name, value in tiny_model("second").state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": state}, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_train_test_predict_export_and_go_on(cli, tmp_path):
    require("lightning")
    config = recipe(tmp_path / "own.yaml")
    code, _, err = cli("fit", "--config", config)
    assert code == 0, err
    code, _, err = cli("train", "--config", config, "trainer.max_epochs=2", "--ckpt_path", "last")
    assert code == 0, err
    checkpoint = next((tmp_path / "run").rglob("last.ckpt"))
    stored = torch.load(checkpoint, weights_only=True)
    assert stored["hyper_parameters"]["xview"]["views"][1]["center"] == [20.0, 0.0, 0.0]
    assert any(key.startswith("model.view_encoders.1.") for key in stored["state_dict"])
    code, out, err = cli("test", "--config", config, "--ckpt_path", "last")
    assert code == 0, err
    assert "0-20 m" in out
    assert "40-70 m" in out
    frame(tmp_path)
    code, out, err = cli("predict", "000001.bin", checkpoint, "--out", "found")
    assert code == 0, err
    assert set(json.loads((tmp_path / "found/000001.json").read_text())) >= {"boxes", "scores", "names"}
    assert cli("export", checkpoint, "dense.pt2")[0] == 0
    assert (tmp_path / "dense.pt2").stat().st_size > 1000
    # A detector without views is a start for one with them, and not the other way round.
    base = recipe(tmp_path / "base.yaml", xview=None)
    assert cli("fit", "--config", base, "trainer.default_root_dir=base")[0] == 0
    weights = next((tmp_path / "base").rglob("last.ckpt"))
    options = ("trainer.default_root_dir=third", f"model.start_from={weights}")
    code, _, err = cli("fit", "--config", config, *options, "trainer.max_steps=1")
    assert code == 0, err
    code, _, err = cli(
        "fit", "--config", base, "trainer.default_root_dir=x", f"model.start_from={checkpoint}"
    )
    assert code == 2
    assert "unexpected" in err


def test_fit_refuses_a_dead_branch(cli, tmp_path, monkeypatch):
    require("lightning")
    from xview3d import fusion

    monkeypatch.setattr(fusion.Views, "fused", lambda self, name, main, tensors, found: main)
    config = recipe(tmp_path / "own.yaml")
    code, _, err = cli("fit", "--config", config)
    assert code == 2
    assert "view 0 changes nothing" in err
    assert "check_branches=false" in err


def test_diagnose_a_frame_of_ones_own(cli, tmp_path):
    frame(tmp_path)
    config = recipe(tmp_path / "own.yaml")
    arguments = ("--frame", "000001.bin", "--labels", "000001_labels.txt", "--calib", "000001.txt")
    code, out, err = cli("diagnose", config, *arguments, "--out", "seen")
    assert code == 0, err
    assert (
        len(re.findall(r"view \d \(spherical at .*% of the sites find a cell, changes .*gradient", out)) == 2
    )
    assert out.count("object points in shared cells") == 2
    document = json.loads((tmp_path / "seen/diagnose.json").read_text())
    assert min(document["hit_rate"]) > 0.7
    assert [grid["name"] for grid in document["occupancy"]] == ["main", "0", "1"]
    assert (tmp_path / "seen/purity.svg").read_text().startswith("<svg")
    assert (tmp_path / "seen/purity.png").stat().st_size > 1000
    code, _, err = cli("diagnose", config, "--frame", "000001.bin", "--labels", "000001_labels.txt")
    assert (code, "add --calib" in err) == (2, True)


def test_diagnose_a_real_frame(cli, tmp_path):
    """The command of docs/xview3d.md: shared cells by distance, from labels of KITTI."""
    folder = sample_data("kitti", "training")
    files = [folder / name for name in ("velodyne/000001.bin", "label_2/000001.txt", "calib/000001.txt")]
    code, out, err = cli("diagnose", recipe(tmp_path / "own.yaml"), "--frame", files[0], "--labels", files[1],
                         "--calib", files[2], "--effects", "false", "--out", "seen")  # fmt: skip
    assert code == 0, err
    assert "120," in out
    purity = json.loads((tmp_path / "seen/diagnose.json").read_text())["purity"]
    assert len(purity["shared"]) == 2
    assert any(share is not None for share in next(iter(purity["shared"].values())))
    assert "object points in shared cells" in (tmp_path / "seen/purity.svg").read_text()


def test_bench_and_centers(cli, tmp_path):
    frame(tmp_path)
    config = recipe(tmp_path / "own.yaml")
    code, out, err = cli("bench", config, "--frame", "000001.bin", "--runs", 1, "--out", "cost.json")
    assert code == 0, err
    assert "without views" in out
    assert "2 views" in out
    numbers = json.loads((tmp_path / "cost.json").read_text())
    assert numbers["2 views"]["kept"] > numbers["without views"]["kept"]
    code, out, err = cli("centers", "[000001.bin]", "--number", 2)
    assert code == 0, err
    widths = [float(w) for w in re.findall(r"([\d.]+) m(?: wide on average)?$", out, re.MULTILINE)]
    assert len(widths) == 3
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diagnose", "nothing"), "no recipe"),
        (("diagnose", "own.yaml", "--frame", "missing.bin"), "missing.bin"),
        (("bench", "own.yaml", "--runs", "0"), "runs"),
        (("diagnose", "own.yaml", "--labels", "labels.txt"), "labels.txt: labels: belongs to a frame"),
        (("centers", "[missing.bin]"), "missing.bin"),
        (("centers", "[]"), "frames: got none"),
        (("fit", "--config", "nothing"), "nothing"),
        (("predict", "missing.bin", "missing.ckpt"), "missing"),
        (("predikt",), "predict"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(cli, tmp_path, arguments, message):
    recipe(tmp_path / "own.yaml")
    code, _, err = cli(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.yaml"]


@pytest.mark.slow
def test_the_examples_run(cli, checkpoint, tmp_path):
    simulate_into(tmp_path / "data/kitti", (4, 2), 0, (375, 1242))
    frame(tmp_path)
    shutil.copy(tmp_path / "data/kitti/training/image_2/000001.png", tmp_path)
    shutil.copy(checkpoint, tmp_path / "last.ckpt")
    small = "--config second_small trainer.max_epochs=1 data.simulate=[4,2] data.batch_size=2"
    # Without official data, and without the recipe's own scenes, which are many.
    left_out = r"config kitti_|diagnose second_small$|bench second_small --runs"
    replace = {"--config second_small": small, "max_epochs=25": "max_epochs=2"}
    assert_examples_run(cli, app, leave_out=left_out, replace=replace)


class TestReliability(PackageReliability):
    app = "xview3d.cli:app"

    @pytest.fixture
    def prediction(self, checkpoint):
        words = ("predict", checkpoint.parent / "000001.bin")
        return checkpoint, lambda path, out: (*words, path, "--out", out)


@pytest.mark.parametrize(
    ("xview", "message"),
    [
        ({"views": "two"}, "views"),
        ({"views": 9}, "1 to 4"),
        ({"views": [{"centre": [0, 0, 0]}]}, "unknown centre"),
        ({"views": [3]}, "number 0"),
        ({"views": [{"center": 5}]}, "not iterable"),
        ({"control": "nothing"}, "control"),
        ({"control": "mvf"}, "describes no view"),
        ({"views": 1, "fusion": "add"}, "fusion"),
        ({"views": [{"range": [0, -1.6, 0, 8, 1.6, 3.2], "voxel": [0.2, 0.04, 0.04]}]}, "leaves out"),
        ({"views": [{"range": [0, 0, 0, 82, 6.28, 3.19]}]}, "wraps around"),
    ],
)
def test_bad_settings_of_a_recipe(cli, tmp_path, xview, message):
    config = recipe(tmp_path / "own.yaml", xview=xview)
    code, _, err = cli("diagnose", config)
    assert code == 2
    assert message in err


def test_every_recipe_describes_a_detector_or_a_control():
    assert len(RECIPES) == 41
    for path in RECIPES:
        document = yaml.safe_load(path.read_text())
        if path.stem.startswith("control_"):
            assert document["model"]["xview"] == {"control": path.stem.removeprefix("control_")}
            assert path.stem.removeprefix("control_") in CONTROLS
            continue
        assert document["model"]["xview"]["views"]
        assert document["trainer"]["default_root_dir"] == f"runs/{path.stem}"
    missing = set(CONTROLS) - {p.stem.removeprefix("control_") for p in RECIPES} - {"ego", "v2", "v3", "v4"}
    assert missing == set()


@pytest.mark.parametrize("name", [p.stem for p in RECIPES if not p.stem.startswith("control_")])
def test_every_recipe_builds_its_detector(name):
    from xview3d.frames import models_of

    with undrawn():
        base, model = models_of(name)
    wanted = {"v1": 1, "v2": 2, "v3": 3, "v4": 4, "linear": 2, "small": 2}[name.rpartition("_")[2]]
    assert len(model.view_encoders) == wanted
    assert set(base.state_dict()) <= set(model.state_dict())
    if name.startswith("kitti_") and "pillar" not in name:
        assert model.views == kitti_views(wanted)
    if name.startswith("nus_"):
        assert model.views == nuscenes_views()


@pytest.mark.parametrize("name", list(CONTROLS))
def test_every_control_builds_and_runs(name):
    """On a narrow SECOND of KITTI's range: one frame."""
    from tenfold.lidar import build_detector

    torch.manual_seed(0)
    narrow = {"channels": [2, 2, 2, 2], "out_channels": 2, "bev_layers": [0, 0], "bev_channels": [2, 2]}
    base = build_detector("second", **narrow, up_channels=[2, 2], class_names=["Car"])
    model = from_settings(base, {"control": name})
    assert (model is base) == (name == "base")
    points = torch.cat((torch.zeros(2000, 1), torch.rand(2000, 4) * torch.tensor([60.0, 60, 3, 1])), 1)
    points[:, 2:4] -= torch.tensor([30.0, 3.0])
    losses = model({"points": points, "gt_boxes": torch.zeros(1, 0, 8), "batch_size": 1})
    losses["loss"].backward()
    assert all(p.grad is not None for key, p in model.named_parameters())


def test_views_of_recipes():
    assert views_from(None) is None
    assert views_from(3, "nuscenes") == nuscenes_views()
    with pytest.raises(ValueError, match="no such released views"):
        views_from(4, "nuscenes")
    importlib.import_module("xview3d.extension")
    assert EXTENSIONS["xview"] is from_settings
    assert np.isfinite(kitti_views(4)[1].bounds).all()
