"""Finds, checks and loads the compiled kernels, and says what runs.

The shared object registers CPU kernels on operators that Python has defined. Where it is missing or does not
fit, the operators run their reference (`tenfold.ref`) and warn once each.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from tenfold._errors import SlowPathWarning

__all__ = ["empty_cache", "load", "scratch_peak", "set_cpu_level", "show_config", "status"]

_LIBRARY = "_tenfold_cpu.so"
_CUDA_LIBRARY = "_tenfold_cuda.so"


@dataclass
class Status:
    """What the loader found."""

    library: ctypes.CDLL | None = None
    path: Path | None = None
    reason: str = "tenfold.ops has not been imported yet"
    warned: set[str] = field(default_factory=set)


@dataclass
class CudaStatus:
    """What the loader found of the CUDA kernels, which come in a distribution of their own."""

    path: Path | None = None
    reason: str = "tenfold.ops has not been imported yet"
    operators: int = 0


status = Status()
cuda_status = CudaStatus()


def _candidates() -> list[Path]:
    from tenfold.build import cache_folder

    return [cache_folder() / _LIBRARY, Path(__file__).resolve().parent / _LIBRARY]


def _truncated(path: Path) -> bool:
    """Whether an ELF file ends before its section headers, written last; mapping it would crash."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        return False  # not a 64-bit ELF file: left to the dynamic loader's own checks
    (offset,) = struct.unpack_from("<Q", head, 40)
    entry, count = struct.unpack_from("<HH", head, 58)
    return int(offset) + int(entry) * int(count) > path.stat().st_size


def _mismatch(library: ctypes.CDLL, contracts: dict[str, int]) -> str | None:
    library.tenfold_contract.argtypes = [ctypes.c_char_p]
    for op, number in contracts.items():
        native = library.tenfold_contract(op.encode())
        if native != number:
            return f"its contract for {op} is {native}, this package needs {number}; rebuild it"
    return None


def load(contracts: dict[str, int]) -> None:
    """Load the first shared object that fits; called once, by ``import tenfold.ops``.

    Args:
        contracts: the contract number of every operator that has a compiled kernel.
    """
    import torch

    reasons = []
    if os.environ.get("TENFOLD_NATIVE", "1") == "0":
        status.reason = "switched off by TENFOLD_NATIVE=0"
        return
    for path in _candidates():
        if not path.is_file():
            continue
        if _truncated(path):
            reasons.append(f"{path}: the file is truncated")
            continue
        try:
            # Opened through ctypes first: a wrong binary is turned down before it registers anything twice.
            library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
        except OSError as error:
            reasons.append(f"{path.name}: {error}")
            continue
        problem = _mismatch(library, contracts)
        if problem is not None:
            reasons.append(f"{path}: {problem}")
            break  # its kernels are registered by now: a second library cannot follow
        torch.ops.load_library(str(path))
        library.tenfold_scratch_peak.restype = ctypes.c_int64
        status.library, status.path, status.reason = library, path, ""
        return
    status.reason = "; ".join(reasons) or (
        "no compiled kernels in this installation (run `python -m tenfold.build` where a compiler is)"
    )


def _cuda_candidates(major: str) -> list[Path]:
    from tenfold.build import cache_folder

    found = [cache_folder() / _CUDA_LIBRARY, Path(__file__).resolve().parent / _CUDA_LIBRARY]
    spec = importlib.util.find_spec(f"tenfold_cu{major}")
    if spec is not None and spec.origin is not None:
        found.append(Path(spec.origin).parent / _CUDA_LIBRARY)
    return [path for path in found if path.is_file()]


def load_cuda(contracts: dict[str, int]) -> None:
    """Load the CUDA kernels where torch has CUDA of the major version that compiled them.

    Args:
        contracts: the contract number of every operator that has a compiled kernel.
    """
    import torch

    if os.environ.get("TENFOLD_NATIVE", "1") == "0":
        cuda_status.reason = "switched off by TENFOLD_NATIVE=0"
        return
    if torch.version.cuda is None:
        cuda_status.reason = "this torch has no CUDA"
        return
    major = torch.version.cuda.split(".")[0]
    reasons = []
    for path in _cuda_candidates(major):
        if _truncated(path):
            reasons.append(f"{path}: the file is truncated")
            continue
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_LAZY)
        except OSError as error:
            reasons.append(f"{path.name}: {error}")
            continue
        library.tenfold_contract.argtypes = [ctypes.c_char_p]
        has = {op: library.tenfold_contract(op.encode()) for op in contracts}
        wrong = [op for op, number in has.items() if number not in (0, contracts[op])]
        if wrong or library.tenfold_cuda_major() != int(major):
            reasons.append(
                f"{path}: made for CUDA {library.tenfold_cuda_major()} or for other contracts; rebuild it"
            )
            break  # its kernels are registered by now
        torch.ops.load_library(str(path))
        cuda_status.path, cuda_status.reason = path, ""
        cuda_status.operators = sum(number != 0 for number in has.values())
        return
    cuda_status.reason = "; ".join(reasons) or (
        f"not installed (`pip install tenfold-cu{major}`, or `python -m tenfold.build --cuda` where nvcc is)"
    )


def slow_path(op: str) -> None:
    """Note that ``op`` runs its reference: one warning per op, or an error when native code is required.

    Raises:
        RuntimeError: ``TENFOLD_REQUIRE_NATIVE=1`` is set.
    """
    if op in status.warned:
        return
    reason = status.reason or "there is no kernel for this device"
    if os.environ.get("TENFOLD_REQUIRE_NATIVE") == "1":
        raise RuntimeError(f"{op}: native code is required (TENFOLD_REQUIRE_NATIVE=1) but {reason}")
    status.warned.add(op)
    warnings.warn(f"{op}: running the slow Python reference: {reason}", SlowPathWarning, stacklevel=4)


def show_config() -> str:
    """Describe what runs: the native CPU level, torch, threads, and the reason for any fallback.

    Example:
        >>> import tenfold
        >>> print(tenfold.show_config())  # doctest: +ELLIPSIS
        tenfold ...
    """
    import torch

    import tenfold
    import tenfold.ops

    if status.library is None:
        native = f"none, reference implementations run: {status.reason}"
    else:
        level = f"x86-64-v{status.library.tenfold_cpu_level()}"
        if platform.machine().lower() not in {"x86_64", "amd64"}:
            level = platform.machine()
        native = f"{level} from {status.path}"
    cuda = f"none: {cuda_status.reason}"
    if cuda_status.path is not None:
        cuda = f"{cuda_status.operators} operators from {cuda_status.path}"
    return "\n".join(
        [
            f"tenfold {tenfold.__version__}",
            f"  native kernels  {native}",
            f"  CUDA kernels    {cuda}",
            f"  torch           {torch.__version__}",
            f"  threads         {torch.get_num_threads()} of {os.cpu_count()} cores",
            f"  python          {platform.python_version()} on {platform.platform()}",
        ]
    )


def set_cpu_level(level: int) -> None:
    """Force the build for x86-64-v2, v3 or v4 (2, 3, 4); for tests of instruction-set invariance.

    Raises:
        ValueError: this processor, or this build, cannot run the level.
    """
    if status.library is None or not status.library.tenfold_set_cpu_level(int(level)):
        raise ValueError(f"set_cpu_level: level: got {level}; expected a level this processor can run")


def cpu_level() -> int:
    """Return the instruction-set level in use, or 0 without native code."""
    return 0 if status.library is None else int(status.library.tenfold_cpu_level())


def empty_cache() -> None:
    """Give the kernels' kept scratch memory back (64 MB per thread at most is kept between calls)."""
    if status.library is not None:
        status.library.tenfold_empty_cache()


def scratch_peak(*, reset: bool = True) -> int:
    """Return the largest number of scratch bytes the kernels held at once since the last reset."""
    return 0 if status.library is None else int(status.library.tenfold_scratch_peak(int(reset)))
