"""Every CUDA kernel under emulation, against the CPU kernel: the calls that fuzzing draws, gradients included.

`nox -s cuda` runs this with 12 calls an operator and 10 orders each; building takes about a minute, so the tests that
everybody runs leave it out. Integers, copies and sums of a fixed order must have the CPU kernel's bits.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tenfold
from tenfold import ops
from tenfold.ops import _library

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import emulation
from cases import CASES
from gradients import GRADIENTS

CALLS = int(os.environ.get("TENFOLD_EMULATED_CALLS", "12"))
RECORD = os.environ.get("TENFOLD_EMULATED_RECORD")  # where the table in the docs is told what ran

# Float sums whose products may be fused, and transcendental functions: the rest must have the same bits.
TOLERANCE = {"sparse_conv": 1e-4, "sparse_conv_weight": 1e-3}
TOLERANCE |= {"bias_act": 1e-5, "bias_act_gate": 1e-5, "upfirdn2d": 1e-3}
TOLERANCE |= {"filtered_lrelu": 1e-3, "filtered_lrelu_gate": 1e-3}

reason = emulation.why_not()
if reason is None and os.environ.get("TENFOLD_EMULATED") != "1":
    reason = "run by `nox -s cuda`, which builds the emulated library first"
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")

ran: dict[str, dict[str, int]] = {}


@pytest.fixture(scope="module")
def emulator():
    yield emulation.emulator()
    if RECORD:
        Path(RECORD).write_text(
            json.dumps({"orders": emulation.ORDERS, "operators": dict(sorted(ran.items()))}, indent=1)
        )


def replay(emulator, calls, orders=None):
    for call in calls:
        name = call.name.removeprefix("tenfold::")
        assert emulator.has(name), f"{name} has no CUDA kernel"
        emulator.replay(call, TOLERANCE.get(name), orders or emulation.ORDERS)
        entry = ran.setdefault(name, {"calls": 0, "runs": 0})
        entry["calls"] += 1
        entry["runs"] += orders or emulation.ORDERS


@pytest.mark.parametrize("name", CASES)
def test_drawn_calls(emulator, name):
    for seed in range(CALLS):
        call = CASES[name].make(np.random.default_rng(seed))
        with tenfold.validation("meta"), emulation.recorded() as calls:
            try:
                call()
            except (ValueError, TypeError):
                continue
        try:
            replay(emulator, calls)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {error}") from error


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(emulator, name):
    for seed in range(CALLS // 2):
        with emulation.recorded() as calls:
            GRADIENTS[name](np.random.default_rng(seed))
        assert any("backward" in c.name for c in calls)
        replay(emulator, calls)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, torch.nan, 1]]), torch.rand(2), 0.5),
        lambda: ops.nms(torch.tensor([[0.0, 0, 1, 1], [1, 0, 0, 1]]), torch.rand(2), 0.5),
        lambda: ops.nms_rotated(torch.full((1, 5), torch.inf), torch.rand(1), 0.5),
        lambda: ops.ball_query(torch.full((2, 3), torch.nan), torch.rand(1, 3), 1.0, 2),
        lambda: ops.knn(torch.rand(2, 3), torch.full((2, 3), torch.inf), 1),
        lambda: ops.farthest_point_sample(torch.full((3, 3), torch.nan), 2),
        lambda: ops.voxelize(torch.full((2, 3), torch.nan), (1, 1, 1), (0, 0, 0, 4, 4, 4), 2, 9),
        lambda: ops.scatter(torch.rand(3, 2), torch.tensor([0, 5, 1]), 2),
        lambda: ops.group(torch.rand(3, 2), torch.tensor([[0, 3]]), torch.ones(1, dtype=torch.int32)),
        lambda: ops.points_in_boxes(torch.rand(2, 3), torch.full((1, 7), torch.nan)),
        lambda: ops.box_iou_bev(torch.rand(1, 7), torch.full((2, 7), torch.nan)),
        lambda: ops.rulebook_submanifold(torch.zeros(2, 4, dtype=torch.int32), (3, 3, 3), 1, 3),
        lambda: ops.VoxelTable(torch.zeros(2, 4, dtype=torch.int32)),
        lambda: ops.bilinear_sample(torch.rand(1, 1, 2, 2), torch.full((1, 1, 2), torch.nan)),
    ],
)
def test_full_validation_says_what_the_cpu_says(emulator, call):
    with tenfold.validation("full"), emulation.recorded() as calls, pytest.raises(ValueError):
        call()
    assert calls[-1].error is not None
    replay(emulator, calls, orders=2)


def test_batches_and_large_sizes(emulator):
    """More than one tile of a scan, a sort and a suppression; padded and stacked batches."""
    rng = np.random.default_rng(3)
    xyz = torch.from_numpy(rng.uniform(-3, 3, (2, 700, 3)).astype(np.float32))
    lengths, offsets = torch.tensor([700, 311]), torch.tensor([0, 500, 500, 1400])
    boxes = torch.from_numpy(rng.uniform(0, 80, (2200, 2)).astype(np.float32))
    boxes = torch.cat([boxes, boxes + torch.from_numpy(rng.uniform(1, 9, (2200, 2)).astype(np.float32))], 1)
    flat = xyz.reshape(-1, 3)
    with emulation.recorded() as calls:
        ops.ball_query(xyz, xyz[:, :40], 0.8, 8, lengths=lengths)
        ops.ball_query(
            flat, flat[::40].contiguous(), 0.8, 8, offsets=offsets, center_offsets=torch.tensor([0, 9, 9, 35])
        )
        ops.knn(xyz, xyz[:, :40], 5, lengths=lengths)
        ops.farthest_point_sample(xyz, 20, lengths=lengths)
        ops.voxelize(flat, (0.5, 0.5, 1.0), (-3, -3, -3, 3, 3, 3), 3, 100, offsets=offsets)
        ops.voxelize_padded(flat, (0.5, 0.5, 1.0), (-3, -3, -3, 3, 3, 3), 3, 100, offsets=offsets, mean=True)
        ops.dynamic_voxelize(flat, (0.5, 0.5, 1.0), (-3, -3, -3, 3, 3, 3), offsets=offsets)
        ops.nms(boxes, torch.from_numpy(rng.random(2200).astype(np.float32)), 0.3)
        ops.nms_padded(boxes[:300], torch.from_numpy(rng.random(300).astype(np.float32)), 0.3, max_out=50)
    replay(emulator, calls, orders=2)


def test_every_operator_has_a_kernel(emulator):
    missing = {str(op._schema).split("(")[0].removeprefix("tenfold::") for op in _library._references}
    assert {name for name in missing if not emulator.has(name)} == set()
