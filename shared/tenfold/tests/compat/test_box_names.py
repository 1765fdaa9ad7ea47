"""mmcv, iou3d_nms, spconv and pytorch3d names: each kept or dropped quirk, and spconv itself where installed."""

import math

import numpy as np
import pytest
import torch

from tenfold import ops
from tenfold.compat import iou3d_nms, mmcv, pytorch3d, spconv
from tenfold.testing import kernels, require, threads


def solids(n: int, seed: int = 0, *, size: float = 6.0):
    g = torch.Generator().manual_seed(seed)
    centre = (torch.rand(n, 3, generator=g) - 0.5) * torch.tensor([size, size, 1.0])
    return torch.cat([centre, torch.rand(n, 3, generator=g) * 3 + 0.5, torch.randn(n, 1, generator=g) * 2], 1)


def cloud(n: int, seed: int = 1, *, size: float = 6.0):
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * torch.tensor(
        [size, size, 2.0]
    )


# ---- OpenPCDet


def test_pcdet_overlaps_and_shapes():
    a, b = solids(9), solids(9, 5)
    kernels.assert_same(iou3d_nms.boxes_iou_bev(a, b), ops.box_iou_bev(a, b))
    kernels.assert_same(iou3d_nms.boxes_aligned_iou3d_gpu(a, b), ops.box_iou_3d(a, b).diagonal()[:, None])
    table = iou3d_nms.boxes_bev_iou_cpu(a.numpy(), b.numpy())
    assert isinstance(table, np.ndarray)
    assert np.array_equal(table, ops.box_iou_bev(a, b).numpy())
    far = a + torch.tensor([0.005, 0, 0, 0, 0, 0, 0]) + torch.tensor([1.0, 0, 0, 0, 0, 0, 0]) * a[:, 3:4]
    far[:, 6] = a[:, 6] = 0
    assert not iou3d_nms.boxes_aligned_iou3d_gpu(
        a, far
    ).any()  # the peer's corner tolerance would see overlap
    with pytest.raises(ValueError, match=r"slice the box columns, a\[:, :7\]"):
        iou3d_nms.boxes_iou_bev(torch.zeros(2, 9), b)


def test_pcdet_suppression():
    boxes, scores = solids(60), torch.rand(60, generator=torch.Generator().manual_seed(2))
    keep, second = iou3d_nms.nms_gpu(boxes, scores, 0.1, pre_maxsize=30, extra="ignored")
    assert second is None
    kernels.assert_same(keep, ops.nms_rotated(boxes, scores, 0.1, pre_max=30))
    turned = boxes.clone()
    turned[:, 6] += 1
    kernels.assert_same(
        iou3d_nms.nms_normal_gpu(boxes, scores, 0.1)[0], iou3d_nms.nms_normal_gpu(turned, scores, 0.1)[0]
    )


def test_pcdet_margins_differ_by_device_name():
    """CPU code 1e-2, CUDA code 1e-5, both strict in x and y and inclusive in z."""
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    points = torch.tensor([[1.005, 0, 0], [1.02, 0, 0], [0, 0, 1.0], [0, 0, 1.005]])
    assert iou3d_nms.points_in_boxes_cpu(points, box).tolist() == [[1, 0, 1, 0]]
    assert iou3d_nms.points_in_boxes_gpu(points[None], box[None]).tolist() == [[-1, -1, 0, -1]]


def test_pcdet_pools():
    """A slot is lost to the counter; widths are added in all; empty flags are integers."""
    roi = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
    feats = torch.arange(5.0)[:, None]
    pool = iou3d_nms.RoIAwarePool3d(1, max_pts_each_voxel=4)
    assert pool(roi, torch.zeros(5, 3), feats).item() == 2  # three of five
    assert pool(roi, torch.zeros(5, 3), feats, pool_method="avg").item() == 1
    with pytest.raises(ValueError, match="mode: got 'mean'"):
        pool(roi, torch.zeros(5, 3), feats, pool_method="mean")
    points = torch.tensor([[[0.9, 0, 0], [1.1, 0, 0]]])
    pooled, empty = iou3d_nms.RoIPointPool3d(2, pool_extra_width=1.0)(points, points[..., :1], roi[None])
    assert pooled[0, 0, :, 0].tolist() == [pytest.approx(0.9)] * 2
    assert empty.dtype is torch.int32
    plain = iou3d_nms.RoIPointPool3d(2, pool_extra_width=[0.0, 0.0, 0.0])(points, points[..., :1], roi[None])
    assert plain[1].tolist() == [[1]]


# ---- mmcv


def test_mmcv_nms_offset_filter_and_numpy():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4], [20, 20, 29, 29]])
    scores = torch.tensor([0.9, 0.8, 0.3])
    # Pixels 0..9 and 0..4: 50 of 100 with the offset, 36 of 81 without.
    assert mmcv.nms(boxes, scores, 0.45, offset=0)[1].tolist() == [0, 1, 2]
    dets, inds = mmcv.nms(boxes, scores, 0.45, offset=1)
    assert inds.tolist() == [0, 2]
    kernels.assert_same(dets, torch.cat([boxes, scores[:, None]], 1)[[0, 2]])
    assert mmcv.nms(boxes, scores, 0.45, score_threshold=0.3)[1].tolist() == [0, 1]
    assert mmcv.nms(boxes, scores, 0.45, max_num=1)[1].tolist() == [0]
    dets, inds = mmcv.nms(boxes.numpy(), scores.numpy(), 0.45)
    assert isinstance(dets, np.ndarray)
    assert inds.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="nms: offset: got 2"):
        mmcv.nms(boxes, scores, 0.5, offset=2)


def test_mmcv_batched_nms():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=g) * 50
    boxes = torch.cat([corner, corner + torch.rand(200, 2, generator=g) * 20], 1)
    scores, labels = torch.rand(200, generator=g), torch.randint(5, (200,), generator=g)
    config = {"type": "nms", "iou_threshold": 0.4, "max_num": 50, "split_thr": 10_000}
    dets, keep = mmcv.batched_nms(boxes, scores, labels, config)
    kernels.assert_same(keep, ops.batched_nms(boxes, scores, labels, 0.4, max_out=50))
    kernels.assert_same(dets, torch.cat([boxes, scores[:, None]], 1)[keep])
    agnostic = mmcv.batched_nms(boxes, scores, labels, config, class_agnostic=True)[1]
    kernels.assert_same(agnostic, ops.nms(boxes, scores, 0.4, max_out=50))
    assert (
        mmcv.batched_nms(boxes, scores, labels, None)[1].tolist() == scores.argsort(descending=True).tolist()
    )
    with pytest.raises(NotImplementedError, match="soft_nms"):
        mmcv.batched_nms(boxes, scores, labels, {"type": "soft_nms", "iou_threshold": 0.5})
    with pytest.raises(ValueError, match="no iou_threshold"):
        mmcv.batched_nms(boxes, scores, labels, {})


def test_mmcv_rotated_boxes():
    """`clockwise` turns x towards y: the same numbers as ours; False mirrors; thresholds are strict."""
    a, b = torch.tensor([[0.0, 0, 4, 1, 0.5]]), torch.tensor([[1.0, 0.5, 4, 1, 0.2]])
    kernels.assert_same(mmcv.box_iou_rotated(a, b), ops.box_iou_bev(a, b))
    mirror = torch.tensor([1.0, -1, 1, 1, 1])
    kernels.assert_same(
        mmcv.box_iou_rotated(a * mirror, b * mirror, clockwise=False), ops.box_iou_bev(a, b), rtol=1e-6
    )
    kernels.assert_same(
        mmcv.box_iou_rotated(a, b, mode="iof", aligned=True), ops.box_iou_bev(a, b, mode="iof")[0]
    )
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [0.0, 0, 2, 1, 0]])  # IoU exactly 1/2
    scores = torch.tensor([0.9, 0.8])
    dets, keep = mmcv.nms_rotated(boxes, scores, 0.5)
    assert keep.tolist() == [0, 1]
    assert dets.shape == (2, 6)
    assert mmcv.nms_rotated(boxes, scores, 0.49)[1].tolist() == [0]
    assert mmcv.nms_rotated(boxes, scores, 0.1, labels=torch.tensor([0, 1]))[1].tolist() == [0, 1]


def test_mmcv_boxes_stand_on_their_z():
    box = torch.tensor([[[0.0, 0, 1.0, 2, 2, 2, 0]]])  # from 1 to 3
    points = torch.tensor([[[0.0, 0, 2.9], [0, 0, 0.9], [1.0, 0, 2], [0.999, 0, 2]]])
    assert mmcv.points_in_boxes_part(points, box).tolist() == [[0, -1, -1, 0]]
    assert mmcv.points_in_boxes_all(points, box)[0, :, 0].tolist() == [1, 0, 0, 1]
    kernels.assert_same(mmcv.points_in_boxes_cpu(points, box), mmcv.points_in_boxes_all(points, box))
    pooled, empty = mmcv.RoIPointPool3d(3)(points, points, box)
    assert (pooled[0, 0, :, 2].tolist(), empty.tolist()) == (
        [pytest.approx(2.9), 2.0, pytest.approx(2.9)],
        [[0]],
    )
    grid = mmcv.RoIAwarePool3d((1, 1, 2), mode="max")(box[0], points[0], points[0])
    assert grid[0, 0, 0, :, 2].tolist() == [0.0, pytest.approx(2.9)]


def test_mmcv_differentiable_iou():
    a, b = solids(8).view(2, 4, 7), solids(8, 3).view(2, 4, 7)
    a.requires_grad_()
    iou = mmcv.diff_iou_rotated_3d(a, b)
    kernels.assert_same(
        iou.detach(), ops.box_iou_3d(a.detach().view(8, 7), b.view(8, 7), paired=True).view(2, 4)
    )
    iou.sum().backward()
    assert bool(a.grad.isfinite().all())
    assert mmcv.diff_iou_rotated_2d(a[..., [0, 1, 3, 4, 6]], b[..., [0, 1, 3, 4, 6]]).shape == (2, 4)


def test_mmcv_voxels():
    points = cloud(500).clamp(-2, 2)
    layer = mmcv.Voxelization([0.5, 0.5, 0.5], [-2, -2, -1, 2, 2, 1], 3, max_voxels=(50, 80))
    voxels, coords, number = layer.train()(points)
    expected = ops.voxelize(points, (0.5, 0.5, 0.5), (-2, -2, -1, 2, 2, 1), 3, 50)
    kernels.assert_same(
        (voxels, coords, number), (expected.voxels, expected.coords[:, 1:], expected.num_points)
    )
    assert len(layer.eval()(points)[0]) == 80
    every = mmcv.voxelization(points, [0.5] * 3, [-2, -2, -1, 2, 2, 1], -1, -1)
    cell = ((points - torch.tensor([-2.0, -2, -1])) / 0.5).floor().int()
    inside = ((cell >= 0) & (cell < torch.tensor([8, 8, 4]))).all(1)
    kernels.assert_same(every, torch.where(inside[:, None], cell.flip(1), -1))
    feats, cells = mmcv.DynamicScatter([0.5] * 3, [0] * 6, average_points=True)(points, every)
    assert list(map(tuple, cells.tolist())) == sorted(set(map(tuple, every[inside].tolist())))
    mine = (every == cells[7]).all(1)
    torch.testing.assert_close(feats[7], points[mine].mean(0))


def test_mmcv_points_are_channel_first():
    xyz, centers = cloud(60).view(2, 30, 3), cloud(20, 4).view(2, 10, 3)
    feats = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0))
    idx = mmcv.ball_query(0.0, 1.5, 4, xyz, centers)
    assert idx.shape == (2, 10, 4)
    grouped = mmcv.grouping_operation(feats, idx)
    for b in range(2):
        kernels.assert_same(grouped[b], feats[b][:, idx[b].long()])
    picked = mmcv.furthest_point_sample(xyz, 6)
    assert picked.dtype is torch.int32
    kernels.assert_same(mmcv.gather_points(feats, picked)[1], feats[1][:, picked[1].long()])
    near = mmcv.knn(3, xyz, centers)
    assert near.shape == (2, 3, 10)
    kernels.assert_same(near, mmcv.knn(3, xyz.transpose(1, 2), centers.transpose(1, 2), transposed=True))
    kernels.assert_same(near[0, 0].long(), torch.cdist(centers[0], xyz[0]).argmin(1))
    dist, rows = mmcv.three_nn(centers, xyz)
    weight = torch.full((2, 10, 3), 1 / 3)
    mixed = mmcv.three_interpolate(feats, rows, weight)
    torch.testing.assert_close(mixed[1], feats[1][:, rows[1].long()].mean(-1))
    assert bool((dist[..., 0] <= dist[..., 2]).all())


def test_mmcv_missing_neighbours_are_zero_in_every_element():
    xyz, feats = torch.rand(3, 2, 3), torch.rand(3, 4, 2)
    dist, rows = mmcv.three_nn(xyz, xyz)
    assert (rows[..., 2] == -1).all()
    assert mmcv.grouping_operation(feats, rows)[..., 2].abs().sum() == 0
    assert mmcv.gather_points(feats, rows[..., 2]).abs().sum() == 0
    mixed = mmcv.three_interpolate(feats, rows, torch.ones_like(dist))
    torch.testing.assert_close(mixed, feats.sum(-1, keepdim=True).expand(-1, -1, 2))


# ---- spconv


def sites(n: int = 60, c: int = 4, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    flat = torch.randperm(2 * 6 * 7 * 8, generator=g)[:n]
    coords = torch.stack([flat // 336, flat // 56 % 6, flat // 8 % 7, flat % 8], 1).int()
    return torch.randn(n, c, generator=g), coords


def spconv_network(lib):
    return [
        lib.SubMConv3d(4, 8, 3, padding=1, bias=False, indice_key="subm1"),
        lib.SubMConv3d(8, 8, 3, padding=1, bias=True, indice_key="subm1"),
        lib.SparseConv3d(8, 6, 3, stride=2, padding=1, bias=False, indice_key="down"),
        lib.SparseInverseConv3d(6, 5, 3, indice_key="down", bias=False),
    ]


def by_site(features, coords):
    order = np.lexsort(coords.numpy().T[::-1])
    return features[torch.from_numpy(order)]


def test_spconv_layers_equal_the_peer():
    peer = require("spconv.pytorch")
    feats, coords = sites()
    x, y = (
        spconv.SparseConvTensor(feats, coords, [6, 7, 8], 2),
        peer.SparseConvTensor(feats, coords, [6, 7, 8], 2),
    )
    torch.manual_seed(0)
    for ours, theirs in zip(spconv_network(spconv), spconv_network(peer), strict=True):
        ours.load_state_dict(theirs.state_dict())
        with torch.no_grad(), threads(1):  # on two threads spconv loses a row now and then
            x, y = ours(x), theirs(y)
        assert isinstance(x, spconv.SparseConvTensor)
        assert list(x.spatial_shape) == list(y.spatial_shape)
        kernels.assert_same(by_site(x.indices, x.indices), by_site(y.indices, y.indices))
        torch.testing.assert_close(
            by_site(x.features, x.indices), by_site(y.features, y.indices), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(x.dense(), y.dense(), rtol=1e-4, atol=1e-5)
    kernels.assert_same(x.dense(channels_first=False), x.dense().permute(0, 2, 3, 4, 1))


def test_spconv_generator_equals_the_peer():
    utils = require("spconv.pytorch.utils")
    points = torch.cat([cloud(3000), torch.rand(3000, 1, generator=torch.Generator().manual_seed(3))], 1)
    arguments = ([0.5, 0.4, 0.5], [-3, -3, -1, 3, 3, 1], 4, 200, 5)
    ours, theirs = spconv.PointToVoxel(*arguments), utils.PointToVoxel(*arguments, device=torch.device("cpu"))
    for a, b in zip(ours.generate_voxel_with_id(points), theirs.generate_voxel_with_id(points), strict=True):
        kernels.assert_same(a, b.to(a.dtype))
    with pytest.raises(ValueError, match=r"PointToVoxel: pc: got shape \(2, 3\); expected \(N, 4\)"):
        ours(torch.zeros(2, 3))


def test_spconv_quirks_not_kept():
    feats, coords = sites()
    with pytest.raises(ValueError, match=r"repeat|duplicate"):
        spconv.SparseConvTensor(feats, coords[[0] * 60], [6, 7, 8], 2)
    low = spconv.SparseConvTensor(-feats.abs() - 1, coords, [6, 7, 8], 2)
    assert float(spconv.SparseMaxPool3d(2, 2)(low).features.max()) <= -1
    down = spconv.SparseConv3d(4, 4, 3, stride=2, padding=1)(low)
    keys = [tuple(c) for c in down.indices.tolist()]
    assert keys == sorted(keys)
    with pytest.raises(NotImplementedError, match="groups: got 2"):
        spconv.SubMConv3d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match="SubMConv3d: stride: got 2"):
        spconv.SubMConv3d(4, 4, 3, stride=2)
    with pytest.raises(NotImplementedError, match="dilation: got 2"):
        spconv.SparseMaxPool3d(2, dilation=2)
    assert "subm1" in spconv.SubMConv3d(4, 4, 3, indice_key="subm1", algo=None)(low).indice_dict
    again = low.replace_feature(low.features * 2)
    kernels.assert_same(again.features, low.features * 2)


def test_spconv_trains():
    feats, coords = sites()
    feats.requires_grad_()
    net = spconv.SparseSequential(
        spconv.SubMConv3d(4, 8, 3, indice_key="a"),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        spconv.SparseConv3d(8, 3, 3, 2, 1),
        spconv.ToDense(),
        torch.nn.Flatten(2),
    )
    out = net(spconv.SparseConvTensor(feats, coords, [6, 7, 8], 2))
    assert out.shape == (2, 3, 3 * 4 * 4)
    out.square().sum().backward()
    assert bool(feats.grad.any())


# ---- pytorch3d


def test_pytorch3d_ball_query_pads_with_minus_one():
    p1, p2 = cloud(20).view(2, 10, 3), cloud(60, 4).view(2, 30, 3)
    lengths = torch.tensor([30, 11])
    dists, idx, near = pytorch3d.ball_query(p1, p2, lengths2=lengths, K=5, radius=1.5)
    for b in range(2):
        d2 = torch.cdist(p1[b].double(), p2[b, : lengths[b]].double()).square()
        for q in range(10):
            hits = (d2[q] < 1.5**2).nonzero().flatten()[:5].tolist()
            assert idx[b, q].tolist() == hits + [-1] * (5 - len(hits))
            torch.testing.assert_close(dists[b, q, : len(hits)].double(), d2[q, hits], rtol=1e-5, atol=1e-6)
            assert not dists[b, q, len(hits) :].any()
            assert not near[b, q, len(hits) :].any()
    assert pytorch3d.ball_query(p1, p2, K=3, return_nn=False).knn is None


def test_pytorch3d_knn_and_gradient():
    p1, p2 = cloud(20).view(2, 10, 3).requires_grad_(), cloud(60, 4).view(2, 30, 3).requires_grad_()
    dists, idx, near = pytorch3d.knn_points(p1, p2, K=4, return_nn=True)
    exact = torch.cdist(p1.detach().double(), p2.detach().double()).square()
    torch.testing.assert_close(
        dists.detach().double(), exact.topk(4, largest=False).values, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(near, torch.stack([p2[b][idx[b]] for b in range(2)]))
    dists.sum().backward()
    torch.testing.assert_close(p1.grad, 2 * (p1[:, :, None] - near).sum(2).detach(), rtol=1e-4, atol=1e-5)
    assert bool(p2.grad.any())
    few = pytorch3d.knn_points(p1, p2, lengths1=torch.tensor([10, 3]), lengths2=torch.tensor([2, 30]), K=4)
    assert few.idx.dtype is torch.int64
    assert not few.dists[0, :, 2:].any()
    assert not few.dists[1, 3:].any()
    with pytest.raises(NotImplementedError, match="norm: got 1"):
        pytorch3d.knn_points(p1, p2, norm=1)


def test_pytorch3d_sampling():
    points = cloud(60).view(2, 30, 3)
    picked, idx = pytorch3d.sample_farthest_points(points, torch.tensor([30, 4]), K=6)
    kernels.assert_same(idx[0], ops.farthest_point_sample(points[:1], 6)[0])
    assert idx[1, 4:].tolist() == [-1, -1]
    assert sorted(idx[1, :4].tolist()) == [0, 1, 2, 3]
    assert not picked[1, 4:].any()
    kernels.assert_same(picked[0], points[0][idx[0]])
    each = pytorch3d.sample_farthest_points(points, K=[2, 5])[1]
    assert (each >= 0).sum(1).tolist() == [2, 5]
    torch.manual_seed(0)
    starts = {
        int(pytorch3d.sample_farthest_points(points, K=1, random_start_point=True)[1][0, 0])
        for _ in range(20)
    }
    assert len(starts) > 3


def corners(boxes):
    unit = torch.tensor(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
        dtype=boxes.dtype,
    )
    local = (unit - 0.5) * boxes[:, None, 3:6]
    c, s = boxes[:, 6:].cos(), boxes[:, 6:].sin()
    x, y = c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1]
    return torch.stack([x, y, local[..., 2]], -1) + boxes[:, None, :3]


def test_pytorch3d_box_overlap():
    a, b = solids(7), solids(5, 3)
    volume, iou = pytorch3d.box3d_overlap(corners(a), corners(b))
    torch.testing.assert_close(iou, ops.box_iou_3d(a, b), rtol=0, atol=1e-5)
    torch.testing.assert_close(volume, ops.box_iou_3d(a, b, mode="inter"), rtol=1e-4, atol=1e-4)
    tilted = corners(a)
    turn = torch.tensor([[1.0, 0, 0], [0, math.cos(0.3), -math.sin(0.3)], [0, math.sin(0.3), math.cos(0.3)]])
    tilted[2] = tilted[2] @ turn.T
    with pytest.raises(NotImplementedError, match="box3d_overlap: boxes1: row 2 is no upright box"):
        pytorch3d.box3d_overlap(tilted, corners(b))
    with pytest.raises(ValueError, match=r"boxes2: got shape \(5, 7\); expected \(N, 8, 3\)"):
        pytorch3d.box3d_overlap(corners(a), b)
