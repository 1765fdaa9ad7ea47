"""Every CUDA kernel under emulation, against the CPU kernel: the calls that fuzzing draws, gradients included.

`nox -s cuda` runs this with 12 calls an operator and 10 orders each; building takes about a minute, so the tests that
everybody runs leave it out. Integers, copies and sums of a fixed order must have the CPU kernel's bits.
"""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tenfold
from devices.workloads import WORKLOADS
from tenfold import ops
from tenfold.ops import _library
from tenfold.testing import kernels

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ops"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import emulation
from cases import CASES
from gradients import GRADIENTS
from refusals import REFUSED

CALLS = int(os.environ.get("TENFOLD_EMULATED_CALLS", "12"))
RECORD = os.environ.get("TENFOLD_EMULATED_RECORD")  # where the table in the docs is told what ran

reason = emulation.why_not()
if reason is None and os.environ.get("TENFOLD_EMULATED") != "1":
    reason = "run by `nox -s cuda`, which builds the emulated library first"
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")

tally = emulation.Tally()
launches: dict[str, int] = {}


@pytest.fixture(scope="module")
def emulator():
    yield emulation.emulator()
    if RECORD:
        tally.save(Path(RECORD), launches=launches)


def replay(emulator, calls, orders=emulation.ORDERS):
    for call in calls:
        name = call.name.removeprefix("tenfold::")
        assert emulator.has(name), f"{name} has no CUDA kernel"
        with tally.call(name, orders):
            emulator.replay(call, orders)


@pytest.mark.parametrize("name", CASES)
def test_drawn_calls(emulator, name):
    some = False
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
        some = some or len(calls) > 0
    assert some, f"{name}: every drawn call is refused"


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(emulator, name):
    for seed in range(CALLS // 2):
        with emulation.recorded() as calls:
            GRADIENTS[name](np.random.default_rng(seed))
        assert any(
            c.name.endswith(("_backward", "_gate")) or c.name == "tenfold::upfirdn2d" for c in calls[1:]
        )
        replay(emulator, calls)


@pytest.mark.parametrize("call", REFUSED)
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


def test_forms_that_no_case_draws(emulator):
    rng = np.random.default_rng(4)
    xyz = torch.from_numpy(rng.uniform(-2, 2, (150, 3)).astype(np.float32))
    boxes = torch.from_numpy(rng.uniform(0.5, 3, (40, 7)).astype(np.float32))
    scores = torch.from_numpy(rng.random(40).astype(np.float32))
    cells = ((0.5, 0.5, 1.0), (-2, -2, -2, 2, 2, 2), 3, 100)
    with emulation.recorded() as calls:
        ops.ball_query_multi(xyz, xyz[:30], (0.4, 0.9), (4, 16))
        ops.nms_rotated_padded(boxes, scores, 0.3, 12)
        ops.points_in_boxes_padded(xyz, boxes, 9)
        ops.topk_peaks(torch.tensor([[[[0.1, 0.3, 0.2]]]]), 3, kernel=1, threshold=0.1)
        ops.voxelize(xyz, *cells, out=ops.voxelize(xyz, *cells))
    names = {call.name.removeprefix("tenfold::") for call in calls}
    assert names >= {"ball_query_multi", "nms_rotated_padded", "points_in_boxes_padded", "voxelize_out"}
    replay(emulator, calls)


# Each on a few boxes, points or sites: the twin of fixed size, and the plain form, which must read a size.
def _padded_twins():
    rng = np.random.default_rng(5)
    xyz = torch.from_numpy(rng.uniform(0, 4, (120, 3)).astype(np.float32))
    boxes = torch.from_numpy(rng.uniform(0.5, 3, (40, 7)).astype(np.float32))
    scores, labels = (
        torch.from_numpy(rng.random(40).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 3, 40)),
    )
    plane = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], 1)
    cells = ((0.5, 0.5, 1.0), (0, 0, 0, 4, 4, 4))
    coords = torch.from_numpy(np.argwhere(rng.random((1, 4, 5, 6)) < 0.3).astype(np.int32))
    book = (coords, (4, 5, 6), 1, 3)
    return {
        "batched_nms": (
            lambda: ops.batched_nms_padded(plane, scores, labels, 0.3, max_out=12),
            lambda: ops.batched_nms(plane, scores, labels, 0.3),
        ),
        "dynamic_voxelize": (
            lambda: ops.dynamic_voxelize_padded(xyz, *cells, 50),
            lambda: ops.dynamic_voxelize(xyz, *cells),
        ),
        "nms": (lambda: ops.nms_padded(plane, scores, 0.3, max_out=12), lambda: ops.nms(plane, scores, 0.3)),
        "nms_rotated": (
            lambda: ops.nms_rotated_padded(boxes, scores, 0.3, 12),
            lambda: ops.nms_rotated(boxes, scores, 0.3),
        ),
        "pairs_iou_bev": (
            lambda: ops.pairs_iou_bev_padded(boxes, boxes, 0.3, 50)[:3],
            lambda: ops.pairs_iou_bev(boxes, boxes, 0.3),
        ),
        "points_in_boxes": (
            lambda: ops.points_in_boxes_padded(xyz, boxes, 9),
            lambda: ops.points_in_boxes(xyz, boxes, mode="csr"),
        ),
        "rulebook_strided": (
            lambda: ops.rulebook_strided_padded(*book, 70, stride=2)[:2],
            lambda: ops.rulebook_strided(*book, stride=2)[:2],
        ),
        "voxelize": (
            lambda: ops.voxelize_padded(xyz, *cells, 3, 50),
            lambda: ops.voxelize(xyz, *cells, 3, 50),
        ),
    }


@pytest.mark.parametrize("name", _padded_twins())
def test_padded_twins_copy_nothing_between_host_and_device(emulator, name):
    """What a captured CUDA graph needs: no size is read back, and no list of the host is uploaded."""
    copies = []
    for call in _padded_twins()[name]:
        with tenfold.validation("meta"):
            before = emulator.native.tenfold_emu_host_copies()
            with emulation.rerouted():
                call()
        copies.append(emulator.native.tenfold_emu_host_copies() - before)
    assert copies[0] == 0
    assert copies[1] > 0


# Modules of tests/ops whose checks take the implementation.
ORACLES = {
    "bias_act": ("test_bias_act", ops.bias_act),
    "filtered_lrelu": ("test_filtered_lrelu", ops.filtered_lrelu),
    "upfirdn2d": ("test_upfirdn2d", ops.upfirdn2d),
}


@pytest.mark.parametrize("name", ORACLES)
def test_filters_against_what_the_cpu_kernels_are_checked_with(emulator, name):
    """scipy, torch and closed forms: sums that may differ from the CPU kernel's in the last bits have no exact twin."""
    module, op = ORACLES[name]
    for check in importlib.import_module(module).CHECKS:
        for seed in range(min(3, emulation.ORDERS)):
            with emulation.rerouted(seed):
                check(op)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_workloads_at_full_size(emulator, workload):
    """The calls whose times are predicted, in one order; their launches are what the prediction counts."""
    call = workload.make(torch.device("cpu"))
    with torch.no_grad():
        expected = call()
        before = emulator.native.tenfold_emu_launches()
        with emulation.rerouted(seed=2):
            result = call()
    launches[workload.name] = emulator.native.tenfold_emu_launches() - before
    kernels.assert_same(result, expected, rtol=workload.rtol)


def test_every_operator_has_a_kernel(emulator):
    missing = {str(op._schema).split("(")[0].removeprefix("tenfold::") for op in _library._references}
    assert {name for name in missing if not emulator.has(name)} == set()
