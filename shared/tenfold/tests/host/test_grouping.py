"""Optimal grouping: against every partition there is, closed forms, and the published tie rule."""

import itertools

import numpy as np
import pytest

from tenfold import host

pytestmark = pytest.mark.usefixtures("binding")


def logistic(x):
    return 1 / (1 + np.exp(-x))


def worth(similarity, a, b):
    """The definition of a group's gain, item by item."""
    total = 0.0
    for c in range(a, b + 1):
        others = [similarity[c, d] for d in range(a, b + 1) if d != c]
        if others:
            total += np.mean(others) + logistic(max(others))
    return total


def partitions(n):
    """Every way to cut n items, as first items of the groups."""
    for cuts in itertools.product([False, True], repeat=n - 1):
        yield [0, *(i for i, cut in enumerate(cuts, start=1) if cut)]


def bounds(starts, n):
    return zip(starts, [s - 1 for s in [*starts[1:], n]], strict=True)


def exhaustive(gain, k_lo, k_hi, tie):
    """The best partition by trying all: fewer groups first, then the earliest last start, and so on."""
    n = len(gain)
    scored = [
        (sum(gain[a, b] for a, b in bounds(starts, n)), starts)
        for starts in partitions(n)
        if k_lo <= len(starts) <= k_hi
    ]
    most = max(value for value, _ in scored)
    tied = [starts for value, starts in scored if value >= most - tie]
    return most, min(tied, key=lambda starts: (len(starts), starts[::-1]))


def cosines(n, seed, dims=3):
    x = np.random.default_rng(seed).normal(size=(n, dims))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@pytest.mark.parametrize("seed", range(12))
def test_gains_equal_the_definition(seed):
    n = [1, 2, 3, 9, 20][seed % 5]
    similarity = np.random.default_rng(seed).normal(size=(n, n)) * 3  # neither symmetric nor within [-1, 1]
    got = host.grouping_gains(similarity)
    expected = np.array([[worth(similarity, a, b) if a < b else 0.0 for b in range(n)] for a in range(n)])
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_every_number_of_groups_equals_exhaustive_search(seed):
    n = 9
    similarity = cosines(n, seed)
    gain = host.grouping_gains(similarity)
    for k_lo, k_hi in [(k, k) for k in range(1, n + 1)] + [(1, n), (3, 6), (2, 50)]:
        most, starts = exhaustive(gain, k_lo, k_hi, 1e-9 * n)
        got = host.optimal_grouping(similarity, k_lo, k_hi)
        assert got.starts.tolist() == starts
        assert got.value == pytest.approx(most, abs=1e-9)


@pytest.mark.parametrize("seed", range(15))
def test_ties_go_to_fewer_groups_and_earlier_cuts(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10))
    gain = np.triu(rng.integers(-1, 2, (n, n))).astype(float)  # whole numbers: most partitions tie
    most, starts = exhaustive(gain, 1, n, 0.0)
    got = host.optimal_partition(gain, 1, n)
    assert (got.value, got.starts.tolist()) == (most, starts)


@pytest.mark.parametrize("sizes", [(2, 3, 4), (5, 2, 2, 6), (3,)])
def test_blocks_are_found(sizes):
    similarity = np.zeros((sum(sizes), sum(sizes)))
    edges = np.concatenate([[0], np.cumsum(sizes)])
    for a, b in itertools.pairwise(edges):
        similarity[a:b, a:b] = 1
    got = host.optimal_grouping(similarity, len(sizes), sum(sizes))
    assert got.starts.tolist() == edges[:-1].tolist()
    assert got.value == pytest.approx(sum(sizes) * (1 + logistic(1)))


def test_identical_items_tie_to_the_fewest_groups():
    for k_lo in (1, 3, 5):
        got = host.optimal_grouping(np.ones((12, 12)), k_lo, 6)
        assert len(got.starts) == k_lo
        assert got.value == pytest.approx(12 * (1 + logistic(1)))
    assert host.optimal_grouping(np.ones((1, 1)), 1, 1).starts.tolist() == [0]


def test_large_sequences_keep_the_exact_value():
    n = 150
    similarity = cosines(n, 3, 16)
    gain = host.grouping_gains(similarity)
    # The recursion once more in NumPy, for the value alone.
    best = gain[0].copy()
    values = [best[-1]]
    for k in range(2, 41):
        best = np.array(
            [max((best[a - 1] + gain[a, b] for a in range(k - 1, b + 1)), default=-np.inf) for b in range(n)]
        )
        values.append(best[-1])
    got = host.optimal_grouping(similarity, 1, 40)
    assert got.value == pytest.approx(max(values), abs=1e-9)
    assert sum(gain[a, b] for a, b in bounds(got.starts.tolist(), n)) == pytest.approx(got.value, abs=1e-9)


def test_same_bits_in_both_bindings(both_bindings):
    for n in (1, 2, 17, 64):
        similarity = cosines(n, n)
        first, second = both_bindings(lambda s=similarity: host.optimal_grouping(s, 1, 30))
        np.testing.assert_array_equal(first.starts, second.starts)
        assert first.value == second.value


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: host.optimal_grouping(np.zeros((2, 3)), 1, 2),
            ValueError,
            r"similarity: got shape \(2, 3\)",
        ),
        (
            lambda: host.optimal_grouping(np.full((2, 2), np.nan), 1, 2),
            ValueError,
            "similarity: row 0 is not",
        ),
        (lambda: host.optimal_grouping(np.zeros((0, 0)), 1, 2), ValueError, r"got shape \(0, 0\)"),
        (lambda: host.optimal_grouping(np.zeros((3, 3), np.float32), 1, 2), TypeError, "got float32"),
        (lambda: host.optimal_grouping(np.zeros((3, 3)), 0, 2), ValueError, "k_lo: got 0"),
        (lambda: host.optimal_grouping(np.zeros((3, 3)), 4, 9), ValueError, "k_lo: got 4 and k_hi 9 for 3"),
        (lambda: host.optimal_partition(np.zeros((3, 3)), 1, 2, tie=-1.0), ValueError, "tie: got -1"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
