"""The paper's networks (Lyu et al. 2021, appendix B.1), with PyTorch's default initialisation.

| name | layers | parameters |
|---|---|---|
| `dm_small` | conv 16 (4, stride 2), conv 32 (4), 100, 10 | 329,606 on MNIST |
| `dm_medium` | conv 32 (3), 32 (4, stride 2), 64 (3), 64 (4, stride 2), 512, 512, 10 | 893,418 on MNIST |
| `dm_large` | conv 64, 64, 128 (stride 2), 128, 128, all 3 with padding 1, 512, 10 | 13,257,290; CIFAR 17,190,602 |
| `dm_large4` | the same with one conv 128 fewer | |
| `small_mnist` | conv 16 (3), 16 (4, s 2), 32 (3), 32 (4, s 2), 512, 512, 10 | 1,096,442 |
| `small_cifar` | conv 64 (3), 64 (3, s 2), 512, 10 | 8,432,970 |
| `cnn7` | conv 64, 64, 128 (s 2), 128, 128 (s 2 on 56 pixels), each with BatchNorm; 512, classes | 13,356,936 Tiny |
| `wide_resnet` | stem 16, wide blocks 160, 320, 640; average pool 7; classes | 7,944,520 Tiny |

ParamRamp ties a network to its input size; `build_model` makes the activations for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bound_prop.nn import Normalize, convert_activations

__all__ = [
    "MODELS",
    "build_model",
    "cnn7",
    "dm_large",
    "dm_large4",
    "dm_medium",
    "dm_small",
    "glyph_net",
    "mlp",
    "small_cifar",
    "small_mnist",
    "wide_resnet",
]

Shape = tuple[int, int, int]
#: (filters, kernel, stride, padding)
ConvSpec = tuple[int, int, int, int]


def _plain(
    shape: Shape, convs: Sequence[ConvSpec], hidden: Sequence[int], classes: int, batch_norm: bool = False
) -> nn.Sequential:
    """Convolutions and fully connected layers, each followed by an activation but the last."""
    layers: list[nn.Module] = []
    channels, height, width = shape
    for filters, kernel, stride, padding in convs:
        layers.append(nn.Conv2d(channels, filters, kernel, stride, padding))
        if batch_norm:
            layers.append(nn.BatchNorm2d(filters))
        layers.append(nn.ReLU())
        channels = filters
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    layers.append(nn.Flatten())
    features = channels * height * width
    for size in hidden:
        layers += [nn.Linear(features, size), nn.ReLU()]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, classes))


def dm_small(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """DM-Small."""
    return _plain(shape, [(16, 4, 2, 0), (32, 4, 1, 0)], [100], classes)


def dm_medium(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """DM-Medium."""
    convs = [(32, 3, 1, 0), (32, 4, 2, 0), (64, 3, 1, 0), (64, 4, 2, 0)]
    return _plain(shape, convs, [512, 512], classes)


_LARGE = [(64, 3, 1, 1), (64, 3, 1, 1), (128, 3, 2, 1), (128, 3, 1, 1), (128, 3, 1, 1)]


def dm_large(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """DM-Large."""
    return _plain(shape, _LARGE, [512], classes)


def dm_large4(shape: Shape = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """DM-Large with four convolutions, with which DeepMind's best CIFAR-10 figures were made."""
    return _plain(shape, _LARGE[:4], [512], classes)


def small_mnist(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """The small MNIST network of the timing table."""
    convs = [(16, 3, 1, 1), (16, 4, 2, 1), (32, 3, 1, 1), (32, 4, 2, 1)]
    return _plain(shape, convs, [512, 512], classes)


def small_cifar(shape: Shape = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """The small CIFAR-10 network of the timing table."""
    return _plain(shape, [(64, 3, 1, 1), (64, 3, 2, 1)], [512], classes)


def cnn7(shape: Shape = (3, 56, 56), classes: int = 200) -> nn.Sequential:
    """CNN-7 with BatchNorm after each convolution: two strided ones for 56 pixels, one for smaller images."""
    last = 2 if shape[1] >= 56 else 1
    return _plain(shape, [*_LARGE[:4], (128, 3, last, 1)], [512], classes, batch_norm=True)


def glyph_net(shape: Shape = (1, 14, 14), classes: int = 10) -> nn.Sequential:
    """The demo's network: conv 8 (4, stride 2), conv 16 (3), 50, 10."""
    return _plain(shape, [(8, 4, 2, 0), (16, 3, 1, 0)], [50], classes)


def mlp(shape: Shape = (1, 28, 28), classes: int = 10, hidden: Sequence[int] = (256, 256)) -> nn.Sequential:
    """Fully connected layers."""
    return _plain(shape, [], hidden, classes)


class _WideBlock(nn.Module):
    """BN, activation, conv 3x3, BN, activation, conv 3x3 with stride; plus the input, by a 1x1 conv if needed."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(inputs), nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.bn2, self.act2 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.act1(self.bn1(x)))
        out = self.conv2(self.act2(self.bn2(out)))
        result: Tensor = out + self.shortcut(x)
        return result


def wide_resnet(shape: Shape = (3, 56, 56), classes: int = 200) -> nn.Sequential:
    """Wide residual network with widths 160, 320, 640 and strides 1, 2, 2."""
    size = shape[1] // 4 // 7
    blocks = [_WideBlock(16, 160, 1), _WideBlock(160, 320, 2), _WideBlock(320, 640, 2)]
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, 1, 1),
        *blocks,
        nn.BatchNorm2d(640),
        nn.ReLU(),
        nn.AvgPool2d(7),
        nn.Flatten(),
        nn.Linear(640 * size * size, classes),
    )


MODELS: dict[str, Callable[..., nn.Sequential]] = {
    "dm_small": dm_small,
    "dm_medium": dm_medium,
    "dm_large": dm_large,
    "dm_large4": dm_large4,
    "small_mnist": small_mnist,
    "small_cifar": small_cifar,
    "cnn7": cnn7,
    "wide_resnet": wide_resnet,
    "glyph_net": glyph_net,
    "mlp": mlp,
}


def build_model(
    name: str,
    shape: Shape,
    classes: int,
    *,
    activation: Literal["relu", "leaky_relu", "param_ramp"] = "relu",
    eta: float = 0.0,
    per_channel: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """One of the networks with its activations, and normalisation as the first layer where asked for.

    Raises:
        ValueError: an unknown name or activation.

    >>> sum(p.numel() for p in build_model("dm_small", (1, 28, 28), 10).parameters())
    329606
    """
    if name not in MODELS:
        raise ValueError(f"build_model: name: got {name!r}; expected one of {', '.join(MODELS)}")
    model: nn.Module = MODELS[name](shape, classes, **options)
    if activation != "relu":
        example = torch.zeros(1, *shape)
        convert_activations(model, activation, example_input=example, eta=eta, per_channel=per_channel)
    if mean is not None and std is not None:
        model = nn.Sequential(Normalize(mean, std), *model.children())
    return model
