"""Sprites, archives, batches, and the two known sets."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import types
import zipfile
from pathlib import Path

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
from tenfold._errors import MissingExtraError, UserInputError
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


# ---- FFHQ's index, LMDB


@pytest.fixture
def ffhq(tmp_path):
    """Six numbered images in the official layout, thumbnails and pictures in the wild beside them."""
    root = tmp_path / "ffhq"
    index = {}
    for number in (10, 0, 1, 2, 3, 4):
        name = f"{number:05d}.png"
        entry = {"category": "validation" if number > 3 else "training"}
        for kind, place, side in (
            ("image", "images1024x1024/00000", 16),
            ("thumbnail", "thumbnails128x128/00000", 8),
            ("in_the_wild", "in-the-wild-images/00000", 20),
        ):
            (root / place).mkdir(parents=True, exist_ok=True)
            write_image(root / place / name, np.full((side, side, 3), number + side, np.uint8))
            entry[kind] = {"file_path": f"{place}/{name}"}
        index[str(number)] = entry
    (root / "ffhq-dataset-v2.json").write_text(json.dumps(index))
    return root


def _values(path):
    source = open_images(path)
    return [int(source.pixels(k)[0, 0, 0]) for k in range(len(source))]


def test_ffhq_is_read_by_its_index(ffhq, tmp_path):
    """The aligned images alone, by their numbers; a part of them; thumbnails where there is nothing larger."""
    out = tmp_path / "set.zip"
    assert prepare_images(ffhq, out, 8, "box") == 6
    assert _values(out) == [16, 17, 18, 19, 20, 26]
    assert open_images(out).facts == {"filter": "box", "resolution": 8, "source": "ffhq", "count": 6}
    assert prepare_images(ffhq, out, 16, split="validation") == 2
    assert _values(out) == [20, 26]
    assert open_images(out).facts["split"] == "validation"
    assert open_images(out).facts["filter"] == "none"  # of 16 pixels already
    (ffhq / "images1024x1024/00000/00002.png").unlink()
    with pytest.raises(UserInputError, match=r"00002\.png: source: is listed"):
        prepare_images(ffhq, out, 8)
    shutil.rmtree(ffhq / "images1024x1024")
    assert prepare_images(ffhq, out, 4, split="training") == 4
    assert _values(out) == [8, 9, 10, 11]
    shutil.rmtree(ffhq / "thumbnails128x128")
    with pytest.raises(UserInputError, match=r"images1024x1024/00000/00000\.png: source"):
        prepare_images(ffhq, out, 8)


def test_unfit_indexes_and_splits(ffhq, folder, tmp_path):
    out = tmp_path / "set.zip"
    with pytest.raises(UserInputError, match="split: got 'test'"):
        prepare_images(ffhq, out, 8, split="test")
    with pytest.raises(UserInputError, match=r"expected all, or a folder with ffhq-dataset-v2\.json"):
        prepare_images(folder, out, 8, split="training")
    table = ffhq / "ffhq-dataset-v2.json"
    inside = {"category": "training", "thumbnail": {"file_path": "x"}}
    outside = {**inside, "image": {"file_path": "../photos/a.png"}}
    for text, said in (
        ("{", "expected numbers"),
        ("[1]", "expected numbers"),
        (json.dumps({"0": inside}), "expected numbers"),
        (json.dumps({"a": outside}), "expected numbers"),
        (json.dumps({"0": outside}), "leads out"),
        (json.dumps({}), "no images of 'all'"),
    ):
        table.write_text(text)
        with pytest.raises(UserInputError, match=said):
            prepare_images(ffhq, out, 8)
    assert not out.exists()


def _packed(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _flat(value, side):
    return np.full((side, side, 3), value, np.uint8)


def _lsun():
    return {
        hashlib.sha1(bytes([k])).hexdigest().encode(): _packed(np.full((12, 20, 3), 40 * k, np.uint8), "WEBP")
        for k in range(5)
    }


def _rosinality(sizes=(8, 16), count=3):
    found = {f"{s}-{k:05d}".encode(): _packed(_flat(10 * k + s, s)) for s in sizes for k in range(count)}
    return {**found, b"length": str(count).encode()}


@pytest.fixture(params=["stand-in", "lmdb"])
def environment(request, tmp_path, monkeypatch):
    """Makes an LMDB folder of a dictionary: with the package, or with a stand-in of its documented interface."""
    folder = tmp_path / "some_lmdb"
    if request.param == "lmdb":
        lmdb = pytest.importorskip("lmdb", reason="needs the package lmdb")

        def write(content):
            shutil.rmtree(folder, ignore_errors=True)
            with lmdb.open(str(folder), map_size=1 << 24) as place, place.begin(write=True) as txn:
                for key, value in content.items():
                    txn.put(key, value)
            return folder

        return write

    class Place:
        def __init__(self, path, readonly=False, lock=True, readahead=True):
            assert (readonly, lock) == (True, False)
            file = Path(path, "data.mdb").read_bytes()
            if not file.startswith(b"\x80"):
                raise package.Error("invalid file")
            self.content = pickle.loads(file)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def begin(self, write=False):
            assert not write
            return self

        def get(self, key, default=None):
            return self.content.get(key, default)

        def cursor(self):
            return self

        def iternext(self, keys=True, values=True):
            assert (keys, values) == (True, False)
            return iter(sorted(self.content))

    package = types.ModuleType("lmdb")
    package.open, package.Error = Place, type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "lmdb", package)

    def write(content):
        folder.mkdir(exist_ok=True)
        (folder / "data.mdb").write_bytes(pickle.dumps(content))
        return folder

    return write


def test_lsun_is_read_from_lmdb(environment, tmp_path):
    content = _lsun()
    out = tmp_path / "church.zip"
    assert prepare_images(environment(content), out, 8, "box") == 5
    assert open_images(out).facts == {"filter": "box", "resolution": 8, "source": "some_lmdb", "count": 5}
    wanted = [
        int(np.asarray(Image.open(io.BytesIO(content[k])).convert("RGB"))[0, 0, 0]) for k in sorted(content)
    ]
    np.testing.assert_allclose(_values(out), wanted, atol=1)


@pytest.mark.parametrize(
    ("resolution", "values", "filter"),
    [
        (16, [16, 26, 36], "none"),
        (8, [8, 18, 28], "none"),
        (4, [8, 18, 28], "box"),
        (32, [16, 26, 36], "box"),
    ],
)
def test_rosinalitys_packing_is_read_at_the_best_size(environment, tmp_path, resolution, values, filter):
    out = tmp_path / "set.zip"
    assert prepare_images(environment(_rosinality()), out, resolution, "box") == 3
    assert _values(out) == values
    assert open_images(out).facts["filter"] == filter


def test_unfit_lmdb(environment, tmp_path, monkeypatch):
    out = tmp_path / "set.zip"
    for content, said in (
        ({b"a": b"no image"}, "some_lmdb: a: is no sound image"),
        ({}, "holds no images"),
        ({b"length": b"2", b"b": b""}, "expected the keys length"),
        ({**_rosinality(), b"length": b"4"}, "16-00003: is missing"),
    ):
        folder = environment(content)
        with pytest.raises(UserInputError, match=said):
            prepare_images(folder, out, 16)
    with pytest.raises(UserInputError, match="split: got 'training'"):
        prepare_images(environment(_rosinality()), out, 16, split="training")
    (folder / "data.mdb").write_bytes(b"damaged")
    with pytest.raises(UserInputError, match="cannot be read as LMDB"):
        prepare_images(folder, out, 16)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingExtraError, match=r"\[lmdb\]"):
        prepare_images(folder, out, 16)
    assert not out.exists()
