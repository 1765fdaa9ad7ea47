"""The mapping network: latent codes (and labels) to style codes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stylegan_distill.networks.layers import FullyConnected, normalize_moment

__all__ = ["Mapping"]


class Mapping(nn.Module):
    """From z (and a label) to w, repeated for every layer of the synthesis network.

    Args:
        z_dim: length of z; 0 for labels alone (a discriminator's).
        c_dim: length of a label; 0 for none.
        widths: of every layer, the last one D.
        num_ws: copies of w for each image; None: no copies, the result is (B, D).
        embed_width: of the label's embedding; None: D.
        lr_multiplier: mu of the layers behind the embedding.
        w_avg_beta: decay of ``w_avg``, the running mean of w; None: there is none.

    Example:
        >>> Mapping(8, 0, (8, 16), num_ws=3)(torch.randn(2, 8)).shape
        torch.Size([2, 3, 16])
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        widths: tuple[int, ...],
        *,
        num_ws: int | None = None,
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
        embed_width: int | None = None,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.num_ws = num_ws
        self.num_layers = len(widths)
        self.w_avg_beta = w_avg_beta
        embedded = 0 if c_dim == 0 else embed_width or widths[-1]
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, embedded)
        sizes = (z_dim + embedded, *widths)
        for i, (n, m) in enumerate(pairwise(sizes)):
            setattr(self, f"fc{i}", FullyConnected(n, m, lrelu=True, lr_multiplier=lr_multiplier))
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(widths[-1]))

    def layers(self) -> list[FullyConnected]:
        """fc0, fc1, ..."""
        return [getattr(self, f"fc{i}") for i in range(self.num_layers)]

    def style(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        """Style codes (B, D) of z (B, Z) and labels c (B, c_dim).

        Raises:
            ValueError: a missing label, or z or labels of the wrong shape.
        """
        parts = []
        if self.z_dim > 0:
            if z is None or z.dim() != 2 or z.shape[1] != self.z_dim:
                got = None if z is None else tuple(z.shape)
                raise ValueError(f"mapping: z: got shape {got}; expected (B, {self.z_dim})")
            parts.append(normalize_moment(z))
        if self.c_dim > 0:
            if c is None or c.dim() != 2 or c.shape[1] != self.c_dim:
                got = None if c is None else tuple(c.shape)
                raise ValueError(f"mapping: c: got shape {got}; expected labels (B, {self.c_dim})")
            parts.append(normalize_moment(self.embed(c.to(self.embed.weight.dtype))))
        x = torch.cat(parts, dim=1)
        for layer in self.layers():
            x = layer(x)
        return x

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Style codes (B, L, D) of latent codes.

        Args:
            z: (B, Z).
            c: (B, c_dim) labels of a conditional network.
            truncation_psi: w becomes w_avg + psi (w - w_avg).
            truncation_cutoff: in the first so many of the L entries; None: in all.
            update_emas: move ``w_avg`` towards this batch's mean.

        Raises:
            ValueError: a missing label, or z or labels of the wrong shape.
        """
        w = self.style(z, c)
        if self.num_ws is None:
            return w
        if update_emas and self.w_avg_beta is not None:
            mean = w.detach().mean(dim=0)
            self.w_avg.copy_(mean.lerp(self.w_avg.to(mean.dtype), self.w_avg_beta))
        ws = w[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1.0:
            return ws
        short = self.w_avg + truncation_psi * (ws - self.w_avg)
        if truncation_cutoff is None:
            return short
        return torch.cat([short[:, :truncation_cutoff], ws[:, truncation_cutoff:]], dim=1)
