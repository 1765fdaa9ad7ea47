"""Endless batches that every run of a seed repeats: what a batch holds depends on (seed, step) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stylegan_distill.data.archive import ImageSource
from tenfold._errors import UserInputError

__all__ = ["ImageBatches", "to_float"]

Pixels = npt.NDArray[np.uint8]


def to_float(images: Pixels) -> Tensor:
    """``(B, H, W, 3)`` of 0 to 255 to ``(B, 3, H, W)`` in [-1, 1]: ``u / 127.5 - 1``.

    >>> to_float(np.array([[[[0, 255, 0]]]], np.uint8)).flatten().tolist()
    [-1.0, 1.0, -1.0]
    """
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)


class ImageBatches:
    """Batches ``(B, 3, R, R)`` in [-1, 1], without end; every epoch is a new permutation.

    Args:
        images: ``(N, R, R, 3)`` of 0 to 255, or an `ImageSource` that reads them when asked for.
        batch_size: images of a batch.
        seed: of order and mirror images.
        flip: probability of a mirror image. For training only: the real side of a metric is never mirrored.

    Raises:
        UserInputError: fewer images than one batch.

    Example:
        >>> batches = ImageBatches(np.zeros((10, 4, 4, 3), np.uint8), 4)
        >>> next(iter(batches)).shape, batches.step
        (torch.Size([4, 3, 4, 4]), 1)
    """

    def __init__(
        self, images: Pixels | ImageSource, batch_size: int, *, seed: int = 0, flip: float = 0.0
    ) -> None:
        if len(images) < batch_size:
            raise UserInputError(f"data: got {len(images)} images; expected at least one batch, {batch_size}")
        self.images, self.batch_size, self.seed, self.flip = images, batch_size, seed, flip
        self.step = 0
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def resolution(self) -> int:
        """Side of the images, pixels."""
        return self.images.resolution if isinstance(self.images, ImageSource) else self.images.shape[1]

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Which images the batch of a step holds; what a last, smaller batch would hold is left out."""
        epoch, place = divmod(step, len(self.images) // self.batch_size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.images)))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> Tensor:
        """The batch of a step."""
        rows = self.indices(step)
        if isinstance(self.images, ImageSource):
            pixels = np.stack([self.images.pixels(int(k)) for k in rows])
        else:
            pixels = self.images[rows]
        found = to_float(pixels)
        if self.flip:
            rng = np.random.default_rng((self.seed, step, 0, 1))
            mirrored = torch.from_numpy(rng.random(len(rows)) < self.flip)
            found[mirrored] = found[mirrored].flip(3)
        return found

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.step += 1
            yield self.batch(self.step - 1)

    def once(self, batch_size: int | None = None) -> Iterator[Tensor]:
        """Every image once, in the stored order and never mirrored: the real side of a metric."""
        size = batch_size or self.batch_size
        for start in range(0, len(self.images), size):
            stop = min(start + size, len(self.images))
            if isinstance(self.images, ImageSource):
                yield to_float(np.stack([self.images.pixels(k) for k in range(start, stop)]))
            else:
                yield to_float(self.images[start:stop])
