"""Where images come from before they are prepared: folders, FFHQ in its official layout, LMDB."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import MissingExtraError, UserInputError

__all__ = ["FFHQ_INDEX", "SPLITS", "ffhq_files", "is_lmdb", "read_lmdb"]

Pixels = npt.NDArray[np.uint8]

FFHQ_INDEX = "ffhq-dataset-v2.json"
#: FFHQ's parts; generators are trained and measured on all 70,000.
SPLITS = ("all", "training", "validation")


def ffhq_files(folder: Path, split: str = "all") -> list[Path]:
    """Files of FFHQ's aligned images by its index ``ffhq-dataset-v2.json``, in the order of their numbers.

    The folder holds ``images1024x1024`` or ``thumbnails128x128`` beside the index; the larger ones are taken, and
    ``in-the-wild-images`` never.

    Args:
        folder: of the index.
        split: one of `SPLITS`.

    Raises:
        UserInputError: an unfit index, an unknown split, or a listed file that is missing.
    """
    if split not in SPLITS:
        raise UserInputError(f"split: got {split!r}; expected one of {', '.join(SPLITS)}")
    table = folder / FFHQ_INDEX
    try:
        found: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
        numbers = sorted(found, key=int)
        chosen = [found[k] for k in numbers if split in ("all", found[k]["category"])]
        listed = {
            kind: [Path(entry[kind]["file_path"]) for entry in chosen] for kind in ("image", "thumbnail")
        }
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserInputError(
            f"{table}: expected numbers, each with a category and the file_path of image and thumbnail"
        ) from error
    if not chosen:
        raise UserInputError(f"{table}: split: holds no images of {split!r}")
    for kind in ("image", "thumbnail"):
        paths = [folder / path for path in listed[kind]]
        if any(path.is_absolute() or ".." in path.parts for path in listed[kind]):
            raise UserInputError(f"{table}: {kind}.file_path: leads out of the folder")
        if paths[0].is_file():
            missing = next((path for path in paths if not path.is_file()), None)
            if missing is not None:
                raise UserInputError(f"{missing}: source: is listed in {FFHQ_INDEX} and missing")
            return paths
    raise UserInputError(f"{folder / listed['image'][0]}: source: is listed in {FFHQ_INDEX} and missing")


def is_lmdb(folder: Path) -> bool:
    """Whether a folder is an LMDB environment."""
    return (folder / "data.mdb").is_file()


def read_lmdb(folder: Path, resolution: int) -> tuple[int, Iterator[Pixels]]:
    """The images of an LMDB folder, as LSUN ships them or as rosinality's tool packs them.

    LSUN: every value is the file of one image. rosinality: ``length``, and ``256-00000`` and so on for each size; the
    size that is asked for is taken, or the next larger one, or the largest.

    Args:
        folder: holds data.mdb.
        resolution: side that is wanted, pixels.

    Returns:
        The number of images, and the images ``(H, W, 3)`` in the order of their keys.

    Raises:
        MissingExtraError: the package lmdb is not installed.
        UserInputError: a damaged file, or one without images.
    """
    with _reading(folder) as txn:
        keys = _packed_keys(folder, txn, resolution) or [
            bytes(k) for k in txn.cursor().iternext(values=False)
        ]
    if not keys:
        raise UserInputError(f"{folder}: source: holds no images")

    def images() -> Iterator[Pixels]:
        with _reading(folder) as txn:
            for key in keys:
                yield _decoded(folder, key, txn.get(key))

    return len(keys), images()


@contextmanager
def _reading(folder: Path) -> Iterator[Any]:
    """A read transaction of an LMDB folder."""
    try:
        lmdb: Any = importlib.import_module("lmdb")
    except ImportError as error:
        raise MissingExtraError('LMDB folders need: pip install "stylegan-distill[lmdb]"') from error
    try:
        with (
            lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as place,
            place.begin() as txn,
        ):
            yield txn
    except lmdb.Error as error:
        raise UserInputError(f"{folder}: source: cannot be read as LMDB ({error})") from error


def _packed_keys(folder: Path, txn: Any, resolution: int) -> list[bytes]:
    """Keys of rosinality's layout at the best size; none where it is not that layout."""
    length = txn.get(b"length")
    if length is None:
        return []
    sizes = set()
    for key in txn.cursor().iternext(values=False):
        size, _, number = bytes(key).partition(b"-")
        if size.isdigit() and number.isdigit() and int(number) == 0:
            sizes.add(int(size))
    if not sizes or not bytes(length).isdigit():
        raise UserInputError(f"{folder}: source: expected the keys length and 256-00000 or of another size")
    enough = [size for size in sizes if size >= resolution]
    chosen = min(enough) if enough else max(sizes)
    return [f"{chosen}-{number:05d}".encode() for number in range(int(length))]


def _decoded(folder: Path, key: bytes, content: bytes | None) -> Pixels:
    from PIL import Image

    name = key.decode(errors="replace")
    if content is None:
        raise UserInputError(f"{folder}: {name}: is missing")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow has no closed list of what a damaged image raises
        raise UserInputError(f"{folder}: {name}: is no sound image") from error
