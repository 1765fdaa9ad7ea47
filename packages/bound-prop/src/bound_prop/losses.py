"""Robust losses: from margin bounds to a number to be minimised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bound_prop.sets import Interval

__all__ = ["LossFusion", "balance_loss", "ibp_init_", "robust_ce", "tightness_loss"]


def robust_ce(margins: Tensor) -> Tensor:
    """Cross-entropy of the worst case, ``(B,)``, for margin lower bounds ``(B, K - 1)``.

    The logits are 0 for the true class and minus the margin bound for the others (Lyu et al. 2021, equation 5).

    >>> robust_ce(torch.zeros(1, 1)).item() == torch.tensor(2.0).log().item()
    True
    """
    logits = F.pad(-margins, (1, 0))
    return torch.logsumexp(logits, 1)


class LossFusion(nn.Module):
    """Bounds ``sum_i exp(z_i - z_y)`` as one number: one row of back-substitution instead of K - 1.

    For interval bounds with the specification merged into the last layer it equals `robust_ce` (Xu et al. 2020).

    >>> LossFusion()(torch.zeros(2, 3)).shape
    torch.Size([2])
    """

    def forward(self, margins: Tensor, relaxed: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """``(B,)`` from interval margins ``(B, K - 1)``, and a back-substituted bound of the fused sum.

        Args:
            margins: lower bounds of z_y - z_i by intervals.
            relaxed: upper bound ``(B,)`` of ``sum_i exp(z_i - z_y - shift)`` with `shift`, or None.
            beta: weight of ``relaxed``.
        """
        shift = self.shift(margins)
        total = torch.exp(-margins - shift[:, None]).sum(1) + torch.exp(-shift)
        if relaxed is not None and beta > 0:
            total = beta * relaxed + (1 - beta) * total
        return torch.log(total) + shift

    @staticmethod
    def shift(margins: Tensor) -> Tensor:
        """``(B,)``: detached largest exponent, which keeps the exponentials finite."""
        return (-margins).amax(1).clamp(min=0).detach()

    @staticmethod
    def chord(low: Tensor, high: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset ``(B, K - 1)`` of the line above ``exp(z - shift)`` on an interval of z."""
        at_low, at_high = torch.exp(low - shift[:, None]), torch.exp(high - shift[:, None])
        wide = high - low > 1e-6
        slope = torch.where(
            wide, (at_high - at_low) / torch.where(wide, high - low, torch.ones_like(low)), at_high
        )
        return slope, at_high - slope * high


def tightness_loss(layers: list[Interval], tolerance: float = 0.5) -> Tensor:
    """Keeps the width of hidden intervals near the input's (Shi et al. 2021): ``relu(tau - d0 / dk) / tau``."""
    widths = [(high - low).mean() for low, high in layers]
    parts = [F.relu(tolerance - widths[0] / w.clamp(min=1e-12)) / tolerance for w in widths[1:]]
    return torch.stack(parts).mean() if parts else widths[0] * 0.0


def balance_loss(layers: list[Interval], tolerance: float = 0.5) -> Tensor:
    """Keeps the shares of active and inactive neurons comparable (Shi et al. 2021)."""
    total = layers[0][0].sum() * 0.0
    for low, high in layers:
        middle = (low + high) / 2
        active, inactive = low > 0, high < 0
        if not bool(active.any()) or not bool(inactive.any()):
            continue
        for statistic in (middle, (middle - middle.mean()).abs()):
            a, b = statistic[active].abs().sum(), statistic[inactive].abs().sum()
            ratio = torch.minimum(a, b) / torch.maximum(a, b).clamp(min=1e-12)
            total = total + F.relu(tolerance - ratio) / tolerance
    return total / (2 * len(layers))


@torch.no_grad()
def ibp_init_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Normal weights with deviation ``sqrt(2 pi) / fan_in``, for which interval widths neither grow nor shrink.

    Shi et al. 2021, section 3.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            weight = module.weight
            fan_in = weight[0].numel()
            weight.normal_(0.0, (2 * torch.pi) ** 0.5 / fan_in, generator=generator)
