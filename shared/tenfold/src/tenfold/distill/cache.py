"""A teacher that is asked once for each image and crop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LogitCache"]


class LogitCache:
    """Stores a teacher's logits, for training on a fixed number of crops of each image.

    The strongest way to save teacher queries where the pixels repeat. An entry remembers a fingerprint of its
    pixels: a crop that changed in the meantime is an error, not a silent mismatch.

    Args:
        images: images in the data set.
        num_classes: width of the logits.
        views: crops of each image; the batch says which one it holds.

    Attributes:
        queries: images that the teacher was really asked for.

    >>> cache, teacher = LogitCache(3, 2), torch.nn.Flatten()
    >>> x, index = torch.ones(2, 2, 1, 1), torch.tensor([0, 2])
    >>> _ = cache(teacher, x, index); _ = cache(teacher, x, index); cache.queries
    2
    """

    def __init__(self, images: int, num_classes: int, views: int = 1) -> None:
        if min(images, num_classes, views) < 1:
            raise ValueError(
                f"LogitCache: got {images} images, {num_classes} classes, {views} views; expected 1 or more"
            )
        self.views = views
        self.logits = torch.zeros(images * views, num_classes)
        self.prints = torch.full((images * views,), torch.nan, dtype=torch.float64)
        self.queries = 0

    def __call__(
        self, teacher: Callable[[Tensor], Tensor], x: Tensor, index: Tensor, view: int = 0
    ) -> Tensor:
        """Logits ``(B, C)`` of images ``x``; the teacher is asked for those that are new.

        Args:
            teacher: images to logits.
            x: ``(B, 3, H, W)``.
            index: ``(B,)`` numbers in the data set.
            view: which of the fixed crops.

        Raises:
            ValueError: an index or view outside, or pixels that differ from those first seen under it.
        """
        if not 0 <= view < self.views:
            raise ValueError(f"LogitCache: view: got {view}; expected 0 to {self.views - 1}")
        rows = index.cpu() * self.views + view
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.prints):
            last = len(self.prints) // self.views - 1
            raise ValueError(
                f"LogitCache: index: got {int(index.min())} to {int(index.max())}; expected 0 to {last}"
            )
        prints = _fingerprints(x)
        known = ~self.prints[rows].isnan()
        changed = known & ((self.prints[rows] - prints).abs() > 1e-3 * (1.0 + prints.abs()))
        if changed.any():
            which = int(index.cpu()[changed][0])
            raise ValueError(
                f"LogitCache: x: image {which} view {view} has other pixels than before; fix the crops"
            )
        if not known.all():
            new = ~known
            with torch.no_grad():
                answers = teacher(x[new.to(x.device)])
            self.queries += int(new.sum())
            self.logits[rows[new]] = answers.detach().float().cpu()
            self.prints[rows[new]] = prints[new]
        return self.logits[rows].to(x.device)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return {"logits": self.logits, "prints": self.prints, "views": self.views, "queries": self.queries}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: stored for another number of images, classes or views.
        """
        if state["logits"].shape != self.logits.shape or state["views"] != self.views:
            raise ValueError(
                f"LogitCache: state: got {tuple(state['logits'].shape)}, {state['views']} views; expected"
                f" {tuple(self.logits.shape)}, {self.views}"
            )
        self.logits, self.prints, self.queries = state["logits"], state["prints"], int(state["queries"])


def _fingerprints(x: Tensor) -> Tensor:
    """A weighted sum of each image's pixels, which a shift or a mirror changes."""
    flat = x.detach().flatten(1).double().cpu()
    weights = torch.linspace(-1.0, 1.0, flat.shape[1], dtype=torch.float64).square() + 0.1
    return flat @ weights
