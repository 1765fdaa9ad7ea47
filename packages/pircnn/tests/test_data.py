"""Readers, label maps, caches, pasted objects, metrics, generated scenes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pircnn.checkpoints import load_segmentation
from pircnn.data import KinsDataset, KittiFusionDataset, KittiSemanticDataset, SemanticCache, collate_camera
from pircnn.data.cache import require_same_source
from pircnn.data.columns import SEEN, STORED, UNSEEN
from pircnn.data.frames import ObjectFrames
from pircnn.data.semantic import CITYSCAPES, SEMANTIC_CLASSES, lookup_table, paint_instances
from pircnn.data.toy import toy_scene, write_toy_semantics
from pircnn.experiment import measure_points
from pircnn.prepare import prepare, read_facts, semantic_map
from pircnn.sampling import sample_image_features
from pircnn.seg_metrics import average_precision, confusion, per_image_metrics, roc_auc, seg_metrics
from tenfold._errors import UserInputError
from tenfold.io import file_hash
from tenfold.lidar.augment import Augmentation
from tenfold.lidar.data import DetectionFrames
from tenfold.lidar.sampling import ObjectDatabase, prepared_paths
from tenfold.testing import require, sample_data


def test_every_cityscapes_id_has_its_class():
    """The released list, resolved by hand; 34 ids and the license plate."""
    ignored, wanted = 255, {
        6: 3, 7: 8, 8: 8, 9: 8, 10: 8, 11: 5, 12: 5, 13: 5, 14: 5, 15: 5, 16: 5, 17: 6, 18: 6, 19: 6, 20: 6, 21: 4,
        22: 3, 23: 7, 24: 1, 25: 2, 26: 0, 27: 9, 28: 9, 29: 0, 30: 9, 31: 9, 32: 2, 33: 2,
    }  # fmt: skip
    table = lookup_table()
    assert [int(table[k]) for k in range(34)] == [wanted.get(k, ignored) for k in range(34)]
    assert table[255] == ignored
    assert len(CITYSCAPES) == 34
    assert len(SEMANTIC_CLASSES) == 10


def test_semantics_split_and_augmentation(tmp_path):
    write_toy_semantics(tmp_path, 10)
    train, val, everything = (KittiSemanticDataset(tmp_path, s) for s in ("train", "val", "all"))
    assert [n[4:6] for n in val.names] == ["04", "09"]
    assert sorted(train.names + val.names) == sorted(everything.names)
    image, labels = train[0]
    assert image.shape == (3, 96, 320)
    assert set(labels.unique().tolist()) <= {0, 3, 5}
    scene = toy_scene((0, 3, 0))
    assert ((labels == 0).numpy() == (scene.labels == 1)).all()
    moved = KittiSemanticDataset(tmp_path, "train", augment=True, size=(48, 160), seed=1)
    moved.set_epoch(2)
    first = moved[1]
    assert first[0].shape == (3, 48, 160)
    assert all(torch.equal(a, b) for a, b in zip(first, moved[1], strict=True))
    moved.set_epoch(3)
    assert not torch.equal(first[0], moved[1][0])
    assert len(KittiSemanticDataset(tmp_path, "all", exclude=["000003_10"])) == 9
    # Half of the pictures stay uncropped and half unmirrored: probabilities count.
    small = KittiSemanticDataset(tmp_path, "all", augment=True)
    same = 0
    for epoch in range(8):
        small.set_epoch(epoch)
        same += sum(torch.equal(small[k][1], everything[k][1]) for k in range(10))
    assert 8 <= same <= 34  # a quarter of 80
    with pytest.raises(UserInputError, match="split"):
        KittiSemanticDataset(tmp_path, "test")
    with pytest.raises(UserInputError, match="no image"):
        KittiSemanticDataset(tmp_path / "none")
    Image.new("L", (10, 10)).save(tmp_path / "training/semantic" / train.names[0])
    with pytest.raises(UserInputError, match="size"):
        train[0]


def test_jitter_is_small_and_grey_stays_grey():
    from pircnn.data.semantic import _jittered

    grey = np.full((8, 8, 3), 120, np.uint8)
    for seed in range(10):
        out = _jittered(grey, np.random.default_rng(seed)).astype(int)
        assert np.ptp(out) <= 2
        assert abs(out.mean() - 120) <= 13


def test_kins_masks_equal_coco(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 10:44] = rng.random((25, 34)) < 0.6
    runs = np.diff(np.flatnonzero(np.diff(np.r_[255, mask.T.ravel(), 255].astype(int)) != 0))
    counts = [int(v) for v in (runs if mask[0, 0] == 0 else np.r_[0, runs])]
    plain = {"counts": counts, "size": [40, 60]}
    painted = paint_instances([{"category_id": 4, "oco_id": 1, "i_segm": plain}], {4: 2}, (40, 60))
    assert np.array_equal(painted, mask * 2)
    polygon = [[10.0, 5.0, 40.0, 5.0, 40.0, 25.0, 10.0, 25.0]]
    near = {"category_id": 2, "oco_id": 0, "i_segm": polygon}
    both = paint_instances([near, {"category_id": 4, "oco_id": 1, "i_segm": plain}], {2: 1, 4: 2}, (40, 60))
    assert both[10, 20] == 1
    document = {
        "images": [{"id": 7, "file_name": "000007.png", "height": 40, "width": 60}],
        "annotations": [{"image_id": 7, **near}],
        "categories": [{"id": 2, "name": "pedestrian"}, {"id": 4, "name": "car"}],
    }
    file = tmp_path / "kins.json"
    file.write_text(json.dumps(document))
    kins = KinsDataset(file, (("car",), ("pedestrian",)))
    assert kins("000007")[10, 20] == 2
    assert kins("000008") is None
    with pytest.raises(UserInputError, match="no 'tram'"):
        KinsDataset(file, (("tram",),))
    with pytest.raises(UserInputError, match="i_segm"):
        paint_instances([{"category_id": 2, "i_segm": 3}], {2: 1}, (40, 60))
    require("pycocotools")
    from pycocotools import mask as coco

    packed = coco.encode(np.asfortranarray(mask))
    text = {"counts": packed["counts"].decode(), "size": [40, 60]}
    again = paint_instances([{"category_id": 4, "oco_id": 1, "i_segm": text}], {4: 2}, (40, 60))
    assert np.array_equal(again, mask * 2)


def test_frames_carry_their_pixels(kitti, toy):
    root, names = kitti
    frames = KittiFusionDataset(root, "train")
    frame = frames[0]
    assert frame.points.shape[1] == 7
    assert (frame.points[:, 6] == SEEN).all()  # points of the frustum
    assert np.array_equal(frame.camera.image, toy[0].image)
    rows = KittiFusionDataset(root, "train", fov_only=False)[0].points
    wanted = toy[0].calib.lidar_to_image(toy[0].points, (96, 320))
    np.testing.assert_allclose(rows[wanted[2], 4:6], wanted[0][wanted[2]], atol=1e-3)
    assert ((rows[:, 6] == SEEN) == wanted[2]).all()
    other = KittiFusionDataset(root, "train", other_images=True)[0]
    assert np.array_equal(other.camera.image, toy[1].image)
    turned = KittiFusionDataset(root, "train", turn=2.0)[0].points
    assert 3 < np.abs(turned[:, 4] - frame.points[:, 4])[turned[:, 6] == SEEN].mean() < 12
    noisy = KittiFusionDataset(root, "train", pixel_noise=2.0)[0].points
    assert 1 < np.abs(noisy[:, 4] - frame.points[:, 4]).mean() < 2.2
    assert names == frames.ids


def test_wrong_sizes_and_missing_images(kitti):
    root, _ = kitti
    file = root / "training/image_2/000000.png"
    whole = Image.open(file).copy()
    whole.resize((160, 48)).save(file)
    with pytest.raises(UserInputError, match=r"principal point .* 160 x 48"):
        KittiFusionDataset(root, "train")[0]
    file.unlink()
    with pytest.raises(UserInputError, match="image is missing"):
        KittiFusionDataset(root, "train", image_size=(96, 320))[0]
    frame = KittiFusionDataset(root, "train", image_size=(96, 320), missing="unseen")[0]
    assert (frame.points[:, 6] == UNSEEN).all()
    assert frame.camera.image is None
    with pytest.raises(UserInputError, match="missing: got 'skip'"):
        KittiFusionDataset(root, "train", missing="skip")


def test_batches_keep_images_and_drop_them_from_frames(kitti):
    root, _ = kitti
    labels = {"000000": np.ones((96, 320), np.uint8)}
    reader = KittiFusionDataset(root, "train", labels=labels.get)
    frames = DetectionFrames(reader, class_names=("Car",), limits=(0, -32, -3, 40, 32, 1))
    batch = collate_camera([frames[0], frames[1]])
    assert [tuple(i.shape) for i in batch["images"]] == [(3, 96, 320)] * 2
    assert batch["label_maps"][1] is None
    assert batch["points"].shape[1] == 8
    assert all(f.camera is None for f in batch["frames"])


def test_cached_maps_and_their_source(kitti, seg_checkpoint, tmp_path):
    root, _ = kitti
    prepare(root, "train", seg_checkpoint, objects=False, maps=True)
    prepare(root, "train", seg_checkpoint, objects=False, maps=True)  # continues
    cache = SemanticCache(root / "prepared/maps_train")
    frame = KittiFusionDataset(root, "train", cache=cache)[1]
    image = KittiFusionDataset(root, "train")[1].camera.image
    wanted = semantic_map(load_segmentation(seg_checkpoint), image)
    assert np.abs(frame.camera.semantics - wanted).max() < 1e-3
    source = file_hash(seg_checkpoint)
    require_same_source(cache.facts, 3, "prob", source, "x")
    for channels, kind, other, words in (
        (10, "prob", source, "channels: got 3"),
        (3, "logits", source, "features: got prob; the detector reads logits"),
        (3, "prob", "1" * 16, "checkpoint"),
    ):
        with pytest.raises(UserInputError, match=words):
            require_same_source(cache.facts, channels, kind, other, "x")
    with pytest.raises(UserInputError, match="remove the folder"):
        SemanticCache.create(cache.folder, 10, "prob", source)
    cache.write("000001", np.zeros((3, 10, 20), np.float32))
    with pytest.raises(UserInputError, match="20 x 10"):
        KittiFusionDataset(root, "train", cache=cache)[1]
    cache.path("000001").write_bytes(b"none")
    with pytest.raises(UserInputError, match=r"000001.npy"):
        cache.read("000001")
    with pytest.raises(UserInputError, match="no cached maps"):
        SemanticCache(tmp_path / "none")
    with pytest.raises(UserInputError, match="--segmentation"):
        prepare(root, "train", None, maps=True)


def test_pasted_objects_bring_their_semantics_along(kitti, seg_checkpoint):
    """Through database, pasting, augmentation, range and shuffle: what was stored arrives, and lengths agree."""
    root, _ = kitti
    prepare(root, "train", seg_checkpoint)
    facts, _ = read_facts(root, "train")
    assert facts == {"channels": 3, "checkpoint": file_hash(seg_checkpoint), "features": "prob"}
    reader = KittiFusionDataset(root, "train", stored=3)
    database = ObjectDatabase.load(prepared_paths(root, reader.prepared_name)[0])
    assert (database.points[:, 6] == STORED).all()
    np.testing.assert_allclose(database.points[:, 7:].sum(1), 1, atol=1e-3)  # probabilities, interpolated
    network = load_segmentation(seg_checkpoint)
    frame = reader[0]
    told = torch.from_numpy(semantic_map(network, frame.camera.image))[None]
    read = sample_image_features(told, torch.from_numpy(frame.points[None, :, 4:6]))[0].numpy()
    settings = Augmentation(counts={"Car": 8}, road_plane=False)
    frames = DetectionFrames(
        reader, class_names=("Car",), limits=(0, -32, -3, 40, 32, 1), augmentation=settings, database=database
    )
    sample = frames[0]
    pasted = sample.points[:, 6] == STORED
    assert 20 < pasted.sum() < len(sample.points)
    known = {row.tobytes() for row in database.points[:, 7:]}
    assert all(row.tobytes() in known for row in sample.points[pasted, 7:])
    # Own points still read their own pixel: the network's value there is one of the frame's.
    kept = sample.points[~pasted]
    again = sample_image_features(told, torch.from_numpy(kept[None, :, 4:6]))[0].numpy()
    assert {row.tobytes() for row in again} <= {row.tobytes() for row in read}
    assert len(sample.gt_boxes) > frame.labels.boxes.shape[0]
    with pytest.raises(UserInputError, match="no object database"):
        read_facts(root, "val")


def test_objects_without_a_network_are_unseen(kitti):
    root, _ = kitti
    prepare(root, "train")
    database = ObjectDatabase.load(prepared_paths(root, "train_camera")[0])
    assert database.points.shape[1] == 7
    assert not database.points[:, 4:].any()
    assert len(ObjectFrames(root, "train")) == 2


def test_real_frames():
    root = sample_data("kitti")
    frames = KittiFusionDataset(root, ids=["000000", "000001", "000002"])
    for k in range(3):
        frame = frames[k]
        assert (
            frame.points[:, 6] == SEEN
        ).mean() > 0.999  # dividing by w or z moves the outermost points only
        assert frame.camera.image.shape[:2] == frame.image_size


def test_metrics_of_pixels():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    found[:300] = truth[:300]
    counts = confusion(found, truth, 4)
    assert np.array_equal(counts, sklearn.confusion_matrix(truth, found))
    ours = seg_metrics(counts)
    assert ours["miou"] == pytest.approx(100 * sklearn.jaccard_score(truth, found, average="macro"))
    assert ours["pixel_accuracy"] == pytest.approx(100 * sklearn.accuracy_score(truth, found))
    assert ours["mean_accuracy"] == pytest.approx(100 * sklearn.balanced_accuracy_score(truth, found))
    assert ours["fwiou"] == pytest.approx(100 * sklearn.jaccard_score(truth, found, average="weighted"))
    each = [confusion(found[k : k + 100], truth[k : k + 100], 4) for k in range(0, 500, 100)]
    assert per_image_metrics(each)["pixel_accuracy"] == pytest.approx(ours["pixel_accuracy"])
    assert per_image_metrics([]) == {}
    scores, positive = np.round(rng.random(300), 1), rng.random(300) < 0.3
    wanted = sklearn.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(100 * wanted)
    assert roc_auc(scores, positive) == pytest.approx(sklearn.roc_auc_score(positive, scores))
    assert average_precision([0.5], [False]) == 0


def test_toy_scenes_hide_the_class_from_the_lidar():
    seen = [toy_scene((3, k)) for k in range(25)]
    per_class = {True: [], False: []}
    for scene in seen:
        assert len(scene.points) == 1024
        for k, (box, car) in enumerate(zip(scene.boxes, scene.is_car, strict=True)):
            rows = scene.points[scene.owner == k]
            local = np.abs(rows[:, :3] - box[:3])
            assert (local[:, 2] < box[5] / 2 + 0.1).all()
            per_class[bool(car)].append(
                (len(rows) * np.hypot(box[0], box[1]), box[3], box[5], rows[:, 3].mean())
            )
            # The pixel of its centre shows its class.
            u, v = np.round(scene.calib.lidar_to_image(box[None, :3])[0][0]).astype(int)
            if 0 <= u < 320 and 0 <= v < 96:
                assert scene.labels[v, u] == (1 if car else 2)
    assert sum(map(len, per_class.values())) > 80
    for cars, decoys in zip(*(np.array(per_class[c]).T for c in (True, False)), strict=True):
        spread = np.std(np.r_[cars, decoys]) * np.sqrt(1 / len(cars) + 1 / len(decoys))
        assert abs(cars.mean() - decoys.mean()) < 3.5 * spread


def test_neighbours_help_at_the_points(monkeypatch):
    from pircnn import experiment

    monkeypatch.setattr(experiment, "_POINT_SCENES", 4)
    one, three = measure_points("points-k1", 0), measure_points("points-k3", 0)
    assert three["AUC, 0 px"] - one["AUC, 0 px"] > 0.05
    assert one["AUC, 0 px"] > one["AUC, 6 px"] > 0.5
