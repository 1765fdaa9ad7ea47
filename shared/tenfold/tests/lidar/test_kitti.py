import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold._errors import UserInputError
from tenfold.geometry import Calibration, boxes_to_kitti, points_to_box_frame, project_boxes
from tenfold.lidar.kitti import (
    KittiLabels,
    KittiObject,
    count_points,
    kitti_difficulty,
    png_size,
    read_calibration,
    read_labels,
    read_plane,
    read_velodyne,
    write_calibration,
    write_labels,
)
from tenfold.lidar.simulator import (
    SECTOR_32,
    Ground,
    Scene,
    kitti_labels,
    make_object,
    sample_scene,
    scan,
    simulate_kitti,
    view_objects,
    write_kitti,
)
from tenfold.testing import child_environment, sample_data

SIZE = (94, 310)
LABEL = "Car 0.00 0 -1.67 657.39 190.13 700.07 223.39 1.41 1.58 4.36 3.18 2.27 34.38 -1.58"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("kitti")
    splits = simulate_kitti(root, (2, 1), seed=1, sensor=SECTOR_32, image_size=SIZE, planes=True)
    return root, splits


@pytest.fixture(scope="module")
def whole_frame(tmp_path_factory):
    root = tmp_path_factory.mktemp("frame")
    write_kitti(root, [sample_scene(0)], sensor=SECTOR_32, image_size=SIZE, images=False)
    return root


@pytest.fixture
def one_frame(whole_frame, tmp_path):
    """A small frame of our own that tests may break."""
    return Path(shutil.copytree(whole_frame, tmp_path, dirs_exist_ok=True))


def frame_of(root, **settings):
    return KittiObject(root, "train", image_size=SIZE, **settings)[0]


def test_real_frames():
    root = sample_data("kitti")
    data = KittiObject(root, ids=["000000", "000001", "000002"], with_image=True)
    assert len(data) == 3
    names = [("Pedestrian",), ("Truck", "Car", "Cyclist"), ("Misc", "Car")]
    for frame, expected in zip(data, names, strict=True):
        assert frame.labels.names == expected
        assert 17_000 < len(frame.points) < 21_000  # the camera's share of about 120,000 points
        assert frame.image.shape[:2] == frame.image_size
        everything = KittiObject(root, ids=[frame.frame_id], fov_only=False)[0]
        assert 110_000 < len(everything.points) < 130_000
    assert len(data[1].dont_care) == 4
    # Height, truncation, occlusion of the labels by hand: 164.9 px; 33.9 px; 22.6 px; occlusion 3.
    assert data[0].labels.difficulty.tolist() == [0]
    assert data[1].labels.difficulty.tolist() == [1, -1, -1]
    info = data.info(2)
    assert info["num_points"][0] > 1000
    assert info["names"] == ("Misc", "Car")


def test_real_labels_round_trip():
    folder = sample_data("kitti", "training")
    calibration = read_calibration(folder / "calib/000001.txt")
    labels = read_labels(folder / "label_2/000001.txt", calibration)
    lines = (folder / "label_2/000001.txt").read_text().splitlines()
    fields = np.array([x.split()[8:15] for x in lines], dtype=float)
    objects = labels.is_object
    np.testing.assert_allclose(boxes_to_kitti(labels.boxes, calibration)[objects], fields[objects], atol=1e-4)


def test_fov_filter_agrees_with_the_projection_written_out():
    frame = KittiObject(sample_data("kitti"), ids=["000001"])[0]
    everything = read_velodyne(sample_data("kitti", "training", "velodyne", "000001.bin"))
    c = frame.calibration
    homogeneous = np.hstack((everything[:, :3], np.ones((len(everything), 1)))).astype(np.float64)
    rect = homogeneous @ c.velo_to_cam.T @ c.r0.T
    image = np.hstack((rect, np.ones((len(rect), 1)))) @ c.p2.T
    uv = image[:, :2] / rect[:, 2:]
    h, w = frame.image_size
    kept = (uv >= 0).all(1) & (uv[:, 0] < w) & (uv[:, 1] < h) & (rect[:, 2] >= 0)
    # float32 rounding may move a point across the border.
    assert abs(int(kept.sum()) - len(frame.points)) <= 2


def test_simulated_data_comes_back_through_the_reader(simulated):
    root, splits = simulated
    assert {k: len(v) for k, v in splits.items()} == {"train": 2, "val": 1, "trainval": 3}
    data = KittiObject(root, "train", fov_only=False, with_image=True, with_plane=True)
    for k, frame in enumerate(data):
        scene = sample_scene(1000003 + k)
        truth = scan(scene, SECTOR_32, scene.seed)
        np.testing.assert_array_equal(frame.points, truth.points)
        view = view_objects(scene, Calibration.kitti_like(SIZE), SIZE, step=1)
        expected = kitti_labels(truth, view)
        assert frame.labels.names == tuple(n for n in expected.names if n != "DontCare")
        mine = expected.select(expected.is_object)
        np.testing.assert_allclose(frame.labels.boxes[:, :6], mine.boxes[:, :6], atol=2e-4)
        turn = frame.labels.boxes[:, 6] - mine.boxes[:, 6]
        np.testing.assert_allclose(np.sin(turn), 0, atol=2e-4)
        np.testing.assert_allclose(frame.labels.boxes2d, mine.boxes2d, atol=0.006)
        np.testing.assert_array_equal(frame.labels.occlusion, mine.occlusion)
        assert frame.image.shape == (*SIZE, 3)


def test_what_only_the_camera_sees_is_a_dont_care_region(tmp_path):
    def car(x, y):
        return make_object("Car", np.array([x, y, -0.95, 4, 1.6, 1.5, 0]))

    short_sighted = replace(SECTOR_32, max_range=20.0)
    wall = make_object("wall", np.array([9.0, -8, 0, 0.5, 6, 6, 0]))
    hidden_behind_the_wall, behind_the_camera = car(12, -10.5), car(-12, 3)
    scene = Scene((car(12, 1), car(35, 4), wall, hidden_behind_the_wall, behind_the_camera), Ground())
    write_kitti(tmp_path, [scene], sensor=short_sighted, image_size=(375, 1242), images=False)
    lines = (tmp_path / "training/label_2/000000.txt").read_text().splitlines()
    assert [x.split()[0] for x in lines] == ["Car", "DontCare"]
    words = lines[1].split()
    assert [float(w) for w in words[1:4]] == [-1, -1, -10]
    assert [float(w) for w in words[8:]] == [-1, -1, -1, -1000, -1000, -1000, -10]
    frame = KittiObject(tmp_path, image_size=(375, 1242))[0]
    assert frame.labels.names == ("Car",)
    far, _ = project_boxes(scene.boxes[1:2].astype(float), frame.calibration, (375, 1242))
    np.testing.assert_allclose(frame.dont_care, far, atol=0.01)


def test_labelled_objects_hold_points(simulated):
    root, _ = simulated
    data = KittiObject(root, "trainval", fov_only=False)
    for index in range(len(data)):
        frame = data[index]
        # Enlarged by the range noise: a single point may have been pushed out of the exact box.
        grown = frame.labels.boxes.copy()
        grown[:, 3:6] += 0.25
        assert (count_points(frame.points, grown) > 0).all()
        assert len(data.info(index)["num_points"]) == len(frame.labels)


def test_planes_run_through_the_ground(simulated):
    root, _ = simulated
    frame = KittiObject(root, "val", with_plane=True)[0]
    assert frame.plane[1] < -0.99
    rect = frame.calibration.lidar_to_rect(frame.points[:, :3].astype(float))
    height = rect @ frame.plane[:3] + frame.plane[3]
    assert abs(np.median(height[height < 0.3])) < 0.15


def test_the_same_seed_writes_the_same_files(tmp_path):
    for name in ("a", "b"):
        simulate_kitti(tmp_path / name, 1, seed=3, sensor=SECTOR_32, image_size=SIZE)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 4 + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_test_split_has_no_labels(tmp_path):
    write_kitti(tmp_path, [sample_scene(0)], "test", sensor=SECTOR_32, image_size=SIZE)
    assert not (tmp_path / "testing/label_2").exists()
    frame = KittiObject(tmp_path, "test")[0]
    assert frame.labels is None
    assert "boxes" not in KittiObject(tmp_path, "test").info(0)


def test_datasets_and_frames_pickle(simulated):
    root, _ = simulated
    data = pickle.loads(pickle.dumps(KittiObject(root, "val")))
    frame = pickle.loads(pickle.dumps(data[0]))
    np.testing.assert_array_equal(frame.points, data[0].points)


def test_results_round_trip_with_scores_and_empty(tmp_path):
    calibration = Calibration.kitti_like()
    labels = KittiLabels(
        ("Car", "Cyclist"),
        np.array([-1, -1], dtype=np.float32),
        np.array([-1, -1]),
        np.array([0.5, -2], dtype=np.float32),
        np.array([[1, 2, 30, 40], [5, 6, 70, 80]], dtype=np.float32),
        np.array([[20.0, 3, -1, 4, 1.6, 1.5, 2.5], [10, -3, -0.8, 1.8, 0.6, 1.7, -1.5]]),
        np.array([0.9, 0.25], dtype=np.float32),
    )
    write_labels(tmp_path / "r.txt", labels, calibration)
    again = read_labels(tmp_path / "r.txt", calibration)
    assert again.names == labels.names
    np.testing.assert_allclose(again.boxes, labels.boxes, atol=2e-4)
    np.testing.assert_allclose(again.scores, labels.scores)
    none = labels.select(np.zeros(2, dtype=bool))
    write_labels(tmp_path / "e.txt", none, calibration)
    assert (tmp_path / "e.txt").read_bytes() == b""
    assert len(read_labels(tmp_path / "e.txt", calibration)) == 0


def test_difficulty_borders():
    height = np.array([39, 38.9, 24, 23.9, 60, 60, 60, 60, 60])
    boxes = np.stack((0 * height, 0 * height, 0 * height + 9, height), 1)
    truncation = np.array([0.15, 0, 0, 0, 0.16, 0.31, 0.51, 0, 0], dtype=np.float32)
    occlusion = np.array([0, 0, 1, 0, 0, 0, 0, 2, 3])
    # y2 - y1 + 1: a box of 39 counts as 40 pixels.
    assert kitti_difficulty(boxes, truncation, occlusion).tolist() == [0, 1, 1, -1, 1, 2, -1, 2, -1]


def test_image_size_without_decoding(tmp_path):
    Image.new("RGB", (123, 45)).save(tmp_path / "x.png")
    assert png_size(tmp_path / "x.png") == (45, 123)
    (tmp_path / "y.png").write_bytes(b"no image at all, really not")
    with pytest.raises(UserInputError, match=r"y\.png: the file is no PNG"):
        png_size(tmp_path / "y.png")


def test_calibration_keys_in_any_order_and_exact_round_trip(tmp_path):
    calibration = Calibration.kitti_like().cropped(3.25, 1.5)
    write_calibration(tmp_path / "c.txt", calibration)
    lines = (tmp_path / "c.txt").read_text().splitlines()
    (tmp_path / "d.txt").write_text("\n".join(reversed(lines)))
    again = read_calibration(tmp_path / "d.txt")
    np.testing.assert_array_equal(again.p2, calibration.p2)
    np.testing.assert_array_equal(again.velo_to_cam, calibration.velo_to_cam)


def test_empty_scan_is_a_frame_without_points(one_frame):
    (one_frame / "training/velodyne/000000.bin").write_bytes(b"")
    frame = frame_of(one_frame)
    assert frame.points.shape == (0, 4)
    assert (count_points(frame.points, frame.labels.boxes) == 0).all()


def test_broken_scans(one_frame):
    file = one_frame / "training/velodyne/000000.bin"
    data = file.read_bytes()
    file.write_bytes(data[:-3])
    with pytest.raises(UserInputError, match=r"000000\.bin: .* \d+ bytes are no multiple of 4 columns"):
        frame_of(one_frame)
    bad = np.frombuffer(data, dtype=np.float32).reshape(-1, 4).copy()
    bad[7, 1] = np.nan
    file.write_bytes(bad.tobytes())
    with pytest.raises(UserInputError, match=r"000000\.bin: point 7 is not finite \(1 of"):
        frame_of(one_frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("Tr_velo_to_cam", "Tr_other"), "the key Tr_velo_to_cam is missing"),
        (lambda t: t.replace("R0_rect: ", "R0_rect: 1 "), "R0_rect: 10 numbers were found; 9 are expected"),
        (lambda t: t.replace("P2: ", "P2: x"), "P2: a number is expected"),
        (lambda t: t.replace("P2: 1", "P2: nan 1"), "P2: NaN or infinity"),
        (lambda t: "R0_rect:" + " 0" * 9 + "\n" + t.replace("R0_rect", "old"), "without inverse"),
    ],
    ids=["key", "count", "word", "nan", "singular"],
)
def test_broken_calibrations(one_frame, change, message):
    file = one_frame / "training/calib/000000.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserInputError, match=rf"000000\.txt: .*{message}|000000\.txt: {message}"):
        frame_of(one_frame)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LABEL + " 0.9 7", "line 1: 17 fields were found"),
        (LABEL + "\n\nCar 0.00 0", "line 3: 3 fields were found"),
        (LABEL.replace("34.38", "far"), "line 1: a number is expected"),
        (LABEL.replace("34.38", "inf"), "line 1: NaN or infinity"),
        (LABEL.replace("1.58 4.36", "0 4.36"), "line 1: h, w, l of a Car must be positive"),
        (LABEL + "\n" + LABEL + " 0.5", "some lines have a score"),
    ],
    ids=["too many", "too few", "word", "inf", "flat", "mixed"],
)
def test_broken_labels(one_frame, text, message):
    (one_frame / "training/label_2/000000.txt").write_text(text)
    with pytest.raises(UserInputError, match=rf"000000\.txt: {message}"):
        frame_of(one_frame)


def test_labels_that_are_no_text(one_frame):
    (one_frame / "training/label_2/000000.txt").write_bytes(b"\xff\xfe\x00Car")
    with pytest.raises(UserInputError, match="cannot be read as text"):
        frame_of(one_frame)


@pytest.mark.parametrize("kind", ["velodyne", "calib", "label_2"])
def test_missing_files_are_found_at_once(one_frame, kind):
    next((one_frame / "training" / kind).iterdir()).unlink()
    with pytest.raises(UserInputError, match=rf"the {kind} file is missing \(1 of 1"):
        frame_of(one_frame)


def test_missing_lists_images_and_strange_ids(one_frame):
    with pytest.raises(UserInputError, match=r"val\.txt: the list of frames of split 'val' is missing"):
        KittiObject(one_frame, "val")
    with pytest.raises(UserInputError, match="pass image_size"):
        KittiObject(one_frame, "train")[0]
    assert KittiObject(one_frame, "train", fov_only=False)[0].image_size is None
    with pytest.raises(UserInputError, match="the image_2 file is missing"):
        KittiObject(one_frame, "train", with_image=True)
    (one_frame / "ImageSets/twice.txt").write_text("000000\n000000\n")
    with pytest.raises(UserInputError, match=r"twice\.txt: frame 000000 stands there more than once"):
        KittiObject(one_frame, "twice")
    with pytest.raises(UserInputError, match="no file name"):
        KittiObject(one_frame, ids=["../../secret"])


def test_planes_are_normalised_and_checked(tmp_path):
    (tmp_path / "p.txt").write_text("# Plane\nWidth 4\nHeight 1\n0 2 0 -3.3\n")
    np.testing.assert_allclose(read_plane(tmp_path / "p.txt"), [0, -1, 0, 1.65])
    (tmp_path / "q.txt").write_text("0 1 0 -1.65\n")
    with pytest.raises(UserInputError, match="1 lines"):
        read_plane(tmp_path / "q.txt")
    (tmp_path / "r.txt").write_text("a\nb\nc\n0 0 0 1\n")
    with pytest.raises(UserInputError, match="four numbers of a plane"):
        read_plane(tmp_path / "r.txt")


def test_points_are_counted_as_the_corners_say():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (4000, 4)).astype(np.float32)
    box = np.array([0.5, -0.5, 0.2, 4.0, 2.0, 1.5, 0.8])
    local = np.abs(points_to_box_frame(points[:, :3].astype(float), box))
    assert count_points(points, box[None])[0] == (local <= box[3:6] / 2).all(1).sum() > 20
    assert count_points(points, np.zeros((0, 7))).shape == (0,)


def test_the_folder_itself_loads_nothing_heavy():
    code = "import sys, tenfold.lidar; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment())
