import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tenfold._errors import MissingExtraError, UserInputError
from tenfold.io import read_image, write_image
from tenfold.testing import child_environment, sample_data

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
# What each EXIF orientation asks a viewer to do, as array operations.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("turn", TURNS)
def test_exif_orientation(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), TURNS[turn](RGB))


def save(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"a{suffix}"
    image.save(path, **options)
    return path


def test_modes(tmp_path):
    grey = RGB[:, :, 0]
    thrice = np.repeat(grey[:, :, None], 3, 2)
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(grey))), thrice)
    alpha = np.concatenate([RGB, RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)], 2)
    alpha[0, 0, 3] = 0
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(alpha))), RGB)
    both = np.stack([grey, alpha[:, :, 3]], 2)
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(both, "LA"))), thrice)
    bilevel = Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8)).convert("1")
    assert np.array_equal(read_image(save(tmp_path, bilevel))[:, :, 1], np.where(grey > 127, 255, 0))


def test_palette(tmp_path):
    index = RNG.integers(0, 4, (5, 7), dtype=np.uint8)
    colours = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    assert np.array_equal(read_image(save(tmp_path, image)), colours[index])
    assert np.array_equal(read_image(save(tmp_path, image, transparency=2)), colours[index])
    assert np.array_equal(read_image(save(tmp_path, image, ".gif")), colours[index])


def test_cmyk_and_ycbcr(tmp_path):
    cmyk = np.zeros((4, 4, 4), np.uint8)
    cmyk[..., 0], cmyk[..., 3] = 255, 128  # cyan, half black
    read = read_image(save(tmp_path, Image.fromarray(cmyk, "CMYK"), ".tif"))
    assert np.abs(read.astype(int) - [0, 127, 127]).max() <= 1
    lab = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8), "LAB")
    read = read_image(save(tmp_path, lab, ".tif"))[0]
    assert np.abs(read.astype(int) - [[255] * 3, [0] * 3]).max() <= 1
    smooth = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    read = read_image(save(tmp_path, Image.fromarray(smooth), ".jpg", quality=95))
    assert np.abs(read.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_and_not_cut(tmp_path, suffix):
    wide = np.array([[0, 128, 129, 255, 256], [257, 32767, 32768, 65407, 65535]], np.uint16)
    read = read_image(save(tmp_path, Image.fromarray(wide), suffix))
    assert np.array_equal(read[:, :, 2], np.round(wide / 257).astype(np.uint8))
    assert read.shape == (2, 5, 3)


def test_kinds_without_a_rule(tmp_path):
    with pytest.raises(UserInputError, match=r"a\.tif: image: holds float grey values"):
        read_image(save(tmp_path, Image.fromarray(np.zeros((2, 2), np.float32)), ".tif"))
    with pytest.raises(UserInputError, match="holds grey values -1 to 70000"):
        read_image(save(tmp_path, Image.fromarray(np.array([[-1, 70000]], np.int32)), ".tif"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp", ".tif"])
def test_truncation_is_an_error_or_loses_only_a_trailer(tmp_path, suffix):
    path = save(tmp_path, Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)), suffix)
    whole, data = read_image(path), path.read_bytes()
    errors = 0
    for size in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        try:
            read = read_image(path)
        except UserInputError as error:
            errors += 1
            assert str(error).startswith(f"{path}: image: ")  # noqa: PT017
        else:
            assert np.array_equal(read, whole)
            assert size > 0.9 * len(data)
    assert errors > 50


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"GIF89a", b"\xff\xd8\xff\xe0"]
)
def test_not_an_image(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserInputError, match=r"a\.png: image: is (no image|damaged)"):
        read_image(tmp_path / "a.png")


def test_damaged_bytes_never_escape(tmp_path):
    path = tmp_path / "a.img"
    for suffix in (".png", ".jpg", ".gif", ".webp", ".tif"):
        packed = io.BytesIO()
        Image.fromarray(RGB).save(packed, Image.registered_extensions()[suffix])
        for _ in range(60):
            data = bytearray(packed.getvalue())
            for at in RNG.integers(0, len(data), 3):
                data[at] = RNG.integers(0, 256)
            path.write_bytes(data)
            with contextlib.suppress(UserInputError):
                assert read_image(path).dtype == np.uint8


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("1", (3000, 3000)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserInputError, match="image: is too large"):
        read_image(path)


def test_write(tmp_path):
    write_image(tmp_path / "a.png", RGB[:, ::-1])
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), RGB[:, ::-1])
    write_image(tmp_path / "g.bmp", RGB[:, :, 0])
    assert np.array_equal(read_image(tmp_path / "g.bmp")[:, :, 0], RGB[:, :, 0])
    with pytest.raises(TypeError, match="pixels: got float64"):
        write_image(tmp_path / "b.png", RGB / 255)
    for wrong in (RGB[:, :, :2], RGB[0, 0], RGB[:0]):
        with pytest.raises(ValueError, match="pixels: got shape"):
            write_image(tmp_path / "b.png", wrong)
    with pytest.raises(ValueError, match=r"path: got .*b\.xyz"):
        write_image(tmp_path / "b.xyz", RGB)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "g.bmp"]


def test_real_photos():
    photos = sorted(sample_data("coco128", "val2017").glob("*.jpg"))[:5]
    for path in photos:
        image = read_image(path)
        assert image.shape == (*Image.open(path).size[::-1], 3)
        assert image.std() > 5


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        read_image(tmp_path / "a.png")


def test_importing_the_room_loads_neither_torch_nor_pillow():
    code = "import sys, tenfold.io; print([m for m in ('torch', 'PIL', 'pytest') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr
