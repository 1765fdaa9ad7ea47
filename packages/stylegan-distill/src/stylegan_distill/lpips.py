"""LPIPS: perceptual distance on the features of a fixed network (Zhang et al. 2018, version 0.1).

The weights of the published one (VGG16 and its linear heads) are the user's files. ``LPIPS("tiny")`` is the same
formula on `features.TinyFeatures`: it needs no file and compares with nothing published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_distill.features import TinyFeatures, VGG16Stages, fingerprint, read_state
from tenfold._errors import UserInputError

__all__ = ["LPIPS"]

# Of the published network, on images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10

Source = str | Path | Mapping[str, Tensor]


class LPIPS(nn.Module):
    """Perceptual distance of two batches of images in [-1, 1].

    Features of every stage are normalised to unit length over channels; their squared difference is weighted by
    non-negative heads, averaged over space and summed over stages. No gradient reaches the weights; the images get
    theirs.

    Args:
        weights: ``"tiny"``, or the linear heads of the published network: a file or state dict with the keys
            ``lin0.model.1.weight`` to ``lin4.model.1.weight``, each ``(1, C, 1, 1)``.
        backbone: torchvision's VGG16 state dict or file; needed unless ``weights="tiny"``.
        resize: larger images are resized to this side first (bilinear, corners not aligned), as in the training
            loss; None keeps them.

    Raises:
        UserInputError: a missing or unfitting file, or heads with negative weights.

    Example:
        >>> metric = LPIPS("tiny")
        >>> x = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
        >>> metric(x, x).tolist(), bool((metric(x, -x) > 0).all())
        ([0.0, 0.0], True)
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, weights: Source = "tiny", backbone: Source | None = None, *, resize: int | None = None
    ) -> None:
        super().__init__()
        self.resize = resize
        self.net: TinyFeatures | VGG16Stages
        if isinstance(weights, str) and weights == "tiny":
            self.name = "lpips_tiny"
            self.net = TinyFeatures()
            # With heads of one, a stage counts by the distance of its unit vectors: 0 to 4.
            heads = [torch.ones(width) / len(self.net.widths) for width in self.net.widths]
            shift, scale = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        else:
            if backbone is None:
                raise UserInputError("backbone: got None; LPIPS needs the file of VGG16 beside its heads")
            self.name = "lpips_vgg"
            self.net = VGG16Stages(backbone)
            heads = _read_heads(weights, self.net.widths)
            shift, scale = _SHIFT, _SCALE
        for number, head in enumerate(heads):
            self.register_buffer(f"head{number}", head.float().view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1))
        self.eval()
        self.fingerprint = fingerprint(self)

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode: nothing here is ever trained."""
        return super().train(False)

    def embed(self, images: Tensor) -> list[Tensor]:
        """Unit features of every stage times the root of their heads, so that squared differences add up."""
        if self.resize is not None and images.shape[-1] > self.resize:
            images = F.interpolate(images, (self.resize, self.resize), mode="bilinear", align_corners=False)
        found = []
        for number, stage in enumerate(self.net.stages((images - self.shift) / self.scale)):
            # A norm whose gradient is 0 where every channel is 0, which happens behind a ReLU.
            unit = stage / (torch.linalg.vector_norm(stage, dim=1, keepdim=True) + _EPS)
            found.append(unit * getattr(self, f"head{number}").sqrt())
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances ``(B,)`` of ``x`` and ``y``, both ``(B, 3, H, W)`` in [-1, 1].

        Raises:
            ValueError: shapes differ, or are no images of three channels.
        """
        if x.shape != y.shape or x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(
                f"LPIPS: x, y: got shapes {tuple(x.shape)} and {tuple(y.shape)}; expected two (B, 3, H, W)"
            )
        pairs = zip(self.embed(x), self.embed(y), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


def _read_heads(source: Source, widths: tuple[int, ...]) -> list[Tensor]:
    state = read_state(source)
    name = "heads" if isinstance(source, Mapping) else str(source)
    heads = []
    for number, width in enumerate(widths):
        key = next(
            (k for k in (f"lin{number}.model.1.weight", f"lins.{number}.model.1.weight") if k in state), ""
        )
        if not key or state[key].numel() != width:
            raise UserInputError(f"{name}: lin{number}.model.1.weight: expected {width} numbers")
        if bool((state[key] < 0).any()):
            raise UserInputError(f"{name}: {key}: got negative weights; the heads of LPIPS have none")
        heads.append(state[key].flatten())
    return heads
