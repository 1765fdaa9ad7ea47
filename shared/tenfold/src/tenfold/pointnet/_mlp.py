"""The multi-layer perceptron that PointNet applies to every point alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

__all__ = ["SharedMLP"]


class SharedMLP(nn.Sequential):
    """[Linear, BatchNorm, ReLU] for each layer, on the last axis of (..., C).

    The normalisation's statistics run over all leading axes, as those of a 1x1 convolution on (B, C, M, k).
    The keys are those of a Sequential of such convolutions (``0.weight``, ``1.weight``, ``1.running_mean``,
    ``3.weight`` ...), and convolution weights (C_out, C_in, 1) or (C_out, C_in, 1, 1) load as they are.

    Args:
        channels: of the input and of every layer, at least two.
        bn: normalise; without it the linear layers have a bias.
        eps: of the normalisation.
        momentum: of the normalisation, in torch's meaning.
        last_activation: False leaves the last layer without its ReLU.

    Raises:
        ValueError: fewer than two numbers of channels, or one that is not positive.

    Example:
        >>> import torch
        >>> from tenfold.pointnet import SharedMLP
        >>> mlp = SharedMLP([4, 16, 32])
        >>> mlp(torch.rand(2, 10, 8, 4)).shape
        torch.Size([2, 10, 8, 32])
        >>> list(mlp.state_dict())[:3]
        ['0.weight', '1.weight', '1.bias']
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        bn: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        last_activation: bool = True,
    ) -> None:
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(
                f"SharedMLP: channels: got {list(channels)}; expected two or more positive numbers"
            )
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            layers.append(nn.Linear(c_in, c_out, bias=not bn))
            if bn:
                layers.append(nn.BatchNorm1d(c_out, eps=eps, momentum=momentum))
            layers.append(nn.ReLU())
        super().__init__(*(layers if last_activation else layers[:-1]))
        self.in_channels, self.out_channels = channels[0], channels[-1]
        self.register_load_state_dict_pre_hook(_convolutions_to_linear)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, *, begun: bool = False, activate: bool = True) -> Tensor:  # type: ignore[override]
        """Map (..., C_in) to (..., C_out).

        Args:
            x: (..., C_in).
            begun: ``x`` is (..., C_1), what the first linear layer makes of the input.
            activate: False leaves out the last ReLU, where there is one.
        """
        layers = list(self)[1 if begun else 0 :]
        if not activate and isinstance(layers[-1], nn.ReLU):
            layers.pop()
        rows = x.reshape(-1, x.shape[-1])
        for layer in layers:
            rows = layer(rows)
        return rows.reshape(*x.shape[:-1], self.out_channels)


def _convolutions_to_linear(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop the kernel axes of 1x1 convolution weights."""
    for name, layer in module.named_children():
        key = f"{prefix}{name}.weight"
        weight = state.get(key)
        if not isinstance(layer, nn.Linear) or weight is None or weight.dim() <= 2:
            continue
        if all(size == 1 for size in weight.shape[2:]):
            state[key] = weight.reshape(weight.shape[:2])
