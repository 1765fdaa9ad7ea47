"""The workloads on a GPU: results against the CPU kernels, times against the predictions."""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

import torch

from devices.workloads import WORKLOADS, Workload
from tenfold import _native
from tenfold.io import write_json
from tenfold.testing import kernels

RECORD = Path(__file__).resolve().parents[1] / "results" / "cuda-hardware.json"


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    return tuple(_to_cpu(v) for v in value)


def _microseconds(call: Any, rounds: int = 30) -> float:
    for _ in range(5):
        call()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def _row(workload: Workload) -> dict[str, Any]:
    device = torch.device("cuda")
    call = workload.make(device)
    difference = None
    try:
        kernels.assert_same(_to_cpu(call()), workload.make(torch.device("cpu"))(), rtol=workload.rtol)
    except AssertionError as error:
        difference = str(error)
    row: dict[str, Any] = {
        "workload": workload.name,
        "operators": list(workload.operators),
        "differs": difference,
    }
    if difference is None:  # a wrong result has no time
        row["microseconds"] = _microseconds(call)
        row["fraction"] = workload.floor / row["microseconds"]
    return row


def run(calls: Path | None, sanitizers: list[str]) -> dict[str, Any]:
    """Run every workload on the first GPU and return the record.

    Args:
        calls: what `tests/cuda/test_gpu.py` wrote: the calls of each test that agreed with the CPU kernel.
        sanitizers: the tools of compute-sanitizer under which those tests passed.

    Raises:
        RuntimeError: no GPU, or no CUDA kernels.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("devices: torch sees no GPU")
    import tenfold.ops  # noqa: F401

    if _native.cuda_status.path is None:
        raise RuntimeError(f"devices: no CUDA kernels: {_native.cuda_status.reason}")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": commit,
        "sanitizers": sanitizers,
        "tests": {} if calls is None else json.loads(calls.read_text())["tests"],
        "rows": [_row(w) for w in WORKLOADS],
    }


def write(record: dict[str, Any]) -> None:
    """Write the record that the table in the docs reads."""
    write_json(RECORD, record, indent=1)
