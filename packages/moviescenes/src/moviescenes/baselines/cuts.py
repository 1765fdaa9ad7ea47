"""Baselines that cut a matrix of similarities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from moviescenes.baselines.simple import Baseline, similarity_of, sweep
from tenfold.host import optimal_partition

__all__ = ["dp_scenes", "graph_cut", "scsa", "sequential_grouping", "story_graph"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


def _block_sums(square: Floats) -> Floats:
    """Sum of the block a..b, a..b for every a <= b (n, n)."""
    n = len(square)
    total = np.zeros((n + 1, n + 1))
    total[1:, 1:] = square.cumsum(0).cumsum(1)
    a, b = np.arange(n)[:, None], np.arange(n)[None] + 1
    sums: Floats = total[b, b] - total[a, b] - total[b, a] + total[a, a]
    return np.triu(sums)


def _cut_at(starts: npt.NDArray[np.int64], shots: int) -> Labels:
    cut = np.zeros(max(0, shots - 1), bool)
    cut[starts[1:] - 1] = True
    return cut


def _swept(gain: Floats, own: int) -> Baseline:
    """Scores from a sweep of the number of scenes, decisions from the method's own number."""
    n = len(gain)
    counts = sweep(n)
    cuts = [_cut_at(optimal_partition(gain, k, k).starts, n) for k in counts]
    own = min(max(1, own), n)
    return Baseline(np.mean(cuts, axis=0), _cut_at(optimal_partition(gain, own, own).starts, n))


def few_shots(shots: int) -> Baseline | None:
    """What is said of a film of fewer than four shots: no cut."""
    empty = np.zeros(max(0, shots - 1))
    return Baseline(empty, empty > 0) if shots < 4 else None


def elbow(square: Floats) -> int:
    """Number of blocks from the singular values: where their logarithms (first half) bend most.

    >>> elbow(1 - np.kron(np.eye(4), np.ones((5, 5))))
    4
    """
    values = np.linalg.svd(square, compute_uv=False)
    logs = np.log(np.maximum(values, 1e-9 * max(values[0], 1e-12)))[: max(2, len(values) // 2)]
    line = np.linspace(0, 1, len(logs))
    drop = (logs - logs[0]) / min(logs[-1] - logs[0], -1e-12)
    return int(np.argmax(drop - line))  # distance from the chord, up to a constant factor


def sequential_grouping(
    features: Mapping[str, npt.ArrayLike], cost: Literal["add", "nrm"] = "nrm", scenes: int | None = None
) -> Baseline:
    """Optimal sequential grouping (Rotman et al.): the cut with the smallest distances within scenes.

    "add" sums the distances of all pairs of a scene; "nrm" divides the total by the total area of the scenes' blocks.
    The ratio is minimised exactly: of all cuts into K scenes, that with the smallest sum of distance minus ratio times
    area is found by dynamic programming until the ratio no longer falls (Dinkelbach).

    Args:
        features: modality -> (n, ...).
        cost: "add" or "nrm".
        scenes: their number; by the elbow of the singular values by default.

    Raises:
        ValueError: another cost.
    """
    if cost not in ("add", "nrm"):
        raise ValueError(f"sequential_grouping: cost: got {cost!r}; expected 'add' or 'nrm'")
    distance = 1 - similarity_of(features)
    np.fill_diagonal(distance, 0)
    few = few_shots(len(distance))
    if few is not None:
        return few
    sums = _block_sums(distance)
    own = scenes or max(1, elbow(distance))
    if cost == "add":
        return _swept(-sums, own)
    counts = sweep(len(sums))
    cuts = [_cut_at(_least_ratio(sums, k), len(sums)) for k in counts]
    return Baseline(np.mean(cuts, axis=0), _cut_at(_least_ratio(sums, min(own, len(sums))), len(sums)))


def _least_ratio(sums: Floats, k: int) -> npt.NDArray[np.int64]:
    """Starts of the cut into k scenes with the least distance per area."""
    n = len(sums)
    length = np.triu(np.arange(n)[None] - np.arange(n)[:, None] + 1).astype(float)
    area = length**2
    ratio, starts = np.inf, np.zeros(1, np.int64)
    guess = float(sums[0, -1] / area[0, -1])
    while guess < ratio - 1e-12:
        ratio = guess
        starts = optimal_partition(ratio * area - sums, k, k).starts
        ends = np.append(starts[1:], n) - 1
        guess = float(sums[starts, ends].sum() / area[starts, ends].sum())
    return starts


def dp_scenes(features: Mapping[str, npt.ArrayLike], penalty: float = 1.0) -> Baseline:
    """Dynamic programming (Han and Wu): dissimilarity of a scene's pairs over its length, plus a price a scene.

    Args:
        features: modality -> (n, ...).
        penalty: price of a scene; to be chosen on other films.
    """
    distance = 1 - similarity_of(features)
    np.fill_diagonal(distance, 0)
    n = len(distance)
    few = few_shots(n)
    if few is not None:
        return few
    length = np.maximum(1, np.arange(n)[None] - np.arange(n)[:, None] + 1)
    gain = -_block_sums(distance) / 2 / length
    own = len(optimal_partition(gain - penalty, 1, n).starts)
    return _swept(gain, own)


def story_graph(
    features: Mapping[str, npt.ArrayLike], longest: int = 100, thread: float = 0.85, reach: int = 24
) -> Baseline:
    """StoryGraph (Tapaswi et al.): shots stay in a scene for their likeness to it and for threads that link back.

    Keeping a shot as the k-th of its scene is worth (1 - (k/N)²/2) (C + T): C the mean likeness to the scene's
    earlier shots, T 1 where a shot within reach and inside the scene is nearly the same.

    Args:
        features: modality -> (n, ...).
        longest: N, largest number of shots in a scene.
        thread: least likeness of a thread.
        reach: shots that a thread looks back.
    """
    square = similarity_of(features)
    n = len(square)
    few = few_shots(n)
    if few is not None:
        return few
    gain = np.full((n, n), -1e6)
    for a in range(n):
        total = 0.0
        gain[a, a] = 0.0
        for b in range(a + 1, min(n, a + longest)):
            k = b - a + 1
            likeness = max(0.0, float(square[b, a:b].mean()))
            links = float(square[b, max(a, b - reach) : b].max()) > thread
            total += (1 - 0.5 * (k / longest) ** 2) * (likeness + links)
            gain[a, b] = total
    distance = 1 - square
    np.fill_diagonal(distance, 0)
    return _swept(gain, max(elbow(distance), -(-n // longest)))


def graph_cut(
    features: Mapping[str, npt.ArrayLike],
    times: npt.ArrayLike,
    sigma: float = 60.0,
    limit: float = 0.6,
) -> Baseline:
    """GraphCut (Rasheed and Shah): normalised cuts of the graph of shots, best first, contiguous alone.

    Args:
        features: modality -> (n, ...).
        times: (n,) middle of each shot, seconds.
        sigma: of the weight's fall with time, seconds.
        limit: the largest normalised cut that is still made.
    """
    clock = np.asarray(times, np.float64)
    weight = np.maximum(0, similarity_of(features)) * np.exp(-(((clock[:, None] - clock) / sigma) ** 2))
    n = len(weight)
    few = few_shots(n)
    if few is not None:
        return few
    parts = {(0, n): _best_split(weight, 0, n)}
    order: list[tuple[int, float]] = []
    while parts and len(order) < n // 4:
        (a, b), (value, middle) = min(parts.items(), key=lambda item: (item[1][0], item[0]))
        del parts[a, b]
        if not np.isfinite(value):
            break
        order.append((middle - 1, value))
        parts[a, middle], parts[middle, b] = _best_split(weight, a, middle), _best_split(weight, middle, b)
    counts = sweep(n)
    scores, decisions = np.zeros(n - 1), np.zeros(n - 1, bool)
    for rank, (boundary, value) in enumerate(
        order, 2
    ):  # the cut of rank r is there in all sweeps with K >= r
        scores[boundary] = sum(k >= rank for k in counts) / len(counts)
        decisions[boundary] = value <= limit
    return Baseline(scores, decisions)


def _best_split(weight: Floats, a: int, b: int) -> tuple[float, int]:
    """Least normalised cut of shots a..b-1 into two runs of at least two shots, and where the second begins."""
    size = b - a
    if size < 4:
        return np.inf, a
    block = weight[a:b, a:b]
    total = np.zeros((size + 1, size + 1))
    total[1:, 1:] = block.cumsum(0).cumsum(1)
    middle = np.arange(2, size - 1)
    cut = total[middle, size] - total[middle, middle]
    first = total[middle, size]
    second = total[size, size] - first
    values = cut / np.maximum(first, 1e-12) + cut / np.maximum(second, 1e-12)
    best = int(values.argmin())
    return float(values[best]), a + int(middle[best])


def scsa(features: Mapping[str, npt.ArrayLike], window: int = 6, gap: float = -0.5) -> Baseline:
    """SCSA (Chasanis et al.): shots get labels by spectral clustering; labels before and after are aligned.

    Args:
        features: modality -> (n, ...).
        window: labels on each side.
        gap: score of a gap in the alignment.
    """
    square = similarity_of(features)
    n = len(square)
    few = few_shots(n)
    if few is not None:
        return few
    labels = spectral_labels(square)
    centres = np.stack([square[labels == k].mean(0) for k in range(labels.max() + 1)])
    likeness = np.stack([centres[:, labels == k].mean(1) for k in range(labels.max() + 1)], 1)
    raw = np.array([_alignment(labels, likeness, k, window, gap) for k in range(n - 1)])
    scores = (raw.max() - raw) / max(float(raw.max() - raw.min()), 1e-12)
    padded = np.concatenate(([np.inf], raw, [np.inf]))
    local = (raw <= padded[:-2]) & (raw <= padded[2:])
    return Baseline(scores, local & (raw < raw.mean() - raw.std()))


def spectral_labels(square: Floats, clusters: int | None = None) -> npt.NDArray[np.int64]:
    """Cluster of each shot: k-means on the eigenvectors of the normalised graph, k by the largest gap."""
    n = len(square)
    weight = np.exp((np.clip(square, -1, 1) - 1) / 0.3)
    degree = 1 / np.sqrt(weight.sum(1))
    values, vectors = np.linalg.eigh(degree[:, None] * weight * degree)
    values, vectors = values[::-1], vectors[:, ::-1]
    top = max(2, min(n - 1, n // 4))
    k = clusters or int(np.argmax(values[1:top] - values[2 : top + 1])) + 2
    k = min(k, n)
    points = vectors[:, :k] / np.maximum(np.linalg.norm(vectors[:, :k], axis=1, keepdims=True), 1e-12)
    return _k_means(points, k)


def _k_means(points: Floats, k: int, rounds: int = 30) -> npt.NDArray[np.int64]:
    """Lloyd's rounds from far-apart first centres; the same points give the same labels."""
    chosen = [0]
    nearest = ((points - points[0]) ** 2).sum(1)
    while len(chosen) < k:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
    centres = points[chosen].copy()
    labels = np.full(len(points), -1)
    for _ in range(rounds):
        found = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        if (found == labels).all():
            break
        labels = found
        for number in range(k):
            if (labels == number).any():
                centres[number] = points[labels == number].mean(0)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _alignment(
    labels: npt.NDArray[np.int64], likeness: Floats, boundary: int, window: int, gap: float
) -> float:
    """Needleman and Wunsch's score of the labels before and after a boundary, per label."""
    before = labels[max(0, boundary + 1 - window) : boundary + 1]
    after = labels[boundary + 1 : boundary + 1 + window]
    table = np.zeros((len(before) + 1, len(after) + 1))
    table[:, 0] = gap * np.arange(len(before) + 1)
    table[0] = gap * np.arange(len(after) + 1)
    for i, first in enumerate(before, 1):
        for j, second in enumerate(after, 1):
            table[i, j] = max(
                table[i - 1, j - 1] + likeness[first, second], table[i - 1, j] + gap, table[i, j - 1] + gap
            )
    return float(table[-1, -1]) / max(len(before), len(after))
