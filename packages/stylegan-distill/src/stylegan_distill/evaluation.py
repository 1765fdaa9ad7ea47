"""All metrics of a generator, and of a student beside its teacher, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylegan_distill.cost import count_cost, measure_run
from stylegan_distill.data import ImageBatches, ImageSource
from stylegan_distill.data.batches import Pixels
from stylegan_distill.directions import latent_directions
from stylegan_distill.features import FeatureNet, InceptionFeatures, TinyFeatures, VGG16Features
from stylegan_distill.lpips import LPIPS
from stylegan_distill.metrics import (
    PRESETS,
    Measured,
    PackageLPIPS,
    compute_fid,
    compute_kid,
    compute_ppl,
    compute_pr,
    editing_consistency,
    equivariance,
    fidelity_metrics,
    generated_images,
    image_features,
    mapping_swap,
    mixing_consistency,
    noise_lpips,
    output_discrepancy,
)
from stylegan_distill.networks import Generator
from tenfold._errors import UserInputError

__all__ = ["METRICS", "Networks", "evaluate_generator"]


@dataclass(frozen=True)
class Networks:
    """The feature networks of an evaluation; without files the tiny one stands in, under names of its own.

    Attributes:
        inception: file of the Inception of 2015 (keys of ``pt_inception-2015-12-05``), for FID and KID.
        vgg: torchvision's VGG16, for precision and recall, and below LPIPS.
        lpips: the linear heads of LPIPS, or "package": those of the installed package lpips; needs ``vgg``.
        preset: of FID.
    """

    inception: Path | None = None
    vgg: Path | None = None
    lpips: Path | str | None = None
    preset: str = "fid50k_full"

    def distribution(self) -> FeatureNet:
        """Features of FID and KID."""
        if self.inception is None:
            return TinyFeatures()
        how = PRESETS[self.preset]
        return InceptionFeatures(self.inception, tf_resize=how.tf_resize, quantise=how.quantise)

    def manifold(self) -> FeatureNet:
        """Features of precision and recall."""
        return TinyFeatures() if self.vgg is None else VGG16Features(self.vgg)

    def perceptual(self) -> LPIPS | PackageLPIPS:
        """The distance of LPIPS.

        Raises:
            UserInputError: a missing or unfit file.
            MissingExtraError: the package lpips is asked for and not installed.
        """
        if self.lpips is not None and self.vgg is None:
            raise UserInputError("vgg: missing; LPIPS needs the file of VGG16 beside its heads")
        if self.lpips is not None and str(self.lpips) == "package":
            assert self.vgg is not None
            return PackageLPIPS(self.vgg)
        return LPIPS("tiny") if self.lpips is None else LPIPS(self.lpips, self.vgg)


@dataclass(frozen=True)
class _Setting:
    generator: Generator
    teacher: Generator | None
    images: Pixels | ImageSource | None
    networks: Networks
    directions: Tensor | None
    count: int
    batch: int
    seed: int

    def fakes(self) -> Iterator[Tensor]:
        return generated_images(self.generator, self.count, batch=self.batch, seed=self.seed)

    def reals(self) -> Iterator[Tensor]:
        if self.images is None:
            raise UserInputError("data: missing; this metric compares with real images")
        return ImageBatches(self.images, min(self.batch, len(self.images))).once()

    def pair(self) -> Generator:
        if self.teacher is None:
            raise UserInputError("teacher: missing; this metric compares with a teacher")
        for name in ("resolution", "z_dim", "c_dim"):
            own, theirs = (getattr(net.cfg, name) for net in (self.generator, self.teacher))
            if own != theirs:
                raise UserInputError(f"teacher: {name}: got {theirs}; the generator has {own}")
        return self.teacher

    def facts(self) -> dict[str, Any]:
        recorded = self.images.facts if isinstance(self.images, ImageSource) else {}
        return {"seed": self.seed, "filter": recorded.get("filter", "not recorded")}


def _fid(s: _Setting) -> Measured:
    return compute_fid(s.reals(), s.fakes(), s.networks.distribution(), s.networks.preset, **s.facts())


def _kid(s: _Setting) -> Measured:
    net = s.networks.distribution()
    real, fake = image_features(s.reals(), net), image_features(s.fakes(), net)
    name = "kid" if net.name == "inception" else f"kid_{net.name}"
    facts = {"features": net.fingerprint, "real": len(real), "fake": len(fake), **s.facts()}
    return Measured({name: compute_kid(real, fake, seed=s.seed)}, facts)


def _pr(s: _Setting) -> Measured:
    net = s.networks.manifold()
    real, fake = image_features(s.reals(), net, 200_000), image_features(s.fakes(), net)
    precision, recall = compute_pr(real, fake)
    end = "" if net.name == "vgg16" else f"_{net.name}"
    facts = {"features": net.fingerprint, "real": len(real), "fake": len(fake), **s.facts()}
    return Measured({f"precision{end}": precision, f"recall{end}": recall}, facts)


def _fidelity(s: _Setting) -> Measured:
    net = s.networks
    found = fidelity_metrics(
        s.reals(), s.fakes(), inception=net.inception, vgg=net.vgg, batch=s.batch, seed=s.seed
    )
    return Measured(found.values, {**found.facts, **s.facts()})


def _ppl(s: _Setting) -> Measured:
    return compute_ppl(s.generator, s.networks.perceptual(), pairs=s.count, batch=s.batch, seed=s.seed)


def _noise(s: _Setting) -> Measured:
    pairs = min(5000, s.count)
    return noise_lpips(s.generator, s.networks.perceptual(), pairs=pairs, batch=s.batch, seed=s.seed)


def _discrepancy(s: _Setting) -> Measured:
    count = min(512, s.count)
    net = s.networks.perceptual()
    return output_discrepancy(s.pair(), s.generator, net, count=count, batch=s.batch, seed=s.seed)


def _editing(s: _Setting) -> Measured:
    directions = latent_directions(s.pair(), start=5) if s.directions is None else s.directions
    count = min(256, s.count)
    net = s.networks.perceptual()
    return editing_consistency(
        s.pair(), s.generator, directions, net, count=count, batch=s.batch, seed=s.seed
    )


def _mixing(s: _Setting) -> Measured:
    return mixing_consistency(s.pair(), s.generator, count=min(256, s.count), batch=s.batch, seed=s.seed)


def _swap(s: _Setting) -> Measured:
    return mapping_swap(s.pair(), s.generator, count=min(256, s.count), batch=s.batch, seed=s.seed)


def _equivariance(s: _Setting) -> Measured:
    return equivariance(s.generator, count=s.count, batch=s.batch, seed=s.seed)


def _cost(s: _Setting) -> Measured:
    cost = count_cost(s.generator)
    run = measure_run(s.generator)
    values = {"params": float(cost.params), "macs": float(cost.macs), "filter_macs": float(cost.filter_macs)}
    values |= {"activation_bytes": float(run.activation_bytes), "milliseconds": run.milliseconds}
    return Measured(values, {"device": run.device, "threads": run.threads})


#: Name -> how it is computed.
METRICS: dict[str, Callable[[_Setting], Measured]] = {
    "cost": _cost,
    "discrepancy": _discrepancy,
    "editing": _editing,
    "mixing": _mixing,
    "swap": _swap,
    "fid": _fid,
    "kid": _kid,
    "pr": _pr,
    "fidelity": _fidelity,
    "ppl": _ppl,
    "noise_lpips": _noise,
    "equivariance": _equivariance,
}


def evaluate_generator(
    generator: Generator,
    metrics: Sequence[str],
    *,
    teacher: Generator | None = None,
    images: Pixels | ImageSource | None = None,
    networks: Networks | None = None,
    directions: Tensor | None = None,
    count: int = 50_000,
    batch: int = 32,
    seed: int = 0,
) -> dict[str, Measured]:
    """Several metrics of one generator.

    Args:
        generator: in evaluation mode.
        metrics: names of `METRICS`.
        teacher: for those that compare with one.
        images: real images, for those that compare with them.
        networks: feature networks.
        directions: edits of "editing", ``(K, D)``; None: each block's 6th to 10th, which training does not see.
        count: generated images (and pairs) at most.
        batch: images at a time.
        seed: of codes and noise.

    Returns:
        Metric -> its numbers and facts.

    Raises:
        UserInputError: an unknown name, numbers below 1, or something that a metric needs is missing or does not fit.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise UserInputError(f"metrics: got {unknown[0]!r}; expected some of {', '.join(METRICS)}")
    if count < 1 or batch < 1:
        raise UserInputError(f"count, batch: got {count}, {batch}; expected numbers from 1 on")
    networks = networks or Networks()
    if networks.preset not in PRESETS:
        raise UserInputError(f"preset: got {networks.preset!r}; expected {' or '.join(PRESETS)}")
    setting = _Setting(generator.eval(), teacher, images, networks, directions, count, batch, seed)
    with torch.no_grad():
        try:
            return {name: METRICS[name](setting) for name in metrics}
        except ValueError as error:
            raise error if isinstance(error, UserInputError) else UserInputError(str(error)) from error
