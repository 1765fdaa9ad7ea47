"""HSV of frames: OpenCV bit for bit, the definition in NumPy, and checked arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold import host
from tenfold.testing import require

pytestmark = pytest.mark.usefixtures("binding")


def definition(rgb):
    """Fixed point with 12 binary digits, whole arrays at a time."""
    red, green, blue = (rgb[..., k].astype(np.int64) for k in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    with np.errstate(divide="ignore"):
        by_value = np.where(value > 0, np.rint((255 << 12) / np.maximum(value, 1)), 0).astype(np.int64)
        by_spread = np.where(spread > 0, np.rint((180 << 12) / (6 * np.maximum(spread, 1))), 0).astype(
            np.int64
        )
    first, second = green - blue, blue - red + 2 * spread
    sector = np.where(value == red, first, np.where(value == green, second, red - green + 4 * spread))
    hue = (sector * by_spread + 2048) >> 12
    return np.stack((hue + 180 * (hue < 0), (spread * by_value + 2048) >> 12, value), -1).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
def test_equals_the_definition(seed, height, width, stride):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    rgb[rng.random((height, width)) < 0.3] //= 64  # dark pixels and greys
    wanted = definition(rgb[::stride, ::stride])
    hsv, change = host.hsv_change(rgb, stride=stride)
    np.testing.assert_array_equal(hsv, wanted)
    assert change == 0
    other = rng.integers(0, 256, wanted.shape).astype(np.uint8)
    again, change = host.hsv_change(rgb, other, stride=stride)
    np.testing.assert_array_equal(again, wanted)
    mean = np.abs(wanted.astype(int) - other).mean() if wanted.size else 0.0
    assert change == pytest.approx(mean)


def test_equals_opencv_on_all_colours_of_a_grid():
    cv2 = require("cv2")
    levels = np.append(np.arange(0, 256, 5), (1, 2, 3, 254)).astype(np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(len(levels), -1, 3)
    np.testing.assert_array_equal(host.hsv_change(rgb)[0], cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: host.hsv_change(np.zeros((2, 2, 4), np.uint8)), ValueError, r"rgb: got shape \(2, 2, 4\)"),
        (lambda: host.hsv_change(np.zeros((2, 2, 3))), TypeError, "rgb: got float64"),
        (lambda: host.hsv_change(np.zeros((2, 2, 3), np.uint8), stride=0), ValueError, "stride: got 0"),
        (
            lambda: host.hsv_change(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), stride=2),
            ValueError,
            r"before: got shape \(4, 4, 3\); expected \(2, 2, 3\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
