"""The open3d geometries, without a window."""

import sys

import numpy as np
import pytest

from tenfold._errors import MissingExtraError
from tenfold.testing.data import require
from tenfold.viz.viewer import scene_geometry, show_scene

BOXES = [[10.0, 2, -1, 4, 2, 1.5, 0.5], [5, -2, 0, 1, 1, 2, 0]]


def test_geometry_of_a_scene():
    require("open3d")
    points = np.random.default_rng(0).normal(size=(50, 5))
    cloud, *shapes = scene_geometry(points, BOXES, [0, 3])
    np.testing.assert_allclose(np.asarray(cloud.points), points[:, :3])
    colours = np.asarray(cloud.colors)
    assert colours.shape == (50, 3)
    assert 0 <= colours.min() < colours.max() <= 1
    assert len(shapes) == 2
    corners = np.asarray(shapes[0].points)[:8]
    np.testing.assert_allclose(corners.mean(axis=0), BOXES[0][:3], atol=1e-9)
    edges = np.asarray(shapes[0].lines)
    lengths = np.linalg.norm(corners[edges[:12, 0]] - corners[edges[:12, 1]], axis=1)
    assert sorted(lengths.round(6)) == [1.5] * 4 + [2.0] * 4 + [4.0] * 4
    nose = np.asarray(shapes[0].points)[9] - BOXES[0][:3]
    assert np.arctan2(nose[1], nose[0]) == pytest.approx(0.5)
    assert (np.asarray(shapes[0].colors)[0] != np.asarray(shapes[1].colors)[0]).any()
    assert len(scene_geometry(points)) == 1


def test_wrong_shapes_are_named():
    require("open3d")
    with pytest.raises(ValueError, match="points"):
        scene_geometry(np.zeros(3))
    with pytest.raises(ValueError, match="boxes"):
        scene_geometry(np.zeros((1, 3)), np.zeros((1, 9)))
    with pytest.raises(ValueError, match="labels"):
        scene_geometry(np.zeros((1, 3)), BOXES, [0])


def test_without_the_extra_the_pip_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tenfold\[viz3d\]"'):
        show_scene(np.zeros((1, 3)))
