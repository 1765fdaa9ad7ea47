"""Anchors, assignment, losses and decoding of the anchor head."""

import math

import numpy as np
import pytest
import torch

from tenfold.geometry import direction_bin
from tenfold.lidar.anchors import KITTI_ANCHORS, AnchorClass, make_anchors
from tenfold.lidar.models import AnchorHead, AnchorOutputs, LossWeights
from tenfold.lidar.models.anchor_head import DIRECTION_OFFSET
from tenfold.lidar.postprocess import PostProcess, select_detections
from tenfold.lidar.targets import IGNORED, NEGATIVE, assign_targets, match_anchors, nearest_bev_iou

RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)


def random_boxes(rng, n, region=12.0):
    boxes = np.empty((n, 7), np.float32)
    boxes[:, :2] = rng.uniform(0, region, (n, 2))
    boxes[:, 2] = rng.uniform(-2, 0, n)
    boxes[:, 3:6] = rng.uniform(0.6, 4.5, (n, 3))
    boxes[:, 6] = rng.uniform(-7, 7, n)
    return torch.from_numpy(boxes)


def iou_numpy(a, b):
    """One pair, from the words of the rule."""

    def rectangle(box):
        x, y, _, dx, dy, _, heading = (float(v) for v in box)
        folded = heading - math.floor(heading / math.pi + 0.5) * math.pi
        if abs(folded) > math.pi / 4:
            dx, dy = dy, dx
        return x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2

    p, q = rectangle(a), rectangle(b)
    w = min(p[2], q[2]) - max(p[0], q[0])
    h = min(p[3], q[3]) - max(p[1], q[1])
    shared = max(w, 0) * max(h, 0)
    areas = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1])
    return shared / (areas - shared)


def match_numpy(overlap, matched, unmatched):
    """The assignment rules anchor by anchor, on a table of overlaps."""
    n, m = overlap.shape
    result = []
    for i in range(n):
        own = int(np.argmax(overlap[i])) if m else -1
        is_best_of_some = any(overlap[i, j] > 0 and overlap[i, j] == overlap[:, j].max() for j in range(m))
        if m and (overlap[i, own] >= matched or is_best_of_some):
            result.append(own)
        elif not m or overlap[i, own] < unmatched:
            result.append(NEGATIVE)
        else:
            result.append(IGNORED)
    return result


def test_anchors_closed_form():
    anchors = make_anchors(RANGE, (200, 176), KITTI_ANCHORS)
    assert anchors.shape == (200, 176, 6, 7)
    step_x, step_y = 70.4 / 175, 80 / 199
    for y, x, k in ((0, 0, 0), (199, 175, 5), (7, 100, 2), (120, 3, 3)):
        name, turned = k // 2, k % 2
        dx, dy, dz = ((3.9, 1.6, 1.56), (0.8, 0.6, 1.73), (1.76, 0.6, 1.73))[name]
        bottom = (-1.78, -0.6, -0.6)[name]
        expected = [x * step_x, -40 + y * step_y, bottom + dz / 2, dx, dy, dz, 1.57 * turned]
        np.testing.assert_allclose(anchors[y, x, k], expected, rtol=1e-5, atol=1e-5)
    two = AnchorClass("a", ((1.0, 2, 3), (4.0, 5, 6)), rotations=(0.0, 1.0, 2.0))
    cell = make_anchors((0, 0, 0, 8, 8, 8), (1, 1), (two,))[0, 0]
    assert cell[:, 3].tolist() == [1, 1, 1, 4, 4, 4]
    assert cell[:, 6].tolist() == [0, 1, 2] * 2
    assert torch.allclose(cell[:, 2], torch.tensor([-0.28] * 3 + [1.22] * 3))


@pytest.mark.parametrize("seed", range(5))
def test_nearest_bev_iou_equals_the_rule(seed):
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, 20), random_boxes(rng, 9)
    expected = [[iou_numpy(p, q) for q in b] for p in a]
    np.testing.assert_allclose(nearest_bev_iou(a, b), expected, rtol=1e-4, atol=1e-5)


def check_match(match):
    """Random scenes with ties, crowds and lonely boxes; every rule decides some anchor."""
    seen = {"forced": 0, "forced for another": 0, "ignored": 0}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        item = AnchorClass("a", ((3.9, 1.6, 1.5),))
        anchors = make_anchors((0, 0, -2, 12, 12, 2), (8, 8), (item,)).view(-1, 7)
        gt = random_boxes(rng, int(rng.integers(1, 9)))
        near = anchors[torch.from_numpy(rng.integers(0, len(anchors), 5))].clone()
        near[:, :2] += torch.from_numpy(rng.uniform(-0.6, 0.6, (5, 2))).float()
        # a box midway between anchors ties several of them; one far away overlaps none
        tied = torch.tensor([[12 / 7 / 2, 0, 0, 3.9, 1.6, 1.5, 0], [90.0, 90, 0, 3.9, 1.6, 1.5, 0]])
        gt = torch.cat((gt, near, near[:1], tied))
        overlap = nearest_bev_iou(anchors, gt).numpy()
        expected = match_numpy(overlap, 0.6, 0.45)
        assert match(anchors, gt, 0.6, 0.45).tolist() == expected
        for i, row in enumerate(expected):
            if row == IGNORED:
                seen["ignored"] += 1
            if row >= 0 and overlap[i].max() < 0.6:
                seen["forced"] += 1
                of = [j for j in range(len(gt)) if overlap[i, j] > 0 and overlap[i, j] == overlap[:, j].max()]
                seen["forced for another"] += row not in of
    assert min(seen.values()) > 0, seen


def test_assignment_equals_the_rules():
    check_match(match_anchors)


def forced_takes_its_forcer(anchors, gt, matched, unmatched):
    match = match_anchors(anchors, gt, matched, unmatched)
    overlap = nearest_bev_iou(anchors, gt)
    forced = (overlap == overlap.amax(0)) & (overlap > 0)
    return torch.where(forced.any(1) & (overlap.amax(1) < matched), forced.int().argmax(1), match)


def nothing_forced(anchors, gt, matched, unmatched):
    match = match_anchors(anchors, gt, matched, unmatched)
    best = nearest_bev_iou(anchors, gt).amax(1)
    return torch.where(best >= matched, match, torch.where(best < unmatched, NEGATIVE, IGNORED))


def no_ignore(anchors, gt, matched, unmatched):
    return match_anchors(anchors, gt, matched, matched)


@pytest.mark.parametrize("wrong", [forced_takes_its_forcer, nothing_forced, no_ignore])
def test_wrong_assignments_are_caught(wrong):
    with pytest.raises(AssertionError):
        check_match(wrong)


def scene(seed, batch=3, region=(0, 0, -3, 16, 16, 1)):
    """Head on a small grid, random outputs, padded ground truth with one empty frame."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    weights = LossWeights(codes=(1.0, 1.0, 0.5, 1.0, 2.0, 1.0, 1.0))
    head = AnchorHead(4, KITTI_ANCHORS, region, (6, 5), weights=weights)
    gt = torch.zeros(batch, 12, 8)
    for frame in range(batch - 1):
        n = 3 + 4 * frame
        gt[frame, :n, :7] = random_boxes(rng, n, 16)
        gt[frame, :n, 7] = torch.from_numpy(rng.integers(1, 4, n)).float()
        for row in range(n):
            gt[frame, row, 3:6] = torch.tensor(KITTI_ANCHORS[int(gt[frame, row, 7]) - 1].sizes[0])
    n = 6 * 5 * 6
    outputs = AnchorOutputs(
        torch.randn(batch, n, 3), 0.3 * torch.randn(batch, n, 7), torch.randn(batch, n, 2)
    )
    return head, outputs, gt


def targets_numpy(head, gt):
    """Labels and GT row per anchor, class by class, from the brute-force rules."""
    anchors = head.anchors.view(-1, 7)
    labels = np.zeros((len(gt), len(anchors)), int)
    rows = np.full(labels.shape, -1)
    classes = np.arange(len(anchors)) % 6 // 2 + 1
    for frame in range(len(gt)):
        for number, item in enumerate(KITTI_ANCHORS, 1):
            own = np.flatnonzero(classes == number)
            of_class = np.flatnonzero(gt[frame, :, 7].numpy() == number)
            overlap = nearest_bev_iou(anchors[own], gt[frame, of_class, :7]).numpy()
            for k, m in zip(own, match_numpy(overlap, item.matched, item.unmatched), strict=True):
                labels[frame, k] = number if m >= 0 else (-1 if m == IGNORED else 0)
                rows[frame, k] = of_class[m] if m >= 0 else -1
    return labels, rows


@pytest.mark.parametrize("seed", range(3))
def test_targets_of_a_batch_equal_the_rules(seed):
    head, _, gt = scene(seed)
    labels, rows = targets_numpy(head, gt)
    ours = assign_targets(head.anchors, gt, head.classes)
    assert (ours.labels.numpy() == labels).all()
    assert ours.positive.tolist() == np.flatnonzero(labels.ravel() > 0).tolist()
    wanted = [gt[i // labels.shape[1], rows.ravel()[i], :7] for i in ours.positive.tolist()]
    assert torch.equal(ours.boxes, torch.stack(wanted))
    assert (labels[-1] == 0).all()


def losses_numpy(head, outputs, gt):
    """All losses in float64, over every anchor with dense weights."""
    labels, rows = targets_numpy(head, gt)
    anchors = head.anchors.view(-1, 7).double().numpy()
    x, codes, turn = (np.asarray(part.detach(), np.float64) for part in outputs)
    total = {"loss_cls": 0.0, "loss_box": 0.0, "loss_dir": 0.0}
    for b in range(len(gt)):
        share = 1 / (max(1, (labels[b] > 0).sum()) * len(gt))
        for k, label in enumerate(labels[b]):
            if label < 0:
                continue
            for c in range(3):
                p = 1 / (1 + math.exp(-x[b, k, c]))
                hit = c + 1 == label
                pt, alpha = (p, 0.25) if hit else (1 - p, 0.75)
                total["loss_cls"] -= alpha * (1 - pt) ** 2 * math.log(pt) * share
            if label == 0:
                continue
            g, a = np.asarray(gt[b, rows[b, k], :7], np.float64), anchors[k]
            diagonal = math.hypot(a[3], a[4])
            target = [
                *((g[:2] - a[:2]) / diagonal),
                (g[2] - a[2]) / a[5],
                *np.log(g[3:6] / a[3:6]),
                g[6] - a[6],
            ]
            d = codes[b, k] - target
            d[6] = math.sin(d[6])
            d = np.abs(d * head.weights.codes)
            total["loss_box"] += 2.0 * share * np.where(d < 1 / 9, 4.5 * d**2, d - 1 / 18).sum()
            bin_ = int(np.mod(g[6] - 0.78539, 2 * np.pi) // np.pi)
            total["loss_dir"] += 0.2 * share * (np.log(np.exp(turn[b, k]).sum()) - turn[b, k, bin_])
    return total


@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_a_restatement_in_float64(seed):
    head, outputs, gt = scene(seed)
    expected = losses_numpy(head, outputs, gt)
    ours = head.losses(outputs, gt)
    for name, value in expected.items():
        assert ours[name].item() == pytest.approx(value, rel=1e-4), name
    assert ours["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_frames_split_over_processes_equal_one():
    head, outputs, gt = scene(4, batch=4)
    halves = [
        head.losses(AnchorOutputs(*(part[half] for part in outputs)), gt[half])["loss"]
        for half in (slice(0, 2), slice(2, 4))
    ]
    whole = head.losses(outputs, gt)["loss"]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_losses_without_ground_truth():
    head, outputs, _ = scene(0)
    losses = head.losses(outputs, torch.zeros(3, 0, 8))
    assert losses["num_positives"] == 0
    assert losses["loss_box"] == losses["loss_dir"] == 0
    assert losses["loss_cls"] > 0
    without = AnchorHead(4, KITTI_ANCHORS, (0, 0, -3, 16, 16, 1), (6, 5), direction=False)
    assert without(torch.zeros(1, 4, 6, 5)).direction is None
    assert without.losses(outputs._replace(direction=None), scene(0)[2])["loss_dir"] == 0


def test_decoding_gives_back_every_heading():
    head = scene(0)[0]
    heading = torch.linspace(-2 * math.pi, 2 * math.pi, 721, dtype=torch.float64)
    for anchor_heading in (0.0, 1.57):
        anchor = torch.tensor([[4.0, 3, -1, 3.9, 1.6, 1.56, anchor_heading]], dtype=torch.float64).expand(
            721, 7
        )
        gt = torch.tensor([[4.4, 2.5, -0.8, 4.2, 1.7, 1.5, 0]], dtype=torch.float64).repeat(721, 1)
        gt[:, 6] = heading
        codes = head.coder.encode(gt, anchor)
        codes[:, 6] += math.pi * torch.randint(-1, 2, (721,))  # what the sine loss cannot see
        bins = direction_bin(heading, DIRECTION_OFFSET)
        boxes = head.decode(codes, torch.nn.functional.one_hot(bins, 2).double(), anchor)
        torch.testing.assert_close(boxes[:, :6], gt[:, :6])
        assert (boxes[:, 6] - heading).cos().sub(1).abs().max() < 1e-9


def test_the_head_lays_anchors_out_as_its_channels():
    head = scene(0)[0]
    x = torch.randn(2, 4, 6, 5)
    outputs = head(x)
    with torch.no_grad():
        for y, column, k in ((0, 0, 0), (5, 4, 5), (2, 3, 1)):
            n = (y * 5 + column) * 6 + k
            assert torch.allclose(head.anchors.view(-1, 7)[n], head.anchors[y, column, k])
            for maps, part, width in (
                (head.conv_cls(x), 0, 3),
                (head.conv_box(x), 1, 7),
                (head.conv_dir_cls(x), 2, 2),
            ):
                expected = maps[:, k * width : (k + 1) * width, y, column]
                torch.testing.assert_close(outputs[part][:, n], expected)


def test_initial_scores_and_boxes():
    head = AnchorHead(64, KITTI_ANCHORS, RANGE, (8, 8))
    assert torch.allclose(head.conv_cls.bias.sigmoid(), torch.tensor(0.01))
    assert head.conv_box.weight.std().item() == pytest.approx(0.001, rel=0.1)


def detections_brute_force(head, outputs, options, frame):
    """Decode everything, then suppress by the definition with polygons."""
    shapely = pytest.importorskip("shapely")
    boxes, scores = head.boxes(outputs)[frame], outputs.classes[frame].sigmoid()
    best, label = scores.max(1)
    order = [
        i for i in best.argsort(descending=True, stable=True).tolist() if best[i] >= options.score_threshold
    ]

    def polygon(box):
        c, s = math.cos(box[6]), math.sin(box[6])
        corners = ((1, 1), (1, -1), (-1, -1), (-1, 1))
        return shapely.Polygon(
            [
                (
                    box[0] + c * u * box[3] / 2 - s * v * box[4] / 2,
                    box[1] + s * u * box[3] / 2 + c * v * box[4] / 2,
                )
                for u, v in corners
            ]
        )

    kept, polygons = [], []
    for i in order[: options.pre_max]:
        p = polygon(boxes[i].tolist())
        if all(p.intersection(q).area / p.union(q).area <= options.iou_threshold for q in polygons):
            kept.append(i)
            polygons.append(p)
    kept = kept[: options.post_max]
    if options.centre_range is not None:
        low, high = options.centre_range[:3], options.centre_range[3:]
        kept = [i for i in kept if all(lo <= v <= hi for lo, v, hi in zip(low, boxes[i, :3].tolist(), high))]
    return boxes[kept], best[kept], label[kept]


@pytest.mark.parametrize(
    "options",
    [
        PostProcess(0.3, 0.01),
        PostProcess(0.5, 0.2, pre_max=60, post_max=9),
        PostProcess(0.3, 0.1, centre_range=(2, 2, -2, 14, 14, 0.5)),
    ],
)
def test_detections_equal_brute_force(options):
    head, outputs, _ = scene(1)
    found = head.detect(outputs, options)
    assert len(found) == 3
    for frame, got in enumerate(found):
        boxes, scores, labels = detections_brute_force(head, outputs, options, frame)
        assert len(boxes) > 3
        torch.testing.assert_close(got["boxes"], boxes)
        assert torch.equal(got["scores"], scores)
        assert torch.equal(got["labels"], labels)


def test_boxes_that_are_not_finite_are_no_detections():
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0], [9.0, 0, 0, float("inf"), 2, 2, 0]])
    found = select_detections(boxes, torch.tensor([0.5, 0.9]), torch.tensor([2, 1]), PostProcess())
    assert found["labels"].tolist() == [2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AnchorClass("a", ()), "sizes"),
        (lambda: AnchorClass("a", ((1.0, 0.0, 1.0),)), "sizes"),
        (lambda: AnchorClass("a", ((1.0, 1.0, 1.0),), rotations=()), "rotations"),
        (lambda: AnchorClass("a", ((1.0, 1.0, 1.0),), matched=0.3), "matched"),
        (lambda: make_anchors((0, 0, 0, 1, 1), (2, 2), KITTI_ANCHORS), "point_range"),
        (lambda: make_anchors(RANGE, (0, 2), KITTI_ANCHORS), "grid"),
        (lambda: PostProcess(score_threshold=2), "score_threshold"),
        (lambda: PostProcess(pre_max=0), "pre_max"),
        (lambda: PostProcess(centre_range=(0, 1)), "centre_range"),
        (lambda: nearest_bev_iou(torch.zeros(2, 8), torch.zeros(2, 7)), "boxes"),
        (
            lambda: assign_targets(
                make_anchors(RANGE, (2, 2), KITTI_ANCHORS), torch.zeros(1, 1, 9), KITTI_ANCHORS
            ),
            "gt_",
        ),
    ],
)
def test_wrong_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
