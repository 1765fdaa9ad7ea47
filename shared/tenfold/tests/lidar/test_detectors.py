"""All detectors alike: gradients, batches, empty and wrong input, options, export; and what single ones add."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lidar_scenes import collate, simulated

from tenfold.lidar import build_detector, export_dense
from tenfold.lidar.models import MultiHead, PointPillarsConfig, SecondConfig, UNetV2
from tenfold.lidar.models.pointpillars import Pillars, scatter_pillars
from tenfold.lidar.proposals import recall
from tenfold.lidar.roi_targets import RoITargets, stretch_boxes
from tenfold.ops import box_iou_3d
from tenfold.sparse import SparseTensor

NAMES = ("second", "pointpillars", "parta2", "pv_rcnn", "pointrcnn")
TWO_STAGE = NAMES[2:]


EMPTY = (torch.zeros(0, 5), torch.zeros(1, 0, 8))


def tiny(tiny_models, name, **more):
    torch.manual_seed(0)
    return build_detector(name, **{**tiny_models[name], **more})


def is_half(output):
    return isinstance(output, torch.Tensor) and output.dtype == torch.bfloat16


def norms_in_eval(model):
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


@pytest.fixture
def with_foreground(monkeypatch):
    """Ground truth among the regions, so that every branch of a second stage is taught."""
    from tenfold.lidar.models import two_stage

    def sample(proposals, gt_boxes, options, generator=None):
        number = gt_boxes.shape[1]
        proposals.boxes[:, :number, :7] = gt_boxes[..., :7] + 0.05 * (gt_boxes[..., 7:] > 0)
        proposals.labels[:, :number] = (gt_boxes[..., 7].long() - 1).clamp(min=0)
        return sample_rois(proposals, gt_boxes, options, generator)

    from tenfold.lidar.roi_targets import sample_rois

    monkeypatch.setattr(two_stage, "sample_rois", sample)


VARIANTS = (
    ("second", {}),
    ("second", {"head": "multi", "voxels": "dynamic"}),
    ("pointpillars", {}),
    ("pointpillars", {"voxels": "dynamic", "direction": False}),
    ("parta2", {}),
    ("parta2", {"part": False}),
    ("parta2", {"free": True}),
    ("pv_rcnn", {}),
    ("pv_rcnn", {"encoder": "residual", "blocks": [1, 1, 1, 1], "sources": ["raw", "conv4"]}),
    ("pointrcnn", {}),
    ("pointrcnn", {"bin_loss": True, "pool_enlarge": 1.0}),
)


@pytest.mark.parametrize(
    ("name", "more"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain"
)
def test_gradients_reach_every_parameter(tiny_models, with_foreground, name, more):
    model = tiny(tiny_models, name, **more)
    losses = model(collate(simulated(0), simulated(1)))
    losses["loss"].backward()
    for key, value in losses.items():
        assert value.isfinite().all(), key
    counts = {"num_positives", "point_fg", "roi_fg"} & set(losses)
    assert all(losses[key] > 0 for key in counts), losses
    parts = [v for k, v in losses.items() if k != "loss" and k not in counts]
    torch.testing.assert_close(losses["loss"], torch.stack(parts).sum())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # a bias before a normalisation with batch statistics has gradient 0 by definition
        redundant = more.get("encoder") == "residual" and key.endswith("bias")
        assert redundant or parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_detections_of_a_batch_equal_those_of_its_frames(tiny_models, name):
    model = tiny(tiny_models, name, post={"score_threshold": 0.0}).eval()
    frames = [simulated(seed) for seed in (0, 1)]
    together = model(collate(*frames, EMPTY))
    assert len(together) == 3
    assert together[2]["boxes"].shape == (0, 7)
    assert together[2]["labels"].dtype == torch.int64
    for frame, found in zip(frames, together, strict=False):
        alone = model(collate(frame))[0]
        assert len(alone["boxes"]) > 0
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)
        assert not alone["boxes"].requires_grad
        assert (alone["labels"] == 0).all()
    again = model(collate(*frames, EMPTY))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(together, again, strict=True) for k in a)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_see_and_nothing_to_learn(tiny_models, name):
    model = tiny(tiny_models, name)
    for frames in ([EMPTY], [simulated(0), EMPTY]):
        losses = model(collate(*frames))
        losses["loss"].backward()
        assert losses["loss"].isfinite()
    without = {**collate(simulated(0)), "gt_boxes": torch.zeros(1, 0, 8)}
    losses = model(without)
    assert losses["loss"].isfinite()
    model.eval()
    outside = simulated(0)[0] + torch.tensor([0.0, 500, 0, 0, 0])
    for points in (EMPTY[0], outside):
        assert model({"points": points, "batch_size": 1})[0]["boxes"].shape == (0, 7)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_batches_are_named(tiny_models, name):
    model = tiny(tiny_models, name)
    batch = collate(simulated(0))
    bad = batch["gt_boxes"].clone()
    bad[0, 1, 7] = 2
    nan = batch["points"].clone()
    nan[7, 2] = float("nan")
    kind = type(model).__name__
    cases = [
        ({**batch, "gt_boxes": bad}, f"{kind}: gt_boxes: row 1 of frame 0"),
        ({k: v for k, v in batch.items() if k != "gt_boxes"}, f"{kind}: batch: has no 'gt_boxes'"),
        ({**batch, "points": batch["points"][:, 1:]}, f"{kind}: points"),
        ({**batch, "batch_size": 0}, f"{kind}: batch_size"),
    ]
    for case, message in cases:
        with pytest.raises(ValueError, match=message):
            model(case)


@pytest.mark.parametrize("name", NAMES)
def test_autocast(tiny_models, name):
    model = tiny(tiny_models, name)
    batch = collate(simulated(0))
    half = set()
    for key, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, o, k=key: half.add(k) if is_half(o) else None)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
        found = model.eval()(batch)[0]
    losses["loss"].backward()
    assert {key.split(".")[0] for key in half} <= {"backbone_2d", "dense_head"}
    assert bool(half) == (name != "pointrcnn")
    assert losses["loss"].dtype == found["boxes"].dtype == torch.float32
    assert losses["loss"].isfinite()


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pointpillars", {"voxel_size": (0.16, 0.16, 2.0)}, "a pillar has one"),
        ("pointpillars", {"pillar_channels": 0}, "pillar_channels"),
        ("pointpillars", {"up_strides": (1, 2, 0.3)}, "up_strides: got 0.3"),
        ("second", {"velocity": True}, "head 'multi' only"),
        ("second", {"head": "multi", "head_groups": (("Car",),)}, "head_groups"),
        ("second", {"voxels": "soft"}, "one of hard, dynamic"),
        ("second", {"loss_weights": {"codes": [1.0] * 8}}, "codes: got 8 numbers; head 'single' has 7"),
        ("second", {"dataset": "nuscenes", "head": "single", "velocity": False}, "codes: got 10 numbers"),
        ("second", {"anchors": [{"name": "Car", "width": 3}]}, "anchors: .*width"),
        ("second", {"post": {"threshold": 1}}, "post: unknown option 'threshold'; known are score_threshold"),
        ("second", {"post": {"score_threshold": 3}}, "score_threshold: got 3"),
        ("parta2", {"encoder": "residual"}, "the U-Net's is 'plain'"),
        ("parta2", {"mean_sizes": [[1, 2, 3]]}, "one per class"),
        ("parta2", {"second": {"sampling": {"score": "iou"}}}, "score: got 'iou'"),
        ("parta2", {"second": {"sampling": {"cls_bg": 0.9}}}, "cls_bg < cls_fg"),
        ("pv_rcnn", {"sources": ["bev", "conv5"]}, "distinct ones of bev, raw"),
        ("pv_rcnn", {"sources": []}, "sources"),
        ("pv_rcnn", {"keypoints": 0}, "below 1"),
        ("pv_rcnn", {"second": {"train": {"pre_max": 0}}}, "pre_max"),
        ("pointrcnn", {"points": 2000}, "ever fewer"),
        ("pointrcnn", {"up_widths": [[8]]}, "up_widths: got 1 for 4 levels"),
        ("pointrcnn", {"class_names": ["Tram"]}, "no mean size known for Tram"),
        ("pointrcnn", {"bins": True}, "bins: is for one class"),
        ("pointrcnn", {"roi_flip": 1.5}, "roi_flip, roi_scale: got 1.5, 0.0"),
        ("pointrcnn", {"stages": "third"}, "stages: got 'third'"),
        ("pointrcnn", {"voxel_size": 1}, "unknown option 'voxel_size'"),
        ("pointrcnn", {"dataset": "nuscenes", "bin_loss": True}, "dataset: got 'nuscenes'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_detector(name, **options)


def test_nested_options_of_configuration_files():
    model = build_detector(
        "pv_rcnn",
        **{
            "class_names": ["Car"],
            "anchors": [{"name": "Car", "sizes": [[4, 2, 1.5]], "rotations": [0.0]}],
            "second": {"sampling": {"per_frame": 7}, "fc": [8]},
            "point_range": [0, -0.8, -3, 1.6, 0.8, 1],
            "loss_weights": {"direction": 0.1},
        },
    )
    c = model.config
    assert c.second.sampling.per_frame == 7
    assert c.second.sampling.reg_fg == 0.55  # the rest stays
    assert c.anchors[0].per_cell == 1
    assert (c.loss_weights.direction, c.loss_weights.boxes) == (0.1, 2.0)
    hash(c)


def test_published_settings():
    with torch.device("meta"):
        models = {name: build_detector(name).config for name in NAMES}
    assert models["second"].post.iou_threshold == models["pointpillars"].post.iou_threshold == 0.01
    for name in TWO_STAGE:
        stage = models[name].second
        assert models[name].post.iou_threshold == 0.1
        assert (stage.train.pre_max, stage.train.iou_threshold, stage.train.post_max) == (9000, 0.8, 512)
        assert stage.sampling.per_frame == 128
    assert models["parta2"].second.sampling.reg_fg == 0.65
    assert models["pv_rcnn"].second.sampling.reg_fg == 0.55
    test = models["pointrcnn"].second.test
    assert (test.pre_max, test.iou_threshold, test.post_max) == (9000, 0.85, 100)
    assert models["pointrcnn"].second.sampling.score == "cls"
    assert [a.bottom for a in models["parta2"].anchors] == [-1.78] * 3
    assert [a.bottom for a in models["pv_rcnn"].anchors] == [-1.78, -0.6, -0.6]
    assert SecondConfig.nuscenes().bev_grid == PointPillarsConfig.nuscenes().bev_grid == (128, 128)
    assert SecondConfig.nuscenes().grid == (1024, 1024, 40)


# ---- single detectors ----------------------------------------------------------------------------


def test_pillar_features_equal_their_restatement(tiny_models):
    model = tiny(tiny_models, "pointpillars", max_points=3).double().eval()
    c = model.config
    points = simulated(0)[0].double()
    got = model.encode(points, 1)
    layer = model.vfe.pfn_layers[0]
    cells = {}
    for p in points[:, 1:].tolist():
        x, y = (math.floor((p[a] - c.point_range[a]) / c.voxel_size[a]) for a in (0, 1))
        z = math.floor((p[2] - c.point_range[2]) / 4.0)
        if 0 <= x < 32 and 0 <= y < 32 and z == 0:
            cells.setdefault((y, x), []).append(p)
    assert len(cells) == len(got.coords)
    for feature, (_, _, y, x) in zip(got.features, got.coords.tolist(), strict=True):
        kept = torch.tensor(cells[y, x][:3], dtype=torch.float64)
        centre = torch.tensor([0.8 * (x + 0.5), -12.8 + 0.8 * (y + 0.5), -1.0], dtype=torch.float64)
        rows = torch.cat((kept, kept[:, :3] - kept[:, :3].mean(0), kept[:, :3] - centre), 1)
        rows = torch.cat((rows, torch.zeros(3 - len(rows), 10, dtype=torch.float64)))
        expected = layer(rows).amax(0)
        torch.testing.assert_close(feature, expected)


def test_pillars_land_in_their_cells():
    coords = torch.tensor([[0, 0, 2, 1], [1, 0, 0, 3]], dtype=torch.int32)
    got = scatter_pillars(Pillars(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), coords), (4, 3), 2)
    assert got.shape == (2, 2, 3, 4)
    assert got[0, :, 2, 1].tolist() == [1, 2]
    assert got[1, :, 0, 3].tolist() == [3, 4]
    assert got.sum() == 10


def test_decoder_returns_to_the_input_sites(tiny_models):
    model = tiny(tiny_models, "parta2").eval()
    points = simulated(0)[0]
    with torch.no_grad():
        voxels = model.voxels(points, 1)
        encoded = model.encode_voxels(voxels)
    assert torch.equal(encoded.sites.coords, voxels.coords)
    assert encoded.sites.features.shape[1] == model.backbone_3d.site_channels
    at = model.points_of(encoded)
    size = torch.tensor(model.config.voxel_size)
    cell = ((at.xyz - torch.tensor(model.config.point_range[:3])) / size).floor().int()
    assert torch.equal(cell, voxels.coords[:, [3, 2, 1]])


def dense_unet(net, grid, mask):
    """The U-Net in dense convolutions: (1, F, Z, Y, X) and occupancy to features at the input sites."""
    state = net.state_dict()

    def norm(name, x):
        parts = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    def same(x, site, conv, bn):
        x = F.conv3d(x, state[f"{conv}.weight"].permute(0, 4, 1, 2, 3), padding=1)
        return norm(bn, x) * site

    def block(x, site, name):
        return F.relu(same(x, site, f"{name}.0", f"{name}.1")) * site

    def residual(x, site, name):
        inner = F.relu(same(x, site, f"{name}.conv1", f"{name}.bn1")) * site
        return F.relu(same(inner, site, f"{name}.conv2", f"{name}.bn2") + x) * site

    ones = torch.ones(1, 1, 3, 3, 3, dtype=grid.dtype)
    pads = {2: (1, 1, 1), 3: (1, 1, 1), 4: (0, 1, 1)}
    x = block(block(grid, mask, "conv_input"), mask, "conv1.0")
    laterals, masks = [x], [mask]
    for stage in (2, 3, 4):
        site = (F.conv3d(masks[-1], ones, stride=2, padding=pads[stage]) > 0).to(grid.dtype)
        weight = state[f"conv{stage}.0.0.weight"].permute(0, 4, 1, 2, 3)
        x = F.relu(norm(f"conv{stage}.0.1", F.conv3d(x, weight, stride=2, padding=pads[stage]))) * site
        for layer in (1, 2):
            x = block(x, site, f"conv{stage}.{layer}")
        laterals.append(x)
        masks.append(site)
    bottom = x
    for level in (4, 3, 2, 1):
        site = masks[level - 1]
        joined = torch.cat((bottom, residual(laterals[level - 1], site, f"conv_up_t{level}")), 1)
        merged = block(joined, site, f"conv_up_m{level}")
        merged = merged + joined[:, 0::2] + joined[:, 1::2]
        if level == 1:
            return block(merged, site, "conv5.0")
        finer = masks[level - 2]
        weight = state[f"inv_conv{level}.0.weight"].permute(4, 0, 1, 2, 3)
        wanted, pad = finer.shape[2:], pads[level]
        short = [n - ((m - 1) * 2 - 2 * q + 3) for n, m, q in zip(wanted, merged.shape[2:], pad, strict=True)]
        up = F.conv_transpose3d(merged, weight, stride=2, padding=pad, output_padding=short)
        bottom = F.relu(norm(f"inv_conv{level}.1", up)) * finer
    raise AssertionError


def test_the_u_net_equals_dense_convolutions():
    torch.manual_seed(0)
    net = UNetV2(3, (2, 4, 4, 6), out_channels=None).double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 1.0, 2.0)
    shape = (41, 16, 16)
    mask = (torch.rand(1, 1, *shape) < 0.03).double()
    grid = torch.randn(1, 3, *shape, dtype=torch.float64) * mask
    coords = mask[:, 0].nonzero().int()
    features = grid[0, :, coords[:, 1].long(), coords[:, 2].long(), coords[:, 3].long()].T.contiguous()
    with torch.no_grad():
        found = net(SparseTensor(features, coords, shape, 1)).sites.dense()
        expected = dense_unet(net, grid, mask)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_empty_regions_are_made_up_and_taught_nothing(tiny_models):
    model = tiny(tiny_models, "parta2")
    first = model.first_stage(simulated(0)[0], 1, {})
    far = torch.tensor([[[500.0, 0, 0, 4, 2, 1.5, 0]]]).expand(1, 4, 7)
    outputs = model.second_stage(first, first.points, far)
    assert outputs.classes.shape == (4,)
    assert outputs.valid is not None
    assert not outputs.valid.any()
    near = far.clone()
    near[..., :3] = simulated(0)[1][0, 0, :3]
    assert model.second_stage(first, first.points, near).valid is None


@pytest.mark.parametrize("name", TWO_STAGE)
def test_pooling_moves_with_the_scene(tiny_models, name):
    """A motion of regions and points together leaves what a second stage sees as it is.

    PV-RCNN's key points lie around a grid point along the scene's axes: shifts only. PointRCNN sees the distance
    from the sensor: rotations only.
    """
    model = tiny(tiny_models, name).double().eval()
    points = simulated(0)[0].double()
    with torch.no_grad():
        first = model.first_stage(points, 1, {})
        rois = simulated(0)[1][:, :2, :7].double()
        before = model.second_stage(first, first.points, rois)
        turn = 0.0 if name == "pv_rcnn" else 2.0
        shift = 0.0 if name == "pointrcnn" else 3.0
        c, s = math.cos(turn), math.sin(turn)
        matrix = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
        moved = first.points._replace(xyz=(first.points.xyz @ matrix.T + shift).contiguous())
        turned = torch.cat((rois[..., :3] @ matrix.T + shift, rois[..., 3:6], rois[..., 6:] + turn), -1)
        after = model.second_stage(first, moved, turned)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=1e-6, atol=1e-6)
    assert before.boxes.std() > 0


def test_point_pooling_teaches_the_features_and_not_the_score(tiny_models):
    model = tiny(tiny_models, "pointrcnn")
    first = model.first_stage(simulated(0)[0], 1, {})
    features = first.points.features.detach().requires_grad_()
    logits = first.point_outputs.classes.detach().requires_grad_()
    outputs = model.roi_head(
        first.points._replace(features=features),
        first.point_outputs._replace(classes=logits),
        simulated(0)[1][..., :7],
    )
    outputs.classes.sum().backward()
    assert features.grad.abs().max() > 0
    assert logits.grad is None


@pytest.mark.parametrize("bins", [False, True])
def test_a_changed_region_is_that_of_a_changed_scene(tiny_models, bins):
    """Scaling and mirroring regions in training is the same as doing it to points, regions and ground truth."""
    options = {**tiny_models["pointrcnn"], "bin_loss": bins, "depth_scale": 1e12, "roi_flip": 0.5}
    torch.manual_seed(0)
    model = norms_in_eval(build_detector("pointrcnn", **options, roi_scale=0.2).double())
    head = model.roi_head
    torch.nn.init.normal_(head.reg_layers[-1].weight)  # it starts close to 0, which has no sides
    points, rois = simulated(0)[0].double(), simulated(0)[1][:, :2, :7].double()
    with torch.no_grad():
        first = model.first_stage(points, 1, {})
        torch.manual_seed(1)
        outputs = head(first.points, first.point_outputs, rois)
        assert (outputs.factors[:, 1] < 0).tolist() == [True, False]
        assert head.eval()(first.points, first.point_outputs, rois).factors is None
        gt = rois + torch.tensor([0.2, -0.1, 0.1, 0.3, 0.1, -0.1, 0.1], dtype=torch.float64)
        one = torch.ones(1, 2, dtype=torch.float64)
        targets = RoITargets(rois, one, one.long(), one, gt, one, one.bool())
        losses = head.losses(outputs, targets)
        for k, factors in enumerate(outputs.factors):
            moved = first.points._replace(xyz=first.points.xyz * factors)
            seen = head(moved, first.point_outputs, stretch_boxes(rois, factors)[:, k : k + 1])
            torch.testing.assert_close(seen.boxes[0], outputs.boxes[k])
            torch.testing.assert_close(seen.classes[0], outputs.classes[k])
        changed = targets._replace(
            rois=stretch_boxes(rois, outputs.factors[None]), gt_boxes=stretch_boxes(gt, outputs.factors[None])
        )
        expected = head.losses(outputs._replace(factors=None), changed)
        wrong = head.losses(outputs._replace(factors=None), targets)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    assert abs(wrong["roi_box"] - losses["roi_box"]) > 1e-3


def test_key_point_scores_are_taught_by_the_second_stage(tiny_models):
    model = tiny(tiny_models, "pv_rcnn")
    first = model.first_stage(simulated(0)[0], 1, {})
    logits = first.point_outputs.classes.detach().requires_grad_()
    outputs = model.roi_head(
        first.points, first.point_outputs._replace(classes=logits), simulated(0)[1][..., :7]
    )
    outputs.classes.sum().backward()
    assert logits.grad.abs().max() > 0


def test_stages_of_point_rcnn_alone(tiny_models):
    model = tiny(tiny_models, "pointrcnn", stages="second")
    losses = model(collate(simulated(0)))
    assert not any(name.startswith("point_") for name in losses)
    losses["loss"].backward()
    assert all(p.grad is None for p in model.point_head.parameters())
    assert all(p.grad is not None for p in model.roi_head.cls_layers.parameters())
    first = tiny(tiny_models, "pointrcnn", stages="first")(collate(simulated(0)))
    assert not any(name.startswith("roi_") for name in first)


@pytest.mark.parametrize("name", TWO_STAGE)
def test_first_stage_alone_is_its_proposals(tiny_models, name):
    model = tiny(tiny_models, name, post={"score_threshold": 0.0, "iou_threshold": 1.0}).eval()
    batch = collate(simulated(0))
    found = model.find_first(batch)[0]
    with torch.no_grad():
        proposals = model.propose(model.first_stage(batch["points"], 1, batch))
    assert len(found["boxes"]) == int(proposals.counts[0])
    torch.testing.assert_close(found["boxes"], proposals.boxes[0, : len(found["boxes"])])


def test_one_scene_is_learnt_by_a_two_stage_model(tiny_models):
    torch.manual_seed(0)
    model = tiny(
        tiny_models, "pv_rcnn", channels=[8, 16, 16, 16], out_channels=16, bev_channels=[32], up_channels=[32]
    )
    batch = collate(simulated(5))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(25):
        losses = model(batch)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append(losses["loss"].item())
    assert np.mean(history[-5:]) < 0.3 * history[0], (history[0], history[-5:])
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(batch)
        model.eval()
        proposals = model.propose(model.first_stage(batch["points"], 1, batch))
    covered, total = recall(proposals, batch["gt_boxes"], 0.25)
    assert total >= 3
    assert covered >= total - 1


# ---- nuScenes ------------------------------------------------------------------------------------

NUSCENES_TINY = {
    "point_range": [0.0, -12.8, -5.0, 25.6, 12.8, 3.0],
    "class_names": ["car", "pedestrian"],
    "head_groups": [["car"], ["pedestrian"]],
    "head_channels": 8,
}


def nuscenes_model(tiny_models, name):
    options = {k: v for k, v in tiny_models[name].items() if k != "class_names"}
    options.update(NUSCENES_TINY)
    if name == "pointrcnn":
        options = {k: v for k, v in options.items() if not k.startswith("head_")}
    elif name == "pointpillars":
        options["voxel_size"] = [0.8, 0.8, 8.0]
    else:
        options.update(voxel_size=[0.2, 0.2, 0.2], blocks=[1, 1, 1, 1])
    if name == "pv_rcnn":
        options["channels"] = [4, 4, 4, 8]
    torch.manual_seed(0)
    return build_detector(name, dataset="nuscenes", **options)


@pytest.mark.parametrize("name", NAMES)
def test_nuscenes_with_velocities(tiny_models, name):
    model = nuscenes_model(tiny_models, name)
    batch = collate(simulated(0), velocity=True)
    batch["points"] = torch.cat((batch["points"], torch.zeros(len(batch["points"]), 1)), 1)
    losses = model(batch)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    model.config = type(model.config)(
        **{
            **{f: getattr(model.config, f) for f in model.config.__dataclass_fields__},
            "post": type(model.config.post)(0.0, 0.2, 50, 20, per_class=name in NAMES[:2], total_max=30),
        }
    )
    found = model.eval()(batch)[0]
    columns = 7 if name == "pointrcnn" else 9
    assert found["boxes"].shape[1] == columns
    assert 0 < len(found["boxes"]) <= 30
    assert set(found["labels"].tolist()) <= {0, 1}
    with pytest.raises(ValueError, match="vx, vy, 1-based label"):
        model.train()({**batch, "gt_boxes": batch["gt_boxes"][..., :8]})


def multi_head(grid=(4, 6)):
    from tenfold.lidar.anchors import NUSCENES_ANCHORS

    torch.manual_seed(0)
    anchors = NUSCENES_ANCHORS[:3]
    groups = (("car",), ("truck", "construction_vehicle"))
    return MultiHead(8, anchors, groups, (0, 0, -5, 12, 8, 3), grid, channels=8).double().eval()


def test_outputs_of_groups_run_over_anchor_y_x():
    head = multi_head()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    outputs = head(x)
    shared = head.shared_conv(x)
    for number, group in enumerate(head.rpn_heads):
        maps = torch.cat([branch(shared) for branch in group.conv_box.values()], 1)
        per_cell = group.per_cell
        assert outputs.boxes[number].shape == (2, per_cell * 24, 10)
        for a in range(per_cell):
            for y, xx in ((0, 0), (3, 1), (2, 5)):
                row = a * 24 + y * 6 + xx
                expected = maps[1, a * 10 : (a + 1) * 10, y, xx]
                torch.testing.assert_close(outputs.boxes[number][1, row], expected)
        anchors = head.group_anchors()[number].view(-1, 7)
        row = 1 * 24 + 3 * 6 + 1
        torch.testing.assert_close(anchors[row, :2], torch.tensor([12 / 5, 8.0], dtype=torch.float64))


def test_losses_of_groups_equal_their_restatement():
    head = multi_head()
    outputs = head(torch.randn(1, 8, 4, 6, dtype=torch.float64))
    gt = torch.zeros(1, 3, 10, dtype=torch.float64)
    gt[0, 0] = torch.tensor([4.8, 2.7, 0, 4.6, 1.9, 1.7, 0.1, 3, float("nan"), 1])
    gt[0, 1] = torch.tensor([7.0, 5.0, 0, 6.9, 2.5, 2.8, 1.5, 0, 1, 2])
    got = head.losses(outputs, gt)
    from tenfold.lidar.targets import match_anchors

    cls = box = positives = 0
    for number, labels in enumerate(((1,), (2, 3))):
        anchors = head.group_anchors()[number].view(len(labels), 2 * 24, 7)
        logits = outputs.classes[number][0].view(len(labels), 48, -1)
        codes = outputs.boxes[number][0].view(len(labels), 48, 10)
        for place, label in enumerate(labels):
            anchor = head.classes[label - 1]
            rows = [m for m in range(3) if gt[0, m, 9] == label]
            match = match_anchors(anchors[place], gt[0, rows, :7], anchor.matched, anchor.unmatched)
            for k in range(48):
                if match[k] == -2:
                    continue
                positive = match[k] >= 0
                positives += int(positive)
                for column in range(len(labels)):
                    p = torch.sigmoid(logits[place, k, column]).item()
                    if positive and column == place:
                        cls -= 0.25 * (1 - p) ** 2 * math.log(p)
                    else:
                        cls -= (1.0 if positive else 2.0) * 0.75 * p * p * math.log(1 - p)
                if positive:
                    wanted = head.coder.encode(gt[0, rows[match[k]], :9], anchors[place, k])
                    weights = [1.0] * 8 + [0.2, 0.2]
                    for w, d in zip(weights, (codes[place, k] - wanted).tolist(), strict=True):
                        box += 0 if math.isnan(d) else w * abs(d)
    assert positives == got["num_positives"] > 1
    assert got["loss_cls"].item() == pytest.approx(cls / positives)
    assert got["loss_box"].item() == pytest.approx(0.25 * box / positives)


def test_groups_and_global_labels():
    head = multi_head()
    outputs = head(torch.randn(1, 8, 4, 6, dtype=torch.float64))
    logits = head.logits(outputs)
    assert logits.shape == (1, 48 + 96, 3)
    assert (logits[0, :48].argmax(1) == 0).all()
    assert (logits[0, 48:].argmax(1) > 0).all()
    assert head.boxes(outputs).shape == (1, 144, 9)
    from tenfold.lidar.postprocess import PostProcess

    (found,) = head.detect(outputs, PostProcess(0.0, 0.2, 100, 5, per_class=True))
    assert torch.bincount(found["labels"], minlength=3).tolist() == [5, 5, 5]
    (cut,) = head.detect(outputs, PostProcess(0.0, 0.2, 100, 5, per_class=True, total_max=4))
    assert len(cut["scores"]) == 4
    assert cut["scores"].min() >= found["scores"].sort(descending=True).values[3]
    boxes = found["boxes"][found["labels"] == 0, :7]
    overlap = box_iou_3d(boxes, boxes)
    assert overlap.shape == (5, 5)


# ---- export --------------------------------------------------------------------------------------


# `second` is exported in its own tests.
@pytest.mark.parametrize("name", ["pointpillars", "parta2", "pv_rcnn"])
def test_dense_parts_are_exported(tiny_models, name, tmp_path):
    model = tiny(tiny_models, name)
    program = export_dense(model, tmp_path / "dense.pt2")
    config = model.config
    ny, nx = (n // config.feature_stride for n in (config.grid[1], config.grid[0]))
    x = torch.randn(3, config.bev_input_channels, ny, nx)
    with torch.no_grad():
        expected = model.eval().dense(x)
    for a, b in zip(program.module()(x), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_heads_of_groups_are_exported(tiny_models):
    model = tiny(tiny_models, "second", head="multi")
    x = torch.randn(1, model.config.bev_input_channels, 16, 16)
    with torch.no_grad():
        expected = model.eval().dense(x)
        found = export_dense(model).module()(x)
    for a, b in zip(found, (*expected.classes, *expected.boxes), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [{"name": "pointrcnn"}, {"name": "parta2", "free": True}])
def test_detectors_without_a_dense_part_say_so(tiny_models, options):
    model = tiny(tiny_models, **options)
    with pytest.raises(ValueError, match="has no dense part"):
        export_dense(model)
