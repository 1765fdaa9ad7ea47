"""Necks: from C2..C5 to one map of stride 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ttfnet.model.deform import DeformConv2dPack
from ttfnet.model.dla import bilinear_upsampler

__all__ = ["CenterNetNeck", "TTFNeck"]


def _neck_conv(op: str, inputs: int, outputs: int) -> nn.Module:
    if op == "dcnv2":
        return DeformConv2dPack(inputs, outputs)
    if op == "conv":
        return nn.Conv2d(inputs, outputs, 3, 1, 1)
    raise ValueError(f"neck_op: got {op!r}; expected 'dcnv2' or 'conv'")


def _shortcut(inputs: int, outputs: int, convs: int) -> nn.Sequential:
    """3x3 convolutions with ReLU between them and none after the last."""
    layers: list[nn.Module] = []
    for k in range(convs):
        conv = nn.Conv2d(inputs if k == 0 else outputs, outputs, 3, 1, 1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class TTFNeck(nn.Module):
    """``x = Up2(ReLU(BN(DCN(x)))) + shortcut(C)``, three times, from C5 to stride 4 (paper, section 3).

    Args:
        in_channels: of C2 to C5.
        channels: after each step.
        shortcuts: convolutions of the shortcuts from C4, C3 and C2; 0 or a missing entry means none.
        op: ``"dcnv2"``, or ``"conv"`` for plain convolutions.
        align_corners: of the bilinear up-sampling; True is the official choice.

    Raises:
        ValueError: an unknown ``op``, or more shortcuts than steps.

    Example:
        >>> import torch
        >>> maps = [torch.zeros(1, c, 16 // 2**k, 16 // 2**k) for k, c in enumerate((64, 128, 256, 512))]
        >>> TTFNeck((64, 128, 256, 512))(maps).shape
        torch.Size([1, 64, 16, 16])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] = (256, 128, 64),
        shortcuts: Sequence[int] = (1, 2, 3),
        op: str = "dcnv2",
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) != 3 or len(shortcuts) > 3 or min(shortcuts, default=0) < 0:
            raise ValueError(
                f"TTFNeck: channels, shortcuts: got {tuple(channels)}, {tuple(shortcuts)}; expected three "
                "widths, and up to three numbers of convolutions"
            )
        widths = [in_channels[-1], *channels]
        self.convs = nn.ModuleList(_neck_conv(op, a, b) for a, b in zip(widths[:-1], channels, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.relu = nn.ReLU(inplace=True)
        self.up = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=align_corners)
        lateral = list(reversed(in_channels[:-1]))
        self.shortcuts = nn.ModuleList(
            _shortcut(lateral[k], channels[k], n) for k, n in enumerate(shortcuts) if n
        )
        self._places = [k for k, n in enumerate(shortcuts) if n]
        self.out_channels = channels[-1]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """``(B, channels[-1], H/4, W/4)`` of the backbone's four maps."""
        x = maps[-1]
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = self.up(self.relu(norm(conv(x))))
            if k in self._places:
                x = x + self.shortcuts[self._places.index(k)](maps[2 - k])
        return x


class CenterNetNeck(nn.Module):
    """CenterNet's residual-network neck: deformable and transposed convolutions, no shortcuts.

    Args:
        in_channels: of C2 to C5; only C5 is used.
        channels: after each step.
        op: ``"dcnv2"`` or ``"conv"``.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: Sequence[int] = (256, 128, 64), op: str = "dcnv2"
    ) -> None:
        super().__init__()
        steps = []
        for a, b in zip([in_channels[-1], *channels[:-1]], channels, strict=True):
            up = nn.ConvTranspose2d(b, b, 4, 2, 1, bias=False)
            # At first every channel is up-sampled by itself.
            up.weight.data.zero_()
            diagonal = torch.arange(b)
            up.weight.data[diagonal, diagonal] = bilinear_upsampler(b, 2).weight.data[:, 0]
            steps += [_neck_conv(op, a, b), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
            steps += [up, nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.steps = nn.Sequential(*steps)
        self.out_channels = channels[-1]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """``(B, channels[-1], H/4, W/4)`` of the backbone's four maps."""
        out: Tensor = self.steps(maps[-1])
        return out
