"""What generators of both families, and students of any architecture, have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stylegan_distill.config import GeneratorConfig
from stylegan_distill.networks.mapping import Mapping

__all__ = ["Generator", "SynthesisResult", "make_mapping", "pack"]

#: The image, or the image followed by features, RGB images or both, as asked for.
SynthesisResult = Any


def make_mapping(cfg: GeneratorConfig) -> Mapping:
    """The mapping network of a configuration, randomly initialised."""
    return Mapping(
        cfg.z_dim,
        cfg.c_dim,
        cfg.mapping_sizes,
        num_ws=cfg.num_ws,
        embed_width=cfg.w_dim,
        lr_multiplier=cfg.mapping_lr_multiplier,
        w_avg_beta=cfg.w_avg_beta,
    )


def pack(
    image: Tensor, features: list[Tensor], rgbs: list[Tensor], with_features: bool, with_rgbs: bool
) -> SynthesisResult:
    """The image alone, or a tuple of it and what was asked for."""
    extra = [e for e, wanted in ((features, with_features), (rgbs, with_rgbs)) if wanted]
    return (image, *extra) if extra else image


class Generator(nn.Module):
    """A mapping and a synthesis network.

    Args:
        cfg: configuration of the networks; a foreign synthesis network keeps that of its teacher's shape.
        mapping: z to (B, L, D).
        synthesis: called as ``synthesis(ws, noise=..., return_features=..., return_rgbs=...)``.
    """

    def __init__(self, cfg: GeneratorConfig, mapping: Mapping, synthesis: nn.Module) -> None:
        super().__init__()
        self.cfg = cfg
        self.mapping = mapping
        self.synthesis = synthesis

    @property
    def num_ws(self) -> int:
        """Style codes an image is made of."""
        return self.cfg.num_ws

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the constant or input, and of every convolution that is not the last."""
        return self.cfg.layer_widths

    @property
    def z_dim(self) -> int:
        """Length of a latent code."""
        return self.cfg.z_dim

    @property
    def resolution(self) -> int:
        """Side of the images, pixels."""
        return self.cfg.resolution

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        **synthesis: Any,
    ) -> SynthesisResult:
        """Images (B, 3, R, R), nominally in [-1, 1] and never clamped, of latent codes (B, Z).

        Args:
            z: (B, Z).
            c: (B, c_dim) labels of a conditional network.
            truncation_psi: see `Mapping`.
            truncation_cutoff: see `Mapping`.
            **synthesis: ``noise``, ``return_features``, ``return_rgbs`` of the synthesis network.
        """
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), **synthesis)
