"""ShuffleNet V1 (Zhang et al. 2018) and V2 (Ma et al. 2018) for small images."""

import torch
from torch import Tensor, nn

from tenfold.distill.models._base import TappedNet, conv, mean_pool

__all__ = ["ShuffleV1", "ShuffleV2"]


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of ``groups`` groups.

    >>> shuffle(torch.arange(6.0).view(1, 6, 1, 1), 2).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class _UnitV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; at stride 2 the pooled input is concatenated."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int) -> None:
        super().__init__()
        branch = c_out - c_in if stride == 2 else c_out
        middle = branch // 4
        self.groups = 1 if c_in == 24 else groups  # the 24 channels of the stem do not split
        self.conv1 = conv(c_in, middle, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv(middle, middle, 3, stride, middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv(middle, branch, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(branch)
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None

    def preact(self, x: Tensor) -> Tensor:
        out = shuffle(torch.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return out + x if self.pool is None else torch.cat([out, self.pool(x)], 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.preact(x))


class ShuffleV1(TappedNet):
    """ShuffleNet V1 with three groups.

    >>> sum(p.numel() for p in ShuffleV1().parameters())
    949258
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = conv(3, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        channels = 24
        for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            units = [_UnitV1(channels, width, 2, 3), *(_UnitV1(width, width, 1, 3) for _ in range(count - 1))]
            setattr(self, f"layer{stage}", nn.Sequential(*units))
            channels = width
        self.linear = nn.Linear(960, num_classes)
        self.feature_dim = 960

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        taps = [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            *first, last = stage  # type: ignore[misc]
            for unit in first:
                x = unit(x)
            before = last.preact(x)
            x = torch.relu(before)
            taps.append(before if preact else x)
        pooled = mean_pool(x)
        return [*taps, pooled], self.linear(pooled)


class _BasicV2(nn.Module):
    """One half of the channels passes, the other is transformed; then a shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, 1, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.chunk(2, 1)
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(moved)))))
        before = self.bn3(self.conv3(out))
        joined = [torch.cat([kept, half], 1) for half in (torch.relu(before), before)]
        return shuffle(joined[0], 2), shuffle(joined[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


class _DownV2(nn.Module):
    """Both branches see all channels and halve the map."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half = c_out // 2
        self.conv1 = conv(c_in, c_in, 3, 2, c_in)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2 = conv(c_in, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(c_in, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, 2, half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(torch.relu(self.bn3(self.conv3(x)))))
        return shuffle(torch.cat([left, torch.relu(self.bn5(self.conv5(right)))], 1), 2)


class ShuffleV2(TappedNet):
    """ShuffleNet V2 1x.

    >>> sum(p.numel() for p in ShuffleV2().parameters())
    1355528
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = conv(3, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        channels = 24
        for stage, (width, count) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
            blocks = [_DownV2(channels, width), *(_BasicV2(width) for _ in range(count))]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            channels = width
        self.conv2 = conv(464, 1024, 1)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)
        self.feature_dim = 1024

    def forward_features(self, x: Tensor, preact: bool = False) -> tuple[list[Tensor], Tensor]:
        """See `TappedNet.forward_features`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        taps = [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            *first, last = stage  # type: ignore[misc]
            for block in first:
                x = block(x)
            x, before = last.both(x)
            taps.append(before if preact else x)
        pooled = mean_pool(torch.relu(self.bn2(self.conv2(x))))
        return [*taps, pooled], self.linear(pooled)
