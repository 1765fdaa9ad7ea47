"""The simulator's second world: a moving sensor, moving traffic, ten classes, the official tables."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tenfold.geometry import points_to_box_frame, transform_points
from tenfold.io import read_image
from tenfold.lidar.nuscenes import CLASS_OF, RACK, TABLES, NuScenesDetection
from tenfold.lidar.simulator import (
    KINDS,
    MINI_SCENES,
    NUSCENES_32,
    NUSCENES_SCENE,
    SMALL_SCENE,
    SceneConfig,
    make_object,
    sample_scene,
    scan,
    set_in_motion,
    simulate_nuscenes,
    write_nuscenes,
)

COARSE = replace(NUSCENES_32, azimuth_step=2.0)
TEN = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)


@pytest.mark.parametrize("name", TEN)
def test_shapes_fill_their_boxes(name):
    """Seen from all sides, no return lies outside the box, and the returns reach all its sides."""
    mean = KINDS[name].mean
    reached = np.zeros((2, 3))
    empty = sample_scene(0, SMALL_SCENE, n_cars=0)
    fine = tuple(np.linspace(10, -30, 80))
    sharp = replace(NUSCENES_32, range_noise=0.0, dropout=0.0, azimuth_step=0.5, elevations=fine)
    for seed in range(2):
        for side in (0.0, 1.5, 3.0, 4.5):
            spot = (12 if mean[0] > 3 else 5) * np.array([np.cos(side), np.sin(side)])
            box = np.array([*spot, -1.73 + mean[2] / 2, *mean, 0.3 * side])
            thing = make_object(name, box, seed)
            frame = scan(replace(empty, objects=(thing,)), sharp, seed)
            mine = frame.points[frame.instance == 0, :3].astype(np.float64)
            assert len(mine) > 10
            local = points_to_box_frame(mine[None], box[None])[0] / (box[3:6] / 2)
            assert np.abs(local).max() < 1.02
            reached[0] = np.minimum(reached[0], local.min(axis=0))
            reached[1] = np.maximum(reached[1], local.max(axis=0))
    assert (reached[0] < -0.8).all()
    assert (reached[1] > 0.7).all()


def test_a_posed_scan_sees_the_same_world():
    scene = sample_scene(4, SMALL_SCENE)
    still = replace(COARSE, range_noise=0.0, dropout=0.0)
    pose = np.eye(4)
    pose[:2, :2] = [[0, -1], [1, 0]]
    pose[:3, 3] = 3.0, -1.0, 0.4
    moved = scan(scene, still, 0, pose)
    there = transform_points(moved.points[:, :3].astype(np.float64), pose)
    for index in np.unique(moved.instance[moved.instance >= 0]):
        local = points_to_box_frame(
            there[None, moved.instance == index], scene.boxes[[index]].astype(np.float64)
        )
        assert np.abs(local[0] / (scene.boxes[index, 3:6] / 2)).max() < 1.02
    ground = there[(moved.instance == -1) & (there[:, 2] < -1.6)]
    assert np.quantile(np.abs(ground[:, 2] + 1.73), 0.99) < 1e-3  # hedges and poles have no box either
    np.testing.assert_allclose(transform_points(moved.boxes[:, :3], pose), scene.boxes[:, :3], atol=1e-4)
    # The identity changes nothing, not a bit.
    same = scan(scene, still, 0, np.eye(4))
    np.testing.assert_allclose(same.points, scan(scene, still, 0).points, atol=1e-6)


def test_motion_moves_what_should_move():
    scene = sample_scene(7, replace(NUSCENES_SCENE, drive=20.0))
    moving = set_in_motion(scene, 7, 6.0)
    later = moving.at(2.0)
    shift = later.boxes[:, :2] - scene.boxes[:, :2]
    velocity = moving.velocity[scene.box_index >= 0]
    np.testing.assert_allclose(shift, 2 * velocity, atol=1e-4)
    rolling = np.hypot(*velocity.T) > 0
    assert 0 < rolling.sum() < len(rolling)
    assert not rolling[[n in ("barrier", "traffic_cone", "construction_vehicle") for n in scene.names]].any()
    for thing, speed in zip(scene.objects, moving.velocity, strict=True):
        assert thing.labelled or not speed.any()
    pose = moving.ego_pose(2.0)
    assert pose[0, 3] == pytest.approx(12.0)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    ahead = (moving.ego_pose(2.001)[:2, 3] - pose[:2, 3]) / 0.001
    assert np.arctan2(ahead[1], ahead[0]) == pytest.approx(np.arctan2(pose[1, 0], pose[0, 0]), abs=1e-2)


def test_nothing_stands_in_the_way():
    for seed in range(5):
        scene = sample_scene(seed, replace(NUSCENES_SCENE, drive=30.0))
        moving = set_in_motion(scene, seed, 8.0)
        for time in (0.0, 1.0, 2.0):
            ego = moving.ego_pose(time)[:2, 3]
            at = moving.at(time)
            standing = ~moving.velocity[scene.box_index >= 0].any(axis=1)
            assert np.hypot(*(at.boxes[standing, :2] - ego).T).min() > 1.2


def test_tables_hang_together(small_nuscenes):
    folder = small_nuscenes / "v1.0-mini"
    tables = {name: json.loads((folder / f"{name}.json").read_text()) for name in TABLES}
    tokens = {name: {r["token"] for r in records} for name, records in tables.items()}
    for name, records in tables.items():
        assert len(tokens[name]) == len(records), name
        for record in records:
            for key, value in record.items():
                target = key.removesuffix("_token")
                if key.endswith("_token") and target in tokens:
                    assert value in tokens[target], (name, key)
                if key in ("prev", "next") and value:
                    assert value in tokens[name]
    assert len(tables["category"]) == 23
    assert {*CLASS_OF, RACK} <= {r["name"] for r in tables["category"]}
    assert len(tables["attribute"]) == 8
    assert [r["name"] for r in tables["scene"]] == [*MINI_SCENES[0][:2], MINI_SCENES[1][0]]
    assert read_image(small_nuscenes / tables["map"][0]["filename"]).shape == (100, 100, 3)
    assert {t for r in tables["map"] for t in r["log_tokens"]} == tokens["log"]
    for instance in tables["instance"]:
        chain = [a for a in tables["sample_annotation"] if a["instance_token"] == instance["token"]]
        assert len(chain) == instance["nbr_annotations"]
        assert chain[0]["prev"] == chain[-1]["next"] == ""
        assert [a["next"] for a in chain[:-1]] == [a["token"] for a in chain[1:]]


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        simulate_nuscenes(tmp_path / name, (1, 0), 5, key_frames=2, sweep_rate=4, sensor=COARSE)
    simulate_nuscenes(tmp_path / "c", (1, 0), 6, key_frames=1, sweep_rate=2, sensor=COARSE)
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert len(files) == 13 + 3 + 1
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    ours, other = (NuScenesDetection(tmp_path / n, "v1.0-mini", "mini_train", sweeps=1) for n in ("a", "c"))
    assert ours[0].points.shape != other[0].points.shape


def test_wrong_arguments(tmp_path):
    for n in ((9, 0), (0, 3), (0, 0), (-1, 1)):
        with pytest.raises(ValueError, match="simulate_nuscenes: n"):
            simulate_nuscenes(tmp_path, n)
    for options in ({"key_frames": 0}, {"sweep_rate": 5.0}, {"sweep_rate": 1.0}):
        with pytest.raises(ValueError, match="write_nuscenes"):
            write_nuscenes(tmp_path, [], **options)
    with pytest.raises(ValueError, match="traffic: 'tram'"):
        SceneConfig(traffic=(("tram", 1),))
    assert list(tmp_path.iterdir()) == []


def test_kitti_scenes_are_what_they_were():
    """New kinds draw nothing from the generator of scenes that have none."""
    scene = sample_scene(0)
    plain = sample_scene(0, traffic=())
    np.testing.assert_array_equal(scene.boxes, plain.boxes)
    assert set(scene.names) <= {"Car", "Van", "Pedestrian", "Cyclist"}
