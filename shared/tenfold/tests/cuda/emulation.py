"""The CUDA kernels under emulation: builds the library, and replays on it the operator calls that tests make.

The emulated operators live in their own namespace and take CPU tensors. ``recorded`` notes every call of one of our
operators inside a block, gradients included; ``Emulator.replay`` repeats it with the emulated kernel in several orders
of blocks, warps and lanes, and compares the results with those of the CPU kernel and of each other.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tenfold.build import BuildError, Layout, find_sources
from tenfold.build_cuda import build_emulated, cuda_home
from tenfold.ops import _library
from tenfold.testing import kernels

NAMESPACE = "tenfold_emulated"
ADDRESS = os.environ.get("TENFOLD_EMULATED_ADDRESS") == "1"  # the build with AddressSanitizer
ORDERS = int(os.environ.get("TENFOLD_EMULATED_ORDERS", "4"))  # 0 ascending, 1 descending, the rest shuffled
WORK = Path(__file__).resolve().parents[2] / "build"
# Sums whose products the CPU kernels fuse; everything else must have their bits.
TOLERANCE = {
    "filtered_lrelu": {torch.float32: 1e-4, torch.float64: 1e-11},
    "filtered_lrelu_gate": {torch.float32: 1e-4, torch.float64: 1e-11},
    "sparse_conv": {torch.float32: 1e-4, torch.float64: 1e-11},
    "sparse_conv_weight": {torch.float32: 1e-3, torch.float64: 1e-10},
    "upfirdn2d": {torch.float32: 1e-4, torch.float64: 1e-11},
}


def tolerance(name, result):
    """Relative tolerance of an operator's result; None compares bits."""
    values = result if isinstance(result, list | tuple) else [result]
    kinds = [v.dtype for v in values if isinstance(v, torch.Tensor) and v.dtype.is_floating_point]
    return TOLERANCE[name][kinds[0]] if name in TOLERANCE and kinds else None


def why_not() -> str | None:
    """Why the emulator is left out here, or None."""
    if shutil.which("g++") is None:
        return "no C++ compiler"
    try:
        cuda_home()
    except BuildError:
        return "nvcc is not installed: CUDA kernels are neither compiled nor emulated here"
    return None


@dataclass
class Recorded:
    """One call of an operator: what went in, and what the CPU kernel gave or raised."""

    name: str
    args: tuple
    result: object
    error: str | None


def cloned(value):
    """Tensors in the same layout, in memory of their own."""
    if isinstance(value, torch.Tensor):
        if value.numel() == 0 or value.is_contiguous() or 0 in value.stride():
            return value.detach().clone()
        copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        return copy.copy_(value.detach())
    if isinstance(value, list | tuple):
        return type(value)(cloned(v) for v in value)
    return value


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "tenfold":
            return func(*args, **(kwargs or {}))
        before = cloned(tuple(args))
        try:
            result = func(*args, **(kwargs or {}))
        except RuntimeError as error:
            self.calls.append(Recorded(func._schema.name, before, None, str(error)))
            raise
        written = [cloned(a) for a, s in zip(args, func._schema.arguments, strict=False) if s.is_write]
        outcome = (
            tuple(written) if result is None else (cloned(result), *written) if written else cloned(result)
        )
        self.calls.append(Recorded(func._schema.name, before, outcome, None))
        return result


@contextmanager
def recorded():
    """Yield the list of calls of our operators made inside the block."""
    with _Recorder() as recorder:
        yield recorder.calls


class _Rerouted(TorchDispatchMode):
    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "tenfold":
            return func(*args, **(kwargs or {}))
        emulator().native.tenfold_emu_seed(self.seed)
        return getattr(getattr(torch.ops, NAMESPACE), func._schema.name.removeprefix("tenfold::")).default(
            *args
        )


@contextmanager
def rerouted(seed=2):
    """Our operators on CPU tensors, gradients included, run the emulated kernels inside the block."""
    emulator()
    with _Rerouted(seed):
        yield


class Emulator:
    """The emulated library."""

    def __init__(self, path: Path):
        self.library = torch.library.Library(NAMESPACE, "DEF")
        for op in _library._references:
            self.library.define(str(op._schema).removeprefix("tenfold::"))
        torch.ops.load_library(str(path))
        self.native = ctypes.CDLL(str(path))

    def has(self, name: str) -> bool:
        """Whether the operator has a CUDA kernel."""
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", "CPU")

    def call(self, name: str, args: tuple, seed: int):
        """Run the emulated operator in one order."""
        self.native.tenfold_emu_seed(seed)
        op = getattr(getattr(torch.ops, NAMESPACE), name).default
        args = cloned(args)
        with torch.no_grad():
            result = op(*args)
        written = [a for a, s in zip(args, op._schema.arguments, strict=False) if s.is_write]
        return tuple(written) if result is None else (result, *written) if written else result

    def refusal(self, name: str, args: tuple, seed: int) -> str:
        """What the emulated operator says of a call that it must refuse."""
        try:
            self.call(name, args, seed)
        except RuntimeError as error:
            return error_text(str(error))
        return "accepted"

    def replay(self, call: Recorded, orders: int = ORDERS) -> None:
        """Compare the emulated kernel with a recorded call; the result must not depend on the order."""
        name = call.name.removeprefix("tenfold::")
        first = None
        for seed in range(orders):
            if call.error is not None:
                assert self.refusal(name, call.args, seed) == error_text(call.error), name
                continue
            result = self.call(name, call.args, seed)
            if first is None:
                first = result
                kernels.assert_same(result, call.result, rtol=tolerance(name, call.result))
            else:
                kernels.assert_same(result, first, rtol=None)


class Tally:
    """Calls that agreed, by test and operator; where one did not, the operator is marked."""

    def __init__(self):
        self.tests = {}

    @contextmanager
    def call(self, name: str, runs: int):
        """Count what happens inside the block as one call of an operator, executed in so many runs."""
        test = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
        entry = self.tests.setdefault(test, {}).setdefault(name, {"calls": 0, "runs": 0, "failed": 0})
        try:
            yield
        except BaseException:
            entry["failed"] += 1
            raise
        entry["calls"] += 1
        entry["runs"] += runs

    def save(self, path: Path, **more) -> None:
        """Write the record, with what earlier sessions of the same sources and orders have run besides."""
        sources = digest()
        old = json.loads(path.read_text()) if path.is_file() else {}
        fresh = old.get("sources") == sources and old.get("orders") == ORDERS
        merged = {key: {**(old[key] if fresh else {}), **value} for key, value in more.items()}
        tests = {**(old["tests"] if fresh else {}), **self.tests}
        record = {"orders": ORDERS, "sources": sources, **merged, "tests": dict(sorted(tests.items()))}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


def digest() -> str:
    """Of all that a kernel, its binding and the emulator are made of."""
    found = hashlib.sha256()
    for path in sorted(find_sources().rglob("*.*")):
        if path.suffix in {".cu", ".h", ".cpp"} and not path.stem.endswith(("_cpu", "_capi")):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def error_text(message: str) -> str:
    """What the user would see."""
    return message.split("[tenfold:ValueError]")[-1].split("\n", 1)[0]


@functools.cache
def emulator() -> Emulator:
    """Build (the first time) and load the library."""
    if ADDRESS:
        os.environ.pop("LD_PRELOAD", None)  # the sanitizer's runtime is for this process, not for compilers
    folder = "emulated-address" if ADDRESS else "emulated"
    layout = Layout(find_sources(), WORK / folder, WORK / "emulated-out")
    return Emulator(build_emulated(layout, address=ADDRESS))
