"""Picks the binding of the torch-free C functions: the pybind11 module, or ctypes on the plain library.

Both call the same compiled functions on buffers that Python allocated. The ctypes binding serves Pythons for
which the wheel carries no module. What the installation lacks is looked for among what the user built.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["SIGNATURES", "call", "load_ctypes", "load_pybind"]

_PACKAGE = Path(__file__).resolve().parent.parent

#: Arguments of each C function: p a NumPy buffer, i an int64, f a double. All return an int64.
SIGNATURES = {
    "average_precision": "ippiiipp",
    "box_iou": "ippppiipp",
    "coco": "ippppppippp",
    "greedy_assign": "iipfp",
    "grouping_gains": "ipp",
    "hsv_change": "iiipipp",
    "kitti_counts": "ipppppppppfippp",
    "kitti_scores": "ippppppfp",
    "nuscenes": "ipppppippp",
    "partition": "ipiifpp",
    **{f"points_in_boxes_{t}": "ipipffippppp" for t in ("f32", "f64")},
    "voc": "ipppppfipp",
    **{f"voxelize_{t}": "iipippppiiiiiipppppp" for t in ("f32", "f64")},
}
_CTYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_double}


class _CtypesModule:
    """The functions of the plain library, callable like those of the pybind11 module."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name, signature in SIGNATURES.items():
            function = getattr(self._library, f"tenfold_host_{name}")
            function.restype = ctypes.c_int64
            function.argtypes = [_CTYPES[kind] for kind in signature]
            setattr(self, name, self._wrap(function))

    @staticmethod
    def _wrap(function: Any) -> Callable[..., int]:
        def call(*args: Any) -> int:
            passed = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in args]
            return int(function(*passed))

        return call


def _found(name: str) -> Path | None:
    """A binary of the installation, or else of `python -m tenfold.build`."""
    return next((folder / name for folder in _folders() if (folder / name).is_file()), None)


def _folders() -> Iterator[Path]:
    yield _PACKAGE
    from tenfold.build import cache_folder

    yield cache_folder()


def load_pybind() -> ModuleType | None:
    """Return the pybind11 module of this Python, or None where there is none."""
    path = _found(f"_tenfold_host{sysconfig.get_config_var('EXT_SUFFIX')}")
    spec = None if path is None else importlib.util.spec_from_file_location("_tenfold_host", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_ctypes() -> _CtypesModule | None:
    """Return the ctypes binding, or None where the plain library is missing."""
    path = _found("_libtenfold_host.so")
    return None if path is None else _CtypesModule(path)


_backend: Any = None


def call(name: str, *args: Any) -> int:
    """Call one C function; lack of memory becomes an exception, -2 (refused) is the caller's to word.

    Raises:
        MemoryError: scratch memory could not be had.
        RuntimeError: this installation has no compiled library.
    """
    global _backend
    if _backend is None:
        wanted = os.environ.get("TENFOLD_HOST_BINDING")
        _backend = (load_pybind() if wanted != "ctypes" else None) or load_ctypes()
        if _backend is None:
            raise RuntimeError(
                "tenfold.host: no compiled library in this installation; "
                "run `python -m tenfold.build` where a compiler is, or install a wheel with kernels"
            )
    result = int(getattr(_backend, name)(*args))
    if result == -1:
        raise MemoryError(f"tenfold.host: {name}: out of memory")
    return result
