"""Directions of W along which a generator's images change most, by closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stylegan_distill.networks import Generator, StyleGAN2Synthesis, StyleGAN3Synthesis
from tenfold._errors import UserInputError

__all__ = ["DirectionMode", "block_count", "latent_directions", "sample_offsets"]

DirectionMode = Literal["split", "global", "random", "pca"]

#: The official number of blocks (8 to 128 pixels) and of directions of each.
_BLOCKS, _PER_BLOCK, _PCA_CODES = 5, 5, 10_000


def _groups(generator: Generator) -> list[list[Tensor]]:
    """Stored weights (C, D) of the style layers of every block: 8, 16, ... pixels, or one sampling rate."""
    net = generator.synthesis
    if isinstance(net, StyleGAN2Synthesis):
        blocks = net.blocks()[1:]
        return [[conv.affine.weight.detach() for conv in block.convolutions()] for block in blocks]
    if isinstance(net, StyleGAN3Synthesis):
        layers = net.layers()
        return [[layers[i].affine.weight.detach() for i in group] for group in net.cfg.groups]
    name = type(net).__name__
    raise UserInputError(
        f"directions: teacher: no style layers are known of a {name}; expected StyleGAN2 or StyleGAN3"
    )


def block_count(generator: Generator) -> int:
    """Blocks that directions and features are made of: 8, 16, ... pixels, or sampling rates below the image's."""
    return len(_groups(generator))


def _eigenvectors(rows: Tensor, count: int, start: int = 0) -> Tensor:
    """The leading eigenvectors (count, D) of the sum of outer products of rows scaled to length 1."""
    if start + count > rows.shape[1]:
        raise UserInputError(f"directions: k: got {start + count}; W has {rows.shape[1]} dimensions")
    rows = torch.nn.functional.normalize(rows.double(), dim=1)
    _, vectors = torch.linalg.eigh(rows.t() @ rows)  # ascending
    found = vectors.flip(1)[:, start : start + count].t()
    # The sign of an eigenvector is arbitrary: make the largest entry positive.
    largest = found.gather(1, found.abs().argmax(dim=1, keepdim=True))
    signed: Tensor = found * largest.sign()
    return signed


@torch.no_grad()
def latent_directions(
    teacher: Generator,
    mode: DirectionMode = "split",
    blocks: Sequence[int] | None = None,
    k: int = _PER_BLOCK,
    *,
    start: int = 0,
    seed: int = 0,
) -> Tensor:
    """Unit directions of W (K, D), computed once, from the teacher alone.

    Args:
        teacher: a StyleGAN2 or StyleGAN3.
        mode: "split": for every block the leading eigenvectors of its style layers' rows (each of length 1);
            "global": as many, of all rows together; "random": Gaussian; "pca": of the w of 10,000 codes.
        blocks: 1 is 8 pixels, 2 is 16 ...; for StyleGAN3 1 is the lowest sampling rate. None: the first five, or as
            many as there are.
        k: directions a block; in the other modes K is k times the blocks.
        start: skip so many leading directions, for held-out ones.
        seed: of "random" and "pca".

    Raises:
        UserInputError: a block that the generator lacks, or more directions than W has dimensions.

    Example:
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator
        >>> net = StyleGAN2Generator(StyleGAN2Config(16, z_dim=8, w_dim=8, widths=(8, 8, 4)))
        >>> latent_directions(net, k=3).shape
        torch.Size([6, 8])
    """
    groups = _groups(teacher)
    chosen = list(blocks) if blocks is not None else list(range(1, min(_BLOCKS, len(groups)) + 1))
    wrong = [b for b in chosen if not 1 <= b <= len(groups)]
    if wrong or not chosen:
        raise UserInputError(f"directions: blocks: got {chosen}; expected numbers from 1 to {len(groups)}")
    if k < 1 or start < 0:
        raise UserInputError(f"directions: k, start: got {k} and {start}; expected k >= 1 and start >= 0")
    stacks = [torch.cat(groups[b - 1]) for b in chosen]
    like, total = stacks[0], k * len(chosen)
    if mode == "split":
        found = torch.cat([_eigenvectors(rows, k, start) for rows in stacks])
    elif mode == "global":
        found = _eigenvectors(torch.cat(stacks), total, start * len(chosen))
    elif mode == "random":
        generator = torch.Generator().manual_seed(seed)
        found = torch.randn(start + total, like.shape[1], generator=generator)[start:]
    elif mode == "pca":
        found = _principal(teacher, total, start * len(chosen), seed)
    else:
        raise UserInputError(f"directions: mode: got {mode!r}; expected split, global, random or pca")
    return torch.nn.functional.normalize(found, dim=1).to(like)


def _principal(teacher: Generator, count: int, start: int, seed: int) -> Tensor:
    return principal_components(teacher, start + count, seed)[0][start:]


@torch.no_grad()
def principal_components(
    teacher: Generator, count: int, seed: int = 0, codes: int = _PCA_CODES
) -> tuple[Tensor, Tensor]:
    """Leading principal directions (count, D) of w over random codes, and their shares of the variance (count,)."""
    generator = torch.Generator().manual_seed(seed)
    like = next(teacher.mapping.parameters())
    parts = torch.randn(codes, teacher.z_dim, generator=generator).to(like).split(1000)
    w = [teacher.mapping.style(z, _no_label(teacher, len(z), like)) for z in parts]
    centred = torch.cat(w).double()
    centred = centred - centred.mean(dim=0)
    if count > centred.shape[1]:
        raise UserInputError(f"directions: k: got {count}; W has {centred.shape[1]} dimensions")
    values, vectors = torch.linalg.eigh(centred.t() @ centred)
    share = values.flip(0).clamp(min=0) / values.clamp(min=0).sum()
    return vectors.flip(1)[:, :count].t().to(like), share[:count].to(like)


def _no_label(teacher: Generator, rows: int, like: Tensor) -> Tensor | None:
    """Labels of zeros for a conditional mapping, whose embedding then is its bias."""
    return like.new_zeros(rows, teacher.cfg.c_dim) if teacher.cfg.c_dim else None


def sample_offsets(
    directions: Tensor, batch: int, weight: float = 5.0, generator: torch.Generator | None = None
) -> Tensor:
    """Offsets (B, 1, D) to be added to all entries of w: a random unit direction times N(0, weight^2).

    Args:
        directions: (K, D).
        batch: B.
        weight: standard deviation of the step; 5 is the official one at D = 512.
        generator: random numbers.

    Example:
        >>> sample_offsets(torch.eye(4), 3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 1, 4])
    """
    device = directions.device
    index = torch.randint(len(directions), (batch,), generator=generator, device=device)
    alpha = torch.randn(batch, 1, generator=generator, device=device, dtype=directions.dtype) * weight
    unit = torch.nn.functional.normalize(directions[index], dim=1)
    return (alpha * unit)[:, None]
