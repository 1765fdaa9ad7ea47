"""VGG with normalisation for small images; Simonyan & Zisserman 2015."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, init_like_vgg, mean_pool

__all__ = ["VGG"]

#: Depth -> convolutions in each of the five blocks.
CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
CONVOLUTIONS[19] = (2, 2, 4, 4, 4)
_WIDTHS = (64, 128, 256, 512, 512)


def _block(c_in: int, c_out: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Conv2d(c_in if index == 0 else c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out)]
        layers += [nn.ReLU()] if index + 1 < count else []  # the last one stays outside, to be tapped
    return nn.Sequential(*layers)


class VGG(TappedNet):
    """VGG8, 11, 13, 16 or 19.

    Raises:
        ValueError: another depth.

    >>> sum(p.numel() for p in VGG(8).parameters())
    3965028
    """

    def __init__(self, depth: int, num_classes: int = 100) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"VGG: depth: got {depth}; expected one of {', '.join(map(str, CONVOLUTIONS))}")
        inputs: Sequence[int] = (3, *_WIDTHS[:-1])
        for index, (c_in, c_out, count) in enumerate(zip(inputs, _WIDTHS, CONVOLUTIONS[depth], strict=True)):
            setattr(self, f"block{index}", _block(c_in, c_out, count))
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(512, num_classes)
        self.feature_dim = 512
        init_like_vgg(self)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        large = x.shape[2] == 64  # a fourth halving for 64x64 images alone
        taps = []
        for index in range(5):
            before = getattr(self, f"block{index}")(x)
            x = torch.relu(before)
            taps.append(before if preact and index > 0 else x)
            if index < 3 or (index == 3 and large):
                x = self.pool(x)
        pooled = mean_pool(x)
        return [*taps, pooled], self.classifier(pooled)
