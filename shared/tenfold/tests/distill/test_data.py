"""CIFAR's files, image folders, augmentation, strokes, protocols, checkpoints."""

import argparse
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold._errors import UserInputError
from tenfold.distill import create_model, few_shot_indices, load_classifier, noisy_labels, save_classifier
from tenfold.distill.checkpoints import clean_state_dict, file_hash
from tenfold.distill.data import (
    Augment,
    FolderImages,
    ImageArrays,
    LabelledImages,
    ResizedCrop,
    read_cifar,
    read_image_folder,
    write_cifar,
)
from tenfold.distill.loop import topk_correct
from tenfold.distill.protocols import read_indices, write_indices
from tenfold.distill.strokes import BACKGROUND, MEAN, PRESETS, STD, Strokes, strokes
from tenfold.io import CheckpointMismatchError
from tenfold.testing import assert_survives_disk_full, corruptions, require, sample_data, unwritable_path
from tenfold.train.resume import sample_generator

RNG = np.random.default_rng


def tiny(n=20, classes=10, side=32, seed=0):
    images = RNG(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return LabelledImages(images, np.arange(n) % classes, tuple(f"c{k}" for k in range(classes)))


@pytest.mark.parametrize("name", ["cifar100", "cifar10"])
def test_written_files_are_read_back_and_torchvision_reads_them_too(name, tmp_path, monkeypatch):
    train, test = tiny(25, seed=1), tiny(10, seed=2)
    write_cifar(tmp_path, train, test, name)
    for part, expected in ((True, train), (False, test)):
        found = read_cifar(tmp_path, name, train=part)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.class_names == expected.class_names
    datasets = require("torchvision").datasets
    kind = datasets.CIFAR100 if name == "cifar100" else datasets.CIFAR10
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    theirs = kind(tmp_path, train=True)
    np.testing.assert_array_equal(theirs.data, train.images)
    assert list(theirs.targets) == train.labels.tolist()


def test_published_sums_are_those_that_torchvision_knows():
    from tenfold.distill.data import _LAYOUTS

    cifar = require("torchvision").datasets.cifar
    for kind, name in ((cifar.CIFAR10, "cifar10"), (cifar.CIFAR100, "cifar100")):
        known = {**dict(kind.train_list), **dict(kind.test_list), kind.meta["filename"]: kind.meta["md5"]}
        assert _LAYOUTS[name].md5 == known


def test_cifar_problems_name_the_file(tmp_path):
    train = tiny()
    write_cifar(tmp_path, train, train)
    folder = tmp_path / "cifar-100-python"
    with pytest.raises(UserInputError, match=r"meta: md5: got"):
        read_cifar(tmp_path, verify=True)
    with pytest.raises(UserInputError, match=r"expected uint8 \(n, 768\)"):
        read_cifar(tmp_path, side=16)
    with pytest.raises(UserInputError, match="no such folder"):
        read_cifar(tmp_path / "none")
    with pytest.raises(UserInputError, match="dataset: got 'cifar11'"):
        read_cifar(tmp_path, "cifar11")
    good = pickle.loads((folder / "train").read_bytes())
    for change, message in (
        ({"fine_labels": [10] * 20}, "whole numbers from 0 to 9"),
        ({"fine_labels": [0] * 19}, "a list of 20 numbers"),
        ({"data": good["data"].astype(np.float32)}, "data: got float32"),
    ):
        (folder / "train").write_bytes(pickle.dumps({**good, **change}, protocol=2))
        with pytest.raises(UserInputError, match=message):
            read_cifar(tmp_path)
    (folder / "train").write_bytes(pickle.dumps(good, protocol=2))
    for _, damaged in corruptions((folder / "meta").read_bytes(), flips=4):
        (folder / "meta").write_bytes(damaged)
        try:
            read_cifar(tmp_path)
        except UserInputError as error:
            assert "meta" in str(error) or "train" in str(error)  # noqa: PT017


def _write_train(path, images):
    from tenfold.distill.data import _LAYOUTS, _write_batch

    _write_batch(path, images, _LAYOUTS["cifar100"], "train")


def test_a_full_disk_or_an_unwritable_folder_leaves_nothing(tmp_path):
    assert_survives_disk_full(_write_train, tmp_path / "new" / "train", tiny(), limit_bytes=20_000)
    with pytest.raises(UserInputError, match="cannot be created"):
        write_cifar(unwritable_path(tmp_path), tiny(), tiny())


def folder_of(root, sizes=((32, 32),), split="train", per_class=3):
    for k, name in enumerate(("ant", "bee")):
        (root / split / name).mkdir(parents=True)
        for n in range(per_class):
            h, w = sizes[n % len(sizes)]
            Image.fromarray(np.full((h, w, 3), 50 * k + n, np.uint8)).save(root / split / name / f"{n}.png")


def test_small_images_from_a_folder_and_from_a_zip(tmp_path):
    folder_of(tmp_path / "d")
    found = read_image_folder(tmp_path / "d", "train", per_class=2)
    assert found.class_names == ("ant", "bee")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 50, 51]
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in (tmp_path / "d").rglob("*.png"):
            archive.write(path, f"top/{path.relative_to(tmp_path / 'd')}")
    zipped = read_image_folder(tmp_path / "d.zip", "train", per_class=2)
    np.testing.assert_array_equal(zipped.images, found.images)
    for call, message in (
        (lambda: read_image_folder(tmp_path / "d", "test"), "no such folder"),
        (lambda: read_image_folder(tmp_path / "d.zip", "test"), "holds no test/<class>/<image>"),
        (lambda: read_image_folder(tmp_path / "d", "train", side=16), "expected 16 x 16"),
        (lambda: read_image_folder(tmp_path / "none.zip", "train"), "cannot be read as a zip"),
    ):
        with pytest.raises(UserInputError, match=message):
            call()
    (tmp_path / "d" / "train" / "ant" / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserInputError, match=r"0.png"):
        read_image_folder(tmp_path / "d", "train")


def test_cifar10_sample_is_read():
    found = read_image_folder(sample_data("cifar10-jpeg.zip"), "train", per_class=5)
    assert found.images.shape == (50, 32, 32, 3)
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(found.labels).tolist() == [5] * 10


def test_augmentation_is_a_crop_of_the_padded_image():
    images = tiny(40, side=8).images
    augment = Augment(pad=2, flip=0.5, mean=(0, 0, 0), std=(1, 1, 1), fill=7)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=7)
    out = augment.batch(images, [RNG(k) for k in range(40)])
    flips = 0
    for k in range(40):
        rng = RNG(k)
        (dy, dx), mirrored = rng.integers(0, 5, 2), rng.random() < 0.5
        crop = padded[k, dy : dy + 8, dx : dx + 8]
        crop = crop[:, ::-1] if mirrored else crop
        flips += mirrored
        np.testing.assert_allclose(out[k].permute(1, 2, 0).numpy(), crop / 255.0, atol=1e-6)
        single = augment(images[k], RNG(k))
        assert torch.equal(single, out[k])
    assert 8 < flips < 32
    plain = Augment().plain()(images[0], None)
    expected = (images[0] / 255.0 - np.array([0.5071, 0.4866, 0.4409])) / np.array([0.2675, 0.2565, 0.2761])
    np.testing.assert_allclose(plain.permute(1, 2, 0).numpy(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="expected a generator"):
        augment(images[0], None)


def test_randomness_belongs_to_seed_epoch_and_index():
    data = ImageArrays(tiny(8, side=8), Augment(pad=2), seed=3)
    first = data.__getitems__([5, 1])
    assert torch.equal(first[0][1], data[1][0])
    assert first[1].tolist() == [5, 1]
    assert first[2].tolist() == [5, 1]
    data.set_epoch(1)
    other = data[1][0]
    assert not torch.equal(other, first[0][1])
    expected = Augment(pad=2)(data.data.images[1], sample_generator(3, 1, 1))
    assert torch.equal(other, expected)
    fixed = ImageArrays(tiny(8, side=8), Augment(pad=2), fixed_views=2)
    fixed.set_epoch(3)
    third = fixed[0][0]
    fixed.set_epoch(1)
    assert torch.equal(third, fixed[0][0])


def test_large_images_from_a_folder(tmp_path):
    folder_of(tmp_path, sizes=((40, 60), (9, 200)))
    data = FolderImages(tmp_path, "train", ResizedCrop(24))
    x, labels, index = data.__getitems__([0, 4])
    assert x.shape == (2, 3, 24, 24)
    assert labels.tolist() == [0, 1]
    assert index.tolist() == [0, 4]
    assert torch.equal(data[0][0], data[0][0])
    plain = ResizedCrop(24).plain()
    value = plain(np.full((50, 70, 3), 100, np.uint8), None)
    torch.testing.assert_close(value[0], torch.full((24, 24), (100 / 255 - 0.485) / 0.229))
    with pytest.raises(ValueError, match="generator"):
        ResizedCrop(24)(np.zeros((8, 8, 3), np.uint8), None)
    data.keep([1, 3])
    assert len(data) == 2
    assert data.label(1) == 1
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    halves = plain(image, None)[0]
    assert halves[12, 0] < halves[12, 23]  # the middle square


def test_strokes_are_balanced_reproducible_and_of_the_stated_scale():
    images, labels = strokes(200, "easy", seed=4)
    again, _ = strokes(200, "easy", seed=4)
    np.testing.assert_array_equal(images, again)
    assert np.bincount(labels).tolist() == [10] * 20
    assert (strokes(200, "easy", seed=5)[0] != images).any()
    empty, _ = strokes(40, Strokes(noise=0.0, drop=1.0))
    assert (empty == BACKGROUND).all()
    value = images.astype(float) / 255 * 3 - 1
    still, _ = strokes(40, Strokes(0.0, 0.0, 0.0, 0.0))
    assert (still.astype(float) / 255 * 3 - 1).min() > -0.01
    assert value.min() < 0  # noise below zero survives
    x = Augment(0, 0.0, MEAN, STD)(images[0], None)
    np.testing.assert_allclose(x.permute(1, 2, 0).numpy(), (value[0] - 0.15) / 0.35, atol=1e-4)
    assert set(PRESETS) == {"easy", "ambiguous"}


def test_siblings_differ_in_one_stroke():
    images, labels = strokes(2000, Strokes(0.0, 0.0, 0.0, 0.0), seed=1)
    means = np.stack([images[labels == k].mean(0) for k in range(20)])
    distance = ((means[:, None] - means[None]) ** 2).mean((2, 3, 4))
    within = np.mean([distance[a, b] for a in range(20) for b in range(20) if a != b and a // 4 == b // 4])
    across = np.mean([distance[a, b] for a in range(20) for b in range(20) if a // 4 != b // 4])
    assert within < 0.7 * across


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 1.0])
def test_few_shot_subsets_have_exact_counts(ratio):
    labels = np.repeat(np.arange(5), 40)
    chosen = few_shot_indices(labels, ratio)
    assert np.bincount(labels[chosen]).tolist() == [int(40 * ratio)] * 5
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    np.testing.assert_array_equal(chosen, few_shot_indices(labels, ratio))
    if ratio < 1:
        assert chosen.tolist() != few_shot_indices(labels, ratio, seed=1).tolist()


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5])
def test_noise_flips_exact_counts_to_other_classes(ratio):
    labels = np.repeat(np.arange(4), 100)
    noisy = noisy_labels(labels, ratio, 4, seed=2)
    flipped = noisy != labels
    assert np.bincount(labels[flipped], minlength=4).tolist() == [round(100 * ratio)] * 4
    assert noisy.min() >= 0
    assert noisy.max() < 4
    np.testing.assert_array_equal(noisy, noisy_labels(labels, ratio, 4, seed=2))
    if ratio == 0.5:
        targets = np.bincount(noisy[(labels == 0) & flipped], minlength=4)
        assert targets[0] == 0
        assert targets[1:].min() > 5  # all other classes are drawn


def test_protocol_files_and_bad_numbers(tmp_path):
    write_indices(tmp_path / "a.json", np.array([1, 5]), ratio=0.5, seed=0)
    assert read_indices(tmp_path / "a.json", 6).tolist() == [1, 5]
    with pytest.raises(UserInputError, match="whole numbers from 0 to 4"):
        read_indices(tmp_path / "a.json", 5)
    for call, message in (
        (lambda: few_shot_indices([0], 0.0), "ratio: got 0.0"),
        (lambda: noisy_labels([0], 1.5, 2), "ratio: got 1.5"),
        (lambda: noisy_labels([0], 0.5, 1), "at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_topk_counts_ties_for_the_label_and_nan_never():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [torch.nan, 0.0, 0.0]])
    assert topk_correct(logits, torch.tensor([0, 0, 0]), 1).tolist() == [True, False, False]
    assert topk_correct(logits, torch.tensor([1, 2, 0]), 2).tolist() == [True, True, False]


# ---- checkpoints ---------------------------------------------------------------------------------


def test_our_own_file_and_its_sidecar(tmp_path):
    model = create_model("resnet8", 7)
    save_classifier(tmp_path / "a.safetensors", model, arch="resnet8", num_classes=7, top1=12.5)
    found = load_classifier(tmp_path / "a.safetensors")
    assert (found.arch, found.num_classes, found.facts["top1"]) == ("resnet8", 7, 12.5)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.model(x), model.eval()(x))
    assert len(file_hash(tmp_path / "a.safetensors")) == 16


@pytest.mark.parametrize(
    "arch", ["resnet20", "wrn_16_2", "vgg8", "ResNet18", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
)
def test_state_dicts_of_the_published_code_load(arch, tmp_path):
    """As RepDistiller stores them: options beside the weights, the classifier of MobileNetV2 in a list."""
    torch.manual_seed(0)
    model = create_model(arch).eval()
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    if arch == "MobileNetV2":
        state = {k.replace("classifier.", "classifier.0."): v for k, v in state.items()}
    wrapped = {"opt": argparse.Namespace(lr=0.05), "model": state, "optimizer": {"state": {}}, "epoch": 240}
    torch.save(wrapped, tmp_path / "rep.pth")
    sskd = {f"backbone.{k}": v for k, v in model.state_dict().items()}
    sskd["proj_head.0.weight"] = torch.zeros(2, 2)
    torch.save({"epoch": 240, "state_dict": sskd, "best_acc": 76.0}, tmp_path / "sskd.pth")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        for name in ("rep.pth", "sskd.pth"):
            found = load_classifier(tmp_path / name, arch=arch)
            assert found.num_classes == 100
            assert torch.equal(found.model(x), expected)


def test_wrong_checkpoints_are_the_user_s_error(tmp_path):
    torch.save({"model": create_model("resnet8", 5).state_dict()}, tmp_path / "a.pth")
    torch.save({"x": 1}, tmp_path / "b.pth")
    with pytest.raises(UserInputError, match=r"a.pth: arch: .*does not say"):
        load_classifier(tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatchError, match="keys do not fit"):
        load_classifier(tmp_path / "a.pth", arch="resnet14")
    with pytest.raises(UserInputError, match="state_dict: missing"):
        load_classifier(tmp_path / "b.pth", arch="resnet8")
    with pytest.raises(UserInputError, match="does not exist"):
        load_classifier(tmp_path / "none.pth", arch="resnet8")
    with pytest.raises(UserInputError, match="cannot be read"):
        file_hash(tmp_path / "none.pth")
    data = (tmp_path / "a.pth").read_bytes()
    for _, damaged in corruptions(data, flips=2):
        (tmp_path / "c.pth").write_bytes(damaged)
        try:
            load_classifier(tmp_path / "c.pth", arch="resnet8")
        except UserInputError as error:
            assert "c.pth" in str(error)  # noqa: PT017
    assert clean_state_dict({"module.fc.weight": torch.zeros(1)}).keys() == {"fc.weight"}


def test_names_instead_of_files():
    assert load_classifier("untrained:resnet8", num_classes=6).num_classes == 6
    require("torchvision")
    assert load_classifier("torchvision:resnet18", num_classes=6).num_classes == 6


def _save(path, model):
    save_classifier(path, model, arch="resnet8", num_classes=100)


def test_saving_survives_a_full_disk(tmp_path):
    assert_survives_disk_full(_save, tmp_path / "d" / "a.pt", create_model("resnet8"))
