import io

import numpy as np
import pytest
from PIL import Image

from tenfold.viz import (
    bev_image,
    class_colour,
    draw_boxes_2d,
    draw_boxes_3d,
    draw_points,
    encode_image,
    ramp,
    range_image,
)

BACK = np.zeros((120, 160, 3), np.uint8)
# Camera at the origin looking along +x, principal point (80, 60), focal length 100.
VIEW = np.array([[80.0, -100, 0, 0], [60, 0, -100, 0], [1, 0, 0, 0]])


def coloured(image, back=BACK):
    rows, columns = np.nonzero((image != back).any(axis=2))
    return rows, columns


def oklab_lightness(rgb):
    """Lightness from the published forward transform, written apart from the module's inverse one."""
    c = rgb / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    return np.cbrt(linear @ lms.T) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])


def test_ramp_lightness_rises_and_ends_are_where_asked():
    lightness = oklab_lightness(ramp(np.linspace(0, 1, 64)).astype(float))
    assert (np.diff(lightness) > -0.004).all()
    assert lightness[-1] - lightness[0] > 0.45
    np.testing.assert_array_equal(ramp([-5.0, 0.0], 0, 1)[0], ramp([-5.0, 0.0], 0, 1)[1])
    np.testing.assert_array_equal(ramp([np.nan, 1.0, 2.0])[0], [128] * 3)
    assert ramp(np.zeros((0,))).shape == (0, 3)
    assert ramp([np.nan]).tolist() == [[128] * 3]


def test_class_colours_differ_from_each_other():
    colours = np.array([class_colour(i) for i in range(10)], float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1000 * np.eye(10)
    assert distance.min() > 25


def test_bev_places_a_point_forward_up_and_left_left():
    image = bev_image([[9.05, 7.05, 0.0]], range=(0, -10, 10, 10), resolution=0.1, grid=1000, point_size=1)
    empty = bev_image(np.zeros((0, 3)), range=(0, -10, 10, 10), resolution=0.1, grid=1000)
    assert image.shape == (100, 200, 3)
    rows, columns = coloured(image, empty)
    assert (rows.tolist(), columns.tolist()) == ([9], [29])


def test_bev_highest_point_wins_whatever_the_order():
    cloud = np.array([[5.0, 0, 0], [5.0, 0, 2], [1.0, 1, 1]])
    kwargs = {"range": (0, -5, 10, 5), "resolution": 0.5}
    np.testing.assert_array_equal(bev_image(cloud, **kwargs), bev_image(cloud[::-1], **kwargs))


def test_bev_box_outline_and_heading_mark():
    kwargs = {"range": (-10, -10, 10, 10), "resolution": 0.1, "grid": 1000}
    empty = bev_image(np.zeros((0, 3)), **kwargs)
    image = bev_image(np.zeros((0, 3)), [[0, 0, 0, 8, 2, 1, np.pi / 2]], **kwargs)
    rows, columns = coloured(image, empty)
    # dx = 8 lies along y (columns) after a quarter turn, and the mark sticks out to the left (+y).
    assert abs(rows.min() - 90) <= 2
    assert abs(rows.max() - 110) <= 2
    assert abs(columns.max() - 140) <= 2
    assert abs(columns.min() - 50) <= 2


def test_bev_survives_non_finite_and_outside_input():
    cloud = np.array([[np.nan, 0, 0, 1], [1e30, 0, 0, 1], [5, 0, 0, np.inf], [5, 1, 0, 1]])
    boxes = [[np.nan] * 7, [1e4, 0, 0, 4, 2, 1, 0], [5, 0, 0, 4, 2, 1, 0]]
    image = bev_image(
        cloud,
        boxes,
        [0, 1, 2],
        [0.1, 0.2, 0.3],
        range=(0, -5, 10, 5),
        colour_by="intensity",
        class_names=["a", "b", "c"],
        reference=[[4, 0, 0, 4, 2, 1, 0]],
    )
    assert image.shape == (100, 100, 3)


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"boxes": np.zeros((2, 9))}, "boxes"),
        ({"boxes": np.zeros((2, 7)), "labels": [0]}, "labels"),
        ({"range": (0, 0, 1)}, "range"),
        ({"range": (0, 0, 0, 1)}, "range"),
        ({"resolution": 0.0}, "resolution"),
        ({"resolution": 1e-6}, "resolution"),
        ({"colour_by": "smell"}, "colour_by"),
        ({"colour_by": "intensity"}, "intensity"),
        ({"colour_by": [1.0, 2.0, 3.0]}, "colour_by"),
        ({"points": np.zeros((3, 2))}, "points"),
    ],
)
def test_bev_names_the_wrong_argument(kwargs, word):
    given = {"points": np.zeros((1, 3)), "range": (0, 0, 10, 10), **kwargs}
    with pytest.raises(ValueError, match=word):
        bev_image(**given)


def test_boxes_2d_leave_the_inside_and_the_input_alone():
    image = BACK.copy()
    out = draw_boxes_2d(image, [[20, 30, 100, 90], [np.nan, 0, 1, 1], [-1e9, -1e9, 1e9, 1e9]], line_width=2)
    rows, columns = coloured(out)
    assert not image.any()
    assert abs(rows.min() - 30) <= 2
    assert abs(columns.max() - 100) <= 2
    assert not out[40:80, 30:90].any()
    with pytest.raises(TypeError, match="uint8"):
        draw_boxes_2d(BACK.astype(float), [])


def test_boxes_3d_land_where_the_projection_says():
    box = [[10, 0, 0, 2, 4, 2, 0]]  # front face at x = 9, rear at 11 when the heading points away
    rows, columns = coloured(draw_boxes_3d(BACK, box, VIEW, line_width=1))
    # The nearest side (x = 9) spans y = +-2 and z = +-1: u = 80 -+ 100 * 2 / 9, v = 60 -+ 100 / 9.
    assert abs(columns.min() - (80 - 200 / 9)) <= 1.5
    assert abs(columns.max() - (80 + 200 / 9)) <= 1.5
    assert abs(rows.min() - (60 - 100 / 9)) <= 1.5


def test_boxes_3d_clip_at_the_near_plane():
    behind = draw_boxes_3d(BACK, [[-10, 0, 0, 4, 2, 2, 0]], VIEW, [0], class_names=["car"])
    np.testing.assert_array_equal(behind, BACK)
    around = draw_boxes_3d(BACK, [[0, 0, 0, 8, 2, 2, 0.0]], VIEW)
    rows, columns = coloured(around)
    # The far side x = 4, y = +-1 is seen; its edges towards the camera leave at the top and bottom.
    assert around[60 - 25 : 60 + 25, 80 - 25].any()
    assert (rows.min(), rows.max()) == (0, 119)
    # Mirror-symmetric scene, symmetric picture up to rounding of the lines.
    assert abs(int((columns < 80).sum()) - int((columns >= 80).sum())) < 0.1 * len(columns)


def test_points_on_image_near_over_far():
    out = draw_points(BACK, [[20.0, 0, 0], [5.0, 0, 0], [-5.0, 0, 0], [np.nan, 0, 0]], VIEW, size=1)
    rows, columns = coloured(out)
    assert (rows.tolist(), columns.tolist()) == ([60], [80])
    np.testing.assert_array_equal(out[60, 80], ramp([0.0, 1.0])[0])


def test_range_image_directions():
    image = range_image([[10.0, 0, 0]], rows=10, columns=100, elevation=(-10, 10))
    back = range_image(np.zeros((0, 3)), rows=10, columns=100, elevation=(-10, 10))
    assert coloured(image, back)[1].tolist() == [50]
    left = range_image([[0.0, 10, 0]], rows=10, columns=100, elevation=(-10, 10))
    assert coloured(left, back)[1].tolist() == [25]
    high = range_image([[10.0, 0, 1.7]], rows=10, columns=100, elevation=(-10, 10))
    assert coloured(high, back)[0].tolist() == [0]


def test_encode_round_trip():
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_image(image)))), image)
    assert encode_image(image, "JPEG")[:2] == b"\xff\xd8"
    with pytest.raises(ValueError, match="file_format"):
        encode_image(image, "GIF")
