"""The two small experiments behind the claim.

The *mechanism test* asks whether offsets made of boundary proposals put the sampling point of a rotated object's
interior pixels on the edge that holds the evidence. The *detection experiment* asks what that brings a tiny
detector on generated scenes, auxiliary supervision and sampling apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denfi.data import EdgeMaps, edge_maps, scene_batch
from denfi.model import DenfiConv, DenfiDet, SeparableConv, sample_shifted
from denfi.model.denfi import DenfiHead
from denfi.recipe import parameter_groups
from denfi.targets import boundary_targets
from tenfold.lidar.evaluation import BoxEvaluated, evaluate
from tenfold.lidar.frames import Objects
from tenfold.train.schedules import decoupled_adam, one_cycle_schedule

__all__ = [
    "DETECTION",
    "MECHANISM",
    "EdgeReader",
    "Mechanism",
    "measure_detection",
    "measure_mechanism",
    "read_edges",
]

# ---- mechanism -----------------------------------------------------------------------------------

_STEPS, _BATCH, _LR, _HELD_OUT = 600, 8, 1e-2, 160
# Maps are made for so many steps at a time.
_CHUNK = 20
# Depth-wise filters of each of the four channels, and channels in all.
_FILTERS, _WIDTH = 4, 16
_NEAR = 1.5


@dataclass(frozen=True)
class Mechanism:
    """One arm of the mechanism test.

    Args:
        offsets: from where: "none", "features", "raw" or "geometric" proposals.
        shuffled: proposals of other pixels of the same map.
        std: of the offset layer's first weights.
        headings: "rotated" or "axis".
        steps: of Adam, each on eight new maps.
    """

    offsets: Literal["none", "features", "raw", "geometric"] = "geometric"
    shuffled: bool = False
    std: float = 0.1
    headings: Literal["rotated", "axis"] = "rotated"
    steps: int = _STEPS


#: Name -> arm. "edge" arms differ in nothing but where the offsets come from.
MECHANISM: dict[str, Mechanism] = {
    "edge-geometric": Mechanism(),
    "edge-raw": Mechanism("raw"),
    "edge-shuffled": Mechanism(shuffled=True),
    "edge-raw-shuffled": Mechanism("raw", shuffled=True),
    "edge-dsc": Mechanism("none"),
    "edge-self": Mechanism("features"),
    "edge-geometric-short": Mechanism(steps=_STEPS // 2),
    "edge-geometric-zero": Mechanism(std=0.0),
    "edge-raw-zero": Mechanism("raw", std=0.0),
    "edge-axis-geometric": Mechanism(headings="axis"),
    "edge-axis-raw": Mechanism("raw", headings="axis"),
    "edge-axis-shuffled": Mechanism(shuffled=True, headings="axis"),
    "edge-axis-dsc": Mechanism("none", headings="axis"),
}


class _SelfGuided(SeparableConv):
    """The same convolutions; a 3x3 convolution of the features makes the offset."""

    def __init__(self, channels: int, std: float) -> None:
        super().__init__(channels, norm="none")
        self.offset = nn.Conv2d(channels, 2, 3, padding=1)
        nn.init.normal_(self.offset.weight, std=std)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.last_offset: Tensor | None = None

    def forward(self, feat: Tensor, proposals: Tensor | None = None) -> Tensor:
        offset = self.offset(feat)
        self.last_offset = offset.detach()
        return F.relu(self.pointwise(sample_shifted(self.depthwise(feat), offset)))


class EdgeReader(nn.Module):
    """One refinement of the features and a 1x1 convolution that tells the class: all that the test trains.

    Args:
        arm: where the offsets come from.
    """

    def __init__(self, arm: Mechanism) -> None:
        super().__init__()
        self.arm = arm
        if arm.offsets == "none":
            self.refine: Any = SeparableConv(_WIDTH, norm="none")
        elif arm.offsets == "features":
            self.refine = _SelfGuided(_WIDTH, arm.std)
        else:
            self.refine = DenfiConv(_WIDTH, offset_encoding=arm.offsets, norm="none", offset_std=arm.std)
        self.classify = nn.Conv2d(_WIDTH, 1, 1)

    def forward(self, maps: EdgeMaps, generator: torch.Generator) -> Tensor:
        """Logits (N, 40, 40)."""
        proposals = maps.proposals
        if self.arm.shuffled:
            order = torch.randperm(proposals[0, 0].numel(), generator=generator)
            proposals = proposals.flatten(2)[..., order].view_as(proposals)
        feat = maps.feat.repeat(1, _FILTERS, 1, 1)
        logits: Tensor = self.classify(self.refine(feat, proposals))[:, 0]
        return logits

    def offsets(self, maps: EdgeMaps) -> Tensor:
        """(N, 2, 40, 40) rows and columns of the last call; zero where nothing moves."""
        last = getattr(self.refine, "last_offset", None)
        return torch.zeros_like(maps.feat[:, :2]) if last is None else last


@dataclass(frozen=True, eq=False)
class EdgeRun:
    """A trained reader, its held-out maps, and what it says of them."""

    reader: EdgeReader
    maps: EdgeMaps
    offsets: Tensor
    numbers: dict[str, float]


def read_edges(arm: Mechanism, seed: int, on_step: Callable[[int], None] = lambda step: None) -> EdgeRun:
    """Train a reader, and measure it on held-out maps.

    Args:
        arm: what to train.
        seed: of maps and weights; maps are the same in all arms of a seed.
        on_step: called with the number of steps taken.
    """
    torch.manual_seed(seed)
    reader = EdgeReader(arm)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(reader.parameters(), lr=_LR)
    for step in range(arm.steps):
        chunk, place = divmod(step, _CHUNK)
        if place == 0:
            train = edge_maps(_CHUNK * _BATCH, 1000 * seed + 1 + chunk, arm.headings)
        maps = train.part(slice(place * _BATCH, (place + 1) * _BATCH))
        logits, known = reader(maps, generator), maps.labels >= 0
        loss = F.binary_cross_entropy_with_logits(logits[known], maps.labels[known].float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        on_step(step + 1)
    held_out = edge_maps(_HELD_OUT, 1000 * seed, arm.headings)
    with torch.no_grad():
        logits = reader(held_out, generator)
    offsets = reader.offsets(held_out)
    known = held_out.labels >= 0
    right = ((logits > 0) == (held_out.labels == 1))[known]
    numbers = {"accuracy": 100 * right.float().mean().item(), **_reach(held_out, offsets)}
    return EdgeRun(reader.eval(), held_out, offsets, numbers)


def _reach(maps: EdgeMaps, offsets: Tensor) -> dict[str, float]:
    """How far interior pixels and their sampling points are from their object's front edge."""
    theta, half_l, half_w = (maps.boxes[..., k, None, None] * f for k, f in ((4, 1.0), (2, 0.5), (3, 0.5)))
    u, v = maps.frames.unbind(2)
    rows, columns = offsets[:, :1], offsets[:, 1:]
    moved_u = u + columns * theta.cos() + rows * theta.sin()
    moved_v = v + rows * theta.cos() - columns * theta.sin()
    own = (u.abs() <= half_l) & (v.abs() <= half_w) & (maps.labels >= 0)[:, None]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return torch.hypot(a - half_l, (b.abs() - half_w).clamp(min=0))[own]

    before, after = distance(u, v), distance(moved_u, moved_v)
    return {
        "on edge, %": 100 * (after <= _NEAR).float().mean().item(),
        "pixel on edge, %": 100 * (before <= _NEAR).float().mean().item(),
        "cells to edge": after.mean().item(),
        "pixel's cells to edge": before.mean().item(),
        "shift, cells": offsets.norm(dim=1)[maps.labels >= 0].mean().item(),
    }


def measure_mechanism(name: str, seed: int) -> dict[str, float]:
    """One cell of the mechanism test."""
    return read_edges(MECHANISM[name], seed).numbers


# ---- detection -----------------------------------------------------------------------------------

_DETECTION_STEPS, _SCENES, _EVALUATED = 600, 8, 100
_PEAK_LR, _OFFSET_LR, _DECAY, _CLIP = 4e-3, 2e-2, 0.01, 10.0
#: Arms of the detection experiment: names of `denfi.VARIANTS` behind "bev-".
DETECTION = (
    "bev-dsc",
    "bev-dsc+dbpm",
    "bev-denfi",
    "bev-denfi-geo",
    "bev-denfi-shuffled",
    "bev-denfi-geo-shuffled",
    "bev-base",
    "bev-denfi-oracle",
)


def train_detector(
    variant: str, seed: int, steps: int = _DETECTION_STEPS, on_step: Callable[[int], None] = lambda step: None
) -> tuple[DenfiDet, list[float]]:
    """`denfidet_tiny` trained on generated scenes, and its losses; scenes are the same in all arms of a seed."""
    torch.manual_seed(seed)
    model = DenfiDet.from_config("denfidet_tiny", variant)
    for module in model.modules():
        # Some hundred steps: statistics with the recipes' momentum of 0.01 would lag behind.
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    optimizer = decoupled_adam(parameter_groups(model, _PEAK_LR, _DECAY, _OFFSET_LR), lr=_PEAK_LR)  # type: ignore[arg-type]
    schedule = one_cycle_schedule(optimizer, steps)
    losses = []
    model.train()
    for step in range(steps):
        batch = scene_batch([(seed, 0, step * _SCENES + k) for k in range(_SCENES)])
        loss = model(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        on_step(step + 1)
    return model.eval(), losses


@torch.no_grad()
def evaluate_detector(model: DenfiDet, seed: int, scenes: int = _EVALUATED) -> dict[str, float]:
    """Average precision on held-out scenes, and where the sampling points lie."""
    records, looks = [], []
    for start in range(0, scenes, 20):
        batch = scene_batch([(seed, 1, k) for k in range(start, min(start + 20, scenes))])
        for k, (found, own) in enumerate(zip(model(batch), batch["scenes"], strict=True)):
            arrays = {name: value.numpy() for name, value in found.items()}
            count = len(own.boxes)
            objects = Objects(("Car",) * count, own.boxes.astype(np.float64), np.zeros(count, np.int64))
            records.append(BoxEvaluated(f"{start + k}", objects, arrays))
        looks.append(_looks(model, batch))
    result: Any = evaluate(records, ("Car",))
    numbers = {
        "AP@0.5": result.ap("Car", "bev", table="loose"),
        "AP@0.7": result.ap("Car", "bev"),
        "objects": float(result.curve("Car", "bev", table="loose").n_gt),
    }
    return numbers | {name: float(np.mean([look[name] for look in looks])) for name in looks[0]}


def _looks(model: DenfiDet, batch: dict[str, Any]) -> dict[str, float]:
    """Shift and its spread over pixels, and the occupancy around positive pixels and their sampling points."""
    occupancy = model.detector.bev(batch["points"], batch["batch_size"])[:, 1:]
    around = F.avg_pool2d(F.avg_pool2d(occupancy, 2), 3, 1, 1)
    grid, frames = model.detector.config.bev_grid, batch["scenes"]
    positive = torch.stack(
        [
            boundary_targets(
                torch.from_numpy(s.boxes[:, [0, 1, 3, 4, 6]]), torch.zeros(len(s.boxes)).long(), grid
            ).labels
            >= 0
            for s in frames
        ]
    )
    numbers = {"own occupancy": around[:, 0][positive].mean().item()}
    plug = model.plug
    for branch in ("cls", "reg"):
        refine = getattr(plug.denfi, f"refine_{branch}") if isinstance(plug, DenfiHead) else None
        offset = getattr(refine, "last_offset", None)
        if offset is None:
            offset = torch.zeros(len(frames), 2, grid.height, grid.width)
        sampled = sample_shifted(around, offset)[:, 0]
        numbers |= {
            f"{branch} occupancy": sampled[positive].mean().item(),
            f"{branch} shift": offset.norm(dim=1).mean().item(),
            f"{branch} spread": offset.std((0, 2, 3)).mean().item(),
            f"{branch} spread at objects": offset.transpose(0, 1)[:, positive].std(1).mean().item(),
        }
    return numbers


def measure_detection(name: str, seed: int) -> dict[str, float]:
    """One cell of the detection experiment."""
    model, losses = train_detector(name.removeprefix("bev-"), seed)
    tenth = len(losses) // 10
    return {
        **evaluate_detector(model, seed),
        "first loss": float(np.mean(losses[:tenth])),
        "last loss": float(np.mean(losses[-tenth:])),
    }
