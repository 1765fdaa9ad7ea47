"""The linked CUDA library beside torch: what it registers, what it asks of others, what it is compiled for.

None of this needs a GPU, and none of it runs a kernel. TENFOLD_CUDA_LIBRARY is the path of `_tenfold_cuda.so`, or
"installed" for that of an installed add-on wheel.
"""

import ctypes
import os
import re
import struct
import sys
from pathlib import Path

import pytest
import torch

from tenfold import _native, ops
from tenfold.build_cuda import architectures_wanted
from tenfold.ops import _library

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "abi"))

from test_symbols import CONSTANTS, RUNTIME, SHIMS, undefined

ASKED = os.environ.get("TENFOLD_CUDA_LIBRARY")
pytestmark = pytest.mark.skipif(
    ASKED is None, reason="run by `nox -s cuda`, which links the CUDA library first"
)
# Of torch's stable functions, those for CUDA; all are in 2.10.
CUDA_SHIMS = {
    "aoti_torch__reinterpret_tensor",
    "aoti_torch_create_device_guard",
    "aoti_torch_delete_device_guard",
    "aoti_torch_get_current_cuda_stream",
    "aoti_torch_get_device_index",
}


@pytest.fixture(scope="module")
def library():
    """The library's path; its operators are registered."""
    path = _native.cuda_status.path if ASKED == "installed" else Path(ASKED)
    assert path is not None, _native.cuda_status.reason
    if _native.cuda_status.path is None:
        assert not any(has_cuda_kernel(op) for op in ops.__contract__)
        torch.ops.load_library(str(path))
    return path


def has_cuda_kernel(name):
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"tenfold::{name}", "CUDA")


def test_every_operator_has_a_cuda_kernel(library):
    names = {op._schema.name.removeprefix("tenfold::") for op in _library._references}
    assert len(names) > 40
    assert {name for name in names if not has_cuda_kernel(name)} == set()


def test_contracts_and_major_version(library):
    native = ctypes.CDLL(str(library))
    native.tenfold_contract.argtypes = [ctypes.c_char_p]
    assert {op: native.tenfold_contract(op.encode()) for op in ops.__contract__} == ops.__contract__
    if torch.version.cuda is not None:
        assert native.tenfold_cuda_major() == int(torch.version.cuda.split(".")[0])


def test_only_stable_functions_of_torch_and_no_cuda_runtime(library):
    symbols = undefined(library)
    asked = {name for name, weak in symbols if not weak and not RUNTIME.search(name)}
    calls = {name for name in asked if not CONSTANTS.fullmatch(name)}
    assert calls <= SHIMS | CUDA_SHIMS, f"outside the list: {sorted(calls - SHIMS - CUDA_SHIMS)}"
    assert not [name for name, _ in symbols if re.match(r"_Z.*(2at|3c10|5torch)", name)]


def compiled_for(data):
    """(kind, architecture) of every image in the fat binaries of a shared object; kind 1 is PTX, 2 machine code."""
    found = set()
    for start in (m.start() for m in re.finditer(re.escape(struct.pack("<IHH", 0xBA55ED50, 1, 16)), data)):
        (size,) = struct.unpack_from("<Q", data, start + 8)
        at, end = start + 16, start + 16 + size
        while at < end:
            kind, _, header, payload = struct.unpack_from("<HHIQ", data, at)
            (number,) = struct.unpack_from("<I", data, at + 28)
            found.add((kind, f"{number // 10}.{number % 10}"))
            at += header + payload
    return found


def test_machine_code_for_every_architecture_and_ptx_for_the_newest(library):
    wanted = architectures_wanted()
    found = compiled_for(library.read_bytes())
    assert {arch for kind, arch in found if kind == 2} == set(wanted)
    assert {arch for kind, arch in found if kind == 1} == {wanted[-1]}
