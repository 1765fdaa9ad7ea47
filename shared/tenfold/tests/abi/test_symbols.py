"""What the binary asks of torch: C functions of the stable ABI only, all of them in torch 2.10, and no OpenMP."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tenfold import _native, ops

# Enlarging this list is a decision: each function must be guarded at 2.10 or lower in torch's headers.
SHIMS = {
    "aoti_torch_abi_version",
    "aoti_torch_aten_narrow",
    "aoti_torch_delete_library_object",
    "aoti_torch_delete_tensor_object",
    "aoti_torch_empty_strided",
    "aoti_torch_get_dim",
    "aoti_torch_get_dtype",
    "aoti_torch_get_numel",
    "aoti_torch_get_size",
    "aoti_torch_get_stride",
    "aoti_torch_is_contiguous",
    "aoti_torch_library_init_impl",
    "aoti_torch_memory_format_contiguous_format",
    "aoti_torch_new_tensor_handle",
    "torch_call_dispatcher",
    "torch_delete_list",
    "torch_get_const_data_ptr",
    "torch_get_mutable_data_ptr",
    "torch_get_num_threads",
    "torch_library_impl",
    "torch_list_get_item",
    "torch_list_push_back",
    "torch_list_size",
    "torch_new_list_reserve_size",
    "torch_parallel_for",
}
CONSTANTS = re.compile(r"aoti_torch_(dtype|device_type)_\w+")
RUNTIME = re.compile(r"@@?(GLIBC|GLIBCXX|CXXABI|GCC)_")


def undefined(library):
    """(name with version, is weak) of every symbol that another library must provide."""
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    lines = subprocess.run(
        ["nm", "-D", "-u", str(library)], capture_output=True, text=True, check=True
    ).stdout
    return [(line.split()[-1], line.split()[0] in "wv") for line in lines.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def binary():
    assert ops.__contract__
    assert _native.status.path is not None, _native.status.reason
    return Path(_native.status.path)


def test_only_stable_functions_of_torch(binary):
    asked = {name for name, weak in undefined(binary) if not weak and not RUNTIME.search(name)}
    calls = {name for name in asked if not CONSTANTS.fullmatch(name)}
    assert calls <= SHIMS, f"outside the list: {sorted(calls - SHIMS)}"
    assert "torch_call_dispatcher" in calls  # the listing works at all


def test_no_mangled_torch_names_and_no_openmp(binary):
    names = [name for name, _ in undefined(binary)]
    assert not [n for n in names if re.match(r"_Z.*(2at|3c10|5torch)", n)]
    assert not [n for n in names if n.startswith(("GOMP_", "omp_", "__kmpc"))]


def test_every_listed_function_is_in_torch_2_10():
    header = Path(torch.__file__).parent / "include" / "torch" / "csrc" / "stable" / "c" / "shim.h"
    text = header.read_text()
    guard = r"TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)_0"
    newer = re.findall(
        rf"#if {guard}\n(.*?)#endif // TORCH_FEATURE_VERSION >= TORCH_VERSION_\1_\2_0", text, re.DOTALL
    )
    assert any(int(minor) > 10 for _, minor, _ in newer)
    for major, minor, block in newer:
        if (int(major), int(minor)) > (2, 10):
            assert not [s for s in SHIMS if re.search(rf"\b{s}\(", block)]
