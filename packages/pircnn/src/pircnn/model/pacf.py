"""Point-based attentive continuous-convolution fusion (PACF): image features of a point's neighbours in 3D.

Named after the paper's abstract; equations after the official code (`pcdet/models/fuse_module/cont_conv.py`), whose
kernel network has no activation, which makes its whole fusion one affine map of neighbour sums. Here it has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tenfold.ops import knn

__all__ = ["PACF", "PointImageFusion", "PointPainting", "neighbours"]


@torch.no_grad()
def neighbours(xyz: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """The k nearest points of every point in its own frame, itself included, nearest first.

    Equal distances go to the lower index, so of points in one place the first is found first. Where a frame has
    fewer than k points, the point itself fills up.

    Args:
        xyz: (B, N, 3) metres.
        k: 1 to 64.
        valid: (B, N) bool; other points are nobody's neighbours, and are their own.

    Returns:
        (B, N, k) int64 rows of the frame.

    Example:
        >>> neighbours(torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [5.0, 0, 0]]]), 2).tolist()
        [[[0, 1], [1, 0], [2, 1]]]
    """
    frames, number = xyz.shape[:2]
    own = torch.arange(number, device=xyz.device).view(1, -1, 1)
    if valid is None:
        found = knn(xyz.float().contiguous(), xyz.float().contiguous(), k)[1].long()
        return torch.where(found < 0, own, found)
    counts = valid.sum(1)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    frame, row = valid.nonzero(as_tuple=True)
    stacked = xyz[frame, row].float().contiguous()
    among = knn(stacked, stacked, k, offsets=offsets, query_offsets=offsets)[1].long()
    rows = torch.where(among < 0, row[:, None], row[among.clamp(min=0)])
    result = own.expand(frames, number, k).clone()
    result[frame, row] = rows
    return result


def _gather(values: Tensor, idx: Tensor) -> Tensor:
    """Rows (B, N, K, C) of values (B, N, C)."""
    frames = torch.arange(len(values), device=values.device).view(-1, 1, 1)
    return values[frames, idx]


def _kernel(widths: Sequence[int], activation: str | None, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(c_in, c_out))
        if number < len(widths) - 2:
            if norm:
                layers.append(nn.LayerNorm(c_out))
            if activation == "relu":
                layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class PACF(nn.Module):
    """Fuses the image features of each point's K nearest neighbours into point features.

    With ``z_ik = [f_k, x_k - x_i]`` and ``h_ik = MLP(z_ik)``: continuous convolution ``sum_k h_ik``, point-pooling
    ``max_k f_k``, attentive aggregation ``sum_k a_k h_ik + b``; a linear map of what is switched on, in this order.

    Args:
        in_channels: C of image features.
        out_channels: of the result and of the kernel network.
        k: neighbours, the point itself included.
        hidden: widths of the kernel network.
        point_pooling: switches that part.
        attention: "rank" (weights of the first, second, ... neighbour, shared by all points), "content" (softmax of a
            network that sees f_k, the offset and f_i), or None.
        activation: of the kernel network's hidden layers: "relu", or None as released.
        norm: LayerNorm before the activations.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> pacf = PACF(10)
        >>> pacf(torch.rand(2, 50, 10), torch.rand(2, 50, 3)).shape
        torch.Size([2, 50, 128])
        >>> [sum(p.numel() for p in part.parameters()) for part in (pacf.kernel, pacf.attend, pacf.merge)]
        [10880, 4, 34176]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 128,
        k: int = 3,
        hidden: Sequence[int] = (32, 64),
        point_pooling: bool = True,
        attention: Literal["rank", "content"] | None = "rank",
        activation: Literal["relu"] | None = "relu",
        norm: bool = False,
    ) -> None:
        super().__init__()
        if k < 1 or min(in_channels, out_channels, *hidden) < 1:
            raise ValueError("PACF: k, in_channels, out_channels, hidden: got a number below 1")
        if attention not in ("rank", "content", None):
            raise ValueError(f"PACF: attention: got {attention!r}; expected 'rank', 'content' or None")
        if activation not in ("relu", None):
            raise ValueError(f"PACF: activation: got {activation!r}; expected 'relu' or None")
        self.in_channels, self.out_channels, self.k = in_channels, out_channels, k
        self.point_pooling, self.attention = point_pooling, attention
        self.kernel = _kernel((in_channels + 3, *hidden, out_channels), activation, norm)
        self.attend: nn.Module | None = None
        if attention == "rank":
            self.attend = nn.Linear(k, 1)
        elif attention == "content":
            self.attend = _kernel((2 * in_channels + 3, hidden[0], 1), "relu", norm)
        width = out_channels * (1 + (attention is not None)) + in_channels * point_pooling
        self.merge = nn.Linear(width, out_channels)

    def forward(
        self, feats: Tensor, xyz: Tensor, valid: Tensor | None = None, knn_idx: Tensor | None = None
    ) -> Tensor:
        """Fused features (B, N, out_channels) of image features (B, N, C) at points (B, N, 3).

        Args:
            feats: of each point, 0 where the camera does not see it.
            xyz: metres; takes no gradient.
            valid: (B, N) bool; padding is nobody's neighbour.
            knn_idx: (B, N, k) neighbours, where they are known already.

        Raises:
            ValueError: shapes that do not fit.
        """
        if feats.ndim != 3 or feats.shape[2] != self.in_channels or xyz.shape != (*feats.shape[:2], 3):
            raise ValueError(
                f"PACF: feats, xyz: got {tuple(feats.shape)} and {tuple(xyz.shape)}; expected "
                f"(B, N, {self.in_channels}) and (B, N, 3)"
            )
        idx = neighbours(xyz, self.k, valid) if knn_idx is None else knn_idx
        if idx.shape != (*feats.shape[:2], self.k):
            raise ValueError(f"PACF: knn_idx: got {tuple(idx.shape)}; expected (B, N, {self.k})")
        own = _gather(feats, idx)
        offset = (_gather(xyz.detach(), idx) - xyz.detach()[:, :, None]).to(feats.dtype)
        h = self.kernel(torch.cat((own, offset), -1))
        parts = [h.sum(2)]
        if self.point_pooling:
            parts.append(own.amax(2))
        if isinstance(self.attend, nn.Linear):
            parts.append(self.attend(h.transpose(2, 3))[..., 0])
        elif self.attend is not None:
            seen = torch.cat((own, offset, feats[:, :, None].expand_as(own)), -1)
            parts.append((self.attend(seen).softmax(2) * h).sum(2))
        merged: Tensor = self.merge(torch.cat(parts, -1))
        return merged


class PointPainting(nn.Module):
    """The single-point baseline: a linear map of a point's own image features.

    Args:
        in_channels: C of image features.
        out_channels: of the result.
    """

    k = 1

    def __init__(self, in_channels: int, out_channels: int = 128) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.merge = nn.Linear(in_channels, out_channels)

    def forward(
        self, feats: Tensor, xyz: Tensor, valid: Tensor | None = None, knn_idx: Tensor | None = None
    ) -> Tensor:
        """As `PACF.forward`; only `feats` is looked at."""
        result: Tensor = self.merge(feats)
        return result


class PointImageFusion(nn.Module):
    """Point features of any network, fused with image features at the same points.

    ``add``: ``W g + y``; ``concat``: ``[W g, y]``, with y of `PACF` or `PointPainting`.

    Args:
        point_channels: of the point features.
        fuse: `PACF`, `PointPainting`, or a module with the same call, whose ``out_channels`` must equal
            `point_channels` for "add".
        combine: "add" or "concat".

    Raises:
        ValueError: an unknown way to combine, or widths that do not fit.

    Example:
        >>> fusion = PointImageFusion(128, PACF(10))
        >>> fusion(torch.rand(1, 9, 128), torch.rand(1, 9, 10), torch.rand(1, 9, 3)).shape
        torch.Size([1, 9, 128])
    """

    def __init__(
        self, point_channels: int, fuse: PACF | PointPainting, combine: Literal["add", "concat"] = "add"
    ) -> None:
        super().__init__()
        if combine not in ("add", "concat"):
            raise ValueError(f"PointImageFusion: combine: got {combine!r}; expected 'add' or 'concat'")
        if combine == "add" and fuse.out_channels != point_channels:
            raise ValueError(
                f"PointImageFusion: fuse: gives {fuse.out_channels} channels; expected {point_channels} for 'add'"
            )
        self.combine = combine
        self.out_channels = point_channels + fuse.out_channels * (combine == "concat")
        self.own = nn.Linear(point_channels, point_channels)
        self.fuse = fuse

    def forward(self, points: Tensor, feats: Tensor, xyz: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fused features (B, N, out_channels).

        Args:
            points: (B, N, point_channels).
            feats: (B, N, C) image features, 0 where the camera does not see a point.
            xyz: (B, N, 3) metres.
            valid: (B, N) bool, False for padding.
        """
        own, image = self.own(points), self.fuse(feats, xyz, valid)
        fused: Tensor = own + image if self.combine == "add" else torch.cat((own, image), -1)
        return fused
