"""The published cost table, from its own numbers and from counted ones."""

import pytest
import torch

from tenfold.distill.models import create_model
from unix_kd.cost import PUBLISHED, advice, break_even, cost, cost_ratio, macs_of


@pytest.mark.parametrize("row", PUBLISHED, ids=[f"{row[0]}-{row[1]}" for row in PUBLISHED])
def test_published_percentages_follow_from_published_r(row):
    assert 100 * cost_ratio(row[2], 0.75) == pytest.approx(row[3], abs=0.03)


def test_a_usual_backward_pass_would_not_give_them():
    assert 100 * cost_ratio(3.25, 0.75, 2.0) == pytest.approx(91.0, abs=0.02)


def test_percentages_from_counted_macs():
    macs = {}
    for teacher, student, r, percent, *_ in PUBLISHED:
        for name in (teacher, student):
            if name not in macs:
                with torch.device("meta"):  # shapes alone
                    macs[name] = macs_of(create_model(name), (3, 32, 32))
        ours = macs[teacher] / macs[student]
        assert 100 * cost_ratio(ours, 0.75) == pytest.approx(percent, abs=0.35)
        assert ours == pytest.approx(r, rel=0.15 if student == "MobileNetV2" else 0.04)


def test_means_behind_the_abstract():
    costs = [row[3] for row in PUBLISHED]
    assert sum(costs[:6]) / 6 == pytest.approx(79.44, abs=0.01)
    assert sum(costs[6:]) / 6 == pytest.approx(92.40, abs=0.01)


def test_break_even_and_advice():
    assert break_even(0.75) == 2.0
    assert cost_ratio(break_even(0.7), 0.7) == pytest.approx(1.0)
    assert cost_ratio(break_even(0.8, 2.0), 0.8, 2.0) == pytest.approx(1.0)
    assert cost_ratio(1.0, 0.75) > 1.0
    assert "no saving" in advice(2.02, 0.75)
    assert "no saving" not in advice(8.0, 0.75)
    assert cost_ratio(5.0, 0.75, scoring=False) == 0.75


@pytest.mark.parametrize("arguments", [(0.0, 0.5), (1.0, 0.0), (1.0, 1.1), (1.0, 0.5, -1.0)])
def test_bad_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="cost_ratio"):
        cost_ratio(*arguments)
    with pytest.raises(ValueError, match="break_even"):
        break_even(1.0)


def test_the_verb_prints_both_conventions(capsys):
    cost("resnet56", "resnet20")
    said = capsys.readouterr().out
    assert "125,753,600" in said
    assert "40,818,944" in said
    assert said.count("expected cost") == 2
