"""Frechet distance of two sets of images (FID with the Inception of 2015; ``fd_<net>`` with any other features)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stylegan_distill.features import FeatureNet, InceptionFeatures
from stylegan_distill.metrics.record import Measured
from tenfold.train.processes import gather_values

__all__ = ["PRESETS", "FeatureStats", "Preset", "compute_fid", "frechet_distance", "image_features"]


@dataclass(frozen=True)
class Preset:
    """A published way to compute FID.

    Attributes:
        ddof: what is taken off the count in the covariance.
        quantise: images are rounded to 8 bits first.
        tf_resize: resized as the TensorFlow graph does it.
        count: generated images.
    """

    ddof: Literal[0, 1]
    quantise: bool
    tf_resize: bool
    count: int = 50_000


#: ``fid50k_full`` is NVIDIA's, ``fid_cagan`` that of content-aware GAN compression and StyleKD (pytorch-fid).
PRESETS = {"fid50k_full": Preset(0, True, True), "fid_cagan": Preset(1, False, False)}


class FeatureStats:
    """Count, mean and covariance of features, in float64; order and sharding do not matter.

    >>> stats = FeatureStats().add(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    >>> stats.mean.tolist(), stats.covariance(0).tolist()
    ([1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None
        self._outer: Tensor | None = None

    def add(self, features: Tensor) -> FeatureStats:
        """Take ``(B, D)`` features in; returns itself.

        Raises:
            ValueError: no ``(B, D)``, or other D than before.
        """
        if features.dim() != 2 or (self._sum is not None and features.shape[1] != len(self._sum)):
            wanted = "(B, D)" if self._sum is None else f"(B, {len(self._sum)})"
            raise ValueError(f"FeatureStats: features: got shape {tuple(features.shape)}; expected {wanted}")
        wide = features.detach().double().cpu()
        total, outer = wide.sum(0), wide.T @ wide
        self._sum = total if self._sum is None else self._sum + total
        self._outer = outer if self._outer is None else self._outer + outer
        self.count += len(wide)
        return self

    def merge(self, other: FeatureStats) -> FeatureStats:
        """Take in what another process or shard has counted; returns itself."""
        if other._sum is not None and other._outer is not None:
            self._sum = other._sum if self._sum is None else self._sum + other._sum
            self._outer = other._outer if self._outer is None else self._outer + other._outer
            self.count += other.count
        return self

    def all_reduce(self) -> FeatureStats:
        """Sum over the processes of torch.distributed, where it is initialised; returns itself.

        The sums lie on the CPU, from where NCCL adds nothing up: processes on GPUs hand them over whole.
        """
        parts = gather_values(self)
        if len(parts) > 1:
            total = FeatureStats()
            for part in parts:
                total.merge(part)
            self.count, self._sum, self._outer = total.count, total._sum, total._outer
        return self

    @property
    def mean(self) -> Tensor:
        """``(D,)``."""
        if self._sum is None:
            raise ValueError("FeatureStats: nothing was added")
        return self._sum / self.count

    def covariance(self, ddof: int) -> Tensor:
        """``(D, D)``, divided by the count less ``ddof``."""
        if self._outer is None or self.count <= ddof:
            raise ValueError(f"FeatureStats: got {self.count} features; a covariance needs more than {ddof}")
        mean = self.mean
        return (self._outer - self.count * torch.outer(mean, mean)) / (self.count - ddof)


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet distance of two Gaussians, float64.

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``; the trace of the root comes from the eigenvalues of the
    symmetric ``S_a^(1/2) S_b S_a^(1/2)``.

    >>> one, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    >>> frechet_distance(zero, one, zero + 1, 4 * one)
    4.0
    """
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    gap = (mean_a.double() - mean_b.double()).square().sum()
    return float(gap + cov_a.double().trace() + cov_b.double().trace() - 2 * shared)


@torch.no_grad()
def image_features(images: Iterable[Tensor], features: FeatureNet, limit: int | None = None) -> Tensor:
    """Features ``(N, D)`` float32 of batches of images in [-1, 1], the first ``limit`` of them."""
    found: list[Tensor] = []
    count = 0
    for batch in images:
        rows = batch if limit is None else batch[: limit - count]
        if len(rows):
            found.append(features(rows).float().cpu())
            count += len(rows)
        if limit is not None and count >= limit:
            break
    if not found:
        raise ValueError("image_features: images: got none")
    return torch.cat(found)


def _stats(source: Iterable[Tensor] | FeatureStats, features: FeatureNet) -> FeatureStats:
    if isinstance(source, FeatureStats):
        return source
    stats = FeatureStats()
    with torch.no_grad():
        for batch in source:
            stats.add(features(batch))
    return stats.all_reduce()


def compute_fid(
    real: Iterable[Tensor] | FeatureStats,
    fake: Iterable[Tensor] | FeatureStats,
    features: FeatureNet,
    preset: str = "fid50k_full",
    **facts: Any,
) -> Measured:
    """Frechet distance of the features of real and generated images.

    Args:
        real: batches ``(B, 3, H, W)`` in [-1, 1], never mirrored; or their statistics.
        fake: likewise; EMA weights, random noise, no truncation for a published figure.
        features: the network. The result is called after the preset only for the Inception of 2015 with the
            preset's settings and count; else ``fid_n<count>`` or ``fd_<name>``.
        preset: one of `PRESETS`.
        facts: kept in the record: seed, filter of the data and so on.

    Raises:
        ValueError: an unknown preset, Inception features of other settings than the preset's, too few images.
    """
    if preset not in PRESETS:
        raise ValueError(f"compute_fid: preset: got {preset!r}; expected one of {', '.join(PRESETS)}")
    how = PRESETS[preset]
    if isinstance(features, InceptionFeatures) and (features.quantise, features.tf_resize) != (
        how.quantise,
        how.tf_resize,
    ):
        raise ValueError(
            f"compute_fid: features: {preset} needs quantise={how.quantise}, tf_resize={how.tf_resize}"
        )
    a, b = _stats(real, features), _stats(fake, features)
    value = frechet_distance(a.mean, a.covariance(how.ddof), b.mean, b.covariance(how.ddof))
    if features.name == "inception":
        name = preset if b.count >= how.count else f"fid_n{b.count}"
    else:
        name = f"fd_{features.name}"
    record = {"preset": preset, "features": features.fingerprint, "real": a.count, "fake": b.count}
    return Measured({name: value}, {**record, **facts})
