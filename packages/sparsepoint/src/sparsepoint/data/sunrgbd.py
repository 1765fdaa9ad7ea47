"""SUN RGB-D from its official files, without MATLAB; or from the arrays that VoteNet's preparation writes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.data.matlab import read_hdf5_struct
from sparsepoint.data.scenes import Scene, read_list
from tenfold._errors import UserInputError
from tenfold.io import read_image
from tenfold.io.arrays import read_npy, read_npz

__all__ = [
    "SUNRGBDDetection",
    "boxes_from_labels",
    "boxes_from_votenet",
    "depth_points",
    "read_depth",
    "read_struct",
]

_PREFIX = "/n/fs/sun3d/data"
_MAX_DEPTH = 8.0
_META = {"v2": "SUNRGBDMeta3DBB_v2.mat", "v1": "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat"}
_SPLITS = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
_LISTS = {"train": "alltrain", "val": "alltest", "test": "alltest"}


def read_struct(path: Path, name: str) -> Any:
    """A variable of a MATLAB file, structs as objects; version 7.3 (HDF5) needs the package h5py.

    Raises:
        UserInputError: missing, damaged, truncated, without that variable, or of version 7.3 without h5py.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise UserInputError(f"{path}: file: does not exist")
    try:
        found = loadmat(str(path), struct_as_record=False, squeeze_me=True, variable_names=[name])
    except NotImplementedError:  # scipy's word for version 7.3
        return read_hdf5_struct(path, name)
    except Exception as error:  # scipy meets damage as any kind of exception
        raise UserInputError(f"{path}: file: is damaged or truncated ({type(error).__name__})") from error
    if name not in found:
        raise UserInputError(f"{path}: {name}: no such variable")
    return found[name]


def read_depth(path: Path) -> np.ndarray:
    """(H, W) metres of a depth image, 0 where invalid, cut at 8 m; its 16 bits are rotated by three.

    Raises:
        UserInputError: missing, damaged, or not 16 bits of grey.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(path.read_bytes())) as image:
            if not image.mode.startswith("I"):
                raise UserInputError(f"{path}: image: got mode {image.mode}; expected 16-bit grey")
            raw = np.asarray(image).astype(np.int64)
    except UserInputError:
        raise
    except Exception as error:
        raise UserInputError(f"{path}: image: cannot be read ({type(error).__name__}: {error})") from error
    raw = raw & 0xFFFF
    metres = (((raw >> 3) | (raw << 13)) & 0xFFFF) / 1000.0
    return np.asarray(np.minimum(metres, _MAX_DEPTH))


def depth_points(depth: np.ndarray, k: np.ndarray, tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of a depth image in the upright frame (x right, y forward, z up), and which pixels have one.

    Pixel indices count from 1, as in the official toolbox.

    Args:
        depth: (H, W) metres, 0 where invalid.
        k: (3, 3) camera matrix.
        tilt: (3, 3) rotation that sets the camera upright (``Rtilt``).
    """
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns]
    x = (columns + 1 - k[0, 2]) * z / k[0, 0]
    y = (rows + 1 - k[1, 2]) * z / k[1, 1]
    points = np.stack((x, z, -y), 1) @ np.asarray(tilt, float).T
    return points, depth > 0


def boxes_from_labels(rows: np.ndarray) -> np.ndarray:
    """(G, 7) of rows cx, cy, cz, width, length, height (halves), ox, oy: VoteNet's text labels, width first.

    Example:
        >>> boxes_from_labels(np.array([[0.0, 0, 0, 0.4, 1.0, 0.3, 0.0, 1.0]])).round(4).tolist()
        [[0.0, 0.0, 0.0, 2.0, 0.8, 0.6, 1.5708]]
    """
    yaw = np.arctan2(rows[:, 7], rows[:, 6])
    return np.column_stack((rows[:, :3], 2 * rows[:, [4, 3, 5]], yaw))


def boxes_from_votenet(rows: np.ndarray) -> np.ndarray:
    """(G, 7) of VoteNet's ``_bbox.npy`` rows (G, 8): centre, half length, width, height, clockwise heading, class."""
    return np.column_stack((rows[:, :3], 2 * rows[:, 3:6], -rows[:, 6]))


class SUNRGBDDetection:
    """A split of SUN RGB-D: ten classes, boxes with a heading, one sample a depth frame.

    Args:
        root: the folder with ``SUNRGBD/``, ``SUNRGBDtoolbox/`` and ``SUNRGBDMeta3DBB_v2.mat``, as downloaded; or
            VoteNet's folder of ``<number>_bbox.npy`` and ``<number>_pc.npz`` with a list ``<split>.txt``.
        split: "train", or "val" or "test": the official test half.
        labels: "v1" or "v2" annotations: figures of the two must not be compared.

    Raises:
        UserInputError: a missing or damaged file.
    """

    def __init__(self, root: str | Path, split: str = "train", labels: Literal["v1", "v2"] = "v2") -> None:
        self.root, self.version = Path(root), labels
        if split not in _LISTS or labels not in _META:
            raise UserInputError(
                f"{root}: split, labels: got {split!r}, {labels!r}; expected train, val or test, and v1 or v2"
            )
        self.labels: LabelSet = LABEL_SETS["sunrgbd"]
        self.prepared = next(self.root.glob("*_bbox.npy"), None) is not None
        if self.prepared:
            listed = self.root / f"{split}.txt"
            found = sorted(p.name.removesuffix("_bbox.npy") for p in self.root.glob("*_bbox.npy"))
            self.names: Sequence[str] = read_list(listed) if listed.is_file() else found
            return
        entries = np.atleast_1d(read_struct(self.root / _META[labels], "SUNRGBDMeta"))
        wanted = self._folders(split)
        self._entries = [(n, e) for n, e in enumerate(entries, 1) if _folder(self.root, e) in wanted]
        if not self._entries:
            raise UserInputError(f"{self.root / _META[labels]}: rgbpath: no entry of the split {split}")
        self.names = [f"{number:06d}" for number, _ in self._entries]

    def _folders(self, split: str) -> set[str]:
        path = self.root / _SPLITS
        listed = np.atleast_1d(read_struct(path, _LISTS[split]))
        return {_relative(str(word)).rstrip("/") for word in listed.tolist()}

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One frame."""
        return self._prepared(self.names[index]) if self.prepared else self._raw(index)

    def _raw(self, index: int) -> Scene:
        number, entry = self._entries[index]
        where = f"{self.root / _META[self.version]}: entry {number}"
        k, tilt = _matrix(where, "K", entry), _matrix(where, "Rtilt", entry)
        depth = read_depth(self.root / _relative(str(entry.depthpath)))
        picture = read_image(self.root / _relative(str(entry.rgbpath)))
        if picture.shape[:2] != depth.shape:
            raise UserInputError(
                f"{where}: depthpath: the depth image is {depth.shape}, the colour image {picture.shape[:2]}"
            )
        points, valid = depth_points(depth, k, tilt)
        boxes, labels = self._objects(where, entry)
        colours = picture[valid].astype(np.float32)
        meta = {"labels": self.version, "K": k.tolist(), "Rtilt": tilt.tolist()}
        name = self.names[index]
        return Scene(name, points.astype(np.float32), boxes, labels, colours, meta=meta)

    def _objects(self, where: str, entry: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = [], []
        for box in np.atleast_1d(getattr(entry, "groundtruth3DBB", np.zeros(0))):
            name = str(getattr(box, "classname", ""))
            if name not in self.labels.names:
                continue
            parts = [
                np.asarray(getattr(box, key), float).reshape(-1)
                for key in ("centroid", "coeffs", "orientation")
            ]
            if [len(p) for p in parts] != [3, 3, 3] or not np.isfinite(np.concatenate(parts)).all():
                raise UserInputError(f"{where}: groundtruth3DBB: a box of class {name} is damaged")
            centre, half, axis = parts
            rows.append([*centre, *np.abs(half), axis[0], axis[1]])
            labels.append(self.labels.names.index(name))
        boxes = boxes_from_labels(np.asarray(rows, float).reshape(-1, 8))
        return boxes.astype(np.float32), np.asarray(labels, np.int64)

    def _prepared(self, name: str) -> Scene:
        path = self.root / f"{name}_bbox.npy"
        rows = np.asarray(read_npy(path))
        cloud_path = self.root / f"{name}_pc.npz"
        cloud = np.asarray(read_npz(cloud_path).get("pc"))
        if cloud.ndim != 2 or cloud.shape[1] < 3:
            raise UserInputError(f"{cloud_path}: pc: got shape {cloud.shape}; expected (N, 6)")
        if rows.size == 0:
            rows = np.zeros((0, 8))
        if rows.ndim != 2 or rows.shape[1] != 8:
            raise UserInputError(f"{path}: array: got shape {rows.shape}; expected (G, 8)")
        known = range(len(self.labels.names))
        wrong = [number for number in rows[:, 7].tolist() if number not in known]
        if wrong:
            raise UserInputError(f"{path}: array: got class {wrong[0]:g}; expected 0 to {len(known) - 1}")
        colours = 255 * cloud[:, 3:6].astype(np.float32) if cloud.shape[1] >= 6 else None
        return Scene(
            name,
            cloud[:, :3].astype(np.float32),
            boxes_from_votenet(rows).astype(np.float32),
            rows[:, 7].astype(np.int64),
            colours,
        )


def _relative(path: str) -> str:
    """A path of the annotations without the place where the authors had the data."""
    return path.removeprefix(_PREFIX).lstrip("/")


def _folder(root: Path, entry: Any) -> str:
    """Folder of a frame: what lies above ``image/<file>``."""
    words = _relative(str(getattr(entry, "rgbpath", ""))).split("/")
    return "/".join(words[:-2])


def _matrix(where: str, name: str, entry: Any) -> np.ndarray:
    found = np.asarray(getattr(entry, name, np.zeros(0)), float)
    if found.shape != (3, 3) or not np.isfinite(found).all():
        raise UserInputError(f"{where}: {name}: got shape {found.shape}; expected (3, 3)")
    return found
