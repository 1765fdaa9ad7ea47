"""The demo card and the experiments behind it, in a few steps."""

import numpy as np
import pytest
import torch

from tenfold.testing import require
from tenfold.train.demo import read_demo
from xview3d import geometry, probe
from xview3d.probe import ARMS, Probe, average_precision, run_probe

require("lightning")


@pytest.mark.filterwarnings("ignore")
def test_the_card(tmp_path, monkeypatch):
    from dataclasses import replace

    from xview3d import demo, experiment

    monkeypatch.setattr(demo, "_SCENES", 2)
    small = {**experiment.ARMS, "demo": replace(experiment.ARMS["demo"], frames=(4, 2))}
    monkeypatch.setattr(demo, "ARMS", small)
    result = demo.run_demo(tmp_path, steps=2)
    assert read_demo(tmp_path).rows == result.rows
    assert [row[0] for row in result.rows] == ["after 2 steps"]
    names = [path.name for path in result.pictures if path.name != "cells_kitti.png"]
    assert names == ["cells.png", "found_0.png", "found_1.png"]
    assert all(path.stat().st_size > 2000 for path in result.pictures)
    assert "share their finest cell" in result.number


def test_a_second_centre_keeps_far_objects_apart():
    cloud = geometry.simulate_clouds(0, 6)
    ego, both, ahead = (
        geometry.shared_by_distance(cloud, f"geometry-{name}").numpy() for name in ("ego", "both", "ahead")
    )
    assert np.nanmean(ego[4:]) > 0.02
    assert np.nanmean(both[4:]) < np.nanmean(ego[4:]) / 2
    assert (both <= np.fmin(ego, ahead) + 1e-9)[~np.isnan(both)].all()
    numbers = geometry.measure("geometry-ego", 0, 6)
    assert set(numbers) <= set(geometry.names_of_bins())
    assert all(np.isfinite(value) for value in numbers.values())


def test_the_probe_learns_and_its_controls_have_its_size():
    found = run_probe(ARMS["probe-xview"], 0, steps=6, scenes=(6, 2))
    assert np.mean(found.losses[-2:]) < found.losses[0]
    assert len(found.precision) == len(probe.BANDS)
    assert all(0 <= value <= 100 for value in found.precision)
    sizes = {name: sum(p.numel() for p in Probe(arm).parameters()) for name, arm in ARMS.items()}
    assert sizes["probe-ego"] == sizes["probe-far-only"] == 107_203
    two = {"probe-ego2", "probe-xview", "probe-behind", "probe-shuffled"}
    assert {sizes[name] for name in two} == {207_939}


def test_probe_arms_differ_where_they_say():
    a, b = (run_probe(ARMS[name], 0, steps=1, scenes=(4, 2)) for name in ("probe-xview", "probe-ego2"))
    again = run_probe(ARMS["probe-xview"], 0, steps=1, scenes=(4, 2))
    assert a.losses == again.losses
    assert a.precision == again.precision
    assert a.losses != b.losses
    assert average_precision(torch.zeros(4), torch.tensor([True, False, False, False])) == 0.25


def test_a_site_is_foreground_when_half_of_its_points_are():
    """Four points of one site, box by box."""
    xyz = torch.tensor([[10.1, 0.1, -1.0], [10.2, 0.2, -1.0], [10.3, 0.3, -1.0], [10.35, 0.35, -1.0]])
    site = torch.tensor([[0, 0, 32, 12]], dtype=torch.int32)  # x 9.6 to 10.4, y 0 to 0.8
    for middle, length, wanted in ((0.15, 0.3, True), (0.1, 0.05, False)):
        box = torch.tensor([[10.0 + middle, middle, -1.0, length, length, 1.5, 0.0]])
        foreground, offset, place = probe._label(xyz, site, box)
        assert place[0].tolist() == pytest.approx([10.0, 0.4])
        assert foreground.item() == wanted
        if wanted:
            assert offset[0].tolist() == pytest.approx([0.15, -0.25], abs=1e-5)
