"""Annotations, images, augmentations, YOLO labels: sound and damaged."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenfold._errors import UserInputError
from tenfold.testing import sample_data, unwritable_path
from ttfnet.check import check_data
from ttfnet.data import CocoDataset, Pipeline, Scene, collate, find_split, read_annotations
from ttfnet.data.augment import _from_hsv, _to_hsv, expand, min_iou_crop, photometric, scaled_crop
from ttfnet.data.multi_size import drawn_size, resize_batch
from ttfnet.data.scene import flip
from ttfnet.data.shapes import draw_scene, write_shapes
from ttfnet.prepare import prepare


def document(**changes):
    base = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 60},
            {"id": 3, "file_name": "b.jpg", "width": 64, "height": 64},
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 0, "name": "zero"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 17, "bbox": [10, 5, 20, 10], "area": 150.0, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 0, "bbox": [0, 0, 50, 30], "area": 1500, "iscrowd": 0},
        ],
    }
    return {**copy.deepcopy(base), **changes}


def written(tmp_path, content):
    file = tmp_path / "instances_val.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_category_ids_with_gaps_and_zero(tmp_path):
    data = read_annotations(written(tmp_path, document()))
    assert (data.class_names, data.category_ids) == (["zero", "cat", "late"], [0, 17, 90])
    first, second = data.records
    assert first.boxes.tolist() == [[10, 5, 30, 15], [0, 0, 50, 30]]
    assert (first.labels.tolist(), first.size, len(second.boxes)) == ([1, 0], (60, 100), 0)
    assert [r.image_id for r in data.for_training()] == [7]
    assert data.report.counts == {"images without annotations": 1}
    assert data.counts().tolist() == [1, 1, 0]


IRREGULAR = {
    "annotations of unknown images": {"image_id": 99},
    "annotations of unknown categories": {"category_id": 18},
    "annotations without a box of four numbers": {"bbox": [1, 2, 3]},
    "boxes that are not finite": {"bbox": [float("nan"), 0, 5, 5]},
    "boxes without area": {"bbox": [1, 1, 0, 5]},
    "boxes outside their image": {"bbox": [200, 5, 10, 10]},
    "boxes beyond the border": {"bbox": [90, 5, 50, 10]},
    "annotations marked ignore": {"ignore": 1},
    "crowd regions": {"iscrowd": 1},
    "repeated annotation ids": {"id": 2},
}


@pytest.mark.parametrize("problem", IRREGULAR)
def test_irregular_annotations_are_counted_and_the_others_kept(tmp_path, problem):
    content = document()
    content["annotations"][0].update(IRREGULAR[problem])
    data = read_annotations(written(tmp_path, content))
    assert data.report.counts[problem] == 1
    assert problem in str(data.report)
    kept = data.records[0]
    assert [0, 0, 50, 30] in kept.boxes.tolist()
    assert len(kept.boxes) == (2 if problem in ("boxes beyond the border", "repeated annotation ids") else 1)
    if problem == "boxes beyond the border":
        assert kept.boxes[0].tolist() == [90, 5, 100, 15]
    if problem == "crowd regions":
        assert kept.ignore.tolist() == [[10, 5, 30, 15]]


def test_a_missing_area_is_computed(tmp_path):
    content = document()
    del content["annotations"][0]["area"]
    data = read_annotations(written(tmp_path, content))
    assert data.document["annotations"][0]["area"] == 200
    assert data.report.counts["annotations without an area"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{oops", "line 1, column 2: is not JSON"),
        ("[]", "document: got a list"),
        (document(images=None), "images: got NoneType"),
        (document(images=[]), "images: got none"),
        (document(categories=[]), "categories: got none"),
        (document(categories=[{"id": 1}, {"id": 1}]), r"categories\[1\].id: 1 appears twice"),
        (document(images=[{"id": 1, "file_name": "a"}]), r"images\[0\].width: got None"),
        (document(annotations=[3]), r"annotations\[0\]: got a int"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, content, message):
    with pytest.raises(UserInputError, match=message):
        read_annotations(written(tmp_path, content))


def test_typical_mistakes_get_a_hint(tmp_path):
    corners = document()
    for item in corners["annotations"]:
        item["bbox"] = [60, 30, 95, 55]  # x1, y1, x2, y2
    assert "not [x1, y1, x2, y2]" in str(read_annotations(written(tmp_path, corners)).report)
    relative = document()
    for item in relative["annotations"]:
        item["bbox"] = [0.1, 0.2, 0.3, 0.4]
    assert "must be in pixels" in str(read_annotations(written(tmp_path, relative)).report)


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Seven pictures of 40 x 60 of many kinds, one object each."""
    images = tmp_path / "train"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(images / "rgb.png")
    picture.convert("L").save(images / "grey.jpg")
    picture.convert("CMYK").save(images / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(images / "turned.jpg", exif=exif)
    picture.save(images / "exif.jpg", exif=exif)  # upright 60 x 40: does not fit the annotations
    picture.save(images / "whole.jpg", quality=95)
    (images / "cut.jpg").write_bytes((images / "whole.jpg").read_bytes()[:700])
    names = ["rgb.png", "grey.jpg", "cmyk.jpg", "turned.jpg", "exif.jpg", "cut.jpg", "absent.jpg"]
    content = {
        "images": [{"id": k, "file_name": n, "width": 60, "height": 40} for k, n in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 0}
            for k in range(len(names))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return tmp_path


def test_images_of_all_kinds(folder):
    data = CocoDataset(folder, "train", Pipeline((64, 64)))
    for k in range(4):
        sample = data[k]
        assert sample.image.shape == (3, 64, 64)
        assert sample.scale == (64 / 60, 64 / 40)
        torch.testing.assert_close(sample.boxes, torch.tensor([[5 * 64 / 60, 8.0, 35 * 64 / 60, 40.0]]))
    for k, message in ((4, "turned upright"), (5, "damaged or truncated"), (6, "cannot be read")):
        with pytest.raises(UserInputError, match=message):
            data[k]


def test_training_leaves_bad_images_out_and_says_so_once(folder):
    data = CocoDataset(folder, "train", Pipeline((64, 64), "flip"), train=True)
    with pytest.warns(UserWarning, match=r"left out of training: .*cut\.jpg") as said:
        ids = [data[k].image_id for k in range(7)] + [data[5].image_id]
    assert ids == [0, 1, 2, 3, 0, 0, 0, 0]
    assert len(said) == 3


def test_check_data_reports(folder, capsys):
    file = folder / "annotations" / "instances_train.json"
    assert check_data(file) == 0
    assert "7 images (7 to train on), 7 objects, 1 classes" in capsys.readouterr().out
    assert check_data(file, folder / "train") == 2
    said = capsys.readouterr().out
    assert "4 can be used, 3 cannot" in said
    assert all(name in said for name in ("exif.jpg", "cut.jpg", "absent.jpg"))


def test_splits_are_found_or_named(tmp_path, shapes):
    file, images = find_split(shapes, "val")
    assert (file.name, images.name) == ("instances_val.json", "val")
    with pytest.raises(UserInputError, match=r"instances_x\.json: no such file"):
        find_split(shapes, "x")


def test_real_coco_images():
    root = sample_data("coco128")
    data = CocoDataset(root, "train2017", Pipeline((128, 160), "flip"), train=True)
    assert sum(len(r.boxes) for r in data.annotations.records) == 929
    batch = collate([data[k] for k in range(4)])
    assert batch.images.shape == (4, 3, 128, 160)
    for boxes in batch.boxes:
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= -1e-3).all()
        assert (boxes[:, 2] <= 160.001).all()
        assert (boxes[:, 3] <= 128.001).all()


# ---- augmentation --------------------------------------------------------------------------------


def painted(seed, size=(48, 64)):
    """A picture in which every box is painted with its own colour, so that boxes can be checked by pixels."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.uint8)
    boxes = []
    for k in range(3):
        x, y = rng.integers(0, size[1] - 12), rng.integers(0, size[0] - 12)
        w, h = rng.integers(6, 12, 2)
        image[y : y + h, x : x + w] = 60 + 60 * k
        boxes.append([x, y, x + w, y + h])
    return Scene(image, np.array(boxes, np.float32), np.arange(3), np.array([boxes[0]], np.float32))


def last_painted(scene):
    """Bounding box of the last object's pixels, which nothing covers."""
    rows, columns = np.nonzero(scene.image[..., 0] == 180)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_boxes_follow_their_pixels(seed):
    scene, rng = painted(seed), np.random.default_rng(seed)
    for changed in (flip(scene), expand(scene, rng, (10.0, 20.0, 30.0)), min_iou_crop(scene, rng)):
        for label, box in zip(changed.labels, changed.boxes, strict=True):
            if label == 2:
                assert box.tolist() == last_painted(changed)
        height, width = changed.size
        assert (changed.boxes >= 0).all()
        assert (changed.boxes <= [width, height, width, height]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_scaled_crops_follow_too(seed):
    scene = scaled_crop(painted(seed, (300, 200)), np.random.default_rng(seed), (64, 64))
    assert abs(scene.size[0] - scene.size[1]) <= 1
    for label, box in zip(scene.labels, scene.boxes, strict=True):
        if label == 2:
            assert box.tolist() == last_painted(scene)


def test_crops_forget_the_crowds_that_they_cut_off():
    corner = replace(painted(0, (300, 200)), ignore=np.array([[0, 0, 9, 9]], np.float32))
    counts = {0: 0, 1: 0}
    for seed in range(30):
        left = scaled_crop(corner, np.random.default_rng(seed), (64, 64)).ignore
        assert (left[:, 2:] > left[:, :2]).all()
        counts[len(left)] += 1
    assert min(counts.values()) > 0


def test_cropping_keeps_its_promises():
    ratios = []
    for seed in range(150):
        scene = painted(seed)
        cropped = min_iou_crop(scene, np.random.default_rng(seed))
        assert len(cropped.boxes) >= 1
        height, width = cropped.size
        ratios.append(height * width / (48 * 64))
        assert 0.45 <= height / width <= 2.05 or cropped.size == (48, 64)
    assert min(ratios) < 0.5
    assert max(ratios) == 1
    empty = Scene(np.zeros((40, 40, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for seed in range(20):
        min_iou_crop(empty, np.random.default_rng(seed))


def test_colours():
    import colorsys

    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (50, 3)).astype(np.float32)
    hue, saturation, value = _to_hsv(pixels)
    wanted = np.array([colorsys.rgb_to_hsv(*(p / 255)) for p in pixels])
    np.testing.assert_allclose(hue / 360, wanted[:, 0], atol=1e-4)
    np.testing.assert_allclose(saturation, wanted[:, 1], atol=1e-4)
    np.testing.assert_allclose(value / 255, wanted[:, 2], atol=1e-4)
    np.testing.assert_allclose(_from_hsv(hue, saturation, value), pixels, atol=1e-2)
    darker = pixels - 100  # nothing is cut off, so values below zero occur
    np.testing.assert_allclose(_from_hsv(*_to_hsv(darker)), darker, atol=1e-1)
    results = [photometric(painted(0), np.random.default_rng(s)).image for s in range(30)]
    assert all(np.isfinite(r).all() and r.dtype == np.float32 for r in results)
    assert min(r.min() for r in results) < 0
    assert max(r.max() for r in results) > 255
    assert len({r.tobytes() for r in results}) > 20


@pytest.mark.parametrize("augment", ["none", "flip", "heavy", "centernet"])
def test_samples_depend_on_seed_epoch_and_index_alone(shapes, augment):
    def sample(epoch, index, seed=0):
        data = CocoDataset(shapes, "train", Pipeline((64, 96), augment), train=True, seed=seed)
        data.set_epoch(epoch)
        return data[index].image

    assert torch.equal(sample(1, 3), sample(1, 3))
    differ = [not torch.equal(sample(0, 3), sample(e, 3)) for e in range(1, 8)]
    assert any(differ) == (augment != "none")


def test_letterbox_keeps_the_aspect():
    scene = Scene(np.full((20, 40, 3), 200, np.uint8), np.array([[0, 0, 40, 20]], np.float32), np.array([0]))
    sample = Pipeline((64, 64), resize="letterbox")(scene)
    assert sample.scale == (1.6, 1.6)
    assert sample.boxes.tolist() == [[0, 0, 64, 32]]
    assert sample.image.shape == (3, 64, 64)
    assert (sample.image[:, 32:] == 0).all()


def test_original_size_is_padded_as_centernet_does():
    image = np.full((33, 64, 3), 200, np.uint8)
    scene = Scene(image, np.array([[0, 0, 64, 33]], np.float32), np.array([0]))
    sample = Pipeline((64, 64), resize="original")(scene)
    assert (sample.scale, sample.boxes.tolist()) == ((1.0, 1.0), [[0, 0, 64, 33]])
    assert sample.image.shape == (3, 64, 96)  # (33 | 31) + 1, (64 | 31) + 1
    assert (sample.image[:, :33, :64] != 0).all()
    assert sample.image[:, 33:].abs().max() == sample.image[:, :, 64:].abs().max() == 0
    with pytest.raises(UserInputError, match="resize: got 'original' with augmentation"):
        Pipeline((64, 64), "flip", resize="original")


def test_batches_of_another_size(shapes):
    data = CocoDataset(shapes, "train", Pipeline((96, 96), "flip"), train=True)
    batch = collate([data[k] for k in range(4)])
    small = resize_batch(batch, 64)
    assert small.images.shape == (4, 3, 64, 64)
    for old, new in zip(batch.boxes, small.boxes, strict=True):
        torch.testing.assert_close(new, old * 2 / 3)
    # Boxes still lie on their pixels: the mean inside one hardly changes.
    x1, y1, x2, y2 = (int(v) for v in batch.boxes[0][0])
    before = batch.images[0, :, y1:y2, x1:x2].mean()
    x1, y1, x2, y2 = (int(v) for v in small.boxes[0][0])
    assert small.images[0, :, y1:y2, x1:x2].mean() == pytest.approx(before.item(), abs=0.1)
    assert resize_batch(batch, 96) is batch
    tiny = replace(
        batch, boxes=[torch.tensor([[0.0, 0, 1, 40], [0, 0, 40, 40]])] * 4, labels=[torch.arange(2)] * 4
    )
    left = resize_batch(tiny, 64)
    assert (left.labels[0].tolist(), left.dropped) == ([1], batch.dropped + 4)


def test_the_size_of_a_step_is_the_same_for_all():
    drawn = [drawn_size((416, 512, 672), 0, 3, step) for step in range(60)]
    assert drawn == [drawn_size((416, 512, 672), 0, 3, step) for step in range(60)]
    assert {drawn.count(size) > 8 for size in (416, 512, 672)} == {True}


def test_tiny_boxes_are_dropped_and_counted():
    scene = Scene(
        np.zeros((400, 400, 3), np.uint8),
        np.array([[0, 0, 3, 3], [0, 0, 300, 300]], np.float32),
        np.arange(2),
    )
    sample = Pipeline((32, 32), "flip")(scene, np.random.default_rng(0))
    assert (sample.dropped, sample.labels.tolist()) == (1, [1])
    assert len(Pipeline((32, 32))(scene).boxes) == 2


@pytest.mark.parametrize(
    "wrong", [{"size": (60, 64)}, {"augment": "x"}, {"resize": "x"}, {"normalization": "x"}]
)
def test_wrong_pipelines_are_named(wrong):
    with pytest.raises(UserInputError, match=f"{next(iter(wrong))}: got"):
        Pipeline(**wrong)


# ---- generated pictures, YOLO labels -------------------------------------------------------------


def test_generated_pictures(tmp_path):
    for folder in ("a", "b"):
        write_shapes(tmp_path / folder, {"train": 6}, seed=3)
    first, second = (tmp_path / f / "train" / "000004.png" for f in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    data = read_annotations(tmp_path / "a" / "annotations" / "instances_train.json")
    assert data.report.counts == {}
    for seed in range(20):
        picture, boxes, labels, areas = draw_scene(np.random.default_rng(seed))
        assert picture.shape == (96, 96, 3)
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides >= 3).all()
        for label, side, area in zip(labels, sides, areas, strict=True):
            share = {0: 1, 1: np.pi / 4, 2: 0.5}[label]
            assert area / side.prod() == pytest.approx(share, abs=0.12)


@pytest.fixture
def yolo(tmp_path):
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(root / "images" / split / "a.jpg")
        (root / "labels" / split / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0.9 0.5 0.4 0.2\n\n")
    Image.new("RGB", (50, 80)).save(root / "images" / "train" / "b.png")
    (root / "data.yaml").write_text("names:\n  0: cat\n  1: dog\n")
    return root


def test_yolo_labels_become_coco(yolo, capsys):
    prepare(yolo)
    said = capsys.readouterr()
    assert "2 images, 2 objects" in said.out
    assert "1 images have no label file" in said.err
    assert "1 boxes leave their image" in said.err
    data = CocoDataset(yolo, "train", Pipeline((64, 64)))
    assert data.class_names == ["cat", "dog"]
    np.testing.assert_allclose(data.records[0].boxes, [[80, 30, 120, 70], [140, 40, 200, 60]], atol=1e-4)
    assert len(data[1].boxes) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.2", r"a\.txt: line 1: got 4 numbers"),
        ("7 0.5 0.5 0.2 0.2", "class 7; expected 0 to 1"),
        ("dog 0.5 0.5 0.2 0.2", "expected numbers"),
        ("1 nan 0.5 0.2 0.2", "got 5 numbers"),
    ],
)
def test_wrong_labels_name_file_and_line_and_write_nothing(yolo, line, message):
    (yolo / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(UserInputError, match=message):
        prepare(yolo)
    assert not (yolo / "annotations").exists()


def test_labels_and_names_that_are_no_text_are_named(yolo):
    (yolo / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserInputError, match=r"a\.txt: file: cannot be read as text"):
        prepare(yolo)
    (yolo / "data.yaml").write_bytes(b"\xff\xfen")
    with pytest.raises(UserInputError, match=r"data\.yaml: file: cannot be read as text"):
        prepare(yolo)


def test_prepare_says_what_is_missing(tmp_path, yolo):
    with pytest.raises(UserInputError, match=r"data\.yaml: no such file"):
        prepare(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(UserInputError, match="no folders of images"):
        prepare(tmp_path)
    (yolo / "annotations").mkdir()
    (yolo / "annotations" / "instances_train.json").mkdir()
    with pytest.raises(UserInputError, match="cannot be written"):
        prepare(yolo)
    assert unwritable_path(tmp_path).parent.is_file()
