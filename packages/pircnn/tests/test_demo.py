"""The card and the experiment, a few steps of them."""

import numpy as np
import pytest
from PIL import Image

from pircnn.demo import run_demo
from pircnn.experiment import DETECTION, POINTS, settings
from pircnn.model import PIRCNN, VARIANTS
from tenfold.train.demo import read_demo


def test_a_short_card(tmp_path):
    result = run_demo(tmp_path, steps=3, pool=6, number=4)
    assert result.passed
    assert read_demo(tmp_path).claim == result.claim
    picture = np.asarray(Image.open(result.pictures[0]))
    assert picture.shape[1] == 960
    assert [row[0] for row in result.rows] == ["PI-RCNN", "control: another scene's image"]
    assert result.seconds > 0


def test_arms():
    assert {"pointrcnn", "pacf-shuffled", "pacf-frozen", "pacf-wrong-calibration"} <= set(DETECTION)
    assert all(arm.variant in VARIANTS for arm in DETECTION.values())
    assert sorted(POINTS.values()) == [1, 3, 5, 9]
    for name in ("seg-joint+pseg", "paint-input", "seg-frozen"):
        arm = DETECTION[name]
        model = PIRCNN.from_config(arm.variant, **settings(arm))
        assert model.config.branch == arm.branch


@pytest.mark.slow
def test_the_image_tells_cars_from_decoys(tmp_path):
    """The card at its full size: the control cannot rank cars above decoys."""
    result = run_demo(tmp_path)
    fused, control = (float(row[2]) for row in result.rows)
    assert fused - control > 10
