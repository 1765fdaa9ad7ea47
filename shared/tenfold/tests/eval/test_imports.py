import subprocess
import sys

from tenfold.testing import child_environment


def test_evaluation_loads_no_torch():
    code = "import sys, tenfold.eval.range_bins, tenfold.eval.nuscenes; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr
