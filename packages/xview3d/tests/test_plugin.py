"""`add_xview` on all detectors: what the released code got wrong is what is tested here."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from xview3d_tiny import DETECTORS, tiny_detector, tiny_model, tiny_views

from tenfold.lidar import build_detector
from tenfold.sparse import SparseConv3d, SparseTensor
from tenfold.testing import TINY_DETECTORS
from xview3d import MainGrid, View, ViewEncoder, add_xview, load_base, nuscenes_views
from xview3d.diagnostics import assert_branches_work, branch_effect

with_networks = pytest.mark.parametrize("name", [n for n in DETECTORS if n != "pointpillars"])
every = pytest.mark.parametrize("name", DETECTORS)


def same(a, b):
    return all(
        torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in ("boxes", "scores", "labels")
    )


def seeded(model, batch):
    torch.manual_seed(7)
    return model(batch)


# ---- the promises of the plug-in -------------------------------------------------------------------


@every
def test_without_views_the_detector_is_the_one_it_was_and_views_change_it(name, batch):
    base = tiny_detector(name)
    model = tiny_model(name, base)
    before = seeded(base, batch)
    assert sum(len(frame["scores"]) for frame in before) > 0
    with_views = seeded(model, batch)
    with model.without(0, 1):
        assert same(seeded(model, batch), before)
    assert same(seeded(base, batch), before)  # it was not touched
    assert not same(with_views, before)
    for k in (0, 1):
        with model.without(k):
            one = seeded(model, batch)
        assert not same(one, with_views)
        assert not same(one, before)


@with_networks
def test_zeroed_encoders_give_the_detections_of_the_base(name, batch):
    base = tiny_detector(name)
    model = tiny_model(name, base, zero_init_views=True)
    assert same(seeded(model, batch), seeded(base, batch))
    for encoder in model.view_encoders:
        nn.init.ones_(encoder.gate)
    assert not same(seeded(model, batch), seeded(base, batch))


@with_networks
def test_every_parameter_of_every_view_gets_a_gradient(name, batch):
    model = tiny_model(name).train()
    seeded(model, batch)["loss"].backward()
    for k, encoder in enumerate(model.view_encoders):
        grads = {key: p.grad for key, p in encoder.named_parameters()}
        assert grads
        assert all(g is not None for g in grads.values()), name  # nothing unused under DDP
        norm = sum(float(g.square().sum()) for g in grads.values())
        assert norm > 0, (name, k)
    unused = [key for key, p in model.named_parameters() if p.grad is None]
    assert unused == []


def test_the_shared_pillar_layers_learn_from_the_views(batch):
    """PointPillars' views have no network: a step with views moves the shared layers elsewhere."""
    grads = []
    for views in (True, False):
        base = tiny_detector("pointpillars")
        model = (add_xview(base, tiny_views("pointpillars")) if views else base).train()
        seeded(model, batch)["loss"].backward()
        grads.append(model.vfe.pfn_layers[0].linear.weight.grad.clone())
    assert not torch.allclose(*grads)
    model = tiny_model("pointpillars")
    assert list(model.view_encoders.parameters()) == []


@every
def test_the_checker_finds_living_and_dead_branches(name, batch):
    model = tiny_model(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert_branches_work(model, batch)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    effects = branch_effect(model, batch)
    assert [e.view for e in effects] == [0, 1]
    assert all(e.change > 1e-4 for e in effects)
    if name != "pointpillars":
        assert all(e.gradient > 0 for e in effects)
        dead = tiny_model(name, zero_init_views=True)
        with pytest.raises(RuntimeError, match="view 0 changes nothing"):
            assert_branches_work(dead, batch)


@every
def test_a_base_checkpoint_lacks_exactly_the_views(name):
    base, model = tiny_detector(name), tiny_model(name)
    missing = set(model.state_dict()) - set(base.state_dict())
    assert all(key.startswith("view_encoders.") for key in missing)
    assert {key.split(".")[1] for key in missing} == ({"0", "1"} if name != "pointpillars" else set())
    assert set(base.state_dict()) <= set(model.state_dict())
    other = tiny_detector(name)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    own = {k: v.clone() for k, v in model.state_dict().items() if k in missing}
    load_base(model, other.state_dict())
    loaded = model.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in other.state_dict().items())
    assert all(torch.equal(loaded[k], v) for k, v in own.items())
    with pytest.raises(ValueError, match="missing"):
        load_base(model, dict(list(other.state_dict().items())[1:]))


@with_networks
def test_another_centre_gives_other_features(name, batch):
    """Two views from the car must differ from one from the car and one from ahead; so must the kinds of cells."""
    ego, _ = tiny_views(name)
    kinds = [
        [ego, ego],
        tiny_views(name),
        [ego, View(kind="cylindrical", voxel=(0.2, 0.04, 0.0125))],
        [ego, replace(ego, yaw=1.0)],
    ]
    results = [seeded(tiny_model(name, views=views), batch) for views in kinds]
    for k in (1, 2, 3):
        assert not same(results[0], results[k])


@every
def test_copies_are_apart(name, batch):
    model = tiny_model(name)
    twin = copy.deepcopy(model)
    assert same(seeded(twin, batch), seeded(model, batch))
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.5)
    assert not same(seeded(twin, batch), seeded(model, batch))
    assert type(model).__name__.startswith("XView")
    with pytest.raises(ValueError, match="has views already"):
        add_xview(model, tiny_views(name))


# ---- options ---------------------------------------------------------------------------------------


@every
def test_cat_widens_what_follows(name, batch):
    base = tiny_detector(name)
    model = tiny_model(name, base, fuse="cat")
    assert len(seeded(model, batch)) == 2
    seeded(model.train(), batch)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    if name in ("second", "pv_rcnn", "parta2"):
        assert model.config.bev_input_channels == 3 * base.config.bev_input_channels
        assert model.backbone_3d is base.backbone_3d
    first = next(model.backbone_2d.parameters(), None) if hasattr(model, "backbone_2d") else None
    if first is not None:
        assert first.shape[1] == 3 * next(base.backbone_2d.parameters()).shape[1]


@pytest.mark.parametrize("name", ["pointrcnn", "parta2"])
@pytest.mark.parametrize("fuse", ["add", "cat"])
def test_the_second_stage_pools_fused_or_plain_features(name, fuse, batch):
    seen = {}
    for into in ("head", "both"):
        model = tiny_model(name, fuse_into=into, fuse=fuse)
        torch.manual_seed(7)
        first = model.first_stage(batch["points"], 2, batch)
        seen[into] = first.points.features
        assert model.plain_features is None
        assert len(seeded(model, batch)) == 2
        with model.without(0, 1):
            torch.manual_seed(7)
            plain = model.first_stage(batch["points"], 2, batch).points.features
        if into == "head":
            assert torch.equal(seen[into], plain)
    assert seen["head"].shape[1] * (3 if fuse == "cat" else 1) == seen["both"].shape[1]
    assert not torch.equal(seen["head"], seen["both"][:, -seen["head"].shape[1] :])


@pytest.mark.parametrize(
    "options", [{"interpolation": "linear"}, {"index_mode": "receptive_field"}, {"shuffle_gather": True}]
)
@pytest.mark.parametrize("name", ["second", "parta2"])
def test_other_look_ups_give_other_detections(name, options, batch):
    usual, other = tiny_model(name), tiny_model(name, **options)
    assert not same(seeded(usual, batch), seeded(other, batch))


def test_points_of_other_rows_give_other_detections(batch):
    usual, other = (tiny_model("pointrcnn", shuffle_gather=shuffled) for shuffled in (False, True))
    assert not same(seeded(usual, batch), seeded(other, batch))
    scaled = tiny_model("pointrcnn", view_point_scale=(1, 20, 20))
    assert not same(seeded(usual, batch), seeded(scaled, batch))


def test_centres_that_learn(batch):
    views = tiny_views("second")
    model = add_xview(tiny_detector("second"), views, interpolation="linear", trainable_centers=True).train()
    seeded(model, batch)["loss"].backward()
    grad = model.perspective.centers.grad
    assert grad.isfinite().all()
    assert (grad.abs().sum(1) > 0).all()
    assert set(model.state_dict()) - set(tiny_model("second").state_dict()) == {"perspective.centers"}


def test_key_points_gather_fused_stages_where_asked_to(batch):
    plain, fused = tiny_model("pv_rcnn"), tiny_model("pv_rcnn", fuse_multiscale=True)
    assert set(fused.projectors) == {"out", "stage1", "stage2", "stage3", "stage4"}
    a, b = (m.encode(batch["points"], 2) for m in (plain, fused))
    assert torch.equal(a.out.features, b.out.features)
    assert all(not torch.equal(x.features, y.features) for x, y in zip(a.stages, b.stages, strict=True))
    with pytest.raises(ValueError, match="fuse_multiscale"):
        tiny_model("second", fuse_multiscale=True)


def test_parta2_without_anchors_has_views_on_its_points(batch):
    torch.manual_seed(0)
    base = build_detector(
        "parta2",
        free=True,
        **{k: v for k, v in TINY_DETECTORS["parta2"].items() if "bev" not in k and "up_" not in k},
    )
    model = tiny_model("parta2", base)
    assert set(model.projectors) == {"sites"}
    seeded(model.train(), batch)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_subclass_keeps_what_it_overrides(batch):
    from tenfold.lidar.models import Second

    class Halved(Second):
        def bev(self, encoded):
            return super().bev(encoded) / 2

    torch.manual_seed(0)
    model = tiny_model("second", Halved(tiny_detector("second").config))
    encoded = model.encode(batch["points"], 2)
    torch.testing.assert_close(model.bev(encoded) * 2, super(Halved, model).bev(encoded))
    assert type(model).__name__ == "XViewHalved"


# ---- a user's own module ---------------------------------------------------------------------------


class OwnVoxels(nn.Module):
    """Counts points in cells of 0.8 m and convolves the counts."""

    def __init__(self):
        super().__init__()
        self.layer = SparseConv3d(1, 8, 3, padding=1)

    def encode(self, points, batch_size):
        cell = ((points[:, 1:4] - torch.tensor([0.0, -12.8, -3.0])) / torch.tensor([0.8, 0.8, 4.0])).floor()
        inside = ((cell >= 0) & (cell < torch.tensor([32, 32, 1]))).all(1)
        rows = torch.cat((points[inside][:, :1], cell[inside].flip(1)), 1).int()
        coords, count = rows.unique(dim=0, return_counts=True)
        return self.layer(SparseTensor(count[:, None].float(), coords, (1, 32, 32), batch_size))

    def forward(self, batch):
        return self.encode(batch["points"], batch["batch_size"]).features.sum()


class OwnPoints(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def describe(self, points):
        return self.layer(points)

    def forward(self, points):
        return self.describe(points).sum()


def test_a_users_sites(batch):
    own = OwnVoxels()
    grid = MainGrid((0.0, -12.8, -3.0, 25.6, 12.8, 1.0), (0.1, 0.1, 0.1), (8, 8, 40))
    model = add_xview(
        own,
        tiny_views("second"),
        grid=grid,
        encoder=lambda view, columns: ViewEncoder(
            "voxel", view, columns, channels=(4, 4, 4, 4), out_channels=8
        ),
    )
    out = model(batch)
    with model.without(0, 1):
        assert model(batch).item() == own(batch).item()
    assert out.item() != own(batch).item()
    out.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert own.layer.weight.grad is not None  # shared
    with pytest.raises(ValueError, match="grid"):
        add_xview(own, tiny_views("second"), encoder=lambda view, columns: None)
    with pytest.raises(ValueError, match="encoder"):
        add_xview(own, tiny_views("second"), grid=grid)


def test_a_users_points():
    class Coordinates(nn.Module):
        def __init__(self, columns):
            super().__init__()
            self.layer = nn.Linear(columns, 6)

        def forward(self, points, batch_size):
            return self.layer(points)

    torch.manual_seed(0)
    own, points = OwnPoints(), torch.rand(2, 50, 4) * 20
    views = [View(range=(0, -3.2, 0, 80, 3.2, 3.2)), View((9.0, 0, 0), range=(0, -3.2, 0, 80, 3.2, 3.2))]
    model = add_xview(own, views, seam="describe", encoder=lambda view, columns: Coordinates(columns))
    wanted = own.describe(points) + sum(
        encoder.layer(torch.cat((view.to_local(points[..., :3]), points[..., 3:]), -1))
        for view, encoder in zip(views, model.view_encoders, strict=True)
    )
    torch.testing.assert_close(model.describe(points), wanted)
    model(points).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="has no method encode or features"):
        add_xview(nn.Linear(1, 1), views)
    with pytest.raises(TypeError, match="expected a torch"):
        add_xview("second", views)


# ---- sizes -----------------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_sizes():
    assert count(add_xview(build_detector("second"))) == 6_749_320
    assert count(ViewEncoder("voxel", View(range=(0, -1.6, 0, 82, 1.6, 3.19)))) == 711_872
    nuscenes = add_xview(build_detector("second", dataset="nuscenes"), nuscenes_views())
    plain = ViewEncoder("voxel", nuscenes_views()[0], 5)
    assert count(nuscenes.view_encoders) == 3 * count(plain)
    assert type(nuscenes.view_encoders[0].backbone).__name__ == "VoxelBackBone8x"
    pillars = build_detector("pointpillars")
    assert count(add_xview(pillars)) == count(pillars) == 4_834_888
    points = add_xview(build_detector("pointrcnn"))
    assert count(points.view_encoders) == 2 * 3_007_632


def test_shapes_of_the_released_grids():
    """One point is enough: extents do not depend on the data."""
    from xview3d import kitti_views

    points = torch.tensor([[0.0, 41.0, 3.0, -1.0, 0.5]])
    for view, wanted in (
        (kitti_views(2)[0], (19, 40, 205)),
        (kitti_views(2)[1], (19, 80, 144)),
        (nuscenes_views()[0], (19, 40, 100)),
        (nuscenes_views()[1], (19, 40, 131)),
    ):
        encoder = ViewEncoder("voxel", view).eval()
        local = torch.cat((points[:, :1], view.to_local(points[:, 1:4]), points[:, 4:]), 1)
        assert encoder(local, 1).out.spatial_shape == wanted


# ---- strange input ---------------------------------------------------------------------------------


@every
def test_views_without_a_point_and_frames_without_one(name, batch):
    """The second frame is empty; and nothing at all."""
    model = tiny_model(name)
    points = batch["points"][batch["points"][:, 0] == 0]
    both = seeded(model, {"points": points, "batch_size": 2})
    alone = seeded(model, {"points": points, "batch_size": 1})
    assert len(both[0]["scores"]) == len(alone[0]["scores"])
    torch.testing.assert_close(both[0]["scores"], alone[0]["scores"], atol=1e-4, rtol=1e-4)
    assert len(both[1]["scores"]) == 0
    nothing = seeded(model, {"points": points[:0], "batch_size": 2})
    assert [len(frame["scores"]) for frame in nothing] == [0, 0]
    losses = seeded(model.train(), {**batch, "points": points[:0]})
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every
def test_a_centre_on_top_of_a_point(name, batch):
    row = batch["points"][batch["points"][:, 0] == 0][10]
    shared = tiny_views(name)[0]
    view = View(tuple(row[1:4].tolist()), kind=shared.kind, voxel=shared.voxel)
    model = add_xview(tiny_detector(name), [view])
    found = seeded(model, batch)
    assert all(frame["boxes"].isfinite().all() and frame["scores"].isfinite().all() for frame in found)
    losses = seeded(model.train(), batch)
    losses["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every
def test_points_that_are_no_numbers(name, batch):
    points = batch["points"].clone()
    points[3, 3] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        tiny_model(name)({**batch, "points": points})


@every
def test_a_view_that_does_not_cover_the_detector(name):
    view = tiny_views(name)[0]
    bounds = list(view.resolved(TINY_DETECTORS[name]["point_range"]).bounds)
    bounds[3] = 8.0
    short = replace(view, range=tuple(bounds))
    with pytest.raises(ValueError, match="leaves out parts of the detector's range"):
        add_xview(tiny_detector(name), [short])


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="fuse_into"):
        tiny_model("parta2", fuse_into="rois")
    with pytest.raises(ValueError, match="fuse"):
        tiny_model("second", fuse="max")
    with pytest.raises(ValueError, match="one cell along z"):
        add_xview(tiny_detector("pointpillars"), [View(kind="cylindrical", voxel=(0.4, 0.04, 1.0))])
    with pytest.raises(ValueError, match="kind"):
        ViewEncoder("transformer", View(range=(0, -1.6, 0, 82, 1.6, 3.19)))


def test_the_age_of_points_dropped_as_in_the_released_code(batch):
    model = add_xview(tiny_detector("second"), tiny_views("second"), nus_drop_time=True)
    aged = torch.cat((batch["points"], torch.rand(len(batch["points"]), 1)), 1)
    settle_with = tiny_model("second")
    model.load_state_dict(settle_with.state_dict())
    plain = add_xview(tiny_detector("second"), tiny_views("second"))
    plain.load_state_dict(model.state_dict())
    assert same(seeded(model, {**batch, "points": aged}), seeded(plain, batch))


def test_a_frozen_first_stage_freezes_its_views(batch):
    model = add_xview(tiny_detector("pointrcnn", stages="second"), tiny_views("pointrcnn")).train()
    before = {k: v.clone() for k, v in model.view_encoders.state_dict().items()}
    seeded(model, batch)["loss"].backward()
    assert all(torch.equal(v, before[k]) for k, v in model.view_encoders.state_dict().items())
