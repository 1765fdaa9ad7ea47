"""The plug-in, its variants and the reference models."""

import math

import pytest
import torch

import denfi
from denfi import VARIANTS, BevGrid, Denfi, DenfiConfig, DenfiDet, plug_in
from denfi.model import AnchorFreeHead, DenfiHead, TinyBev, TinyConfig, bev_grid, decode_pixels, encode_pixels
from denfi.model.variants import Variant
from denfi.recipe import parameter_groups
from tenfold.lidar import build_detector
from tenfold.lidar.postprocess import PostProcess
from tenfold.testing import TINY_DETECTORS

GRID = BevGrid(0.0, -2.0, 0.4, 10, 12)


def count(module):
    return sum(p.numel() for p in module.parameters())


def batch_of(*frames, boxes=None):
    rows = [torch.cat((torch.full((len(f), 1), float(k)), f), 1) for k, f in enumerate(frames)]
    gt = torch.zeros(len(frames), 0, 8)
    if boxes is not None:
        gt = torch.zeros(len(frames), max(map(len, boxes)), 8)
        for row, own in zip(gt, boxes, strict=True):
            row[: len(own), :7], row[: len(own), 7] = own, 1
    return {"points": torch.cat(rows), "batch_size": len(frames), "gt_boxes": gt}


# ---- the plug-in ---------------------------------------------------------------------------------


def test_parameter_totals_follow_from_the_layers():
    """Depth-wise 9C, point-wise C^2, normalisation 2C, offsets 12; two convolutions of K and 4 + 2n outputs."""

    def denfi_parameters(c, k, n=12):
        refinement = 9 * c + c * c + 2 * c + 12
        return 2 * refinement + (c * k + k) + (c * (4 + 2 * n) + 4 + 2 * n) + 1

    totals = {
        "denfidet_second_3class": 5_325_576 + denfi_parameters(512, 3),
        "denfidet_second_car": 711_872 + 4_576_768 + 10_260 + denfi_parameters(512, 1),
        "denfidet_pillars_3class": 4_834_888 + denfi_parameters(384, 3),
        "denfidet_tiny": 16_176 + 175 + denfi_parameters(24, 1),
    }
    assert totals == {
        "denfidet_second_3class": 5_877_056,
        "denfidet_second_car": 5_849_354,
        "denfidet_pillars_3class": 5_150_208,
        "denfidet_tiny": 18_781,
    }
    for name, total in totals.items():
        model = DenfiDet.from_config(name)
        assert count(model) == total, name
        grid = bev_grid(model.detector)
        shapes = {"second": (200, 176, 0.4), "pillar": (248, 216, 0.32), "tiny": (48, 48, 0.4)}
        wanted = next(shape for word, shape in shapes.items() if word in name)
        assert (grid.height, grid.width, grid.cell) == wanted
    assert DenfiDet.from_config("denfidet_second_car").config.post.score_threshold == 0.3
    assert DenfiDet.from_config("denfidet_second_3class").config.post.score_threshold == 0.1
    assert DenfiDet.from_config("denfidet_second_3class").config.post.iou_threshold == 0.01


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_row_keeps_the_shape_and_learns(name):
    torch.manual_seed(0)
    plug = Denfi(8, 2, GRID, DenfiConfig(name))
    feat = torch.randn(2, 8, 10, 12, requires_grad=True)
    boxes = [torch.tensor([[2.0, 0.0, 3.0, 1.6, 0.4]]), torch.zeros(0, 5)]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    truth = (boxes, labels)
    cls_feat, reg_feat, output = plug(feat, truth)
    assert cls_feat.shape == reg_feat.shape == feat.shape
    losses = plug.loss(output, boxes, labels)
    wanted = {"none": 0, "boundary": 4, "shape": 1}[VARIANTS[name].supervision]
    assert len(losses) == wanted
    # What the head would send back, then what the proposals learn by themselves.
    (cls_feat.square().mean() + reg_feat.mean()).backward(retain_graph=True)
    own = [] if plug.proposal is None else list(plug.proposal.parameters())
    assert all(p.grad is None for p in own)
    refined = [p for p in plug.parameters() if all(p is not q for q in own)]
    assert all(p.grad is not None for p in refined)
    if losses:
        feat.grad = None
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
        assert feat.grad.abs().sum() > 0


def test_rows_are_what_their_names_say():
    plug = {name: Denfi(8, 1, GRID, DenfiConfig(name)) for name in VARIANTS}
    assert count(plug["base"]) == 0
    assert count(plug["denfi"]) - count(plug["dsc+dbpm"]) == 24
    assert count(plug["denfi-geo"]) - count(plug["denfi"]) == 2 * 2 * 3
    assert count(plug["dsc+dbpm"]) - count(plug["dsc"]) == count(plug["denfi"].proposal)
    assert plug["denfi-shared"].refine_cls is plug["denfi-shared"].refine_reg
    one = count(plug["denfi"].refine_cls)
    assert count(plug["denfi"]) - count(plug["denfi-shared"]) == one
    assert count(plug["denfi-cls"]) == count(plug["denfi-reg"]) == count(plug["denfi-shared"])
    assert plug["denfi"].refine_cls.offset is not plug["denfi"].refine_reg.offset
    assert {type(v) for v in VARIANTS.values()} == {Variant}
    with pytest.raises(ValueError, match="variant: got 'x'"):
        DenfiConfig("x")


def test_shuffled_proposals_are_those_of_other_pixels():
    plug = Denfi(8, 1, GRID, DenfiConfig("denfi-shuffled"))
    proposals = torch.arange(2.0 * 5 * 120).view(2, 5, 10, 12)
    torch.manual_seed(0)
    first, second = plug._guide(proposals, None), plug._guide(proposals, None)
    assert not torch.equal(first, second)
    for frame in range(2):
        # Whole rows of five move together, and within their frame.
        columns = {tuple(c) for c in first[frame].flatten(1).T.tolist()}
        assert columns == {tuple(c) for c in proposals[frame].flatten(1).T.tolist()}
    plug.eval()
    assert torch.equal(plug._guide(proposals, None), plug._guide(proposals, None))
    assert torch.equal(plug._guide(proposals, None)[1:], plug._guide(proposals[1:], None))
    moved = (plug._guide(proposals, None) != proposals).float().mean()
    assert moved > 0.9


def test_the_oracle_tells_the_truth_at_positive_pixels_alone():
    plug = Denfi(8, 1, GRID, DenfiConfig("denfi-oracle"))
    box = torch.tensor([[2.0, 0.0, 3.2, 1.6, 0.0]])
    proposals = torch.full((1, 5, 10, 12), 7.0)
    guide = plug._guide(proposals, ([box], [torch.tensor([0])]))
    made = denfi.boundary_targets(box, torch.tensor([0]), GRID)
    positive = made.labels >= 0
    assert (guide[0][:, ~positive] == 7).all()
    assert torch.allclose(guide[0][:4, positive] * 0.4, made.dist[:, positive])
    assert (guide[0][4, positive] == 0).all()
    with pytest.raises(ValueError, match="truth: got none"):
        plug(torch.zeros(1, 8, 10, 12))


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"feat: got shape .* expected \(B, C, 10, 12\)"):
        Denfi(8, 1, GRID)(torch.zeros(1, 8, 12, 10))


def test_distances_are_metres_and_proposals_cells():
    torch.manual_seed(0)
    module = denfi.DenseBoundaryProposal(8, 1, cell_size=0.5).eval()
    torch.nn.init.normal_(module.conv_reg.weight)
    out = module(torch.randn(1, 8, 4, 5) * 10)
    assert out.cls_logits is None
    assert torch.allclose(out.proposals[:, :4] * 0.5, out.dist)
    assert out.dist.max() <= 0.5 * math.exp(6) * 1.0001
    assert (out.dist > 0).all()
    assert out.proposals[:, 4].abs().max() <= math.pi
    index = out.bin_logits.argmax(1, keepdim=True)
    wanted = denfi.decode_heading(index, out.bin_res.gather(1, index))
    assert torch.equal(out.proposals[:, 4:], wanted)


# ---- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
def test_codes_of_pixels(flat):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 7, generator=generator, dtype=torch.float64) * 5 + 0.1
    boxes[:, 6] = boxes[:, 6] * 2 - 5
    centres = torch.rand(200, 2, generator=generator, dtype=torch.float64) * 9
    back = decode_pixels(encode_pixels(boxes, centres, flat), centres, flat)
    columns = [0, 1, 3, 4] if flat else [0, 1, 2, 3, 4, 5]
    assert torch.allclose(back[:, columns], boxes[:, columns], atol=1e-9)
    period = math.pi if flat else 2 * math.pi
    gap = (back[:, 6] - boxes[:, 6] + period / 2).remainder(period) - period / 2
    assert gap.abs().max() < 1e-9


def test_the_free_head_finds_what_it_was_told():
    head = AnchorFreeHead(4, 2, GRID)
    box = torch.tensor([[2.0, 0.2, -0.8, 3.0, 1.6, 1.5, 0.6]])
    gt = torch.cat((box, torch.tensor([[2.0]])), 1)[None]
    made = denfi.boundary_targets(box[:, [0, 1, 3, 4, 6]], torch.tensor([1]), GRID)
    x, y = GRID.centres()
    row, column = (made.labels >= 0).nonzero(as_tuple=True)
    outputs = head(torch.zeros(1, 4, 10, 12))
    classes = torch.full_like(outputs.classes, -20)
    classes[0, 1, row, column] = 20
    codes = outputs.boxes.detach().clone()
    codes[0, :, row, column] = encode_pixels(box.expand(len(row), 7), torch.stack((x[column], y[row]), 1)).T
    outputs = outputs._replace(classes=classes, boxes=codes)
    assert head.losses(outputs, gt)["loss"].item() < 1e-6
    found = head.detect(outputs, PostProcess())[0]
    assert found["labels"].tolist() == [1]
    assert torch.allclose(found["boxes"], box, atol=1e-5)
    per_class = head.detect(outputs, PostProcess(per_class=True))[0]
    assert torch.allclose(per_class["boxes"], box, atol=1e-5)
    empty = head.losses(outputs, torch.zeros(1, 0, 8))
    assert empty["loss"].isfinite()
    assert empty["num_positives"] == 0


# ---- detectors -----------------------------------------------------------------------------------


def test_without_the_plug_in_it_is_the_detector_itself(narrow, street):
    """The row "base" loads the weights of the plain detector and equals it bit for bit."""
    points, _ = street
    base = DenfiDet.from_config("denfidet_second_car", "base", **narrow).eval()
    plain = build_detector("second", class_names=("Car",), **narrow).eval()
    torch.nn.init.constant_(plain.dense_head.conv_cls.bias, -1.5)
    base.detector.load_state_dict(plain.state_dict())
    one, two = base(batch_of(points))[0], plain(batch_of(points))[0]
    assert len(one["scores"]) > 0
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert base.plug is None


def test_the_plug_in_starts_from_the_weights_of_its_baseline(narrow):
    base = DenfiDet.from_config("denfidet_second_car", "base", **narrow)
    plugged = DenfiDet.from_config("denfidet_second_car", **narrow)
    theirs = {k.replace("dense_head.", "dense_head.head."): v for k, v in base.state_dict().items()}
    missing, extra = plugged.load_state_dict(theirs, strict=False)
    assert extra == []
    assert all("dense_head.denfi." in name for name in missing)


@pytest.mark.parametrize("name", ["second", "pointpillars", "parta2", "pv_rcnn"])
def test_it_fits_every_bird_eye_detector(name):
    torch.manual_seed(0)
    plain = build_detector(name, class_names=("Car",))
    total = count(plain)
    plugged = plug_in(plain)
    channels = 384 if name == "pointpillars" else 512
    assert count(plugged) - total == count(Denfi(channels, 1, bev_grid(plugged)))
    assert isinstance(plugged.dense_head, DenfiHead)


def test_others_are_refused():
    with pytest.raises(ValueError, match="PointRCNN has no head whose branches"):
        plug_in(build_detector("pointrcnn"))
    with pytest.raises(ValueError, match="Second has no head whose branches"):
        plug_in(build_detector("second", "nuscenes"))
    with pytest.raises(ValueError, match="name: got 'denfidet'"):
        DenfiDet.from_config("denfidet")
    with pytest.raises(ValueError, match="unknown option 'sigma'"):
        DenfiDet.from_config("denfidet_tiny", denfi={"sigma": 1})
    with pytest.raises(ValueError, match="input_cell: the range"):
        TinyBev(TinyConfig(input_cell=0.7))


def test_a_two_stage_detector_trains_with_it(street):
    points, cars = street
    torch.manual_seed(0)
    model = plug_in(build_detector("parta2", **TINY_DETECTORS["parta2"]))
    losses = model.train()(batch_of(points, boxes=[cars]))
    losses["loss"].backward()
    assert "boundary_iou" in losses
    assert model.dense_head.denfi.refine_cls.offset.weight.grad.abs().sum() > 0
    assert isinstance(model.eval()(batch_of(points)), list)


@pytest.mark.parametrize("head", ["own", "free"])
@pytest.mark.parametrize("name", ["denfi", "dsc", "ga", "denfi-oracle", "denfi-shuffled"])
def test_training_and_detection(narrow, street, name, head):
    points, cars = street
    torch.manual_seed(0)
    model = DenfiDet.from_config("denfidet_second_car", name, head=head, **narrow)
    batch = batch_of(points, torch.zeros(0, 4), boxes=[cars, cars[:0]])
    losses = model(batch)
    assert all(v.isfinite() for v in losses.values())
    parts = sum(v for k, v in losses.items() if k.startswith(("loss_", "boundary_")))
    assert losses["loss"].item() == pytest.approx(parts.item(), rel=1e-5)
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if name == "denfi":
        plug = model.plug.denfi
        assert plug.refine_cls.offset.weight.grad.abs().sum() > 0
        # The free head regresses at a handful of pixels of this coarse map, whose features may all be cut by ReLU.
        assert head == "free" or plug.refine_reg.offset.weight.grad.abs().sum() > 0
        assert model.detector.backbone_3d.conv_input[0].weight.grad.abs().sum() > 0
    found = model.eval()(batch)
    assert len(found) == 2
    assert len(found[1]["scores"]) == 0 or head == "free"
    none = model.train()(batch_of(torch.zeros(0, 4), boxes=[cars[:0]]))
    assert none["loss"].isfinite()


def test_losses_of_the_proposals_reach_the_backbone_and_the_heads_do_not_reach_the_proposals(eager, street):
    points, cars = street
    model = eager().train()
    batch = batch_of(points, boxes=[cars])
    detector, plug = model.detector, model.plug
    features = detector.backbone_2d(detector.bev(detector.encode(batch["points"], 1)))
    features.retain_grad()
    outputs = plug(features)
    plug.head.losses(outputs.head, batch["gt_boxes"])["loss"].backward(retain_graph=True)
    assert all(p.grad is None for p in plug.denfi.proposal.parameters())
    assert plug.denfi.refine_cls.offset.weight.grad.abs().sum() > 0
    features.grad = None
    boxes, labels = [cars[:, [0, 1, 3, 4, 6]]], [torch.zeros(len(cars), dtype=torch.int64)]
    sum(plug.denfi.loss(outputs.boundary, boxes, labels).values()).backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None for p in plug.denfi.proposal.parameters())


def test_detections_do_not_need_the_classes_of_the_proposals(eager, street, monkeypatch):
    points, _ = street
    model = eager()
    without = model(batch_of(points))[0]
    proposal = model.plug.denfi.proposal
    original = proposal.forward
    monkeypatch.setattr(proposal, "forward", lambda feat: original(feat, classify=True))
    with_classes = model(batch_of(points))[0]
    assert model.plug.last.cls_logits is not None
    assert len(without["scores"]) > 3
    assert all(torch.equal(without[k], with_classes[k]) for k in without)


def test_a_frame_alone_equals_a_frame_in_a_batch(eager, street):
    points, _ = street
    model = eager()
    frames = [points, points[::2], torch.zeros(0, 4), points[::3]]
    together = model(batch_of(*frames))
    for frame, found in zip(frames, together, strict=True):
        alone = model(batch_of(frame))[0]
        assert len(alone["scores"]) == len(found["scores"])
        torch.testing.assert_close(alone["boxes"], found["boxes"], atol=1e-4, rtol=1e-4)


def test_predict(eager, street):
    points, _ = street
    model = eager()
    found = model.predict([points, torch.zeros(0, 4)])
    assert [sorted(f) for f in found] == [["boxes_3d", "labels", "scores"]] * 2
    assert found[0]["boxes_3d"].shape == (len(found[0]["scores"]), 7)
    assert found[0]["scores"].diff().max() <= 0
    assert len(found[1]["scores"]) == 0
    one = model.predict(points)[0]
    torch.testing.assert_close(one["boxes_3d"], found[0]["boxes_3d"], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="training mode"):
        model.train().predict(points)
    with pytest.raises(ValueError, match="got no frame"):
        model.eval().predict([])
    with pytest.raises(ValueError, match="gt_boxes"):
        DenfiDet.from_config("denfidet_tiny", "denfi-oracle").eval().predict(torch.zeros(1, 3))


def test_parameter_groups():
    model = DenfiDet.from_config("denfidet_tiny")
    groups = parameter_groups(model, 0.004, 0.01, 0.02)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    offsets = {
        id(p) for b in ("cls", "reg") for p in getattr(model.plug.denfi, f"refine_{b}").offset.parameters()
    }
    assert {id(p) for p in groups[1]["params"]} == offsets
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.01, 0.0)
    assert (groups[0]["lr"], groups[1]["lr"]) == (0.004, 0.02)
    shared = DenfiDet.from_config("denfidet_tiny", "denfi-shared")
    assert len(parameter_groups(shared, 0.1)[1]["params"]) == 2
    assert len(parameter_groups(DenfiDet.from_config("denfidet_tiny", "base"), 0.1)) == 1
