"""Find the code of a given image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stylegan_distill.metrics.pixels import psnr
from stylegan_distill.metrics.sampling import Distance, draw_codes, draw_noise
from stylegan_distill.networks import Generator

__all__ = ["Projection", "project_image"]

# In place of an infinite ratio, which JSON cannot hold.
_EQUAL = 999.0


@dataclass(frozen=True)
class Projection:
    """A code, its image, and how near it is.

    Attributes:
        ws: ``(1, L, D)``.
        noise: the maps that were found with it; empty for StyleGAN3.
        image: ``(1, 3, R, R)``.
        losses: value of the loss at every iteration.
        values: ``psnr``, ``psnr_legacy_uint8`` (999 for equal images), the perceptual distance, and with a mask
            ``ca_psnr`` and ``ca_<name>`` inside it.
    """

    ws: Tensor
    noise: list[Tensor]
    image: Tensor
    losses: list[float]
    values: dict[str, float]


def project_image(
    generator: Generator,
    target: Tensor,
    metric: Distance,
    *,
    iterations: int = 800,
    optimizer: Literal["adam", "lbfgs"] = "lbfgs",
    mask: Tensor | None = None,
    seed: int = 0,
    tell: Callable[[int, float], None] | None = None,
) -> Projection:
    """Optimise w of every layer, and the noise maps, from the mean of 1000 codes.

    The loss is the mean squared error plus the perceptual distance of the clamped image. "lbfgs" takes full-batch steps
    with a strong Wolfe line search; "adam" ramps its rate of 0.01 up over the first 5 % and down over the last 25 %.

    Args:
        generator: in evaluation mode; its weights are not touched.
        target: ``(1, 3, R, R)`` in [-1, 1].
        metric: perceptual distance.
        iterations: of the optimiser.
        optimizer: which.
        mask: ``(1, 1, R, R)`` of 0 and 1 for the content-aware values.
        seed: of the start.
        tell: called with (iteration, loss).

    Raises:
        ValueError: a target of another size, or fewer than one iteration.
    """
    side = generator.cfg.resolution
    if target.shape != (1, 3, side, side):
        raise ValueError(
            f"project_image: target: got shape {tuple(target.shape)}; expected (1, 3, {side}, {side})"
        )
    if iterations < 1:
        raise ValueError(f"project_image: iterations: got {iterations}; expected at least 1")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        z, c = draw_codes(generator, 1000, rng)
        start = generator.mapping(z, c).mean(0, keepdim=True)
    ws = start.clone().requires_grad_(True)
    maps = draw_noise(generator, 1, rng)
    noise: list[Tensor] = [] if isinstance(maps, str) else [m.requires_grad_(True) for m in maps]
    variables = [ws, *noise]
    losses: list[float] = []

    def loss() -> Tensor:
        image = generator.synthesis(ws, noise=noise or "none")
        total: Tensor = (image - target).square().mean() + metric(image.clamp(-1, 1), target).mean()
        return total

    def closure() -> Tensor:
        value = loss()
        for variable, gradient in zip(variables, torch.autograd.grad(value, variables), strict=True):
            variable.grad = gradient
        return value

    step: Any
    if optimizer == "lbfgs":
        step = torch.optim.LBFGS(variables, lr=1.0, max_iter=1, max_eval=10, line_search_fn="strong_wolfe")
    else:
        step = torch.optim.Adam(variables, lr=0.01)
    for number in range(iterations):
        if optimizer == "adam":
            for group in step.param_groups:
                group["lr"] = 0.01 * _ramp((number + 0.5) / iterations)
        losses.append(float(step.step(closure).detach()))
        if tell is not None:
            tell(number + 1, losses[-1])
    with torch.no_grad():
        image = generator.synthesis(ws, noise=noise or "none")
        values = _values(image, target, metric, mask)
    return Projection(ws.detach(), [n.detach() for n in noise], image, losses, values)


def _ramp(t: float) -> float:
    down = min(1.0, (1 - t) / 0.25)
    return (0.5 - 0.5 * math.cos(down * math.pi)) * min(1.0, t / 0.05)


def _values(image: Tensor, target: Tensor, metric: Distance, mask: Tensor | None) -> dict[str, float]:
    clamped = image.clamp(-1, 1)
    values = {
        "psnr": min(psnr(image, target), _EQUAL),
        "psnr_legacy_uint8": min(psnr(image, target, legacy_uint8=True), _EQUAL),
        metric.name: float(metric(clamped, target).mean()),
    }
    if mask is not None:
        values["ca_psnr"] = min(psnr(image, target, mask), _EQUAL)
        values[f"ca_{metric.name}"] = float(metric(clamped * mask, target * mask).mean())
    return values
