"""Networks: published sizes, deformable convolution, initialisation, decoding, health of the start."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from tenfold.testing import assert_bit_equal
from tenfold.train import count_macs, count_parameters
from ttfnet.decoding import decode, peaks, select
from ttfnet.losses import predicted_boxes
from ttfnet.model import (
    CenterNet,
    DarkNet53,
    DeformConv2dPack,
    LossOptions,
    TTFNeck,
    TTFNet,
    build_backbone,
    build_detector,
)
from ttfnet.model.deform import deform_conv2d_decomposed
from ttfnet.targets import ttf_targets

SETTINGS = {
    "backbone": "small",
    "num_classes": 3,
    "neck_channels": (16, 16, 16),
    "head_channels": (16, 16),
    "head_layers": (1, 1),
}


@pytest.mark.parametrize(
    ("backbone", "parameters", "gmacs", "own"),
    [
        ("resnet18", 14_208_933, 18.6, 11_176_512),
        ("resnet34", 24_354_021, 28.9, 21_284_672),
        ("darknet53", 45_732_485, 49.0, 40_584_928),
    ],
)
def test_published_sizes(backbone, parameters, gmacs, own):
    with torch.device("meta"):
        model = TTFNet(backbone, 80)
    assert count_parameters(model) == parameters
    assert count_parameters(model.backbone) == own
    assert count_macs(model, torch.zeros(1, 3, 512, 512, device="meta")).macs / 1e9 == pytest.approx(
        gmacs, abs=0.05
    )


def test_published_size_of_dla34():
    # 15,742,104 with its classifier of 512 x 1000 + 1000 (the size that model zoos list).
    assert count_parameters(build_backbone("dla34")) == 15_742_104 - 513_000
    model = TTFNet("dla34", 3)
    out = model(torch.zeros(1, 3, 64, 96))
    assert out.heatmap.shape == (1, 3, 16, 24)
    out.heatmap.sum().backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None and "head.distances" not in n]
    assert unused == []  # distributed training would stop at them


@pytest.mark.parametrize(
    ("name", "whole", "classifier"),
    [
        ("resnet50vd", 25_576_264, 2048 * 1000 + 1000),  # timm's resnet50d
        ("mobilenetv3", 5_483_032, 960 * 1280 + 1280 + 1280 * 1000 + 1000),  # torchvision's large one
    ],
)
def test_published_sizes_of_pafnet_backbones(name, whole, classifier):
    with torch.device("meta"):
        assert count_parameters(build_backbone(name)) == whole - classifier


def test_pafnet_lite_has_the_published_size_of_14_megabytes():
    with torch.device("meta"):
        model = TTFNet(
            "mobilenetv3",
            neck_op="lite",
            neck_channels=(96, 48, 24),
            shortcuts=(1, 2, 2),
            head_op="lite",
        )
    values = count_parameters(model) + sum(b.numel() for b in model.buffers())
    assert 4 * values / 1e6 == pytest.approx(14, abs=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "mobilenetv3", "neck_op": "lite", "shortcuts": (1, 2, 2), "head_op": "lite"},
        {"backbone": "small", "head_op": "dcnv2"},
    ],
)
def test_lite_and_deformable_heads_train_every_weight(settings):
    torch.manual_seed(0)
    model = TTFNet(num_classes=3, neck_channels=(16, 16, 16), wh_bias_init=1.0, **settings)
    out = model(torch.randn(2, 3, 64, 96))
    assert out.heatmap.shape == (2, 3, 16, 24)
    boxes, labels = [torch.tensor([[8.0, 8, 56, 40]])] * 2, [torch.tensor([1])] * 2
    model.loss(out, boxes, labels)["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_deformable_resnet_has_deformable_convolutions_where_pafnet_has_them():
    with torch.device("meta"):
        backbone = build_backbone("resnet50vd_dcn")
        kinds = {n for n, m in backbone.named_modules() if isinstance(m, DeformConv2dPack)}
        maps = backbone(torch.zeros(1, 3, 64, 96))
    counts = {"layer2": 4, "layer3": 6, "layer4": 3}
    assert kinds == {f"{stage}.{k}.conv2" for stage, n in counts.items() for k in range(n)}
    assert [tuple(m.shape[1:]) for m in maps] == [
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 2, 3),
    ]


def test_centernet_on_dla34():
    with torch.device("meta"):
        out = CenterNet("dla34", 3, head_channels=(256, 256))(torch.zeros(1, 3, 64, 96))
    assert [tuple(part.shape) for part in out] == [(1, 3, 16, 24), (1, 2, 16, 24), (1, 2, 16, 24)]


def test_sizes_of_the_parts():
    model = TTFNet("resnet18", 80)
    assert count_parameters(model.neck.convs) + count_parameters(model.neck.norms) == 1_767_441
    assert count_parameters(model.neck.shortcuts) == 996_032
    assert count_parameters(model.head.heatmap) == 231_760
    assert count_parameters(model.head.distances) == 37_188


# ---- deformable convolution ----------------------------------------------------------------------


def deformed(seed, dtype=torch.float64):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 5, 7, dtype=dtype)
    offset, mask = torch.randn(2, 18, 5, 7, dtype=dtype) * 2, torch.rand(2, 9, 5, 7, dtype=dtype)
    weight, bias = torch.randn(4, 3, 3, 3, dtype=dtype), torch.randn(4, dtype=dtype)
    return x, offset, weight, bias, mask


def test_decomposed_equals_torchvision():
    for seed in range(5):
        x, offset, weight, bias, mask = deformed(seed)
        wanted = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
        torch.testing.assert_close(deform_conv2d_decomposed(x, offset, weight, bias, mask), wanted)


def test_decomposed_equals_torchvision_with_a_stride():
    x, _, weight, _, _ = deformed(1)
    generator = torch.Generator().manual_seed(1)
    size = (len(x), 18, (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    offset = torch.randn(size, generator=generator, dtype=x.dtype)
    mask = torch.rand(len(x), 9, *size[2:], generator=generator, dtype=x.dtype)
    wanted = deform_conv2d(x, offset, weight, None, stride=2, padding=1, mask=mask)
    torch.testing.assert_close(deform_conv2d_decomposed(x, offset, weight, None, mask, 2), wanted)
    layer = DeformConv2dPack(3, 2, stride=2, bias=False)
    image = torch.randn(1, 3, 8, 6)
    plain = 0.5 * F.conv2d(image, layer.weight, stride=2, padding=1)
    torch.testing.assert_close(layer(image), plain, rtol=1e-4, atol=1e-5)


def test_whole_offsets_are_a_shifted_convolution():
    x, offset, weight, bias, mask = deformed(0)
    offset[:, 0::2], offset[:, 1::2] = 1, -2
    shifted = F.pad(x, (3, 3, 3, 3))[:, :, 3:, :]
    wanted = F.conv2d(shifted, weight, bias)[:, :, :5, :7]
    for function in (deform_conv2d_decomposed, lambda *a: deform_conv2d(*a[:4], padding=1, mask=a[4])):
        torch.testing.assert_close(function(x, offset, weight, bias, torch.ones_like(mask)), wanted)


def test_deformable_gradients_equal_torchvisions():
    for seed in range(5):
        inputs = [t.requires_grad_() for t in deformed(seed)]
        x, offset, weight, bias, mask = inputs
        cotangent = torch.randn(2, 4, 5, 7, dtype=torch.float64)
        theirs = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
        wanted = torch.autograd.grad(theirs, inputs, cotangent)
        found = torch.autograd.grad(deform_conv2d_decomposed(*inputs), inputs, cotangent)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_a_new_layer_is_half_a_convolution():
    layer = DeformConv2dPack(3, 2)
    nn.init.normal_(layer.bias)
    x = torch.randn(1, 3, 6, 6)
    wanted = 0.5 * F.conv2d(x, layer.weight, padding=1) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
    assert layer.weight.abs().max() <= 1 / 27**0.5


# ---- neck, heads, modes --------------------------------------------------------------------------


def test_nothing_follows_the_sum_of_the_neck():
    """A shortcut's bias arrives unchanged: added after the up-sampling, without activation."""
    neck = TTFNeck((4, 4, 4, 4), (4, 4, 4), (0, 0, 1)).eval()
    with torch.no_grad():
        for p in neck.shortcuts.parameters():
            p.zero_()
        maps = [torch.randn(1, 4, 16 // 2**k, 16 // 2**k) for k in range(4)]
        before = neck(maps)
        neck.shortcuts[0][0].bias.fill_(-100.0)
        torch.testing.assert_close(neck(maps), before - 100)


def test_shortcut_lengths_and_activations():
    neck = TTFNeck((64, 128, 256, 512))
    kinds = [[type(m).__name__ for m in s] for s in neck.shortcuts]
    assert kinds == [["Conv2d"], ["Conv2d", "ReLU", "Conv2d"], ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]]
    assert [s[0].in_channels for s in neck.shortcuts] == [256, 128, 64]
    assert len(TTFNeck((4, 4, 4, 4), (4, 4, 4), ()).shortcuts) == 0


def test_initial_values():
    torch.manual_seed(0)
    model = TTFNet("resnet18", 80)
    assert model.head.heatmap[-1].bias.unique().item() == pytest.approx(-4.59512, abs=1e-5)
    assert model.head.distances[-1].bias.abs().max() == 0
    assert model.head.heatmap[0].weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.head.distances[0].weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert TTFNet("small", 2, wh_bias_init=1.0).head.distances[-1].bias.unique().item() == 1


def test_distances_are_scaled_in_the_forward_pass_and_never_negative(eager_model):
    model = eager_model()
    x = torch.randn(1, 3, 64, 64)
    published = model(x).distances  # times 16
    model.head.scale = 4.0
    torch.testing.assert_close(published, model(x).distances * 4)
    assert (published >= 0).all()
    assert (published > 0).any()


def test_frozen_stages_stay_frozen():
    for name in ("resnet18", "darknet53", "dla34", "small"):
        backbone = build_backbone(name)
        backbone.freeze(1)
        backbone.train()
        frozen = [m for group in backbone.stage_modules()[:2] for m in group]
        assert not any(m.training for top in frozen for m in top.modules())
        assert not any(p.requires_grad for top in frozen for p in top.parameters())
        assert all(p.requires_grad for m in backbone.stage_modules()[2] for p in m.parameters())
    with pytest.raises(ValueError, match="freeze: stages: got 9"):
        backbone.freeze(9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TTFNet("vgg"), "backbone: got 'vgg'"),
        (lambda: TTFNet("small", 0), "num_classes: got 0"),
        (lambda: TTFNet("small", 2, neck_op="x"), "neck_op: got 'x'"),
        (lambda: TTFNet("small", 2, head_layers=[1]), "head_layers: got"),
        (lambda: TTFNet("small", 2, head_op="x"), "head_op: got 'x'"),
        (lambda: TTFNet("small", 2, neck_op="lite", shortcuts=(1, 2)), "LiteNeck: channels, shortcuts: got"),
        (lambda: CenterNet("small", 2, neck="x"), "neck: got 'x'"),
        (lambda: build_detector("yolo"), "method: got 'yolo'"),
        (lambda: TTFNet("small", 2)(torch.zeros(1, 3, 60, 64)), r"images: got shape \(1, 3, 60, 64\)"),
    ],
)
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- decoding ------------------------------------------------------------------------------------


def test_decoding_targets_gives_the_boxes_back():
    boxes = torch.tensor([[10.0, 6, 90, 60], [100, 20, 160, 50], [30, 64, 60, 120]])
    labels = torch.tensor([2, 0, 1])
    made = ttf_targets(boxes, labels, (128, 192), 3)
    heat = torch.logit(made.heatmap.clamp(1e-6, 1 - 1e-6))
    y, x = torch.meshgrid(torch.arange(32) * 4, torch.arange(48) * 4, indexing="ij")
    sides = torch.stack(
        (x - made.boxes[:, 0], y - made.boxes[:, 1], made.boxes[:, 2] - x, made.boxes[:, 3] - y), 1
    )
    found, scores, classes = decode(heat, sides, max_det=3)
    order = classes[0].argsort()
    torch.testing.assert_close(found[0][order], boxes[labels.argsort()])
    assert (scores > 0.99).all()


def brute_force(heat, sides, conf):
    rows = []
    _, h, w = heat.shape
    for c in range(len(heat)):
        for y in range(h):
            for x in range(w):
                window = heat[c, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                score = heat[c, y, x].sigmoid().item()
                if heat[c, y, x] == window.max() and score > conf:
                    left, top, right, bottom = sides[:, y, x].tolist()
                    rows.append((score, c, 4 * x - left, 4 * y - top, 4 * x + right, 4 * y + bottom))
    return sorted(rows, reverse=True)


def test_decoding_equals_a_loop():
    torch.manual_seed(0)
    heat, sides = torch.randn(1, 2, 7, 9), torch.rand(1, 4, 7, 9) * 30
    boxes, scores, labels = decode(heat, sides, max_det=500)  # more than there are places
    assert scores.shape == (1, 126)
    found = select(boxes[0], scores[0], labels[0], conf=0.2)
    wanted = brute_force(heat[0], sides[0], 0.2)
    assert len(found) == len(wanted) > 5
    rows = zip(found.scores.tolist(), found.labels.tolist(), *found.boxes.T.tolist(), strict=True)
    for row, other in zip(rows, wanted, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_of_equal_neighbours_one_survives():
    flat = torch.zeros(1, 1, 4, 4)
    assert peaks(flat).sum() == 1
    heat = torch.full((1, 1, 5, 5), -9.0)
    heat[0, 0, 2, 2] = heat[0, 0, 2, 3] = 3.0
    assert torch.nonzero(peaks(heat) & (heat > 0))[:, 2:].tolist() == [[2, 2]]


def test_class_specific_sides():
    heat = torch.full((1, 2, 3, 3), -9.0)
    heat[0, 1, 1, 1] = 5
    sides = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 3, 3)
    boxes, _, labels = decode(heat, sides, max_det=1)
    assert labels.item() == 1
    assert boxes[0, 0].tolist() == [4 - 4, 4 - 5, 4 + 6, 4 + 7]


def test_suppression_is_an_option():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
    assert len(select(boxes, scores, labels, conf=0.1)) == 3
    kept = select(boxes, scores, labels, conf=0.1, nms_iou=0.5)
    assert (kept.scores.tolist(), kept.labels.tolist()) == (pytest.approx([0.9, 0.7]), [0, 1])
    clipped = select(boxes, scores, labels, conf=0.1, size=(5, 8)).boxes
    assert clipped.amax(0).tolist() == [1, 0, 8, 5]


@pytest.mark.parametrize("kind", [TTFNet, CenterNet])
def test_mirrored_outputs_are_mirrored_boxes(kind, eager_model):
    torch.manual_seed(0)
    model = eager_model() if kind is TTFNet else CenterNet("small", 3, neck_op="conv").eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        direct = model.decode(model(images.flip(-1)), 5)
        turned = model.decode(model.mirrored(model(images.flip(-1))), 5)
    wanted = direct[0].clone()
    wanted[..., [0, 2]] = 96 - direct[0][..., [2, 0]]
    torch.testing.assert_close(turned[0], wanted)
    assert_bit_equal(turned[1], direct[1])
    assert len(model.predict(images, conf=0.0, flip_test=True)[0]) > 0


# ---- losses of whole networks --------------------------------------------------------------------


def batch_of(model, boxes, labels, size=(64, 96)):
    torch.manual_seed(1)
    return model.loss(model(torch.randn(len(boxes), 3, *size)), boxes, labels)


NO = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
SOME = (torch.tensor([[4.0, 4, 40, 50], [50, 10, 90, 60]]), torch.tensor([0, 2]))


@pytest.mark.parametrize(
    "model",
    [
        lambda: TTFNet(**SETTINGS),
        lambda: TTFNet(**SETTINGS, class_specific=True),
        lambda: CenterNet("small", 3),
    ],
)
def test_images_without_objects_are_legal(model):
    model = model()
    losses = batch_of(model, [NO[0], SOME[0]], [NO[1], SOME[1]])
    assert losses["num_pos"] == 2
    none = batch_of(model, [NO[0]] * 2, [NO[1]] * 2)
    none["loss"].backward()
    assert none["loss"].isfinite()
    # Every parameter takes part, or a process without boxes would stall the others.
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_an_untrained_network_of_the_paper_has_the_known_loss():
    torch.manual_seed(0)
    model = TTFNet("small", 3).eval()
    losses = batch_of(model, [SOME[0]], [SOME[1]])
    # Two centres, each 4.5135, and hardly anything for 3 * 16 * 24 negatives.
    assert losses["loss_heatmap"].item() == pytest.approx(4.52, abs=0.03)
    assert losses["num_pos"] == 2


def test_no_side_dies_within_fifty_steps():
    """With the published initialisation, an offset of 1 and the recipe's optimiser."""
    from ttfnet.recipe import sgd

    torch.manual_seed(0)
    model = TTFNet("small", 3, neck_op="conv", neck_channels=(16, 16, 16), head_channels=(16, 16))
    optimizer = sgd(model, 0.01)
    images = torch.randn(2, 3, 64, 96)
    for _ in range(50):
        loss = model.loss(model(images), [SOME[0]] * 2, [SOME[1]] * 2)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    zero = (model(images).distances == 0).float().mean((0, 2, 3))
    assert zero.max() < 0.99


def test_losses_may_be_scaled_and_the_regression_uses_predicted_boxes(eager_model):
    model = eager_model()
    model.loss_options = LossOptions(box=0.0)
    out = model(torch.randn(1, 3, 64, 96))
    losses = model.loss(out, [SOME[0]], [SOME[1]])
    assert torch.equal(losses["loss"], losses["loss_heatmap"])
    assert predicted_boxes(out.distances).shape == (1, 4, 16, 24)


def test_crowd_regions_are_an_option(eager_model):
    model = eager_model()
    out = model(torch.randn(1, 3, 64, 96))
    everything = [torch.tensor([[0.0, 0, 96, 64]])]
    without = model.loss(out, [NO[0]], [NO[1]])
    inside = model.loss(out, [NO[0]], [NO[1]], everything)
    assert without["loss_heatmap"] > 0
    assert inside["loss_heatmap"] == 0


def test_autocast_keeps_losses_in_float32(eager_model):
    model = eager_model()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.randn(1, 3, 64, 96))
        losses = model.loss(out, [SOME[0]], [SOME[1]])
    assert losses["loss"].dtype == torch.float32
    assert losses["loss"].isfinite()


def test_darknet_names_are_the_official_ones():
    names = set(DarkNet53().state_dict())
    assert {
        "stem.conv.weight",
        "layer1.0.bn.weight",
        "layer1.1.body.0.conv.weight",
        "layer5.4.body.1.bn.bias",
    } <= names
