"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import tenfold

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Rooms in which every one of these modules shows how it is used: a test over nothing would pass.
SHOWN = {
    "eval": ("_kitti_records", "_nuscenes_records", "kitti", "nuscenes", "range_bins", "voc3d"),
    "geometry": ("boxes", "calibration", "coders", "convert"),
    "host": ("_greedy", "_grouping", "_iou", "_points", "_precision"),
    "lidar": (
        *("augment", "custom", "data", "frames", "kitti", "tta"),
        *("nuscenes.classes", "nuscenes.submission", "nuscenes.tables"),
        *("simulator", "simulator.camera", "simulator.kitti_writer", "simulator.motion"),
        *("simulator.nuscenes_writer", "simulator.scan", "simulator.scene"),
    ),
}


def modules():
    skipped = ("tenfold._tenfold", "tenfold._libtenfold")
    for info in pkgutil.walk_packages(tenfold.__path__, "tenfold."):
        if not info.name.startswith(skipped):
            yield info.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0
    room, _, part = name.removeprefix("tenfold.").partition(".")
    assert result.attempted or part not in SHOWN.get(room, ())


def test_a_wrong_example_is_caught():
    finder = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    assert runner.run(finder, out=lambda _: None).failed == 1
