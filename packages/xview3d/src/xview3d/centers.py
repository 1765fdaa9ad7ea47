"""Where to put the centre of a view."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["propose_centers"]


def propose_centers(
    places: Tensor,
    point_range: Sequence[float],
    number: int = 1,
    *,
    fixed: Sequence[Sequence[float]] = ((0.0, 0.0, 0.0),),
    step: float = 5.0,
    weigh: str = "area",
) -> tuple[tuple[float, float, float], ...]:
    """Centres that make cells fine where a detector looks.

    A perspective cell is as wide as its distance from the centre times an angle, so the mean distance from a place
    to its nearest centre is, up to that angle, the mean width of the finest cell there. Candidates on a grid are
    taken one after the other, each the one that lowers this mean most.

    Args:
        places: (N, 2 or more) x, y of points, or of labelled objects, metres.
        point_range: of the detector; candidates and counted places lie in it.
        number: of centres to propose.
        fixed: centres that are there already.
        step: of the candidates, metres.
        weigh: "area": every occupied square metre counts once, so that near, dense places do not decide alone; or
            "points": every row counts.

    Returns:
        Centres at the height of the sensor, in the order in which they were chosen.

    Raises:
        ValueError: no place in range, or numbers that do not fit.

    Example:
        >>> objects = torch.tensor([[10.0, 0.0], [41.0, 2.0], [39.0, -1.0]])
        >>> propose_centers(objects, (0, -40, -3, 70.4, 40, 1), weigh="points")
        ((40.0, 0.0, 0.0),)
    """
    op = "propose_centers"
    if weigh not in ("area", "points"):
        raise ValueError(f"{op}: weigh: got {weigh!r}; expected 'area' or 'points'")
    if number < 1 or not step > 0:
        raise ValueError(f"{op}: number, step: got {number}, {step}; expected 1 or more, and a positive step")
    if places.dim() != 2 or places.shape[1] < 2:
        raise ValueError(f"{op}: places: got shape {tuple(places.shape)}; expected (N, 2 or more)")
    xy = places[:, :2].double()
    low, high = xy.new_tensor(list(point_range[:2])), xy.new_tensor(list(point_range[3:5]))
    xy = xy[((xy >= low) & (xy <= high)).all(1)]
    if weigh == "area":
        xy = (xy.floor() + 0.5).unique(dim=0)
    if not len(xy):
        raise ValueError(f"{op}: places: none lies in the range; expected one or more")
    candidates = _candidates(low, high, step)
    nearest = torch.full((len(xy),), math.inf, dtype=xy.dtype, device=xy.device)
    for center in fixed:
        nearest = torch.minimum(nearest, _distance(xy, xy.new_tensor(list(center[:2]))[None])[0])
    chosen = []
    for _ in range(number):
        means = torch.stack([torch.minimum(nearest, row).mean() for row in _distance(xy, candidates)])
        best = int(means.argmin())
        nearest = torch.minimum(nearest, _distance(xy, candidates[best : best + 1])[0])
        x, y = candidates[best].tolist()
        chosen.append((x, y, 0.0))
    return tuple(chosen)


def _candidates(low: Tensor, high: Tensor, step: float) -> Tensor:
    """(K, 2) multiples of the step in the range, the ones nearest to the sensor first among equals."""
    axes = [
        [k * step for k in range(math.ceil(a / step), math.floor(b / step) + 1)]
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]
    found = sorted(itertools.product(*axes), key=lambda p: (math.hypot(*p), p))
    if not found:
        raise ValueError(f"propose_centers: step: {step} m leaves no candidate in the range")
    return torch.tensor(found, dtype=low.dtype, device=low.device)


def _distance(xy: Tensor, centers: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(centers[:, None] - xy[None], dim=-1)
    return distance
