"""The look-up against a dense volume and a loop, written apart from it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.sparse import SparseTensor
from xview3d import MainGrid, View, ViewProjector, ViewStride, kitti_views

KITTI = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
GRID = MainGrid.encoder(KITTI, (0.05, 0.05, 0.1))
SHAPES = ((19, 40, 205), (19, 80, 144))
TOY_RANGE = (0.0, -8.0, -2.0, 16.0, 8.0, 2.0)
TOY = MainGrid(TOY_RANGE, (0.5, 0.5, 0.5), (2.0, 2.0, 4.0))
TOY_STRIDE = ViewStride((2.0, 2.0, 2.0), (0.0, 0.0, 0.0))


def sparse(rows, shape, channels=3, frames=2, seed=0, dtype=torch.float32):
    coords = torch.tensor(rows, dtype=torch.int32).reshape(-1, 4)
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(len(coords), channels, generator=generator, dtype=torch.float64).to(dtype)
    return SparseTensor(features, coords, shape, frames)


def drawn(shape, number, frames, seed):
    rng = np.random.default_rng(seed)
    flat = rng.choice(frames * math.prod(shape), min(number, frames * math.prod(shape)), replace=False)
    return np.stack(np.unravel_index(np.sort(flat), (frames, *shape)), 1).tolist()


def dense_look_up(projector, main, found, view):
    """Float64, one site after the other, from a dense volume."""
    volume = found.dense().double().numpy()
    theta, psi, r = found.spatial_shape
    out = np.zeros((len(main.coords), volume.shape[1]))
    g, s = projector.main_grid, projector.stride.stride
    for row, (b, kz, ky, kx) in enumerate(main.coords.tolist()):
        place = [
            (k + 0.5) * n * size + lo
            for k, n, size, lo in zip((kx, ky, kz), g.stride, g.voxel_size, g.point_range)
        ]
        q = np.subtract(np.float32(place).astype(float), view.center)
        radius = np.linalg.norm(q)
        local = (
            (radius, math.atan2(q[1], q[0]), math.acos(q[2] / radius))
            if radius > 1e-6
            else (0, 0, math.pi / 2)
        )
        u = [(v - lo) / (n * size) for v, lo, n, size in zip(local, view.bounds, s, view.voxel)]
        low = [math.floor(v) for v in u]
        if not all(0 <= k < n for k, n in zip(low, (r, psi, theta))):
            continue
        if projector.interpolation == "nearest":
            out[row] = volume[b, :, low[2], low[1], low[0]]
            continue
        for corner in itertools.product((0, 1), repeat=3):
            weight = math.prod(f if c else 1 - f for c, f in zip(corner, np.subtract(u, low)))
            cell = [min(k + c, n - 1) for k, c, n in zip(low, corner, (r, psi, theta))]
            out[row] += weight * volume[b, :, cell[2], cell[1], cell[0]]
    return out


def test_the_worked_example():
    views = kitti_views(2)
    projector = ViewProjector(views, GRID)
    site = torch.tensor([[0, 0, 100, 88]])
    place = GRID.places(site, "official")
    assert place[0].tolist() == pytest.approx([35.4, 0.2, -2.0], abs=1e-5)
    u = [projector.cells(view, place)[0].tolist() for view in views]
    assert u[0] == pytest.approx([88.6425, 20.0706, 10.1702], abs=2e-3)
    assert u[1] == pytest.approx([12.5499, 78.7268, 12.3786], abs=2e-3)
    field = GRID.places(site, "receptive_field")[0].tolist()
    assert field == pytest.approx(
        [8 * 88 * 0.05 + 0.025, 8 * 100 * 0.05 + 0.025 - 40, 12 * 0.1 + 0.05 - 3], abs=1e-4
    )
    # The nearest cell of receptive fields: rounding after a shift by 1 / 16, and (16 u - 12.5) / 16 for theta.
    other = ViewProjector(views, GRID, index_mode="receptive_field")
    shifted = other.cells(views[0], place)[0].tolist()
    wanted = [88.6425 - 1 / 16, 20.0706 - 1 / 16, (10.1702 * 16 - 12.5) / 16]
    assert shifted == pytest.approx([w + 0.5 for w in wanted], abs=2e-3)


def test_layers_of_both_data_sets():
    high = [GRID.places(torch.tensor([[0, k, 0, 0]]), "official")[0, 2].item() for k in (0, 1)]
    assert high == pytest.approx([-2, 0])
    nuscenes = MainGrid.encoder((-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), (0.1, 0.1, 0.2))
    high = [nuscenes.places(torch.tensor([[0, k, 0, 0]]), "official")[0, 2].item() for k in (0, 1)]
    assert high == pytest.approx([-3, 1], abs=1e-5)


def test_one_cell_and_one_site():
    view = kitti_views(1)[0]
    projector = ViewProjector([view], GRID)
    found = SparseTensor(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[0, 10, 20, 88]], dtype=torch.int32), SHAPES[0], 1
    )
    for kx, hit in ((88, 1.0), (89, 0.0)):
        main = SparseTensor(
            torch.ones(1, 2), torch.tensor([[0, 0, 100, kx]], dtype=torch.int32), (2, 200, 176), 1
        )
        assert projector(main, [found]).features.tolist() == [[1 + hit, 1 + 2 * hit]]


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), x=st.floats(-20, 20), y=st.floats(-20, 20), number=st.integers(0, 60))
def test_equals_a_dense_volume(interpolation, seed, x, y, number):
    view = View((x, y, 0.3), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    first, psi, third = (n // 2 for n in view.grid)
    projector = ViewProjector([view], TOY, TOY_STRIDE, interpolation)
    main = sparse(drawn((2, 16, 16), 40, 2, seed), (2, 16, 16), seed=seed)
    cells = [*drawn((third, psi, first), 300, 2, seed + 1)][: 5 * number]
    found = sparse(cells, (third, psi, first), seed=seed + 2)
    got = projector(main, [found]).features - main.features
    wanted = dense_look_up(projector, main, found, view)
    u = projector.cells(view, TOY.places(main.coords, "official"))
    clear = ((u - u.round()).abs() > 1e-4).all(1).numpy()  # on a face, float32 may choose either cell
    np.testing.assert_allclose(got.numpy()[clear], wanted[clear], atol=1e-5)


def test_hits_something_on_the_way():
    """The property above would also hold of a look-up that finds nothing if the volumes were empty."""
    view = View((8.0, 0.0, 0.0), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    shape = tuple(n // 2 for n in reversed(view.grid))
    projector = ViewProjector([view], TOY, TOY_STRIDE)
    main = sparse(drawn((2, 16, 16), 500, 1, 0), (2, 16, 16), frames=1)
    found = sparse(drawn(shape, 10**6, 1, 1), shape, frames=1)
    assert projector.hits(main, [found]).item() == 1.0
    assert dense_look_up(projector, main, found, view).any(1).all()


def test_views_add_up_and_stand_behind_each_other():
    view = View((8.0, 0.0, 0.0), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    shape = tuple(n // 2 for n in reversed(view.grid))
    main, found = (
        sparse(drawn((2, 16, 16), 50, 2, 3), (2, 16, 16)),
        sparse(drawn(shape, 900, 2, 4), shape, seed=5),
    )
    one = ViewProjector([view], TOY, TOY_STRIDE)(main, [found]).features - main.features
    two = ViewProjector([view] * 2, TOY, TOY_STRIDE)(main, [found] * 2).features - main.features
    torch.testing.assert_close(two, 2 * one)
    assert one.abs().sum() > 0
    joined = ViewProjector([view] * 2, TOY, TOY_STRIDE, fuse="cat")(main, [found] * 2).features
    assert torch.equal(joined[:, :3], main.features)
    torch.testing.assert_close(joined[:, 3:6], one)
    assert torch.equal(joined[:, 3:6], joined[:, 6:])


def test_nothing_found_leaves_the_features_bit_for_bit():
    view = View((8.0, 0.0, 0.0), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    shape = tuple(n // 2 for n in reversed(view.grid))
    main = sparse(drawn((2, 16, 16), 50, 2, 3), (2, 16, 16))
    empty, zeros = sparse([], shape), sparse(drawn(shape, 900, 2, 4), shape)
    projector = ViewProjector([view] * 2, TOY, TOY_STRIDE)
    assert torch.equal(projector(main, [empty, zeros.replace(zeros.features * 0)]).features, main.features)
    none = sparse([], (2, 16, 16))
    assert projector(none, [zeros, zeros]).features.shape == (0, 3)
    assert projector.hits(none, [zeros, zeros]).tolist() == [1, 1]


def test_linear_at_corners_is_nearest():
    """Sites whose place in the view is a whole number of cells in all three coordinates."""
    view = View((0.0, 0.0, 0.0), range=(0, -1.6, 0, 24, 1.6, 3.2), voxel=(0.5, 0.2, 0.2))
    shape = tuple(n // 2 for n in reversed(view.grid))
    found = sparse(drawn(shape, 10**6, 1, 0), shape, frames=1)
    u = torch.cartesian_prod(torch.arange(1.0, 11), torch.arange(1.0, 7), torch.arange(1.0, 7))
    from xview3d.projector import _sample

    batch = torch.zeros(len(u), dtype=torch.int32)
    near = _sample(u, batch, found, view, "nearest")
    torch.testing.assert_close(_sample(u, batch, found, view, "linear"), near)
    # At the last cell the upper corner is clamped: the value stays.
    last = torch.tensor([[23.7, 7.9, 7.9]])
    corner = _sample(last.floor(), batch[:1], found, view, "nearest")
    torch.testing.assert_close(_sample(last, batch[:1], found, view, "linear"), corner)
    # Outside there is nothing, in both.
    for beyond in ([24.0, 3, 3], [-0.1, 3, 3], [3, 8.0, 3], [3, 3, -1.0], [3, 3, 1e9]):
        for mode in ("nearest", "linear"):
            assert _sample(torch.tensor([beyond]), batch[:1], found, view, mode).abs().sum() == 0


def test_frames_do_not_mix():
    view = View((8.0, 0.0, 0.0), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    shape = tuple(n // 2 for n in reversed(view.grid))
    cells = drawn(shape, 400, 1, 4)
    found = sparse([[1, *row[1:]] for row in cells], shape)
    sites = drawn((2, 16, 16), 60, 1, 3)
    projector = ViewProjector([view], TOY, TOY_STRIDE)
    for frame, any_hit in ((0, False), (1, True)):
        main = sparse([[frame, *row[1:]] for row in sites], (2, 16, 16))
        got = projector(main, [found]).features - main.features
        assert bool((got != 0).any()) == any_hit


def test_gradient_of_a_cell_counts_its_sites():
    view = kitti_views(2)[1]
    projector = ViewProjector([view], GRID)
    sites = [[0, z, y, x] for z in (0, 1) for y in range(60, 140) for x in range(100)]
    main = sparse(sites, (2, 200, 176), channels=1, frames=1)
    found = sparse(drawn(SHAPES[1], 20000, 1, 0), SHAPES[1], channels=1, frames=1)
    leaf = found.features.clone().requires_grad_()
    out = projector(main, [found.replace(leaf)]).features
    out.sum().backward()
    u = projector.cells(view, GRID.places(main.coords, "official")).floor().long()
    hits = {}
    for r, psi, theta in u.tolist():
        hits[theta, psi, r] = hits.get((theta, psi, r), 0) + 1
    wanted = [hits.get(tuple(row[1:]), 0) for row in found.coords.tolist()]
    assert leaf.grad[:, 0].tolist() == wanted
    assert max(wanted) > 1


def test_gradient_against_finite_differences():
    view = View((8.0, 1.0, 0.0), range=(0, -3.2, 0, 24, 3.2, 3.2), voxel=(6.0, 0.8, 0.8))
    shape = tuple(n // 2 for n in reversed(view.grid))
    main = sparse(drawn((2, 16, 16), 12, 1, 3), (2, 16, 16), channels=2, frames=1, dtype=torch.float64)
    found = sparse(drawn(shape, 10**6, 1, 4), shape, channels=2, frames=1, dtype=torch.float64)
    projector = ViewProjector([view], TOY, TOY_STRIDE, "linear")

    def run(features):
        return projector(main, [found.replace(features)]).features

    assert torch.autograd.gradcheck(run, (found.features.clone().requires_grad_(),), atol=1e-5)


def test_a_trainable_centre_learns_through_linear_weights():
    view = View((8.0, 1.0, 0.0), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    shape = tuple(n // 2 for n in reversed(view.grid))
    main, found = sparse(drawn((2, 16, 16), 40, 1, 3), (2, 16, 16)), sparse(drawn(shape, 900, 1, 4), shape)
    center = torch.tensor([8.0, 1.0, 0.0], requires_grad=True)
    ViewProjector([view], TOY, TOY_STRIDE, "linear")(main, [found], [center]).features.sum().backward()
    assert center.grad.abs().sum() > 0
    assert center.grad.isfinite().all()
    frozen = torch.tensor([8.0, 1.0, 0.0], requires_grad=True)
    out = ViewProjector([view], TOY, TOY_STRIDE)(main, [found], [frozen]).features
    assert not out.requires_grad  # indices carry no gradient


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_a_mirrored_scene_has_a_mirrored_map(interpolation):
    """Sites and cells mirrored in y; the seam of the second view must not show."""
    for view in kitti_views(2):
        shape = SHAPES[0] if not any(view.center) else SHAPES[1]
        projector = ViewProjector([view], GRID, interpolation=interpolation)
        rows = drawn((2, 200, 176), 3000, 1, 0)
        main = sparse(rows, (2, 200, 176), channels=1, frames=1)
        mirrored = sparse([[b, z, 199 - y, x] for b, z, y, x in rows], (2, 200, 176), channels=1, frames=1)
        cells = drawn(shape, 60000, 1, 1)
        found = sparse(cells, shape, channels=1, frames=1)
        flipped = sparse([[b, t, shape[1] - 1 - p, r] for b, t, p, r in cells], shape, channels=1, frames=1)
        a = projector.look_up(main, [found])[0]
        b = projector.look_up(mirrored, [flipped])[0]
        if interpolation == "nearest":
            assert (a == b).float().mean() > 0.999  # a site on a face may fall to either side
        u = projector.cells(view, GRID.places(main.coords, "official"))
        v = projector.cells(view, GRID.places(mirrored.coords, "official"))
        torch.testing.assert_close(
            u[:, 1] + v[:, 1], torch.full_like(u[:, 1], float(shape[1])), atol=2e-3, rtol=0
        )
        assert a.abs().sum() > 0


def test_circular_neighbours_across_the_seam():
    view = View((8.0, 0.0, 0.0), voxel=(0.5, 0.2, 0.2), psi_padding="circular").resolved(TOY_RANGE)
    first, psi, third = (n // 2 for n in view.grid)
    cells = [[0, 3, 0, 2]]
    found = sparse(cells, (third, psi, first), channels=1, frames=1)
    projector = ViewProjector([view], TOY, TOY_STRIDE, "linear")
    from xview3d.projector import _sample

    u = torch.tensor([[2.0, psi - 0.25, 3.0]])  # three quarters of the way to cell 0 of the next turn
    got = _sample(u, torch.zeros(1, dtype=torch.int32), found, view, projector.interpolation)
    torch.testing.assert_close(got, 0.75 * found.features)
    plain = replace(view, psi_padding="zero")
    assert _sample(u, torch.zeros(1, dtype=torch.int32), found, plain, "linear").item() == 0


def test_shuffled_look_up_permutes_within_frames():
    view = View((8.0, 0.0, 0.0), voxel=(0.5, 0.2, 0.2)).resolved(TOY_RANGE)
    shape = tuple(n // 2 for n in reversed(view.grid))
    main = sparse(drawn((2, 16, 16), 200, 2, 3), (2, 16, 16))
    found = sparse(drawn(shape, 3000, 2, 4), shape)
    straight = ViewProjector([view], TOY, TOY_STRIDE).look_up(main, [found])[0]
    shuffled = ViewProjector([view], TOY, TOY_STRIDE, shuffle=True)
    got = shuffled.eval().look_up(main, [found])[0]
    assert torch.equal(got, shuffled.look_up(main, [found])[0])
    assert not torch.equal(got, straight)
    for frame in (0, 1):
        own = main.coords[:, 0] == frame
        assert sorted(got[own].tolist()) == sorted(straight[own].tolist())
    shuffled.train()
    assert not torch.equal(shuffled.look_up(main, [found])[0], shuffled.look_up(main, [found])[0])


def test_far_cells_do_not_overflow():
    view = View((1e7, 0.0, 0.0), range=(0, -3.2, 0, 82, 3.2, 3.2), voxel=(0.05, 0.01, 0.01))
    projector = ViewProjector([view], GRID)
    main = sparse([[0, 0, 0, 0]], (2, 200, 176), frames=1)
    found = sparse([[0, 0, 0, 0]], SHAPES[1], frames=1)
    assert torch.equal(projector(main, [found]).features, main.features)


def test_what_does_not_fit_is_named():
    view = kitti_views(1)[0]
    with pytest.raises(ValueError, match="interpolation: got 'cubic'"):
        ViewProjector([view], GRID, interpolation="cubic")
    with pytest.raises(ValueError, match="fuse: got 'max'"):
        ViewProjector([view], GRID, fuse="max")
    with pytest.raises(ValueError, match="index_mode"):
        ViewProjector([view], GRID, index_mode="exact")
    with pytest.raises(ValueError, match="'auto'"):
        ViewProjector([View()], GRID)
    main, found = sparse([[0, 0, 0, 0]], (2, 200, 176)), sparse([], SHAPES[0], channels=4)
    with pytest.raises(ValueError, match="got 0 tensors for 1 views"):
        ViewProjector([view], GRID)(main, [])
    with pytest.raises(ValueError, match="4 channels, the detector 3"):
        ViewProjector([view], GRID)(main, [found])
