"""COCO images with their boxes as a data set for training and evaluation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.io import read_image
from tenfold.train.resume import sample_generator
from ttfnet.data.annotations import Annotations, ImageRecord, read_annotations
from ttfnet.data.scene import Scene
from ttfnet.data.transforms import Pipeline, Sample

__all__ = ["Batch", "CocoDataset", "collate", "find_split"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one step.

    Attributes:
        images: ``(B, 3, H, W)``.
        boxes, labels, ignore: lists as `ttfnet.TTFNet.loss` takes them.
        image_ids: as in the annotation file.
        sizes: height and width of the originals.
        scales: input pixels per original pixel, x and y.
        dropped: objects that augmentation took away.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    ignore: list[Tensor]
    image_ids: list[int]
    sizes: list[tuple[int, int]]
    scales: list[tuple[float, float]]
    dropped: int

    def to(self, device: torch.device | str) -> Batch:
        """The same with its tensors on a device."""

        def moved(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(device, non_blocking=True) for t in tensors]

        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            boxes=moved(self.boxes),
            labels=moved(self.labels),
            ignore=moved(self.ignore),
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)


def collate(samples: list[Sample]) -> Batch:
    """One batch of samples of equal size."""
    return Batch(
        torch.stack([s.image for s in samples]),
        [s.boxes for s in samples],
        [s.labels for s in samples],
        [s.ignore for s in samples],
        [s.image_id for s in samples],
        [s.size for s in samples],
        [s.scale for s in samples],
        sum(s.dropped for s in samples),
    )


def find_split(root: str | Path, split: str) -> tuple[Path, Path]:
    """Annotation file and folder of images of a split.

    The file is ``annotations/instances_<split>.json``; the images lie in ``<split>``, ``images/<split>`` or
    ``images``.

    Raises:
        UserInputError: one of them does not exist.
    """
    root = Path(root)
    names = (f"instances_{split}.json", f"image_info_{split}.json")
    file = next((root / "annotations" / n for n in names if (root / "annotations" / n).is_file()), None)
    if file is None:
        raise UserInputError(
            f"{root / 'annotations' / names[0]}: no such file; data.root is the folder of a data set in COCO's "
            "layout (`ttfnet prepare` makes one of YOLO labels)"
        )
    folders = (root / split, root / "images" / split, root / "images")
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise UserInputError(f"{folders[0]}: no such folder of images")
    return file, folder


class CocoDataset(Dataset[Sample]):
    """Images of a COCO annotation file, through a `Pipeline`.

    Args:
        root: folder of the data set.
        split: such as ``"train2017"``, or a pair of annotation file and folder of images.
        pipeline: makes the samples.
        train: leave out images without annotations, and replace an unreadable image by the next one, once
            with a warning; in evaluation it is an error.
        seed: of the augmentation.
        cache: keep the decoded images in memory.

    Raises:
        UserInputError: no such split, or nothing to train on.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | tuple[str | Path, str | Path],
        pipeline: Pipeline | None = None,
        *,
        train: bool = False,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        file, folder = find_split(root, split) if isinstance(split, str) else split
        self.annotations: Annotations = read_annotations(file)
        self.folder = Path(folder)
        self.pipeline = pipeline or Pipeline()
        self.train = train
        self.seed = seed
        self.epoch = 0
        self.records = self.annotations.for_training() if train else self.annotations.records
        if not self.records:
            raise UserInputError(f"{file}: annotations: no image has an object to train on")
        self._cache: dict[int, Scene] | None = {} if cache else None
        self._unreadable: set[int] = set()

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return self.annotations.class_names

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which the randomness of samples depends on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """The sample; its randomness comes from (seed, epoch, index)."""
        rng = sample_generator(self.seed, self.epoch, index) if self.pipeline.augment != "none" else None
        record, scene = self._readable(index)
        return self.pipeline(scene, rng, record.image_id)

    def _readable(self, index: int) -> tuple[ImageRecord, Scene]:
        """The image, in training the next one that can be read."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                return self.records[place], self.scene(place)
            except UserInputError as error:
                if not self.train:
                    raise
                if place not in self._unreadable:
                    self._unreadable.add(place)
                    warnings.warn(f"left out of training: {error}", stacklevel=2)
        raise UserInputError(f"{self.folder}: none of the {len(self)} images can be read")

    def scene(self, index: int) -> Scene:
        """Image and boxes as they are in the files.

        Raises:
            UserInputError: unreadable, or of another size than the annotations say.
        """
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        record = self.records[index]
        path = self.folder / record.file_name
        image = read_image(path)
        if image.shape[:2] != record.size:
            raise UserInputError(
                f"{path}: image: is {image.shape[1]} x {image.shape[0]} when turned upright; the annotations say "
                f"{record.size[1]} x {record.size[0]}"
            )
        scene = Scene(image, record.boxes, record.labels, record.ignore)
        if self._cache is not None:
            self._cache[index] = scene
        return scene
