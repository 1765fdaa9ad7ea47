"""Weighted sums of a property's rows: what they can show, and that they show nothing false."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from bound_prop import Box, Conjunct, Disjunction, branch
from bound_prop.combine import are_exact, summed, weights
from bound_prop.verification import verify_property


@pytest.mark.parametrize("seed", range(8))
def test_weights_reach_the_linear_program(seed):
    """The best weights are a linear program; 1 % of the distance from uniform weights may be missing."""
    rng = np.random.default_rng(seed)
    rows, inputs = 3, 4
    a, c = rng.normal(size=(rows, inputs)), rng.normal(size=rows)
    box = Box(
        torch.full((1, inputs), -1.0, dtype=torch.float64), torch.full((1, inputs), 1.0, dtype=torch.float64)
    )
    share, value = weights(torch.from_numpy(a)[None], torch.from_numpy(c)[None], box, steps=200)
    # max_w min_x sum_j w_j (a_j x + c_j) is, by duality, min_x max_j (a_j x + c_j).
    ends = linprog(
        [*np.zeros(inputs), 1.0],
        np.column_stack([a, -np.ones(rows)]),
        -c,
        bounds=[(-1, 1)] * inputs + [(None, None)],
    )
    uniform = float(c.mean() - np.abs(a.mean(0)).sum())
    assert uniform - 0.02 <= float(value) <= ends.fun + 1e-9
    assert ends.fun - float(value) <= 0.05 * (ends.fun - uniform) + 0.03
    assert ((share >= 0) & (share * 256 == (share * 256).round())).all()


class Cross(nn.Module):
    """y = (x, 1 - x): one of the two is at least a half."""

    def forward(self, x):
        return torch.cat([x, 1 - x], 1)


def test_a_sum_decides_without_a_split(monkeypatch):
    box = Box(torch.zeros(1, 1), torch.ones(1, 1))
    both_small = Conjunct(box, torch.eye(2), torch.tensor([0.4, 0.4]))
    example = torch.zeros(1, 1)
    with_sums = verify_property(Cross(), example, Disjunction([both_small]))
    assert with_sums.result == "holds"
    counts = []
    take = branch._take
    monkeypatch.setattr(branch, "_take", lambda *a: counts.append(1) or take(*a))
    assert verify_property(Cross(), example, Disjunction([both_small])).result == "holds"
    first = len(counts)
    monkeypatch.setattr(branch, "are_exact", lambda M: False)
    assert verify_property(Cross(), example, Disjunction([both_small])).result == "holds"
    assert (first, len(counts) - first > 1) == (1, True)


def test_a_sum_never_hides_a_counterexample():
    torch.manual_seed(0)
    for _ in range(4):
        net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))
        x = torch.rand(4000, 2) * 2 - 1
        y = net(x).detach()
        point = y[0]  # an output that exists: every row is satisfied there
        M = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
        h = M @ point + 1e-4
        part = Conjunct(Box(-torch.ones(1, 2), torch.ones(1, 2)), M, h)
        assert verify_property(net, torch.zeros(1, 2), Disjunction([part]), 20.0).result == "violated"


def test_sums_are_exact_and_their_limits_rounded_up():
    M = torch.tensor([[1.0, -1.0], [0.25, 3.0]], dtype=torch.float64)
    assert are_exact(M)
    assert not are_exact(M[:1])
    assert not are_exact(M / 3)
    share = torch.tensor([[3 / 256, 253 / 256]], dtype=torch.float64)
    rows, limit = summed(share, M, torch.tensor([0.1, 1 / 3], dtype=torch.float64))
    from fractions import Fraction

    for k in range(2):
        exact = sum(
            Fraction(w) * Fraction(m) for w, m in zip(share[0].tolist(), M[:, k].tolist(), strict=True)
        )
        assert Fraction(float(rows[0, 0, k])) == exact
    exact = sum(Fraction(w) * Fraction(v) for w, v in zip(share[0].tolist(), [0.1, 1 / 3], strict=True))
    assert Fraction(float(limit[0, 0])) >= exact
