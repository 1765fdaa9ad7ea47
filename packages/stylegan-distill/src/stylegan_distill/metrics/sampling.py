"""Latent codes, labels, noise and images from fixed seeds; what all metrics of generators draw from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from stylegan_distill.networks import Generator

__all__ = ["Distance", "draw_codes", "draw_noise", "generated_images"]


class Distance(Protocol):
    """A perceptual distance: `stylegan_distill.LPIPS`, or any function of two batches with a name."""

    name: str

    def __call__(self, x: Tensor, y: Tensor, /) -> Tensor:
        """``(B, 3, H, W)`` twice to ``(B,)``."""
        ...


def _device(generator: Generator) -> torch.device:
    return next(generator.parameters()).device


def draw_codes(generator: Generator, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Latent codes ``(count, Z)`` and, for a conditional network, one-hot labels ``(count, c_dim)`` or None."""
    z = torch.randn(count, generator.cfg.z_dim, generator=rng)
    if generator.cfg.c_dim == 0:
        return z.to(_device(generator)), None
    classes = torch.randint(generator.cfg.c_dim, (count,), generator=rng)
    labels = torch.nn.functional.one_hot(classes, generator.cfg.c_dim).float()
    return z.to(_device(generator)), labels.to(_device(generator))


def draw_noise(generator: Generator, count: int, rng: torch.Generator) -> Any:
    """Noise maps for ``count`` images; ``"none"`` for a network that has none (StyleGAN3)."""
    make = getattr(generator.synthesis, "make_noise", None)
    if make is None:
        return "none"
    if _device(generator).type == "cpu":
        return make(count, generator=rng)
    # The numbers come from the processor, whatever device the network is on.
    own = torch.Generator(_device(generator)).manual_seed(int(torch.randint(2**62, (), generator=rng)))
    return make(count, generator=own)


@torch.no_grad()
def generated_images(
    generator: Generator,
    count: int,
    *,
    batch: int = 32,
    seed: int = 0,
    truncation_psi: float = 1.0,
    noise: str = "random",
) -> Iterator[Tensor]:
    """Batches of images ``(B, 3, R, R)``, not clamped, of a network in evaluation mode.

    Args:
        generator: the network.
        count: images in all.
        batch: images at a time; codes and noise do not depend on it as long as it stays the same.
        seed: of codes and noise.
        truncation_psi: 1 for a published figure.
        noise: "random", "const" or "none".
    """
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, count, batch):
        z, c = draw_codes(generator, min(batch, count - start), rng)
        maps = draw_noise(generator, len(z), rng) if noise == "random" else noise
        yield generator(z, c, truncation_psi=truncation_psi, noise=maps)
