"""Exponential moving average of a model: weights and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["ModelEMA"]


class ModelEMA:
    """Moving average ``average <- d * average + (1 - d) * value`` of a model's floating-point state.

    Parameters and floating-point buffers (BatchNorm's running statistics) are averaged; integer and boolean
    buffers (``num_batches_tracked``) are copied. The average is kept in the model's own dtype, except that
    half precision is kept in float32, where ``1 - d`` of a small difference would otherwise round to nothing.

    Args:
        model: The model to follow; the average starts at its present state.
        decay: ``d`` in [0, 1], or a function from the number of updates made so far to ``d``.
        warmup: With ``warmup > 0`` the decay of update t (from 0) is ``min(decay, (1 + t) / (warmup +
            t))``, so that the average forgets the initial weights quickly; 10 is the usual value. Ignored
            for a function.
        buffers: ``"average"`` or ``"copy"`` the floating-point buffers.

    Raises:
        ValueError: ``decay`` outside [0, 1], ``warmup`` negative, or ``buffers`` unknown.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.0)
    >>> ema = ModelEMA(model, decay=0.75)
    >>> _ = model.weight.data.fill_(1.0)
    >>> ema.update(model)
    >>> float(ema.state["weight"])
    0.25
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float | Callable[[int], float],
        warmup: float = 0.0,
        *,
        buffers: Literal["average", "copy"] = "average",
    ) -> None:
        if not callable(decay) and not 0.0 <= decay <= 1.0:
            raise ValueError(f"ModelEMA: decay: got {decay}; expected a number in [0, 1] or a function")
        if warmup < 0:
            raise ValueError(f"ModelEMA: warmup: got {warmup}; expected at least 0")
        if buffers not in ("average", "copy"):
            raise ValueError(f"ModelEMA: buffers: got {buffers!r}; expected 'average' or 'copy'")
        self.decay = decay
        self.warmup = warmup
        self.buffers = buffers
        self.updates = 0
        self.state: dict[str, Tensor] = {name: _widened(value) for name, value in model.state_dict().items()}

    def decay_at(self, update: int) -> float:
        """The decay used by update number ``update`` (from 0)."""
        if callable(self.decay):
            return self.decay(update)
        if self.warmup > 0:
            return min(self.decay, (1.0 + update) / (self.warmup + update))
        return self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the model's present state into the average; call once after each optimiser step."""
        decay = self.decay_at(self.updates)
        parameters = {name for name, _ in model.named_parameters()}
        for name, value in model.state_dict().items():
            average = self.state[name]
            averaged = name in parameters or self.buffers == "average"
            if averaged and average.is_floating_point():
                average.lerp_(value.to(average.device, average.dtype), 1.0 - decay)
            else:
                average.copy_(value)
        self.updates += 1

    def copy_to(self, model: nn.Module) -> None:
        """Writes the average into ``model`` (same structure)."""
        restore(model, self.state)

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """The average in ``model`` inside the block; the model's own state afterwards, whatever happens."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.copy_to(model)
        try:
            yield
        finally:
            restore(model, own)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates, tensors and plain numbers only."""
        return {"updates": self.updates, "state": dict(self.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; keys and shapes must agree exactly.

        Raises:
            ValueError: names or shapes differ from the followed model's.
        """
        theirs = state["state"]
        wrong = sorted(set(theirs) ^ set(self.state)) or [
            name for name, value in self.state.items() if value.shape != theirs[name].shape
        ]
        if wrong:
            raise ValueError(
                f"ModelEMA: state: differs at {wrong[0]!r}; expected the state of the same model"
            )
        for name, value in theirs.items():
            self.state[name].copy_(value)
        self.updates = int(state["updates"])


@torch.no_grad()
def restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copies ``state`` into the model's tensors in place, so that optimisers keep pointing at them."""
    for name, value in model.state_dict().items():
        value.copy_(state[name])


def _widened(value: Tensor) -> Tensor:
    value = value.detach().clone()
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
