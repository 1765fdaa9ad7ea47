import doctest
import importlib

import pytest

MODULES = (
    "kitti",
    "augment",
    "data",
    "custom",
    "frames",
    "tta",
    *(f"nuscenes.{m}" for m in ("classes", "submission", "tables")),
    *(f"simulator.{m}" for m in ("camera", "kitti_writer", "motion", "nuscenes_writer", "scan", "scene")),
    "simulator",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"tenfold.lidar.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
