"""Who measured: processor, versions, threads, load, and which BLAS kernel NumPy chose."""

import ctypes
import gc
import os
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tenfold.viz.report import cpu_name

PACKAGES = (
    *("tenfold", "torch", "torchvision", "numpy", "scipy", "shapely", "spconv", "open3d-cpu", "open3d"),
    *("torch-cluster", "onedl-mmcv", "mmcv", "fpsample"),
)


def version_of(package: str) -> str | None:
    """Installed version of a distribution; tenfold's own when it runs from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        if package != "tenfold":
            return None
        import tenfold

        return str(tenfold.__version__)


def blas_kernel() -> str:
    """Name of the kernel that NumPy's OpenBLAS selected, or "unknown"."""
    import numpy  # noqa: F401 - loads the library that is looked for

    maps = Path("/proc/self/maps")
    text = maps.read_text(encoding="utf-8", errors="replace") if maps.is_file() else ""
    for path in sorted(set(re.findall(r"(/\S*openblas\S*)", text))):
        library = ctypes.CDLL(path)
        for name in (
            "scipy_openblas_get_corename64_",
            "scipy_openblas_get_corename",
            "openblas_get_corename",
        ):
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = ctypes.c_char_p
                return str(function().decode())
    return "unknown"


def stamp() -> dict[str, Any]:
    """Everything that a reader needs to judge the numbers."""
    settings = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "TENFOLD_CPU")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: found for name in PACKAGES if (found := version_of(name)) is not None},
        "environment": {name: os.environ.get(name, "") for name in settings},
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "numpy_blas": blas_kernel(),
        "load_average": list(os.getloadavg()),
        "native": native_level(),
    }


def native_level() -> str:
    """How our kernels run: the instruction-set level, or why they do not."""
    try:
        from tenfold import show_config

        lines = show_config().splitlines()
    except ImportError as error:
        return f"not built ({error})"
    line = next((line for line in lines if "native kernels" in line), "unknown")
    # The path of the library is nobody's business.
    return line.split("native kernels", 1)[1].strip().split(" from ")[0]


def growth_peak(call: Callable[[], Any]) -> int | None:
    """Bytes by which a call makes the process grow at its highest; None where the system does not say (Linux does).

    Some of what the allocator keeps from earlier calls is not counted again: small needs may measure as nothing.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def kilobytes(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text(encoding="ascii"))[1])  # type: ignore[index]

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    reset.write_text("5", encoding="ascii")  # the high-water mark becomes the present size
    before = kilobytes("VmRSS")
    call()
    return 1024 * max(0, kilobytes("VmHWM") - before)


def limit_cores(count: int) -> None:
    """Let all threads of this process, pools of peers included, run on so many cores only."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(_ALL_CORES)[:count] if count < len(_ALL_CORES) else sorted(_ALL_CORES)
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except OSError:  # the thread has ended
            continue


_ALL_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
