"""Box coders: what the heads regress, and the boxes that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sparsepoint.config import SparsePointConfig
from tenfold.geometry import HeadingBinCoder, rotate_z, wrap_angle

__all__ = [
    "ClassResidualCoder",
    "DirectCoder",
    "PartialBinBoxCoder",
    "PartialCode",
    "RelativeHeadingCoder",
    "decode_heading",
    "stage_coder",
]

# Deltas are divided by these before they are applied (SRDet's code): centres, then sizes.
_CENTRE_DIVISOR = 2.0
_MAX_LOG_SIZE = 4.0


def decode_heading(heading: Tensor, yaw: Tensor, bins: int) -> Tensor:
    """New yaw (..., ) of an incoming one and 2 * bins outputs: scores of the bins, then their residuals in radians.

    Both are relative to the incoming yaw. Bin 0 is centred at no turn.

    Example:
        >>> out = torch.zeros(24); out[1], out[13] = 5.0, -0.2236
        >>> round(decode_heading(out, torch.tensor(0.0), 12).item(), 4)
        0.3
    """
    index = heading[..., :bins].argmax(-1, keepdim=True)
    residual = heading[..., bins:].gather(-1, index)
    turn = HeadingBinCoder(bins, normalised=False).decode(index, residual)[..., 0]
    wrapped: Tensor = wrap_angle(yaw + turn)
    return wrapped


@dataclass(frozen=True)
class RelativeHeadingCoder:
    """Deltas of a box relative to the box that a stage starts from, with a binned relative heading (SRDet).

    The centre moves by ``delta / 2`` times the size, the size is multiplied by ``exp(delta)`` (clamped to
    plus or minus 4), the yaw turns by a bin and its residual in radians. With one bin the yaw stays.

    Args:
        bins: of the heading.
        axes: "scene": shifts are along the axes of the scene also for a rotated box, as in the published code;
            "local": along the box's own.

    Example:
        >>> box, delta = torch.tensor([[0.0, 0, 0, 2, 4, 1, 0]]), torch.tensor([[2.0, -2, 2, 0.6931472, 0, -0.6931472]])
        >>> RelativeHeadingCoder().decode(delta, torch.zeros(1, 2), box).round(decimals=3).tolist()
        [[2.0, -4.0, 1.0, 4.0, 4.0, 0.5, 0.0]]
    """

    bins: int = 1
    axes: Literal["scene", "local"] = "scene"

    @property
    def outputs(self) -> int:
        """Numbers that a head predicts for a box besides its heading."""
        return 6

    def decode(self, delta: Tensor, heading: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (..., 7) of deltas (..., 6), heading outputs (..., 2 * bins) and incoming boxes (..., 7)."""
        size, yaw = boxes[..., 3:6], boxes[..., 6]
        shift = delta[..., :3] / _CENTRE_DIVISOR * size
        if self.axes == "local":
            shift = rotate_z(shift, yaw)
        new_size = size * delta[..., 3:].clamp(-_MAX_LOG_SIZE, _MAX_LOG_SIZE).exp()
        new_yaw = decode_heading(heading, yaw, self.bins) if self.bins > 1 else yaw
        return torch.cat((boxes[..., :3] + shift, new_size, new_yaw[..., None]), -1)

    def encode_heading(self, target: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
        """Bin (int64) and residual (radians) that turn incoming yaws into the target ones."""
        return HeadingBinCoder(self.bins, normalised=False).encode(target - incoming)


@dataclass(frozen=True)
class DirectCoder:
    """Centre offset in metres, logarithm of the size, sine and cosine of the yaw: the ablation without bins.

    Example:
        >>> box, out = torch.tensor([[1.0, 0, 0, 9, 9, 9, 0]]), torch.tensor([[0.5, 0, 0, 0, 0, 0]])
        >>> DirectCoder().decode(out, torch.tensor([[1.0, 0.0]]), box)[0, [0, 3]].tolist()
        [1.5, 1.0]
    """

    bins: int = 1

    @property
    def outputs(self) -> int:
        """Numbers that a head predicts for a box besides its heading."""
        return 6

    def decode(self, delta: Tensor, heading: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (..., 7) of outputs (..., 6), (sine, cosine) in the first two heading outputs, and incoming boxes."""
        size = delta[..., 3:].clamp(-_MAX_LOG_SIZE, _MAX_LOG_SIZE).exp()
        yaw = boxes[..., 6]
        if self.bins > 1:
            yaw = torch.atan2(heading[..., 0], heading[..., 1])
        return torch.cat((boxes[..., :3] + delta[..., :3], size, yaw[..., None]), -1)


class PartialCode(NamedTuple):
    """VoteNet's code of boxes (..., ): classes and residuals.

    Args:
        heading_class: int64 bin.
        heading_residual: in units of half a bin.
        size_class: int64.
        size_residual: (..., 3) in units of the class's mean size.
    """

    heading_class: Tensor
    heading_residual: Tensor
    size_class: Tensor
    size_residual: Tensor


@dataclass(frozen=True)
class PartialBinBoxCoder:
    """VoteNet's code: the size as a class and a residual over its mean, the heading as a bin and a residual.

    Args:
        mean_sizes: (dx, dy, dz) of each size class, metres.
        bins: of the heading.

    Example:
        >>> coder = PartialBinBoxCoder(((1.0, 1.0, 1.0), (2.0, 1.0, 0.5)), 12)
        >>> box = torch.tensor([[0.0, 0, 0, 2.2, 1.0, 0.4, 0.7]])
        >>> code = coder.encode(box, torch.tensor([1]))
        >>> [round(v, 3) for v in code.size_residual[0].tolist()]
        [0.1, 0.0, -0.2]
        >>> torch.allclose(coder.decode(box[:, :3], code), box, atol=1e-6)
        True
    """

    mean_sizes: Sequence[Sequence[float]]
    bins: int = 1

    @property
    def outputs(self) -> int:
        """Numbers that a head predicts for a box besides its centre: 2 * bins + 4 * size classes."""
        return 2 * self.bins + 4 * len(self.mean_sizes)

    def encode(self, boxes: Tensor, labels: Tensor) -> PartialCode:
        """Code of boxes (..., 7) whose size class is the semantic one, (..., ) int64."""
        mean = boxes.new_tensor(self.mean_sizes)[labels]
        heading_class, residual = HeadingBinCoder(self.bins).encode(boxes[..., 6])
        return PartialCode(heading_class, residual, labels, (boxes[..., 3:6] - mean) / mean)

    def decode(self, centres: Tensor, code: PartialCode) -> Tensor:
        """Boxes (..., 7) of centres (..., 3); with one bin the yaw is 0."""
        mean = centres.new_tensor(self.mean_sizes)[code.size_class]
        size = mean * (1 + code.size_residual)
        yaw = HeadingBinCoder(self.bins).decode(code.heading_class, code.heading_residual)
        yaw = yaw if self.bins > 1 else torch.zeros_like(yaw)
        return torch.cat((centres, size, yaw[..., None]), -1)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heading scores and residuals (..., bins), size scores (..., S) and residuals (..., S, 3) of outputs."""
        sizes = len(self.mean_sizes)
        heading, residual, size, rest = outputs.split([self.bins, self.bins, sizes, 3 * sizes], -1)
        return heading, residual, size, rest.unflatten(-1, (sizes, 3))

    def decode_outputs(self, centres: Tensor, outputs: Tensor) -> Tensor:
        """Boxes (..., 7) of a head's outputs: of every box its best bin and its best size class."""
        heading, residual, size, extents = self.split(outputs)
        bin_ = heading.argmax(-1, keepdim=True)
        kind = size.argmax(-1)
        own = extents.gather(-2, kind[..., None, None].expand(*kind.shape, 1, 3))[..., 0, :]
        # A negative size has no meaning; a residual below -0.9 is a head that is not trained yet.
        code = PartialCode(bin_[..., 0], residual.gather(-1, bin_)[..., 0], kind, own.clamp(min=-0.9))
        return self.decode(centres, code)


@dataclass(frozen=True)
class ClassResidualCoder:
    """VoteNet's code for a stage: centre offset in metres, and size and heading as `PartialBinBoxCoder` codes them.

    Size and heading are those of the object and not relative to the box that the stage starts from.

    Args:
        mean_sizes: (dx, dy, dz) of each size class, metres.
        bins: of the heading.

    Example:
        >>> box, out = torch.tensor([[1.0, 0, 0, 9, 9, 9, 0]]), torch.tensor([[0.5, 0, 0, 0, 3, 0, 0, 0, 0.1, 0, 0]])
        >>> coder = ClassResidualCoder(((1.0, 1.0, 1.0), (2.0, 1.0, 0.5)))
        >>> coder.outputs, coder.decode(out, torch.zeros(1, 2), box)[0, [0, 3, 5]].tolist()  # doctest: +ELLIPSIS
        (11, [1.5, 2.2..., 0.5])
    """

    mean_sizes: tuple[tuple[float, float, float], ...]
    bins: int = 1

    @property
    def outputs(self) -> int:
        """Numbers that a head predicts for a box besides its heading: the offset, and 4 for each size class."""
        return 3 + 4 * len(self.mean_sizes)

    def decode(self, delta: Tensor, heading: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (..., 7) of outputs (..., 3 + 4 S), heading outputs (..., 2 * bins) and incoming boxes (..., 7)."""
        coder = PartialBinBoxCoder(self.mean_sizes, self.bins)
        return coder.decode_outputs(boxes[..., :3] + delta[..., :3], torch.cat((heading, delta[..., 3:]), -1))

    def size_outputs(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (..., S) of the size classes, and residuals (..., S, 3) over their mean sizes, of outputs."""
        sizes = len(self.mean_sizes)
        scores, residuals = delta[..., 3:].split([sizes, 3 * sizes], -1)
        return scores, residuals.unflatten(-1, (sizes, 3))


def stage_coder(config: SparsePointConfig) -> RelativeHeadingCoder | DirectCoder | ClassResidualCoder:
    """The coder of a detector's stages."""
    if config.box_coder == "classres":
        return ClassResidualCoder(config.mean_sizes, config.heading_bins)
    if config.box_coder == "direct":
        return DirectCoder(config.heading_bins)
    return RelativeHeadingCoder(config.heading_bins, config.centre_axes)
