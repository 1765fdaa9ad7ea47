"""The geometric half of the claim, without any training: how often do objects share a view's cell, by distance?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tenfold.lidar.simulator import SceneConfig, Sensor, sample_scene, scan
from xview3d.diagnostics import FUSED_CELL, RANGE_EDGES, cell_purity
from xview3d.view import View

__all__ = ["ARMS", "Cloud", "measure", "shared_by_distance", "simulate_clouds"]

#: Cars at 5 to 66 m, most of them with a neighbour parked beside them.
SCENE = SceneConfig(
    region=(5.0, -32.0, 66.0, 32.0),
    n_cars=15,
    n_vans=0,
    n_pedestrians=0,
    n_cyclists=0,
    n_walls=0,
    n_poles=0,
    n_hedges=0,
    n_trees=0,
    n_blocks=0,
    layout="open",
    pair_fraction=0.6,
    pair_distance=(2.25, 2.35),
    slope=0.0,
    undulation=0.0,
)
SENSOR = Sensor(tuple(np.linspace(2.0, -24.8, 64).tolist()), 0.2, (-45.0, 45.0), max_range=80.0)
_AHEAD = (40.0, 0.0, 0.0)
_BEV_CELL = (0.4, 0.4, 100.0)
#: Arm -> the views of which a point's best counts, and the cell.
ARMS: Mapping[str, tuple[tuple[View, ...], tuple[float, float, float]]] = {
    "geometry-ego": ((View(),), FUSED_CELL),
    "geometry-ahead": ((View(_AHEAD),), FUSED_CELL),
    "geometry-behind": ((View((-40.0, 0.0, 0.0)),), FUSED_CELL),
    "geometry-both": ((View(), View(_AHEAD)), FUSED_CELL),
    "geometry-bev": ((View(kind="cartesian"),), _BEV_CELL),
}


class Cloud(NamedTuple):
    """Points of several frames.

    Args:
        xyz: (N, 3) metres.
        instance: (N,) object, -1 for none.
        frame: (N,) which frame.
    """

    xyz: Tensor
    instance: Tensor
    frame: Tensor


@lru_cache(maxsize=1)
def simulate_clouds(seed: int, scenes: int) -> Cloud:
    """Simulated frames; different seeds share no scene."""
    xyz, instance, frame = [], [], []
    for k in range(scenes):
        seen = scan(sample_scene(1_000_003 * seed + k, SCENE), SENSOR, seed=k)
        xyz.append(torch.from_numpy(seen.points[:, :3]))
        instance.append(torch.from_numpy(seen.instance))
        frame.append(torch.full((len(seen.points),), k))
    return Cloud(torch.cat(xyz), torch.cat(instance), torch.cat(frame))


def shared_by_distance(cloud: Cloud, arm: str) -> Tensor:
    """(K,) share of object points in cells of several objects, in every view of the arm, by bin of distance."""
    views, cell = ARMS[arm]
    every = torch.ones(len(cloud.xyz), dtype=torch.bool)
    for view in views:
        every &= cell_purity(cloud.xyz, cloud.instance, view, cell, RANGE_EDGES, cloud.frame).impure
    distance = torch.linalg.vector_norm(cloud.xyz[:, :2].double(), dim=1)
    of_object = cloud.instance >= 0
    shares = []
    for low, high in itertools.pairwise(RANGE_EDGES):
        chosen = of_object & (distance >= low) & (distance < high)
        shares.append(every[chosen].double().mean() if bool(chosen.any()) else torch.tensor(math.nan))
    return torch.stack(shares)


def names_of_bins() -> list[str]:
    """Such as "40-50 m"."""
    return [f"{a:.0f}-{b:.0f} m" for a, b in itertools.pairwise(RANGE_EDGES)]


def measure(arm: str, seed: int, scenes: int = 40) -> dict[str, float]:
    """Percent of object points that share a cell with another object, by distance."""
    shares = 100 * shared_by_distance(simulate_clouds(seed, scenes), arm)
    return {
        name: float(value)
        for name, value in zip(names_of_bins(), shares, strict=True)
        if not math.isnan(float(value))
    }
