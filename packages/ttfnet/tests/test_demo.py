"""The demo card and the experiment behind it, in a few steps."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tenfold.testing import require
from tenfold.train.demo import read_demo
from ttfnet.demo import run_demo
from ttfnet.experiment import ARMS, _distance, build, measure

require("pycocotools")


def smaller(monkeypatch):
    """Few pictures, small batches."""
    monkeypatch.setattr("ttfnet.experiment._PICTURES", {"train": 8, "val": 8})
    monkeypatch.setattr("ttfnet.experiment._BATCH", 4)


def test_the_card(tmp_path, monkeypatch):
    smaller(monkeypatch)
    result = run_demo(tmp_path, steps=3)
    assert read_demo(tmp_path).rows == result.rows
    assert [row[0] for row in result.rows] == ["many samples (TTFNet)", "one pixel (control)"]
    # Two objects with one centre pixel have one sample between them.
    assert result.rows[1][4] == pytest.approx(1, abs=0.05)
    assert result.rows[0][4] > 15
    assert result.pictures[0].stat().st_size > 10_000


def test_arms_of_a_seed_start_alike_and_differ_where_they_say():
    states = {name: build(arm, 0).state_dict() for name, arm in ARMS.items()}
    reference = states["many-lr0.01"]
    for name, state in states.items():
        shared = [k for k in state if k.startswith("backbone.") and k in reference]
        assert shared
        assert all(torch.equal(state[k], reference[k]) for k in shared), name
    whole = dict(reference)
    assert all(torch.equal(states["one-lr0.01"][k], v) for k, v in whole.items())
    assert not torch.equal(
        build(ARMS["many-lr0.01"], 1).state_dict()["backbone.conv1.weight"], whole["backbone.conv1.weight"]
    )


def test_weights_times_a_thousand_change_nothing(monkeypatch):
    """The normaliser divides by the sum of weights; a few steps end at nearly the same network."""
    smaller(monkeypatch)
    monkeypatch.setattr("ttfnet.experiment._distance", partial(_distance, steps=6))
    monkeypatch.setitem(ARMS, "scaled-weights-lr0.01", replace(ARMS["scaled-weights-lr0.01"], steps=2))
    # 2e-8 here; 4e-2 where the normaliser counts pixels instead of summing their weights.
    assert 0 < measure("scaled-weights-lr0.01", 0)["distance to unscaled"] < 1e-5


@pytest.mark.slow
def test_the_oracle_scores_one_hundred():
    numbers = measure("oracle", 0)
    assert numbers["AP"] == pytest.approx(100)
    assert numbers["AP of decoded targets"] >= 97
