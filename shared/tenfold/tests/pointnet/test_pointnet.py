"""PointNet++ modules: published parameter counts, a torch-only twin, padded against stacked, state dicts."""

import pytest
import torch
from torch import nn

from tenfold.ops import ball_query, offsets_from_batch_index
from tenfold.pointnet import FeaturePropagation, PointNet2Backbone, SALevel, SetAbstraction, SharedMLP
from tenfold.testing import kernels


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    assert parameters(PointNet2Backbone.pointrcnn()) == 3_007_632
    assert parameters(PointNet2Backbone.votenet()) == 641_920
    assert parameters(PointNet2Backbone.votenet(0)) == 641_856


def test_keys_are_those_of_openpcdet():
    keys = PointNet2Backbone.pointrcnn().state_dict()
    for key, shape in {
        "SA_modules.0.mlps.0.0.weight": (16, 4),
        "SA_modules.3.mlps.1.6.weight": (512, 384),
        "SA_modules.0.mlps.1.1.running_mean": (32,),
        "FP_modules.0.mlp.0.weight": (128, 257),
        "FP_modules.3.mlp.0.weight": (512, 1536),
    }.items():
        assert tuple(keys[key].shape) == shape


def test_convolution_weights_load_as_they_are():
    mlp, convolutions = SharedMLP([4, 8, 6]), []
    for c_in, c_out in ((4, 8), (8, 6)):
        convolutions += [nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    twin = nn.Sequential(*convolutions)
    mlp.load_state_dict(twin.state_dict())
    x = cloud(2, 4, 5, 7)
    for mode in (True, False):
        mlp.train(mode)
        twin.train(mode)
        torch.testing.assert_close(mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), twin(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        mlp.load_state_dict(
            {k: v.repeat(2, *[1] * (v.dim() - 1)) if v.dim() else v for k, v in twin.state_dict().items()}
        )


def twin_abstraction(sa, xyz, feats, centers):
    """The definition with plain indexing, one element."""
    outputs = []
    for mlp, radius, nsample in zip(sa.mlps, sa.radii, sa.nsamples, strict=True):
        groups = []
        for center in centers:
            d = xyz - center
            hits = (
                ((d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) + d[:, 2] * d[:, 2]) < radius * radius
            ).nonzero()[:, 0]
            if len(hits) == 0:
                groups.append(torch.zeros(nsample, 3 + feats.shape[1]))
                continue
            rows = torch.cat([hits[:nsample], hits[:1].expand(max(0, nsample - len(hits)))])
            groups.append(torch.cat([xyz[rows] - center, feats[rows]], dim=1))
        outputs.append(mlp(torch.stack(groups)).amax(dim=1))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("form", ["padded", "stacked"])
def test_set_abstraction_equals_its_definition(form):
    sa = SetAbstraction(2, [[8, 16], [4, 6]], radii=[0.25, 0.5], nsamples=[4, 8]).eval()
    xyz, feats = cloud(300, 3), cloud(300, 2, seed=1)
    centers = torch.cat([xyz[:20], torch.full((2, 3), 9.0)])  # two of them without neighbours
    expected = twin_abstraction(sa, xyz, feats, centers)
    if form == "padded":
        got = sa(xyz[None], feats[None], centers=centers[None])
        torch.testing.assert_close(got.feats[0], expected)
    else:
        torch.testing.assert_close(sa(xyz, feats, centers=centers).feats, expected)


def test_padded_equals_stacked():
    sa = SetAbstraction(2, [[8], [6]], npoint=16, radii=[0.3, 0.6], nsamples=[4, 8]).eval()
    xyz, feats, lengths = cloud(3, 100, 3), cloud(3, 100, 2, seed=1), torch.tensor([100, 60, 30])
    padded = sa(xyz, feats, lengths=lengths)
    used = torch.arange(100) < lengths[:, None]
    element = torch.arange(3)[:, None].expand(3, 100)[used]
    stacked = sa(xyz[used], feats[used], offsets=offsets_from_batch_index(element, 3))
    kernels.assert_same(padded.feats.reshape(-1, 14), stacked.feats)
    kernels.assert_same(padded.xyz.reshape(-1, 3), stacked.xyz)
    given = sa(xyz, feats, idx=padded.idx, lengths=lengths)
    kernels.assert_same(given.feats, padded.feats)


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("form", ["padded", "stacked"])
def test_wide_features_meet_the_first_layer_before_they_are_grouped(form, bn, pool):
    """The same values and gradients as of whole groups, from points with many channels."""
    options = {"radii": [0.3, 0.5], "nsamples": [4, 8], "bn": bn, "pool": pool, "normalize_xyz": True}
    sa = SetAbstraction(16, [[8, 16], [6]], **options).double()
    xyz, feats = cloud(60, 3).double(), cloud(60, 16, seed=1).double()
    centers = torch.cat([xyz[:20], torch.full((2, 3), 9.0)])  # two of them without neighbours

    def run(whole):
        sa.zero_grad()
        inputs = [value.clone().requires_grad_() for value in (xyz, feats, centers)]
        if whole:
            parts = []
            for mlp, radius, k in zip(sa.mlps, sa.radii, sa.nsamples, strict=True):
                idx, count = ball_query(xyz, centers, radius, k)
                near = (inputs[0][idx.long()] - inputs[2][:, None]) / radius
                rows = torch.cat([near, inputs[1][idx.long()]], dim=2) * (count > 0)[:, None, None]
                values = mlp(rows)
                parts.append(values.max(dim=1).values if pool == "max" else values.mean(dim=1))
            found = torch.cat(parts, dim=1)
        elif form == "padded":
            found = sa(*(value[None] for value in inputs[:2]), centers=inputs[2][None]).feats[0]
        else:
            found = sa(*inputs[:2], centers=inputs[2]).feats
        (found * cloud(*found.shape, seed=2)).sum().backward()
        return [found.detach(), *(v.grad for v in inputs), *(p.grad for p in sa.parameters())]

    for got, expected in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(got, expected)


def test_one_group_of_all_points():
    for pool in ("max", "avg"):
        sa = SetAbstraction(2, [[8, 4]], pool=pool).eval()
        xyz, feats, lengths = cloud(2, 50, 3), cloud(2, 50, 2, seed=1), torch.tensor([50, 20])
        out = sa(xyz, feats, lengths=lengths)
        assert out.xyz.tolist() == [[[0.0] * 3]] * 2
        for b in range(2):
            rows = sa.mlps[0](torch.cat([xyz[b], feats[b]], dim=1)[: lengths[b]])
            expected = rows.amax(dim=0) if pool == "max" else rows.mean(dim=0)
            torch.testing.assert_close(out.feats[b, 0], expected)
        flat = torch.cat([xyz[0], xyz[1, :20]]), torch.cat([feats[0], feats[1, :20]])
        stacked = sa(*flat, offsets=torch.tensor([0, 50, 70]))
        torch.testing.assert_close(stacked.feats, out.feats[:, 0])


def test_normalised_positions_and_no_positions():
    xyz, feats = cloud(1, 200, 3), cloud(1, 200, 5, seed=1)
    make = {"npoint": 10, "radii": [0.3], "nsamples": [8]}
    plain, scaled = (SetAbstraction(5, [[6]], normalize_xyz=n, **make).eval() for n in (False, True))
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        scaled.mlps[0][0].weight[:, :3] *= 0.3
    torch.testing.assert_close(scaled(xyz, feats).feats, plain(xyz, feats).feats)
    bare = SetAbstraction(5, [[6]], use_xyz=False, **make).eval()
    moved = bare(xyz + 1, feats)
    idx = ball_query(xyz + 1, moved.xyz, 0.3, 8)[0]
    expected = bare.mlps[0](feats[0][idx[0].long()]).amax(dim=1)
    torch.testing.assert_close(moved.feats[0], expected)


def test_gradients_reach_points_and_features():
    sa = SetAbstraction(2, [[8]], npoint=8, radii=[0.5], nsamples=[4])
    xyz, feats = cloud(1, 60, 3).requires_grad_(), cloud(1, 60, 2, seed=1).requires_grad_()
    out = sa(xyz, feats)
    (out.feats.square().sum() + out.xyz.sum()).backward()
    assert float(feats.grad.abs().sum()) > 0
    assert float(xyz.grad.abs().sum()) > 0


def test_feature_propagation():
    fp = FeaturePropagation(8 + 2, [6]).eval()
    fine, coarse, own, known = cloud(2, 50, 3), cloud(2, 9, 3, seed=1), cloud(2, 50, 2), cloud(2, 9, 8)
    distance = torch.cdist(fine.double(), coarse.double())
    nearest, idx = distance.topk(3, dim=2, largest=False)
    weight = 1 / (nearest + 1e-8)
    weight = weight / weight.sum(dim=2, keepdim=True)
    gathered = torch.stack([known[b][idx[b]] for b in range(2)]).double()
    spread = (gathered * weight[..., None]).sum(dim=2).float()
    expected = fp.mlp(torch.cat([spread, own], dim=2))
    torch.testing.assert_close(fp(fine, coarse, own, known), expected, rtol=1e-4, atol=1e-5)
    one = FeaturePropagation(8, [6]).eval()
    torch.testing.assert_close(one(fine, None, None, known[:, :1])[:, 7], one.mlp(known[:, 0]))


def test_backbone():
    levels = [SALevel(32, (0.2, 0.4), (4, 8), ((4, 8), (4, 8))), SALevel(8, (0.8,), (8,), ((16,),))]
    net = PointNet2Backbone(1, levels, [[12], [20]])
    xyz, feats = cloud(2, 200, 3), cloud(2, 200, 1, seed=1)
    out = net(xyz, feats)
    assert out.feats.shape == (2, 200, net.out_channels) == (2, 200, 12)
    out.feats.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    seeds = PointNet2Backbone(1, levels, [[20]])(xyz, feats)
    assert seeds.feats.shape == (2, 32, 20)
    kernels.assert_same(seeds.xyz, xyz.gather(1, seeds.idx[..., None].expand(-1, -1, 3)))
    assert PointNet2Backbone(1, levels)(xyz, feats).feats.shape == (2, 8, 16)


def test_scenes_of_a_batch_are_independent():
    net = PointNet2Backbone(0, [SALevel(16, (0.4,), (8,), ((8,),))], [[6]]).eval()
    xyz = cloud(2, 100, 3)
    alone = net(xyz[:1]).feats
    kernels.assert_same(net(xyz).feats[:1], alone)
    lengths = torch.tensor([100, 40])
    short = net(xyz, lengths=lengths).feats[1, :40]
    kernels.assert_same(short, net(xyz[1:, :40]).feats[0])


def test_autocast():
    net = PointNet2Backbone(1, [SALevel(16, (0.4,), (8,), ((8,),))], [[6]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(cloud(1, 100, 3), cloud(1, 100, 1))
    assert bool(out.feats.isfinite().all())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: SetAbstraction(1, [[8], [8]], npoint=4, radii=[1.0], nsamples=[4]),
            "SetAbstraction: mlps: got 2",
        ),
        (lambda: SetAbstraction(1, [[8]], npoint=4), "npoint: got a number without radii"),
        (lambda: SetAbstraction(0, [[8]], use_xyz=False), "in_channels: got 0"),
        (lambda: SetAbstraction(1, [[8]], pool="sum"), "pool: got 'sum'"),
        (lambda: SharedMLP([4]), "SharedMLP: channels"),
        (lambda: PointNet2Backbone(1, [], []), "PointNet2Backbone: fp_mlps"),
        (lambda: SetAbstraction(1, [[8]])(cloud(1, 5, 3)), "feats: got 0 channels"),
        (lambda: SetAbstraction(1, [[8]])(cloud(1, 5, 3), cloud(1, 4, 1)), "feats: got shape"),
        (
            lambda: SetAbstraction(0, [[8]], radii=[1.0], nsamples=[4])(cloud(1, 5, 3)),
            "centers: got none and npoint is None",
        ),
    ],
)
def test_messages(call, text):
    with pytest.raises(ValueError, match=text):
        call()
