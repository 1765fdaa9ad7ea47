"""Where the cells of a bird's-eye feature map lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BevGrid"]


@dataclass(frozen=True)
class BevGrid:
    """A map of square cells in the LiDAR frame: row i lies along y, column j along x.

    Args:
        x_min: lower border along x, metres.
        y_min: lower border along y, metres.
        cell: side of a cell, metres.
        height: rows.
        width: columns.

    Raises:
        ValueError: a size that is not positive.

    Example:
        >>> BevGrid(0.0, -1.0, 0.5, height=4, width=2).centres()
        (tensor([0.2500, 0.7500]), tensor([-0.7500, -0.2500,  0.2500,  0.7500]))
    """

    x_min: float
    y_min: float
    cell: float
    height: int
    width: int

    def __post_init__(self) -> None:
        if not self.cell > 0 or self.height < 1 or self.width < 1:
            raise ValueError(
                f"BevGrid: cell, height, width: got {self.cell}, {self.height}, {self.width}; "
                "expected positive numbers"
            )

    def centres(self, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Centres of the columns (W,) along x and of the rows (H,) along y, metres; dtype and device of `like`."""
        options = {} if like is None else {"dtype": like.dtype, "device": like.device}
        x = (torch.arange(self.width, **options) + 0.5) * self.cell + self.x_min  # type: ignore[call-overload]
        y = (torch.arange(self.height, **options) + 0.5) * self.cell + self.y_min  # type: ignore[call-overload]
        return x, y
