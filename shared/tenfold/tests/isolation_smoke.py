"""What a newcomer does with the wheel alone: run by `nox -s isolation` in an environment without our sources."""

import subprocess
import sys
import time

start = time.perf_counter()
import torch  # noqa: E402

torch_seconds = time.perf_counter() - start
start = time.perf_counter()
import tenfold  # noqa: E402
from tenfold import ops, ref  # noqa: E402

own_seconds = time.perf_counter() - start
print(tenfold.show_config())
print(f"import: torch {torch_seconds:.2f} s, tenfold.ops {1000 * own_seconds:.0f} ms on top")
assert own_seconds < 1.5

boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
scores = torch.tensor([0.9, 0.8, 0.7])
assert ops.nms(boxes, scores, 0.5).tolist() == ref.nms(boxes, scores, 0.5).tolist() == [0, 2]
grid = ops.voxelize(torch.rand(5000, 4) * 40, (1, 1, 1), (0, 0, 0, 40, 40, 40), 5, 2000)
assert int(grid.num_points.sum() + grid.dropped.sum()) == 5000

for module in ("lightning", "matplotlib", "open3d", "torchvision", "scipy"):
    assert module not in sys.modules, module

# The console script answers without any extra; what needs one says how to get it, with exit code 4.
done = subprocess.run(
    [sys.executable, "-m", "tenfold", "--help"], capture_output=True, text=True, check=False
)
assert done.returncode in (0, 4), done.stderr
print((done.stdout or done.stderr).splitlines()[0])
