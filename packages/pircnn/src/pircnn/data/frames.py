"""KITTI's frames with what the camera says: image or cached map at every point, and label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pircnn.calibration import KittiCalib, scene_matrix
from pircnn.data.cache import SemanticCache
from pircnn.data.columns import SEEN, STORED, UNSEEN, with_camera
from pircnn.model.unet import image_tensor
from pircnn.sampling import sample_image_features
from tenfold._errors import UserInputError
from tenfold.io import read_image
from tenfold.lidar.data import Batch, Frame, collate
from tenfold.lidar.kitti import KittiFrame, KittiObject
from tenfold.train.resume import sample_generator

__all__ = ["CameraInput", "FusionFrame", "KittiFusionDataset", "check_camera", "collate_camera"]

Labels = Callable[[str], "npt.NDArray[np.uint8] | None"]


@dataclass(frozen=True, eq=False)
class CameraInput:
    """What the camera gives for one frame; None where there is nothing.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        semantics: (Cs, H, W) cached map.
        labels: (H, W) uint8 label map of the image, 255 where unknown.
        other: image and label map of a frame of another data set, for multi-task training.
    """

    image: npt.NDArray[np.uint8] | None = None
    semantics: npt.NDArray[np.float32] | None = None
    labels: npt.NDArray[np.uint8] | None = None
    other: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class FusionFrame(KittiFrame):
    """A frame of KITTI whose points carry camera columns (`with_camera`), and its camera."""

    camera: CameraInput | None = None


class KittiFusionDataset(KittiObject):
    """KITTI's frames, points with camera columns.

    Args:
        root: folder of the data set.
        split: name of the list of frames.
        cache: cached maps instead of images.
        labels: gives the label map of a frame's image by the frame's name, such as `KinsDataset`.
        stored: columns for stored semantics.
        missing: "error", or "unseen": a frame without image is one whose camera failed; `image_size` is then needed.
        other_images: control: images of the next frame of the list.
        turn: error of the calibration, degrees about the vertical axis.
        pixel_noise: standard deviation of the pixel that a point reads.
        ids, fov_only, image_size, with_plane: as `KittiObject`.

    Raises:
        UserInputError: as `KittiObject`; an image whose size does not fit calibration or cached map; a missing image.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        cache: SemanticCache | None = None,
        labels: Labels | None = None,
        stored: int = 0,
        missing: str = "error",
        other_images: bool = False,
        turn: float = 0.0,
        pixel_noise: float = 0.0,
        ids: Sequence[str] | None = None,
        fov_only: bool = True,
        image_size: tuple[int, int] | None = None,
        with_plane: bool = False,
    ) -> None:
        if missing not in ("error", "unseen"):
            raise UserInputError(f"data: missing: got {missing!r}; expected 'error' or 'unseen'")
        super().__init__(
            root, split, ids=ids, fov_only=fov_only, image_size=image_size, with_plane=with_plane
        )
        self.cache, self.labels, self.stored, self.missing = cache, labels, stored, missing
        self.other_images, self.turn, self.pixel_noise = other_images, turn, pixel_noise

    @property
    def prepared_name(self) -> str:
        """The object database of frames with camera columns is another one than that of plain frames."""
        return f"{self.split}_{'semantic' if self.stored else 'camera'}"

    @property
    def settings(self) -> list[Any]:
        """What decides the content of frames."""
        return [*super().settings, self.stored]

    def __getitem__(self, index: int) -> FusionFrame:
        frame = super().__getitem__(index)
        camera, size = self._camera(index, frame)
        calib = KittiCalib.from_calibration(frame.calibration)
        if size is not None:
            check_camera(calib, size, str(self._path("calib", frame.frame_id)))
        if self.turn:
            calib = calib.with_scene_transform(scene_matrix(angle=np.radians(self.turn)))
        points = with_camera(frame.points, calib, size, self.stored)
        if self.pixel_noise and size is not None:
            _disturb(points, size, self.pixel_noise, sample_generator(0, 0, index))
        fields = {name: getattr(frame, name) for name in frame.__dataclass_fields__}
        return FusionFrame(**{**fields, "points": points}, camera=camera)

    def _camera(self, index: int, frame: KittiFrame) -> tuple[CameraInput, tuple[int, int] | None]:
        shown = self.ids[(index + 1) % len(self)] if self.other_images else frame.frame_id
        file = self._path("image_2", shown)
        labels = None if self.labels is None else self.labels(shown)
        if self.cache is not None:
            semantics = self.cache.read(shown)
            size = (semantics.shape[1], semantics.shape[2])
            known = self._image_size(shown)
            if known is not None and known != size:
                raise UserInputError(
                    f"{self.cache.path(shown)}: size: got {size[1]} x {size[0]}; expected the image's "
                    f"{known[1]} x {known[0]}; run prepare again"
                )
            return CameraInput(semantics=semantics, labels=labels), size
        if not file.is_file():
            if self.missing == "error":
                raise UserInputError(
                    f"{file}: the image is missing; data.missing=unseen goes on without a camera there"
                )
            return CameraInput(), None
        image = read_image(file)
        return CameraInput(image, labels=labels), (image.shape[0], image.shape[1])


def check_camera(calib: KittiCalib, image_size: tuple[int, int], source: str) -> None:
    """Refuse a calibration whose principal point is not near the middle of the image: it belongs to another size.

    Raises:
        UserInputError: it does not lie in the middle half of the width and the middle 70 % of the height.
    """
    height, width = image_size
    u, v = float(calib.P2[0, 2]), float(calib.P2[1, 2])
    if not (0.25 * width <= u <= 0.75 * width and 0.15 * height <= v <= 0.85 * height):
        raise UserInputError(
            f"{source}: P2: its principal point ({u:.0f}, {v:.0f}) does not fit an image of {width} x {height} "
            "pixels; expected the calibration of this very image (resized or cropped, its P2 changes)"
        )


def _disturb(
    points: npt.NDArray[np.float32], size: tuple[int, int], noise: float, rng: np.random.Generator
) -> None:
    """Moves the pixels that points (N, 7) read, in place."""
    points[:, 4:6] += rng.normal(0, noise, (len(points), 2)).astype(np.float32)
    inside = ((points[:, 4:6] >= 0) & (points[:, 4:6] < (size[1], size[0]))).all(1)
    points[:, 6] = np.where(inside & (points[:, 6] == SEEN), SEEN, UNSEEN)


class ObjectFrames(KittiFusionDataset):
    """Frames whose points are to be pasted elsewhere: their pixels will never be read again.

    Args:
        semantics: gives the (Cs, H, W) map of a frame's image, whose values the points keep; None keeps nothing.
    """

    def __init__(
        self,
        *args: Any,
        semantics: Callable[[FusionFrame], npt.NDArray[np.float32]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.semantics = semantics

    def __getitem__(self, index: int) -> FusionFrame:
        frame = super().__getitem__(index)
        points = frame.points.copy()
        if self.semantics is not None:
            told = torch.from_numpy(np.asarray(self.semantics(frame), np.float32))[None]
            uv, seen = torch.from_numpy(points[None, :, 4:6]), torch.from_numpy(points[None, :, 6] == SEEN)
            points[:, 7:] = sample_image_features(told, uv, seen)[0].numpy()
        points[:, 4:6], points[:, 6] = 0, STORED if self.semantics is not None else UNSEEN
        return replace(frame, points=points)


def collate_camera(frames: Sequence[Frame]) -> Batch:
    """As `tenfold.lidar.data.collate`, with ``images``, ``maps``, ``label_maps`` and ``semantics`` where there are any.

    Example:
        >>> f = Frame(0, "a", np.ones((2, 7), np.float32), np.zeros((0, 8), np.float32), camera=CameraInput())
        >>> collate_camera([f])["images"]
        [None]
    """
    batch: Any = collate(frames)
    cameras = [frame.camera or CameraInput() for frame in frames]

    def tensors(name: str, convert: Callable[[Any], Tensor]) -> list[Tensor | None]:
        values = [getattr(camera, name) for camera in cameras]
        return [None if value is None else convert(value) for value in values]

    batch["images"] = tensors("image", lambda image: image_tensor(torch.from_numpy(image)))
    maps = tensors("semantics", lambda m: torch.from_numpy(np.asarray(m, np.float32)))
    labels = tensors("labels", lambda m: torch.from_numpy(np.asarray(m)).long())
    others = [camera.other for camera in cameras if camera.other is not None]
    if any(m is not None for m in maps):
        batch["maps"] = maps
    if any(m is not None for m in labels):
        batch["label_maps"] = labels
    if others:
        batch["semantics"] = [list(column) for column in zip(*others, strict=True)]
    # What evaluation keeps of a frame does not need its picture.
    batch["frames"] = [replace(frame, camera=None) for frame in frames]
    result: Batch = batch
    return result
