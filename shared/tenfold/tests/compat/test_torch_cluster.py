"""compat.torch_cluster and the graph functions: brute force, the peer's documented examples, its quirks."""

import math

import pytest
import torch

from tenfold import validation
from tenfold.compat import torch_cluster as tc
from tenfold.ops import knn_graph, radius_graph, voxel_downsample
from tenfold.testing import kernels


def cloud(n: int, d: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


def batch(*counts: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def pairs(edges: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edges.T.tolist()))


def brute_pairs(x, y, bx, by, keep):
    found = set()
    for i in range(len(y)):
        rows = (bx == by[i]).nonzero()[:, 0].tolist()
        d2 = {j: float((y[i] - x[j]).square().sum()) for j in rows}
        found |= {(i, j) for j in keep(d2)}
    return found


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_knn_and_radius(d):
    x, y, bx, by = cloud(60, d), cloud(25, d, 1), batch(20, 0, 40), batch(10, 5, 10)
    nearest = brute_pairs(x, y, bx, by, lambda d2: sorted(d2, key=lambda j: (d2[j], j))[:4])
    assert pairs(tc.knn(x, y, 4, bx, by)) == nearest
    within = brute_pairs(x, y, bx, by, lambda d2: [j for j in sorted(d2) if d2[j] < 0.16][:5])
    edges = tc.radius(x, y, 0.4, bx, by, max_num_neighbors=5)
    assert pairs(edges) == within
    assert edges.dtype == torch.int64
    assert bool((edges[0].diff() >= 0).all())


def test_documented_examples_of_the_peer():
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    zeros = torch.zeros(4, dtype=torch.long)
    y = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert pairs(tc.radius(x, y, 1.5, zeros, zeros[:2])) == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert pairs(tc.radius_graph(x, r=2.5, batch=zeros)) == {
        (0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (2, 3), (3, 1), (3, 2)
    }  # fmt: skip
    assert pairs(tc.knn_graph(x, k=2, batch=zeros)) == pairs(tc.radius_graph(x, r=2.5, batch=zeros))
    assert tc.nearest(x, y, zeros, zeros[:2]).tolist() == [0, 0, 1, 1]


def test_graphs():
    x, b = cloud(80), batch(30, 50)
    edges = tc.knn_graph(x, 5, b)
    assert edges.shape == (2, 400)
    assert bool((b[edges[0]] == b[edges[1]]).all())
    assert bool((edges[0] != edges[1]).all())
    kernels.assert_same(tc.knn_graph(x, 5, b, flow="target_to_source"), edges.flip(0))
    assert tc.knn_graph(x, 5, b, loop=True).shape == (2, 400)
    kernels.assert_same(edges, knn_graph(x, 5, offsets=torch.tensor([0, 30, 80])))
    kernels.assert_same(
        tc.radius_graph(x, 0.3, b, max_num_neighbors=6),
        radius_graph(x, 0.3, max_neighbors=6, offsets=torch.tensor([0, 30, 80])),
    )
    with pytest.raises(ValueError, match="flow: got 'up'"):
        tc.knn_graph(x, 3, flow="up")


def test_graphs_among_equal_points():
    same = torch.ones(6, 3)
    edges = knn_graph(same, 3)
    assert edges.shape == (2, 18)
    assert bool((edges[0] != edges[1]).all())
    assert tc.knn_graph(same, 3).shape[1] > 18  # the quirk: a point outside its own k + 1 keeps one more
    assert radius_graph(same, 1.0, max_neighbors=2).shape == (2, 12)
    assert knn_graph(cloud(3), 10).shape == (2, 6)
    assert radius_graph(cloud(0), 1.0).shape == (2, 0)


def test_integers_are_points_too():
    x = cloud(20, 5).mul(4).round().long()
    for r in (1.5, 2.5):
        kernels.assert_same(tc.radius(x, x[:6], r), tc.radius(x.float(), x[:6].float(), r))
    kernels.assert_same(tc.knn(x, x[:6], 3, cosine=True), tc.knn(x.float(), x[:6].float(), 3, cosine=True))


def test_cosine():
    x = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0]])
    assert tc.knn(x, torch.tensor([[5.0, 0.0]]), 2, cosine=True).tolist() == [[0, 0], [0, 1]]


def test_fps():
    x, b = cloud(50, 5), batch(10, 40)
    idx = tc.fps(x, b, ratio=0.25, random_start=False)
    assert idx.tolist()[:3] == tc.fps(x[:10], ratio=0.25, random_start=False).tolist()  # ceil(2.5) of ten
    assert len(idx) == 13
    kernels.assert_same(idx, tc.fps(x, ptr=torch.tensor([0, 10, 50]), ratio=0.25, random_start=False))
    torch.manual_seed(0)
    starts = {int(tc.fps(x[:10], ratio=0.1)[0]) for _ in range(40)}
    assert len(starts) > 3
    assert len(tc.fps(x, b, ratio=torch.tensor([0.1, 0.5]))) == 21


def test_grid_cluster():
    pos = torch.tensor([[0.0, 0.0], [11.0, 9.0], [2.0, 8.0], [2.0, 2.0], [8.0, 3.0]])
    size = torch.tensor([5.0, 5.0])
    assert tc.grid_cluster(pos, size).tolist() == [0, 5, 3, 0, 1]
    assert tc.grid_cluster(pos, size, end=torch.tensor([19.0, 19.0])).tolist() == [0, 6, 4, 0, 1]
    with pytest.raises(ValueError, match="size: got 1"):
        tc.grid_cluster(pos, size[:1])


def test_nearest_needs_points():
    with pytest.raises(ValueError, match="nearest: y"):
        tc.nearest(cloud(3), cloud(2), batch(1, 2), batch(2))


# ---- thinning


@pytest.mark.parametrize("reduce", ["mean", "first"])
def test_voxel_downsample(reduce):
    points = (cloud(500, 5) - 0.5) * torch.tensor([8.0, 8.0, 2.0, 1.0, 1.0])
    offsets, size = torch.tensor([0, 200, 200, 500]), (0.7, 0.5, 0.3)
    got = voxel_downsample(points, size, offsets=offsets, reduce=reduce)
    cells = {}
    for row in range(500):
        key = (
            int(row >= 200) * 2,
            *(torch.floor(points[row, :3].double() / torch.tensor(size).double())).tolist(),
        )
        cells.setdefault(key, []).append(row)
    assert len(cells) == len(got.points)
    assert sorted(got.counts.tolist()) == sorted(map(len, cells.values()))
    for rows in cells.values():
        voxel = got.point2voxel[rows].unique()
        assert len(voxel) == 1
        expected = points[rows].mean(dim=0) if reduce == "mean" else points[rows[0]]
        torch.testing.assert_close(got.points[int(voxel)], expected)
    assert got.offsets[1] == got.offsets[2]
    assert int(got.offsets[-1]) == len(cells)


def test_voxel_downsample_of_the_whole_equals_its_parts():
    points = cloud(300) * 5
    whole = voxel_downsample(points, 0.5).points
    half = voxel_downsample(points[points[:, 0] < 2.5], 0.5).points  # a plane of the grid
    expected = whole[whole[:, 0] < 2.5]
    torch.testing.assert_close(half, expected)


def test_voxel_downsample_gradient_and_nothing():
    points = cloud(50).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: voxel_downsample(p, 0.4).points, (points,))
    assert voxel_downsample(torch.zeros(0, 4), 1.0).points.shape == (0, 4)
    with pytest.raises(ValueError, match="size: got 0"):
        voxel_downsample(cloud(3), 0)


def test_voxel_downsample_of_points_that_are_not_finite():
    lost = torch.full((3, 4), torch.nan)
    for points in (lost, torch.cat([cloud(2, 4), lost])):
        with pytest.raises(ValueError, match=r"points: row \d is not finite"):
            voxel_downsample(points, 1.0)
    with validation("meta"):
        thinned = voxel_downsample(lost, 1.0, offsets=torch.tensor([0, 1, 3]), reduce="first")
        assert thinned.points.shape == (0, 4)
        assert thinned.point2voxel.tolist() == [-1] * 3
        assert thinned.offsets.tolist() == [0, 0, 0]
        with pytest.raises(ValueError, match="offsets"):
            voxel_downsample(lost, 1.0, offsets=torch.tensor([0, 9]))


def test_voxel_downsample_loses_no_point_beside_a_plane():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(2000, generator=generator, dtype=torch.float64) + 0.5
    planes = torch.randint(-20, 20, (2000,), generator=generator)
    rounded = 0
    for size, plane in zip(sizes.tolist(), planes.tolist(), strict=True):
        value = math.nextafter(plane * size, -math.inf)
        if math.floor(value / size) == plane:  # the division rounds the point onto the plane above it
            rounded += 1
            point = torch.tensor([[value, 0.0, 0.0]], dtype=torch.float64)
            assert voxel_downsample(point, size).point2voxel.tolist() == [0], (plane, size)
    assert rounded > 20
