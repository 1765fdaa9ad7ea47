"""Hit rates, purity, effects, costs and proposed centres against closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from xview3d_tiny import tiny_detector, tiny_views

from tenfold.testing import sample_data
from xview3d import View, add_xview, diagnostics, kitti_views, propose_centers
from xview3d.cost import PARTS, kept_bytes, measure_cost
from xview3d.diagnostics import FUSED_CELL, cell_purity, cell_width, hit_rate, occupancy
from xview3d.probe import average_precision

KITTI = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)


def test_two_cars_far_away_share_the_cell_of_the_car_alone():
    """Lateral width is distance times angle: 4.8 m at 60 m, and 1.6 m at 20 m from a centre ahead."""
    rows = torch.tensor([[60.0, 0.2, -1.0], [60.0, 2.5, -1.0], [60.0, -30.0, -1.0]])
    who = torch.tensor([0, 1, 2])
    ego, ahead = (cell_purity(rows, who, View(c)) for c in ((0, 0, 0), (40, 0, 0)))
    assert ego.impure.tolist() == [True, True, False]
    assert ahead.impure.tolist() == [False, False, False]
    assert ego.points.tolist() == [0, 0, 0, 0, 0, 0, 3]
    assert ego.shared[6].item() == pytest.approx(2 / 3)
    assert torch.isnan(ego.shared[:6]).all()
    assert cell_width(rows[:1], [View()]).item() == pytest.approx(math.hypot(60, 0.2) * FUSED_CELL[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 300))
def test_purity_equals_a_loop(seed, number):
    rng = np.random.default_rng(seed)
    xyz = np.column_stack(
        (rng.uniform(0, 30, number), rng.uniform(-6, 6, number), rng.uniform(-2, 0, number))
    )
    who, frame = rng.integers(-1, 5, number), rng.integers(0, 2, number)
    view = View((20.0, 0.0, 0.0))
    got = cell_purity(torch.from_numpy(xyz), torch.from_numpy(who), view, frame=torch.from_numpy(frame))
    cells = {}
    place = np.floor(view.to_local(torch.from_numpy(xyz)).numpy() / FUSED_CELL)
    for k in range(number):
        if who[k] >= 0:
            cells.setdefault((frame[k], *place[k]), set()).add(who[k])
    wanted = [who[k] >= 0 and len(cells[frame[k], *place[k]]) > 1 for k in range(number)]
    assert got.impure.tolist() == wanted
    distance = np.hypot(xyz[:, 0], xyz[:, 1])
    for k, (low, high) in enumerate(itertools.pairwise(diagnostics.RANGE_EDGES)):
        own = (distance >= low) & (distance < high) & (who >= 0)
        assert got.points[k] == own.sum()
        if own.any():
            assert got.shared[k].item() == pytest.approx(np.mean(np.array(wanted)[own]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200))
def test_extent_equals_a_loop(seed, number):
    rng = np.random.default_rng(seed)
    xyz = np.column_stack(
        (rng.uniform(0, 69, number), rng.uniform(-6, 6, number), rng.uniform(-2, 0, number))
    )
    view = View((20.0, 0.0, 0.0))
    got = diagnostics.cell_extent(torch.from_numpy(xyz), view)
    place = np.floor(view.to_local(torch.from_numpy(xyz)).numpy() / FUSED_CELL)
    wanted = [np.hypot(*np.ptp(xyz[(place == place[k]).all(1)][:, :2], axis=0)) for k in range(number)]
    np.testing.assert_allclose(got.points.numpy(), wanted)
    near = np.hypot(xyz[:, 0], xyz[:, 1]) < 10
    if near.any():
        assert got.mean[0].item() == pytest.approx(np.mean(np.array(wanted)[near]))


def test_purity_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="instance_ids"):
        cell_purity(torch.zeros(3, 3), torch.zeros(2, dtype=torch.long), View())
    with pytest.raises(ValueError, match="edges"):
        cell_purity(torch.zeros(3, 3), torch.zeros(3, dtype=torch.long), View(), edges=(10, 0))
    with pytest.raises(ValueError, match="points"):
        cell_purity(torch.zeros(3), torch.zeros(3, dtype=torch.long), View())


def test_a_right_look_up_hits_and_a_wrong_one_does_not(batch):
    model = add_xview(tiny_detector("second"), tiny_views("second"))
    rates = hit_rate(model, batch)
    assert min(rates) > 0.7
    assert max(rates) <= 1
    wrong = add_xview(tiny_detector("second"), tiny_views("second"))
    projector = wrong.projectors["out"]
    cells = projector.cells
    projector.cells = lambda *args: cells(*args).flip(1)  # another order of the axes
    assert max(hit_rate(wrong, batch)) < 0.3
    with pytest.raises(ValueError, match="has no views"):
        hit_rate(tiny_detector("second"), batch)
    points = add_xview(tiny_detector("pointrcnn"), tiny_views("pointrcnn"))
    with pytest.raises(ValueError, match="row by row"):
        hit_rate(points, batch)


def test_dropped_points_are_counted(batch):
    tight = [View(voxel=(0.2, 0.04, 0.04), max_voxels=(10, 10)), View(voxel=(0.2, 0.04, 0.04), max_points=1)]
    main, few, single = occupancy(add_xview(tiny_detector("second"), tight), batch)
    assert (main.name, few.name, single.name) == ("main", "0", "1")
    assert few.voxels == 20
    assert few.over_voxels > 1000
    assert single.over_voxels == 0
    assert single.over_points > 0
    with pytest.raises(ValueError, match="no voxels"):
        occupancy(add_xview(tiny_detector("pointrcnn"), tiny_views("pointrcnn")), batch)


def test_costs_have_parts_and_views_cost_something(batch):
    base = tiny_detector("second")
    model = add_xview(base, tiny_views("second"))
    cost = measure_cost(model, batch, 2, 1, memory=True)
    assert set(cost.parts) == set(PARTS)
    assert sum(cost.parts.values()) == pytest.approx(cost.total, rel=0.5)
    assert cost.parts["views"] > 0
    assert cost.parts["gather"] > 0
    plain = measure_cost(base, batch, 2, 1)
    assert plain.parts["views"] == plain.parts["gather"] == 0
    assert plain.kept is None
    assert cost.kept > kept_bytes(base, batch) > 0
    assert not model.training


# ---- where to put a centre -------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_proposed_centre_is_the_best_of_all_candidates(seed):
    rng = np.random.default_rng(seed)
    places = np.column_stack((rng.uniform(0, 70, 40), rng.uniform(-40, 40, 40)))
    ((x, y, z),) = propose_centers(torch.from_numpy(places), KITTI, step=10.0, weigh="points")
    assert z == 0

    def cost(center):
        return np.minimum(np.hypot(*places.T), np.hypot(*(places - center).T)).mean()

    best = min(cost((a, b)) for a in range(0, 71, 10) for b in range(-40, 41, 10))
    assert cost((x, y)) == pytest.approx(best)


def test_area_counts_places_and_not_points():
    near = torch.rand(5000, 2) * 4 + torch.tensor([6.0, -2.0])
    far = torch.cartesian_prod(torch.arange(40.0, 60), torch.arange(-10.0, 10)) + 0.5
    both = torch.cat((near, far))
    assert propose_centers(both, KITTI)[0][0] == 50
    two = propose_centers(both, KITTI, 2)
    assert two[0] == propose_centers(both, KITTI)[0]
    assert len(set(two)) == 2
    with pytest.raises(ValueError, match="none lies in the range"):
        propose_centers(torch.tensor([[-5.0, 0.0]]), KITTI)
    for bad in ({"number": 0}, {"step": 0.0}, {"weigh": "volume"}):
        with pytest.raises(ValueError, match="propose_centers"):
            propose_centers(both, KITTI, **bad)


# ---- the probe's metric ----------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_average_precision_equals_scikit_learns(seed, number):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=number), 1)  # with ties
    positive = rng.random(number) < 0.4
    if positive.any():
        got = average_precision(torch.from_numpy(scores), torch.from_numpy(positive))
        assert got == pytest.approx(average_precision_score(positive, scores))


# ---- a real frame ----------------------------------------------------------------------------------


def test_hit_rates_of_the_released_grids_on_a_real_frame():
    """Synthetic frames gave 0.84 to 0.98; a wrong axis would show."""
    from tenfold.lidar import build_detector

    file = sample_data("kitti", "training", "velodyne", "000001.bin")
    points = np.fromfile(file, np.float32).reshape(-1, 4)
    points = points[np.abs(np.arctan2(points[:, 1], points[:, 0])) < np.pi / 4]
    batch = {"points": torch.from_numpy(np.insert(points, 0, 0, axis=1)), "batch_size": 1}
    narrow = {"channels": [2, 2, 2, 2], "out_channels": 2}
    torch.manual_seed(0)
    base = build_detector("second", **narrow).eval()
    official = hit_rate(add_xview(base, kitti_views(2)), batch)
    field = hit_rate(add_xview(base, kitti_views(2), index_mode="receptive_field"), batch)
    assert min(official) > 0.8
    assert min(field) > 0.8
    assert max(*official, *field) < 1
