"""Points: which are drawn, what belongs to which object, what point heads are taught."""

import math

import numpy as np
import pytest
import torch

from tenfold.geometry import BinBoxCoder, PointResidualCoder, points_from_box_frame
from tenfold.lidar.models.detector import PointFeatures
from tenfold.lidar.models.part_a2 import PartA2Config
from tenfold.lidar.models.point_heads import PointHead, PointOutputs, PointWeights
from tenfold.lidar.models.point_input import draw_points, fixed_points, in_xy_range
from tenfold.lidar.models.pv_rcnn import choose_keypoints, grid_points
from tenfold.lidar.models.unet import pair_sums
from tenfold.lidar.models.voxel_backbone import site_centres
from tenfold.lidar.point_targets import assign_points, part_targets
from tenfold.losses import bin_box_loss, mean_count
from tenfold.sparse import SparseTensor

SIZES = ((3.9, 1.6, 1.56), (0.8, 0.6, 1.73))


def cloud(number=300, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(number, 3, generator=g, dtype=dtype) * torch.tensor([20.0, 10, 3], dtype=dtype)


def inside(point, box, extra=0.0):
    d = point - box[:3]
    c, s = math.cos(box[6]), math.sin(box[6])
    x, y = c * d[0] + s * d[1], -s * d[0] + c * d[1]
    half = (box[3:6] + extra) / 2
    return abs(x) < half[0] + 1e-5 and abs(y) < half[1] + 1e-5 and abs(d[2]) <= half[2]


def test_points_meet_their_boxes():
    xyz = cloud()
    gt = torch.zeros(2, 4, 8, dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    for frame, number in ((0, 3), (1, 1)):
        gt[frame, :number, :3] = cloud(number, 5 + frame)
        gt[frame, :number, 3:6] = 3 + torch.rand(number, 3, generator=g, dtype=torch.float64)
        gt[frame, :number, 6] = torch.rand(number, generator=g, dtype=torch.float64) * 6
        gt[frame, :number, 7] = torch.arange(number) % 2 + 1
    offsets = torch.tensor([0, 200, 300])
    got = assign_points(xyz, offsets, gt, enlarge=0.6)
    position = 0
    for k in range(300):
        frame = int(k >= 200)
        rows = [gt[frame, m].numpy() for m in range(4) if gt[frame, m, 7] > 0]
        hits = [row for row in rows if inside(xyz[k].numpy(), row)]
        near = any(inside(xyz[k].numpy(), row, 0.6) for row in rows)
        if hits:  # the first box wins
            assert got.labels[k] == hits[0][7]
            assert got.inside[position] == k
            np.testing.assert_array_equal(got.boxes[position], hits[0][:7])
            position += 1
        else:
            assert got.labels[k] == (-1 if near else 0)
    assert position == len(got.inside) > 20
    assert (got.labels == -1).sum() > 5


def test_padding_holds_no_point():
    """An enlarged box of zeros would hold the origin."""
    got = assign_points(torch.zeros(3, 3), torch.tensor([0, 3]), torch.zeros(1, 2, 8), enlarge=0.5)
    assert got.labels.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="slice velocities off"):
        assign_points(torch.zeros(3, 3), torch.tensor([0, 3]), torch.zeros(1, 2, 10))


def test_parts_are_corners_and_centre_and_move_with_the_scene():
    box = torch.tensor([3.0, -2, 1, 4, 2, 1.5, 0.7], dtype=torch.float64)
    signs = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=torch.float64)
    corners = points_from_box_frame((signs - 0.5) * box[3:6], box)
    torch.testing.assert_close(part_targets(corners, box.expand(8, 7)), signs)
    torch.testing.assert_close(
        part_targets(box[None, :3], box[None]), torch.full((1, 3), 0.5, dtype=torch.float64)
    )
    points = points_from_box_frame((torch.rand(20, 3, dtype=torch.float64) - 0.5) * box[3:6], box)
    before = part_targets(points, box.expand(20, 7))
    scale, turn = 1.3, 0.9
    c, s = math.cos(turn), math.sin(turn)
    matrix = scale * torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    moved = torch.cat((matrix @ box[:3], scale * box[3:6], box[6:] + turn))
    torch.testing.assert_close(part_targets(points @ matrix.T, moved.expand(20, 7)), before)
    mirror = torch.tensor([1.0, -1, 1], dtype=torch.float64)
    flipped = torch.cat((box[:3] * mirror, box[3:6], -box[6:]))
    after = part_targets(points * mirror, flipped.expand(20, 7))
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    torch.testing.assert_close(after[:, 1], 1 - before[:, 1])


def test_losses_of_points_equal_their_restatement():
    torch.manual_seed(0)
    head = PointHead(
        8, 2, (), coder=PointResidualCoder(SIZES), parts=True, weights=PointWeights(2.0, 3.0, 5.0)
    ).double()
    xyz = cloud(60, 3)
    gt = torch.zeros(1, 3, 8, dtype=torch.float64)
    gt[0, 0] = torch.tensor([5, 5, 1.5, 6, 4, 3, 0.4, 1])
    gt[0, 1] = torch.tensor([14, 4, 1.5, 5, 5, 3, 1.4, 2])
    features = torch.randn(60, 8, dtype=torch.float64)
    points = PointFeatures(xyz, features, torch.tensor([0, 60]))
    outputs = head(features)
    got = head.losses(outputs, points, gt)
    targets = assign_points(xyz, points.offsets, gt)
    cls = 0.0
    for k in range(60):
        label = int(targets.labels[k])
        for c in range(2):
            if label >= 0:
                p = torch.sigmoid(outputs.classes[k, c]).item()
                hit = label == c + 1
                cls -= 0.25 * (1 - p) ** 2 * math.log(p) if hit else 0.75 * p**2 * math.log(1 - p)
    box = part = 0.0
    for row, own in zip(targets.inside.tolist(), targets.boxes, strict=True):
        label = int(targets.labels[row]) - 1
        mean = torch.tensor(SIZES[label], dtype=torch.float64)
        d = math.hypot(mean[0], mean[1])
        offset = (own[:3] - xyz[row]) / torch.tensor([d, d, mean[2].item()], dtype=torch.float64)
        code = torch.cat((offset, torch.log(own[3:6] / mean), own[6:].cos(), own[6:].sin()))
        for e in (outputs.boxes[row] - code).abs().tolist():
            box += 4.5 * e * e if e < 1 / 9 else e - 1 / 18
        wanted = part_targets(xyz[row : row + 1], own[None])[0]
        p = torch.sigmoid(outputs.parts[row])
        part -= (wanted * p.log() + (1 - wanted) * (1 - p).log()).mean().item()
    number = len(targets.inside)
    assert number > 5
    assert got["point_cls"].item() == pytest.approx(2 * cls / number)
    assert got["point_box"].item() == pytest.approx(3 * box / number)
    assert got["point_part"].item() == pytest.approx(5 * part / number)
    assert got["point_fg"] == number
    unused = head.losses(outputs, points, gt, torch.zeros(60, dtype=torch.bool))
    assert unused["point_cls"] == 0


def test_a_box_and_its_rear_view_cost_the_same_without_direction():
    """Points of a symmetric object tell its axis alone: taught both headings, the code can learn the axis only
    where their mean is no answer."""
    coder = PointResidualCoder(SIZES)
    gt = torch.tensor([[[5.0, 5, 1.5, 6, 4, 3, 0.4, 1]]], dtype=torch.float64)
    turned = gt.clone()
    turned[..., 6] += math.pi
    xyz = cloud(60, 3)
    points = PointFeatures(xyz, xyz, torch.tensor([0, 60]))
    found = {}
    for direction in (True, False):
        head = PointHead(8, 2, (), coder=coder, weights=PointWeights(direction=direction)).double()
        codes = torch.zeros(60, 8, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([codes], 0.5)
        for step in range(100):
            # From slightly off the mean, as any start is.
            outputs = PointOutputs(torch.zeros(60, 2, dtype=torch.float64), codes + 0.05)
            loss = head.losses(outputs, points, gt if step % 2 else turned)["point_box"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows = assign_points(xyz, points.offsets, gt).inside
        found[direction] = (codes[rows, 6:] + 0.05).detach()
        exact = coder.encode(gt[0, :1, :7].expand(len(rows), 7), xyz[rows], torch.zeros(len(rows)).long())
        for sign in (1.0, -1.0):
            told = torch.zeros(60, 8, dtype=torch.float64)
            told[rows] = torch.cat((exact[:, :6], sign * exact[:, 6:]), 1)
            cost = head.losses(PointOutputs(torch.zeros(60, 2).double(), told), points, gt)["point_box"]
            assert (cost < 1e-9) == (sign > 0 or not direction)
    wanted = torch.tensor([math.cos(0.4), math.sin(0.4)], dtype=torch.float64)
    assert (found[False] - wanted).abs().max() < 0.05
    assert found[True].norm(dim=1).max() < 0.6


def test_foreground_alone_looks_at_no_class():
    head = PointHead(8, 1, ())
    gt = torch.tensor([[[5.0, 5, 1.5, 6, 4, 3, 0, 3]]])
    xyz = torch.tensor([[5.0, 5, 1.5], [0.0, 0, 0]])
    points = PointFeatures(xyz, torch.zeros(2, 8), torch.tensor([0, 2]))
    sure = PointOutputs(torch.tensor([[20.0], [-20.0]]))
    assert head.losses(sure, points, gt)["point_cls"] < 1e-6


def test_boxes_of_points_take_the_likeliest_class():
    head = PointHead(8, 2, (), coder=PointResidualCoder(SIZES))
    outputs = PointOutputs(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0] * 6 + [1, 0]]))
    assert head.boxes(outputs, torch.tensor([[1.0, 2, 3]])).tolist() == [
        pytest.approx([1, 2, 3, 0.8, 0.6, 1.73, 0])
    ]


# ---- bins ----------------------------------------------------------------------------------------


def random_boxes(number, seed=0):
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(number, 7, generator=g, dtype=torch.float64)
    low = torch.tensor([-2.9, -2.9, -1, 3, 1.4, 1.3, -math.pi], dtype=torch.float64)
    high = torch.tensor([2.9, 2.9, 1, 5, 2, 1.8, math.pi], dtype=torch.float64)
    return low + u * (high - low)


def test_bin_codes_come_back():
    coder = BinBoxCoder(SIZES[0])
    points = cloud(200, 2)
    boxes = random_boxes(200)
    boxes[:, :3] += points
    torch.testing.assert_close(coder.decode(coder.exact(boxes, points), points), boxes)
    code = coder.encode(boxes, points)
    assert code.x_bin.min() >= 0
    assert code.x_bin.max() == 11
    assert code.x_residual.abs().max() <= 0.5
    assert code.heading_residual.abs().max() <= 1
    narrow = BinBoxCoder(SIZES[0], 1.5, 0.5, 9, math.pi / 2)
    local = random_boxes(200, 3) * torch.tensor([0.5, 0.5, 1, 1, 1, 1, 0.24])
    nothing = torch.zeros(200, 3, dtype=torch.float64)
    torch.testing.assert_close(narrow.decode(narrow.exact(local, nothing), nothing), local)


def test_bin_loss_is_that_of_its_parts():
    coder = BinBoxCoder(SIZES[0])
    points, boxes = cloud(5, 4), random_boxes(5, 5)
    boxes[:, :3] += points
    codes = torch.randn(5, coder.code_size, dtype=torch.float64, requires_grad=True)
    got = bin_box_loss(codes, boxes, points, coder)

    def huber(d):
        return 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5

    for k in range(5):
        row, offset = codes[k], (boxes[k, :3] - points[k]).tolist()
        expected = huber((row[48] - offset[2]).item())
        for axis in (0, 1):
            bin_ = int((offset[axis] + 3) // 0.5)
            residual = (offset[axis] + 3 - (bin_ + 0.5) * 0.5) / 0.5
            expected -= torch.log_softmax(row[12 * axis : 12 * axis + 12], 0)[bin_].item()
            expected += huber((row[24 + 12 * axis + bin_] - residual).item())
        width = math.pi / 6
        turned = (boxes[k, 6].item() + width / 2) % (2 * math.pi)
        bin_ = int(turned // width)
        residual = (turned - (bin_ + 0.5) * width) / (width / 2)
        expected -= torch.log_softmax(row[49:61], 0)[bin_].item()
        expected += huber((row[61 + bin_] - residual).item())
        mean = torch.tensor(SIZES[0], dtype=torch.float64)
        size = (boxes[k, 3:6] - mean) / mean
        expected += 3 * sum(huber(d) for d in (row[73:] - size).tolist()) / 3
        assert got[k].item() == pytest.approx(expected)
    got.sum().backward()
    assert ((codes.grad[:, 24:36] != 0).sum(1) == 1).all()  # only the true bin's residual is taught


# ---- drawing -------------------------------------------------------------------------------------


def far_cloud(near, far):
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(near + far, 3, generator=g), dim=1)
    return direction * torch.cat((torch.full((near,), 10.0), torch.full((far,), 50.0)))[:, None]


@pytest.mark.parametrize(("near", "far"), [(300, 20), (10, 90), (30, 10), (100, 0), (3, 0)])
def test_far_points_stay(near, far):
    rows = draw_points(far_cloud(near, far), 64, generator=torch.Generator().manual_seed(1))
    assert len(rows) == 64
    counts = torch.bincount(rows, minlength=near + far)
    if near + far <= 64:  # too few: all of them, some again
        assert (counts >= 1).all()
    elif far > 64:
        assert (counts <= 1).all()
    else:
        assert (counts[near:] == 1).all()
        assert (counts <= 1).all()
        assert counts[:near].sum() == 64 - far


def test_frames_have_equally_many_points():
    points = torch.cat((torch.tensor([0.0, 0, 0, 2, 2])[:, None], torch.arange(20.0).view(5, 4)), 1)
    drawn, counts = fixed_points(points, 3, 4)
    assert drawn.shape == (3, 4, 4)
    assert counts.tolist() == [3, 0, 2]
    assert (drawn[1] == 0).all()
    assert set(drawn[2, :, 0].tolist()) == {12.0, 16.0}
    with pytest.raises(ValueError, match="got no point"):
        draw_points(torch.zeros(0, 3), 4)


def test_range_looks_at_x_and_y():
    points = torch.tensor([[0.0, 1, 1, 99, 0], [0, 1, -1, 0, 0], [0, 11, 0, 0, 0]])
    assert in_xy_range(points, (0, 0, 0, 10, 10, 1)).tolist() == [[0, 1, 1, 99, 0]]


def test_key_points_repeat_in_turn():
    xyz = cloud(9, 6)
    points, offsets = choose_keypoints(xyz, torch.tensor([0, 3, 3, 9]), 5)
    assert offsets.tolist() == [0, 5, 5, 10]
    assert torch.equal(points[3:5], points[:2])
    assert set(map(tuple, points[:3].tolist())) == set(map(tuple, xyz[:3].tolist()))


def test_grid_points_fill_the_box():
    box = torch.tensor([[3.0, -2, 1, 4, 2, 1.5, 0.7]], dtype=torch.float64)
    got = grid_points(box, 3)
    assert got.shape == (1, 27, 3)
    parts = part_targets(got[0], box.expand(27, 7))
    steps = torch.tensor([1 / 6, 0.5, 5 / 6], dtype=torch.float64)
    torch.testing.assert_close(parts, torch.cartesian_prod(steps, steps, steps))


def test_small_parts():
    assert pair_sums(torch.arange(8.0).view(2, 4)).tolist() == [[1.0, 5.0], [9.0, 13.0]]
    x = SparseTensor(torch.ones(1, 1), torch.tensor([[0, 2, 1, 0]], dtype=torch.int32), (4, 4, 4), 1)
    got = site_centres(x, (0.1, 0.2, 0.5), (1.0, -1.0, -3.0, 9, 9, 9), 4)
    torch.testing.assert_close(got, torch.tensor([[1.2, 0.2, 2.0]]))
    assert mean_count(torch.tensor(0)) == 1
    low = PartA2Config(class_names=("Pedestrian",)).anchor_classes[0]
    assert low.bottom == -1.78
