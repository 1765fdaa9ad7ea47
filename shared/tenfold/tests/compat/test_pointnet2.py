"""compat.pointnet2: layouts and quirks of the channel-first extensions."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.compat import pointnet2
from tenfold.pointnet import SetAbstraction
from tenfold.testing import kernels

ROOT = Path(__file__).resolve().parents[4]


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_channel_first_layouts():
    xyz, features = cloud(2, 60, 3), cloud(2, 5, 60, seed=1)
    idx = pointnet2.furthest_point_sample(xyz, 8)
    assert idx.dtype == torch.int32
    centers = pointnet2.gather_operation(xyz.transpose(1, 2).contiguous(), idx).transpose(1, 2)
    kernels.assert_same(centers, xyz.gather(1, idx.long()[..., None].expand(-1, -1, 3)))
    table = pointnet2.ball_query(0.3, 4, xyz, centers)
    assert table.shape == (2, 8, 4)
    grouped = pointnet2.grouping_operation(features, table)
    expected = torch.stack([features[b][:, table[b].long()] for b in range(2)])
    kernels.assert_same(grouped, expected)
    dist, near = pointnet2.three_nn(xyz, centers)
    weight = torch.rand(2, 60, 3)
    known = cloud(2, 5, 8, seed=2)
    spread = pointnet2.three_interpolate(known, near, weight)
    by_hand = torch.stack([(known[b][:, near[b].long()] * weight[b]).sum(dim=2) for b in range(2)])
    torch.testing.assert_close(spread, by_hand)
    torch.testing.assert_close(
        dist, torch.cdist(xyz, centers).topk(3, largest=False).values, atol=1e-3, rtol=0
    )


def test_quirks_of_the_peer():
    xyz = cloud(1, 10, 3)
    assert pointnet2.ball_query(0.1, 4, xyz, xyz + 9).tolist() == [[[0] * 4] * 10]  # index 0 without a flag
    dist, idx = pointnet2.three_nn(xyz, xyz[:, :2])
    assert idx[..., 2].unique().tolist() == [0]
    assert bool(dist[..., 2].isinf().all())
    features = cloud(1, 4, 2)
    weight = 1 / (dist + 1e-8)
    weight = weight / weight.sum(dim=2, keepdim=True)
    assert bool(pointnet2.three_interpolate(features, idx, weight).isfinite().all())
    origin = torch.cat([torch.full((1, 5, 3), 3.0), torch.zeros(1, 1, 3)], dim=1)
    assert pointnet2.furthest_point_sample(origin, 2).tolist() == [
        [0, 5]
    ]  # VoteNet's kernel would skip row 5


def test_query_and_group():
    xyz, features = cloud(1, 60, 3), cloud(1, 5, 60, seed=1)
    centers = torch.cat([xyz[:, :4], xyz[:, :1] + 9], dim=1)
    grouped = pointnet2.QueryAndGroup(0.3, 6)(xyz, centers, features)
    idx = pointnet2.ball_query(0.3, 6, xyz, centers)[0].long()
    relative = xyz[0][idx] - centers[0][:, None]
    kernels.assert_same(grouped[0, :3], relative.permute(2, 0, 1))
    kernels.assert_same(grouped[0, 3:], features[0][:, idx])
    scaled, positions = pointnet2.QueryAndGroup(0.3, 6, normalize_xyz=True, ret_grouped_xyz=True)(
        xyz, centers
    )
    kernels.assert_same(scaled, positions)
    torch.testing.assert_close(scaled[0] * 0.3, relative.permute(2, 0, 1))
    assert pointnet2.QueryAndGroup(0.3, 6, use_xyz=False)(xyz, centers, features).shape == (1, 5, 5, 6)
    assert pointnet2.GroupAll()(xyz, None, features).shape == (1, 8, 1, 60)
    with pytest.raises(ValueError, match="features: got none without use_xyz"):
        pointnet2.QueryAndGroup(0.3, 6, use_xyz=False)(xyz, centers)


def test_modules_agree_with_the_channels_last_ones():
    channels = [[5, 8, 12], [5, 6]]
    theirs = pointnet2.PointnetSAModuleMSG(npoint=8, radii=[0.3, 0.6], nsamples=[4, 8], mlps=channels)
    assert channels == [[5, 8, 12], [5, 6]]  # the peer would have added 3
    ours = SetAbstraction(5, [[8, 12], [6]], npoint=8, radii=[0.3, 0.6], nsamples=[4, 8])
    ours.load_state_dict(theirs.state_dict())
    xyz, features = cloud(2, 60, 3), cloud(2, 5, 60, seed=1)
    new_xyz, pooled = theirs(xyz, features)
    got = ours(xyz, features.transpose(1, 2))
    kernels.assert_same(got.xyz, new_xyz)
    torch.testing.assert_close(got.feats.transpose(1, 2), pooled)
    whole = pointnet2.PointnetSAModule(mlp=[5, 8])
    assert whole(xyz, features)[1].shape == (2, 8, 1)
    fp = pointnet2.PointnetFPModule(mlp=[18 + 5, 10])
    assert fp(xyz, new_xyz, features, pooled).shape == (2, 10, 60)
    assert pointnet2.PointnetFPModule(mlp=[8, 4])(xyz, None, None, whole(xyz, features)[1]).shape == (
        2,
        4,
        60,
    )


def test_modules_train():
    net = nn.ModuleList(
        [
            pointnet2.PointnetSAModule(mlp=[0, 8], npoint=8, radius=0.4, nsample=4),
            pointnet2.PointnetFPModule(mlp=[8, 4]),
        ]
    )
    xyz = cloud(2, 60, 3)
    new_xyz, features = net[0](xyz)
    net[1](xyz, new_xyz, None, features).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    leaf = cloud(1, 4, 20).requires_grad_()
    pointnet2.grouping_operation(leaf, torch.zeros(1, 5, 3, dtype=torch.int32)).sum().backward()
    assert leaf.grad[0, :, 0].tolist() == [15.0] * 4


def test_the_example_with_one_changed_import():
    result = runpy.run_path(str(ROOT / "docs" / "examples" / "pointnet2_migration.py"))["main"](steps=25)
    assert result["last_loss"] < 0.7 * result["first_loss"]
