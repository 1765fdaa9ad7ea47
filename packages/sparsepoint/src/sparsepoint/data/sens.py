"""ScanNet's recordings (``.sens``): a depth camera's frames with their poses, and the points that they see together."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.geometry import transform_points
from tenfold.io import PointCloud

__all__ = ["SensFile", "SensFrame", "sens_points"]

Floats = npt.NDArray[np.float64]
_VERSION = 4
_DEPTH_CODES = {0: "raw", 1: "zlib"}
_COLOUR_CODES = {0: "raw", 1: "png", 2: "jpeg"}
_LONGEST_NAME, _WIDEST = 4096, 16384
_FAR = 4.0  # metres; the camera's depth is rough beyond
_STRIDE = 4


@dataclass(frozen=True, eq=False)
class SensFrame:
    """One frame.

    Attributes:
        number: in the file, from 0.
        pose: (4, 4) from the camera's frame to the scan's; not finite where tracking was lost.
        depth: (H, W) metres, 0 where invalid.
        colour: (H', W', 3) uint8, or None where the file has none.
    """

    number: int
    pose: Floats
    depth: Floats
    colour: npt.NDArray[np.uint8] | None


class SensFile:
    """The head of a ``.sens`` file, and its frames one by one.

    Args:
        path: the file; version 4, as ScanNet distributes.

    Attributes:
        intrinsic_depth: (4, 4) of the depth camera.
        intrinsic_colour: (4, 4) of the colour camera.
        number: of frames.

    Raises:
        UserInputError: missing, damaged, truncated, or of another version or compression.

    Source: the layout of ScanNet's SensReader.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._open() as file:
            (version,) = self._read(file, "<I", "version")
            if version != _VERSION:
                raise UserInputError(f"{path}: version: got {version}; expected {_VERSION}")
            (length,) = self._read(file, "<Q", "sensor_name")
            if length > _LONGEST_NAME:
                raise UserInputError(f"{path}: sensor_name: got {length} characters; the file is damaged")
            self._bytes(file, length, "sensor_name")
            self.intrinsic_colour, _, self.intrinsic_depth, _ = (
                np.array(self._read(file, "<16f", "intrinsics")).reshape(4, 4) for _ in range(4)
            )
            colour_code, depth_code = self._read(file, "<2i", "compression")
            sizes = self._read(file, "<4I", "sizes")
            (self.depth_shift,) = self._read(file, "<f", "depth_shift")
            (self.number,) = self._read(file, "<Q", "num_frames")
            self._start = file.tell()
        self.colour_size, self.depth_size = (sizes[1], sizes[0]), (sizes[3], sizes[2])
        self._check(colour_code, depth_code)
        self.depth_code, self.colour_code = _DEPTH_CODES[depth_code], _COLOUR_CODES.get(colour_code)

    def _check(self, colour_code: int, depth_code: int) -> None:
        if depth_code not in _DEPTH_CODES or (colour_code != -1 and colour_code not in _COLOUR_CODES):
            raise UserInputError(
                f"{self.path}: compression: got {colour_code} (colour) and {depth_code} (depth); expected raw, png or "
                "jpeg, and raw or zlib"
            )
        if not 1 <= min(self.depth_size) <= max(*self.depth_size, *self.colour_size) <= _WIDEST:
            raise UserInputError(
                f"{self.path}: sizes: got depth {self.depth_size}, colour {self.colour_size}"
            )
        focal = self.intrinsic_depth[[0, 1], [0, 1]]
        if not (np.isfinite(self.intrinsic_depth).all() and (focal > 0).all() and self.depth_shift > 0):
            raise UserInputError(f"{self.path}: intrinsics, depth_shift: are damaged")

    def __len__(self) -> int:
        return int(self.number)

    def frames(self, every: int = 1) -> Iterator[SensFrame]:
        """Every so many-th frame; the others are passed over without being unpacked.

        Raises:
            UserInputError: a frame is damaged or the file ends before it.
        """
        with self._open() as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(self._start)
            for number in range(self.number):
                what = f"frame {number}"
                pose = np.array(self._read(file, "<16f", what)).reshape(4, 4)
                *_, colour_bytes, depth_bytes = self._read(file, "<4Q", what)
                if file.tell() + colour_bytes + depth_bytes > size:
                    raise UserInputError(
                        f"{self.path}: {what}: the file ends within it ({self.number} announced)"
                    )
                if number % every:
                    file.seek(colour_bytes + depth_bytes, io.SEEK_CUR)
                    continue
                colour = self._colour(self._bytes(file, colour_bytes, what), what)
                yield SensFrame(number, pose, self._depth(self._bytes(file, depth_bytes, what), what), colour)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise UserInputError(f"{self.path}: file: cannot be read ({error.strerror})") from error

    def _bytes(self, file: BinaryIO, number: int, what: str) -> bytes:
        data = file.read(number)
        if len(data) != number:
            raise UserInputError(f"{self.path}: {what}: the file ends within it")
        return data

    def _read(self, file: BinaryIO, layout: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._bytes(file, struct.calcsize(layout), what))

    def _depth(self, data: bytes, what: str) -> Floats:
        height, width = self.depth_size
        wanted = 2 * height * width
        if self.depth_code == "zlib":
            try:
                # One byte more than wanted shows what is too long without unpacking all of it.
                data = zlib.decompressobj().decompress(data, wanted + 1)
            except zlib.error as error:
                raise UserInputError(f"{self.path}: {what}: depth is damaged ({error})") from error
        if len(data) != wanted:
            raise UserInputError(f"{self.path}: {what}: depth is not {height} x {width} numbers of 16 bits")
        return np.frombuffer(data, "<u2").reshape(height, width) / float(self.depth_shift)

    def _colour(self, data: bytes, what: str) -> npt.NDArray[np.uint8] | None:
        import PIL.Image

        if self.colour_code is None or not data:
            return None
        height, width = self.colour_size
        if self.colour_code == "raw":
            if len(data) != 3 * height * width:
                raise UserInputError(f"{self.path}: {what}: colour is not {height} x {width} x 3 bytes")
            return np.frombuffer(data, np.uint8).reshape(height, width, 3)
        try:
            with PIL.Image.open(io.BytesIO(data), formats=(self.colour_code.upper(),)) as image:
                if image.size != (width, height):
                    raise ValueError(f"{image.size[1]} x {image.size[0]} and not {height} x {width}")
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow meets damage as any kind of exception
            raise UserInputError(f"{self.path}: {what}: colour is damaged ({error})") from error


def sens_points(path: str | Path, frames: int = 100, voxel: float = 0.02) -> PointCloud:
    """Points that evenly chosen frames of a recording see, one in a cell, in the scan's frame.

    Every fourth pixel of each direction up to 4 m. Both cameras are taken as one, as ScanNet's files have them. Frames
    whose tracking was lost are left out.

    Args:
        path: a ``.sens`` file.
        frames: to use, about.
        voxel: side of the cells, metres.

    Returns:
        Points in metres, with colours where the recording has any.

    Raises:
        UserInputError: a damaged file, or one without a valid point.
    """
    recording = SensFile(path)
    every = max(1, len(recording) // max(1, frames))
    parts = [_seen(recording, frame) for frame in recording.frames(every) if np.isfinite(frame.pose).all()]
    rows = np.concatenate([*parts, np.zeros((0, 6))])
    if not len(rows):
        raise UserInputError(f"{path}: frames: none of {len(recording)} has a pose and a valid depth")
    cells = np.floor((rows[:, :3] - rows[:, :3].min(0)) / voxel).astype(np.int64)
    rows = rows[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
    xyz, colours = rows[:, :3].astype(np.float32), rows[:, 3:]
    if not np.isfinite(colours).all():
        return PointCloud(xyz)
    fields = {name: colours[:, k].astype(np.uint8) for k, name in enumerate(("red", "green", "blue"))}
    return PointCloud(xyz, dict(fields))


def _seen(recording: SensFile, frame: SensFrame) -> Floats:
    """(N, 6) points of a frame in the scan's frame and their colours, NaN without any."""
    k, depth = recording.intrinsic_depth, frame.depth[::_STRIDE, ::_STRIDE]
    row, column = np.nonzero((depth > 0) & (depth <= _FAR))
    z = depth[row, column]
    x = (column * _STRIDE - k[0, 2]) * z / k[0, 0]
    y = (row * _STRIDE - k[1, 2]) * z / k[1, 1]
    colours = np.full((len(z), 3), np.nan)
    if frame.colour is not None:
        q = recording.intrinsic_colour
        height, width = frame.colour.shape[:2]
        u = np.rint(q[0, 0] * x / z + q[0, 2]).astype(int).clip(0, width - 1)
        v = np.rint(q[1, 1] * y / z + q[1, 2]).astype(int).clip(0, height - 1)
        colours = frame.colour[v, u].astype(float)
    return np.column_stack((transform_points(np.stack((x, y, z), 1), frame.pose), colours))
