"""Assignment, distances and heading code, against closed forms and loops of our own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denfi import (
    BevGrid,
    boundary_targets,
    decode_boundary,
    decode_heading,
    encode_heading,
)
from denfi.losses import heading_losses, stack
from denfi.targets import IGNORED, NEGATIVE, split_truth

GRID = BevGrid(-4.0, -6.0, 0.4, height=30, width=25)
BOX = st.tuples(st.floats(-5, 7), st.floats(-7, 7), st.floats(0.3, 8), st.floats(0.3, 5), st.floats(-7, 7))


def loop_targets(boxes, labels, grid, sigma1=0.45, sigma2=0.70):
    """The definition pixel by pixel, in Python's own arithmetic."""
    maps = [[NEGATIVE] * grid.width for _ in range(grid.height)]
    owners = [[-1] * grid.width for _ in range(grid.height)]

    def reach(box, i, j):
        x, y = grid.x_min + (j + 0.5) * grid.cell, grid.y_min + (i + 0.5) * grid.cell
        u = (x - box[0]) * math.cos(box[4]) + (y - box[1]) * math.sin(box[4])
        v = -(x - box[0]) * math.sin(box[4]) + (y - box[1]) * math.cos(box[4])
        return max(abs(u) / (box[2] / 2), abs(v) / (box[3] / 2))

    claims = []
    for k, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        own = []
        for i in range(grid.height):
            for j in range(grid.width):
                r = reach(box, i, j)
                if r <= sigma2:
                    maps[i][j] = IGNORED
                if r <= sigma1 and label >= 0:
                    own.append((i, j))
        i, j = (math.floor((box[a] - low) / grid.cell) for a, low in ((1, grid.y_min), (0, grid.x_min)))
        if not own and label >= 0 and 0 <= i < grid.height and 0 <= j < grid.width:
            own.append((i, j))
        claims += [(box[2] * box[3], k, i, j) for i, j in own]
    for _, k, i, j in sorted(claims, reverse=True):
        maps[i][j], owners[i][j] = labels[k], k
    return torch.tensor(maps), torch.tensor(owners)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(BOX, st.integers(-1, 2)), max_size=4))
def test_assignment_equals_the_loop(objects):
    boxes = torch.tensor([b for b, _ in objects], dtype=torch.float64).reshape(-1, 5)
    labels = torch.tensor([k for _, k in objects], dtype=torch.int64)
    made = boundary_targets(boxes, labels, GRID)
    wanted, owners = loop_targets(boxes.tolist(), labels.tolist(), GRID)
    # Pixels on a border to within rounding may fall on either side.
    assert (made.labels != wanted).sum() <= 1
    assert ((made.owner != owners) & (made.labels == wanted)).sum() == 0
    assert (made.dist >= 0).all()
    assert made.dist[:, made.labels < 0].abs().sum() == 0


def test_area_of_a_car():
    grid = BevGrid(-5.0, -5.0, 0.1, height=100, width=100)
    made = boundary_targets(torch.tensor([[0.02, 0.03, 4.0, 1.8, 0.0]]), torch.tensor([0]), grid)
    positive = made.labels >= 0
    assert abs(int(positive.any(0).sum()) - 18) <= 1
    assert abs(int(positive.any(1).sum()) - 8.1) <= 1
    ignored = made.labels == IGNORED
    assert abs(int((ignored | positive).any(0).sum()) - 28) <= 1
    # The outer ring of the object is negative.
    assert made.labels[50, 30] == NEGATIVE
    assert made.labels[50, 50] == 0


def test_small_objects_overlaps_and_boxes_not_to_be_learnt():
    grid = BevGrid(0.0, 0.0, 0.4, height=20, width=20)
    boxes = torch.tensor(
        [
            [4.0, 4.0, 5.0, 3.0, 0.2],
            [4.1, 4.1, 0.8, 0.6, 1.0],
            [0.05, 0.05, 0.3, 0.3, 0.0],
            [7.0, 7.0, 1.5, 1.5, 0],
        ]
    )
    made = boundary_targets(boxes, torch.tensor([0, 1, 2, -1]), grid)
    # Every object has a pixel; the walker inside the car's box wins its own; the third one is at the border.
    assert [int((made.owner == k).sum()) >= 1 for k in range(4)] == [True, True, True, False]
    assert made.labels[10, 10] == 1
    assert made.labels[0, 0] == 2
    assert made.labels[17, 17] == IGNORED
    # A centre off the map: the part on the map still counts, and a small object beyond it has none.
    off = torch.tensor([[-0.5, 4.0, 4.0, 2.0, 0.0], [-0.5, 2.0, 0.5, 0.5, 0.0]])
    made = boundary_targets(off, torch.tensor([0, 0]), grid)
    assert (made.owner == 0).any()
    assert not (made.owner == 1).any()


@settings(max_examples=80, deadline=None)
@given(BOX, st.floats(-3, 3))
def test_decoding_returns_the_box_and_turns_with_the_scene(box, turn):
    tensor = torch.tensor([box], dtype=torch.float64)
    made = boundary_targets(tensor, torch.tensor([0]), GRID)
    decoded = decode_boundary(made.dist[None], made.heading[None], GRID)[0]
    inside = (made.labels >= 0) & (made.dist > 0).all(0)
    assert torch.allclose(decoded[inside], tensor.expand(int(inside.sum()), 5), atol=1e-9)
    # One cell, turned with its box about the origin.
    grid = BevGrid(2.0, 1.0, 0.4, 1, 2)
    dist = torch.tensor([1.0, 2.5, 0.7, 1.2], dtype=torch.float64).view(1, 4, 1, 1).expand(1, 4, 1, 2)
    theta = torch.full((1, 1, 2), box[4], dtype=torch.float64)
    first = decode_boundary(dist, theta, grid)[0, 0, 0]
    c, s = math.cos(turn), math.sin(turn)
    x, y = 2.2 * c - 1.2 * s, 2.2 * s + 1.2 * c
    moved = decode_boundary(dist, theta + turn, BevGrid(x - 0.2, y - 0.2, 0.4, 1, 2))[0, 0, 0]
    wanted = torch.tensor(
        [first[0] * c - first[1] * s, first[0] * s + first[1] * c, *first[2:4], first[4] + turn]
    )
    assert torch.allclose(moved, wanted.double(), atol=1e-9)


def test_axes_of_the_distances():
    """Left is the side of +v, front the side of +u; rows lie along y."""
    grid = BevGrid(0.0, 0.0, 1.0, height=9, width=9)
    made = boundary_targets(torch.tensor([[4.5, 4.5, 8.0, 4.0, math.pi / 2]]), torch.tensor([0]), grid)
    # The object looks along +y, that is to higher rows: its front is nearer at row 5.
    left, front, right, rear = made.dist[:, 5, 4].tolist()
    assert (round(front, 5), round(rear, 5), round(left, 5), round(right, 5)) == (3.0, 5.0, 2.0, 2.0)


@pytest.mark.parametrize(("angle_range", "period"), [("2pi", 2 * math.pi), ("pi", math.pi)])
@pytest.mark.parametrize("bins", [1, 5, 12])
def test_heading_round_trip(bins, angle_range, period):
    generator = torch.Generator().manual_seed(bins)
    angles = torch.rand(100_000, generator=generator, dtype=torch.float64) * 20 - 10
    index, residual = encode_heading(angles, bins, angle_range)
    assert index.min() == 0
    assert index.max() == bins - 1
    assert ((residual >= -1) & (residual <= 1)).all()
    back = decode_heading(index, residual, bins, angle_range)
    gap = (back - angles + period / 2).remainder(period) - period / 2
    assert gap.abs().max() < 1e-6
    low, high = (0.0, math.pi) if angle_range == "pi" else (-math.pi, math.pi)
    assert back.min() >= low
    assert back.max() <= high
    assert angle_range == "2pi" or back.max() < math.pi


def test_heading_bins_by_hand():
    """Bins of 30 degrees, the first centred at 0."""
    degrees = torch.tensor([0.0, 14.9, 15.1, 30.0, 345.1, 344.9, -180.0, 180.0])
    index, _ = encode_heading(torch.deg2rad(degrees))
    assert index.tolist() == [0, 0, 1, 1, 0, 11, 6, 6]
    assert decode_heading(torch.tensor([6]), torch.tensor([0.0])).item() == pytest.approx(math.pi)


def test_opposite_headings_have_equal_targets():
    boxes = torch.tensor([[2.0, 0.3, 4.2, 1.8, 0.7]], dtype=torch.float64)
    opposite = boxes + torch.tensor([0, 0, 0, 0, math.pi])
    one, two = (boundary_targets(b, torch.tensor([0]), GRID, angle_range="pi") for b in (boxes, opposite))
    assert torch.equal(one.labels, two.labels)
    assert torch.allclose(one.dist, two.dist, atol=1e-9)
    assert torch.allclose(one.heading, two.heading, atol=1e-9)
    # Without the fold, front and rear change places.
    plain = boundary_targets(opposite, torch.tensor([0]), GRID)
    assert torch.allclose(plain.dist[[2, 3, 0, 1]], one.dist, atol=1e-9)
    assert (plain.dist - one.dist).abs().max() > 0.5


def test_residuals_of_other_bins_have_no_gradient():
    residuals = torch.randn(6, 12, requires_grad=True)
    index, wanted = encode_heading(torch.linspace(-3, 3, 6))
    _, loss = heading_losses(torch.zeros(6, 12), residuals, index, wanted)
    loss.sum().backward()
    own = torch.zeros(6, 12, dtype=torch.bool).scatter(1, index[:, None], True)
    assert (residuals.grad[~own] == 0).all()
    assert (residuals.grad[own] != 0).any()


def test_bad_arguments_are_named():
    boxes, labels = torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64)
    for sigmas in ((0.0, 0.5), (0.7, 0.45), (0.5, 1.0)):
        with pytest.raises(ValueError, match="sigma1, sigma2: got"):
            boundary_targets(boxes, labels, GRID, *sigmas)
    with pytest.raises(ValueError, match=r"boxes: got shape \(1, 7\)"):
        boundary_targets(torch.zeros(1, 7), labels, GRID)
    with pytest.raises(ValueError, match="labels: got shape"):
        boundary_targets(boxes, torch.zeros(2, dtype=torch.int64), GRID)
    with pytest.raises(ValueError, match="angle_range: got 'tau'"):
        encode_heading(torch.zeros(1), 12, "tau")
    with pytest.raises(ValueError, match="dist: got shape"):
        decode_boundary(torch.zeros(1, 4, 3, 3), torch.zeros(1, 3, 3), GRID)
    with pytest.raises(ValueError, match="BevGrid: cell"):
        BevGrid(0.0, 0.0, 0.0, 1, 1)


def test_empty_frames_and_padding():
    made = boundary_targets(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), GRID)
    assert (made.labels == NEGATIVE).all()
    assert stack([made, made]).count == 1
    gt = torch.zeros(2, 3, 10)
    gt[1, 0] = torch.tensor([1, 2, 0, 4, 2, 1.5, 0.3, 5, 5, 2])
    boxes, labels = split_truth(gt)
    assert [len(b) for b in boxes] == [0, 1]
    assert boxes[1][0].tolist() == pytest.approx([1, 2, 4, 2, 0.3])
    assert labels[1].tolist() == [1]
