"""One training step and one evaluation of every detector at KITTI size, in a process of its own: peak memory."""

import json
import subprocess
import sys

import pytest

from tenfold.testing import child_environment

_CHILD = """
import json, resource, sys, time
import numpy as np, torch
from tenfold.lidar import build_detector
from tenfold.lidar.simulator import KITTI_64, sample_scene, scan

name, options = sys.argv[1], json.loads(sys.argv[2])
frame = scan(sample_scene(3), KITTI_64)
ahead = np.abs(np.arctan2(frame.points[:, 1], frame.points[:, 0])) < np.pi / 4
points = torch.from_numpy(np.insert(frame.points[ahead], 0, 0, axis=1))
names = list(frame.names)
torch.manual_seed(0)
model = build_detector(name, **options)
known = [k for k, n in enumerate(names) if n in model.class_names and frame.boxes[k, 0] > 0]
labels = [model.class_names.index(names[k]) + 1 for k in known]
gt = torch.from_numpy(np.column_stack((frame.boxes[known], labels)).astype(np.float32))[None]
batch = {"points": points, "gt_boxes": gt, "batch_size": 1}
start = time.process_time()
losses = model(batch)
losses["loss"].backward()
step = time.process_time() - start
missing = [n for n, p in model.named_parameters() if p.grad is None]
with torch.inference_mode():
    found = model.eval()(batch)[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "peak": peak, "points": len(points), "objects": gt.shape[1], "missing": missing, "step": step,
    "finite": bool(torch.stack([v.float() for v in losses.values()]).isfinite().all()),
    "found": len(found["boxes"]),
}))
"""
MODELS = (
    ("second", {}),
    ("pointpillars", {}),
    ("pointrcnn", {}),
    ("pointrcnn", {"bin_loss": True}),
    ("parta2", {}),
    ("parta2", {"free": True}),
    ("pv_rcnn", {}),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), MODELS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain"
)
def test_a_step_fits_into_eight_gigabytes(name, options):
    run = subprocess.run(
        [sys.executable, "-c", _CHILD, name, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=600,
        env=child_environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    print(name, options, found)
    assert found["peak"] < 8e9
    assert found["points"] > 15_000
    assert found["objects"] > 0
    assert found["missing"] == []
    assert found["finite"]
