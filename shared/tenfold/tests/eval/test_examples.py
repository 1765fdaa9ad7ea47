import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tenfold
from tenfold.eval import _kitti_records, _nuscenes_records, kitti, nuscenes, range_bins, voc3d


@pytest.mark.parametrize(
    "module",
    [_kitti_records, kitti, range_bins, _nuscenes_records, nuscenes, voc3d],
    ids=lambda m: m.__name__,
)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_evaluation_loads_no_torch():
    code = "import sys, tenfold.eval.range_bins, tenfold.eval.nuscenes; print('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
