"""Reference of the sparse convolution: dictionaries of sites, then one gather and product per offset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

__all__ = [
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_strided_padded",
    "rulebook_submanifold",
    "sparse_conv",
    "sparse_conv_weight",
    "sparse_max_pool",
]

Site = tuple[int, int, int, int]


def output_shape(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Extents (Z, Y, X) of a strided convolution's output; may be <= 0."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape, kernel, stride, padding, dilation, strict=True)
    ]


def _sites(coords: Tensor, shape: Sequence[int], batch_size: int, validate: bool) -> dict[Site, int]:
    bounds = (batch_size, *shape)
    rows: dict[Site, int] = {}
    for row, values in enumerate(coords.tolist()):
        site: Site = tuple(values)
        inside = all(0 <= v < n for v, n in zip(site, bounds, strict=True))
        if validate and not inside:
            raise ValueError(
                f"rulebook: coords: row {row} is outside the grid; expected 0 <= b < batch_size and "
                "0 <= z, y, x < spatial_shape"
            )
        if validate and site in rows:
            raise ValueError(f"rulebook: coords: row {row} repeats a site; expected unique sites")
        if inside:
            rows.setdefault(site, row)
    return rows


def rulebook_submanifold(
    coords: Tensor,
    spatial_shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    validate: bool = False,
) -> Tensor:
    """Table (K, V) int32 of a submanifold convolution: the input row at each offset of each site, or -1."""
    rows = _sites(coords, spatial_shape, batch_size, validate)
    steps = [
        [(o - (n - 1) // 2) * d for o, n, d in zip(offset, kernel_size, dilation, strict=True)]
        for offset in product(*(range(k) for k in kernel_size))
    ]
    table = [[-1] * len(coords) for _ in steps]
    for row, (b, z, y, x) in enumerate(coords.tolist()):
        if not (
            0 <= b < batch_size and all(0 <= v < n for v, n in zip((z, y, x), spatial_shape, strict=True))
        ):
            continue
        for entries, (dz, dy, dx) in zip(table, steps, strict=True):
            entries[row] = rows.get((b, z + dz, y + dy, x + dx), -1)
    return torch.tensor(table, dtype=torch.int32, device=coords.device)


def rulebook_strided(
    coords: Tensor,
    spatial_shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Output sites (V_out, 4) in lexicographic order and the table (K, V_out) of a strided convolution."""
    rows = _sites(coords, spatial_shape, batch_size, validate)
    shape = output_shape(spatial_shape, kernel_size, stride, padding, dilation)
    found: dict[Site, dict[int, int]] = {}
    for (b, *place), row in rows.items():
        reached = (
            [(o, t // s) for o in range(k) if (t := v + p - o * d) % s == 0 and 0 <= t // s < n]
            for v, n, k, s, p, d in zip(place, shape, kernel_size, stride, padding, dilation, strict=True)
        )
        for (oz, z), (oy, y), (ox, x) in product(*reached):
            k = (oz * kernel_size[1] + oy) * kernel_size[2] + ox
            found.setdefault((b, z, y, x), {})[k] = row
    out = sorted(found)
    table = torch.tensor(
        [[found[site].get(k, -1) for site in out] for k in range(math.prod(kernel_size))],
        dtype=torch.int32,
        device=coords.device,
    )
    return torch.tensor(out, dtype=torch.int32, device=coords.device).reshape(-1, 4), table


def rulebook_strided_padded(
    coords: Tensor,
    spatial_shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    max_out: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    validate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first sites of `rulebook_strided` with their columns, filled up with -1, and the number of all sites."""
    sites, table = rulebook_strided(
        coords, spatial_shape, batch_size, kernel_size, stride, padding, dilation, validate
    )
    padded, columns = sites.new_full((max_out, 4), -1), table.new_full((len(table), max_out), -1)
    padded[: len(sites)] = sites[:max_out]
    columns[:, : len(sites)] = table[:, :max_out]
    return padded, columns, torch.tensor(len(sites), dtype=torch.int32, device=coords.device)


def rulebook_invert(table: Tensor, rows: int) -> Tensor:
    """Table (K, rows) with inverse[k][table[k][o]] = o."""
    if bool((table >= rows).any()):
        raise ValueError("rulebook_invert: table: an entry is not below rows")
    inverse = table.new_full((table.shape[0], rows), -1)
    k, o = (table >= 0).nonzero(as_tuple=True)
    inverse[k, table[k, o].long()] = o.int()
    return inverse


def _check_rows(features: Tensor, table: Tensor) -> None:
    if bool((table >= features.shape[0]).any()):
        raise ValueError("sparse_conv: table: an entry names a row that features do not have")


def sparse_conv(
    features: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor, symmetric: bool = False
) -> Tensor:
    """out[o] = bias + sum over k of weight[:, k] @ features[table[k, o]]; weight is (C_out, K, C_in)."""
    _check_rows(features, table)
    out = features.new_zeros(table.shape[1], weight.shape[0])
    if bias is not None:
        out = out + bias
    for k in range(table.shape[0]):
        present = (table[k] >= 0).nonzero().flatten()
        out[present] += features[table[k][present].long()] @ weight[:, k].T
    return out


def sparse_conv_weight(features: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """Gradient (C_out, K, C_in) of the weight, given the gradient (V_out, C_out) of the output."""
    _check_rows(features, table)
    result = features.new_zeros(grad.shape[1], table.shape[0], features.shape[1])
    for k in range(table.shape[0]):
        present = (table[k] >= 0).nonzero().flatten()
        result[:, k] = grad[present].T @ features[table[k][present].long()]
    return result


def sparse_max_pool(features: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Largest present input per output and channel, and its row (lowest offset on ties; 0 and -1 if none)."""
    _check_rows(features, table)
    out = features.new_zeros(table.shape[1], features.shape[1])
    arg = torch.full_like(out, -1, dtype=torch.int32)
    for k in range(table.shape[0]):
        present = (table[k] >= 0).nonzero().flatten()
        rows = table[k][present]
        x = features[rows.long()]
        better = (arg[present] < 0) | (x > out[present])
        out[present] = torch.where(better, x, out[present])
        arg[present] = torch.where(better, rows[:, None], arg[present])
    return out, arg
