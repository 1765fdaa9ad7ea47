import json
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import shapely

from tenfold._errors import UserInputError
from tenfold.geometry import bev_corners
from tenfold.lidar.augment import Augmentation, Sample
from tenfold.lidar.kitti import KittiObject, count_points
from tenfold.lidar.sampling import (
    ObjectDatabase,
    ObjectSampler,
    build_database,
    prepared_paths,
    road_height,
)
from tenfold.lidar.simulator import SECTOR_32, SceneConfig, simulate_kitti
from tenfold.testing import corruptions

SCENE = SceneConfig(
    **{"n_cars": (6, 8), "n_pedestrians": (3, 5), "n_cyclists": (2, 3), "undulation": 0.0, "slope": 0.01},
    **{"n_walls": 1, "n_poles": 1, "n_hedges": 0, "n_trees": 0, "n_blocks": 0},  # what stands in no database
)
COUNTS = {"Car": 20, "Pedestrian": 15, "Cyclist": 15}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitti")
    simulate_kitti(folder, (5, 1), seed=3, config=SCENE, sensor=SECTOR_32, images=False, planes=True)
    return folder


def reader(root, split="train"):
    return KittiObject(root, split, image_size=(375, 1242), with_plane=True)


@pytest.fixture(scope="module")
def database(root):
    return build_database(reader(root))


def polygons(boxes):
    return [shapely.Polygon(corners) for corners in bev_corners(boxes.astype(np.float64))]


def test_the_database_holds_what_the_frames_hold(root, database):
    data = reader(root)
    assert set(database.names) == {"Car", "Pedestrian", "Cyclist", "Van"} & set(database.names) >= {"Car"}
    row = 0
    for frame in data:
        counts = count_points(frame.points, frame.labels.boxes)
        for k, name in enumerate(frame.labels.names):
            assert (database.names[row], database.frame_ids[row]) == (name, frame.frame_id)
            assert database.difficulty[row] == frame.labels.difficulty[k]
            points = database.object_points(row)
            assert len(points) == counts[k] == database.num_points[row]
            back = points[:, :3] + frame.labels.boxes[k, :3]
            there = {tuple(p) for p in np.round(frame.points, 3).tolist()}
            together = np.column_stack((back, points[:, 3]))
            assert {tuple(p) for p in np.round(together.astype(np.float32), 3).tolist()} <= there
            row += 1
    assert row == len(database)


def test_facts_of_the_frames(root, database):
    facts = json.loads(prepared_paths(root, "train")[1].read_text())
    assert [f["frame_id"] for f in facts] == [f.frame_id for f in reader(root)]
    for fact, frame in zip(facts, reader(root), strict=True):
        assert fact["names"] == list(frame.labels.names)
        np.testing.assert_allclose(fact["boxes"], frame.labels.boxes)
        np.testing.assert_array_equal(fact["calibration"]["p2"], frame.calibration.p2)
        assert fact["num_points"] == count_points(frame.points, frame.labels.boxes).tolist()
    assert sum(len(f["names"]) for f in facts) == len(database)


def test_an_interrupted_run_continues_and_ends_the_same(root, database, tmp_path):
    shutil.copytree(root, tmp_path / "k", ignore=shutil.ignore_patterns("prepared"))
    seen = []

    class Stop(Exception):
        pass

    def stop_after_two(indices):
        for index in indices:
            if index == 2:
                raise Stop
            yield index

    with pytest.raises(Stop):
        build_database(reader(tmp_path / "k"), progress=stop_after_two)
    assert not prepared_paths(tmp_path / "k", "train")[0].exists()
    data = reader(tmp_path / "k")
    read = type(data).__getitem__

    class Watched(KittiObject):
        def __getitem__(self, index):
            seen.append(index)
            return read(self, index)

    data.__class__ = Watched
    build_database(data)
    assert seen == [2, 3, 4]
    again = ObjectDatabase.load(prepared_paths(tmp_path / "k", "train")[0])
    for name in ("points", "offsets", "boxes", "names", "difficulty", "frame_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(database, name))
    left = sorted(p.name for p in (tmp_path / "k" / "prepared").iterdir())
    assert left == ["frames_train.json", "objects_train.npz"]


def test_damaged_files(database, tmp_path):
    file = tmp_path / "objects.npz"
    database.save(file)
    loaded, messages = 0, []
    for _, data in corruptions(file):
        file.write_bytes(data)
        try:
            ObjectDatabase.load(file)
            loaded += 1
        except UserInputError as error:
            messages.append(str(error))
    assert all("objects.npz" in message for message in messages)
    assert loaded <= 2  # a flipped bit in a zip field that nobody reads
    with pytest.raises(UserInputError, match="tenfold lidar prepare"):
        ObjectDatabase.load(tmp_path / "none.npz")
    replace(database, names=database.names[:-1]).save(file)
    with pytest.raises(UserInputError, match="do not fit"):
        ObjectDatabase.load(file)


def check_pasting(paste, sample, database, seed):
    """What must hold of every pasted frame, whoever pasted it."""
    result = paste(sample, np.random.default_rng(seed))
    old = len(sample.names)
    np.testing.assert_array_equal(result.boxes[:old], sample.boxes)
    new = result.boxes[old:]
    for a, b in combinations(polygons(result.boxes), 2):
        assert a.intersection(b).area < 1e-6
    if not len(new):
        return result
    # Objects come first, with all their points; the scene keeps every point that no new box covers.
    scene = [p for p in sample.points if not count_points(p[None], new).any()]
    assert len(result.points) > len(scene)
    np.testing.assert_array_equal(result.points[len(result.points) - len(scene) :], scene)
    for box, name in zip(new, result.names[old:], strict=True):
        match = (database.names == name) & np.isclose(database.boxes[:, [0, 1, 3, 6]], box[[0, 1, 3, 6]]).all(
            1
        )
        index = int(np.flatnonzero(match)[0])
        assert database.num_points[index] >= 5
        assert database.difficulty[index] >= 0
        # Rounding may lose a point on a face.
        assert abs(count_points(result.points, box[None])[0] - database.num_points[index]) <= 2
    return result


@pytest.mark.parametrize("seed", range(4))
def test_pasted_objects_overlap_nothing_and_bring_their_points(root, database, seed):
    sampler = ObjectSampler(database, Augmentation(counts=COUNTS))
    sample = Sample.from_frame(reader(root, "val")[0])
    result = check_pasting(sampler.paste, sample, database, seed)
    assert len(result.names) > len(sample.names)


def test_the_pasting_check_sees_wrong_samplers(root, database, monkeypatch):
    from tenfold.lidar import sampling

    sampler = ObjectSampler(database, Augmentation(counts=COUNTS))
    sample = Sample.from_frame(reader(root, "val")[0])
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_free", lambda draws, standing: np.ones(len(draws), dtype=bool))
        with pytest.raises(AssertionError):
            check_pasting(sampler.paste, sample, database, 0)

    def keeps_covered_points(sample, rng):
        result = sampler.paste(sample, rng)
        objects = sum(count_points(result.points, result.boxes[len(sample.names) :]))
        return replace(result, points=np.concatenate((result.points[:objects], sample.points)))

    with pytest.raises(AssertionError):
        check_pasting(keeps_covered_points, sample, database, 0)


def test_two_colliding_draws_both_go(database):
    rows = np.flatnonzero((database.names == "Car") & (database.num_points >= 5) & (database.difficulty >= 0))
    row = rows[0]
    part = ObjectDatabase.joined([_only(database, row), _only(database, row), _only(database, rows[1])])
    sampler = ObjectSampler(part, Augmentation(counts={"Car": 3}))
    empty = Sample(np.zeros((0, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, "<U3"))
    result = sampler.paste(empty, np.random.default_rng(0))
    np.testing.assert_array_equal(result.boxes, part.boxes[2:])
    assert len(result.points) == part.num_points[2]


def _only(database, row):
    mask = np.arange(len(database)) == row
    return ObjectDatabase(
        database.object_points(row),
        np.array([0, database.num_points[row]]),
        database.boxes[mask],
        database.names[mask],
        database.difficulty[mask],
        database.frame_ids[mask],
    )


def test_counts_with_and_without_scene_limit(database):
    car = database.boxes[database.names == "Car"][0]
    far = car + np.array([0, 500, 0, 0, 0, 0, 0], np.float32)
    sample = Sample(np.zeros((0, 4), np.float32), far[None], np.array(["Car"]))
    drawn = []

    class Watched(np.random.Generator):
        def choice(self, pool, number, **options):
            drawn.append(number)
            return super().choice(pool, number, **options)

    for limited in (True, False):
        settings = Augmentation(counts={"Car": 2}, scene_limited=limited)
        ObjectSampler(database, settings).paste(sample, Watched(np.random.PCG64(0)))
    assert drawn == [1, 2]


def test_weak_and_unlabelled_objects_are_never_drawn(database):
    settings = Augmentation(counts=COUNTS)
    weak = replace(database, difficulty=np.full(len(database), -1))
    sample = Sample(np.zeros((0, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, "<U3"))
    assert ObjectSampler(weak, settings).paste(sample, np.random.default_rng(0)) is sample
    strict = ObjectSampler(database, settings, min_points=10**6)
    assert strict.paste(sample, np.random.default_rng(0)) is sample


def test_objects_stand_on_the_road(root, database):
    frame = reader(root, "val")[0]
    raised = replace(database, boxes=database.boxes + np.array([0, 0, 5, 0, 0, 0, 0], np.float32))
    sample = Sample.from_frame(frame)
    shifted = ObjectSampler(raised, Augmentation(counts=COUNTS)).paste(
        sample, np.random.default_rng(0), frame.plane, frame.calibration
    )
    new = shifted.boxes[len(sample.names) :].astype(np.float64)
    road = road_height(frame.plane, frame.calibration, new[:, :3])
    np.testing.assert_allclose(new[:, 2] - new[:, 5] / 2, road, atol=1e-3)
    assert np.ptp(road) > 0.05  # the ground is a slope
    off = Augmentation(counts=COUNTS, road_plane=False)
    high = ObjectSampler(raised, off).paste(sample, np.random.default_rng(0), frame.plane, frame.calibration)
    assert (high.boxes[len(sample.names) :, 2] > 3).all()


def test_no_objects_without_labels_or_frames(root):
    frame = replace(reader(root)[0], labels=None)
    with pytest.raises(UserInputError, match="labels: missing"):
        ObjectDatabase.from_frame(frame)
    (root / "ImageSets/none.txt").write_text("")
    with pytest.raises(UserInputError, match="none: lists no frame"):
        build_database(reader(root, "none"))
