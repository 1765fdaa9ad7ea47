"""The CUDA kernels on a GPU, against the CPU kernels: the calls that the emulator replays, on real streams.

Run by `nox -s gpu`. Without a GPU the tests are skipped, unless TENFOLD_GPU=1 asks for one.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tenfold
from tenfold import _native, ops

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import emulation
from cases import CASES
from gradients import GRADIENTS
from refusals import REFUSED

from tenfold.testing import kernels

CALLS = int(os.environ.get("TENFOLD_EMULATED_CALLS", "20"))
RECORD = os.environ.get("TENFOLD_GPU_RECORD")  # where the table in the docs is told what ran
# The device's library may differ in the last bit of an exponential, a logarithm or a square root.
INEXACT = dict.fromkeys(
    ("ttf_targets", "rotated_iou", "rotated_iou_backward", "box_iou", "pairs_iou_bev"), 1e-5
)

absent = not torch.cuda.is_available() or _native.cuda_status.path is None
if absent and os.environ.get("TENFOLD_GPU") == "1":
    raise RuntimeError(f"no GPU, or no CUDA kernels: {_native.cuda_status.reason}")
pytestmark = pytest.mark.skipif(absent, reason="no GPU, or no CUDA kernels here")


def moved(value, device):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)(moved(v, device) for v in value) if isinstance(value, list | tuple) else value


tally = emulation.Tally()


@pytest.fixture(scope="module", autouse=True)
def record():
    yield
    if RECORD:
        tally.save(Path(RECORD))


def run(call, name):
    op = getattr(torch.ops.tenfold, name).default
    args = moved(call.args, "cuda")
    result = op(*args)
    written = [a for a, s in zip(args, op._schema.arguments, strict=False) if s.is_write]
    return moved(tuple(written) if result is None else (result, *written) if written else result, "cpu")


def replay(calls):
    for call in calls:
        if call.error is not None:
            continue
        name = call.name.removeprefix("tenfold::")
        rtol = INEXACT.get(name, emulation.tolerance(name, call.result))
        with tally.call(name, 1):
            kernels.assert_same(run(call, name), call.result, rtol=rtol)


@pytest.mark.parametrize("name", CASES)
def test_drawn_calls(name):
    for seed in range(CALLS):
        call = CASES[name].make(np.random.default_rng(seed))
        with tenfold.validation("meta"), emulation.recorded() as calls:
            try:
                call()
            except (ValueError, TypeError):
                continue
        replay(calls)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    for seed in range(CALLS // 2):
        with emulation.recorded() as calls:
            GRADIENTS[name](np.random.default_rng(seed))
        replay(calls)


@pytest.mark.parametrize("call", REFUSED)
def test_full_validation_says_what_the_cpu_says(call):
    with tenfold.validation("full"), emulation.recorded() as calls, pytest.raises(ValueError):
        call()
    refused = calls[-1]
    with pytest.raises(RuntimeError) as error:
        run(refused, refused.name.removeprefix("tenfold::"))
    assert emulation.error_text(str(error.value)) == emulation.error_text(refused.error)


def test_work_goes_to_the_current_stream():
    """A producer that is late on a side stream is waited for, because the kernel follows it there."""
    boxes = torch.rand(2000, 2, device="cuda") * 50
    boxes = torch.cat([boxes, boxes + 3], 1)
    scores = torch.rand(2000, device="cuda")
    expected = ops.nms(boxes, scores, 0.5)
    side = torch.cuda.Stream()
    late = torch.zeros_like(boxes)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(boxes)
        assert torch.equal(ops.nms(late, scores, 0.5), expected)


GRID = ((0.5, 0.5, 1.0), (0.0, 0.0, 0.0, 4.0, 4.0, 4.0))
# The twins of fixed size, on numbers (500, 7) between 0 and 1: some results are cut, others filled up.
PADDED = {
    "batched_nms": lambda x: ops.batched_nms_padded(
        plane(x), x[:, 4], (4 * x[:, 5]).long(), 0.3, max_out=100
    ),
    "dynamic_voxelize": lambda x: ops.dynamic_voxelize_padded(4 * x, *GRID, 300),
    "nms": lambda x: ops.nms_padded(plane(x), x[:, 4], 0.3, max_out=450),
    "nms_rotated": lambda x: ops.nms_rotated_padded(solids(x), x[:, 0].contiguous(), 0.3, 100),
    "pairs_iou_bev": lambda x: ops.pairs_iou_bev_padded(solids(x), solids(x).flip(0), 0.3, 4000),
    "points_in_boxes": lambda x: ops.points_in_boxes_padded(20 * x[:, :3], solids(x)[:40], 9),
    "rulebook_strided": lambda x: [
        value
        for value in ops.rulebook_strided_padded((16 * x[:, :4]).int() // 8, (2, 2, 2), 2, 3, 9, padding=1)
        if isinstance(value, torch.Tensor)
    ],
    "voxelize": lambda x: ops.voxelize_padded(4 * x, *GRID, 3, 90),
}


def plane(x):
    return torch.cat([20 * x[:, :2], 20 * x[:, :2] + 3 * x[:, 2:4]], 1)


def solids(x):
    return torch.cat([20 * x[:, :3], 1 + 3 * x[:, 3:6], 6 * x[:, 6:]], 1)


@pytest.mark.parametrize("name", PADDED)
def test_graph_capture_of_padded_operators(name):
    """Captured once and replayed with other numbers, a twin of fixed size gives what a call gives."""
    numbers = torch.rand(500, 7, device="cuda")
    with tenfold.validation("meta"):
        PADDED[name](numbers)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = PADDED[name](numbers)
        numbers.copy_(torch.rand(500, 7, device="cuda"))
        graph.replay()
        kernels.assert_same(captured, PADDED[name](numbers))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_another_device_than_the_current_one():
    feats, index = torch.rand(100, 4), torch.randint(0, 9, (100,))
    expected = ops.scatter(feats, index, 9, "sum")
    result = ops.scatter(feats.to("cuda:1"), index.to("cuda:1"), 9, "sum")
    assert result.device == torch.device("cuda:1")
    assert torch.equal(result.cpu(), expected)
