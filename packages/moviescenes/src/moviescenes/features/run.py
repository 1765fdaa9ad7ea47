"""Runs extractors over a video, with a cache that an interrupted run goes on from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moviescenes.features.base import MODALITIES, FrameExtractor, extractor
from moviescenes.progress import Bar
from moviescenes.shots import Shot, ShotList
from moviescenes.video import Video, read_frames
from tenfold._errors import UserInputError
from tenfold.io import atomic_write, make_folder, read_json, restricted_load, write_json
from tenfold.io.arrays import read_npy

__all__ = ["DEFAULT", "FeatureSet", "extract_features", "file_key", "parse_features", "read_features"]

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

#: What is extracted where nothing is asked for.
DEFAULT = "place=hsv-hist,cast=skin-layout,act=motion-hist,aud=logmel-stats"

_PART = 256  # shots to a file of the cache
_BLOCK = 1 << 20


@dataclass
class FeatureSet:
    """Features of the shots of one video.

    Args:
        arrays: modality -> (n, ...), float32.
        names: modality -> extractor that made them.
        absent: modalities that the video lacks, such as its sound; their arrays hold zeros.
    """

    arrays: dict[str, Array]
    names: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def parse_features(text: str) -> dict[str, str]:
    """Modality -> extractor, from ``place=hsv-hist,aud=stft``.

    Raises:
        UserInputError: no such modality, or one twice.

    >>> parse_features("place=hsv-hist,aud=stft")
    {'place': 'hsv-hist', 'aud': 'stft'}
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, word = part.strip().partition("=")
        key = {"action": "act", "audio": "aud"}.get(key, key)
        if not equals or key not in MODALITIES or key in found:
            raise UserInputError(
                f"features: got {part.strip()!r}; expected modality=extractor, each once, of"
                f" {', '.join(MODALITIES)}"
            )
        found[key] = word
    return found


def read_features(source: str, shots: int) -> FeatureSet:
    """Features that were computed elsewhere: ``npy:FOLDER`` or ``pkl:FILE``.

    The folder holds ``place.npy``, ``cast.npy``, ``act.npy``, ``aud.npy``, as many as there are, each (n, ...);
    the pickle a dict of such arrays.

    Raises:
        UserInputError: unreadable, or not one row per shot.
    """
    kind, _, place = source.partition(":")
    if kind == "npy":
        files = {key: Path(place) / f"{key}.npy" for key in MODALITIES}
        found = {key: read_npy(file) for key, file in files.items() if file.is_file()}
    else:
        loaded = restricted_load(place, tensors=True)
        if not isinstance(loaded, dict):
            raise UserInputError(f"{place}: features: expected a dict of arrays")
        found = {key: np.asarray(loaded[key]) for key in MODALITIES if key in loaded}
    if not found:
        raise UserInputError(f"{place}: features: found none of {', '.join(MODALITIES)}")
    for key, value in found.items():
        if value.ndim < 2 or len(value) != shots:
            raise UserInputError(
                f"{place}: {key}: got shape {value.shape}; expected one row for each of {shots} shots"
            )
    arrays = {key: np.asarray(value, np.float32) for key, value in found.items()}
    return FeatureSet(arrays, dict.fromkeys(arrays, source))


def file_key(path: str | Path) -> str:
    """Digest of a file's size and of its first, middle and last megabyte: the same for the same video anywhere.

    Raises:
        OSError: the file cannot be read.
    """
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for start in (0, max(0, size // 2 - _BLOCK // 2), max(0, size - _BLOCK)):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def extract_features(
    video: Video,
    shots: ShotList,
    wanted: Mapping[str, Any] | str = DEFAULT,
    *,
    cache: Path | None = None,
    thumbnails: dict[int, bytes] | None = None,
    progress: bool = False,
) -> FeatureSet:
    """Describe the shots of a video.

    Args:
        video: what `moviescenes.video.probe` says of it.
        shots: its shots.
        wanted: modality -> extractor or its name, as text ``place=hsv-hist,...``, or ``npy:FOLDER``, ``pkl:FILE``.
        cache: folder; an interrupted run goes on from what it left there.
        thumbnails: filled with a JPEG of the middle of each shot.
        progress: draw bars.

    Raises:
        UserInputError: unknown names, an unreadable video, or an extractor that gives wrong shapes.
        MissingExtraError: an extractor's package is not installed.
    """
    if isinstance(wanted, str):
        if wanted.startswith(("npy:", "pkl:")):
            if thumbnails is not None:
                extract_features(video, shots, {}, cache=cache, thumbnails=thumbnails, progress=progress)
            return read_features(wanted, len(shots))
        wanted = parse_features(wanted)
    chosen = {key: extractor(word) if isinstance(word, str) else word for key, word in wanted.items()}
    for key, one in chosen.items():
        if one.modality != key:
            raise UserInputError(f"features: {one.name} describes {one.modality}, not {key}")
    absent = tuple(key for key in chosen if key == "aud" and not video.has_audio)
    store = _Store(cache, video, shots)
    arrays: dict[str, Array] = {}
    pictures: dict[str, Any] = {key: one for key, one in chosen.items() if isinstance(one, FrameExtractor)}
    if thumbnails is not None:
        pictures[""] = Thumbnail()
    if pictures:
        seen = _pass(video, shots, pictures, store, progress)
        if thumbnails is not None:
            thumbnails.update({k: data for k, data in enumerate(seen.pop("")) if data})
        arrays.update({key: np.stack(rows).astype(np.float32) for key, rows in seen.items()})
    for key, one in chosen.items():
        if key in absent:
            arrays[key] = np.zeros((len(shots), *one.dim), np.float32)
        elif key not in pictures:
            arrays[key] = _whole(video, shots, one, store)
    names = {key: one.name for key, one in chosen.items()}
    return FeatureSet({key: arrays[key] for key in chosen}, names, absent)


class Thumbnail:
    """A small JPEG of the middle of each shot: what pages show."""

    name, modality, dim, version, size = "thumbnail", "", (), 1, 192

    def frames(self, shot: Shot) -> Sequence[int]:
        """The middle frame."""
        return [shot.images[1]]

    def describe(self, images: Sequence[Image]) -> bytes:
        """The JPEG file's bytes."""
        from tenfold.viz import encode_image

        return encode_image(np.ascontiguousarray(images[0]), "JPEG", quality=80)


def _whole(video: Video, shots: ShotList, one: Any, store: _Store) -> Array:
    kept = store.read(one, 0, len(shots))
    if kept is not None:
        return np.stack(kept)
    found = np.asarray(one.extract(video, shots), np.float32)
    if found.shape != (len(shots), *one.dim):
        raise UserInputError(
            f"features: {one.name}: gave shape {found.shape}; expected {(len(shots), *one.dim)}"
        )
    store.write(one, 0, list(found))
    return found


class _Store:
    """Parts of features in a folder, named by video, shots, extractor and version."""

    def __init__(self, folder: Path | None, video: Video, shots: ShotList) -> None:
        self.folder: Path | None = None
        if folder is not None:
            table = hashlib.sha256(np.ascontiguousarray(shots.table()).tobytes()).hexdigest()[:12]
            self.folder = make_folder(Path(folder) / f"{file_key(video.path)}-{table}", "cache")

    def _file(self, one: Any, first: int) -> Path:
        assert self.folder is not None
        safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in one.name)
        ending = "npy" if one.dim else "json"
        return self.folder / f"{safe}-v{one.version}-{first:06d}.{ending}"

    def read(self, one: Any, first: int, count: int) -> list[Any] | None:
        """The rows of a part, where it is there and whole; a damaged part is made anew."""
        if self.folder is None or not self._file(one, first).is_file():
            return None
        try:
            if not one.dim:
                texts = read_json(self._file(one, first))
                rows = [base64.b64decode(text, validate=True) for text in texts]
                return rows if len(rows) == count else None
            found = read_npy(self._file(one, first))
        except (UserInputError, TypeError, ValueError):
            return None
        return list(found.astype(np.float32)) if found.shape == (count, *one.dim) else None

    def write(self, one: Any, first: int, rows: list[Any]) -> None:
        """Keep a part."""
        if self.folder is None:
            return
        if not one.dim:
            write_json(self._file(one, first), [base64.b64encode(row).decode() for row in rows])
            return
        with atomic_write(self._file(one, first)) as file:
            np.save(file, np.stack(rows))


def _pass(
    video: Video, shots: ShotList, chosen: Mapping[str, Any], store: _Store, progress: bool
) -> dict[str, list[Any]]:
    """One pass over the video for all extractors that look at frames: key -> a row for each shot."""
    rows: dict[str, list[Any]] = {
        key: [np.zeros(one.dim, np.float32) if one.dim else b""] * len(shots) for key, one in chosen.items()
    }
    todo = set()
    for first in range(0, len(shots), _PART):
        count = min(_PART, len(shots) - first)
        for key, one in chosen.items():
            found = store.read(one, first, count)
            if found is None:
                todo.add((key, first))
            else:
                rows[key][first : first + count] = found
    if not todo:
        return rows
    for shot, seen in _seen(video, shots, chosen, todo, progress):
        first = shot.index // _PART * _PART
        for key, one in chosen.items():
            if (key, first) in todo:
                if seen[key]:
                    rows[key][shot.index] = one.describe(seen[key])
                if shot.index + 1 in (first + _PART, len(shots)):
                    store.write(one, first, rows[key][first : shot.index + 1])
    return rows


def _seen(
    video: Video,
    shots: ShotList,
    chosen: Mapping[str, Any],
    todo: set[tuple[str, int]],
    progress: bool,
) -> Iterator[tuple[Shot, dict[str, list[Image]]]]:
    """Each shot with the frames that each extractor wants, one shot in memory at a time."""
    position, plan = 0, _plan(shots[0], chosen, todo)
    seen: dict[str, list[Image]] = {key: [] for key in chosen}
    with Bar("features", shots[-1].end_frame + 1 if progress else 0) as bar:
        for frame in read_frames(video.path):
            bar.step()
            if frame.index > shots[position].end_frame:
                yield shots[position], seen
                position += 1
                if position == len(shots):
                    return
                seen, plan = {key: [] for key in chosen}, _plan(shots[position], chosen, todo)
            sizes: dict[int, Image] = {}
            for key in plan.get(frame.index, ()):
                size = chosen[key].size
                if size not in sizes:
                    sizes[size] = frame.small(size)
                seen[key].append(sizes[size])
    while position < len(shots):  # the list of shots says more frames than there are
        yield shots[position], seen
        position, seen = position + 1, {key: [] for key in chosen}


def _plan(shot: Shot, chosen: Mapping[str, Any], todo: set[tuple[str, int]]) -> dict[int, Sequence[str]]:
    """Frame -> keys of the extractors that want it."""
    first = shot.index // _PART * _PART
    plan: dict[int, list[str]] = {}
    for key, one in chosen.items():
        if (key, first) in todo:
            for index in one.frames(shot):
                plan.setdefault(index, []).append(key)
    return dict(plan)
