"""Does a StyleGAN3 move and turn its image as a whole? EQ-T and EQ-R, in dB."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_distill.metrics.record import Measured
from stylegan_distill.metrics.sampling import draw_codes
from stylegan_distill.networks import Generator

__all__ = ["equivariance", "resample"]

# Half-width of the resampling filters, pixels.
_LOBES = 4


@torch.no_grad()
def equivariance(
    generator: Generator,
    *,
    count: int = 50_000,
    batch: int = 8,
    seed: int = 0,
    translate_max: float = 0.125,
    rotate_max: float = 1.0,
) -> Measured:
    """Signal-to-noise ratio between moving the input's coordinates and moving the image.

    ``eqt_int``: whole pixels; ``eqt_frac``: any shift; ``eqr``: any angle. Pixels whose value would come from outside
    the image do not count. For the last, both images pass one radial low-pass filter first: a turned pixel grid cannot
    hold the corners of the spectrum. That filter is ours, so that ``eqr`` is near, but not equal, to the published
    figure.

    Args:
        generator: a StyleGAN3 in evaluation mode; its transform is put back.
        count: images for each of the three.
        batch: at a time.
        seed: of everything.
        translate_max: largest shift, in sides of the image.
        rotate_max: largest angle, in half turns.

    Raises:
        ValueError: a network without an input transform (StyleGAN2).
    """
    source = getattr(generator.synthesis, "input", None)
    if source is None or not hasattr(source, "transform"):
        raise ValueError(
            "equivariance: generator: got one without an input transform; only StyleGAN3 has one"
        )
    rng = torch.Generator().manual_seed(seed)
    side = generator.cfg.resolution
    before = source.transform.clone()
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in ("eqt_int", "eqt_frac", "eqr")}
    try:
        for start in range(0, count, batch):
            z, c = draw_codes(generator, min(batch, count - start), rng)
            ws = generator.mapping(z, c)
            plain = _moved(generator, ws, before, torch.eye(3))
            shift = (torch.rand(2, generator=rng) * 2 - 1) * translate_max
            turn = float(torch.rand((), generator=rng) * 2 - 1) * rotate_max * math.pi
            whole = (shift * side).round() / side
            for name, matrix in (
                ("eqt_int", _shifted(whole)),
                ("eqt_frac", _shifted(shift)),
                ("eqr", _turned(turn)),
            ):
                found = _moved(generator, ws, before, matrix)
                wanted, mask = resample(plain, matrix)
                if name == "eqr":
                    found, wanted, mask = _low_passed(found), _low_passed(wanted), _shrunk(mask)
                error = (found.double() - wanted.double()).square() * mask
                sums[name] += torch.stack((error.sum(), mask.sum() * error.shape[0] * error.shape[1])).cpu()
    finally:
        source.transform.copy_(before)
    values = {}
    for name, (error, weight) in sums.items():
        mean = float(error / weight.clamp(min=1))
        values[name] = 20 * math.log10(2) - 10 * math.log10(mean) if mean > 0 else 999.0
    return Measured(values, {"count": count, "seed": seed, "translate_max": translate_max})


def _shifted(shift: Tensor) -> Tensor:
    matrix = torch.eye(3)
    matrix[:2, 2] = shift
    return matrix


def _turned(angle: float) -> Tensor:
    matrix = torch.eye(3)
    c, s = math.cos(angle), math.sin(angle)
    matrix[:2, :2] = torch.tensor([[c, -s], [s, c]])
    return matrix


def _moved(generator: Generator, ws: Tensor, before: Tensor, matrix: Tensor) -> Tensor:
    """Images with a further transform of the image, given by what it does to points."""
    inverse = torch.linalg.inv(matrix.double()).to(before)
    generator.synthesis.input.transform.copy_(before @ inverse)  # type: ignore[union-attr, operator]
    found: Tensor = generator.synthesis(ws, noise="none")
    return found


def resample(images: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Move images by a rigid transform with a windowed sinc.

    Args:
        images: ``(B, C, R, R)``.
        matrix: ``(3, 3)``: where points (x, y, 1) go; units are sides of the image, the origin its middle.

    Returns:
        The moved images, and ``(R, R)`` float64 of 1 where all that the filter reads lies inside the image.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> moved, mask = resample(x, torch.tensor([[1.0, 0, 2 / 16], [0, 1, 0], [0, 0, 1]]))
    >>> torch.allclose(moved[..., 8, 8], x[..., 8, 6], atol=1e-5), bool(mask[8, 8])
    (True, True)
    """
    side = images.shape[-1]
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1) @ torch.linalg.inv(matrix.double()).T
    place = (points[..., :2] + 0.5) * side - 0.5
    # Whole shifts read one pixel: rounding must not make them interpolate.
    place = torch.where((place - place.round()).abs() < 1e-6, place.round(), place)
    low = place.floor().long()
    total = torch.zeros_like(images, dtype=torch.float64)
    weights = torch.zeros(side, side, dtype=torch.float64)
    inside = torch.ones(side, side, dtype=torch.bool)
    for dy in range(1 - _LOBES, _LOBES + 1):
        for dx in range(1 - _LOBES, _LOBES + 1):
            at = low + torch.tensor([dx, dy])
            weight = _lanczos(place[..., 0] - at[..., 0]) * _lanczos(place[..., 1] - at[..., 1])
            fits = ((at >= 0) & (at < side)).all(-1)
            inside &= fits | (weight.abs() < 1e-12)
            at = at.clamp(0, side - 1).to(images.device)
            total += images[..., at[..., 1], at[..., 0]] * weight.to(images.device)
            weights += weight
    return (total / weights.to(images.device)).to(images.dtype), inside.double().to(images.device)


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < _LOBES, torch.sinc(x) * torch.sinc(x / _LOBES), torch.zeros_like(x))


def _low_passed(images: Tensor) -> Tensor:
    """Radial low-pass below the frequencies that every turned grid can hold."""
    axis = torch.arange(-_LOBES, _LOBES + 1, dtype=torch.float64)
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    # A disc of 0.8 Nyquist: jinc under a raised cosine.
    argument = 0.8 * math.pi * radius
    jinc = torch.where(radius > 0, 2 * torch.special.bessel_j1(argument) / argument.clamp(min=1e-9), 1.0)
    window = torch.where(radius <= _LOBES, 0.5 + 0.5 * torch.cos(math.pi * radius / (_LOBES + 1)), 0.0)
    kernel = (jinc * window / (jinc * window).sum()).to(images)
    b, c, h, w = images.shape
    flat = images.reshape(b * c, 1, h, w)
    return torch.nn.functional.conv2d(flat, kernel[None, None], padding=_LOBES).reshape(b, c, h, w)


def _shrunk(mask: Tensor) -> Tensor:
    """1 where all that the low-pass filter reads is 1 and lies inside the image."""
    width = 2 * _LOBES + 1
    padded = torch.nn.functional.pad(1 - mask[None, None], (_LOBES,) * 4, value=1.0)
    return 1 - torch.nn.functional.max_pool2d(padded, width, stride=1)[0, 0]
