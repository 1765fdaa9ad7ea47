"""The geometry of views against closed forms, the released tables, and float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xview3d import PerspectiveTransform, View, kitti_views, nuscenes_views, pointpillars_views

KITTI = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
NUSCENES = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
PILLARS = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
metres = st.floats(-70, 70, allow_subnormal=False)
places = st.tuples(metres, metres, metres)
kinds = st.sampled_from(["spherical", "cylindrical", "cartesian"])


def local_of(view, *xyz):
    return view.to_local(torch.tensor([xyz], dtype=torch.float64))[0].tolist()


@settings(max_examples=200, deadline=None)
@given(places, places, kinds, st.floats(-4, 4))
def test_there_and_back(point, center, kind, yaw):
    view = View(center, kind=kind, yaw=0.0 if kind == "cartesian" else yaw)
    xyz = torch.tensor([point], dtype=torch.float64)
    back = view.to_cartesian(view.to_local(xyz))
    torch.testing.assert_close(back, xyz, atol=1e-5, rtol=1e-9)
    torch.testing.assert_close(
        view.to_cartesian(view.to_local(xyz.float())).double(), xyz, atol=5e-4, rtol=1e-5
    )


@settings(max_examples=100, deadline=None)
@given(places, places)
def test_equals_the_definition(point, center):
    q = np.subtract(point, center)
    r = np.linalg.norm(q)
    if np.hypot(q[0], q[1]) < 1e-3:
        return
    got = local_of(View(center), *point)
    wanted = (r, math.atan2(q[1], q[0]), math.acos(np.clip(q[2] / r, -1, 1)))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_axes_and_the_seam():
    view = View()
    for xy, psi in (((1, 0), 0), ((0, 1), math.pi / 2), ((-1, 0), math.pi), ((0, -1), -math.pi / 2)):
        assert local_of(view, *xy, 0.0) == pytest.approx([1, psi, math.pi / 2])
    assert local_of(view, -1.0, -0.0, 0.0)[1] == pytest.approx(math.pi)  # -0 is no other side of the seam
    assert local_of(view, 0.0, 0.0, 2.0) == pytest.approx([2, 0, 0])
    assert local_of(view, 0.0, 0.0, -2.0) == pytest.approx([2, 0, math.pi])


@pytest.mark.parametrize("kind", ["spherical", "cylindrical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_centre_on_top_of_a_point_is_finite_in_value_and_gradient(kind, dtype):
    view = View((3.0, 1.0, -1.0), kind=kind)
    center = torch.tensor([3.0, 1.0, -1.0], dtype=dtype, requires_grad=True)
    xyz = torch.tensor(
        [[3.0, 1.0, -1.0], [3.0, 1.0, 2.0], [3.0 + 1e-9, 1.0, -1.0]], dtype=dtype, requires_grad=True
    )
    local = view.to_local(xyz, center)
    last = math.pi / 2 if kind == "spherical" else 0.0
    assert local[0].tolist() == pytest.approx([0, 0, last])
    local.sum().backward()
    assert xyz.grad.isfinite().all()
    assert center.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(places, places, places)
def test_moving_scene_and_centre_together_changes_nothing(point, center, shift):
    a = local_of(View(center), *point)
    b = local_of(View(tuple(np.add(center, shift))), *np.add(point, shift))
    q = np.subtract(point, center)
    if np.hypot(q[0], q[1]) > 1e-3 and abs(abs(a[1]) - math.pi) > 1e-6:
        np.testing.assert_allclose(a, b, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(places, places, st.floats(-3, 3))
def test_turning_the_scene_about_the_centre_shifts_psi_alone(point, center, angle):
    view = View(center)
    q = np.subtract(point, center)
    if np.hypot(q[0], q[1]) < 1e-3:
        return
    turned = (
        q[0] * math.cos(angle) - q[1] * math.sin(angle),
        q[0] * math.sin(angle) + q[1] * math.cos(angle),
        q[2],
    )
    a, b = local_of(view, *point), local_of(view, *np.add(center, turned))
    assert b[0] == pytest.approx(a[0])
    assert b[2] == pytest.approx(a[2], abs=1e-7)
    assert math.remainder(b[1] - a[1] - angle, 2 * math.pi) == pytest.approx(0, abs=1e-6)
    yawed = local_of(View(center, yaw=angle), *point)
    assert math.remainder(yawed[1] - (a[1] - angle), 2 * math.pi) == pytest.approx(0, abs=1e-6)


def test_the_worked_example():
    assert local_of(View(), 35.4, 0.2, -2.0) == pytest.approx([35.4570, 0.00565, 1.62723], abs=1e-4)
    assert local_of(View((40, 0, 0)), 35.4, 0.2, -2.0) == pytest.approx([5.01996, 3.09814, 1.98058], abs=1e-5)


@pytest.mark.parametrize(
    ("center", "limits", "wanted"),
    [
        ((0, 0, 0), KITTI, 81.03),
        ((40, 0, 0), KITTI, 56.65),
        ((40, 20, 0), KITTI, 72.17),
        ((40, -20, 0), KITTI, 72.17),
        ((60, 0, 0), KITTI, 72.17),
        ((0, 0, 0), NUSCENES, 72.58),
        ((40, 0, 0), NUSCENES, 104.71),
        ((-40, 0, 0), NUSCENES, 104.71),
    ],
)
def test_needed_ranges(center, limits, wanted):
    assert View(center).needed(limits)[3] == pytest.approx(wanted, abs=0.006)
    view = View(center).resolved(limits)
    assert wanted <= view.bounds[3] < wanted + 0.41
    assert view.bounds[3] / 0.4 == pytest.approx(round(view.bounds[3] / 0.4))


@settings(max_examples=80, deadline=None)
@given(places, kinds, st.floats(-4, 4), st.integers(0, 2**31))
def test_needed_ranges_hold_every_point_and_no_less(center, kind, yaw, seed):
    view = View(center, kind=kind, yaw=0.0 if kind == "cartesian" else yaw)
    low, high = np.array(KITTI[:3]), np.array(KITTI[3:])
    cloud = np.random.default_rng(seed).uniform(low, high, (4000, 3))
    corners = np.array(
        [[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    local = view.to_local(torch.from_numpy(np.concatenate((cloud, corners)))).numpy()
    needed = np.array(view.needed(KITTI))
    assert (local >= needed[:3] - 1e-6).all()
    assert (local <= needed[3:] + 1e-6).all()
    assert local[:, 0].max() == pytest.approx(needed[3], rel=1e-6)
    auto = View(center, kind=kind, yaw=view.yaw).resolved(KITTI)
    assert (local >= np.array(auto.bounds[:3]) - 1e-6).all()
    assert (local <= np.array(auto.bounds[3:]) + 1e-6).all()


def test_released_views_cover_their_data_sets():
    for number in (1, 2, 3, 4):
        assert [v.resolved(KITTI) for v in kitti_views(number)] == list(kitti_views(number))
    assert [v.resolved(NUSCENES).grid for v in nuscenes_views()] == [
        (800, 320, 320),
        (1048, 320, 320),
        (1048, 320, 320),
    ]
    assert [v.resolved(PILLARS).spatial_shape for v in pointpillars_views()] == [(2, 320, 416), (2, 640, 288)]
    assert [v.spatial_shape for v in kitti_views(2)] == [(320, 320, 1640), (320, 640, 1152)]
    with pytest.raises(ValueError, match="1 to 4"):
        kitti_views(5)


def test_a_range_that_leaves_something_out_is_refused_with_the_numbers():
    small = View((40, 0, 0), range=(0, -3.2, 0, 40, 3.2, 3.19))
    with pytest.raises(ValueError, match=r"r from 0 to 40 leaves out .* needs 0\.0000 to 56\.6[45]"):
        small.resolved(KITTI)
    with pytest.raises(ValueError, match=r"psi from -1\.6 to 1\.6 leaves out"):
        View((40, 0, 0), range=(0, -1.6, 0, 82, 1.6, 3.19)).resolved(KITTI)
    with pytest.raises(ValueError, match="theta"):
        View(range=(0, -1.6, 0, 82, 1.6, 1.6)).resolved(KITTI)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "polar"}, "kind"),
        ({"center": (0, 0)}, "center"),
        ({"center": (0, 0, float("nan"))}, "center"),
        ({"voxel": (0.05, 0.01, 0)}, "voxel"),
        ({"range": (0, 0, 0, 82, 6.28, 3.19)}, "wraps around"),
        ({"range": (0, 2.0, 0, 82, 4.0, 3.19)}, "wraps around"),
        ({"range": (0, -1.6, 0, 82.02, 1.6, 3.19)}, "whole number"),
        ({"range": (82, -1.6, 0, 0, 1.6, 3.19)}, "lower < upper"),
        ({"range": "all"}, "range"),
        ({"psi_padding": "wrap"}, "psi_padding"),
        ({"kind": "cartesian", "yaw": 1.0}, "cartesian"),
        ({"max_points": 0}, "max_points"),
        ({"yaw": float("inf")}, "yaw"),
    ],
)
def test_bad_views_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        View(**fields)


def test_circular_views_divide_the_whole_circle():
    view = View((40, 0, 0), psi_padding="circular").resolved(KITTI)
    cells = view.grid[1]
    assert cells % 8 == 0
    assert view.voxel[1] * cells == pytest.approx(2 * math.pi)
    with pytest.raises(ValueError, match="whole circle"):
        View(psi_padding="circular").resolved(KITTI)


def test_rows_belong_together_whatever_happens_to_the_points_before():
    torch.manual_seed(0)
    points = torch.cat((torch.zeros(500, 1), torch.rand(500, 4) * 40), 1)
    points = points[torch.randperm(500)][:300]
    views = [View(), View((40.0, -20.0, 0.0), yaw=1.0), View((40.0, 0, 0), kind="cylindrical")]
    for view, local in zip(views, PerspectiveTransform(views)(points), strict=True):
        torch.testing.assert_close(view.to_cartesian(local[:, 1:4]), points[:, 1:4], atol=1e-4, rtol=1e-5)
        assert torch.equal(local[:, [0, 4]], points[:, [0, 4]])


def test_the_transform_refuses_what_is_no_number():
    points = torch.zeros(3, 5)
    points[1, 2] = float("nan")
    with pytest.raises(ValueError, match="row 1 is not finite"):
        PerspectiveTransform([View()])(points)
    with pytest.raises(ValueError, match=r"points: got shape \(3, 2\)"):
        PerspectiveTransform([View()])(torch.zeros(3, 2))
    assert [p.shape for p in PerspectiveTransform([View()] * 2, keep=0)(torch.zeros(0, 5))] == [(0, 4)] * 2
