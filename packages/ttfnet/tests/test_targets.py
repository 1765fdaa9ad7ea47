"""Targets against closed forms, an independent double loop, the definition and the core kernel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.testing import assert_bit_equal
from ttfnet.assign import assign_targets
from ttfnet.targets import TargetOptions, circular_targets, ttf_targets, ttf_targets_loop

BOX = torch.tensor([[100.0, 60.0, 300.0, 160.0]])


def test_closed_form_of_one_box():
    made = ttf_targets(BOX, torch.tensor([0]), (512, 512), 1)
    weight = made.weight[0]
    assert (weight > 0).sum() == 27 * 13 == 351
    assert torch.nonzero(made.heatmap[0, 0] == 1).tolist() == [[27, 50]]
    assert weight.sum().item() == pytest.approx(math.log(20000), rel=1e-6)
    assert weight[27, 50].item() == pytest.approx(0.162491, abs=1e-6)
    assert made.heatmap[0, 0].sum().item() == pytest.approx(60.947919, rel=1e-6)
    assert made.heatmap[0, 0, 27, 63].item() == pytest.approx(0.0154084, abs=1e-7)
    assert made.heatmap[0, 0, 33, 63].item() == pytest.approx(3.3307e-4, abs=1e-8)
    assert made.boxes[0, :, 27, 50].tolist() == BOX[0].tolist()


@pytest.mark.parametrize(
    ("radius", "total"), [(0, 1), (1, 1.270671), (2, 2.085774), (3, 2.918587), (6, 5.4176), (13, 11.249986)]
)
def test_sums_of_kernels(radius, total):
    side = 4 * (2 * radius / 0.54 + 0.1)
    start = 256 - side / 2
    box = torch.tensor([[start, 256 - 2, start + side, 256 + 2]])
    row = ttf_targets(box, torch.tensor([0]), (512, 512), 1).heatmap[0, 0, 64]
    assert (row > 0).sum() == 2 * radius + 1
    assert row.sum().item() == pytest.approx(total, abs=1e-5)


def test_full_image_box():
    made = ttf_targets(torch.tensor([[0.0, 0, 512, 512]]), torch.tensor([0]), (512, 512), 1)
    assert (made.weight > 0).sum() == 69 * 69


def naive(boxes, labels, size, classes, alpha=0.54, beta=0.54):
    """Pixel by pixel in numpy float64, written from the text alone."""
    h, w = size[0] // 4, size[1] // 4
    heat, target, weight = np.zeros((classes, h, w)), np.zeros((4, h, w)), np.zeros((h, w))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
    for m in sorted(range(len(boxes)), key=lambda k: -areas[k]):
        x1, y1, x2, y2 = boxes[m]
        bw = min(max(x2 / 4, 0), w - 1) - min(max(x1 / 4, 0), w - 1)
        bh = min(max(y2 / 4, 0), h - 1) - min(max(y1 / 4, 0), h - 1)
        cx, cy = math.floor((x1 + x2) / 2 / 4), math.floor((y1 + y2) / 2 / 4)
        for share, kind in ((alpha, "heat"), (beta, "box")):
            rx, ry = math.floor(share * bw / 2), math.floor(share * bh / 2)
            sx, sy = (2 * rx + 1) / 6, (2 * ry + 1) / 6
            cells = {
                (v, u): math.exp(-((u - cx) ** 2) / (2 * sx**2) - (v - cy) ** 2 / (2 * sy**2))
                for v in range(max(cy - ry, 0), min(cy + ry, h - 1) + 1)
                for u in range(max(cx - rx, 0), min(cx + rx, w - 1) + 1)
            }
            for (v, u), g in cells.items():
                if kind == "heat":
                    heat[labels[m], v, u] = max(heat[labels[m], v, u], g)
                else:
                    weight[v, u] = max(math.log(areas[m]), 0) * g / sum(cells.values())
                    target[:, v, u] = boxes[m]
    return heat, target, weight


def random_boxes(seed, count, size):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.9, (count, 2)) * [size[1], size[0]]
    sides = rng.uniform(1, 0.6 * max(size), (count, 2))
    high = np.minimum(low + sides, [size[1], size[0]])
    boxes = np.concatenate([low, high], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.integers(0, 3, count))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6))
def test_equals_an_independent_loop(seed, count):
    size = (128, 192)
    boxes, labels = random_boxes(seed, count, size)
    made = ttf_targets(boxes, labels, size, 3)
    heat, target, weight = naive(boxes.double().tolist(), labels.tolist(), size, 3)
    np.testing.assert_allclose(made.heatmap[0], heat, atol=1e-6)
    np.testing.assert_allclose(made.weight[0], weight, atol=1e-6)
    np.testing.assert_allclose(made.boxes[0], target, atol=1e-4)


OPTIONS = [
    TargetOptions(),
    TargetOptions(beta=0.01),
    TargetOptions(alpha=0.3, beta=0.9, area="sqrt", weight="flat"),
    TargetOptions(area="linear", shape="circular"),
    TargetOptions(area="norm", weight="none"),
    TargetOptions(subarea="rectangle"),
    TargetOptions(sigma="paper", area_offset=1.0),
    TargetOptions(per_class=True),
]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batch_definition_and_fastest_version_have_the_same_bits(options, seed):
    rng = np.random.default_rng(seed)
    size = (64, 160)
    images = [random_boxes([seed, k], int(rng.integers(0, 7)), size) for k in range(3)]
    boxes, labels = [b for b, _ in images], [c for _, c in images]
    batch = ttf_targets(boxes, labels, size, 3, options)
    assert_bit_equal(tuple(assign_targets(boxes, labels, size, 3, options)), tuple(batch))
    for k in range(3):
        one = ttf_targets_loop(boxes[k], labels[k], size, 3, options)
        for got, wanted in zip(batch, one, strict=True):
            assert_bit_equal(got[k : k + 1], wanted)


def test_small_boxes_are_painted_over_large_ones():
    boxes = torch.tensor([[96.0, 96, 160, 160], [32, 32, 224, 224]])
    labels = torch.tensor([0, 0])
    for order in ([0, 1], [1, 0]):
        made = ttf_targets(boxes[order], labels, (256, 256), 1)
        assert made.boxes[0, :, 32, 32].tolist() == boxes[0].tolist()
        assert made.weight.sum() < math.log(64 * 64) + math.log(192 * 192)
        alone = ttf_targets(boxes[:1], labels[:1], (256, 256), 1).weight[0]
        assert_bit_equal(made.weight[0][alone > 0], alone[alone > 0])


def test_weights_sum_to_omega_where_nothing_overlaps():
    boxes = torch.tensor([[8.0, 8, 72, 40], [120, 100, 200, 180], [10, 140, 60, 200]])
    for area, omega in (
        ("log", lambda a: math.log(a)),
        ("sqrt", math.sqrt),
        ("linear", float),
        ("norm", lambda a: 1.0),
    ):
        for weight in ("gaussian", "flat"):
            made = ttf_targets(
                boxes, torch.zeros(3, dtype=torch.long), (256, 256), 1, area=area, weight=weight
            )
            wanted = sum(omega(float((b[2] - b[0]) * (b[3] - b[1]))) for b in boxes)
            assert made.weight.sum().item() == pytest.approx(wanted, rel=1e-5)


def test_switches_do_what_they_say():
    labels = torch.tensor([0])
    one = ttf_targets(BOX, labels, (512, 512), 1, beta=0.01).weight
    assert (one > 0).sum() == 1
    assert one.sum().item() == pytest.approx(math.log(20000), rel=1e-6)
    circle = ttf_targets(BOX, labels, (512, 512), 1, shape="circular").heatmap
    assert (circle > 0).sum() == 13 * 13
    flat = ttf_targets(BOX, labels, (512, 512), 1, weight="flat").weight
    assert len(flat.unique()) == 2
    ones = ttf_targets(BOX, labels, (512, 512), 1, weight="none").weight
    assert ones.sum() == 351
    part = ttf_targets(BOX, labels, (512, 512), 1, subarea="rectangle", beta=0.5, weight="flat").weight[0]
    rows, columns = torch.nonzero(part, as_tuple=True)
    # The central half of map x 25..75 and y 15..40.
    assert (columns.min(), columns.max()) == (38, 62)
    assert (rows.min(), rows.max()) == (21, 34)
    paper = ttf_targets(BOX, labels, (512, 512), 1, sigma="paper").heatmap[0, 0, 27]
    assert paper[60].item() == pytest.approx(math.exp(-100 / (2 * (0.54 * 50 / 6) ** 2)), rel=1e-5)


def test_nearly_empty_boxes_never_weigh_less_than_nothing():
    boxes = torch.tensor([[10.0, 10, 10.5, 10.5], [20, 20, 20, 30], [0, 0, 1, 1]])
    made = ttf_targets(boxes, torch.zeros(3, dtype=torch.long), (64, 64), 1)
    assert (made.weight >= 0).all()
    assert made.weight.sum() == 0
    assert (made.heatmap == 1).sum() == 2  # the box without area draws nothing


def test_per_class_maps_do_not_overwrite_each_other():
    boxes = torch.tensor([[32.0, 32, 224, 224], [96, 96, 160, 160]])
    made = ttf_targets([boxes], [torch.tensor([0, 1])], (256, 256), 2, per_class=True)
    assert made.boxes.shape == (1, 8, 64, 64)
    assert made.boxes[0, :4, 32, 32].tolist() == boxes[0].tolist()
    assert made.boxes[0, 4:, 32, 32].tolist() == boxes[1].tolist()
    for k, box in enumerate(boxes):
        side = float(box[2] - box[0])
        assert made.weight[0, k].sum().item() == pytest.approx(2 * math.log(side), rel=1e-5)


def test_mirror_image_within_a_pixel():
    boxes, labels = random_boxes(5, 3, (128, 128))
    mirrored = boxes.clone()
    mirrored[:, [0, 2]] = 128 - boxes[:, [2, 0]]
    a = ttf_targets(boxes, labels, (128, 128), 3).heatmap[0]
    b = ttf_targets(mirrored, labels, (128, 128), 3).heatmap[0].flip(-1)
    for label in labels.unique().tolist():
        first, second = (torch.nonzero(m[label] == 1) for m in (a, b))
        assert (first[:, None] - second[None]).abs().sum(-1).amin(1).max() <= 1


def test_circles_of_centernet():
    # Sides of 16 on the map: the smallest root is 4.4 (clipped to 15 x 15, as the published code clips).
    heat, centres = circular_targets(
        [torch.tensor([[0.0, 0, 64, 64], [200, 0, 264, 64]])], [torch.tensor([0, 0])], (64, 64), 1
    )
    assert (heat > 0).sum() == 81
    assert centres[0].tolist() == [[8, 8], [-1, -1]]


@pytest.mark.parametrize(
    ("boxes", "labels", "size", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2).long(), (64, 64), r"boxes: got shape \(2, 5\)"),
        (BOX, torch.zeros(2).long(), (64, 64), "labels: got shape"),
        (BOX, torch.tensor([3]), (64, 64), "labels: got 3 to 3; expected 0 to 2"),
        (BOX, torch.tensor([0]), (62, 64), "size: got"),
        ([BOX, BOX], [torch.tensor([0])], (64, 64), "labels: got 1 images"),
    ],
)
def test_bad_input_is_named(boxes, labels, size, message):
    with pytest.raises(ValueError, match=message):
        ttf_targets(boxes, labels, size, 3)


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"beta": 2}, {"area": "cube"}, {"weight": "x"}, {"sigma": "y"}]
)
def test_bad_options_are_named(wrong):
    with pytest.raises(ValueError, match=f"targets: {next(iter(wrong))}: got"):
        TargetOptions(**wrong)
