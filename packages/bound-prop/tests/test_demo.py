"""The card."""

from dataclasses import replace

import pytest

from bound_prop import demo
from bound_prop.demo import run_demo
from bound_prop.experiment import ARMS
from tenfold.train.demo import read_demo

pytest.importorskip("lightning.pytorch")


@pytest.mark.filterwarnings("ignore")
def test_demo(tmp_path, monkeypatch):
    """The whole card of few images."""
    few = {"train_images": 256, "test_images": 40}
    monkeypatch.setattr(demo, "ARMS", {name: replace(arm, **few) for name, arm in ARMS.items()})
    monkeypatch.setattr(demo, "_IMAGES", 12)
    result = run_demo(tmp_path, epochs=2)
    assert result.passed
    assert result.pictures[0].stat().st_size > 1000
    assert read_demo(tmp_path).rows == result.rows
    assert len(result.rows) == 4
