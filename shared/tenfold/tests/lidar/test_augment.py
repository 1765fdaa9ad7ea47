from dataclasses import replace

import numpy as np
import pytest
import torch

from tenfold._errors import UserInputError
from tenfold.geometry import points_to_box_frame
from tenfold.lidar.augment import (
    Augmentation,
    Sample,
    flip,
    in_range,
    keep_classes,
    rotate,
    scale,
    shuffle,
    training_sample,
)
from tenfold.lidar.data import DetectionFrames, collate, detections_to_kitti, evaluation_labels
from tenfold.lidar.kitti import KittiObject, count_points
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, simulate_kitti

LIMITS = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
CLASSES = ("Car", "Pedestrian", "Cyclist")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitti")
    simulate_kitti(folder, (3, 1), seed=2, config=SMALL_SCENE, sensor=SECTOR_32, images=False, planes=True)
    return folder


@pytest.fixture(scope="module")
def frames(root):
    return KittiObject(root, "train", image_size=(375, 1242), with_plane=True)


def random_sample(seed, points=4000, boxes=6):
    rng = np.random.default_rng(seed)
    centres = rng.uniform((5, -20, -2), (40, 20, 0), (boxes, 3))
    sizes = rng.uniform((2, 1, 1), (5, 2, 2), (boxes, 3))
    rows = np.hstack((centres, sizes, rng.uniform(-4, 4, (boxes, 1))))
    around = rows[rng.integers(boxes, size=points), :3] + rng.normal(0, 1.5, (points, 3))
    cloud = np.hstack((around, rng.random((points, 1)))).astype(np.float32)
    names = rng.choice([*CLASSES, "Van"], boxes)
    return Sample(cloud, rows.astype(np.float32), names)


def clear_of_faces(sample, margin=1e-3):
    """The sample without points so near a face that rounding may move them across."""
    keep = np.ones(len(sample.points), dtype=bool)
    for box in sample.boxes.astype(np.float64):
        local = np.abs(points_to_box_frame(sample.points[:, :3].astype(np.float64), box))
        keep &= (np.abs(local - box[3:6] / 2) > margin).all(axis=1)
    return replace(sample, points=sample.points[keep])


MOVES = {
    "flip": flip,
    "rotate": lambda s: rotate(s, 0.7),
    "turn back": lambda s: rotate(s, -3.0),
    "shrink": lambda s: scale(s, 0.95),
    "grow": lambda s: scale(s, 1.05),
    "all": lambda s: scale(rotate(flip(s), -0.5), 1.03),
}


def check_counts_stay(move, seed):
    sample = clear_of_faces(random_sample(seed))
    before = count_points(sample.points, sample.boxes)
    moved = move(sample)
    assert before.sum() > 300
    np.testing.assert_array_equal(count_points(moved.points, moved.boxes), before)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MOVES)
def test_points_in_boxes_stay_the_same(name, seed):
    check_counts_stay(MOVES[name], seed)


def test_the_counts_test_sees_wrong_moves():
    def only_boxes(sample):
        return replace(sample, boxes=rotate(sample, 0.7).boxes)

    def heading_kept(sample):
        moved = flip(sample)
        return replace(moved, boxes=np.concatenate((moved.boxes[:, :6], sample.boxes[:, 6:]), 1))

    def size_kept(sample):
        moved = scale(sample, 1.05)
        return replace(moved, boxes=np.concatenate((moved.boxes[:, :3], sample.boxes[:, 3:]), 1))

    for wrong in (only_boxes, heading_kept, size_kept):
        with pytest.raises(AssertionError):
            check_counts_stay(wrong, 0)


def test_moves_keep_features_names_and_the_original():
    sample = random_sample(1)
    copy = (sample.points.copy(), sample.boxes.copy())
    for move in MOVES.values():
        moved = move(sample)
        np.testing.assert_array_equal(moved.points[:, 3], sample.points[:, 3])
        assert moved.names is sample.names
        assert moved.points.dtype == moved.boxes.dtype == np.float32
    np.testing.assert_array_equal(sample.points, copy[0])
    np.testing.assert_array_equal(sample.boxes, copy[1])


def test_class_and_range_filter():
    points = np.array([[1, 0, 9, 0], [1, 41, 0, 0], [-1, 0, 0, 0]], dtype=np.float32)
    boxes = np.tile(np.array([[10, 0, -1, 4, 2, 1.5, 0]], np.float32), (4, 1))
    boxes[1, 0] = -0.1
    boxes[2, 2] = 1.5
    sample = Sample(points, boxes, np.array(["Car", "Car", "Car", "Van"]))
    kept = in_range(sample, LIMITS)
    assert kept.points[:, 2].tolist() == [9]  # the height of a point is left to the voxels
    assert kept.names.tolist() == ["Car", "Van"]
    assert keep_classes(kept, CLASSES).names.tolist() == ["Car"]
    with pytest.raises(ValueError, match="got 'Van'; expected one of"):
        kept.labels(CLASSES)


def test_shuffle_is_a_permutation_of_points():
    sample = random_sample(0)
    mixed = shuffle(sample, np.random.default_rng(0))
    assert not np.array_equal(mixed.points, sample.points)
    order = np.lexsort(mixed.points.T)
    np.testing.assert_array_equal(mixed.points[order], sample.points[np.lexsort(sample.points.T)])


def test_strengths_reach_their_limits_and_not_beyond(frames):
    frame = frames[0]
    settings = Augmentation(flip=0.5, rotation=0.3, scale=(0.9, 1.1), counts={})
    headings, factors, flips = [], [], 0
    original = Sample.from_frame(frame)
    for seed in range(200):
        wide = (-1e3, -1e3, -1e3, 1e3, 1e3, 1e3)
        sample = training_sample(
            replace(frame, points=frame.points[:1]),
            np.random.default_rng(seed),
            class_names=CLASSES,
            limits=wide,
            settings=settings,
        )
        factors.append(sample.boxes[0, 3] / original.boxes[0, 3])
        turn = np.arctan2(sample.boxes[:2, 1], sample.boxes[:2, 0])
        start = np.arctan2(original.boxes[:2, 1], original.boxes[:2, 0])
        flipped = abs(np.ptp(turn - start)) > 1e-4
        flips += flipped
        headings.append((turn + start if flipped else turn - start)[0])
    assert 0.9 <= min(factors) < 0.91
    assert 1.09 < max(factors) <= 1.1
    assert -0.3001 <= min(headings) < -0.28
    assert 0.28 < max(headings) <= 0.3001
    assert 70 < flips < 130


def test_samples_depend_on_seed_epoch_and_index_alone(frames):
    def data(seed=0):
        return DetectionFrames(
            frames, class_names=CLASSES, limits=LIMITS, augmentation=Augmentation(counts={}), seed=seed
        )

    one, two = data(), data()
    two[2], two[0]  # the order of access must not matter
    np.testing.assert_array_equal(one[1].points, two[1].points)
    np.testing.assert_array_equal(one[1].gt_boxes, two[1].gt_boxes)
    before = one[1].points
    one.set_epoch(1)
    assert not np.array_equal(before, one[1].points)
    assert not np.array_equal(before, data(seed=1)[1].points)


def test_a_frame_without_objects_is_replaced_in_training_only(root, frames):
    empty = root / "training/label_2/000000.txt"
    text = empty.read_text()
    try:
        empty.write_text("")
        plain = {"class_names": CLASSES, "limits": LIMITS}
        data = DetectionFrames(frames, **plain, augmentation=Augmentation(counts={}))
        assert data[0].frame_id != "000000"
        assert len(data[0].gt_boxes)
        assert DetectionFrames(frames, **plain)[0].frame_id == "000000"
        none = DetectionFrames(frames, class_names=("Tram",), limits=LIMITS, augmentation=Augmentation())
        with pytest.raises(UserInputError, match="none of 100 random frames has an object of Tram"):
            none[1]
    finally:
        empty.write_text(text)


def test_batches(frames):
    data = DetectionFrames(frames, class_names=CLASSES, limits=LIMITS)
    batch = collate([data[0], replace(data[1], gt_boxes=data[1].gt_boxes[:2])])
    assert batch["batch_size"] == 2
    assert batch["points"].dtype == batch["gt_boxes"].dtype == torch.float32
    assert batch["points"].shape[1] == 5
    for k, frame in enumerate(batch["frames"]):
        np.testing.assert_array_equal(batch["points"][batch["points"][:, 0] == k, 1:], frame.points)
    assert batch["gt_boxes"].shape == (2, len(data[0].gt_boxes), 8)
    assert (batch["gt_boxes"][0, :, 7] == 1).all()
    assert (batch["gt_boxes"][1, 2:] == 0).all()
    nothing = replace(data[0], points=data[0].points[:0], gt_boxes=data[0].gt_boxes[:0])
    assert collate([nothing])["gt_boxes"].shape == (1, 0, 8)
    assert collate([nothing])["points"].shape == (0, 5)


def test_evaluation_sees_every_label_and_projected_detections(frames):
    frame = frames[0]
    labels = evaluation_labels(frame)
    assert labels.names[: len(frame.labels)] == frame.labels.names
    assert set(labels.names[len(frame.labels) :]) <= {"DontCare"}
    assert len(labels) == len(frame.labels) + len(frame.dont_care)
    own = frame.labels
    behind = own.boxes[:1] * np.array([-1, 1, 1, 1, 1, 1, 1])
    found = {
        "boxes": np.concatenate((own.boxes, behind)),
        "scores": np.linspace(0.2, 0.9, len(own) + 1),
        "labels": np.zeros(len(own) + 1, dtype=int),
    }
    result = detections_to_kitti(found, CLASSES, frame.calibration, frame.image_size)
    assert len(result) == len(own)  # the one behind the camera is gone
    assert (np.diff(result.scores) < 0).all()
    np.testing.assert_allclose(result.boxes, own.boxes[::-1])
    whole = own.truncation[::-1] == 0
    np.testing.assert_allclose(result.boxes2d[whole], own.boxes2d[::-1][whole], atol=12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip: 1.5 was received"),
        ({"rotation": -1}, "rotation: -1 was received"),
        ({"scale": (1.1, 0.9)}, "scale"),
        ({"counts": {"Car": -1}}, "counts"),
    ],
)
def test_wrong_strengths(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="points: shape"):
        Sample(np.zeros((3, 2), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, str))
    with pytest.raises(ValueError, match="one row per name"):
        Sample(np.zeros((3, 4), np.float32), np.zeros((2, 7), np.float32), np.array(["Car"]))
