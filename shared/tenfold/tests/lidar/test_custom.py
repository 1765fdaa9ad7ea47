"""A data set of one's own: reading, what is broken, and the report of `check-data` for every layout."""

import json
import shutil

import numpy as np
import pytest

from tenfold._errors import UserInputError
from tenfold.cli import app
from tenfold.io import PointCloud, write_json, write_points
from tenfold.lidar.check import check_reader
from tenfold.lidar.clouds import read_cloud
from tenfold.lidar.custom import CustomFrames, box_problems, read_boxes, write_boxes
from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.nuscenes import NuScenesDetection

CAR = [10.0, 2, -1, 4, 2, 1.5, 0.3]


@pytest.fixture
def own(tmp_path, write_own):
    return write_own(tmp_path / "own")


# ---- reading -----------------------------------------------------------------------------------------------


def test_frames_in_all_formats(own):
    frames = CustomFrames(own)
    assert frames.ids == ("frame.0", "frame.1", "frame.2", "frame.3")
    for k in range(4):
        frame = frames[k]
        assert frame.points.shape == (380 + 10 * (k % 2), 4)
        assert frame.points.dtype == np.float32
        np.testing.assert_allclose(frame.objects.boxes[0], np.add(CAR, [k, -k, 0, 0, 0, 0, 0.4 * k]))
        assert frame.objects.names == ("Car", "Pedestrian")[: 1 + k % 2]
    assert len(CustomFrames(own, "val")) == 2
    assert frames.classes_of_frames()[1] == ["Car", "Pedestrian"]
    assert CustomFrames(own, labels=False)[0].objects is None


def test_velocities(tmp_path, write_own):
    frames = CustomFrames(write_own(tmp_path / "moving", velocity=True))
    assert frames[1].objects.boxes.shape == (2, 9)


def test_a_frame_without_objects(own):
    write_boxes(own / "boxes/frame.0.json", [], np.zeros((0, 7)))
    frame = CustomFrames(own)[0]
    assert frame.objects.boxes.shape == (0, 7)


def test_settings_of_the_data_set(own):
    write_json(own / "dataset.json", {"features": [], "intensity_scale": 1.0})
    assert CustomFrames(own)[0].points.shape[1] == 3
    points = np.arange(24, dtype="<f4").reshape(4, 6)
    points.tofile(own / "clouds/frame.0.bin")
    write_json(
        own / "dataset.json",
        {
            "columns": ["t", "x", "y", "z", "intensity", "ring"],
            "features": ["intensity", "t"],
            "intensity_scale": 0.5,
        },
    )
    expected = points[:, [1, 2, 3, 4, 0]] * [1, 1, 1, 0.5, 1]
    np.testing.assert_array_equal(CustomFrames(own)[0].points, expected)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"feature": []}, "feature: unknown"),
        ([], "document: unknown"),
        ({"features": "intensity"}, "features: got 'intensity'"),
        ({"columns": ["a", "b"]}, "with x, y and z"),
        ({"columns": ["x", "y", "z", "x"]}, "distinct names"),
        ({"intensity_scale": "1"}, "intensity_scale"),
    ],
)
def test_wrong_settings_are_named(own, document, message):
    write_json(own / "dataset.json", document)
    with pytest.raises(UserInputError, match=message) as error:
        CustomFrames(own)
    assert "dataset.json" in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "splits/train.txt").unlink(), "list of frames of split 'train' is missing"),
        (lambda root: (root / "splits/train.txt").write_text("frame.0 frame.0"), "stands there twice"),
        (lambda root: (root / "splits/train.txt").write_text("../x"), "no name of a file"),
        (lambda root: (root / "splits/train.txt").write_text("other"), "no cloud of this name"),
        (lambda root: (root / "splits/train.txt").write_bytes(b"\xff"), "cannot be read as text"),
        (
            lambda root: shutil.copy(root / "clouds/frame.0.bin", root / "clouds/frame.0.npy"),
            "2 clouds of this name",
        ),
        (lambda root: (root / "boxes/frame.1.json").unlink(), "file of boxes is missing"),
    ],
)
def test_broken_layouts_are_named(own, damage, message):
    damage(own)
    with pytest.raises(UserInputError, match=message):
        CustomFrames(own)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "document: got list"),
        ({"boxes": []}, "names: missing"),
        ({"names": ["a"], "boxes": []}, "got 1 and 0"),
        ({"names": ["a", "b"], "boxes": [CAR, [*CAR, 1.0, 2.0]]}, r"rows of \[7, 9\]"),
        ({"names": ["a"], "boxes": [CAR[:6]]}, r"boxes\[0\]: expected a list of 7"),
        ({"names": ["a"], "boxes": ["x"]}, r"boxes\[0\]"),
        ({"names": [""], "boxes": [CAR]}, r"names\[0\]"),
        ({"names": ["a"], "boxes": [[*CAR[:6], None]]}, "something else than numbers"),
        ({"names": ["a"], "boxes": [[*CAR[:6], float("nan")]]}, "NaN or infinity"),
        ({"names": ["a"], "boxes": [[*CAR[:3], 0, 2, 2, 0]]}, "an extent of 0 or less"),
    ],
)
def test_wrong_boxes_are_named(tmp_path, document, message):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UserInputError, match=message) as error:
        read_boxes(file)
    assert "a.json" in str(error.value)


def test_all_problems_of_a_file_are_listed():
    bad = [[*CAR[:6], float("nan")], CAR, [*CAR[:3], 0, 2, 2, 0]]
    assert len(box_problems({"names": ["a", "b", ""], "boxes": bad})) == 3
    with pytest.raises(ValueError, match="extent"):
        write_boxes("never.json", ["a"], np.zeros((1, 7)))


def test_predictions_are_labels(own):
    document = {"boxes": [CAR], "names": ["Car"], "scores": [0.9], "labels": [0], "columns": [], "points": 3}
    write_json(own / "boxes/frame.0.json", document)
    assert CustomFrames(own)[0].objects.names == ("Car",)


def test_clouds_with_named_features(tmp_path, capsys):
    xyz = np.ones((3, 3), np.float32)
    write_points(tmp_path / "a.ply", PointCloud(xyz, {"time": np.full(3, 0.25, np.float32)}))
    points = read_cloud(tmp_path / "a.ply", ("intensity", "time"))
    np.testing.assert_array_equal(points[:, 3:], [[0, 0.25]] * 3)
    assert "has no intensity" in capsys.readouterr().err
    with pytest.raises(UserInputError, match=r"ring: no such column \(beside x, y, z there is time\)"):
        read_cloud(tmp_path / "a.ply", ("ring",))


# ---- check-data --------------------------------------------------------------------------------------------


def test_report_of_a_sound_data_set(own):
    report = check_reader(CustomFrames(own), (0, -40, -3, 12, 40, 1))
    facts = report.to_dict()
    assert facts["frames"] == facts["readable"] == 4
    assert facts["points"] == (380, 385, 390)
    assert facts["classes"]["Car"]["boxes"] == 4
    assert facts["classes"]["Car"]["outside_range"] == 1  # the one at x = 13
    assert facts["classes"]["Car"]["points"][1] >= 78
    assert facts["classes"]["Pedestrian"] == {
        "boxes": 2,
        "without_points": 0,
        "outside_range": 2,
        "points": facts["classes"]["Pedestrian"]["points"],
        "mean_size": [0.8, 0.7, 1.7],
    }
    assert facts["problems"] == []
    text = str(report)
    assert "4 of 4 frames can be read" in text
    assert "problems: 0" in text


def test_report_counts_what_is_wrong(own, tmp_path, capsys, monkeypatch):
    (own / "splits/train.txt").write_text("frame.0 frame.1 frame.2 frame.3 frame.3 lost")
    (own / "clouds/frame.0.bin").write_bytes(b"12345")
    bad = {"names": ["Car", "Car"], "boxes": [[*CAR[:6], float("nan")], [*CAR[:3], 0, 1, 1, 0]]}
    (own / "boxes/frame.1.json").write_text(json.dumps(bad))
    write_boxes(own / "boxes/frame.2.json", ["Car"], np.array([[90.0, 90, 0, 4, 2, 1.5, 0]]))
    write_boxes(own / "boxes/frame.3.json", [], np.zeros((0, 7)))
    write_points(own / "clouds/frame.3.pcd", PointCloud(np.zeros((0, 3), np.float32)))
    monkeypatch.chdir(tmp_path)
    assert app(["lidar", "check-data", str(own), "--out", "r.json", "--range", "[0,-40,-3,70,40,1]"]) == 2
    out, err = capsys.readouterr()
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["readable"] == 2
    assert len(facts["problems"]) == 4
    assert sum("NaN" in p for p in facts["problems"]) == 1
    assert sum("extent of 0" in p for p in facts["problems"]) == 1
    assert sum("lost" in p for p in facts["problems"]) == 1
    assert facts["duplicates"] == ["frame.3"]
    assert facts["empty_frames"] == facts["frames_without_objects"] == ["frame.3"]
    assert facts["classes"]["Car"]["without_points"] == facts["classes"]["Car"]["outside_range"] == 1
    assert "IDs listed twice: 1 (frame.3)" in out
    assert "5 problems; see the report" in err


def test_report_of_frames_without_a_point(own):
    (own / "splits/train.txt").write_text("frame.3")
    write_points(own / "clouds/frame.3.pcd", PointCloud(np.zeros((0, 3), np.float32)))
    text = str(check_reader(CustomFrames(own)))
    assert "points a frame: 0 to 0, median 0\n" in text
    assert "extent" not in text


def test_report_of_kitti_and_nuscenes(small_kitti, small_nuscenes, tmp_path):
    report = check_reader(
        KittiObject(small_kitti, "train", image_size=(375, 1242)), (0, -40, -3, 70.4, 40, 1)
    )
    assert report.to_dict()["classes"]["Car"]["boxes"] > 10
    assert report.problems == []
    shutil.copytree(small_nuscenes, tmp_path / "data")
    frames = NuScenesDetection(tmp_path / "data", "v1.0-mini", "mini_train", sweeps=3, bad_sweeps="skip")
    (tmp_path / "data" / str(frames.index.sweep_file[frames.index.sweeps(1)][1])).unlink()
    report = check_reader(frames)
    assert len(report.skipped) == 1
    assert len(report.points) == 6
    assert "sweeps left out: 1" in str(report)


def test_check_data_of_nuscenes_by_the_command_line(small_nuscenes, capsys):
    words = ["lidar", "check-data", str(small_nuscenes), "--dataset", "nuscenes", "--version", "v1.0-mini"]
    assert app([*words, "--split", "mini_val", "--sweeps", "2"]) == 0
    assert "3 of 3 frames can be read" in capsys.readouterr().out
    assert app([*words, "--split", "odd"]) == 2
