"""Checks that name the known ways in which training goes wrong, each once, with the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HealthMonitor", "HealthWarning"]

#: Where the clamped focal loss of a dead heat map stays: -ln(1e-4) (1 - 1e-4)^2.
DEAD_LOSS = 9.208498


class HealthWarning(UserWarning):
    """Something in the training looks wrong."""


class HealthMonitor:
    """Watches a run's steps.

    Args:
        warmup_steps: before which a dead heat map is no finding.
        clip: gradient norm at which gradients are cut; 0 for none.
    """

    def __init__(self, warmup_steps: int = 500, clip: float = 35.0) -> None:
        self.warmup_steps, self.clip = warmup_steps, clip
        self.said: set[str] = set()
        self.steps = self.clipped = self.boxes = self.dropped = 0

    def say(self, kind: str, text: str) -> None:
        """Warns, once for each kind."""
        if kind not in self.said:
            self.said.add(kind)
            warnings.warn(text, HealthWarning, stacklevel=3)

    def learning_rate(self, lr: float, expected: float) -> None:
        """A learning rate more than twice, or less than half of, what linear scaling asks for."""
        if not 0.5 <= lr / expected <= 2:
            self.say(
                "lr",
                f"learning rate {lr:g}: linear scaling of the recipe to this batch gives {expected:g}; set "
                "model.lr=null to use that",
            )

    def batch_norm(self, processes: int, images: int, model: nn.Module) -> None:
        """Several processes with few images each, whose batch statistics are poor."""
        synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
        if processes > 1 and images < 8 and not synchronised:
            self.say("batch norm", f"{images} images per process: consider trainer.sync_batchnorm=true")

    def data(self, class_names: Sequence[str], counts: Sequence[int]) -> None:
        """Classes without an object to learn from."""
        unseen = [name for name, count in zip(class_names, counts, strict=True) if not count]
        if unseen:
            shown = ", ".join(unseen[:5]) + (", ..." if len(unseen) > 5 else "")
            self.say("classes", f"{len(unseen)} classes have no object in the training set: {shown}")

    def batch(self, image_ids: Sequence[int], objects: int, dropped: int) -> None:
        """Boxes that augmentation has made too small to learn from."""
        self.boxes += objects + dropped
        self.dropped += dropped
        if self.boxes > 200 and self.dropped > 0.25 * self.boxes and objects + dropped:
            self.say(
                "dropped",
                f"{self.dropped} of {self.boxes} boxes are below one pixel after augmentation (last seen in images "
                f"{list(image_ids)[:4]}): raise data.size",
            )

    def losses(self, step: int, losses: Mapping[str, Tensor], image_ids: Sequence[int]) -> None:
        """Losses that are not finite, or frozen at the dead heat map's value."""
        loss = float(losses["loss"].detach())
        if loss != loss or loss in (float("inf"), float("-inf")):
            self.say(
                "finite",
                f"the loss is {loss} at step {step}, images {list(image_ids)}: lower model.lr, or look at their boxes",
            )
        if step > self.warmup_steps and abs(float(losses["loss_heatmap"].detach()) - DEAD_LOSS) < 1e-3:
            self.say("dead", _DEAD_HEATMAP)

    @torch.no_grad()
    def output(self, step: int, out: Any) -> None:
        """Heads that say nothing any more: every probability tiny, or a side that is zero everywhere."""
        heat = out.heatmap.detach().float()
        if step > self.warmup_steps and float(heat.flatten(1).amax(1).sigmoid().mean()) < 1e-3:
            self.say("dead", _DEAD_HEATMAP)
        sides = getattr(out, "distances", None)
        if sides is None or step < self.warmup_steps:
            return
        zero = (sides.detach() == 0).float().mean((0, 2, 3))
        if float(zero.max()) > 0.99:
            self.say(
                "sides",
                f"{int((zero > 0.99).sum())} of {len(zero)} distance channels are zero nearly everywhere and will "
                "not recover: start again with model.wh_bias_init=1",
            )

    def gradient(self, norm: float) -> None:
        """Gradients that are cut in most steps."""
        self.steps += 1
        self.clipped += int(self.clip > 0 and norm > self.clip)
        if self.steps > max(self.warmup_steps, 100) and self.clipped > 0.5 * self.steps:
            self.say(
                "clip",
                f"gradients were cut to norm {self.clip:g} in {self.clipped} of {self.steps} steps: lower model.lr",
            )


_DEAD_HEATMAP = (
    "the heat map is dead (all probabilities near zero): lower model.lr, and keep model.clamp=false, whose gradient "
    "vanishes there"
)
