"""One refinement: proposals meet their pooled features, then each other, then predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsepoint.coders import stage_coder
from sparsepoint.config import SparsePointConfig

__all__ = ["ProposalInteraction", "RefineHead", "StageOutput", "box_position"]

_DYNAMIC_DIM = 64
_POSITION = 8


class ProposalInteraction(nn.Module):
    """A proposal's feature looks at the grid cells of its box.

    "gate": ``H = ReLU(LN(R * W f))`` per grid, flattened cell-major and projected, summed over the grids. "dynamic":
    the proposal makes two matrices that every cell passes through (Sparse R-CNN). "none": the cells alone.

    Source: SRDet's code (gate); Sparse R-CNN (2021), section 3.2 (dynamic).

    Args:
        dim: channels.
        grids: side of each grid.
        kind: see above.

    Example:
        >>> meet = ProposalInteraction(16, (1, 3))
        >>> meet(torch.rand(2, 5, 16), [torch.rand(2, 5, 1, 16), torch.rand(2, 5, 27, 16)]).shape
        torch.Size([2, 5, 16])
    """

    def __init__(
        self, dim: int, grids: Sequence[int], kind: Literal["gate", "dynamic", "none"] = "gate"
    ) -> None:
        super().__init__()
        self.kind, self.dim = kind, dim
        self.generate: nn.Linear | None = None
        if kind == "gate":
            self.generate = nn.Linear(dim, dim)
        elif kind == "dynamic":
            self.generate = nn.Linear(dim, 2 * dim * _DYNAMIC_DIM)
            self.inner_norms = nn.ModuleList(nn.LayerNorm(_DYNAMIC_DIM) for _ in grids)
        self.cell_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in grids)
        self.projections = nn.ModuleList(nn.Linear(side**3 * dim, dim) for side in grids)
        self.out_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in grids)

    def forward(self, feats: Tensor, pooled: Sequence[Tensor]) -> Tensor:
        """(B, K, dim) of proposals' features (B, K, dim) and pooled features (B, K, s^3, dim) of each grid."""
        made = None if self.generate is None else self.generate(feats)
        total = torch.zeros_like(feats)
        for number, cells in enumerate(pooled):
            mixed = self._mix(number, made, cells)
            hidden = torch.relu(self.cell_norms[number](mixed))
            total = total + torch.relu(self.out_norms[number](self.projections[number](hidden.flatten(2))))
        return total

    def _mix(self, number: int, made: Tensor | None, cells: Tensor) -> Tensor:
        if made is None:
            return cells
        if self.kind == "gate":
            return cells * made[:, :, None]
        first, second = made.chunk(2, -1)
        inner = cells @ first.unflatten(-1, (self.dim, _DYNAMIC_DIM))
        inner = torch.relu(self.inner_norms[number](inner))
        mixed: Tensor = inner @ second.unflatten(-1, (_DYNAMIC_DIM, self.dim))
        return mixed


class StageOutput(NamedTuple):
    """What a refinement predicts.

    Args:
        feats: (B, K, dim) for the next one.
        logits: (B, K, C).
        delta: (B, K, D) centre and size; D is 6, or what the box coder asks for.
        heading: (B, K, 2 * bins).
    """

    feats: Tensor
    logits: Tensor
    delta: Tensor
    heading: Tensor


def box_position(boxes: Tensor, low: Tensor, extent: Tensor) -> Tensor:
    """(B, K, 8): centre in units of the scene, logarithms of the sizes, sine and cosine of the yaw."""
    centre = (boxes[..., :3] - low[:, None]) / extent[:, None].clamp(min=1e-3)
    yaw = boxes[..., 6:]
    return torch.cat((centre, boxes[..., 3:6].clamp(min=1e-3).log(), yaw.sin(), yaw.cos()), -1)


class RefineHead(nn.Module):
    """Interaction, self-attention over the proposals of one scene, feed-forward, predictions: in this order.

    With one embedding for all proposals, attention first would see equal tokens. 3,188,634 parameters with 128
    channels, grids 1, 3, 5, 18 classes and one heading bin.

    Source: SRDet's code, with the options of `SparsePointConfig`.

    Args:
        config: the settings.
    """

    def __init__(self, config: SparsePointConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.interaction = ProposalInteraction(dim, config.grids, config.interaction)
        self.interaction_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(config.dropout)
        if config.attention:
            self.down, self.down_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
            self.attention = nn.MultiheadAttention(dim, config.heads, config.dropout, batch_first=True)
            self.up, self.up_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
            self.attention_norm = nn.LayerNorm(dim)
            if config.pos == "box":
                self.position = nn.Sequential(nn.Linear(_POSITION, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.ffn, dim)
        )
        self.ffn_norm = nn.LayerNorm(dim)
        self.cls_layers = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU())
        self.box_layers = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU())
        self.classify = nn.Linear(dim, config.num_classes)
        self.deltas = stage_coder(config).outputs
        self.regress = nn.Linear(dim, self.deltas + 2 * config.heading_bins)

    def forward(self, feats: Tensor, pooled: Sequence[Tensor], position: Tensor) -> StageOutput:
        """Refine features (B, K, dim) with pooled ones of each grid and positions (B, K, 8) of the boxes."""
        feats = self.interaction_norm(feats + self.drop(self.interaction(feats, pooled)))
        if self.config.attention:
            feats = self._attend(feats, position)
        feats = self.ffn_norm(feats + self.drop(self.ffn(feats)))
        logits = self.classify(self.cls_layers(feats))
        boxes = self.regress(self.box_layers(feats))
        return StageOutput(feats, logits, boxes[..., : self.deltas], boxes[..., self.deltas :])

    def _attend(self, feats: Tensor, position: Tensor) -> Tensor:
        seen = self.down_norm(self.down(feats))
        asked = seen + self.position(position) if self.config.pos == "box" else seen
        found, _ = self.attention(asked, asked, seen, need_weights=False)
        result: Tensor = self.attention_norm(feats + self.drop(self.up_norm(self.up(found))))
        return result
