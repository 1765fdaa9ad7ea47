"""The trained half of the claim: are perspective features discriminative where the egocentric view is coarse?

No bird's-eye branch could answer instead: the detector's side supplies nothing but the places of its sites, and a small
perceptron without any convolution reads what the views hold there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.lidar.models.voxel_backbone import sparse_layer
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan
from tenfold.ops import dynamic_voxelize, points_in_boxes, rulebook_strided, scatter
from tenfold.sparse import SparseConv3d, SparseTensor, SubMConv3d
from xview3d.projector import MainGrid, ViewProjector, ViewStride
from xview3d.view import View

__all__ = [
    "ARMS",
    "BANDS",
    "Arm",
    "Probe",
    "ProbeEncoder",
    "Result",
    "average_precision",
    "measure",
    "run_probe",
]

POINT_RANGE = (0.0, -25.6, -3.0, 51.2, 25.6, 1.0)
_VOXEL = 0.4
_SITE = 0.8
#: Distances of the bands, metres.
BANDS = ((0.0, 15.0), (15.0, 25.0), (25.0, 35.0), (35.0, 52.0))
_UNITS = (25.0, 1.6, 1.6)
_CELL = (0.2, 0.02, 0.04)
_BATCH, _PEAK, _DECAY, _CLIP = 4, 4e-3, 0.01, 10.0
_POSITIVE, _OFFSET_WEIGHT, _BETA = 4.0, 2.0, 0.3
_MARGIN, _ABOVE, _LEAST_POINTS = 0.1, 0.05, 3
_STRIDE = ViewStride((4.0, 4.0, 4.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Arm:
    """Centres of the views, and whether sites get what belongs to other sites."""

    centers: tuple[tuple[float, float, float], ...]
    shuffle: bool = False


_EGO = (0.0, 0.0, 0.0)


def _at(x: float) -> tuple[float, float, float]:
    return (x, 0.0, 0.0)


ARMS: Mapping[str, Arm] = {
    "probe-ego": Arm((_EGO,)),
    "probe-ego2": Arm((_EGO, _EGO)),
    "probe-xview": Arm((_EGO, _at(32.0))),
    "probe-behind": Arm((_EGO, _at(-32.0))),
    "probe-16": Arm((_EGO, _at(16.0))),
    "probe-48": Arm((_EGO, _at(48.0))),
    "probe-far-only": Arm((_at(32.0),)),
    "probe-shuffled": Arm((_EGO, _at(32.0)), shuffle=True),
}


class ProbeEncoder(nn.Module):
    """Sparse layers on the cells of a view: 16 channels, then twice a stride of 2 to 32 channels.

    Example:
        >>> sum(p.numel() for p in ProbeEncoder().parameters())
        100736
    """

    def __init__(self) -> None:
        super().__init__()

        def down(c_in: int, key: str) -> Any:
            layer = SparseConv3d(c_in, 32, 3, stride=2, padding=1, bias=False, key=key)
            return sparse_layer(c_in, 32, layer=layer)

        self.layers = nn.Sequential(
            sparse_layer(6, 16, "in"),
            down(16, "down1"),
            sparse_layer(32, 32, "mid"),
            down(32, "down2"),
            sparse_layer(32, 32, "out"),
            sparse_layer(32, 32, layer=SubMConv3d(32, 32, 1, bias=False)),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features (V, 32) at stride 4 of cells with 6 numbers."""
        found: SparseTensor = self.layers(x)
        return found


class Probe(nn.Module):
    """Views, their sum at every site, and a perceptron: foreground logit, and x, y to the object's centre.

    Args:
        arm: see `ARMS`.

    Example:
        >>> [sum(p.numel() for p in Probe(ARMS[a]).parameters()) for a in ("probe-ego", "probe-ego2", "probe-xview")]
        [107203, 207939, 207939]
    """

    def __init__(self, arm: Arm) -> None:
        super().__init__()
        self.views = tuple(View(c, voxel=_CELL).resolved(POINT_RANGE) for c in arm.centers)
        self.encoders = nn.ModuleList(ProbeEncoder() for _ in self.views)
        grid = MainGrid(POINT_RANGE, (_VOXEL,) * 3, (2.0, 2.0, 6.0))
        self.projector = ViewProjector(self.views, grid, _STRIDE, shuffle=arm.shuffle)
        self.head = nn.Sequential(
            nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
        )

    def forward(self, sites: Tensor, cells: Sequence[SparseTensor], frames: int) -> Tensor:
        """(M, 3) of sites (M, 4), given the cells of every view."""
        edge = round((POINT_RANGE[3] - POINT_RANGE[0]) / _SITE)
        main = SparseTensor(torch.zeros(len(sites), 32, device=sites.device), sites, (1, edge, edge), frames)
        found = [encoder(x) for encoder, x in zip(self.encoders, cells, strict=True)]
        out: Tensor = self.head(self.projector(main, found).features)
        return out


class Scene(NamedTuple):
    """One frame, prepared once.

    Args:
        points: (N, 3) in range.
        sites: (M, 4) int32, batch index 0.
        foreground: (M,) bool.
        offset: (M, 2) metres from the site to the object's centre.
        distance: (M,) metres.
    """

    points: Tensor
    sites: Tensor
    foreground: Tensor
    offset: Tensor
    distance: Tensor


@lru_cache(maxsize=2)
def _scenes(seed: int, train: int, test: int) -> tuple[list[Scene], list[Scene]]:
    made = [_scene(1_000_003 * seed + k) for k in range(train + test)]
    return made[:train], made[train:]


def _scene(seed: int) -> Scene:
    seen = scan(sample_scene(seed, SMALL_SCENE), SECTOR_32, seed=seed)
    xyz = torch.from_numpy(seen.points[:, :3].copy())
    low, high = torch.tensor(POINT_RANGE[:3]), torch.tensor(POINT_RANGE[3:])
    xyz = xyz[((xyz >= low) & (xyz < high)).all(1)]
    coords, _, _ = dynamic_voxelize(xyz, (_VOXEL,) * 3, POINT_RANGE)
    edge = round((POINT_RANGE[3] - POINT_RANGE[0]) / _VOXEL)
    high_cells = round((POINT_RANGE[5] - POINT_RANGE[2]) / _VOXEL)
    half, _, shape = rulebook_strided(coords, (high_cells, edge, edge), 1, 3, stride=2, padding=1)
    sites, _, _ = rulebook_strided(half, shape, 1, (3, 1, 1), stride=(3, 1, 1))
    boxes = torch.from_numpy(seen.boxes[seen.counts >= _LEAST_POINTS])
    foreground, offset, place = _label(xyz, sites, boxes)
    return Scene(xyz, sites, foreground, offset, torch.linalg.vector_norm(place, dim=1))


def _label(xyz: Tensor, sites: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Foreground: at least half of the site's points lie in one box; its centre minus the site's place."""
    place = (sites[:, [3, 2]].float() + 0.5) * _SITE + torch.tensor(POINT_RANGE[:2])
    edge = round((POINT_RANGE[3] - POINT_RANGE[0]) / _SITE)
    column = ((xyz[:, :2] - torch.tensor(POINT_RANGE[:2])) / _SITE).floor().long()
    of_point = column[:, 1] * edge + column[:, 0]
    of_site = sites[:, 2].long() * edge + sites[:, 3].long()
    total = torch.bincount(of_point, minlength=edge * edge)[of_site]
    foreground = torch.zeros(len(sites), dtype=torch.bool)
    offset = torch.zeros(len(sites), 2)
    for box in boxes:
        grown = box.clone()
        bottom = box[2] - box[5] / 2 + _ABOVE
        top = box[2] + box[5] / 2 + _MARGIN / 2
        grown[2], grown[5] = (bottom + top) / 2, top - bottom
        grown[3:5] += _MARGIN
        inside = points_in_boxes(xyz, grown[None], mode="first") >= 0
        own = torch.bincount(of_point[inside], minlength=edge * edge)[of_site]
        mine = (own > 0) & (2 * own >= total)
        foreground |= mine
        offset[mine] = box[:2] - place[mine]
    return foreground, offset, place


def _cells(scene: Scene, view: View) -> tuple[Tensor, Tensor]:
    """Coordinates (V, 4) and six numbers (V, 6) of the occupied cells of a view."""
    local = view.to_local(scene.points)
    coords, row, _ = dynamic_voxelize(local, view.voxel, view.bounds)
    inside = (row >= 0).nonzero()[:, 0]
    place = (local - local.new_tensor(view.bounds[:3])) / local.new_tensor(view.voxel)
    numbers = torch.cat((local / local.new_tensor(_UNITS), place - place.floor() - 0.5), 1)[inside]
    return coords, scatter(numbers, row[inside].long(), len(coords), "mean")


class _Prepared:
    """Scenes with the cells of every view, made once: they do not depend on weights."""

    def __init__(self, scenes: Sequence[Scene], views: Sequence[View]) -> None:
        self.scenes, self.views = scenes, views
        known: dict[tuple[int, tuple[float, ...]], tuple[Tensor, Tensor]] = {}
        self.cells: list[list[tuple[Tensor, Tensor]]] = []
        for number, scene in enumerate(scenes):
            row = []
            for view in views:
                key = (number, view.center)
                if key not in known:
                    known[key] = _cells(scene, view)
                row.append(known[key])
            self.cells.append(row)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, list[SparseTensor], list[Scene]]:
        """Sites, cells of every view, and the scenes."""
        chosen = [self.scenes[k] for k in rows]
        sites = _numbered([scene.sites for scene in chosen])
        cells = []
        for v, view in enumerate(self.views):
            parts = [self.cells[k][v] for k in rows]
            coords = _numbered([coords for coords, _ in parts])
            features = torch.cat([numbers for _, numbers in parts])
            cells.append(SparseTensor(features, coords, view.spatial_shape, len(rows)))
        return sites, cells, chosen


def _numbered(parts: Sequence[Tensor]) -> Tensor:
    """Coordinates of single frames as those of a batch."""
    out = [part.clone() for part in parts]
    for k, part in enumerate(out):
        part[:, 0] = k
    return torch.cat(out)


class Result(NamedTuple):
    """What a trained probe does on unseen scenes, by band of distance.

    Args:
        precision: average precision of foreground sites, percent.
        offset: mean error of the centre of foreground sites, metres.
        sites: foreground sites.
        losses: of every training step.
        seconds: of the training.
    """

    precision: list[float]
    offset: list[float]
    sites: list[int]
    losses: list[float]
    seconds: float


def run_probe(
    arm: Arm,
    seed: int,
    *,
    steps: int = 250,
    scenes: tuple[int, int] = (160, 60),
    on_step: Callable[[int], None] = lambda step: None,
) -> Result:
    """Train and evaluate one probe.

    Args:
        arm: see `ARMS`.
        seed: of scenes, weights and order.
        steps: of training.
        scenes: to train on, and unseen ones.
        on_step: called after every step.
    """
    torch.manual_seed(seed)
    train, test = _scenes(seed, *scenes)
    model = Probe(arm)
    prepared = _Prepared(train, model.views)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_PEAK, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK, total_steps=steps)
    rng = np.random.default_rng((seed, 1))
    start, losses = time.monotonic(), []
    model.train()
    for step in range(steps):
        rows = rng.choice(len(train), min(_BATCH, len(train)), replace=False)
        loss = _loss(model, prepared, [int(k) for k in rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        on_step(step + 1)
    seconds = time.monotonic() - start
    return _evaluate(model.eval(), _Prepared(test, model.views), losses, seconds)


def _loss(model: Probe, prepared: _Prepared, rows: Sequence[int]) -> Tensor:
    sites, cells, chosen = prepared.batch(rows)
    out = model(sites, cells, len(rows))
    foreground = torch.cat([scene.foreground for scene in chosen])
    weight = out.new_tensor(_POSITIVE)
    loss = F.binary_cross_entropy_with_logits(out[:, 0], foreground.float(), pos_weight=weight)
    if bool(foreground.any()):
        offset = torch.cat([scene.offset for scene in chosen])
        loss = loss + _OFFSET_WEIGHT * F.smooth_l1_loss(out[foreground, 1:], offset[foreground], beta=_BETA)
    return loss


@torch.no_grad()
def _evaluate(model: Probe, prepared: _Prepared, losses: list[float], seconds: float) -> Result:
    scores, errors, foreground, distance = [], [], [], []
    for first in range(0, len(prepared.scenes), _BATCH):
        rows = list(range(first, min(first + _BATCH, len(prepared.scenes))))
        sites, cells, chosen = prepared.batch(rows)
        out = model(sites, cells, len(rows))
        offset = torch.cat([scene.offset for scene in chosen])
        scores.append(out[:, 0])
        errors.append(torch.linalg.vector_norm(out[:, 1:] - offset, dim=1))
        foreground.append(torch.cat([scene.foreground for scene in chosen]))
        distance.append(torch.cat([scene.distance for scene in chosen]))
    score, error = torch.cat(scores), torch.cat(errors)
    positive, far = torch.cat(foreground), torch.cat(distance)
    precision, offsets, sites_of = [], [], []
    for low, high in BANDS:
        band = (far >= low) & (far < high)
        precision.append(100 * average_precision(score[band], positive[band]))
        own = band & positive
        offsets.append(float(error[own].mean()) if bool(own.any()) else 0.0)
        sites_of.append(int(own.sum()))
    return Result(precision, offsets, sites_of, losses, seconds)


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """Mean of the precision at every positive, by descending score; ties count as one step. 0 without a positive.

    Example:
        >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, True]))
        0.8333333333333333
    """
    number = int(positive.sum())
    if not number:
        return 0.0
    order = torch.argsort(scores, descending=True, stable=True)
    ranked, hits = scores[order], positive[order].double().cumsum(0)
    last = torch.ones(len(ranked), dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]
    precision = hits[last] / (last.nonzero()[:, 0] + 1).double()
    recall = hits[last] / number
    steps = recall.diff(prepend=recall.new_zeros(1))
    return float((steps * precision).sum())


def names_of_bands() -> list[str]:
    """Such as "35-52 m"."""
    return [f"{low:.0f}-{high:.0f} m" for low, high in BANDS]


def measure(arm: str, seed: int) -> dict[str, float]:
    """Average precision and offset error by band, for the claim records."""
    found = run_probe(ARMS[arm], seed)
    names = names_of_bands()
    parameters = sum(p.numel() for p in Probe(ARMS[arm]).parameters())
    return {
        **dict(zip(names, found.precision, strict=True)),
        **{f"offset {name}": value for name, value in zip(names, found.offset, strict=True)},
        **{f"sites {name}": float(n) for name, n in zip(names, found.sites, strict=True)},
        "first loss": float(np.mean(found.losses[:10])),
        "last loss": float(np.mean(found.losses[-10:])),
        "parameters": float(parameters),
        "training, s": found.seconds,
    }
