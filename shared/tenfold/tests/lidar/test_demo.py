import json
import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lightning.pytorch")

from tenfold.geometry import rotate_boxes, rotate_z
from tenfold.io import read_json
from tenfold.lidar import demo
from tenfold.lidar.kitti import count_points
from tenfold.testing import sample_data

pytestmark = pytest.mark.filterwarnings("ignore")
LIMITS = (0.0, -25.6, -3.0, 51.2, 25.6, 1.0)


@pytest.fixture
def short(monkeypatch):
    """The demo with a few frames and two steps, and without real frames."""
    monkeypatch.setattr(demo, "_FRAMES", (3, 2))
    monkeypatch.delenv("TENFOLD_TEST_DATA", raising=False)


def test_the_card_and_its_files(short, tmp_path, capsys):
    demo.demo(tmp_path / "out", minutes=2 / demo._STEPS_PER_MINUTE, threads=1)
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert document["columns"][0] == "network"
    assert [row[0] for row in document["rows"]] == ["untrained network", "after 2 steps"]
    assert f"{document['rows'][0][2]:.1f}" in document["control"]
    assert f"{document['rows'][1][2]:.1f}" in document["number"]
    for words in ("untrained network", "after 2 steps", "3 frames to train on, 2 unseen", "pictures:"):
        assert words in printed
    assert document["pictures"] == ["simulated_0.png", "simulated_1.png"]
    for name in document["pictures"]:
        assert Image.open(tmp_path / "out" / name).size == (512, 512)
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


@pytest.mark.slow  # the first card again; that each detector has its recipe says the next test
@pytest.mark.parametrize("detector", ["pointpillars", "pointrcnn"])
def test_the_card_of_another_detector(short, tmp_path, detector):
    result = demo.run_demo(tmp_path, minutes=2 / demo._STEPS_PER_MINUTE, detector=detector)
    assert demo.DETECTORS[detector] in result.claim
    assert [path.name for path in result.pictures] == ["simulated_0.png", "simulated_1.png"]


def test_every_detector_has_a_narrow_recipe():
    from tenfold.lidar import build_detector

    for detector in demo.DETECTORS:
        model = build_detector(detector, **demo.small_overrides(detector))
        assert model.class_names == ("Car",)
        assert sum(p.numel() for p in model.parameters()) < 1_500_000


def test_found_objects_by_hand():
    car = np.array([[10, 0, -1, 4, 2, 1.5, 0.0]], np.float32)
    near, far = car.copy(), car.copy()
    near[0, 0] += 1.3  # overlap 2.7 / 5.3 of the footprint
    far[0, 0] += 1.4  # 2.6 / 5.4
    assert demo.found_objects(car, near) == 1
    assert demo.found_objects(car, far) == 0
    assert demo.found_objects(np.concatenate((car, car + 20)), np.concatenate((near, far))) == 1
    assert demo.found_objects(car, car[:0]) == demo.found_objects(car[:0], car) == 0


def test_looking_around_sees_each_quarter_once(monkeypatch):
    """A detector that reports a box on every point, in its own forward frame."""
    points = np.array([[10, 1, 0, 0], [-1, 10, 0, 0], [-10, -1, 0, 0], [1, -10, 0, 0]], np.float32)

    def finds_all(model, cloud):
        boxes = np.zeros((len(cloud), 7), np.float32)
        boxes[:, :3], boxes[:, 3:6] = cloud[:, :3], 1
        return {"boxes": boxes, "scores": np.ones(len(cloud)), "labels": np.zeros(len(cloud), int)}

    monkeypatch.setattr(demo, "detect", finds_all)
    looks = tuple(k * np.pi / 2 for k in range(4))
    found = demo.detect_around(None, points, looks)
    np.testing.assert_allclose(found["boxes"][:, :3], points[:, :3], atol=1e-5)
    np.testing.assert_allclose(np.cos(found["boxes"][:, 6] - looks), 1, atol=1e-6)


def test_real_frames():
    data = sample_data()
    frames = {frame.name: frame for frame in demo.real_frames(LIMITS, data)}
    assert set(frames) == {"KITTI 000002", "nuScenes"}
    kitti = frames["KITTI 000002"]
    assert len(kitti.boxes) == 1
    assert kitti.image.shape[2] == 3
    homogeneous = np.append(kitti.boxes[0, :3], 1) @ kitti.projection.T
    u, v = homogeneous[:2] / homogeneous[2]
    assert 657 < u < 701  # inside the labelled 2-D box
    assert 190 < v < 224
    nuscenes = frames["nuScenes"]
    sample = read_json(data / "nuscenes" / "sample.json")["data_list"][0]
    rows = [i for i in sample["instances"] if i["bbox_label_3d"] == 0 and i["num_lidar_pts"] >= 20]
    boxes = rotate_boxes(np.array([i["bbox_3d"] for i in rows]), -np.pi / 2)
    counts = count_points(nuscenes.points, boxes)
    # The labels were made from more points than the key frame's borders hold.
    np.testing.assert_allclose(counts, [i["num_lidar_pts"] for i in rows], rtol=0.2, atol=3)
    assert 0 < len(nuscenes.boxes) <= len(sample["instances"])
    assert nuscenes.points[:, 3].max() <= 1
    ahead = rotate_z(np.array([[0.0, 1, 0]]), -np.pi / 2)
    np.testing.assert_allclose(ahead, [[1, 0, 0]], atol=1e-12)


def test_no_real_frames_without_the_data(monkeypatch, tmp_path):
    monkeypatch.delenv("TENFOLD_TEST_DATA", raising=False)
    assert demo.real_frames(LIMITS) == []
    assert demo.real_frames(LIMITS, tmp_path) == []
    monkeypatch.setenv("TENFOLD_TEST_DATA", os.fspath(tmp_path))
    assert demo.real_frames(LIMITS) == []


@pytest.mark.slow
def test_a_minute_s_steps_beat_the_untrained_network(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "_FRAMES", (40, 20))
    monkeypatch.delenv("TENFOLD_TEST_DATA", raising=False)
    result = demo.run_demo(tmp_path, minutes=1)
    (_, _, untrained, _), (_, _, trained, _) = result.rows
    assert untrained < 1
    assert trained > untrained + 10
