"""A student of three strided convolutions, for small-scale runs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, conv, init_like_resnet, mean_pool

__all__ = ["PlainNet"]


class PlainNet(TappedNet):
    """Three 3x3 convolutions of stride 2, each with normalisation and rectification.

    >>> model = PlainNet(num_classes=20)
    >>> [tuple(tap.shape[1:]) for tap in model.forward_features(torch.zeros(1, 3, 16, 16))[0]]
    [(12, 8, 8), (24, 4, 4), (48, 2, 2), (48,)]
    """

    def __init__(self, widths: Sequence[int] = (12, 24, 48), num_classes: int = 100) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 3
        for width in widths:
            self.stages.append(nn.Sequential(conv(channels, width, 3, 2), nn.BatchNorm2d(width)))
            channels = width
        self.fc = nn.Linear(channels, num_classes)
        self.feature_dim = channels
        init_like_resnet(self)

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        taps = []
        for stage in self.stages:
            before = stage(x)
            x = torch.relu(before)
            taps.append(before if preact else x)
        pooled = mean_pool(x)
        return [*taps, pooled], self.fc(pooled)
