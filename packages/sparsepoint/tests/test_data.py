"""Readers of the four official layouts on synthetic raw trees, the cache, samples, custom data and generated rooms."""

import json
import math
import sys
import zlib

import numpy as np
import pytest
import raw_trees
import torch
from sparsepoint_tiny import small_config

from sparsepoint.align import estimate_alignment
from sparsepoint.data import (
    Augmentation,
    CustomDetection,
    DataWarning,
    Matterport3DDetection,
    PreparedScenes,
    S3DISDetection,
    ScanNetDetection,
    SceneSamples,
    SUNRGBDDetection,
    SyntheticRooms,
    make_room,
    open_scenes,
)
from sparsepoint.data.s3dis import read_annotation
from sparsepoint.data.scannet import read_alignment
from sparsepoint.data.scenes import floor_of, make_sample, read_scene, write_scene
from sparsepoint.data.sens import SensFile, sens_points
from sparsepoint.data.sunrgbd import boxes_from_labels, boxes_from_votenet, read_struct
from tenfold._errors import UserInputError
from tenfold.geometry import box_corners, flip_points, rotate_z
from tenfold.host import points_in_boxes
from tenfold.io import PointCloud, write_points
from tenfold.testing import corruptions, require


def inside(points, box):
    return (
        np.asarray(points_in_boxes(points.astype(np.float64), box[None].astype(np.float64))).reshape(-1) >= 0
    )


def test_scannet(tmp_path):
    expected = raw_trees.scannet(tmp_path)
    data = ScanNetDetection(tmp_path, "train")
    assert list(data.names) == ["scene0000_00", "scene0001_00"]
    for index, (align, boxes, labels) in enumerate(expected.values()):
        scene = data.scene(index)
        np.testing.assert_allclose(scene.align, align, atol=1e-6)
        np.testing.assert_allclose(scene.boxes, boxes, atol=1e-4)
        assert scene.labels.tolist() == labels
        assert scene.colours.shape == scene.points.shape
        assert set(np.unique(scene.semantic)) == {0, 1, 5, 7}
        assert inside(scene.points, scene.boxes[0] * np.array([1, 1, 1, 1.01, 1.01, 1.01, 1])).sum() >= 60
    test = ScanNetDetection(tmp_path, "test").scene(0)
    assert len(test.boxes) == 0
    assert np.array_equal(test.align, np.eye(4))


def test_scannet_boxes_follow_the_alignment(tmp_path):
    """Points that are not aligned would leave the boxes empty: the trap of mixed frames."""
    raw_trees.scannet(tmp_path)
    text = tmp_path / "scans/scene0000_00/scene0000_00.txt"
    aligned = ScanNetDetection(tmp_path).scene(0)
    text.write_text("sceneType = Office\n")
    bare = ScanNetDetection(tmp_path).scene(0)
    assert inside(bare.points, aligned.boxes[0]).sum() < 0.5 * inside(aligned.points, aligned.boxes[0]).sum()
    text.write_text("axisAlignment = 1 0 0\n")
    with pytest.raises(UserInputError, match="axisAlignment: got 3 numbers"):
        ScanNetDetection(tmp_path).scene(0)
    # A line that begins with letters of the key must not lose them, as stripping characters would.
    text.write_text("axisAlignment = " + " ".join(map(str, range(16))) + "\n")
    assert read_alignment(text)[3, 3] == 15


def test_scannet_arrays_of_votenet(tmp_path):
    raw_trees.votenet_scannet(tmp_path)
    scene = ScanNetDetection(tmp_path).scene(0)
    np.testing.assert_allclose(scene.boxes, [[1, 1, 0.5, 0.5, 0.6, 1.0, 0]], atol=1e-6)
    assert scene.labels.tolist() == [2]
    np.save(tmp_path / "scene0000_00_bbox.npy", np.zeros((2, 3)))
    with pytest.raises(UserInputError, match=r"_bbox\.npy: array"):
        ScanNetDetection(tmp_path).scene(0)


def test_damaged_scannet_files_are_named(tmp_path):
    raw_trees.scannet(tmp_path, ("scene0000_00",))
    folder = tmp_path / "scans/scene0000_00"
    for path in sorted(folder.iterdir()):
        sound = path.read_bytes()
        for name, data in corruptions(sound, flips=2):
            path.write_bytes(data)
            try:
                ScanNetDetection(tmp_path).scene(0)
            except UserInputError as error:
                assert path.name in str(error), name  # noqa: PT017
        path.write_bytes(sound)
        path.unlink()
        with pytest.raises(UserInputError, match=path.name):
            ScanNetDetection(tmp_path).scene(0)
        path.write_bytes(sound)
    table = tmp_path / "scannetv2-labels.combined.tsv"
    table.write_text(table.read_text() + "6\tthis row ends early\n")
    assert len(ScanNetDetection(tmp_path).scene(0).boxes) == 2
    segments = folder / "scene0000_00_vh_clean_2.0.010000.segs.json"
    segments.write_text(json.dumps({"segIndices": [1, 2]}))
    with pytest.raises(UserInputError, match="segIndices: got 2 entries"):
        ScanNetDetection(tmp_path).scene(0)


def test_sunrgbd(tmp_path):
    k, tilt, depth, boxes = raw_trees.sunrgbd(tmp_path)
    train, val = SUNRGBDDetection(tmp_path, "train"), SUNRGBDDetection(tmp_path, "val")
    assert (list(train.names), list(val.names)) == (["000001", "000002"], ["000003"])
    scene = train.scene(0)
    np.testing.assert_allclose(scene.boxes, boxes, atol=1e-5)
    assert scene.labels.tolist() == [0]
    assert len(scene.points) == (depth > 0).sum() == 24 * 32 - 5
    # Back through the camera: every point must land on its own pixel, counted from 1.
    camera = scene.points @ tilt
    u = camera[:, 0] / camera[:, 1] * k[0, 0] + k[0, 2]
    v = -camera[:, 2] / camera[:, 1] * k[1, 1] + k[1, 2]
    rows, columns = np.nonzero(depth > 0)
    np.testing.assert_allclose(u, columns + 1, atol=1e-3)
    np.testing.assert_allclose(v, rows + 1, atol=1e-3)
    np.testing.assert_allclose(camera[:, 1], depth[rows, columns], atol=1e-3)
    assert len(val.scene(0).boxes) == 0
    assert len(SUNRGBDDetection(tmp_path, "train", labels="v1").scene(0).boxes) == 0
    with pytest.raises(UserInputError, match="v1 or v2"):
        SUNRGBDDetection(tmp_path, "train", labels="v3")


def damaged_meta_is_named(root, flips):
    """Every kind of damage to SUN RGB-D's meta file is read as it is or named; the file is whole again afterwards."""
    meta = root / "SUNRGBDMeta3DBB_v2.mat"
    sound = meta.read_bytes()
    for _, data in corruptions(sound, flips=flips):
        meta.write_bytes(data)
        try:
            SUNRGBDDetection(root, "train").scene(0)
        except UserInputError as error:
            assert "SUNRGBDMeta3DBB_v2.mat" in str(error) or "a.png" in str(error)  # noqa: PT017
    meta.write_bytes(sound)


def test_damaged_sunrgbd_files_are_named(tmp_path):
    raw_trees.sunrgbd(tmp_path)
    depth = tmp_path / "SUNRGBD/kv1/NYUdata/NYU0001/depth/a.png"
    damaged_meta_is_named(tmp_path, flips=2)
    depth.write_bytes(depth.read_bytes()[:50])
    with pytest.raises(UserInputError, match=r"depth/a\.png: image"):
        SUNRGBDDetection(tmp_path, "train").scene(0)
    depth.unlink()
    with pytest.raises(UserInputError, match=r"depth/a\.png"):
        SUNRGBDDetection(tmp_path, "train").scene(0)


def test_matlab_7_3_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    raw_trees.sunrgbd(tmp_path)
    meta = tmp_path / "SUNRGBDMeta3DBB_v2.mat"
    meta.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600))
    with pytest.raises(UserInputError, match=r'v2\.mat: file: .* pip install "sparsepoint\[matlab\]"'):
        SUNRGBDDetection(tmp_path, "train")


def test_matlab_7_3_holds_what_7_holds(tmp_path):
    require("h5py")
    raw_trees.sunrgbd(tmp_path)
    meta = tmp_path / "SUNRGBDMeta3DBB_v2.mat"
    before = [SUNRGBDDetection(tmp_path, split).scene(0) for split in ("train", "val")]
    second = SUNRGBDDetection(tmp_path, "train").scene(1)
    raw_trees.as_matlab_7_3(meta, "SUNRGBDMeta")
    after = [SUNRGBDDetection(tmp_path, split).scene(0) for split in ("train", "val")]
    for old, new in zip(
        [*before, second], [*after, SUNRGBDDetection(tmp_path, "train").scene(1)], strict=True
    ):
        for name in ("points", "boxes", "labels", "colours"):
            assert np.array_equal(getattr(old, name), getattr(new, name)), name
    assert len(before[0].boxes) == 1
    with pytest.raises(UserInputError, match="Other: no such variable"):
        read_struct(meta, "Other")
    damaged_meta_is_named(tmp_path, flips=4)


@pytest.mark.parametrize(("colour_code", "depth_code"), [(2, 1), (0, 0), (-1, 1)])
def test_recordings(tmp_path, colour_code, depth_code):
    path = tmp_path / "scan.sens"
    raw_trees.sens(path, lost=(1,), colour_code=colour_code, depth_code=depth_code)
    recording = SensFile(path)
    frames = list(recording.frames())
    assert (len(recording), [f.number for f in frames]) == (3, [0, 1, 2])
    assert frames[0].depth.shape == (12, 16)
    assert (frames[0].depth[1:] == 2.0).all()
    assert (frames[0].depth[0] == 0).all()
    assert [f.number for f in recording.frames(2)] == [0, 2]
    cloud = sens_points(path)
    # Rows 4 and 8 of columns 0, 4, 8 and 12, of two frames: the wall at y = 2, its height 1 m above the axis' row.
    x = [2 * (c - 7.5) / 16 + step for step in (0, 2) for c in (0, 4, 8, 12)]
    wanted = [(a, 2.0, 1 - 2 * (r - 5.5) / 16) for a in x for r in (4, 8)]
    np.testing.assert_allclose(sorted(map(tuple, cloud.xyz.tolist())), sorted(wanted), atol=1e-5)
    assert set(cloud.fields) == (set() if colour_code == -1 else {"red", "green", "blue"})
    if colour_code == 0:
        assert (cloud.fields["red"] == 200).all()
        assert (cloud.fields["blue"] == 0).all()


def test_damaged_recordings_are_named(tmp_path):
    path = tmp_path / "scan.sens"
    raw_trees.sens(path, frames=2)
    sound = path.read_bytes()
    path.write_bytes(b"\x05" + sound[1:])
    with pytest.raises(UserInputError, match=r"scan\.sens: version: got 5"):
        SensFile(path)
    path.write_bytes(sound[:4] + b"\xff" * 8 + sound[12:])
    with pytest.raises(UserInputError, match="sensor_name"):
        SensFile(path)
    path.write_bytes(sound[:-3])
    with pytest.raises(UserInputError, match=r"frame 1: the file ends within it \(2 announced\)"):
        sens_points(path)
    start = sound.index(zlib.compress(np.zeros(0))[:2])
    path.write_bytes(sound[:start] + bytes(4) + sound[start + 4 :])
    with pytest.raises(UserInputError, match="frame 0: depth is damaged"):
        sens_points(path)
    raw_trees.sens(path, frames=2, lost=(0, 1))
    with pytest.raises(UserInputError, match="none of 2 has a pose"):
        sens_points(path)
    for _, data in corruptions(sound, flips=20):
        path.write_bytes(data)
        try:
            sens_points(path)
        except UserInputError as error:
            assert "scan.sens" in str(error)  # noqa: PT017
    with pytest.raises(UserInputError, match=r"none\.sens: file: cannot be read"):
        SensFile(tmp_path / "none.sens")


def test_foreign_boxes_of_sunrgbd():
    """Width first, halves, and a clockwise heading: each a factor two or a sign that still trains."""
    rows = np.array([[1.0, 2, 3, 0.4, 1.0, 0.3, math.cos(0.5), math.sin(0.5)]])
    np.testing.assert_allclose(boxes_from_labels(rows), [[1, 2, 3, 2.0, 0.8, 0.6, 0.5]])
    votenet = np.array([[1.0, 2, 3, 1.0, 0.4, 0.3, -0.5, 7]])
    np.testing.assert_allclose(boxes_from_votenet(votenet), [[1, 2, 3, 2.0, 0.8, 0.6, 0.5]])


def test_sunrgbd_arrays_of_votenet(tmp_path):
    np.save(tmp_path / "000005_bbox.npy", np.array([[1.0, 2, 3, 1.0, 0.4, 0.3, -0.5, 7]]))
    np.savez(tmp_path / "000005_pc.npz", pc=np.random.default_rng(0).random((20, 6)))
    data = SUNRGBDDetection(tmp_path, "train")
    scene = data.scene(0)
    assert scene.labels.tolist() == [7]
    np.testing.assert_allclose(scene.boxes[0, [3, 6]], [2.0, 0.5])
    assert scene.colours.max() > 1
    np.save(tmp_path / "000005_bbox.npy", np.array([[1.0, 2, 3, 1.0, 0.4, 0.3, -0.5, 37]]))
    with pytest.raises(UserInputError, match=r"000005_bbox\.npy: array: got class 37; expected 0 to 9"):
        data.scene(0)


def test_s3dis(tmp_path):
    expected = raw_trees.s3dis(tmp_path)
    train, val = S3DISDetection(tmp_path, "train"), S3DISDetection(tmp_path, "val")
    assert (len(train), len(val)) == (5, 2)
    assert val.names[0] == "Area_5_office_1"
    scene = val.scene(0)
    assert scene.labels.tolist() == [4, 1]  # board, then chair: the order of the files
    np.testing.assert_allclose(scene.boxes, [expected["board"], expected["chair"]], atol=2e-3)
    assert scene.points.min() == pytest.approx(0, abs=1e-6)
    assert set(np.unique(scene.semantic)) == {1, 8, 11, 12}  # stairs count as clutter
    assert len(S3DISDetection(tmp_path, "val", test_area=2)) == 1
    with pytest.raises(UserInputError, match="test_area: got 7"):
        S3DISDetection(tmp_path, "val", test_area=7)


def test_s3dis_files_with_control_bytes(tmp_path):
    path = tmp_path / "a.txt"
    lines = [f"{k}.0 1.0 2.0 10 20 30" for k in range(300)]
    lines[100] = "100.0 1.0 2.0 10\x10 20 30"
    lines[200] = "only words"
    path.write_text("\n".join(lines))
    with pytest.warns(DataWarning, match="1 control bytes dropped, 1 broken lines"):
        rows = read_annotation(path)
    assert len(rows) == 299
    assert rows[100, 0] == 100
    path.write_text("a b c\n" * 10)
    with pytest.raises(UserInputError, match="10 of 10 are not six numbers"):
        read_annotation(path)


def test_matterport(tmp_path):
    boxes, labels = raw_trees.matterport(tmp_path)
    splits = {
        split: Matterport3DDetection(tmp_path, split, least_vertices=100)
        for split in ("train", "val", "test")
    }
    assert [list(s.names) for s in splits.values()] == [
        ["17DRP5sb8fy_region0"],
        ["2azQ1b91cZZ_region0"],
        ["2t7WUuJeko7_region0"],
    ]
    scene = splits["val"].scene(0)
    assert scene.labels.tolist() == labels
    np.testing.assert_allclose(scene.boxes, boxes, atol=1e-5)
    assert scene.meta["region"] == "o"
    oriented = Matterport3DDetection(tmp_path, "val", boxes="obb", least_vertices=100)
    np.testing.assert_allclose(oriented.scene(0).boxes[0], [1.31, 1.26, 0.41, 0.8, 0.4, 0.9, 0.6], atol=1e-5)
    np.testing.assert_allclose(oriented.scene(0).boxes[1], boxes[1], atol=1e-5)
    assert oriented.labels.heading_bins == 12
    own = Matterport3DDetection(tmp_path, "val", classes="mpcat40", least_vertices=100).scene(0)
    assert len(own.labels) == 3  # the plant is an object there
    with pytest.raises(UserInputError, match="no region of the split"):
        Matterport3DDetection(tmp_path, "val")  # all regions have less than 5,000 vertices
    house = tmp_path / "2azQ1b91cZZ/house_segmentations/2azQ1b91cZZ.house"
    house.write_text("R x 0 0 0 o\n")
    with pytest.raises(UserInputError, match="line 1: is damaged"):
        Matterport3DDetection(tmp_path, "val", least_vertices=100)


def test_prepare_and_read_back(tmp_path, cli):
    for name, make in (
        ("scannet", raw_trees.scannet),
        ("sunrgbd", raw_trees.sunrgbd),
        ("s3dis", raw_trees.s3dis),
    ):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    (tmp_path / "matterport3d").mkdir()
    raw_trees.matterport(tmp_path / "matterport3d")
    for name, splits in (("scannet", "[train]"), ("sunrgbd", "[train, val]"), ("s3dis", "[train, val]")):
        code, out, err = cli("prepare", name, tmp_path / name, tmp_path / "out" / name, "--splits", splits)
        assert code == 0, err
        assert "scenes ->" in out
    code, _, err = cli("prepare", "matterport3d", tmp_path / "matterport3d", tmp_path / "out/m")
    assert (code, "no region" in err) == (2, True)
    code, _, err = cli("prepare", "scannet", tmp_path / "scannet", tmp_path / "out/m", "--splits", "[]")
    assert (code, "splits: got none" in err) == (2, True)
    raw, back = (
        ScanNetDetection(tmp_path / "scannet").scene(1),
        open_scenes(tmp_path / "out/scannet", "train"),
    )
    again = back.scene(1)
    for part in ("points", "boxes", "labels", "colours", "instance", "semantic", "align"):
        np.testing.assert_allclose(getattr(again, part), getattr(raw, part), atol=1e-6)
    assert back.labels == ScanNetDetection(tmp_path / "scannet").labels
    # The sizes of S3DIS are those of its training areas.
    own = open_scenes(tmp_path / "out/s3dis", "train").labels
    sizes = dict(zip(own.names, own.sizes, strict=True))
    np.testing.assert_allclose(sizes["chair"], [0.5, 0.6, 0.9], atol=2e-3)
    code, out, err = cli("check-data", tmp_path / "out/scannet", "--out", tmp_path / "report.json")
    assert code == 0, err
    assert json.loads((tmp_path / "report.json").read_text())["boxes"] == 4
    # A missing picture stops the preparation, unless damaged scenes may be left out; half a folder is no data set.
    (tmp_path / "sunrgbd/SUNRGBD/kv1/NYUdata/NYU0001/depth/a.png").unlink()
    words = ("prepare", "sunrgbd", tmp_path / "sunrgbd", tmp_path / "out/s2")
    code, _, err = cli(*words)
    assert code == 2
    assert "a.png" in err
    assert not (tmp_path / "out/s2/dataset.json").exists()
    code, _, err = cli(*words, "--skip_damaged", "true")
    assert code == 0
    assert "left out: 000001" in err
    assert list(PreparedScenes(tmp_path / "out/s2", "train").names) == ["000002"]


def test_scene_cache_is_safe(tmp_path):
    scene = make_room(5)
    path = tmp_path / "a.npz"
    write_scene(path, scene)
    assert np.array_equal(read_scene(path).points, scene.points)
    for name, data in corruptions(path, flips=4):
        (tmp_path / "b.npz").write_bytes(data)
        try:
            read_scene(tmp_path / "b.npz")
        except UserInputError as error:
            assert "b.npz" in str(error), name  # noqa: PT017
    np.savez(tmp_path / "c.npz", points=np.zeros((3, 5)))
    with pytest.raises(UserInputError, match=r"c\.npz: points: got shape"):
        read_scene(tmp_path / "c.npz")


def custom(tmp_path, **changes):
    points = np.random.default_rng(0).uniform(0, 3, (200, 3)).astype(np.float32)
    write_points(tmp_path / "a.ply", PointCloud(points))
    scene = {
        "id": "a",
        "points": "a.ply",
        "boxes": [[1, 1, 1, 1, 1, 1, 0.3], [2, 2, 1, 1, 2, 1, 0]],
        "labels": ["sofa", 0],
        "align": [1, 0, 0, 5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
    }
    document = {
        "classes": ["lamp", "sofa", "ghost"],
        "scenes": [{**scene, **changes}, {**scene, "id": "b", "split": "val"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    return points


def test_custom_data(tmp_path):
    points = custom(tmp_path)
    data = open_scenes(tmp_path, "train")
    assert isinstance(data, CustomDetection)
    assert len(data) == 1
    scene = data.scene(0)
    assert scene.labels.tolist() == [1, 0]
    np.testing.assert_allclose(scene.points, points + np.array([5, 0, 0]), atol=1e-6)
    assert data.labels.heading_bins == 12
    assert data.labels.sizes[0] == (1.0, 2.0, 1.0)
    assert data.labels.sizes[2] == (0.8, 0.8, 0.8)
    for change, words in (
        ({"boxes": [[1, 1, 1, 1, 1, 1]] * 2}, r"scenes\[0\].boxes: expected rows of 7"),
        ({"labels": ["sofa"]}, r"labels: got 1; expected 2"),
        ({"labels": ["sofa", "car"]}, "labels: got 'car'"),
        ({"boxes": [[1, 1, 1, -1, 1, 1, 0]] * 2}, "a size is not positive"),
        ({"boxes": [[1, 1, 1, float("inf"), 1, 1, 0]] * 2}, "finite"),
        ({"points": "none.ply"}, "none.ply"),
        ({"align": [1, 2]}, "align: expected rows of 16"),
        ({"id": "b"}, r"scenes\[1\].id: got 'b', as scenes\[0\]"),
        ({"split": "other"}, None),
    ):
        custom(tmp_path, **change)
        if words is None:
            with pytest.raises(UserInputError, match="none of the split 'train'"):
                CustomDetection(tmp_path, "train")
        else:
            with pytest.raises(UserInputError, match=words):
                CustomDetection(tmp_path, "train").scene(0)


def test_check_data_sees_a_wrong_frame(tmp_path, cli):
    custom(tmp_path, align=None, boxes=[[50, 1, 1, 1, 1, 1, 0], [60, 2, 1, 1, 2, 1, 0]])
    code, out, _ = cli("check-data", tmp_path)
    assert code == 0
    assert "warning: many boxes hold no points" in out
    code, _, err = cli("check-data", tmp_path / "nothing")
    assert code == 2
    assert "dataset.json" in err
    code, _, err = cli("check-data", tmp_path, "--scenes", "0")
    assert (code, "scenes: got 0" in err) == (2, True)


def test_a_stray_point_costs_no_memory(tmp_path, cli):
    """Counted by height: cells up to a point ten thousand kilometres away would take gigabytes."""
    points = custom(tmp_path)
    points[0] = 1e7
    write_points(tmp_path / "a.ply", PointCloud(points))
    code, out, err = cli("check-data", tmp_path)
    assert (code, err) == (0, "")
    assert "level surfaces" in out
    cloud = np.random.default_rng(0).uniform(0, 3, (500, 3))
    cloud[0] = 1e9
    assert np.isfinite(estimate_alignment(cloud)).all()


def test_a_given_gravity_is_believed():
    """A ramp is the largest plane; the gravity says that it is no floor."""
    rng = np.random.default_rng(0)
    ramp = np.column_stack((rng.uniform(0, 4, (2000, 2)), np.zeros(2000)))
    ramp[:, 2] = 0.2 * ramp[:, 0] + rng.normal(0, 0.002, 2000)
    cloud = np.concatenate((ramp, rng.uniform(0, 4, (300, 3))))
    up = np.array([0.0, 0.1, 1.0]) / np.hypot(0.1, 1.0)
    misled, told = estimate_alignment(cloud), estimate_alignment(cloud, gravity=-9.81 * up)
    np.testing.assert_allclose(misled[2, :3], np.array([-0.2, 0, 1]) / np.hypot(0.2, 1), atol=0.01)
    np.testing.assert_allclose(told[2, :3], up, atol=1e-12)
    np.testing.assert_allclose(told[:3, :3] @ told[:3, :3].T, np.eye(3), atol=1e-12)
    for wrong in ((0, -1, 0), (0, 0, 1), (0, 0, 0), (0, 0, math.nan), (0, 1)):
        with pytest.raises(UserInputError, match="gravity: got"):
            estimate_alignment(cloud, gravity=wrong)


def test_augmentation_moves_points_and_boxes_alike():
    boxes = torch.tensor([[1.0, 2, 0.5, 2, 1, 1, 0.3]])
    corners = box_corners(boxes)[0]
    for flip_x, flip_y, seed in ((1.0, 0.0, 0), (0.0, 1.0, 1), (1.0, 1.0, 2), (0.0, 0.0, 3)):
        own = Augmentation(flip_x, flip_y, 0.5, (0.8, 1.2))
        points, moved, factor = own.apply(corners, boxes, np.random.default_rng(seed), hull=False)
        found, wanted = box_corners(moved)[0], points
        apart = torch.cdist(found, wanted)
        assert apart.min(0).values.max() < 1e-5
        assert torch.allclose(moved[:, 3:6], boxes[:, 3:6] * factor)
    flipped = Augmentation(1.0, 0.0, 0.0).apply(corners, boxes, np.random.default_rng(0), hull=False)[0]
    torch.testing.assert_close(flipped, flip_points(corners, "y"))
    aligned = torch.tensor([[0.0, 0, 0, 2, 1, 1, 0]])
    five = math.radians(5)
    turned = rotate_z(box_corners(aligned)[0], five)
    _, hull, _ = Augmentation(0, 0, 1e-9).apply(turned, torch.tensor([[0.0, 0, 0, 2, 1, 1, five]]),
                                                np.random.default_rng(0), hull=True)  # fmt: skip
    torch.testing.assert_close(hull[0, 3:5], torch.tensor([2.0795, 1.1705]), atol=1e-4, rtol=0)


def test_samples():
    config = small_config()
    rooms = SyntheticRooms(3)
    samples = SceneSamples(rooms, config, seed=1, votes=True, repeat=2)
    assert len(samples) == 6
    a, b = samples[1], samples[1]
    assert torch.equal(a.points, b.points)
    samples.set_epoch(1)
    assert not torch.equal(samples[1].points, a.points)
    assert a.points.shape == (512, 4)
    scene = rooms.scene(1)
    floor = np.percentile(scene.points[:, 2], 0.99)
    assert floor_of(scene.points) == pytest.approx(floor)
    torch.testing.assert_close(a.points[:, 3], a.points[:, 2] - float(floor))
    assert a.vote_mask.any()
    assert len(a.points.unique(dim=0)) == 512  # without replacement
    from dataclasses import replace

    few = replace(scene, points=np.concatenate((scene.points[:10], [[np.nan, 0, 0]])).astype(np.float32))

    class Few:
        labels, names = rooms.labels, ["few"]

        def __len__(self):
            return 1

        def scene(self, index):
            return few

    drawn = SceneSamples(Few(), config)[0]
    assert torch.isfinite(drawn.points).all()
    assert len(drawn.points.unique(dim=0)) == 10
    nothing = replace(scene, points=np.full((4, 3), np.nan, np.float32))
    Few.scene = lambda self, index: nothing
    with pytest.raises(UserInputError, match="no finite point among 4"):
        SceneSamples(Few(), config)[0]
    with pytest.raises(UserInputError, match="no colours"):
        make_sample(scene, 0, small_config(features=4), rooms.labels, np.random.default_rng(0), None, False)


def test_rooms_are_what_they_say():
    doubled, objects, faces = 0, [], []
    for seed in range(60):
        for mode in ("aligned", "oriented") if seed < 20 else ("aligned",):
            room = make_room(seed, mode)
            if seed < 10:
                assert np.array_equal(room.points, make_room(seed, mode).points)
            doubled += len(set(room.labels.tolist())) < len(room.labels)
            objects.append(len(room.labels))
            for k, box in enumerate(room.boxes):
                held = inside(room.points, box + np.array([0, 0, 0, 0.06, 0.06, 0.06, 0]))
                faces.append(held.sum())
                for other in room.boxes[k + 1 :]:
                    wide = other + np.array([0, 0, 0, 0.06, 0.06, 0.06, 0])
                    assert not (held & inside(room.points, wide)).any() or mode == "oriented"
    assert doubled / 80 >= 0.7
    assert min(objects) + 1 >= 3
    assert np.mean(objects) > 4
    assert np.median(faces) > 40
    box = make_room(2, "oriented").boxes
    assert (np.abs(box[:, 6]) > 0).any()
