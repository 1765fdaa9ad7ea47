"""Small blocks that heads share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Method = TypeVar("Method", bound=Callable[..., Any])


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of rows; fewer than two rows have no variance and use the running one."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C)."""
        if self.training and x.shape[0] > 1:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        # Written out, because torch's operator cannot be exported for a number of rows that depends on data.
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return torch.addcmul(self.bias - self.running_mean * scale, x, scale)


def full_precision(method: Method) -> Method:
    """Run a method of a module without autocast.

    Of a detector only the dense bird's-eye half profits from half precision; points and voxels lose
    centimetres and overflow in it.
    """

    @wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kind = next(self.parameters()).device.type
        if not torch.is_autocast_enabled(kind):
            return method(self, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return method(self, *args, **kwargs)

    return cast(Method, run)


def fc_block(c_in: int, c_out: int) -> list[nn.Module]:
    """Linear layer without bias, normalisation, ReLU."""
    return [nn.Linear(c_in, c_out, bias=False), RowNorm(c_out), nn.ReLU()]


def fc_layers(c_in: int, widths: Sequence[int], c_out: int, *, dropout: float | None = None) -> nn.Sequential:
    """Blocks of these widths, then a linear layer.

    Args:
        c_in: input width.
        widths: of the blocks.
        c_out: output width.
        dropout: probability behind the first block; None leaves it out.
    """
    parts: list[nn.Module] = []
    for number, width in enumerate(widths):
        parts += fc_block(c_in, width)
        c_in = width
        if dropout is not None and number == 0:
            parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(c_in, c_out))


def shared_layers(c_in: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Blocks of these widths with dropout between them."""
    parts: list[nn.Module] = []
    for number, width in enumerate(widths):
        parts += fc_block(c_in, width)
        c_in = width
        if dropout > 0 and number < len(widths) - 1:
            parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts)
