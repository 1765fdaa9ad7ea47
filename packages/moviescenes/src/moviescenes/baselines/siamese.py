"""Siamese (Baraldi et al.): a learnt embedding of shots, clustered with a kernel of time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moviescenes.baselines.cuts import few_shots, spectral_labels
from moviescenes.baselines.simple import Baseline, sweep
from moviescenes.data.films import FilmData
from moviescenes.grouping import normalised

__all__ = ["Siamese", "contrastive_loss", "train_siamese"]


def contrastive_loss(a: Tensor, b: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Squared distance of pairs of one scene, squared shortfall from the margin of others, halved.

    Args:
        a: (N, d) embeddings.
        b: (N, d).
        same: (N,) whether both shots are of one scene.
        margin: distance from which pairs of two scenes cost nothing.

    >>> round(contrastive_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([False])).item(), 4)
    0.5
    """
    distance = ((a - b) ** 2).sum(1).clamp_min(1e-12).sqrt()
    apart = F.relu(margin - distance)
    return torch.where(same, distance**2, apart**2).mean() / 2


class Siamese(nn.Module):
    """Two layers from all features of a shot to its embedding.

    Args:
        dim: features of a shot, all modalities together.
        hidden: width between the layers.
        out: numbers of an embedding.
    """

    def __init__(self, dim: int, hidden: int = 128, out: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, shots: Tensor) -> Tensor:
        """Embeddings (N, out)."""
        out: Tensor = self.layers(shots)
        return out

    @torch.inference_mode()
    def scenes(self, film: FilmData, sigma: float = 10.0) -> Baseline:
        """Cuts where neighbouring shots fall into different clusters; scores from a sweep of the clusters."""
        few = few_shots(len(film))
        if few is not None:
            return few
        table = self(torch.from_numpy(joined(film))).double().numpy()
        gaps = ((table[:, None] - table[None]) ** 2).sum(-1)
        number = np.arange(len(table))
        near = np.exp(-((number[:, None] - number) ** 2) / (2 * sigma**2))
        square = np.exp(-gaps / max(float(np.median(gaps)), 1e-9)) * near
        cuts = [np.diff(spectral_labels(square, clusters=k)) != 0 for k in sweep(len(table), 8)]
        return Baseline(np.mean(cuts, axis=0), np.diff(spectral_labels(square)) != 0)


def joined(film: FilmData) -> npt.NDArray[np.float32]:
    """Unit vectors of all modalities side by side (n, d)."""
    unit = normalised(film.arrays())
    return np.concatenate([unit[key] for key in sorted(unit)], 1).astype(np.float32)


def train_siamese(films: Sequence[FilmData], *, seed: int = 0, epochs: int = 10, reach: int = 20) -> Siamese:
    """An embedding trained on pairs of shots at most `reach` apart.

    Args:
        films: to train on.
        seed: of weights and pairs.
        epochs: passes over all shots, eight pairs each.
        reach: shots between a pair.
    """
    torch.manual_seed(seed)
    tables = [joined(film) for film in films]
    scene = [np.concatenate(([0], np.cumsum(film.labels == 1))) for film in films]
    model = Siamese(tables[0].shape[1])
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for epoch in range(epochs):
        random = np.random.default_rng([seed, epoch])
        for k in random.permutation(len(films)).tolist():
            first = np.repeat(np.arange(len(tables[k])), 8)
            second = np.clip(first + random.integers(1, reach + 1, len(first)), 0, len(tables[k]) - 1)
            same = torch.from_numpy(scene[k][first] == scene[k][second])
            a, b = (model(torch.from_numpy(tables[k][index])) for index in (first, second))
            loss = contrastive_loss(a, b, same)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()
