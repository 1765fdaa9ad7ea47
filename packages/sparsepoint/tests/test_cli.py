"""The command line, in this process except where a fresh one is the point."""

import inspect
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import raw_trees
import torch
import yaml
from PIL import Image
from sparsepoint_tiny import built, small_config

from sparsepoint.checkpoint import load_detector
from sparsepoint.cli import app
from sparsepoint.config import make_config
from sparsepoint.data import make_room
from sparsepoint.predict import detect, read_scan
from tenfold._errors import UserInputError
from tenfold.geometry import transform_boxes, transform_points
from tenfold.io import PointCloud, read_mesh, save_checkpoint, write_mesh, write_points
from tenfold.testing import (
    PackageReliability,
    assert_examples_run,
    assert_survives_disk_full,
    corruptions,
    require,
    sample_data,
)


@pytest.fixture
def eager(tmp_path):
    """A checkpoint whose network is sure of everything, so that there are boxes to write."""
    config = small_config(num_points=1024)
    model = built(config)
    for head in model.heads:
        torch.nn.init.zeros_(head.classify.bias)
    path = tmp_path / "eager.pt"
    save_checkpoint(path, {"config": config.to_dict(), "state_dict": model.state_dict()})
    return path


def test_predict_writes_boxes_mesh_and_picture(cli, eager, room_file, tmp_path):
    code, out, err = cli("predict", room_file, eager, "--min_score", "0.01")
    assert (code, err) == (0, "")
    folder = tmp_path / "predictions"
    assert sorted(p.name for p in folder.iterdir()) == ["room.json", "room.png", "room_boxes.ply"]
    document = json.loads((folder / "room.json").read_text())
    number = len(document["boxes"])
    assert number == 12
    assert f"{number} objects in 2048 points" in out
    assert document["scores"] == sorted(document["scores"], reverse=True)
    assert set(document["names"]) <= {"table", "chair", "cabinet", "bin"}
    cloud, faces = read_mesh(folder / "room_boxes.ply")
    assert len(faces) == number * 12 * 12
    boxes = np.asarray(document["boxes"])
    assert np.abs(cloud.xyz).max() <= np.abs(boxes[:, :3]).max() + boxes[:, 3:6].max() + 0.1
    assert np.asarray(Image.open(folder / "room.png")).shape == (560, 1120, 3)


def test_thresholds_stages_and_suppression(cli, eager, room_file, tmp_path):
    def boxes(*words):
        code, _, err = cli("predict", room_file, eager, "--out", "o", *words)
        assert (code, err) == (0, "")
        return json.loads((tmp_path / "o/room.json").read_text())

    every = boxes("--min_score", "0.01")
    top = every["scores"][0]
    own = every["names"][0]
    without = boxes("--min_score", "0.01", "--class_scores", json.dumps({own: min(top + 0.01, 1.0)}))
    assert own not in without["names"]
    assert len(boxes("--min_score", "0.01", "--all_labels", "true")["boxes"]) == 12
    assert boxes("--min_score", "0.01", "--stages", "1")["boxes"] != every["boxes"]
    assert len(boxes("--min_score", "0.01", "--nms", "0.0")["boxes"]) < len(every["boxes"])


def test_a_dense_detector_has_no_stages_to_stop_after(cli, room_file, tmp_path):
    code, _, err = cli("predict", room_file, "tiny_votenet", "--stages", "1")
    assert (code, "tiny_votenet is a dense detector" in err) == (2, True)
    assert not (tmp_path / "predictions").exists()


def test_boxes_come_back_in_the_frame_of_the_scan(eager):
    """Turning a scan and telling so must give the turned boxes."""
    model = load_detector(eager)
    points = make_room(1_000_001).points.astype(np.float64)
    turn = np.eye(4)
    cos, sin = np.cos(0.7), np.sin(0.7)
    turn[:2, :2], turn[:3, 3] = [[cos, -sin], [sin, cos]], [3, -2, 0.5]

    class Turned:
        dropped, colours = 0, None

    here, there = Turned(), Turned()
    here.points, there.points = points, transform_points(points, turn)
    plain = detect(model, here, score_thr=0.0)
    back = detect(model, there, align=np.linalg.inv(turn), score_thr=0.0)
    wanted = transform_boxes(plain.boxes.double(), torch.from_numpy(turn))
    torch.testing.assert_close(back.boxes[:, :6].double(), wanted[:, :6], atol=0.02, rtol=0.01)
    assert (back.boxes[:, 6].double() - wanted[:, 6]).sin().abs().max() < 1e-3


def test_meshes(tmp_path):
    vertices = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [0, 0, 1.0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 1, 4]])
    colours = {c: np.full(5, 100, np.uint8) for c in ("red", "green", "blue")}
    write_mesh(tmp_path / "m.ply", PointCloud(vertices, colours), faces)
    drawn = read_scan(tmp_path / "m.ply", number=5000)
    assert len(drawn.points) == 5000
    on_floor = np.abs(drawn.points[:, 2]) < 1e-9
    assert on_floor.mean() == pytest.approx(4 / 5, abs=0.03)  # in proportion to the area
    assert (drawn.points[~on_floor, 1] < 1e-9).all()
    np.testing.assert_allclose(drawn.colours, 100, atol=1e-3)
    assert len(read_scan(tmp_path / "m.ply", "vertices").points) == 5
    write_points(tmp_path / "p.ply", PointCloud(vertices))
    assert len(read_scan(tmp_path / "p.ply").points) == 5
    with pytest.raises(UserInputError, match="the file has no faces"):
        read_scan(tmp_path / "p.ply", "surface")
    write_mesh(tmp_path / "flat.ply", PointCloud(np.zeros((3, 3), np.float32)), np.array([[0, 1, 2]]))
    with pytest.raises(UserInputError, match=r"flat\.ply: mesh: face: the triangles have no area"):
        read_scan(tmp_path / "flat.ply", "surface")


def test_recordings_and_gravity(cli, eager, tmp_path):
    raw_trees.sens(tmp_path / "scan.sens")
    words = (
        "predict",
        "scan.sens",
        eager,
        "--min_score",
        "0.01",
        "--align",
        "auto",
        "--gravity",
        "[0, 0, -1]",
    )
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    document = json.loads((tmp_path / "predictions/scan.json").read_text())
    assert f"{document['points']} points" in out
    assert document["points"] == 16  # eight a frame, of which each frame shares four with the one before
    np.testing.assert_allclose(np.asarray(document["align"])[2, :3], [0, 0, 1], atol=1e-12)


def test_few_and_broken_points(cli, eager, tmp_path):
    points = np.random.default_rng(0).uniform(0, 2, (10, 3)).astype(np.float32)
    write_points(tmp_path / "ten.points.ply", PointCloud(points))
    assert cli("predict", "ten.points.ply", eager)[0] == 0
    assert (tmp_path / "predictions/ten.points.json").is_file()
    points[3] = np.nan
    write_points(tmp_path / "nan.ply", PointCloud(points))
    code, out, err = cli("predict", "nan.ply", eager, "--align", "none")
    assert code == 0
    assert "1 points that are not finite are left out" in err
    assert "in 9 points" in out
    write_points(tmp_path / "none.ply", PointCloud(np.full((4, 3), np.nan, np.float32)))
    code, _, err = cli("predict", "none.ply", eager)
    assert code == 2
    assert "no finite point among 4" in err


def test_damaged_scans_are_answered_with_two(cli, eager, room_file, tmp_path):
    for name, data in corruptions(room_file):
        (tmp_path / "bad.ply").write_bytes(data)
        try:
            scan = read_scan(tmp_path / "bad.ply")
            assert np.isfinite(scan.points).all(), name
        except UserInputError as error:
            assert "bad.ply" in str(error), name  # noqa: PT017
    (tmp_path / "bad.ply").write_bytes(room_file.read_bytes()[:700])
    code, _, err = cli("predict", "bad.ply", eager)
    assert code == 2
    assert "bad.ply" in err
    assert not (tmp_path / "predictions").exists()


def test_users_mistakes_end_with_two(cli, eager, room_file, tmp_path):
    for words, message in (
        (("predict", "none.ply", eager), "none.ply"),
        (("predict", room_file, "none.pt"), "none.pt"),
        (("predict", room_file, eager, "--class_scores", "{car: 0.1}"), "class_scores: got 'car'"),
        (("predict", room_file, eager, "--min_score", "2"), "min_score: got 2"),
        (
            ("predict", room_file, eager, "--class_scores", "{min_score: 0.5}"),
            "class_scores: got 'min_score'",
        ),
        (("predict", room_file, eager, "--class_scores", "{chair: 2}"), "class_scores: chair: got 2"),
        (("predict", room_file, eager, "--stages", "9"), "stages: got 9"),
        (
            ("predict", room_file, eager, "--gravity", "[0, 0, -1]"),
            "gravity: got (0.0, 0.0, -1.0) without --align",
        ),
        (
            ("predict", room_file, eager, "--align", "auto", "--gravity", "[0, 1, 0]"),
            "within 25 degrees of -z",
        ),
        (("export", eager, "m.txt"), "output: got the ending '.txt'"),
        (("export", eager, "none/m.pt2"), "does not exist"),
        (("prepare", "scannet", "none", "o"), "none"),
        (("prepare", "kitti", "none", "o"), "kitti"),
        (("demos",), "verb: got 'demos' (did you mean 'demo'?)"),
        (("fit", "--config", "scanet"), "scanet"),
        (("fit", "--config", "scannet", "model.preset=x"), "preset: got 'x'"),
    ):
        code, _, err = cli(*words)
        assert code == 2, words
        assert message in err
        assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eager.pt"]
    for content in ({"state_dict": {}}, {"config": {"preset": "yolo"}, "state_dict": {}}, [1]):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(UserInputError):
            load_detector(tmp_path / "odd.pt")


def _write(path, seed):
    from sparsepoint.data.scenes import write_scene

    write_scene(path, make_room(seed))


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_scene(tmp_path):
    assert_survives_disk_full(_write, tmp_path / "o" / "room.npz", 1)


def test_export_program_equals_the_network(cli, eager, room_file, tmp_path):
    code, _, err = cli("export", eager, "m.pt2")
    assert code == 0, err
    program = torch.export.load(tmp_path / "m.pt2").module()
    model = load_detector(eager)
    points = torch.rand(1, 1024, 4) * 3
    with torch.no_grad():
        output = model(points)
        scores, boxes = program(points)
    torch.testing.assert_close(scores, output.logits[-1].sigmoid(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(boxes, output.boxes[-1], atol=1e-5, rtol=1e-5)
    dense = built(small_config("tiny_votenet"))
    save_checkpoint(tmp_path / "d.pt", {"config": dense.config.to_dict(), "state_dict": dense.state_dict()})
    code, _, err = cli("export", "d.pt", "d.pt2")
    assert (code, "only sparse detectors" in err) == (2, True)


@pytest.mark.slow
def test_export_onnx_equals_the_refinement(cli, eager, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module)
    import onnxruntime

    code, _, err = cli("export", eager, "m.onnx")
    assert code == 0, err
    head, config = load_detector(eager).heads[0], load_detector(eager).config
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    for batch in (1, 3):
        feats, position = torch.rand(batch, 12, 16), torch.rand(batch, 12, 8)
        pooled = [torch.rand(batch, 12, side**3, 16) for side in config.grids]
        with torch.no_grad():
            wanted = head(feats, pooled, position)
        names = ["feats", "position", *(f"pooled{side}" for side in config.grids)]
        found = session.run(
            None, {n: v.numpy() for n, v in zip(names, (feats, position, *pooled), strict=True)}
        )
        for ours, theirs in zip(wanted, found, strict=True):
            assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-4


def test_real_scan(cli, eager, tmp_path):
    folder = sample_data("scannet")
    points = np.fromfile(folder / "scene0000_00.bin", np.float32).reshape(-1, 6)
    fields = {c: points[:, 3 + k].astype(np.uint8) for k, c in enumerate(("red", "green", "blue"))}
    write_points(tmp_path / "scan.ply", PointCloud(points[:, :3].copy(), fields))
    code, _, err = cli("predict", "scan.ply", eager, "--align", "auto", "--min_score", "0.01")
    assert (code, err) == (0, "")
    document = json.loads((tmp_path / "predictions/scan.json").read_text())
    assert np.asarray(document["align"]).shape == (4, 4)
    middle = np.median(points[:, :3], 0)
    assert np.abs(np.asarray(document["boxes"])[:, :3] - middle).max() < 30


@pytest.mark.slow
def test_the_examples_run(cli, room_file, tmp_path):
    for module in ("onnx", "onnxscript"):
        require(module)
    shutil.copy(room_file, tmp_path)
    (tmp_path / "raw/scannet").mkdir(parents=True)
    raw_trees.scannet(tmp_path / "raw/scannet")
    shutil.copy(tmp_path / "raw/scannet/scannetv2_train.txt", tmp_path / "raw/scannet/scannetv2_val.txt")
    small = "--config rooms trainer.max_epochs=1 data.generate=[16,4]"
    left_out = r"config (scannet|custom)|raw/(sunrgbd|s3dis|matterport)|my_scenes"
    replace = {"--config rooms": small, "max_epochs=20": "max_epochs=3", "--split val": ""}
    assert_examples_run(cli, app, leave_out=left_out, replace=replace)


class TestReliability(PackageReliability):
    app = "sparsepoint.cli:app"

    @pytest.fixture
    def prediction(self, eager, room_file):
        words = ("predict", room_file)
        return eager, lambda checkpoint, out: (*words, checkpoint, "--min_score", "0.01", "--out", out)


def recipes():
    return sorted(app.config_folder().glob("*.yaml"))


def config_of(recipe):
    model = recipe["model"]
    named = model["labels"] if "/" not in model["labels"] else "scannet"
    return make_config(model["preset"], named, **model.get("overrides", {}))


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_recipes_name_real_settings(path):
    """Of the network, which is built where it is small, of the task and of the data."""
    from sparsepoint.task import DetectionTask, IndoorData

    recipe = yaml.safe_load(path.read_text())
    config = config_of(recipe)
    assert set(recipe["model"]) <= set(inspect.signature(DetectionTask).parameters)
    data = IndoorData(**recipe["data"])
    assert data.batch_size == recipe["data"]["batch_size"]
    assert recipe["trainer"]["default_root_dir"] == f"runs/{path.stem}"
    built(replace(config, width=0.25, ffn=8))


def test_ablations_differ_from_their_recipe_in_one_setting():
    found = {}
    for path in recipes():
        if not path.stem.startswith("ablation_"):
            continue
        recipe = yaml.safe_load(path.read_text())
        base = yaml.safe_load(path.with_name(f"{recipe['model']['labels']}.yaml").read_text())
        own, usual = config_of(recipe).to_dict(), config_of(base).to_dict()
        (name,) = {key for key in own if own[key] != usual[key]}
        found.setdefault(name, set()).add(str(own[name]))
        del recipe["model"]["overrides"], recipe["trainer"]["default_root_dir"]
        del base["trainer"]["default_root_dir"]
        assert recipe == base
    # Every row of the ablations, beside what the recipes have themselves.
    assert found["num_stages"] == set("12345")
    assert found["num_proposals"] == {"32", "64", "256"}
    assert found["box_coder"] == {"classres", "direct"}
    assert found["feature_source"] == {"votes", "seeds+votes"}
    assert found["interaction"] == {"dynamic", "none"}
    assert found["proposals"] == {"frozen", "fps"}
    assert set(found) >= {
        *("attention", "pos", "share_stages", "foreground", "proposal_init", "assignment", "grids", "roi"),
        *("match_iou", "iou_loss", "corner_loss", "centre_axes"),
    }
