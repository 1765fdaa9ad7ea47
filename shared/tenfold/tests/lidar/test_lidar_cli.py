"""The command line `tenfold lidar`, called in this process except where a fresh one is the point."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.cli import app
from tenfold.io import PointCloud, write_points
from tenfold.lidar.kitti import read_calibration, read_labels, read_velodyne
from tenfold.lidar.predict import detect, load_detector, read_frame
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, write_kitti
from tenfold.testing import assert_help_shows_examples, assert_light_help, disk_full, help_examples

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """Folder with one frame: scan, calibration and image."""
    root = tmp_path_factory.mktemp("frame")
    write_kitti(root, [sample_scene(5, SMALL_SCENE)], sensor=SECTOR_32, image_size=(94, 310))
    training = root / "training"
    files = {"velodyne": "000000.bin", "calib": "000000.txt", "image_2": "000000.png"}
    for kind, name in files.items():
        shutil.copy(training / kind / name, root / name)
    return root


def test_predict_writes_what_the_detector_finds(cli, frame, eager_checkpoint, tmp_path):
    calib, image = frame / "000000.txt", frame / "000000.png"
    code, out, err = cli(
        "predict", frame / "000000.bin", eager_checkpoint, "--calib", calib, "--image", image, "out=found"
    )
    assert (code, err) == (0, "")
    names = ["000000.json", "000000.txt", "000000_bev.png", "000000_image.png"]
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == names
    document = json.loads((tmp_path / "found/000000.json").read_text())
    calibration = read_calibration(calib)
    points = read_velodyne(frame / "000000.bin")
    expected = detect(load_detector(eager_checkpoint), points[calibration.in_image(points[:, :3], (94, 310))])
    assert len(expected["scores"]) > 3
    for name, values in expected.items():
        np.testing.assert_allclose(document[name], values, rtol=1e-6)
    assert set(document["names"]) == {"Car"}
    assert f"{len(document['scores'])} objects in {len(points)} points" in out
    results = read_labels(tmp_path / "found/000000.txt", calibration)
    assert len(results) > 0
    assert (results.boxes2d[:, 2:] <= [309, 93]).all()
    for box, score in zip(results.boxes, results.scores, strict=True):
        near = np.abs(expected["boxes"] - box)[:, :6].max(axis=1) < 1e-3
        assert np.isclose(expected["scores"][near], score, atol=1e-5).any()
    assert Image.open(tmp_path / "found/000000_image.png").size == (310, 94)
    assert Image.open(tmp_path / "found/000000_bev.png").size == (256, 256)


def test_predict_reads_all_formats_alike(cli, frame, eager_checkpoint, tmp_path):
    points = read_velodyne(frame / "000000.bin")
    cloud = PointCloud(points[:, :3], {"intensity": points[:, 3]})
    answers = []
    for ending in (".bin", ".npy", ".ply", ".pcd"):
        write_points(tmp_path / f"a{ending}", cloud)
        assert cli("predict", f"a{ending}", eager_checkpoint, "--out", ending[1:])[0] == 0
        answers.append((tmp_path / ending[1:] / "a.json").read_text())
    np.savez(tmp_path / "a.npz", points=points)
    assert cli("predict", "a.npz", eager_checkpoint, "--out", "npz")[0] == 0
    answers.append((tmp_path / "npz/a.json").read_text())
    assert len(set(answers)) == 1
    # nuScenes: a fifth column, intensity from 0 to 255.
    five = np.column_stack((points * np.array([1, 1, 1, 255]), points[:, :1])).astype(np.float32)
    five.tofile(tmp_path / "n.pcd.bin")
    np.testing.assert_allclose(read_frame(tmp_path / "n.pcd.bin", 1 / 255), points, atol=1e-6)
    assert cli("predict", "n.pcd.bin", eager_checkpoint)[2].startswith(
        "note: n.pcd.bin has intensities up to"
    )


def test_predict_on_a_nuscenes_sweep(cli, small_nuscenes, tmp_path):
    """Five columns in the file, five features in the model: the ring is left out, the age is 0."""
    from tenfold.lidar import build_detector

    overrides = {
        "voxel_size": [0.4, 0.4, 0.2],
        "channels": [4, 4, 4, 8],
        "out_channels": 8,
        "bev_layers": [1],
        "bev_strides": [1],
        "bev_channels": [8],
        "up_strides": [1],
        "up_channels": [8],
        "head_channels": 8,
    }
    torch.manual_seed(0)
    model = build_detector("second", "nuscenes", **overrides)
    settings = {"detector": "second", "dataset": "nuscenes", "overrides": overrides}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": state}, tmp_path / "n.ckpt")
    sweep = next((small_nuscenes / "samples/LIDAR_TOP").glob("*.pcd.bin"))
    words = ("predict", sweep, "n.ckpt", "--min_score", "0")
    code, _, err = cli(*words, "--out", "o")
    assert (code, err) == (0, "")
    stem = sweep.name.split(".")[0]
    document = json.loads((tmp_path / "o" / f"{stem}.json").read_text())
    assert document["columns"][7:] == ["vx", "vy"]
    assert all(len(box) == 9 for box in document["boxes"])
    assert Image.open(tmp_path / "o" / f"{stem}_bev.png").size == (1024, 1024)
    # The same cloud under another name needs the number of its columns.
    shutil.copy(sweep, tmp_path / "street.7.bin")
    if sweep.stat().st_size % 16:
        assert cli("predict", "street.7.bin", "n.ckpt")[0] == 2
    assert (
        cli("predict", "street.7.bin", "n.ckpt", "--min_score", "0", "--columns", "5", "--out", "p")[0] == 0
    )
    assert json.loads((tmp_path / "p/street.7.json").read_text())["boxes"] == document["boxes"]


def test_predict_with_views(cli, frame, eager_checkpoint, tmp_path):
    words = ("predict", frame / "000000.bin", eager_checkpoint)
    assert cli(*words, "--out", "one")[0] == 0
    assert cli(*words, "--out", "two", "--tta_flips", '["x"]')[0] == 0
    one, two = (json.loads((tmp_path / n / "000000.json").read_text()) for n in ("one", "two"))
    assert one["scores"] != two["scores"]
    assert max(two["scores"]) >= max(one["scores"]) - 1e-6
    code, _, err = cli(*words, "--tta_flips", '["up"]')
    assert code == 2
    assert "flip: got 'up'" in err


def test_the_viewer_names_its_extra(cli, frame, eager_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    code, _, err = cli("predict", frame / "000000.bin", eager_checkpoint, "--view", "true", "--out", "o")
    assert code == 4
    assert "tenfold[viz3d]" in err
    assert not (tmp_path / "o").exists()


def test_a_cloud_without_intensity_is_said(frame, tmp_path, capsys):
    points = read_velodyne(frame / "000000.bin")
    write_points(tmp_path / "a.ply", PointCloud(points[:, :3]))
    assert (read_frame(tmp_path / "a.ply")[:, 3] == 0).all()
    assert "has no intensity" in capsys.readouterr().err


@pytest.mark.parametrize("points", [np.zeros((0, 4)), np.full((3, 4), 500.0)], ids=["empty", "far away"])
def test_an_empty_frame_has_no_detections(cli, eager_checkpoint, tmp_path, points, frame):
    points.astype(np.float32).tofile(tmp_path / "a.bin")
    words = ("predict", "a.bin", eager_checkpoint, "--calib", frame / "000000.txt", "--out", "o")
    code, out, _ = cli(*words)
    assert code == 0
    assert out.startswith("0 objects in")
    assert json.loads((tmp_path / "o/a.json").read_text())["boxes"] == []
    assert (tmp_path / "o/a.txt").read_text() == ""


def test_bad_input_is_one_sentence_and_leaves_nothing(cli, frame, eager_checkpoint, tmp_path):
    scan = (frame / "000000.bin").read_bytes()
    bad = np.frombuffer(scan, np.float32).reshape(-1, 4).copy()
    bad[7, 2] = np.nan
    (tmp_path / "cut.bin").write_bytes(scan[:-3])
    bad.tofile(tmp_path / "nan.bin")
    (tmp_path / "scan.xyz").write_text("1 2 3")
    calib = (frame / "000000.txt").read_text()
    (tmp_path / "short.txt").write_text(calib.replace("Tr_velo_to_cam", "Tr"))
    (tmp_path / "cut.png").write_bytes((frame / "000000.png").read_bytes()[:500])
    (tmp_path / "cut.ckpt").write_bytes(eager_checkpoint.read_bytes()[:4000])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    content = torch.load(eager_checkpoint, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "less.ckpt")
    content["hyper_parameters"] = {**content["hyper_parameters"], "overrides": {"chanels": 3}}
    torch.save(content, tmp_path / "option.ckpt")
    good, ckpt = frame / "000000.bin", eager_checkpoint
    cases = {
        ("cut.bin", ckpt): r"cut.bin: columns: \d+ bytes are no multiple of 4 columns",
        ("nan.bin", ckpt): r"nan.bin: point 7 is not finite \(1 of",
        ("none.bin", ckpt): "none.bin: file: cannot be read",
        ("scan.xyz", ckpt): "scan.xyz: name: has no known ending",
        (good, ckpt, "--calib", "none.txt"): "none.txt: the file is missing",
        (good, ckpt, "--calib", "short.txt"): "short.txt: the key Tr_velo_to_cam is missing",
        (good, ckpt, "--image", frame / "000000.png"): "image: needs the calibration",
        (good, ckpt, "--calib", frame / "000000.txt", "--image", "cut.png"): "cut.png: image: is damaged",
        (good, "none.ckpt"): "none.ckpt: checkpoint: does not exist",
        (good, "cut.ckpt"): "cut.ckpt: checkpoint: is damaged",
        (good, "foreign.ckpt"): "foreign.ckpt: hyper_parameters: missing",
        (good, "less.ckpt"): "less.ckpt",
        (good, "option.ckpt"): "model: build_second: unknown option 'chanels'",
        (good, ckpt, "--out", "cut.bin/deep"): "cut.bin/deep: out: cannot be created",
        (good, ckpt, "--min_score", "high"): "min_score: got high; expected float",
        (good, ckpt, "--columns", "2"): "000000.bin: .*columns: got 2; expected 3 to 1024",
    }
    before = sorted(p.name for p in tmp_path.iterdir())
    for words, sentence in cases.items():
        code, _, err = cli("predict", *words)
        last = err.strip().splitlines()[-1]
        assert (code, last.startswith("tenfold lidar: ")) == (2, True), words
        assert re.search(sentence, last), words
        assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def predict_and_fit(*words):
    """Exit codes where the training extra is not installed; for a child of its own."""
    for extra in ("lightning", "tensorboard"):
        loaded = [name for name in sys.modules if name.split(".")[0] == extra]
        sys.modules.update(dict.fromkeys([*loaded, extra]))
    return app(["lidar", "predict", *words]), app(["lidar", "fit", "--config", "second_small"])


def test_predict_needs_no_training_extra(frame, eager_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = disk_full(
        predict_and_fit, str(frame / "000000.bin"), str(eager_checkpoint), limit_bytes=2**30
    )  # no limit that anything here would meet
    assert done.value == (0, 4), done
    assert 'pip install "tenfold[train]"' in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["predictions"]


def test_export(cli, eager_checkpoint, tmp_path):
    assert cli("export", eager_checkpoint, "dense.pt2")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["dense.pt2"]
    model = load_detector(eager_checkpoint)
    bev = torch.randn(3, model.config.bev_input_channels, 16, 16)
    program = torch.export.load(tmp_path / "dense.pt2").module()
    with torch.no_grad():
        for ours, theirs in zip(model.dense(bev), program(bev), strict=True):
            torch.testing.assert_close(theirs, ours)


def test_export_refuses_before_it_works(cli, eager_checkpoint):
    assert "expected .onnx or .pt2" in cli("export", eager_checkpoint, "dense.bin")[2]
    code, _, err = cli("export", eager_checkpoint, "nowhere/dense.pt2")
    assert (code, "the folder nowhere does not exist" in err) == (2, True)


def test_prepare(cli, small_kitti, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(small_kitti, root)
    reference = (root / "prepared/objects_train.npz").read_bytes()
    shutil.rmtree(root / "prepared")
    code, out, _ = cli("prepare", root, "--image_size", "[375,1242]")
    assert code == 0
    assert out.splitlines()[0].split() == ["class", "easy", "moderate", "hard", "none", "points"]
    assert out.splitlines()[1].startswith("Car ")
    assert "of 6 frames ->" in out
    assert len((root / "prepared/objects_train.npz").read_bytes()) == len(reference)

    shutil.rmtree(root / "prepared")
    label = root / "training/label_2/000003.txt"
    text = label.read_text()
    label.write_text(text + "Car 0 0 1 2 3\n")
    code, _, err = cli("prepare", root, "--image_size", "[375,1242]")
    assert code == 2
    assert "000003.txt: line" in err
    assert "6 fields were found" in err
    assert not (root / "prepared/objects_train.npz").exists()
    label.write_text(text)  # the user mends the file: the work goes on
    assert cli("prepare", root, "--image_size", "[375,1242]")[0] == 0
    assert len((root / "prepared/objects_train.npz").read_bytes()) == len(reference)


def test_help(cli):
    from tenfold.lidar.cli import app as lidar

    assert_help_shows_examples(cli, lidar)
    assert_light_help("tenfold.cli:app", "lidar")
    words = re.findall(r"\w+", cli("fit", "--help")[1])
    assert {"second_kitti", "second_small", "second_nuscenes"} <= set(words)


@pytest.mark.slow
def test_the_examples_run(frame, small_kitti, small_nuscenes, write_own, eager_checkpoint, tmp_path):
    shutil.copytree(small_kitti, tmp_path / "data/kitti")
    shutil.copytree(small_nuscenes, tmp_path / "data/nuscenes")
    write_own(tmp_path / "data/own")
    shutil.copy(tmp_path / "data/kitti/ImageSets/train.txt", tmp_path / "data/kitti/ImageSets/trainval.txt")
    shutil.copy(frame / "000000.bin", tmp_path / "000001.bin")
    shutil.copy(frame / "000000.txt", tmp_path / "000001.txt")
    shutil.copy(frame / "000000.png", tmp_path / "000001.png")
    shutil.copy(eager_checkpoint, tmp_path / "last.ckpt")
    small = "data.image_size=[375,1242] data.batch_size=2 model.overrides.channels=[4,4,4,4]"
    done = help_examples(
        [sys.executable, "-c", "import sys; from tenfold.cli import main; sys.exit(main())", "lidar"],
        name="tenfold lidar",
        folder=tmp_path,
        verbs=["demo", "fit", "test", "predict", "export", "prepare", "check-data"],
        # Without recipes and tables at full size, and without the demo at full length.
        keep=lambda line: not re.search(r"config \w+_kitti|prepare data/nuscenes|demo$", line),
        replace={
            "--config second_small": f"--config second_small data.simulate=[4,2] {small}",
            "prepare data/kitti": "prepare data/kitti --image_size [375,1242]",
            "check-data data/kitti": "check-data data/kitti --image_size [375,1242]",
            "max_epochs=25": "max_epochs=3",
            "--minutes 1": "--minutes 0.1",
        },
        timeout=600,
    )
    ran = {example.line.split()[2] for example in done}
    assert ran == {"demo", "fit", "test", "predict", "export", "prepare", "check-data"}


@pytest.mark.parametrize(
    "detector",
    [
        "pv_rcnn",
        "pointrcnn",
        pytest.param("pointpillars", marks=pytest.mark.slow),
        pytest.param("parta2", marks=pytest.mark.slow),
    ],
)
def test_every_detector_is_trained_evaluated_and_run(
    cli, detector, tiny_models, small_kitti, frame, tmp_path
):
    words = [f"model.detector={detector}", f"model.overrides={json.dumps(tiny_models[detector])}"]
    words += [f"data.root={small_kitti}", "data.image_size=[375,1242]", "data.batch_size=2", "data.counts={}"]
    words += ["trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.default_root_dir=run"]
    quiet = ["trainer.enable_progress_bar=false", "trainer.logger=false"]
    code, _, err = cli("fit", *words, *quiet)
    assert code == 0, err
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert type(load_detector(checkpoint)).__name__.lower().startswith(detector.replace("_", "")[:4])
    code, out, err = cli("test", *words, *quiet, "--ckpt_path", checkpoint)
    assert code == 0, err
    assert "KITTI object evaluation of 2 frames" in out
    assert cli("predict", frame / "000000.bin", checkpoint, "--out", "found")[0] == 0
    assert (tmp_path / "found" / "000000_bev.png").is_file()
    code, _, err = cli("export", checkpoint, "dense.pt2")
    if detector == "pointrcnn":
        assert (code, "has no dense part" in err) == (2, True)
        assert not (tmp_path / "dense.pt2").exists()
    else:
        assert code == 0, err
        assert (tmp_path / "dense.pt2").is_file()


def test_every_recipe_builds_its_model(tmp_path):
    from importlib.resources import files

    import yaml

    from tenfold.lidar.predict import build_from

    folder = files("tenfold.lidar") / "configs"
    recipes = [item for item in folder.iterdir() if item.name.endswith(".yaml")]
    assert len(recipes) >= 19
    for recipe in recipes:
        settings = yaml.safe_load(recipe.read_text())
        with torch.device("meta"):
            model = build_from(settings["model"])
        counts = settings["data"].get("counts") or {}
        assert set(counts) <= set(model.class_names), recipe.name
        assert settings["trainer"]["default_root_dir"].endswith(recipe.name[:-5])


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["second", "pv_rcnn", "pointrcnn"])
def test_nuscenes_is_trained_and_evaluated(cli, detector, tiny_models, small_nuscenes, tmp_path):
    options = {k: v for k, v in tiny_models[detector].items() if k != "class_names"}
    options["point_range"] = [-25.6, -25.6, -5.0, 25.6, 25.6, 3.0]
    if detector != "pointrcnn":
        options |= {"voxel_size": [0.4, 0.4, 0.2], "blocks": [1, 1, 1, 1], "head_channels": 8}
    words = [f"model.detector={detector}", "model.dataset=nuscenes", f"model.overrides={json.dumps(options)}"]
    words += [
        "data.dataset=nuscenes",
        f"data.root={small_nuscenes}",
        "data.version=v1.0-mini",
        "data.sweeps=3",
    ]
    words += ["data.train_split=mini_train", "data.val_split=mini_val", "data.batch_size=2", "data.counts={}"]
    words += ["trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.default_root_dir=run"]
    words += ["trainer.enable_progress_bar=false", "trainer.logger=false"]
    code, _, err = cli("fit", *words)
    assert code == 0, err
    code, out, err = cli("test", *words, "--ckpt_path", "last", "model.results=found")
    assert code == 0, err
    assert "NDS" in out
    assert (tmp_path / "found" / "submission.json").is_file()
