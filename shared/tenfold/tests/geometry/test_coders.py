import math

import pytest
import torch

from tenfold.geometry import (
    AxisBinCoder,
    HeadingBinCoder,
    PointResidualCoder,
    ResidualCoder,
    apply_direction,
    direction_bin,
    wrap_angle,
)

HEADINGS = torch.linspace(-3 * math.pi, 3 * math.pi, 721, dtype=torch.float64)


def draw(n, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, columns, generator=generator, dtype=torch.float64) * 20 - 10
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.2
    return boxes


def assert_same_angle(a, b, tolerance=1e-9):
    assert (wrap_angle(a - b).abs() < tolerance).all()


@pytest.mark.parametrize("angle", ["residual", "sincos"])
@pytest.mark.parametrize("velocity", [False, True])
def test_residual_round_trip(angle, velocity):
    coder = ResidualCoder(angle, velocity)
    boxes, anchors = draw(200, 9 if velocity else 7), draw(200, 7, 1)
    codes = coder.encode(boxes, anchors)
    assert codes.shape == (200, coder.code_size)
    again = coder.decode(codes, anchors)
    keep = [i for i in range(boxes.shape[1]) if i != 6]
    torch.testing.assert_close(again[:, keep], boxes[:, keep])
    assert_same_angle(again[:, 6], boxes[:, 6])


def test_residual_code_of_a_worked_example():
    anchor = torch.tensor([[0.0, 0, 0, 3, 4, 2, 0.1]], dtype=torch.float64)
    box = torch.tensor([[5.0, -10, 1, 6, 4, 1, 0.4]], dtype=torch.float64)
    expected = torch.tensor([[1.0, -2, 0.5, math.log(2), 0, -math.log(2), 0.3]], dtype=torch.float64)
    torch.testing.assert_close(ResidualCoder().encode(box, anchor), expected)


def test_residual_survives_zero_extents():
    codes = ResidualCoder().encode(torch.zeros(1, 7), torch.zeros(1, 7))
    assert torch.isfinite(codes).all()


def test_direction_bins_restore_every_heading():
    # A detector regresses the heading modulo pi; the direction class restores the rest.
    for offset in (0.0, math.pi / 4, 0.78539):
        # On the very border of two bins rounding decides, and no direction class can help.
        headings = HEADINGS[wrap_angle(HEADINGS - offset, 0.5, math.pi).abs() > 1e-6]
        bins = direction_bin(headings, offset)
        assert set(bins.tolist()) == {0, 1}
        for known in (headings, headings + math.pi, headings - math.pi):
            assert_same_angle(apply_direction(known, bins, offset), headings)


def test_point_residual_round_trip():
    coder = PointResidualCoder(((3.9, 1.6, 1.56), (0.8, 0.6, 1.73)))
    boxes, points = draw(100, 7), draw(100, 7, 2)[:, :3]
    labels = torch.arange(100) % 2
    again = coder.decode(coder.encode(boxes, points, labels), points, labels)
    torch.testing.assert_close(again[:, :6], boxes[:, :6])
    assert_same_angle(again[:, 6], boxes[:, 6])


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("bins", [1, 4, 12])
def test_heading_bins_round_trip(bins, normalised):
    coder = HeadingBinCoder(bins, normalised=normalised)
    index, residual = coder.encode(HEADINGS)
    assert index.min() >= 0
    assert index.max() == bins - 1
    limit = 1 if normalised else math.pi / bins
    assert (residual.abs() <= limit + 1e-9).all()
    assert_same_angle(coder.decode(index, residual), HEADINGS)


def test_first_heading_bin_is_centred_on_zero():
    index, residual = HeadingBinCoder(12).encode(torch.tensor([0.0, 0.2, -0.2]))
    assert index.tolist() == [0, 0, 0]
    assert residual[0] == pytest.approx(0, abs=1e-6)


def test_heading_window_holds_headings_modulo_pi_and_clamps_the_rest():
    coder = HeadingBinCoder(9, math.pi / 2)
    inside = torch.linspace(-0.78, 0.78, 101, dtype=torch.float64)
    for shift in (0.0, math.pi):
        assert_same_angle(coder.decode(*coder.encode(inside + shift)), inside)
    outside = coder.decode(*coder.encode(torch.tensor([1.2], dtype=torch.float64)))
    assert outside.item() == pytest.approx(math.pi / 4)


@pytest.mark.parametrize(("extent", "size", "bins"), [(3.0, 0.5, 12), (1.5, 0.5, 6)])
def test_axis_bins_round_trip(extent, size, bins):
    coder = AxisBinCoder(extent, size)
    assert coder.bins == bins
    offsets = torch.linspace(-extent, extent - 1e-3, 301, dtype=torch.float64)
    index, residual = coder.encode(offsets)
    assert (residual.abs() <= 0.5 + 1e-9).all()
    torch.testing.assert_close(coder.decode(index, residual), offsets)
    far = coder.decode(*coder.encode(torch.tensor([-99.0, 99.0])))
    assert far.tolist() == pytest.approx([-extent, extent], abs=2e-3)


def test_wrong_input_names_the_argument():
    with pytest.raises(ValueError, match=r"ResidualCoder.encode: boxes"):
        ResidualCoder().encode(torch.zeros(1, 9), torch.zeros(1, 7))
    with pytest.raises(ValueError, match="angle"):
        ResidualCoder("degrees")
    with pytest.raises(ValueError, match="bins"):
        HeadingBinCoder(0)
    with pytest.raises(ValueError, match="span"):
        HeadingBinCoder(4, 7.0)
