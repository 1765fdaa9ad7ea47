"""Reader of the official KITTI object layout, strict about broken files.

::

    ROOT/ImageSets/{train,val,trainval,test}.txt
    ROOT/training/{velodyne/ID.bin, calib/ID.txt, label_2/ID.txt, image_2/ID.png, planes/ID.txt}
    ROOT/testing/{velodyne, calib, image_2}

Labels leave this module in our box convention (lidar frame, geometric centre). Images, planes and labels of
the test split are optional.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.eval._kitti_records import finite_numbers, read_objects
from tenfold.geometry import Calibration, boxes_from_kitti, boxes_to_kitti
from tenfold.io import read_image, read_point_array, read_text, write_text
from tenfold.lidar.frames import Objects
from tenfold.ops import points_in_boxes

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

DONT_CARE = "DontCare"
_CALIBRATION_KEYS = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
# Lowest height of the 2-D box (pixels), highest truncation and occlusion of easy, moderate and hard.
_DIFFICULTY = ((40, 0.15, 0), (25, 0.30, 1), (25, 0.50, 2))


@dataclass(frozen=True, eq=False)
class KittiLabels:
    """Labels of one frame, or detections when `scores` is set; one entry per object.

    Attributes:
        names: type of each object.
        truncation: ``(M,)`` share outside the image, -1 where unknown.
        occlusion: ``(M,)`` 0 visible, 1 partly, 2 largely occluded, 3 unknown, -1 where not given.
        alpha: ``(M,)`` observation angle, radians.
        boxes2d: ``(M, 4)`` x1, y1, x2, y2, pixels.
        boxes: ``(M, 7)`` in the lidar frame; of no meaning for "DontCare".
        scores: ``(M,)`` or None.
    """

    names: tuple[str, ...]
    truncation: FloatArray
    occlusion: IntArray
    alpha: FloatArray
    boxes2d: FloatArray
    boxes: npt.NDArray[np.float64]
    scores: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, mask: npt.NDArray[np.bool_]) -> "KittiLabels":
        """The entries where `mask` ``(M,)`` holds."""
        if mask.shape != (len(self),):
            raise ValueError(f"select: mask: shape {mask.shape} was received; ({len(self)},) is expected")
        return KittiLabels(
            names=tuple(n for n, keep in zip(self.names, mask, strict=True) if keep),
            truncation=self.truncation[mask],
            occlusion=self.occlusion[mask],
            alpha=self.alpha[mask],
            boxes2d=self.boxes2d[mask],
            boxes=self.boxes[mask],
            scores=None if self.scores is None else self.scores[mask],
        )

    @property
    def is_object(self) -> npt.NDArray[np.bool_]:
        """``(M,)`` True except for "DontCare" regions."""
        return np.array([n != DONT_CARE for n in self.names], dtype=bool)

    @property
    def difficulty(self) -> IntArray:
        """``(M,)`` 0 easy, 1 moderate, 2 hard, -1 none of them (see `kitti_difficulty`)."""
        return kitti_difficulty(self.boxes2d, self.truncation, self.occlusion)


def kitti_difficulty(boxes2d: FloatArray, truncation: FloatArray, occlusion: IntArray) -> IntArray:
    """Easiest level that each object ``(M,)`` meets, or -1; heights count pixels, so ``y2 - y1 + 1``.

    >>> kitti_difficulty(np.array([[0, 0, 9, 50.0]]), np.array([0.2]), np.array([0])).tolist()
    [1]
    """
    height = boxes2d[:, 3] - boxes2d[:, 1] + 1
    level = np.full(len(height), -1, dtype=np.int64)
    for index in reversed(range(3)):
        low, truncated, occluded = _DIFFICULTY[index]
        level[(height >= low) & (truncation <= truncated + 1e-6) & (occlusion <= occluded)] = index
    return level


@dataclass(frozen=True, eq=False)
class KittiFrame:
    """One frame.

    Attributes:
        frame_id: six digits in the official data.
        points: ``(N, 4)`` float32 x, y, z (metres) and reflectance in [0, 1].
        calibration: of the left colour camera.
        image_size: (height, width) in pixels, None when unknown.
        labels: all labelled objects without the "DontCare" regions; None in the test split.
        dont_care: ``(K, 4)`` 2-D boxes of regions in which nothing is labelled.
        image: ``(height, width, 3)`` uint8 RGB, None unless asked for.
        plane: ``(4,)`` road plane a, b, c, d in the rect frame, None when absent or not asked for.
    """

    frame_id: str
    points: FloatArray
    calibration: Calibration
    image_size: tuple[int, int] | None
    labels: KittiLabels | None
    dont_care: FloatArray
    image: npt.NDArray[np.uint8] | None = None
    plane: npt.NDArray[np.float64] | None = None

    @property
    def objects(self) -> Objects | None:
        """Labelled objects, as all readers name them."""
        labels = self.labels
        return None if labels is None else Objects(labels.names, labels.boxes, labels.difficulty)


def frame_info(frame: KittiFrame) -> dict[str, Any]:
    """Facts about a frame for a cache: JSON types and arrays, no points.

    Keys: frame_id, image_size, calibration (p2, r0, velo_to_cam), names, boxes, boxes2d, truncation,
    occlusion, alpha, difficulty, num_points (points of `frame.points` in each box).
    """
    c = frame.calibration
    result: dict[str, Any] = {
        "frame_id": frame.frame_id,
        "image_size": frame.image_size,
        "calibration": {"p2": c.p2, "r0": c.r0, "velo_to_cam": c.velo_to_cam},
    }
    if frame.labels is not None:
        for name in ("names", "boxes", "boxes2d", "truncation", "occlusion", "alpha", "difficulty"):
            result[name] = getattr(frame.labels, name)
        result["num_points"] = count_points(frame.points, frame.labels.boxes)
    return result


class KittiObject(Dataset[KittiFrame]):
    """The KITTI object data set, or data in its layout.

    Args:
        root: folder that holds `training` and, unless `ids` is given, `ImageSets`.
        split: name of a file in ImageSets; "test" reads from `testing` and has no labels.
        ids: frames to use instead of an ImageSets file.
        fov_only: keep only points that project into the image, as training and evaluation on KITTI do.
        image_size: (height, width) for frames without an image file.
        with_image, with_plane: load `image_2` and `planes` too.

    Raises:
        UserInputError: a missing folder, ImageSets file or frame file; and on access a truncated or
            non-finite scan, a missing calibration key, a malformed label line.

    >>> frames = KittiObject("data/kitti", "val")  # doctest: +SKIP
    >>> frames[0].points.shape  # doctest: +SKIP
    (18237, 4)
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        ids: Sequence[str] | None = None,
        fov_only: bool = True,
        image_size: tuple[int, int] | None = None,
        with_image: bool = False,
        with_plane: bool = False,
    ) -> None:
        self.root, self.split = Path(root), split
        self.folder = self.root / ("testing" if split == "test" else "training")
        self.fov_only, self.image_size = fov_only, image_size
        self.with_image, self.with_plane = with_image, with_plane
        self.ids = _check_ids(ids, "ids") if ids is not None else self._read_split()
        self._require_files()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> KittiFrame:
        frame_id = self.ids[index]
        calibration = read_calibration(self._path("calib", frame_id))
        points = read_velodyne(self._path("velodyne", frame_id))
        size = self._image_size(frame_id)
        if self.fov_only:
            points = points[calibration.in_image(points[:, :3], self._require_size(size, frame_id))]
        labels, dont_care = None, np.zeros((0, 4), dtype=np.float32)
        if self.split != "test":
            everything = read_labels(self._path("label_2", frame_id), calibration)
            labels = everything.select(everything.is_object)
            dont_care = everything.boxes2d[~everything.is_object]
        image = read_image(self._path("image_2", frame_id)) if self.with_image else None
        plane_file = self._path("planes", frame_id)
        plane = read_plane(plane_file) if self.with_plane and plane_file.exists() else None
        return KittiFrame(frame_id, points, calibration, size, labels, dont_care, image, plane)

    @property
    def prepared_name(self) -> str:
        """Part of the names of prepared files."""
        return self.split

    @property
    def settings(self) -> list[Any]:
        """What decides the content of frames."""
        return [self.fov_only, self.image_size]

    def info(self, index: int) -> dict[str, Any]:
        """`frame_info` of one frame."""
        return frame_info(self[index])

    def _path(self, kind: str, frame_id: str) -> Path:
        ending = {"velodyne": ".bin", "image_2": ".png"}.get(kind, ".txt")
        return self.folder / kind / (frame_id + ending)

    def _read_split(self) -> tuple[str, ...]:
        file = self.root / "ImageSets" / f"{self.split}.txt"
        if not file.is_file():
            raise UserInputError(
                f"{file}: the list of frames of split {self.split!r} is missing; "
                "download or create ImageSets, or pass ids"
            )
        ids = _check_ids(read_text(file).split(), str(file))
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise UserInputError(f"{file}: frame {twice} stands there more than once")
        return ids

    def _require_files(self) -> None:
        kinds = ["velodyne", "calib"] + ["label_2"] * (self.split != "test") + ["image_2"] * self.with_image
        for kind in kinds:
            missing = [i for i in self.ids if not self._path(kind, i).is_file()]
            if missing:
                raise UserInputError(
                    f"{self._path(kind, missing[0])}: the {kind} file is missing "
                    f"({len(missing)} of {len(self.ids)} frames lack theirs)"
                )

    def _image_size(self, frame_id: str) -> tuple[int, int] | None:
        file = self._path("image_2", frame_id)
        return png_size(file) if file.is_file() else self.image_size

    def _require_size(self, size: tuple[int, int] | None, frame_id: str) -> tuple[int, int]:
        if size is None:
            raise UserInputError(
                f"{self._path('image_2', frame_id)}: the image is missing, so the camera's view is unknown; "
                "pass image_size=(height, width) or fov_only=False"
            )
        return size


def _check_ids(ids: Iterable[str], source: str) -> tuple[str, ...]:
    result = tuple(ids)
    for frame_id in result:
        if not re.fullmatch(r"[\w-]+", frame_id):
            raise UserInputError(
                f"{source}: frame id {frame_id!r} is no file name; letters and digits are expected"
            )
    return result


def read_velodyne(file: str | Path) -> FloatArray:
    """Points ``(N, 4)`` of a velodyne file; an empty file is a frame without points.

    Raises:
        UserInputError: a missing file, a size that is no multiple of 16 bytes, or a value that is not finite.
    """
    points = read_point_array(file, 4)
    require_finite(points, file)
    return points


def require_finite(points: FloatArray, source: str | Path) -> None:
    """Raise a `UserInputError` that names the first point ``(N, C)`` of `source` with NaN or infinity."""
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise UserInputError(
            f"{source}: point {int(np.argmax(bad))} is not finite ({int(bad.sum())} of {len(points)} points)"
        )


def read_calibration(file: str | Path) -> Calibration:
    """Calibration from a file with lines ``KEY: numbers``; keys may stand in any order.

    Raises:
        UserInputError: a missing file or key, a wrong count of numbers, a matrix without inverse.
    """
    path = Path(file)
    rows: dict[str, list[str]] = {}
    for line in read_text(path).splitlines():
        key, colon, rest = line.partition(":")
        if colon:
            rows[key.strip()] = rest.split()
    matrices = []
    for key, shape in _CALIBRATION_KEYS.items():
        if key not in rows:
            raise UserInputError(
                f"{path}: the key {key} is missing; {', '.join(_CALIBRATION_KEYS)} are expected"
            )
        values = finite_numbers(rows[key], f"{path}: {key}")
        if values.size != shape[0] * shape[1]:
            raise UserInputError(
                f"{path}: {key}: {values.size} numbers were found; {shape[0] * shape[1]} are expected"
            )
        matrices.append(values.reshape(shape))
    try:
        return Calibration(*matrices)
    except ValueError as error:
        raise UserInputError(f"{path}: {error}") from error


def write_calibration(file: str | Path, calibration: Calibration) -> None:
    """Write a calibration file; all four cameras get the projection of the left colour camera."""
    identity = np.hstack((np.eye(3), np.zeros((3, 1))))
    rows = {f"P{k}": calibration.p2 for k in range(4)}
    rows |= {"R0_rect": calibration.r0, "Tr_velo_to_cam": calibration.velo_to_cam, "Tr_imu_to_velo": identity}
    lines = [f"{key}: " + " ".join(f"{v:.16e}" for v in matrix.ravel()) for key, matrix in rows.items()]
    write_text(file, "\n".join(lines) + "\n\n")


def read_labels(file: str | Path, calibration: Calibration) -> KittiLabels:
    """Labels or results of one frame, boxes in the lidar frame; an empty file has none.

    Raises:
        UserInputError: a missing file, a line without 15 fields (16 with a score), a field that is no finite
            number, an object without positive extents, or a score in some lines only.
    """
    names: list[str] = []
    rows: list[npt.NDArray[np.float64]] = []
    for place, name, values in read_objects(file, {15, 16}, "15 are expected, or 16 with a score"):
        if name != DONT_CARE and not (values[7:10] > 0).all():
            raise UserInputError(f"{place}: h, w, l of a {name} must be positive")
        names.append(name)
        rows.append(values)
    widths = {len(r) for r in rows}
    if len(widths) > 1:
        raise UserInputError(f"{file}: some lines have a score and some have none")
    table = np.array(rows, dtype=np.float64).reshape(len(rows), widths.pop() if widths else 14)
    return KittiLabels(
        names=tuple(names),
        truncation=table[:, 0].astype(np.float32),
        occlusion=table[:, 1].astype(np.int64),
        alpha=table[:, 2].astype(np.float32),
        boxes2d=table[:, 3:7].astype(np.float32),
        boxes=boxes_from_kitti(table[:, 7:14], calibration),
        scores=table[:, 14].astype(np.float32) if table.shape[1] == 15 else None,
    )


def write_labels(file: str | Path, labels: KittiLabels, calibration: Calibration) -> None:
    """Write labels, or results when they have scores; an empty file for none, as the benchmark asks."""
    write_text(file, format_labels(labels, calibration))


def format_labels(labels: KittiLabels, calibration: Calibration) -> str:
    """Text of a label or result file."""
    geometry = boxes_to_kitti(labels.boxes, calibration)
    lines = []
    for i, name in enumerate(labels.names):
        values = geometry[i] if name != DONT_CARE else (-1, -1, -1, -1000, -1000, -1000, -10)
        head = f"{name} {labels.truncation[i]:.2f} {labels.occlusion[i]} {labels.alpha[i]:.4f}"
        tail = "" if labels.scores is None else f" {labels.scores[i]:.6f}"
        numbers = [*(f"{v:.2f}" for v in labels.boxes2d[i]), *(f"{v:.4f}" for v in values)]
        lines.append(f"{head} {' '.join(numbers)}{tail}\n")
    return "".join(lines)


def read_plane(file: str | Path) -> npt.NDArray[np.float64]:
    """Road plane a, b, c, d ``(4,)`` in the rect frame, normal up, from the fourth line of a plane file."""
    path = Path(file)
    lines = read_text(path).splitlines()
    if len(lines) < 4:
        raise UserInputError(f"{path}: {len(lines)} lines were found; the plane is expected in line 4")
    plane = finite_numbers(lines[3].split(), f"{path}: line 4")
    if plane.size != 4 or np.linalg.norm(plane[:3]) == 0:
        raise UserInputError(f"{path}: line 4: the four numbers of a plane are expected")
    # Published planes are scaled freely and some point down.
    scale = np.linalg.norm(plane[:3]) * (1 if plane[1] < 0 else -1)
    return plane / scale


def png_size(file: str | Path) -> tuple[int, int]:
    """(height, width) of a PNG image from its header, without decoding it."""
    path = Path(file)
    with path.open("rb") as stream:
        header = stream.read(24)
    if len(header) < 24 or header[:8] != b"\x89PNG\r\n\x1a\n":
        raise UserInputError(f"{path}: the file is no PNG image")
    width, height = struct.unpack(">II", header[16:24])
    return height, width


def count_points(points: FloatArray, boxes: npt.NDArray[Any]) -> IntArray:
    """Number of points ``(N, 3+)`` in each box ``(M, 7)``; a point may count for several boxes."""
    xyz = torch.from_numpy(points[:, :3].astype(np.float64))
    first, _ = points_in_boxes(xyz, torch.from_numpy(np.asarray(boxes, dtype=np.float64)), mode="csr")
    return first.diff().numpy()
