"""The movie level: against all partitions there are, closed forms, and its behaviour over passes."""

import itertools

import numpy as np
import pytest

from moviescenes.grouping import (
    default_range,
    group_scenes,
    normalised,
    optimal_grouping,
    scene_threads,
    shot_similarity,
)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def worth(similarity, members):
    """The paper's g of a scene, from its equations."""
    total = 0.0
    for c in members:
        rest = [similarity[c, d] for d in members if d != c]
        if rest:
            total += np.mean(rest) + logistic(max(rest))
    return total


def exhaustive(similarity, low, high):
    """Best value and its cuts, ties to fewer scenes and then earlier cuts."""
    n = len(similarity)
    rows = []
    for mask in itertools.product([0, 1], repeat=n - 1):
        edges = [0, *(k + 1 for k, cut in enumerate(mask) if cut), n]
        if low <= len(edges) - 1 <= high:
            value = sum(worth(similarity, range(a, b)) for a, b in itertools.pairwise(edges))
            rows.append((value, [e - 1 for e in edges[1:-1]]))
    most = max(value for value, _ in rows)
    tied = [cuts for value, cuts in rows if value >= most - 1e-9 * n]
    return most, min(tied, key=lambda cuts: (len(cuts), cuts[::-1]))


@pytest.mark.parametrize("seed", range(6))
def test_equals_all_partitions(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    x = rng.normal(size=(n, 3))
    square = x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2)
    for low, high in [(1, n), (2, min(3, n)), (n, n)]:
        value, cuts = exhaustive(square, low, high)
        found, objective = optimal_grouping(square, (low, high))
        assert found.tolist() == cuts
        assert objective == pytest.approx(value)


def test_blocks_identical_shots_and_bounds():
    blocks = np.kron(np.eye(3), np.ones((4, 4)))
    assert optimal_grouping(blocks, (3, 12))[0].tolist() == [3, 7]
    cuts, value = optimal_grouping(np.ones((9, 9)), (3, 9))
    assert len(cuts) == 2
    assert value == pytest.approx(9 * (1 + logistic(1)))
    assert optimal_grouping(np.ones((1, 1)), (1, 1))[0].tolist() == []
    assert optimal_grouping(np.ones((2, 2)), (2, 2))[1] == 0  # singletons are worth nothing


def scene_features(lengths, seed=0, dim=16, noise=0.05):
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=dim) for _ in lengths]
    return np.concatenate([r + noise * rng.normal(size=(n, dim)) for r, n in zip(rows, lengths, strict=True)])


def test_scenes_are_found_and_scale_does_not_matter():
    lengths = [6, 9, 4, 8, 5]
    x = scene_features(lengths, noise=0.0)
    p = np.random.default_rng(1).random(len(x) - 1) * 0.5
    truth = np.cumsum(lengths)[:-1] - 1
    p[truth] += 0.6
    found = group_scenes(p, {"place": x}, j=14, k_range=(3, 13), iters=1)
    assert found.cuts.tolist() == truth.tolist()
    assert found.k == 5
    again = group_scenes(100 * p - 7, {"place": 50 * x}, j=14, k_range=(3, 13), iters=1)
    assert again.cuts.tolist() == found.cuts.tolist()
    kept, other = found.scores[truth], np.delete(found.scores, truth)
    assert kept.min() > other.max()
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_passes_collapse_without_a_least_number_and_stop_with_one():
    x = scene_features([5] * 8, noise=0.5)
    p = np.random.default_rng(0).random(39)
    free = group_scenes(p, {"place": x}, j=20, k_range=(1, 19), iters=20)
    assert free.k == 1 or len(free.history[-1]) == len(free.history[-2])
    bound = group_scenes(p, {"place": x}, j=20, k_range=(4, 19), iters=20)
    assert bound.k >= 4
    assert [set(b) <= set(a) for a, b in itertools.pairwise(map(tuple, bound.history))].count(False) == 0
    assert len(bound.objective) == len(bound.history) - 1


def test_refinement_never_lowers_the_objective():
    x = scene_features([4] * 6, noise=0.6)
    p = np.random.default_rng(0).random(23)
    plain = group_scenes(p, {"place": x}, j=12, k_range=(3, 11), iters=1)
    refined = group_scenes(p, {"place": x}, j=12, k_range=(3, 11), iters=1, refine=True)
    assert refined.objective[0] >= plain.objective[0] - 1e-9
    assert refined.objective[0] > plain.objective[0]


def test_short_films_thresholds_and_errors():
    for shots in (1, 2, 3):
        found = group_scenes(np.zeros(shots - 1), {"place": np.eye(shots, 4)})
        assert found.k >= 1
        assert len(found.scores) == shots - 1
    found = group_scenes([0.9, 0.1, 0.8], {"place": np.eye(4)}, threshold=0.5, iters=0)
    assert found.cuts.tolist() == [0, 2]
    nothing = group_scenes(np.full(9, 0.3), {"place": np.eye(10)}, threshold=0.5)
    assert nothing.k == 1  # no boundary above the threshold: one scene, no exception
    assert group_scenes([np.nan, 0.5, np.nan], {"place": np.eye(4)}, j=2, iters=0).cuts.tolist() == [1]
    with pytest.raises(ValueError, match="expected 4"):
        group_scenes([0.1, 0.2, 0.3], {"place": np.eye(3)})
    assert default_range(3) == (1, 1, 1)


def test_modalities_that_say_nothing_have_no_weight():
    x = scene_features([3, 3])
    silent = {"place": x, "aud": np.zeros((6, 4))}
    unit = normalised(silent)
    np.testing.assert_allclose(shot_similarity(unit), shot_similarity({"place": unit["place"]}))
    assert not normalised(silent, centre=True)["aud"].any()


def test_threads_of_a_dialogue():
    a, b, c = np.eye(3)
    shots = np.stack([a, b, a, b, c, a])
    assert scene_threads({"place": shots}) == [0, 1, 0, 1, 2, 0]
    assert scene_threads({"place": np.zeros((0, 3))}) == []
