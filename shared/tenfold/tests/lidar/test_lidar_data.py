"""The data module on nuScenes and on one's own data; workers, resume, two rounds of the task."""

import logging
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("lightning.pytorch")

from tenfold._errors import UserInputError
from tenfold.lidar.augment import Augmentation, Sample, flip, move_objects, rotate, scale
from tenfold.lidar.data import DetectionFrames, collate
from tenfold.lidar.evaluation import evaluate, headline, record, write_results
from tenfold.lidar.kitti import count_points
from tenfold.lidar.nuscenes import NuScenesDetection
from tenfold.lidar.prepare import prepare
from tenfold.lidar.sampling import ObjectDatabase, ObjectSampler, build_database, prepared_paths
from tenfold.lidar.task import LidarData, LidarTask, simulate_into, simulate_nuscenes_into
from tenfold.testing import assert_bit_equal, quiet_trainer
from tenfold.train.resume import ResumableLoader

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

NAMES = ("car", "truck", "bus", "pedestrian")
LIMITS = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)


def reader(root, split="mini_train", sweeps=3):
    return NuScenesDetection(root, "v1.0-mini", split, sweeps=sweeps)


@pytest.fixture(scope="module")
def prepared(small_nuscenes, tmp_path_factory):
    """The simulated scenes with index and object database, as the verb writes them."""
    root = tmp_path_factory.mktemp("prepared") / "data"
    shutil.copytree(small_nuscenes, root)
    prepare(root, "mini_train", "nuscenes", "v1.0-mini", 3)
    prepare(root, "mini_val", "nuscenes", "v1.0-mini", 3, objects=False)
    return root


def frames_of(root, augment=True, **options):
    settings = Augmentation(counts={"car": 6, "truck": 2}, scene_limited=False, flip_y=0.5)
    database = ObjectDatabase.load(prepared_paths(root, "v1.0-mini_mini_train")[0])
    return DetectionFrames(
        reader(root),
        class_names=NAMES,
        limits=LIMITS,
        augmentation=settings if augment else None,
        database=database if augment else None,
        **options,
    )


def test_prepare_writes_index_and_database(prepared):
    assert sorted(p.name for p in (prepared / "prepared").iterdir()) == [
        "objects_v1.0-mini_mini_train.npz",
        "v1.0-mini_mini_train_3sweeps.npz",
        "v1.0-mini_mini_val_3sweeps.npz",
    ]
    database = ObjectDatabase.load(prepared_paths(prepared, "v1.0-mini_mini_train")[0])
    assert database.boxes.shape[1] == 9
    assert database.points.shape[1] == 5
    assert (database.num_points >= 5).all()
    assert set(NAMES) <= set(database.names)


def test_prepare_leaves_a_damaged_sweep_out(small_nuscenes, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(small_nuscenes, root)
    index = reader(root, "mini_val").index
    (root / str(index.sweep_file[index.sweeps(1)][1])).write_bytes(b"1")
    with pytest.raises(UserInputError, match="no multiple of 5 columns"):
        prepare(root, "mini_val", "nuscenes", "v1.0-mini", 3)
    prepare(root, "mini_val", "nuscenes", "v1.0-mini", 3, bad_sweeps="skip")
    assert len(ObjectDatabase.load(prepared_paths(root, "v1.0-mini_mini_val")[0])) > 0


def test_samples_have_velocity_where_asked_for(prepared):
    with_velocity, without = frames_of(prepared, velocity=True)[0], frames_of(prepared)[0]
    assert with_velocity.gt_boxes.shape[1] == 10
    assert without.gt_boxes.shape[1] == 8
    np.testing.assert_array_equal(with_velocity.gt_boxes[:, [0, 6, 9]], without.gt_boxes[:, [0, 6, 7]])
    assert np.abs(with_velocity.gt_boxes[:, 7:9]).max() > 1
    assert with_velocity.points.shape[1] == 5
    assert with_velocity.truth is None  # training
    batch = collate([with_velocity, frames_of(prepared, velocity=True)[1]])
    assert batch["gt_boxes"].shape[2] == 10
    assert set(batch["gt_boxes"][..., 9].unique().tolist()) <= {0.0, 1, 2, 3, 4}


def test_pasted_objects_keep_age_and_velocity(prepared):
    database = ObjectDatabase.load(prepared_paths(prepared, "v1.0-mini_mini_train")[0])
    settings = Augmentation(counts={"car": 9}, scene_limited=False)
    sample = Sample.from_frame(reader(prepared)[1])
    pasted = ObjectSampler(database, settings).paste(sample, np.random.default_rng(0))
    new = pasted.boxes[len(sample.boxes) :]
    assert len(new) >= 3
    assert new.shape[1] == 9
    for box in new:
        source = np.flatnonzero((database.boxes == box).all(axis=1))
        assert len(source) == 1
        inside = count_points(pasted.points, box[None, :7])[0]
        assert inside >= database.num_points[source[0]]
    four = ObjectDatabase(
        database.points[:, :4],
        *(getattr(database, n) for n in ("offsets", "boxes", "names", "difficulty", "frame_ids")),
    )
    with pytest.raises(UserInputError, match="points: 4 columns, the frames have 5"):
        ObjectSampler(four, settings).paste(sample, np.random.default_rng(0))


def test_augmentation_keeps_points_in_their_boxes_and_turns_velocities(prepared):
    sample = Sample.from_frame(reader(prepared)[1])
    sample.boxes[:, 7:] = (3.0, 1.0)
    before = count_points(sample.points, sample.boxes[:, :7])
    speed = np.hypot(3, 1)
    for change, factor in (
        (lambda s: flip(s), 1),
        (lambda s: flip(s, "y"), 1),
        (lambda s: rotate(s, 0.7), 1),
        (lambda s: scale(s, 1.05), 1.05),
    ):
        moved = change(sample)
        after = count_points(moved.points, moved.boxes[:, :7])
        assert np.abs(after - before).sum() <= 2  # rounding at a face
        np.testing.assert_allclose(np.hypot(*moved.boxes[:, 7:].T), speed * factor, rtol=1e-5)
    turned = rotate(sample, np.pi / 2)
    np.testing.assert_allclose(turned.boxes[:, 7:], [[-1, 3]] * len(sample.boxes), atol=1e-5)
    np.testing.assert_allclose(flip(sample, "y").boxes[:, 7:], [[-3, 1]] * len(sample.boxes), atol=1e-6)


def test_objects_move_by_themselves(prepared):
    sample = Sample.from_frame(reader(prepared)[1])
    sample.boxes[:, 7:] = (3.0, 0.0)
    settings = Augmentation(object_rotation=np.pi / 4, object_shift=(1.0, 1.0, 0.5), counts={})
    moved = move_objects(sample, np.random.default_rng(0), settings)
    shift = np.abs(moved.boxes[:, :3] - sample.boxes[:, :3])
    assert (shift.max(axis=1) > 0.01).mean() > 0.8
    turn = moved.boxes[:, 6] - sample.boxes[:, 6]
    assert np.abs(turn).max() <= np.pi / 4 + 1e-6
    np.testing.assert_array_equal(moved.boxes[:, 3:6], sample.boxes[:, 3:6])
    # Velocity turns with the object, and so do its points.
    np.testing.assert_allclose(moved.boxes[:, 7], 3 * np.cos(turn), atol=1e-5)
    before, after = (count_points(s.points, s.boxes[:, :7]) for s in (sample, moved))
    assert (after >= before - 2).all()
    from tenfold.ops import box_iou_bev

    overlap = box_iou_bev(*[torch.from_numpy(np.ascontiguousarray(moved.boxes[:, :7]))] * 2).fill_diagonal_(0)
    crowded = box_iou_bev(*[torch.from_numpy(np.ascontiguousarray(sample.boxes[:, :7]))] * 2).fill_diagonal_(
        0
    )
    assert overlap.max() <= crowded.max()
    # Where no draw fits, an object stays.
    packed = Sample(sample.points, np.repeat(sample.boxes[:1], 2, axis=0), sample.names[:2])
    tight = Augmentation(object_rotation=0.01, object_shift=(0.01, 0.01, 0), counts={}, object_tries=5)
    np.testing.assert_array_equal(move_objects(packed, np.random.default_rng(0), tight).boxes, packed.boxes)
    for wrong in (
        {"object_rotation": 9.0},
        {"object_shift": (1, 1)},
        {"object_shift": (-1, 1, 1)},
        {"flip_y": 2},
    ):
        with pytest.raises(ValueError, match="Augmentation"):
            Augmentation(**wrong)


def loader(root, workers, seed=5):
    data = frames_of(root, velocity=True, seed=seed)
    return ResumableLoader(data, batch_size=2, seed=seed, num_workers=workers, collate_fn=collate)


def tensors(batch):
    return {name: batch[name] for name in ("points", "gt_boxes")}


def test_two_workers_equal_none_and_a_resumed_epoch_goes_on(prepared):
    alone = loader(prepared, 0)
    whole = [tensors(batch) for batch in alone]
    assert len(whole) == 3
    assert_bit_equal([tensors(batch) for batch in loader(prepared, 2)], whole)
    first = iter(halted := loader(prepared, 0))
    next(first)
    state = halted.state_dict()
    resumed = loader(prepared, 0)
    resumed.load_state_dict(state)
    assert_bit_equal([tensors(batch) for batch in resumed], whole[1:])
    other = [tensors(batch) for batch in loader(prepared, 0, seed=6)]
    assert other[0]["points"].shape != whole[0]["points"].shape


def test_shuffled_evaluation_is_the_same_every_time(prepared):
    plain = frames_of(prepared, augment=False)[0].points
    ours, again = (frames_of(prepared, augment=False, shuffle_points=True)[0].points for _ in range(2))
    np.testing.assert_array_equal(ours, again)
    assert (ours != plain).any()
    np.testing.assert_array_equal(np.sort(ours, axis=0), np.sort(plain, axis=0))


def perfect(frame):
    keep = np.isin(frame.truth.sample.boxes.name, NAMES)
    assert keep.any()
    rows = frame.gt_boxes
    return {"boxes": rows[:, :7], "scores": np.full(len(rows), 0.9), "labels": rows[:, -1].astype(int) - 1}


def test_evaluation_of_key_frames(prepared, tmp_path):
    data = DetectionFrames(reader(prepared, "mini_val"), class_names=NAMES, limits=LIMITS)
    frames = [data[k] for k in range(len(data))]
    records = [record(frame, perfect(frame), NAMES) for frame in frames]
    result = evaluate(records, NAMES)
    values = headline(result)
    assert {"NDS", "mAP", "car", "trans_err"} <= set(values)
    assert values["car"] == pytest.approx(1.0)
    write_results(tmp_path, records, result)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "submission.json"]
    with pytest.raises(UserInputError, match="'Car' is no class of nuScenes"):
        record(frames[0], perfect(frames[0]), ("Car", *NAMES[1:]))
    unlabelled = [type(r)(r.frame_id, None, r.found) for r in records]
    assert evaluate(unlabelled, NAMES) is None
    write_results(tmp_path / "test", unlabelled, None)
    assert [p.name for p in (tmp_path / "test").iterdir()] == ["submission.json"]


def test_evaluation_of_one_s_own_data(tmp_path, write_own):
    from tenfold.lidar.custom import CustomFrames

    root = write_own(tmp_path / "own", frames=50, val=48)
    data = DetectionFrames(
        CustomFrames(root, "val"), class_names=("Car", "Tram"), limits=(0, -60, -3, 80, 60, 1)
    )
    records = []
    for k in range(len(data)):
        frame = data[k]
        found = {"boxes": frame.gt_boxes[:, :7], "scores": np.full(len(frame.gt_boxes), 0.5)}
        records.append(
            record(frame, {**found, "labels": np.zeros(len(frame.gt_boxes), int)}, data.class_names)
        )
    result = evaluate(records, data.class_names)
    assert {c.metric for c in result.curves} == {"bev", "3d"}
    assert result.ap("Car") == 100
    assert result.ap("Car", difficulty="easy") == 100
    write_results(tmp_path / "r", records, result)
    assert len(list((tmp_path / "r/data").glob("*.json"))) == 48


def tiny_trainer(folder, **options):
    return quiet_trainer(folder, enable_checkpointing=False, **{"max_epochs": 1, **options})


def test_fit_and_test_on_nuscenes(prepared, tmp_path, capsys):
    """Two steps of a narrow SECOND with heads for all ten classes, and the benchmark's table."""
    from tenfold.eval.nuscenes import CLASSES

    narrow = {
        "point_range": [-25.6, -25.6, -5.0, 25.6, 25.6, 3.0],
        "voxel_size": [0.4, 0.4, 0.2],
        "channels": [4, 4, 4, 8],
        "blocks": [1, 1, 1, 1],
        "out_channels": 8,
        "bev_layers": [1],
        "bev_strides": [1],
        "bev_channels": [8],
        "up_strides": [1],
        "up_channels": [8],
        "head_channels": 8,
    }
    torch.manual_seed(0)
    task = LidarTask(
        "second", "nuscenes", narrow, lr=0.01, results=str(tmp_path / "r"), tta_flips=["x", "y", "xy"]
    )
    data = LidarData(
        str(prepared),
        "nuscenes",
        "mini_train",
        "mini_val",
        batch_size=2,
        version="v1.0-mini",
        sweeps=3,
        balance=True,
        counts={"car": 4, "bus": 1},
    )
    tiny_trainer(tmp_path, limit_train_batches=2).fit(task, datamodule=data)
    tiny_trainer(tmp_path).test(task, datamodule=data, verbose=False)
    assert task.result.frames == 3
    assert set(task.result.classes) == set(CLASSES)
    assert f"NDS {task.result.nds:.4f}" in capsys.readouterr().out
    from tenfold.eval.nuscenes import read_submission

    assert set(read_submission(tmp_path / "r" / "submission.json")) == set(reader(prepared, "mini_val").ids)


def test_fit_and_test_on_one_s_own_data(tmp_path, write_own, tiny, capsys):
    root = write_own(tmp_path / "own")
    torch.manual_seed(0)
    task = LidarTask("second", "kitti", tiny, lr=0.01, results=str(tmp_path / "r"), tta_flips=["x"])
    data = LidarData(str(root), "custom", batch_size=2)
    tiny_trainer(tmp_path).fit(task, datamodule=data)
    tiny_trainer(tmp_path).test(task, datamodule=data, verbose=False)
    assert "Car" in capsys.readouterr().out
    assert len(list((tmp_path / "r/data").glob("*.json"))) == 2
    balanced = LidarData(str(root), "custom", batch_size=2, balance=True, counts={"Car": 2})
    build_database(balanced._reader("train"))
    assert len(balanced.train_frames(("Car",), (0, -13, -3, 26, 13, 1))) == 4


def test_boxes_outside_the_range_are_counted_and_told_once(tmp_path, write_own, tiny):
    root = write_own(tmp_path / "own")
    narrow = {**tiny, "point_range": [0.0, -12.8, -3.0, 12.8, 12.8, 1.0]}
    frames = LidarData(str(root), "custom").train_frames(("Car",), narrow["point_range"])
    outside = [frame.outside for frame in map(frames.__getitem__, range(4))]
    assert outside[:3] == [0, 0, 0]
    assert outside[3] >= 1  # its car stands at x = 13, so that another frame stands in for it
    task = LidarTask("second", "kitti", narrow, lr=0.01)
    data = LidarData(str(root), "custom", batch_size=2)
    with pytest.warns(UserWarning, match=r"left out of training: \d+ boxes .*beside 4 that are kept") as told:
        tiny_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(task, datamodule=data)
    assert sum("left out of training" in str(w.message) for w in told) == 1


def test_settings_that_do_not_fit(tmp_path, write_own):
    for wrong, message in (
        ({"dataset": "moon"}, "dataset: got 'moon'"),
        ({"balance": True}, "balance"),
        ({"dataset": "custom", "simulate": (2, 1)}, "simulate"),
    ):
        with pytest.raises(UserInputError, match=message):
            LidarData(str(tmp_path), **wrong)
    for simulate, frames, message in (
        (simulate_nuscenes_into, (9, 1), "data.simulate: .*up to 8"),
        (simulate_into, (0, 0), "data.simulate: .*one frame or more"),
    ):
        with pytest.raises(UserInputError, match=message):
            simulate(tmp_path / "x", frames, 0)
        assert not any((tmp_path / "x").iterdir())  # nothing says that other data there were simulated
    write_own(tmp_path / "own")
    data = LidarData(str(tmp_path / "own"), "custom")
    frames = data.train_frames(("Tram",), LIMITS)
    with pytest.raises(UserInputError, match="none of 100 random frames"):
        frames[0]
