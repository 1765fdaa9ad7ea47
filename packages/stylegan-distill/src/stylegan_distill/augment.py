"""Adaptive augmentation of what the discriminator sees, for small sets (Karras et al. 2020, "limited data").

Real and generated images go through the same random changes, each applied with probability p; p follows how well the
discriminator separates the training images. All changes are differentiable.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AdaptiveAugment"]


class AdaptiveAugment(nn.Module):
    """Random mirror images, quarter turns, shifts, scales, angles and colours, each with probability p.

    The strength follows ``E[sign D(real)]``: above the target the discriminator remembers its images and p rises, below
    it falls. Angles are drawn twice, before and after the stretch, with a probability each such that together it is p.

    Args:
        target: of ``E[sign D(real)]``; 0.6 as published.
        speed: images in which p may go from 0 to 1.
        p: to start with; with ``target=None`` it stays.
        geometry: mirror, turns, shifts, scale, stretch, angle.
        colour: brightness, contrast, luma flip, hue, saturation.

    Example:
        >>> augment = AdaptiveAugment(p=0.0)
        >>> x = torch.rand(2, 3, 8, 8)
        >>> bool((augment(x) == x).all()), augment.update(torch.ones(1000)) > 0
        (True, True)
    """

    p: Tensor

    def __init__(
        self,
        target: float | None = 0.6,
        *,
        speed: float = 500_000,
        p: float = 0.0,
        geometry: bool = True,
        colour: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"AdaptiveAugment: p: got {p}; expected 0 to 1")
        self.target, self.speed, self.geometry, self.colour = target, speed, geometry, colour
        self.register_buffer("p", torch.tensor(float(p)))
        self.generator: torch.Generator | None = None

    @torch.no_grad()
    def update(self, real_logits: Tensor) -> float:
        """Move p by what the discriminator said of a batch of (augmented) real images; returns p.

        Under torch.distributed the mean over all processes counts, so that they stay equal.
        """
        if self.target is None:
            return float(self.p)
        # On the logits' device: processes on GPUs exchange nothing that lies elsewhere.
        wide = real_logits.double()
        count = torch.stack((wide.sign().sum(), wide.new_tensor(wide.numel())))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
        overfit = float(count[0] / count[1])
        step = math.copysign(float(count[1]) / self.speed, overfit - self.target)
        self.p.copy_((self.p + step).clamp(0, 1))
        return float(self.p)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to the same shape."""
        p = float(self.p)
        if p == 0:
            return images
        if self.geometry:
            images = self._warped(images, p)
        return self._coloured(images, p) if self.colour else images

    # ---- draws -----------------------------------------------------------------------------------

    def _rand(self, count: int, like: Tensor) -> Tensor:
        return torch.rand(count, generator=self.generator).to(like)

    def _normal(self, count: int, like: Tensor) -> Tensor:
        return torch.randn(count, generator=self.generator).to(like)

    def _where(self, p: float, values: Tensor, neutral: float) -> Tensor:
        """Values with probability p, else the neutral one."""
        return torch.where(self._rand(len(values), values) < p, values, torch.full_like(values, neutral))

    # ---- geometry --------------------------------------------------------------------------------

    def _warped(self, images: Tensor, p: float) -> Tensor:
        b, _, height, width = images.shape
        matrix = torch.eye(3).to(images).expand(b, 3, 3)
        mirror = self._where(p, torch.where(self._rand(b, images) < 0.5, -1.0, 1.0), 1.0)
        matrix = matrix @ _scales(mirror, torch.ones_like(mirror))
        quarter = self._where(p, (self._rand(b, images) * 4).floor() * (math.pi / 2), 0.0)
        matrix = matrix @ _turns(quarter)
        for_pixels = [
            ((self._rand(b, images) * 2 - 1) * 0.125 * side).round() / side for side in (width, height)
        ]
        moved = self._rand(b, images) < p
        matrix = matrix @ _shifts(*(torch.where(moved, s, torch.zeros_like(s)) for s in for_pixels))
        scale = self._where(p, torch.exp2(self._normal(b, images) * 0.2), 1.0)
        matrix = matrix @ _scales(scale, scale)
        each = 1 - math.sqrt(1 - p)
        matrix = matrix @ _turns(self._where(each, (self._rand(b, images) * 2 - 1) * math.pi, 0.0))
        stretch = self._where(p, torch.exp2(self._normal(b, images) * 0.2), 1.0)
        matrix = matrix @ _scales(stretch, 1 / stretch)
        matrix = matrix @ _turns(self._where(each, (self._rand(b, images) * 2 - 1) * math.pi, 0.0))
        moved = self._rand(b, images) < p
        for_parts = [self._normal(b, images) * 0.125 for _ in range(2)]
        matrix = matrix @ _shifts(*(torch.where(moved, s, torch.zeros_like(s)) for s in for_parts))
        # What is not moved is not filtered either.
        still = (matrix - torch.eye(3).to(images)).abs().amax((1, 2)) < 1e-6
        return torch.where(still[:, None, None, None], images, _resampled(images, matrix))

    # ---- colour ----------------------------------------------------------------------------------

    def _coloured(self, images: Tensor, p: float) -> Tensor:
        b = len(images)
        grey = torch.full((3,), 1 / math.sqrt(3)).to(images)
        outer = torch.outer(grey, grey)
        eye = torch.eye(3).to(images)
        brightness = self._where(p, self._normal(b, images) * 0.2, 0.0)
        contrast = self._where(p, torch.exp2(self._normal(b, images) * 0.5), 1.0)
        # Householder reflection of the luma axis.
        flip = self._where(p, (self._rand(b, images) * 2).floor(), 0.0)
        colour = eye - 2 * outer * flip[:, None, None]
        colour = colour * contrast[:, None, None]
        hue = self._where(p, (self._rand(b, images) * 2 - 1) * math.pi, 0.0)
        colour = _hues(hue, grey) @ colour
        saturation = self._where(p, torch.exp2(self._normal(b, images)), 1.0)
        colour = (outer + (eye - outer) * saturation[:, None, None]) @ colour
        # The brightness is added before the contrast.
        offset = (colour @ torch.ones(3, 1).to(images)) * brightness[:, None, None]
        flat = colour @ images.flatten(2) + offset
        return flat.view_as(images)


def _scales(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack((x, y, torch.ones_like(x)), 1))


def _turns(angle: Tensor) -> Tensor:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [torch.stack(row, 1) for row in ((c, -s, zero), (s, c, zero), (zero, zero, one))]
    return torch.stack(rows, 1)


def _shifts(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [torch.stack(row, 1) for row in ((one, zero, x), (zero, one, y), (zero, zero, one))]
    return torch.stack(rows, 1)


def _hues(angle: Tensor, axis: Tensor) -> Tensor:
    """Rotations about the grey axis (Rodrigues)."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]).to(angle)
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return c * torch.eye(3).to(angle) + s * cross + (1 - c) * torch.outer(axis, axis)


def _resampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Read the image at transformed places, mirrored at its borders; at twice the resolution, against aliasing."""
    side = images.shape[2:]
    margin = [s // 2 for s in side]
    padded = F.pad(images, (margin[1], margin[1], margin[0], margin[0]), mode="reflect")
    wide = F.interpolate(padded, scale_factor=2, mode="bicubic", align_corners=False)
    # Places are in units of the image's side around its middle; grid_sample's are in halves of the padded image's.
    shares = torch.tensor([side[1] / padded.shape[3], side[0] / padded.shape[2]]).to(images)
    axes = [(torch.arange(2 * s).to(images) + 0.5) / (2 * s) - 0.5 for s in side]
    y, x = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).view(1, -1, 3)
    places = (points @ matrix.transpose(1, 2))[..., :2] * 2 * shares
    grid = places.view(len(images), 2 * side[0], 2 * side[1], 2)
    found = F.grid_sample(wide, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(found, 2)
