"""A face parser whose labels make the content mask: BiSeNet with the context path alone.

The network reads the public file ``79999_iter.pth`` (CelebAMask-HQ, 19 classes), which the user brings. Everything that
takes a parser works without one.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_distill.features import State, fingerprint, read_state
from tenfold.io import load_strict

__all__ = ["FACE_CLASSES", "BiSeNet", "FaceParser"]

#: Class number -> name.
FACE_CLASSES = (
    *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses"),
    *("left ear", "right ear", "earring", "nose", "mouth", "upper lip", "lower lip", "neck"),
    *("necklace", "cloth", "hair", "hat"),
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _ConvUnit(nn.Module):
    def __init__(self, fan: int, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan, width, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, fan: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or fan != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(fan, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _stage(fan: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Residual(fan, width, stride), _Residual(width, width, 1))


class _ResNet18(nn.Module):
    """Maps at 1/8, 1/16 and 1/32 of the image: 128, 256 and 512 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = _stage(64, 64, 1), _stage(64, 128, 2)
        self.layer3, self.layer4 = _stage(128, 256, 2), _stage(256, 512, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class _Refinement(nn.Module):
    """3x3 to 128 channels, gated by its own spatial mean."""

    def __init__(self, fan: int, width: int) -> None:
        super().__init__()
        self.conv = _ConvUnit(fan, width)
        self.conv_atten = nn.Conv2d(width, width, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))))
        return x * gate


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16, self.arm32 = _Refinement(256, 128), _Refinement(512, 128)
        self.conv_head32, self.conv_head16 = _ConvUnit(128, 128), _ConvUnit(128, 128)
        self.conv_avg = _ConvUnit(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth, sixteenth, deep = self.resnet(x)
        overall = self.conv_avg(deep.mean((2, 3), keepdim=True))
        up32 = F.interpolate(self.arm32(deep) + overall, sixteenth.shape[2:], mode="nearest")
        up32 = self.conv_head32(up32)
        up16 = F.interpolate(self.arm16(sixteenth) + up32, eighth.shape[2:], mode="nearest")
        return eighth, self.conv_head16(up16), up32


class _Fusion(nn.Module):
    """Both paths to 256 channels, plus themselves gated."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvUnit(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.convblk(torch.cat((spatial, context), 1))
        gate = torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))))
        return x + x * gate


class _Output(nn.Module):
    def __init__(self, fan: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = _ConvUnit(fan, width)
        self.conv_out = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv_out(self.conv(x))
        return found


class BiSeNet(nn.Module):
    """Bilateral segmentation network without its spatial path: ResNet-18 at 1/8 takes that part.

    The three heads are those of training; the first one is the answer.

    Args:
        classes: of the labels.

    >>> BiSeNet()(torch.zeros(1, 3, 64, 64))[0].shape
    torch.Size([1, 19, 64, 64])
    """

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _Fusion()
        self.conv_out = _Output(256, 256, classes)
        self.conv_out16, self.conv_out32 = _Output(128, 64, classes), _Output(128, 64, classes)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 3, H, W)``, ImageNet-normalised, sides multiples of 32, to three ``(B, classes, H, W)``."""
        eighth, context, deep = self.cp(x)
        heads = (self.conv_out(self.ffm(eighth, context)), self.conv_out16(context), self.conv_out32(deep))
        first, second, third = (
            F.interpolate(head, x.shape[2:], mode="bilinear", align_corners=True) for head in heads
        )
        return first, second, third


class FaceParser(nn.Module):
    """Class scores of generated faces; what `ContentMask` reads.

    Args:
        weights: the public file ``79999_iter.pth``, or its state dict.
        side: of the image that the network sees, pixels.

    Raises:
        UserInputError: a missing or unfitting file.
    """

    def __init__(self, weights: str | Path | State, side: int = 512) -> None:
        super().__init__()
        self.net = BiSeNet()
        load_strict(self.net, dict(read_state(weights)), allow_missing=(r".*num_batches_tracked",))
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.side = side
        self.fingerprint = fingerprint(self.net)
        self.eval()

    def train(self, mode: bool = True) -> FaceParser:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [-1, 1] to scores ``(B, 19, side, side)``."""
        x = F.interpolate(images.float(), (self.side, self.side), mode="bilinear", align_corners=False)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        scores: Tensor = self.net(((x * 0.5 + 0.5).clamp(0, 1) - mean) / std)[0]
        return scores
