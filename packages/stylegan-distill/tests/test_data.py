"""Sprites, archives, batches, and the two known sets."""

import gzip
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_distill.data import (
    ImageBatches,
    fit_square,
    open_images,
    prepare_images,
    read_cifar10,
    read_mnist,
    sprites,
    to_float,
)
from tenfold._errors import UserInputError
from tenfold.io import write_image
from tenfold.testing import sample_data


def test_sprites_are_what_they_say():
    images = sprites(400, 32, seed=1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(sprites(300, 32, seed=1), images[:300])
    assert (sprites(4, 32, seed=2) != images[:4]).any()
    x = images.astype(float) / 127.5 - 1
    # The corners are ground: mean of its three channels is -.3, amplitude .35.
    corner = x[:, 0, 0]
    np.testing.assert_allclose(corner.mean(1), -0.3, atol=0.01)
    amplitude = np.sqrt(((corner + 0.3) ** 2).sum(1) / 1.5)
    np.testing.assert_allclose(amplitude, 0.35, atol=0.01)
    # The middle of the shape has mean 0 and amplitude .9.
    pure = np.abs(x.mean(3)) < 0.012
    cover = (np.abs(x.mean(3) + 0.3) > 0.15).mean((1, 2))
    assert cover.min() > 0.01
    assert cover.max() < 4 * 0.26**2
    assert (pure.any((1, 2))).mean() > 0.95
    with pytest.raises(ValueError, match="count"):
        sprites(0)


@pytest.fixture
def folder(tmp_path):
    """Images of three sizes, a grey one, in nested folders."""
    root = tmp_path / "photos"
    (root / "b/c").mkdir(parents=True)
    rng = np.random.default_rng(0)
    write_image(root / "a.png", rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    write_image(root / "b/1.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    write_image(root / "b/c/2.png", rng.integers(0, 256, (32, 20), dtype=np.uint8))
    (root / "notes.txt").write_text("no image")
    return root


@pytest.mark.parametrize("name", ["box", "lanczos", "bilinear"])
def test_archive_records_its_filter(folder, tmp_path, name):
    assert prepare_images(folder, tmp_path / "set.zip", 16, name) == 3
    source = open_images(tmp_path / "set.zip")
    assert (len(source), source.resolution, source.labels) == (3, 16, None)
    assert source.facts == {"filter": name, "resolution": 16, "source": "photos", "count": 3}
    with Image.open(folder / "a.png") as image:
        wanted = image.crop((10, 0, 50, 40)).resize((16, 16), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(source.pixels(0), np.asarray(wanted))
    again = tmp_path / "again.zip"
    prepare_images(folder, again, 16, name)
    assert again.read_bytes() == (tmp_path / "set.zip").read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert archive.namelist()[0] == "00000/img00000000.png"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_box_is_the_mean_and_equal_sizes_stay():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(fit_square(image, 4, "box") - mean).max() <= 1.0  # Pillow rounds once for each axis
    np.testing.assert_array_equal(fit_square(image, 8, "lanczos"), image)


def test_labels_are_carried_over(folder, tmp_path):
    labels = [["a.png", 2], ["b/1.png", 0], ["b/c/2.png", 1]]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    prepare_images(folder, tmp_path / "set.zip", 8)
    assert open_images(tmp_path / "set.zip").labels == [2, 0, 1]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels[:2]}))
    with pytest.raises(UserInputError, match="labels"):
        prepare_images(folder, tmp_path / "other.zip", 8)
    assert not (tmp_path / "other.zip").exists()
    for bad in ([-1, 0, 1], ["cat", "dog", "cat"], [[1, 0], [1], [0, 1]], [0, [1], 2], [True, 0, 1]):
        table = [[name, label] for (name, _), label in zip(labels, bad, strict=True)]
        (folder / "dataset.json").write_text(json.dumps({"labels": table}))
        prepare_images(folder, tmp_path / "bad.zip", 8)
        with pytest.raises(UserInputError, match="labels: expected whole numbers"):
            open_images(tmp_path / "bad.zip")


def test_every_process_reads_an_archive_by_itself(folder, tmp_path):
    """A forked worker that read through its parent's file would move the place that the parent reads at."""
    prepare_images(folder, tmp_path / "set.zip", 16)
    source = open_images(tmp_path / "set.zip")
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.pixels(1), source.pixels(1))
    number = source._archive().fp.fileno()
    before = os.lseek(number, 0, os.SEEK_CUR)
    child = os.fork()
    if child == 0:
        source.pixels(2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.lseek(number, 0, os.SEEK_CUR) == before


def test_bad_sources_leave_nothing(folder, tmp_path):
    with pytest.raises(UserInputError, match="filter"):
        prepare_images(folder, tmp_path / "x.zip", 16, "nearest")
    with pytest.raises(UserInputError, match="resolution"):
        prepare_images(folder, tmp_path / "x.zip", 20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match="no images"):
        prepare_images(tmp_path / "empty", tmp_path / "x.zip", 16)
    (folder / "b/z.png").write_bytes((folder / "a.png").read_bytes()[:900])
    with pytest.raises(UserInputError, match=r"z\.png"):
        prepare_images(folder, tmp_path / "x.zip", 16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "photos"]
    with pytest.raises(UserInputError, match="a square"):
        open_images(folder)
    with pytest.raises(UserInputError, match="zip"):
        open_images(tmp_path / "none.zip")


def test_batches_depend_on_seed_and_step_alone():
    images = sprites(37, 8)
    batches = ImageBatches(images, 5, seed=3, flip=0.5)
    stream = iter(batches)
    first = [next(stream) for _ in range(12)]
    again = ImageBatches(images, 5, seed=3, flip=0.5)
    for step in (11, 6, 0):
        torch.testing.assert_close(again.batch(step), first[step], rtol=0, atol=0)
    # An epoch holds every image at most once; the next one has another order.
    epoch = np.concatenate([batches.indices(k) for k in range(7)])
    assert len(set(epoch)) == 35
    assert (batches.indices(7) != batches.indices(0)).any()
    with pytest.raises(UserInputError, match="at least one batch"):
        ImageBatches(images, 38)


def test_the_real_side_is_never_mirrored(folder, tmp_path):
    images = sprites(9, 8)
    found = torch.cat(list(ImageBatches(images, 4, flip=1.0).once()))
    torch.testing.assert_close(found, to_float(images))
    mirrored = ImageBatches(images, 9, flip=1.0)
    torch.testing.assert_close(mirrored.batch(0).flip(3), to_float(images[mirrored.indices(0)]))
    prepare_images(folder, tmp_path / "set.zip", 8)
    source = open_images(tmp_path / "set.zip")
    batches = ImageBatches(source, 2)
    torch.testing.assert_close(
        batches.batch(0), to_float(np.stack([source.pixels(int(k)) for k in batches.indices(0)]))
    )
    assert sum(len(x) for x in batches.once()) == 3
    assert batches.resolution == 8


def test_mnist_file_by_hand(tmp_path):
    digit = np.arange(2 * 784, dtype=np.uint8)
    head = np.array([2051, 2, 28, 28], ">i4").tobytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + digit.tobytes()))
    images = read_mnist(tmp_path)
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images[1, 2:30, 2:30, 1], digit[784:].reshape(28, 28))
    assert images[:, :2].max() == 0
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + digit[:900].tobytes()))
    with pytest.raises(UserInputError, match="expected 2"):
        read_mnist(tmp_path)
    with pytest.raises(UserInputError, match="t10k"):
        read_mnist(tmp_path, train=False)
    packed = bytearray(gzip.compress(head + digit.tobytes()))
    packed[40:60] = bytes(20)
    for damaged in (bytes(packed), gzip.compress(head[:7]), b"no archive"):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(damaged)
        with pytest.raises(UserInputError, match=r"train-images-idx3-ubyte\.gz: (data|header)"):
            read_mnist(tmp_path)


def test_sample_sets():
    assert read_mnist(sample_data("mnist"), 100).shape == (100, 32, 32, 3)
    assert read_cifar10(sample_data("cifar10-jpeg.zip"), 3).shape == (30, 32, 32, 3)
