"""Which images are selected: the paper's evidence that uncertainty finds hard ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unix_kd.sampling import MixBatch, uncertainty

__all__ = ["SelectionStats", "class_centres"]

_MEASURES = ("confidence", "margin", "entropy")


class SelectionStats:
    """Means over an epoch of confidence, margin and entropy, selection counts, and distances to class centres.

    Args:
        images: images in the training set.

    Attributes:
        counts: one tensor ``(images,)`` for each epoch: how often an image was among the b most uncertain.

    >>> stats = SelectionStats(4); logits = torch.tensor([[2.0, 0.0], [0.1, 0.0]])
    >>> batch = MixBatch(torch.zeros(1, 3, 2, 2), None, None, torch.zeros(1), torch.tensor([1, 0]),
    ...     torch.zeros(1, dtype=torch.long), torch.zeros(2), logits, torch.tensor([3]), 1)
    >>> stats.update(batch); epoch = stats.end_epoch()
    >>> epoch["entropy_kept"] > epoch["entropy_dropped"], stats.counts[0].tolist()
    (True, [0, 0, 0, 1])
    """

    def __init__(self, images: int) -> None:
        if images < 1:
            raise ValueError(f"SelectionStats: images: got {images}; expected at least 1")
        self.images = images
        self.counts: list[Tensor] = []
        self.centres: Tensor | None = None
        self._start()

    def _start(self) -> None:
        self._sums: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._now = torch.zeros(self.images, dtype=torch.int64)

    def set_centres(self, centres: Tensor) -> None:
        """Class centres ``(C, d)`` of the student's features, from `class_centres`; once an epoch."""
        self.centres = centres

    def update(
        self, batch: MixBatch, teacher_logits: Tensor | None = None, features: Tensor | None = None
    ) -> None:
        """Enters one batch.

        Args:
            batch: what the sampler made.
            teacher_logits: ``(k, C)`` for the mixed images.
            features: ``(k, d)`` of the student for the mixed images, if centres are set; the distance is to the
                centre of the kept image's class.
        """
        k = len(batch.x)
        if batch.logits is not None:
            kept = batch.order[:k]
            self._add("all", batch.logits)
            self._add("kept", batch.logits[kept])
            self._add("dropped", batch.logits[batch.order[k:]])
        if teacher_logits is not None:
            self._add("teacher", teacher_logits)
        if batch.index is not None:
            rows = batch.index[: batch.light].cpu()
            self._now.index_add_(0, rows, torch.ones(len(rows), dtype=torch.int64))
        if features is not None and self.centres is not None and batch.y_a is not None:
            distances = (features.detach() - self.centres.to(features)[batch.y_a]).norm(dim=1)
            self._put("distance_to_centre", distances)

    def end_epoch(self) -> dict[str, float]:
        """Means since the last call: ``<measure>_<all|kept|dropped|teacher>``, ``distance_to_centre``."""
        means = {name: total / self._numbers[name] for name, total in self._sums.items()}
        self.counts.append(self._now)
        self._start()
        return means

    def _add(self, group: str, logits: Tensor) -> None:
        if len(logits):
            for name, values in zip(_MEASURES, certainty(logits), strict=True):
                self._put(f"{name}_{group}", values)

    def _put(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.double().sum())
        self._numbers[name] = self._numbers.get(name, 0) + len(values)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return {
            "counts": list(self.counts),
            "now": self._now,
            "sums": dict(self._sums),
            "numbers": dict(self._numbers),
            "centres": self.centres,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.counts, self._now = list(state["counts"]), state["now"]
        self._sums, self._numbers = dict(state["sums"]), dict(state["numbers"])
        self.centres = state["centres"]


def certainty(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, margin and entropy of logits ``(N, C)``, each ``(N,)``."""
    logits = logits.detach().float()
    return (
        1.0 - uncertainty(logits, "least_confidence"),
        -uncertainty(logits, "margin"),
        uncertainty(logits, "entropy"),
    )


@torch.no_grad()
def class_centres(features: Callable[[Tensor], Tensor], batches: Any, num_classes: int) -> Tensor:
    """Mean feature ``(C, d)`` of each class over (x, labels, ...) batches; classes without images are 0.

    Args:
        features: images to ``(B, d)``, in eval mode.
        batches: an iterable; use a fixed part of the training set, so that no test image is touched.
        num_classes: C.
    """
    total: Tensor | None = None
    count = torch.zeros(num_classes)
    for x, labels, *_ in batches:
        found = features(x).double().cpu()
        one_hot = F.one_hot(labels.cpu(), num_classes).double()
        total = one_hot.T @ found if total is None else total + one_hot.T @ found
        count += one_hot.sum(0)
    if total is None:
        raise ValueError("class_centres: batches: got none")
    return (total / count.clamp(min=1)[:, None]).float()
