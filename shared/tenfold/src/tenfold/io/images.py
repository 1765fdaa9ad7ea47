"""Images as arrays of 8-bit RGB, whatever the file holds; Pillow loads with the first call."""

import io
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import MissingExtraError
from tenfold.io._files import StrPath, bad_file, read_file, short
from tenfold.io.atomic import write_bytes

_WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def load_pillow() -> ModuleType:
    """The package PIL with its modules Image and ImageOps, or a `MissingExtraError` that says what to install."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise MissingExtraError('reading images needs Pillow: pip install "tenfold[cli]"') from error
    return PIL


def read_image(path: StrPath) -> npt.NDArray[np.uint8]:
    """Read an image file as RGB (H, W, 3) of 0 to 255, turned upright.

    The rules, so that every file gives one answer:

    - The EXIF orientation is applied.
    - Grey values are repeated in the three channels; a palette is looked up; CMYK, YCbCr and LAB are
      converted as Pillow does, without the file's colour profile.
    - An alpha channel is dropped, its colours stay as stored; so is the transparency of a palette.
    - 16-bit grey is scaled by 255/65535 and rounded, not cut off at 255.
    - Of an animation the first frame is read.

    Raises:
        UserInputError: not an image, truncated, larger than Pillow's limit for decompression bombs, or of a
            kind without a rule (float or 32-bit grey); names file and cause.
        MissingExtraError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> write_image(file, np.full((2, 3), 7, np.uint8))
        >>> read_image(file).shape, read_image(file)[0, 0].tolist()
        ((2, 3, 3), [7, 7, 7])
    """
    pillow = load_pillow()
    data = read_file(path)
    try:
        with warnings.catch_warnings():
            # Damaged EXIF data only warns, and so does a large image below the hard limit.
            warnings.simplefilter("ignore")
            with pillow.Image.open(io.BytesIO(data)) as image:
                image.load()
                upright = pillow.ImageOps.exif_transpose(image)
            if upright.mode not in (*_WIDE_GREY, "F"):
                upright = upright.convert("RGB")
    except pillow.UnidentifiedImageError as error:
        bad_file(path, "image", f"is no image that Pillow knows ({len(data)} bytes)", error)
    except (pillow.Image.DecompressionBombError, MemoryError) as error:
        bad_file(path, "image", f"is too large ({short(str(error), 120)})", error)
    except (
        OSError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
    ) as error:
        bad_file(path, "image", f"is damaged or truncated ({short(str(error), 120)})", error)
    return _rgb(path, upright)


def _rgb(path: StrPath, image: Any) -> npt.NDArray[np.uint8]:
    if image.mode in _WIDE_GREY:
        return _from_wide_grey(path, np.asarray(image))
    if image.mode == "F":
        bad_file(path, "image", "holds float grey values, whose range is unknown; expected 8 or 16 bits")
    return np.array(image)


def _from_wide_grey(path: StrPath, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    wide = values.astype(np.int64)
    if wide.size and not 0 <= wide.min() <= wide.max() <= 65535:
        bad_file(path, "image", f"holds grey values {wide.min()} to {wide.max()}; expected 8 or 16 bits")
    grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def write_image(path: StrPath, pixels: npt.NDArray[np.uint8], *, quality: int = 95) -> None:
    """Write RGB (H, W, 3) or grey (H, W) of 8 bits atomically; the ending of the name chooses the format.

    Args:
        path: the file: .png, .jpg, .webp, .bmp, .tif or another ending that Pillow writes.
        pixels: the values; copied if not contiguous.
        quality: of lossy formats.

    Raises:
        TypeError: not uint8.
        ValueError: a wrong shape, no pixels, or an ending that Pillow cannot write.
        UserInputError: the file cannot be written.

    Example: see `read_image`.
    """
    pillow = load_pillow()
    if pixels.dtype != np.uint8:
        raise TypeError(
            f"write_image: pixels: got {pixels.dtype}; expected uint8; scale floats to 0-255 first"
        )
    if pixels.size == 0 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"write_image: pixels: got shape {pixels.shape}; expected (H, W, 3) or (H, W)")
    kind = pillow.Image.registered_extensions().get(Path(path).suffix.lower())
    if kind not in pillow.Image.SAVE:
        raise ValueError(f"write_image: path: got {path}; expected an ending such as .png or .jpg")
    packed = io.BytesIO()
    pillow.Image.fromarray(np.ascontiguousarray(pixels)).save(packed, kind, quality=quality)
    write_bytes(path, packed.getvalue())
