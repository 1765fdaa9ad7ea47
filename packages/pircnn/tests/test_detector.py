"""The detector: what the image changes, what trains, and what stays as it is."""

from functools import partial

import numpy as np
import pytest
import torch

from pircnn import PIRCNN, SegUNet, image_tensor
from pircnn.data import toy_batch
from pircnn.data.columns import SEEN, STORED, UNSEEN
from pircnn.losses import IGNORE, point_segmentation_loss, segmentation_loss
from pircnn.model import VARIANTS, build, make_config
from pircnn.recipe import fusion_gradients, parameter_groups
from tenfold._errors import UserInputError
from tenfold.lidar import build_detector
from tenfold.lidar.models.point_input import fixed_points
from tenfold.lidar.roi_targets import sample_rois
from tenfold.testing import averaged_gradients, draw_alike, two_gloo_ranks, undrawn
from tenfold.train.processes import rank_and_world
from tenfold.train.schedules import decoupled_adam


def lively(model):
    """In training, regions near the ground truth, as after some steps: every loss has something to do."""
    draw = model.draw

    def with_truth(proposals, gt_boxes, options):
        boxes, labels = proposals.boxes.clone(), proposals.labels.clone()
        number = gt_boxes.shape[1]
        boxes[:, :number, :7] = gt_boxes[..., :7] * (gt_boxes[..., 7:] > 0)
        boxes[:, :number, :2] += 0.1 * (gt_boxes[..., 7:] > 0)
        labels[:, :number] = 0
        return draw(proposals._replace(boxes=boxes, labels=labels), gt_boxes, options)

    model.draw = with_truth
    return model


def step(model, batch):
    model.train()
    losses = model(batch)
    losses["loss"].backward()
    return losses


def detections(model, batch):
    return model.eval()(batch)


def assert_same(a, b, **tolerance):
    for one, other in zip(a, b, strict=True):
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[name], other[name], **tolerance)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_row_trains_and_detects(variant, make_model, toy):
    model = lively(make_model(variant, branch="cached"))
    batch = toy_batch(toy[:2])
    batch["maps"] = [torch.rand(3, 96, 320), torch.rand(3, 96, 320)]
    losses = step(model, batch)
    assert losses["loss"].isfinite()
    assert losses["roi_fg"] > 0
    gradients = fusion_gradients(model)
    fused = variant not in ("pointrcnn", "paint-input")
    assert bool(gradients) == fused
    if model.config.fusion.trained and fused:
        assert min(gradients.values()) > 0, gradients
    elif fused:
        assert max(gradients.values()) == 0
    assert len(detections(model, batch)) == 2


def test_gradients_reach_the_image_network_and_not_the_scores(make_model, toy):
    """The second stage's losses alone: through pooling, fusion and sampling into the first convolution."""
    model = lively(make_model(branch="joint")).train()
    batch = toy_batch(toy[:2])
    losses = model(batch)
    sum(losses[name] for name in ("roi_cls", "roi_box", "roi_corner")).backward()
    assert min(fusion_gradients(model).values()) > 0
    assert model.image_net.first[0].weight.grad.abs().sum() > 0
    assert model.backbone_3d.SA_modules[0].mlps[0][0].weight.grad.abs().sum() > 0
    # Scores and boxes of the first stage enter the regions as constants.
    for name, parameter in model.point_head.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    model.zero_grad()
    model(batch)["seg"].backward()
    assert model.image_net.first[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.fusion.parameters())


def test_one_step_moves_every_fusion_tensor_and_frozen_ones_stay(make_model, toy):
    for variant, moves in (("pacf", True), ("pacf-frozen", False)):
        model = lively(make_model(variant, branch="joint", seg_weight=0.0))
        optimizer = decoupled_adam(parameter_groups(model, 0.01), lr=0.01)
        before = {k: v.detach().clone() for k, v in model.named_parameters()}
        step(model, toy_batch(toy[:2]))
        optimizer.step()
        changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
        fusion = {k for k in before if k.startswith("fusion.")}
        # Weight decay leaves alone what has no gradient.
        assert (fusion <= changed) if moves else not (fusion & changed)
        assert ("image_net.first.0.weight" in changed) == moves


def test_a_frozen_image_network_does_not_move(make_model, toy):
    model = lively(make_model(branch="frozen"))
    state = {k: v.clone() for k, v in model.image_net.state_dict().items()}
    optimizer = decoupled_adam(parameter_groups(model, 0.01), lr=0.01)
    assert len(optimizer.param_groups) == 1
    for _ in range(3):
        optimizer.zero_grad()
        losses = step(model, toy_batch(toy[:2]))
        optimizer.step()
        assert "seg" not in losses
    for name, value in model.image_net.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert model.training
    assert not model.image_net.training


def test_an_identity_fusion_is_pointrcnn(make_model, toy, narrow):
    own = {k: v for k, v in narrow.items() if not k.startswith("seg_")}
    torch.manual_seed(0)
    plain = lively(build_detector("pointrcnn", **own))
    model = make_model(branch="joint")
    model.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        model.fusion.own.weight.copy_(torch.eye(16))
        for tensor in (model.fusion.own.bias, model.fusion.fuse.merge.weight, model.fusion.fuse.merge.bias):
            tensor.zero_()
    batch = toy_batch(toy)
    found = detections(model, batch)
    lidar = detections(plain, {"points": batch["points"][:, :5].contiguous(), "batch_size": 4})
    assert sum(len(f["scores"]) for f in found) > 8
    assert_same(found, lidar)
    assert_same(
        model.find_first(batch), plain.find_first({**batch, "points": batch["points"][:, :5].contiguous()})
    )


def test_the_image_never_reaches_the_proposals(make_model, toy):
    model = lively(make_model(branch="joint")).eval()
    batch = toy_batch(toy[:2])
    dark = {**batch, "images": [torch.zeros_like(i) for i in batch["images"]]}
    assert_same(model.find_first(batch), model.find_first(dark))
    scores = [torch.cat([f["scores"] for f in detections(model, b)]) for b in (batch, dark)]
    assert len(scores[0]) != len(scores[1]) or not torch.equal(*scores)


def test_missing_images_equal_zeros(make_model, toy):
    model = lively(make_model(branch="joint"))
    control = make_model("pointrcnn+params", branch="joint")
    control.load_state_dict(model.state_dict())
    batch = toy_batch(toy[:2])
    blind = {**batch, "images": [None, None]}
    wanted = detections(control, batch)
    assert_same(detections(model, blind), wanted)
    without = {k: v for k, v in batch.items() if k != "images"}
    assert_same(detections(model, without), wanted)
    half = detections(model, {**batch, "images": [None, batch["images"][1]]})
    assert_same(half[:1], wanted[:1])
    dropping = make_model(branch="joint", fusion={"drop": 1.0})
    dropping.train()
    assert not dropping.look(batch["points"][None, :1024, 1:], {"images": batch["images"][:1]}).features.any()


def test_frames_of_other_sizes_do_not_matter(make_model, toy):
    model = lively(make_model(branch="joint"))
    alone = detections(model, toy_batch(toy[:1]))
    batch = toy_batch(toy[:2])
    batch["images"][1] = torch.rand(3, 64, 200)
    assert_same(detections(model, batch)[:1], alone, atol=1e-5, rtol=1e-5)


def test_cached_maps_equal_the_frozen_network(make_model, toy, tmp_path):
    from pircnn.data import SemanticCache
    from pircnn.prepare import semantic_map

    frozen, cached = (lively(make_model(branch=b)) for b in ("frozen", "cached"))
    cached.load_state_dict(frozen.state_dict(), strict=False)
    batch = toy_batch(toy[:2])
    for dtype, tolerance in (("float16", 1e-3), ("uint8", 3e-3)):
        cache = SemanticCache.create(tmp_path / dtype, 3, "prob", "0" * 16, dtype)
        for k, scene in enumerate(toy[:2]):
            cache.write(str(k), semantic_map(frozen.image_net.eval(), scene.image))
        maps = {"maps": [torch.from_numpy(cache.read(str(k))) for k in range(2)]}
        drawn = batch["points"].view(2, 1024, -1)[..., 1:]
        with torch.no_grad():
            own, read = frozen.look(drawn, batch), cached.look(drawn, maps)
        assert (own.features - read.features).abs().max() < tolerance
        assert own.features.abs().max() > 0.2
    with pytest.raises(ValueError, match="has no image network"):
        cached.image_maps(batch["images"])
    with pytest.raises(ValueError, match=r"expected \(3, H, W\)"):
        cached.look(drawn, {"maps": [torch.rand(4, 96, 320)] * 2})
    with pytest.raises(ValueError, match="got 1 for 2 frames"):
        cached.look(drawn, {"maps": maps["maps"][:1]})


def test_stored_semantics_are_kept_and_their_pixels_never_read(make_model, toy):
    model = lively(make_model(branch="cached", stored=True))
    assert model.point_columns == 4 + 3 + 3
    rows = toy_batch(toy[:1])["points"][:, 1:]
    told = torch.rand(len(rows), 3)
    state = torch.tensor([UNSEEN, SEEN, STORED])[torch.arange(len(rows)) % 3]
    rows = torch.cat((rows[:, :6], state[:, None], told), 1)
    maps = {"maps": [torch.rand(3, 96, 320)]}
    image = model.look(rows[None], maps)
    assert torch.equal(image.features[0, state == STORED], told[state == STORED])
    assert not image.features[0, state == UNSEEN].any()
    assert not torch.allclose(image.features[0, state == SEEN], told[state == SEEN])
    assert image.seen[0].tolist() == (state == SEEN).tolist()
    moved = rows.clone()
    moved[state != SEEN, 4:6] = 7.0
    assert torch.equal(model.look(moved[None], maps).features, image.features)


def test_predict(make_model, toy):
    model = lively(make_model(branch="joint"))
    scene = toy[0]
    found = model.train().predict(scene.points, scene.image, scene.calib)
    assert model.training
    assert set(found) == {"boxes_3d", "scores", "labels"}
    assert (found["scores"].diff() <= 0).all()
    batch = toy_batch(toy[:1])
    assert_same([{"boxes": found["boxes_3d"], **found}], detections(model, batch))
    assert len(model.predict(scene.points[:0], scene.image, scene.calib)["scores"]) == 0
    behind = scene.points * [-1, 1, 1, 1]
    assert (
        len(model.predict(behind, scene.image, scene.calib)["scores"]) == 0
    )  # out of range, behind the camera
    assert model.predict(scene.points)["boxes_3d"].isfinite().all()
    with pytest.raises(ValueError, match="calib"):
        model.predict(scene.points, scene.image)


def test_teaching_by_boxes(make_model, toy):
    options = {"branch": "joint", "seg_classes": 2, "point_seg_weight": 1.0, "seg_weight": 0.0}
    model = lively(make_model(**options, fusion={"features": "logits"})).train()
    batch = toy_batch(toy[:2])
    losses = model(batch)
    model.zero_grad()
    losses["point_seg"].backward()
    assert model.image_net.out.weight.grad.abs().sum() > 0
    assert "seg" not in losses
    for wrong, words in (
        ({**options, "seg_classes": 3}, "seg_classes 2"),
        ({**options, "branch": "frozen"}, "needs branch 'joint'"),
    ):
        with pytest.raises(ValueError, match=words):
            make_model(**wrong, fusion={"features": "logits"})


def test_point_segmentation_loss_restated():
    logits = torch.tensor([[0.3, -0.2], [1.0, 0.5], [2.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, -1])
    total = 0.0
    for row, label in zip(logits[:3], labels[:3]):
        for column in range(2):
            p = torch.sigmoid(row[column])
            target = float(column == label)
            pt = p if target else 1 - p
            total -= (0.25 if target else 0.75) * (1 - pt) ** 2 * pt.log()
    torch.testing.assert_close(point_segmentation_loss(logits, labels), total / 2)
    with pytest.raises(ValueError, match="2 columns"):
        point_segmentation_loss(logits, torch.tensor([2, 0, 0, 0]))


def test_segmentation_loss_ignores_what_is_unknown():
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (1, 3, 5))
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(segmentation_loss(logits, labels), (-((1 - p) ** 2) * p.log()).mean())
    labels[0, 1:] = IGNORE
    loss = segmentation_loss(logits, labels)
    torch.testing.assert_close(loss, (-((1 - p) ** 2) * p.log())[0, 0].mean())
    loss.backward()
    assert not logits.grad[:, :, 1:].any()
    sure = torch.nn.functional.one_hot(torch.tensor([[[1, 2]]]), 4).permute(0, 3, 1, 2) * 50.0
    assert segmentation_loss(sure, torch.tensor([[[1, 2]]])) < 1e-12
    assert segmentation_loss(sure, torch.full((1, 1, 2), IGNORE)) == 0
    with pytest.raises(ValueError, match="labels"):
        segmentation_loss(sure, torch.zeros(1, 2, 2))


def gradients_of_frames(make, scenes):
    """Gradients of one step on this process's frames, averaged as DistributedDataParallel does; float64."""
    rank, world = rank_and_world()
    model = make()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = toy_batch(scenes[rank::world])
    for name in ("points", "gt_boxes"):
        batch[name] = batch[name].double()
    batch["images"] = [image.double() for image in batch["images"]]
    # Other numbers of labelled pixels on each process, and none on one of them.
    maps = [torch.full((96, 320), IGNORE), torch.full((96, 320), 1), torch.full((96, 320), IGNORE)]
    maps[1][40:] = IGNORE
    batch["label_maps"] = maps[rank : len(scenes) : world]
    losses = model(batch)
    losses["loss"].backward()
    return averaged_gradients(model), {name: float(losses[name].detach()) for name in ("seg", "roi_fg")}


def joint_model(narrow):
    torch.manual_seed(0)
    model = PIRCNN.from_config("pacf", branch="joint", **narrow).double().train()
    model.draw = draw_alike(sample_rois)
    lively(model)
    model.draw_points = lambda points, size: fixed_points(points, size, model.config.points, 0)
    return model


def test_two_processes_equal_one(toy, narrow):
    """The image network's loss too, where one process has no labelled pixel at all."""
    make = partial(joint_model, narrow)
    expected, losses = gradients_of_frames(make, toy[:3])
    assert losses["seg"] > 0
    assert losses["roi_fg"] > 0
    for found, _ in two_gloo_ranks(gradients_of_frames, make, toy[:3]):
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-6, msg=name)
    assert expected["image_net.out.weight"].abs().max() > 0


def test_unet_sizes_and_a_plain_restatement():
    net = SegUNet(3, 5, (4, 6, 8, 8)).eval()
    for size in ((37, 125), (38, 124), (16, 16)):
        assert net(torch.zeros(1, 3, *size)).shape == (1, 5, *size)
    x = torch.randn(1, 3, 37, 50)
    pool = torch.nn.functional.max_pool2d
    levels = [net.first(x)]
    for block in net.down:
        levels.append(block(pool(levels[-1], 2)))
    y = levels[4]
    for k, skip in enumerate((levels[3], levels[2], levels[1], levels[0])):
        y = torch.nn.UpsamplingBilinear2d(scale_factor=2)(y)
        dy, dx = skip.shape[2] - y.shape[2], skip.shape[3] - y.shape[3]
        y = torch.nn.ZeroPad2d((dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))(y)
        y = net.up[k](torch.cat((skip, y), 1))
    torch.testing.assert_close(net(x), net.out(y))
    with pytest.raises(ValueError, match="16 pixels"):
        net(torch.zeros(1, 3, 15, 40))
    with pytest.raises(ValueError, match="uint8"):
        image_tensor(torch.zeros(4, 4, 3))


@pytest.mark.slow
def test_kitti_size():
    net = SegUNet().eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 375, 1242)).shape == (1, 10, 375, 1242)
        assert net(torch.zeros(1, 3, 374, 1238)).shape == (1, 10, 374, 1238)


@undrawn()
def test_sizes_of_the_reference_models():
    pointrcnn = sum(p.numel() for p in build_detector("pointrcnn").parameters())
    assert pointrcnn == 4_038_819
    for variant, more in (("pointrcnn", 0), ("pacf", 61_572), ("cc", 10_880 + 16_512 + 16_512)):
        model = PIRCNN.from_config(variant, branch="cached")
        assert sum(p.numel() for p in model.parameters()) == pointrcnn + more
    frozen = PIRCNN.from_config()
    assert sum(p.numel() for p in frozen.image_net.parameters()) == 13_395_914


def test_users_mistakes():
    for settings, words in (
        ({"variant": "pacfs"}, "variant: got 'pacfs'"),
        ({"branch": "warm"}, "branch: got 'warm'"),
        ({"fusion": {"kind": "sum"}}, "kind: got 'sum'"),
        ({"fusion": {"drop": 2.0}}, "drop: got 2.0"),
        ({"fusion": {"heads": 2}}, "heads"),
        ({"dataset": "nuscenes"}, "dataset"),
        ({"branch": "cached", "fusion": {"features": "penultimate"}}, "penultimate"),
    ):
        with pytest.raises(UserInputError, match=words):
            build(settings)
    assert make_config("pacf-k9").fusion.k == 9
    penultimate = PIRCNN.from_config(
        fusion={"features": "penultimate"}, seg_widths=(4, 4, 4, 4), branch="joint"
    )
    assert penultimate.config.image_channels == 4


def test_label_maps_of_another_size_are_refused(make_model, toy):
    model = make_model(branch="joint").train()
    batch = toy_batch(toy[:1])
    batch["label_maps"] = [batch["label_maps"][0][:50]]
    with pytest.raises(ValueError, match="label_maps"):
        model(batch)
    batch["label_maps"] = [torch.full((96, 320), IGNORE)]
    assert "seg" not in model(batch)
    batch["semantics"] = [
        [torch.rand(3, 40, 60), torch.rand(3, 32, 48)],
        [torch.zeros(40, 60).long(), torch.zeros(32, 48).long()],
    ]
    assert model(batch)["seg"] > 0
    assert np.isfinite(float(model(batch)["loss"].detach()))
