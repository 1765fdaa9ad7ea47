"""Projected gradient descent: inputs of a set for which the network fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bound_prop.sets import Box, InputSet, LpBall, simplest

__all__ = ["PGD", "pgd_errors"]

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PGD:
    """Settings of the attack.

    Attributes:
        steps: gradient steps.
        restarts: random starting points.
        step_size: length of a step in pixel units; None is a tenth of the set's half-width. The paper uses 0.01
            for MNIST and eps / 10 for CIFAR-10 (Lyu et al. 2021, appendix B).
        count: ``"any"``: every iterate and the clean point count (never below the clean error); ``"last"``: each
            restart's last iterate alone, as the paper counts.
        seed: of the starting points.
    """

    steps: int = 200
    restarts: int = 10
    step_size: float | None = None
    count: Literal["any", "last"] = "any"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1:
            raise ValueError(
                f"PGD: steps, restarts: got {self.steps}, {self.restarts}; expected at least 0 and 1"
            )
        if self.count not in ("any", "last"):
            raise ValueError(f"PGD: count: got {self.count!r}; expected 'any' or 'last'")

    def search(
        self,
        network: Network,
        region: InputSet,
        loss: Callable[[Tensor], Tensor],
        found: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Looks for inputs of the set whose output satisfies ``found``.

        Args:
            network: ``(B, *input)`` to outputs.
            region: a box, an infinity-norm ball, or an l2 ball.
            loss: ``(B,)`` of outputs, larger is closer to a failure.
            found: ``(B,)`` bool of outputs.

        Returns:
            Whether each example fails ``(B,)``, and an input that shows it (the centre where none does).
        """
        region = simplest(region)
        step = _Step(region, self.step_size)
        generator = torch.Generator().manual_seed(self.seed)
        hit = torch.zeros(len(region), dtype=torch.bool, device=region.center.device)
        witness = region.center.clone()

        def note(x: Tensor, outputs: Tensor) -> None:
            nonlocal witness
            new = found(outputs) & ~hit
            hit.logical_or_(new)
            witness = torch.where(new.view(-1, *[1] * (x.ndim - 1)), x, witness)

        if self.count == "any":
            with torch.no_grad():
                note(region.center, network(region.center))
        for _ in range(self.restarts):
            x = region.sample(1, generator)[0] if self.steps else region.center
            for k in range(self.steps):
                if bool(hit.all()):
                    return hit, witness
                x = x.detach().requires_grad_(True)
                outputs = network(x)
                if self.count == "any" and k:
                    note(x.detach(), outputs.detach())
                (gradient,) = torch.autograd.grad(loss(outputs).sum(), x)
                x = step(x.detach(), gradient)
            with torch.no_grad():
                note(x.detach(), network(x.detach()))
        return hit, witness


class _Step:
    """One step up the gradient, back into the set."""

    def __init__(self, region: InputSet, size: float | None) -> None:
        self.region = region
        low, high = region.interval()
        self.low, self.high = low, high
        self.size: float | Tensor = (high - low) / 20 if size is None else size

    def __call__(self, x: Tensor, gradient: Tensor) -> Tensor:
        if isinstance(self.region, Box):
            return torch.minimum(torch.maximum(x + self.size * gradient.sign(), self.low), self.high)
        ball: LpBall = self.region
        if ball.norm != 2:
            raise ValueError(
                f"PGD: region: got a ball of norm {ball.norm}; expected a box, norm infinity or 2"
            )
        radius = ball.radii.view(-1, *[1] * (x.ndim - 1))
        size = radius / 10 if isinstance(self.size, Tensor) else self.size
        moved = x + size * gradient / _norm(gradient).clamp(min=1e-12) - ball.center
        return ball.center + moved * (radius / _norm(moved).clamp(min=1e-12)).clamp(max=1.0)


def _norm(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.view(-1, *[1] * (x.ndim - 1))


def pgd_errors(network: Network, region: InputSet, labels: Tensor, attack: PGD) -> Tensor:
    """Whether each image ``(B,)`` is misclassified somewhere that the attack looks (cross-entropy, equation 1).

    >>> flat = lambda x: x.flatten(1)[:, :2]
    >>> region = LpBall(torch.tensor([[0.6, 0.4]]), 0.2)
    >>> pgd_errors(flat, region, torch.tensor([0]), PGD(steps=10, restarts=1))
    tensor([True])
    """
    hit, _ = attack.search(
        network,
        region,
        lambda outputs: F.cross_entropy(outputs, labels, reduction="none"),
        lambda outputs: outputs.argmax(1) != labels,
    )
    return hit
