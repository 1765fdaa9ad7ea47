"""nuScenes: tables, sweeps, boxes, velocities, submissions; what is broken and what is skipped."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tenfold._errors import UserInputError
from tenfold.eval.nuscenes import CLASSES, nuscenes_eval, read_submission, write_submission
from tenfold.geometry import boxes_from_nuscenes, transform_boxes
from tenfold.io import read_point_array
from tenfold.lidar.frames import Resampled, balanced_indices
from tenfold.lidar.kitti import count_points
from tenfold.lidar.nuscenes import (
    CLASS_OF,
    LIDAR,
    RACK,
    TABLES,
    FrameIndex,
    NuScenesDetection,
    NuScenesTables,
    SkippedSweepWarning,
    attribute_of,
    build_index,
    detections_to_nuscenes,
    index_path,
    pose_matrix,
    scene_split,
)
from tenfold.testing.data import sample_data

VERSION = "v1.0-mini"


def opened(root, split="mini_train", **options):
    return NuScenesDetection(root, VERSION, split, sweeps=options.pop("sweeps", 3), **options)


@pytest.fixture
def copy(small_nuscenes, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(small_nuscenes, tmp_path / "data")
    return tmp_path / "data"


def change(root, table, edit):
    """Edits the records of one table."""
    file = root / VERSION / f"{table}.json"
    records = json.loads(file.read_text())
    edit(records)
    file.write_text(json.dumps(records))


def table(root, name):
    return {record["token"]: record for record in json.loads((root / VERSION / f"{name}.json").read_text())}


# ---- reading -----------------------------------------------------------------------------------------------


def test_frames_of_the_splits(small_nuscenes):
    train, val = opened(small_nuscenes), opened(small_nuscenes, "mini_val")
    assert (len(train), len(val)) == (6, 3)
    frame = train[2]
    assert frame.points.dtype == np.float32
    assert frame.points.shape[1] == 5
    assert frame.objects.boxes.shape == (len(frame.objects), 9)
    assert set(frame.objects.names) <= set(CLASSES)
    assert len({frame.scene for frame in (train[k] for k in range(6))}) == 2
    assert frame.points[:, 3].max() > 50  # 0 to 255
    assert sorted({round(float(v), 3) for v in frame.points[:, 4]}) == [0.0, 0.167, 0.333]


def test_both_layouts_read_alike(small_nuscenes, tmp_path):
    nested = tmp_path / VERSION
    shutil.copytree(small_nuscenes, nested)
    ours, theirs = opened(small_nuscenes)[1], opened(tmp_path)[1]
    np.testing.assert_array_equal(ours.points, theirs.points)
    assert ours.frame_id == theirs.frame_id


def test_sweeps_equal_a_restatement_step_by_step(small_nuscenes):
    """sensor -> car -> world -> car of the key frame -> its sensor, one rotation and shift at a time."""
    data, poses, sensors = (
        table(small_nuscenes, n) for n in ("sample_data", "ego_pose", "calibrated_sensor")
    )
    frames = opened(small_nuscenes)
    for index in (1, 5):
        frame = frames[index]
        key = next(r for r in data.values() if r["sample_token"] == frame.frame_id and r["is_key_frame"])
        record, parts = key, []
        for number in range(3):
            raw = np.fromfile(small_nuscenes / record["filename"], "<f4").reshape(-1, 5).astype(np.float64)
            if number:
                raw = raw[~((np.abs(raw[:, 0]) < 1) & (np.abs(raw[:, 1]) < 1))]
            xyz = raw[:, :3]
            for source, word in ((sensors, "calibrated_sensor_token"), (poses, "ego_pose_token")):
                pose = source[record[word]]
                w, *rest = pose["rotation"]
                xyz = Rotation.from_quat([*rest, w]).apply(xyz) + pose["translation"]
            for source, word in ((poses, "ego_pose_token"), (sensors, "calibrated_sensor_token")):
                pose = source[key[word]]
                w, *rest = pose["rotation"]
                xyz = Rotation.from_quat([*rest, w]).inv().apply(xyz - np.array(pose["translation"]))
            lag = (key["timestamp"] - record["timestamp"]) * 1e-6
            parts.append(np.column_stack((xyz, raw[:, 3], np.full(len(xyz), lag))))
            record = data[record["prev"]]
        np.testing.assert_allclose(frame.points, np.concatenate(parts), atol=2e-5)


def test_static_things_stay_where_they_are(small_nuscenes):
    """Without compensation the walls of an earlier sweep would lie metres away."""
    frame = opened(small_nuscenes)[2]
    high = frame.points[frame.points[:, 2] > 0.3]  # walls, poles and trees, no road
    now, before = high[high[:, 4] == 0, :3], high[high[:, 4] > 0.3, :3]
    from scipy.spatial import cKDTree

    near = cKDTree(now).query(before)[0]
    assert np.median(near) < 0.5
    moved = cKDTree(now).query(before + np.array([3.0, 0, 0]))[0]
    assert np.median(moved) > 2 * np.median(near)


def test_the_oldest_sweep_of_a_scene_is_repeated(small_nuscenes):
    frames = opened(small_nuscenes, sweeps=4)
    first = frames[0]
    assert set(first.points[:, 4]) == {0.0}
    rows = frames.index.sweeps(0)
    assert len(set(frames.index.sweep_file[rows])) == 1
    key = read_point_array(small_nuscenes / str(frames.index.sweep_file[rows][0]), 5)
    outside = (np.abs(key[:, :2]) >= 1).any(axis=1).sum()
    assert len(first.points) == len(key) + 3 * outside
    later = frames[1]
    assert len({round(float(v), 3) for v in later.points[:, 4]}) == 4


def test_close_points_go_from_earlier_sweeps_only(copy):
    frames = opened(copy)
    names = frames.index.sweep_file[frames.index.sweeps(1)]
    mark = 999  # an intensity that no sensor gives
    close = np.array([[0.5, -0.9, 0.1, mark, 0], [0.5, 1.5, 0.1, mark, 0]], "<f4")
    for name in names:
        with (copy / str(name)).open("ab") as file:
            file.write(close.tobytes())
    points = frames[1].points
    marked = points[points[:, 3] == mark]
    assert [int(np.isclose(marked[:, 4], lag, atol=1e-3).sum()) for lag in (0, 1 / 6, 1 / 3)] == [2, 1, 1]


def test_boxes_hold_their_points(small_nuscenes):
    frames = opened(small_nuscenes, sweeps=1)
    for k in range(len(frames)):
        frame, rows = frames[k], frames.index.boxes(k)
        usable = frames.index.box_lidar_points[rows] > 0
        counted = count_points(frame.points, frame.objects.boxes[:, :7])
        stated = frames.index.box_lidar_points[rows][usable]
        # Noise along the ray puts a few returns outside.
        assert counted.sum() > 0.85 * stated.sum()
    assert len(frames.index.box_name) > 60


def test_velocities_equal_what_the_scene_does(small_nuscenes):
    annotations, samples = table(small_nuscenes, "sample_annotation"), table(small_nuscenes, "sample")
    index = opened(small_nuscenes).index
    checked = unknown = 0
    for k, token in enumerate(index.tokens):
        mine = [a for a in annotations.values() if a["sample_token"] == token]
        for row, a in zip(range(index.boxes(k).start, index.boxes(k).stop), mine, strict=True):
            ends = [annotations[a[side]] if a[side] else a for side in ("prev", "next")]
            if ends[0] is ends[1]:
                assert np.isnan(index.box_velocity[row]).all()
                unknown += 1
                continue
            seconds = np.diff([samples[e["sample_token"]]["timestamp"] for e in ends])[0] * 1e-6
            expected = np.subtract(ends[1]["translation"], ends[0]["translation"]) / seconds
            np.testing.assert_allclose(index.box_velocity[row], expected[:2], atol=1e-9)
            turned = np.linalg.inv(index.lidar_to_global[k])[:3, :3] @ expected
            np.testing.assert_allclose(index.box_lidar[row, 7:], turned[:2], atol=1e-9)
            checked += np.hypot(*expected[:2]) > 1
    assert checked > 5


def test_a_velocity_needs_a_short_gap(copy):
    def stretch(records):
        for record in records:
            record["timestamp"] *= 4  # 2 s between key frames: too long one way, and 4 s both ways

    change(copy, "sample", stretch)
    index = build_index(NuScenesTables(copy, VERSION), "mini_train", 1)
    assert np.isnan(index.box_velocity).all()
    assert (opened(copy, use_index=False)[0].objects.boxes[:, 7:] == 0).all()


def test_boxes_without_points_are_left_out_and_categories_mapped(copy):
    def empty(records):
        for record in records[::2]:
            record["num_lidar_pts"], record["num_radar_pts"] = 0, 1

    before = len(opened(copy)[0].objects)
    change(copy, "sample_annotation", empty)
    frames = opened(copy)
    rows = frames.index.boxes(0)
    without = frames.index.box_lidar_points[rows] == 0
    assert len(frames[0].objects) == (~without).sum() < before
    assert len(frames[0].sample.boxes) >= before  # the evaluation counts radar points too
    categories = {record["name"]: record["token"] for record in table(copy, "category").values()}

    def rack(records):
        records[0]["category_token"] = categories[RACK]
        records[1]["category_token"] = categories["animal"]

    change(copy, "instance", rack)
    again = opened(copy)
    assert (again.index.box_name == RACK).sum() > 0
    assert RACK not in set(again[0].objects.names)
    assert len(again.index.box_name) < len(frames.index.box_name)


def test_names():
    assert len(CLASS_OF) == 14
    assert set(CLASS_OF.values()) == set(CLASSES)
    names = [f"scene-{k:04d}" for k in range(1111)]
    assert scene_split(names, "val").sum() == 150
    assert not (scene_split(names, "val") & scene_split(names, "train")).any()
    assert scene_split(names, "mini_val").sum() == 2
    assert scene_split(names, "test").all()
    with pytest.raises(ValueError, match="split"):
        scene_split(names, "odd")


@pytest.mark.parametrize(
    ("name", "speed", "expected"),
    [
        ("car", 0.21, "vehicle.moving"),
        ("car", 0.2, "vehicle.parked"),
        ("bus", 0.0, "vehicle.stopped"),
        ("bus", 3.0, "vehicle.moving"),
        ("pedestrian", 0.1, "pedestrian.standing"),
        ("pedestrian", 1.0, "pedestrian.moving"),
        ("bicycle", 1.0, "cycle.with_rider"),
        ("motorcycle", 0.0, "cycle.without_rider"),
        ("barrier", 5.0, ""),
        ("traffic_cone", 0.0, ""),
    ],
)
def test_attributes(name, speed, expected):
    assert attribute_of(name, speed) == expected


# ---- submissions -------------------------------------------------------------------------------------------


def found_from(frame, score=0.9):
    labels = [CLASSES.index(name) for name in frame.objects.names]
    return {"boxes": frame.objects.boxes, "scores": np.full(len(labels), score), "labels": labels}


def test_ground_truth_as_detections_scores_full_marks(small_nuscenes, tmp_path):
    frames = opened(small_nuscenes, "mini_val")
    gt, det = {}, {}
    for k in range(len(frames)):
        frame = frames[k]
        gt[frame.frame_id] = frame.sample
        det[frame.frame_id] = detections_to_nuscenes(found_from(frame), CLASSES, frame.lidar_to_global)
    write_submission(tmp_path / "s.json", det)
    result = nuscenes_eval(gt, read_submission(tmp_path / "s.json"))
    shown = [name for name in CLASSES if result.curve(name).n_gt]
    assert len(shown) >= 5
    for name in shown:
        assert result.ap(name) == pytest.approx(1.0)
        for error in ("trans_err", "scale_err", "orient_err"):
            value = result.errors[name, error]
            assert np.isnan(value) or value < 1e-6
    assert result.errors["car", "vel_err"] < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-np.pi, np.pi),
    st.floats(-0.08, 0.08),
    st.floats(-0.08, 0.08),
    st.lists(
        st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(-3, 3), st.floats(-3.1, 3.1)),
        min_size=1,
        max_size=4,
    ),
)
def test_round_trip_of_rotated_boxes_through_a_tilted_pose(yaw, roll, pitch, boxes):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zyx", [yaw, pitch, roll]).as_matrix()
    matrix[:3, 3] = 411.3, 1180.9, 1.8
    rows = np.array([(x, y, z, 4.5, 1.9, 1.6, h, 3.0, -1.0) for x, y, z, h in boxes])
    found = {"boxes": rows, "scores": np.linspace(0.9, 0.1, len(rows)), "labels": np.zeros(len(rows), int)}
    there = detections_to_nuscenes(found, ["car"], matrix)
    upright = boxes_from_nuscenes(there.translation, there.size, there.rotation)
    back = transform_boxes(upright, np.linalg.inv(matrix))
    np.testing.assert_allclose(back[:, :6], rows[:, :6], atol=1e-8)
    turn = np.mod(back[:, 6] - rows[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(turn, 0, atol=1e-9)


def test_submissions_are_cut_and_ordered():
    boxes = np.tile([[1.0, 2, 0, 4, 2, 1.5, 0.3]], (620, 1))
    scores = np.random.default_rng(0).random(620)
    cut = detections_to_nuscenes(
        {"boxes": boxes, "scores": scores, "labels": np.zeros(620, int)}, ["bus"], np.eye(4)
    )
    assert len(cut) == 500
    np.testing.assert_array_equal(cut.score, np.sort(scores)[::-1][:500])
    assert (cut.velocity == 0).all()
    flat = {
        "boxes": [[1.0, 2, 0, 0, 2, 0, 0.3]],
        "scores": [0.5],
        "labels": [0],
    }  # as young detectors find them
    assert detections_to_nuscenes(flat, ["bus"], np.eye(4)).size.tolist() == [[2.0, 1e-3, 1e-3]]
    none = detections_to_nuscenes({"boxes": np.zeros((0, 7)), "scores": [], "labels": []}, ["bus"], np.eye(4))
    assert len(none) == 0


# ---- the index ---------------------------------------------------------------------------------------------


def test_the_index_stands_for_the_tables(copy):
    plain = opened(copy)
    file = index_path(copy, VERSION, "mini_train", 3)
    file.parent.mkdir()
    plain.index.save(file)
    shutil.rmtree(copy / VERSION)
    again = opened(copy)
    for k in (0, 5):
        ours, theirs = plain[k], again[k]
        np.testing.assert_array_equal(ours.points, theirs.points)
        np.testing.assert_array_equal(ours.objects.boxes, theirs.objects.boxes)
        np.testing.assert_array_equal(ours.sample.boxes.velocity, theirs.sample.boxes.velocity)
    with pytest.raises(UserInputError, match="folder of the tables is missing"):
        opened(copy, use_index=False)


@pytest.mark.parametrize("damage", ["format", "offsets", "cut"])
def test_a_damaged_index_is_named(small_nuscenes, tmp_path, damage):
    index, file = opened(small_nuscenes).index, tmp_path / "i.npz"
    index.save(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        with np.load(file) as data:
            arrays = {name: data[name] for name in data.files}
        arrays["format"] = np.array(99) if damage == "format" else arrays["format"]
        arrays["box_name"] = arrays["box_name"][:-1] if damage == "offsets" else arrays["box_name"]
        np.savez(file, **arrays)
    with pytest.raises(UserInputError, match=r"i\.npz"):
        FrameIndex.load(file)


def test_lists_of_one_s_own(copy):
    names = [record["name"] for record in table(copy, "scene").values()]
    (copy / VERSION / "splits.json").write_text(json.dumps({"mine": names[1:2], "lost": ["scene-9999"]}))
    assert len(opened(copy, "mine")) == 3
    with pytest.raises(UserInputError, match="scene-9999"):
        opened(copy, "lost")
    with pytest.raises(UserInputError, match="'odd'"):
        opened(copy, "odd")


# ---- broken data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_table_is_named(copy, name):
    (copy / VERSION / f"{name}.json").unlink()
    with pytest.raises(UserInputError, match=rf"{name}\.json: the table is missing"):
        opened(copy)


def set_field(field, value, row=0):
    def edit(records):
        records[row][field] = value

    return edit


def drop_field(field):
    def edit(records):
        del records[0][field]

    return edit


BROKEN = {
    "sweep before": ("sample_data", set_field("prev", "f" * 32, 1), "chain is broken"),
    "sample after": ("sample", set_field("next", "f" * 32), "chain is broken"),
    "early end": ("sample", set_field("next", ""), "ends after 1 samples; the scene announces 3"),
    "other scene": ("sample", set_field("scene_token", "x", 1), "belongs to another scene"),
    "scene too short": ("scene", set_field("nbr_samples", 2), "goes on after 2 samples"),
    "annotation before": ("sample_annotation", set_field("prev", "f" * 32, 1), "prev of sample_annotation"),
    "pose": ("sample_data", set_field("ego_pose_token", "y"), "ego_pose_token of sample_data"),
    "sensor": ("sample_data", set_field("calibrated_sensor_token", "y", 1), "calibrated_sensor_token"),
    "instance": (
        "sample_annotation",
        set_field("instance_token", "y"),
        "instance_token of sample_annotation",
    ),
    "category": ("instance", set_field("category_token", "y"), "category_token of instance"),
    "category's name": ("category", lambda r: [c.pop("name") for c in r], "name: missing"),
    "attribute": ("sample_annotation", set_field("attribute_tokens", ["y"]), "no such attribute"),
    "attributes": ("sample_annotation", set_field("attribute_tokens", ["y", "z"]), "more than one"),
    "twice": ("sample", lambda r: r.append(dict(r[0])), "occurs twice"),
    "no token": ("sample", drop_field("token"), "record 0: token: missing"),
    "no field": ("sample_annotation", drop_field("translation"), "translation: missing"),
    "two names": ("scene", lambda r: r[1].update(name=r[0]["name"]), "two scenes have the name"),
    "size": ("sample_annotation", set_field("size", [0, 1, 1]), "positive sizes"),
    "numbers": ("sample_annotation", set_field("size", ["a", 1, 1]), "expected 3 finite numbers"),
    "quaternion": ("ego_pose", set_field("rotation", [0, 0, 0, 0]), "rotation: length 0"),
    "tilt": ("ego_pose", set_field("rotation", [0.7, 0.7, 0, 0]), "tilt"),
    "older": ("sample_data", lambda r: r[1].update(timestamp=r[2]["timestamp"] + 5), "no older"),
    "time": ("sample_data", set_field("timestamp", "noon"), "timestamp"),
    "key frame": ("sample_data", set_field("is_key_frame", False), "has no key frame"),
    "two key frames": (
        "sample_data",
        lambda r: r[1].update(is_key_frame=True, sample_token=r[0]["sample_token"]),
        "two key frames",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tables_are_named(copy, name):
    where, edit, message = BROKEN[name]
    change(copy, where, edit)
    with pytest.raises(UserInputError, match=message) as error:
        opened(copy)
    assert str(copy) in str(error.value)


def test_a_table_that_is_no_list(copy):
    (copy / VERSION / "sample.json").write_text('{"a": 1}')
    with pytest.raises(UserInputError, match="expected a list of records"):
        opened(copy)
    (copy / VERSION / "sample.json").write_text("[1, 2")
    with pytest.raises(UserInputError, match=r"sample\.json.*is not JSON"):
        opened(copy)


def test_unreadable_sweeps(copy):
    frames = opened(copy)
    names = [str(n) for n in frames.index.sweep_file[frames.index.sweeps(2)]]
    (copy / names[1]).write_bytes((copy / names[1]).read_bytes()[:-7])
    (copy / names[2]).unlink()
    with pytest.raises(UserInputError, match="columns"):
        frames[2]
    patient = opened(copy, bad_sweeps="skip")
    with pytest.warns(SkippedSweepWarning, match="sweep left out"):
        points = patient[2].points
    assert set(points[:, 4]) == {0.0}
    assert set(patient.skipped) == set(names[1:])
    # A key frame is never skipped.
    (copy / names[0]).write_bytes(b"123")
    with pytest.raises(UserInputError, match=r"pcd\.bin"):
        patient[2]
    (copy / names[0]).unlink()
    with pytest.raises(UserInputError, match="key frame's file is missing"):
        opened(copy, bad_sweeps="skip")


def test_numbers_that_are_not_finite(copy):
    frames = opened(copy)
    file = copy / str(frames.index.sweep_file[0])
    raw = np.fromfile(file, "<f4")
    raw[6] = np.nan
    raw.tofile(file)
    with pytest.raises(UserInputError, match="point 1 is not finite"):
        frames[0]


def test_wrong_arguments(small_nuscenes):
    with pytest.raises(ValueError, match="bad_sweeps"):
        NuScenesDetection("x", bad_sweeps="ignore")
    with pytest.raises(UserInputError, match="folder of the tables is missing"):
        NuScenesDetection("nowhere")
    with pytest.raises(UserInputError, match="sweeps: got 0; expected 1 or more"):
        opened(small_nuscenes, sweeps=0)


def test_an_unlabelled_version(copy):
    (copy / VERSION / "sample_annotation.json").write_text("[]")
    frames = opened(copy)
    assert frames[0].objects is None
    assert frames[0].sample is None


# ---- class balance -----------------------------------------------------------------------------------------


def test_class_balance():
    frames = [["car"]] * 90 + [["car", "bus"]] * 8 + [["bus", "trailer"]] * 2
    drawn = balanced_indices(frames, ("car", "bus", "trailer", "barrier"), 0)
    # n = 98, 10, 2, 0: each class that occurs draws 110 / 4.
    assert len(drawn) == 3 * 27
    parts = drawn.reshape(3, 27)
    assert (parts[0] < 98).all()
    assert (parts[1] >= 90).all()
    assert (parts[2] >= 98).all()
    np.testing.assert_array_equal(drawn, balanced_indices(frames, ("car", "bus", "trailer", "barrier"), 0))
    assert (drawn != balanced_indices(frames, ("car", "bus", "trailer", "barrier"), 1)).any()
    assert len(balanced_indices([], ("car",), 0)) == 0


def test_resampled_frames(small_nuscenes):
    frames = opened(small_nuscenes)
    again = Resampled(frames, balanced_indices(frames.classes_of_frames(), CLASSES, 0))
    assert len(again) > len(frames)
    np.testing.assert_array_equal(again[0].points, frames[int(again.indices[0])].points)
    with pytest.raises(ValueError, match="outside"):
        Resampled(frames, np.array([6]))


# ---- a real key frame --------------------------------------------------------------------------------------


def test_a_real_key_frame_in_the_official_layout(tmp_path):
    """One key frame with its poses and 69 boxes, written as tables; boxes come back where they were."""
    facts = json.loads(sample_data("nuscenes", "sample.json").read_text())
    sample, names = facts["data_list"][0], facts["metainfo"]["categories"]
    by_label = {label: name for name, label in names.items()}
    category = {name: c for c, name in CLASS_OF.items()}
    lidar2ego, ego2global = (np.array(m) for m in (sample["lidar_points"]["lidar2ego"], sample["ego2global"]))

    def pose(matrix):
        x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        return {"rotation": [w, x, y, z], "translation": matrix[:3, 3].tolist()}

    name = sample["lidar_points"]["lidar_path"]
    (tmp_path / VERSION).mkdir()
    (tmp_path / f"samples/{LIDAR}").mkdir(parents=True)
    shutil.copy(sample_data("nuscenes", name), tmp_path / f"samples/{LIDAR}" / name)
    to_global = ego2global @ lidar2ego
    boxes = np.array([i["bbox_3d"] for i in sample["instances"]])
    up = to_global[:3, :3]
    annotations, instances = [], []
    for k, (box, i) in enumerate(zip(boxes, sample["instances"], strict=True)):
        ahead = up @ [np.cos(box[6]), np.sin(box[6]), 0]
        half = np.arctan2(ahead[1], ahead[0]) / 2
        named = category.get(by_label.get(i["bbox_label_3d"], ""), "animal")
        instances.append({"token": f"i{k}", "category_token": named})
        annotations.append(
            {
                "token": f"a{k}",
                "sample_token": "s",
                "instance_token": f"i{k}",
                "attribute_tokens": [],
                "translation": (to_global @ np.append(box[:3], 1))[:3].tolist(),
                "size": [box[4], box[3], box[5]],
                "rotation": [np.cos(half), 0, 0, np.sin(half)],
                "prev": "",
                "next": "",
                "num_lidar_pts": i["num_lidar_pts"],
                "num_radar_pts": i["num_radar_pts"],
            }
        )
    stamp = 1532402927647951
    tables = dict.fromkeys(TABLES, ()) | {
        "category": [{"token": c, "name": c} for c in (*CLASS_OF, "animal")],
        "sensor": [{"token": LIDAR, "channel": LIDAR}],
        "calibrated_sensor": [{"token": "c", "sensor_token": LIDAR, **pose(lidar2ego)}],
        "ego_pose": [{"token": "e", **pose(ego2global)}],
        "scene": [{"token": "sc", "name": "scene-0061", "nbr_samples": 1, "first_sample_token": "s"}],
        "sample": [{"token": "s", "timestamp": stamp, "scene_token": "sc", "prev": "", "next": ""}],
        "sample_data": [
            {
                "token": "d",
                "sample_token": "s",
                "ego_pose_token": "e",
                "calibrated_sensor_token": "c",
                "timestamp": stamp,
                "is_key_frame": True,
                "filename": f"samples/{LIDAR}/{name}",
                "prev": "",
            }
        ],
        "instance": instances,
        "sample_annotation": annotations,
    }
    for key, records in tables.items():
        (tmp_path / VERSION / f"{key}.json").write_text(json.dumps(list(records)))
    frames = opened(tmp_path, sweeps=10)
    frame = frames[0]
    known = np.array([i["bbox_label_3d"] >= 0 for i in sample["instances"]])
    measured = known & np.array([i["num_lidar_pts"] > 0 for i in sample["instances"]])
    assert len(frame.objects) == measured.sum() > 40
    np.testing.assert_allclose(frame.objects.boxes[:, :6], boxes[measured, :6], atol=1e-5)
    turn = np.mod(frame.objects.boxes[:, 6] - boxes[measured, 6] + np.pi, 2 * np.pi) - np.pi
    assert np.abs(turn).max() < 2e-3  # the info's headings went through quaternions of tilted boxes
    assert len(frame.sample.boxes) == known.sum()
    # The annotated numbers of points are those of the key frame.
    stated = np.array([i["num_lidar_pts"] for i in sample["instances"]])[measured]
    raw = read_point_array(tmp_path / f"samples/{LIDAR}" / name, 5)
    counted = count_points(raw, frame.objects.boxes[:, :7])
    assert np.abs(counted - stated).sum() <= 0.05 * stated.sum()


def test_pose_matrix_equals_scipy():
    rng = np.random.default_rng(0)
    for q in rng.normal(size=(20, 4)):
        matrix = pose_matrix(q, np.arange(3.0))
        np.testing.assert_allclose(matrix[:3, :3], Rotation.from_quat([*q[1:], q[0]]).as_matrix(), atol=1e-12)
        np.testing.assert_array_equal(matrix[:3, 3], [0, 1, 2])


# ---- the official kit --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reader_and_metric_equal_the_official_kit(small_nuscenes, tmp_path):
    """With nuscenes-devkit 1.2.0 on PYTHONPATH: points, ages, boxes, velocities, and a submission's numbers."""
    kit = pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.utils import quaternion_yaw
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.utils.data_classes import LidarPointCloud

    tables = kit.NuScenes(VERSION, str(small_nuscenes), verbose=False)
    for split in ("mini_train", "mini_val"):
        frames = opened(small_nuscenes, split)
        for k in range(len(frames)):
            frame, sample = frames[k], tables.get("sample", frames.ids[k])
            cloud, ages = LidarPointCloud.from_file_multisweep(tables, sample, LIDAR, LIDAR, nsweeps=3)
            number = cloud.points.shape[1]  # repeated sweeps at a scene's start are ours alone
            if k % 3:
                assert number == len(frame.points)
            np.testing.assert_allclose(frame.points[:number, :4], cloud.points.T, atol=1e-4)
            np.testing.assert_allclose(frame.points[:number, 4], ages[0], atol=1e-6)
            boxes = [b for b in tables.get_sample_data(sample["data"][LIDAR])[1] if b.name in CLASS_OF]
            for box, row in zip(boxes, frames.index.box_lidar[frames.index.boxes(k)], strict=True):
                np.testing.assert_allclose(row[:6], [*box.center, *box.wlh[[1, 0, 2]]], atol=1e-6)
                turn = quaternion_yaw(box.orientation) - row[6]
                assert abs(np.mod(turn + np.pi, 2 * np.pi) - np.pi) < 1e-6
                velocity = np.linalg.inv(frame.lidar_to_global)[:3, :3] @ tables.box_velocity(box.token)
                np.testing.assert_allclose(row[7:], velocity[:2], atol=1e-6)
    rng = np.random.default_rng(0)
    gt, det = {}, {}
    for k in range(len(frames)):
        frame = frames[k]
        found = found_from(frame)
        noise = rng.normal(0, 0.4, found["boxes"].shape) * [1, 1, 1, 0.1, 0.1, 0.1, 0.3, 1, 1]
        found = {**found, "boxes": found["boxes"] + noise, "scores": rng.random(len(noise))}
        found["boxes"][:, 3:6] = np.maximum(found["boxes"][:, 3:6], 0.1)
        gt[frame.frame_id] = frame.sample
        det[frame.frame_id] = detections_to_nuscenes(found, CLASSES, frame.lidar_to_global)
    write_submission(tmp_path / "s.json", det)
    result = nuscenes_eval(gt, read_submission(tmp_path / "s.json"))
    config = config_factory("detection_cvpr_2019")
    run = DetectionEval(tables, config, str(tmp_path / "s.json"), "mini_val", str(tmp_path), verbose=False)
    metrics, _ = run.evaluate()
    assert (result.mean_ap, result.nds) == pytest.approx((metrics.mean_ap, metrics.nd_score), abs=1e-9)
    assert result.nds > 0.2
