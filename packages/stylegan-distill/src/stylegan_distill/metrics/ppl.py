"""Perceptual path length, and what the paper's column of that name measures."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_distill.metrics.record import Measured
from stylegan_distill.metrics.sampling import Distance, draw_codes, draw_noise
from stylegan_distill.networks import Generator

__all__ = ["compute_ppl", "noise_lpips"]


@torch.no_grad()
def compute_ppl(
    generator: Generator,
    metric: Distance,
    *,
    pairs: int = 50_000,
    batch: int = 16,
    seed: int = 0,
    space: Literal["w", "z"] = "w",
    sampling: Literal["end", "full"] = "end",
    epsilon: float = 1e-4,
) -> Measured:
    """Perceptual path length: distance of the images of codes ``epsilon`` apart, divided by ``epsilon`` squared.

    Both images of a pair share one realisation of the noise. Images above 256 pixels are box-averaged to 256. The mean
    is over pairs inside the 1st and 99th percentile.

    Args:
        generator: in evaluation mode.
        metric: perceptual distance; the value is called ``ppl2_wend`` for the published one at the defaults.
        pairs: how many.
        batch: pairs at a time.
        seed: of everything.
        space: interpolate w (straight) or z (on the sphere).
        sampling: at the start of the path ("end") or anywhere on it ("full").
        epsilon: the step.
    """
    values = _steps(generator, metric, pairs, batch, seed, space, sampling, epsilon, shared_noise=True)
    published = metric.name == "lpips_vgg" and pairs >= 50_000
    name = f"ppl2_{space}{sampling}" if published else f"ppl_{space}{sampling}_{metric.name.split('_')[-1]}"
    facts = {"pairs": pairs, "epsilon": epsilon, "seed": seed, "features": getattr(metric, "fingerprint", "")}
    return Measured({name: trimmed_mean(values / epsilon**2)}, facts)


@torch.no_grad()
def noise_lpips(
    generator: Generator, metric: Distance, *, pairs: int = 5000, batch: int = 16, seed: int = 0
) -> Measured:
    """The "PPL" column of the paper's table: the effect of noise maps, not a path length.

    Its code steps 1e-4 in w, draws *independent* noise for the two images and never divides by the step squared: noise
    makes all of the value. It is near 0 for StyleGAN3, which has none. The value is called ``noise_lpips`` for the
    published metric and count, else ``noise_<metric>``.
    """
    values = _steps(generator, metric, pairs, batch, seed, "w", "full", 1e-4, shared_noise=False)
    facts = {"pairs": pairs, "seed": seed, "features": getattr(metric, "fingerprint", "")}
    published = metric.name == "lpips_vgg" and pairs >= 5000
    return Measured({"noise_lpips" if published else f"noise_{metric.name}": trimmed_mean(values)}, facts)


def _steps(
    generator: Generator,
    metric: Distance,
    pairs: int,
    batch: int,
    seed: int,
    space: str,
    sampling: str,
    epsilon: float,
    *,
    shared_noise: bool,
) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    found = []
    for start in range(0, pairs, batch):
        count = min(batch, pairs - start)
        (z0, c), (z1, _) = draw_codes(generator, count, rng), draw_codes(generator, count, rng)
        t = torch.rand(count, generator=rng) if sampling == "full" else torch.zeros(count)
        t = t.to(z0.device).view(-1, 1)
        if space == "z":
            ws = [generator.mapping(_slerp(z0, z1, at), c) for at in (t, t + epsilon)]
        else:
            a, b = generator.mapping(z0, c), generator.mapping(z1, c)
            first = a + (b - a) * t[..., None]
            ws = [first, first + (b - a) * epsilon]
        if shared_noise:
            maps = draw_noise(generator, count, rng)
            images = [generator.synthesis(w, noise=maps) for w in ws]
        else:
            images = [generator.synthesis(w, noise=draw_noise(generator, count, rng)) for w in ws]
        found.append(metric(*(_at_most_256(x) for x in images)).double().cpu())
    return torch.cat(found)


def _at_most_256(images: Tensor) -> Tensor:
    factor = images.shape[-1] // 256
    return F.avg_pool2d(images, factor) if factor > 1 else images


def _slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle between two directions, to unit length."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    dot = (a * b).sum(1, keepdim=True).clamp(-1, 1)
    across = F.normalize(b - dot * a, dim=1)
    angle = t * torch.acos(dot)
    return F.normalize(a * torch.cos(angle) + across * torch.sin(angle), dim=1)


def trimmed_mean(values: Tensor) -> float:
    """Mean of what lies between the 1st percentile (lower) and the 99th (higher).

    >>> trimmed_mean(torch.tensor([0.0, 1.0, 2.0]))
    1.0
    """
    array = values.numpy()
    low = np.percentile(array, 1, method="lower")
    high = np.percentile(array, 99, method="higher")
    return float(array[(array >= low) & (array <= high)].mean())
