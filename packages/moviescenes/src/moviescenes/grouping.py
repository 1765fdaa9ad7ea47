"""The movie level: super shots from the scores of boundaries, cut into scenes by optimal grouping.

The released code of the paper lacks this step; it is built from the paper's equations. A scene is worth, for
each of its super shots, the mean similarity to the others of the scene and the logistic function of the largest
of these similarities; a scene of one super shot is worth nothing. The best cut into K_lo to K_hi scenes is
exact (dynamic programming in `tenfold.host`). The scenes become the next super shots, and so on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moviescenes.weights import FUSION_WEIGHTS
from tenfold.host import optimal_grouping as host_grouping

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GroupingResult",
    "default_range",
    "group_scenes",
    "normalised",
    "optimal_grouping",
    "scene_threads",
    "shot_similarity",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupingResult:
    """Scenes of a film.

    Args:
        cuts: boundaries kept, ascending; boundary i lies after shot i.
        scores: (n - 1,) of all boundaries, from 0 to 1: the given ones plus `boost` for each pass survived.
        k: number of scenes.
        history: cuts after each pass, first the super shots' own.
        objective: value of each pass.
    """

    cuts: Ints
    scores: Floats
    k: int
    history: tuple[Ints, ...]
    objective: tuple[float, ...]


def default_range(shots: int) -> tuple[int, int, int]:
    """J, K_lo and K_hi for a film of so many shots.

    The paper's are 600, 50 and 400 for films of one to two thousand shots; shorter films get as many in
    proportion.

    >>> default_range(1500), default_range(60)
    ((600, 50, 400), (27, 2, 26))
    """
    j = max(1, min(600, round(0.45 * shots)))
    low = min(max(2, round(shots / 30)), j)
    return j, low, max(low, min(400, j - 1))


def optimal_grouping(similarity: npt.ArrayLike, k_range: tuple[int, int]) -> tuple[Ints, float]:
    """The best cut of a sequence into scenes.

    Args:
        similarity: (J, J) of super shots; the diagonal is not read.
        k_range: least and largest number of scenes; clipped to 1 and J.

    Returns:
        Last items of all scenes but the last, ascending, and the objective.

    Source: equations 4 to 7 of the paper, with the rest of the same scene as the set compared with.

    >>> optimal_grouping(np.kron(np.eye(2), np.ones((3, 3))), (2, 4))[0].tolist()
    [2]
    """
    square = np.ascontiguousarray(similarity, np.float64)
    most = len(square)
    low, high = max(1, min(k_range[0], most)), max(1, min(k_range[1], most))
    found = host_grouping(square, low, max(low, high))
    return found.starts[1:] - 1, found.value


def normalised(features: Mapping[str, npt.ArrayLike], *, centre: bool = False) -> dict[str, Floats]:
    """Features as unit vectors (n, d), images flattened; a vector of zeros stays zero.

    Args:
        features: modality -> (n, ...).
        centre: subtract the film's mean and divide by its deviation first, for features whose vectors all point
            the same way, as histograms and levels do.
    """
    out = {}
    for key, value in features.items():
        table = np.asarray(value, np.float64)
        flat = table.reshape(len(table), int(np.prod(table.shape[1:])))
        empty = ~flat.any(1)
        if centre and (~empty).any():
            known = flat[~empty]
            flat = (flat - known.mean(0)) / np.maximum(known.std(0), 1e-3 * max(1e-12, float(known.std())))
            flat[empty] = 0
        out[key] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return out


def _weights(features: Mapping[str, Floats], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Weights of the modalities that say anything, scaled to sum to 1."""
    given = weights or FUSION_WEIGHTS
    present = {key: float(given.get(key, 0.0)) for key, value in features.items() if value.any()}
    total = sum(present.values())
    if total <= 0:
        return {key: 1 / len(features) for key in features}
    return {key: value / total for key, value in present.items()}


def shot_similarity(features: Mapping[str, Floats], weights: Mapping[str, float] | None = None) -> Floats:
    """Weighted sum of the cosines of all pairs (n, n).

    Args:
        features: modality -> unit vectors, see `normalised`.
        weights: modality -> weight; those of the paper's fusion by default.
    """
    shares = _weights(features, weights)
    n = len(next(iter(features.values())))
    total = np.zeros((n, n))
    for key, share in shares.items():
        total += share * (features[key] @ features[key].T)
    return total


def _super_similarity(
    features: Mapping[str, Floats],
    cuts: Ints,
    shots: int,
    shares: Mapping[str, float],
    refine: tuple[int, int] | None,
) -> Floats:
    """Similarity (J, J) of super shots: cosines of the (perhaps weighted) sums of their shots' vectors."""
    starts = np.concatenate(([0], cuts + 1))
    total = np.zeros((len(starts), len(starts)))
    sizes = np.diff(np.append(starts, shots))
    alpha = _refined(features, starts, sizes, shares, refine) if refine else np.ones(shots)
    for key, share in shares.items():
        sums = np.add.reduceat(features[key] * alpha[:, None], starts, axis=0)
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        total += share * (sums @ sums.T)
    return total


def _refined(
    features: Mapping[str, Floats],
    starts: Ints,
    sizes: Ints,
    shares: Mapping[str, float],
    k_range: tuple[int, int],
) -> Floats:
    """Weights of shots within their super shots that raise the objective of the present best cut.

    Softmax within each super shot, 50 steps of Adam; a step that lowers the objective ends the search.
    """
    import torch

    uniform = np.repeat(1 / sizes, sizes)
    if len(starts) < 2:
        return uniform
    owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    tensors = {key: torch.from_numpy(features[key]) for key in shares}

    def similarity(alpha: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(sizes), len(sizes), dtype=torch.float64)
        for key, share in shares.items():
            rows = torch.zeros(len(sizes), tensors[key].shape[1], dtype=torch.float64)
            rows = rows.index_add(0, owner, tensors[key] * alpha[:, None])
            rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            total = total + share * rows @ rows.T
        return total

    scores = torch.zeros(len(owner), dtype=torch.float64, requires_grad=True)
    start = similarity(torch.from_numpy(uniform)).detach().numpy()
    cut, _ = optimal_grouping(start, k_range)
    edges = [0, *(cut + 1).tolist(), len(sizes)]
    optimiser = torch.optim.Adam([scores], lr=0.1)
    best, kept = -np.inf, uniform
    for _ in range(51):
        top = torch.zeros(len(sizes), dtype=torch.float64).scatter_reduce(
            0, owner, scores, "amax", include_self=False
        )
        raised = (scores - top[owner]).exp()
        alpha = raised / torch.zeros(len(sizes), dtype=torch.float64).index_add(0, owner, raised)[owner]
        value = _objective(similarity(alpha), edges)
        if value.item() < best - 1e-12:
            break
        best, kept = value.item(), alpha.detach().numpy().copy()
        optimiser.zero_grad()
        (-value).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return kept


def _objective(similarity: Tensor, edges: list[int]) -> Tensor:
    """Objective of a partition of super shots, differentiable in the similarities."""
    import torch

    total = similarity.sum() * 0
    for a, b in itertools.pairwise(edges):
        size = b - a
        if size > 1:
            block = similarity[a:b, a:b]
            others = block[~torch.eye(size, dtype=torch.bool)].reshape(size, size - 1)
            total = total + others.mean(1).sum() + others.amax(1).sigmoid().sum()
    return total


def group_scenes(
    p: npt.ArrayLike,
    features: Mapping[str, npt.ArrayLike],
    *,
    j: int | None = None,
    k_range: tuple[int, int] | None = None,
    iters: int = 5,
    threshold: float | None = None,
    weights: Mapping[str, float] | None = None,
    boost: float = 0.1,
    refine: bool = False,
    centre: bool = False,
) -> GroupingResult:
    """Scenes of a film from the scores of its boundaries and the features of its shots.

    Args:
        p: (n - 1,) scores of the boundaries, any range; NaN counts as the least.
        features: modality -> (n, ...).
        j: number of super shots; by default `default_range`'s.
        k_range: least and largest number of scenes; likewise.
        iters: passes at most. They end earlier when the cuts repeat or no fewer scenes are allowed.
        threshold: super shots are cut where p exceeds it, instead of at the j - 1 largest.
        weights: modality -> weight of its cosine.
        boost: added to the score of a boundary for each pass it survives.
        refine: weigh the shots of a super shot so that the objective grows (slow; off in the paper's table).
        centre: see `normalised`.

    Returns:
        Cuts, scores, and the cuts of every pass. Fewer than two shots: one scene, no scores.

    Raises:
        ValueError: lengths that do not fit each other.

    >>> shots = np.repeat(np.eye(3), 4, 0)
    >>> group_scenes(np.tile([0.1, 0.2, 0.3, 0.9], 3)[:11], {"place": shots}, j=6, k_range=(3, 5)).cuts.tolist()
    [3, 7]
    """
    score = np.asarray(p, np.float64)
    unit = normalised(features, centre=centre)
    if not unit or any(len(value) != len(score) + 1 for value in unit.values() if len(value) > 1):
        sizes = {key: len(value) for key, value in unit.items()}
        raise ValueError(f"group_scenes: features: got {sizes} shots; expected {len(score) + 1}")
    if len(score) == 0:
        empty = np.zeros(0, np.int64)
        return GroupingResult(empty, np.zeros(0), 1, (empty,), ())
    scaled = _unit_range(score)
    usual = default_range(len(score) + 1)
    wanted = j or usual[0]
    bounds = k_range or (usual[1], usual[2])
    if threshold is not None:
        cuts = np.flatnonzero(score > threshold)
    else:
        order = np.argsort(-np.where(np.isfinite(score), scaled, -1.0), kind="stable")
        cuts = np.sort(order[: max(0, min(wanted - 1, len(score)))])
    history, values, survived = [cuts], [], np.zeros(len(score))
    shares = _weights(unit, weights)
    for _ in range(iters):
        if len(cuts) + 1 <= bounds[0]:
            break
        square = _super_similarity(unit, cuts, len(score) + 1, shares, bounds if refine else None)
        kept, value = optimal_grouping(square, bounds)
        following = cuts[kept]
        survived[following] += 1
        history.append(following)
        values.append(value)
        repeated = len(following) == len(cuts)
        cuts = following
        if repeated:
            break
    boosted = (scaled + boost * survived) / (1 + boost * max(1.0, survived.max(initial=0.0)))
    return GroupingResult(cuts, boosted, len(cuts) + 1, tuple(history), tuple(values))


def _unit_range(score: Floats) -> Floats:
    known = score[np.isfinite(score)]
    if not len(known) or known.max() <= known.min():
        return np.zeros(len(score))
    scaled: Floats = np.nan_to_num((score - known.min()) / (known.max() - known.min()), nan=0.0)
    return np.clip(scaled, 0.0, 1.0)


def scene_threads(
    features: Mapping[str, npt.ArrayLike],
    *,
    threshold: float = 0.5,
    weights: Mapping[str, float] | None = None,
) -> list[int]:
    """Threads of a scene: which of its shots show the same set-up, as the A and B of a dialogue.

    Args:
        features: modality -> (n, ...) of the scene's shots, as unit vectors or not.
        threshold: least similarity to a thread's last shots.
        weights: modality -> weight of its cosine.

    Returns:
        A number for each shot; threads count from 0 in the order of their first shots.

    >>> a, b = np.eye(2)
    >>> scene_threads({"place": np.stack([a, b, a, b, a])})
    [0, 1, 0, 1, 0]
    """
    similarity = shot_similarity(normalised(features), weights)
    labels: list[int] = []
    for shot in range(len(similarity)):
        last = {label: k for k, label in enumerate(labels)}
        near = max(last.items(), key=lambda item: (similarity[shot, item[1]], -item[0]), default=None)
        if near is not None and similarity[shot, near[1]] >= threshold:
            labels.append(near[0])
        else:
            labels.append(len(last))
    return labels
