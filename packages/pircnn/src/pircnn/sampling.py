"""Image features at projected points."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tenfold.ops import bilinear_sample

__all__ = ["MODES", "sample_image_features"]

MODES = ("bilinear", "nearest", "floor")


def sample_image_features(
    feat: Tensor,
    uv: Tensor,
    valid: Tensor | None = None,
    mode: Literal["bilinear", "nearest", "floor"] = "bilinear",
) -> Tensor:
    """Read a feature map at pixel positions; whole numbers are pixel centres.

    A point counts when 0 <= u < W and 0 <= v < H; others, and those that are not `valid`, get 0. Behind the last
    column or row the last one is read.

    Args:
        feat: (B, C, H, W).
        uv: (B, N, 2) column and row, pixels of `feat`.
        valid: (B, N) bool; None takes all points inside the map.
        mode: "bilinear"; "nearest", rounded; "floor", cut off, as the official code does.

    Returns:
        (B, N, C). The gradient reaches `feat`.

    Raises:
        ValueError: wrong shapes, or an unknown mode.

    Example:
        >>> feat = torch.arange(6.0).view(1, 1, 2, 3)
        >>> uv = torch.tensor([[[0.5, 0.5], [2.5, 1.0], [-0.1, 0.0]]])
        >>> sample_image_features(feat, uv).flatten().tolist()
        [2.0, 5.0, 0.0]
    """
    op = "sample_image_features"
    if feat.ndim != 4 or uv.ndim != 3 or uv.shape[0] != feat.shape[0] or uv.shape[2] != 2:
        raise ValueError(
            f"{op}: feat, uv: got {tuple(feat.shape)} and {tuple(uv.shape)}; expected (B, C, H, W) and (B, N, 2)"
        )
    if mode not in MODES:
        raise ValueError(f"{op}: mode: got {mode!r}; expected one of {', '.join(MODES)}")
    if valid is not None and valid.shape != uv.shape[:2]:
        raise ValueError(f"{op}: valid: got {tuple(valid.shape)}; expected {tuple(uv.shape[:2])}")
    height, width = feat.shape[-2:]
    size = uv.new_tensor((width, height))
    inside = ((uv >= 0) & (uv < size)).all(-1)
    if valid is not None:
        inside = inside & valid
    where = torch.where(inside[..., None], uv, 0)
    if mode != "bilinear":
        where = torch.floor(where + 0.5) if mode == "nearest" else torch.floor(where)
    return bilinear_sample(feat, where.contiguous(), inside, border="clamp")
