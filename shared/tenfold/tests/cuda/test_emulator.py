"""The emulator catches what it promises to: kernels with one mistake each, and our own with a line changed.

The library's building blocks (scan, sort, suppression) are executed here as they are, against plain loops.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tenfold.build import find_sources
from tenfold.build_cuda import ADDRESS_FLAGS, EMULATED_FLAGS, WATCHED_FLAGS

HERE = Path(__file__).resolve().parent
CSRC = find_sources()
EVERYTHING = os.environ.get("TENFOLD_EMULATED") == "1"  # set by `nox -s cuda`

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++")

# What the emulator must say of each mistake; None: nothing, the kernel is right.
MISTAKES = {
    "mirror": None,
    "no barrier": r"race: (read|write)|nobody wrote",
    "barrier for part of the block": r"reached by 40 of 64 threads",
    "barriers at two sites": r"barriers at .* and at .* are reached by parts of the block",
    "read behind the end": r"read outside every buffer",
    "write behind the end": r"write outside every buffer",
    "shared word nobody wrote": r"nobody wrote",
    "blocks write one word": r"race: write",
    "write to an input": r"write to an input",
    "host pointer": r"read outside every buffer",
    "write that no hook sees": r"a guard zone was written to",
    "shared word nobody wrote, unseen": r"depends on the order",
    "blocks read what blocks write": r"race: (read|write)",
    "add up": None,
    "lane dropped from the mask": r"mask leaves it out|outside its mask",
    "lane that left": r"never come to the warp operation",
    "shuffle from outside the mask": r"a shuffle reads a lane outside its mask",
    "no warp barrier": r"race: (read|write)|nobody wrote",
    "warp barrier for part of the lanes": r"never come to the warp operation",
    "plain read beside atomics": r"race: (read|write)",
    "plain increment": r"race: (read|write)",
    "first come": r"depends on the order",
    "too much shared memory": r"more than 48 KB",
    "too many threads": r"block of 1056 threads",
    "grid outside its limits": r"grid outside its limits",
    "scratch nobody wrote, unseen": r"depends on the order",
    "scratch nobody wrote": r"nobody wrote",
    "sort": None,
    "too much to sort": r"expected fewer than 2\^31 entries",
    "scan": None,
    "two sums": None,
    "suppress": None,
}

# One line of a real kernel changed: (file, the line, what it becomes, the test that must fail).
CHANGES = [
    (
        "common/device_scan.h",
        "  if (lane() == kWarpLanes - 1) warp_sums[warp()] = inclusive;\n  __syncthreads();",
        "  if (lane() == kWarpLanes - 1) warp_sums[warp()] = inclusive;",
        "scan",
    ),
    ("common/device_scan.h", "  __syncthreads();  // warp_sums may be used again\n", "", "two sums"),
    (
        "common/device_scan.h",
        "if (first + k < n) out[first + k] = before;",
        "if (first + k <= n) out[first + k] = before;",
        "scan",
    ),
    (
        "common/device_sort.h",
        "atomicAdd(&histogram[sort_digit(key[i], shift)], 1)",
        "histogram[sort_digit(key[i], shift)] += 1",
        "sort",
    ),
    (
        "common/device_sort.h",
        "  histogram[threadIdx.x] = 0;\n  __syncthreads();",
        "  histogram[threadIdx.x] = 0;",
        "sort",
    ),
    (
        "common/device_sort.h",
        "const unsigned set = __ballot_sync(kAllLanes,",
        "const unsigned set = __ballot_sync(kAllLanes >> 1,",
        "sort",
    ),
    (
        "common/device_sort.h",
        "if (digit < kSortDigits) to = mine[digit] + __popc(same & lanes_below());\n    __syncwarp();",
        "if (digit < kSortDigits) to = mine[digit] + __popc(same & lanes_below());",
        "sort",
    ),
    (
        "nms/suppress_cuda.h",
        "    __syncthreads();\n    const unsigned long long keep = chosen[0];",
        "    const unsigned long long keep = chosen[0];",
        "suppress",
    ),
    (
        "nms/suppress_cuda.h",
        "    __syncthreads();\n    if (threadIdx.x == 0) {\n      unsigned",
        "    if (threadIdx.x == 0) {\n      unsigned",
        "suppress",
    ),
    ("nms/suppress_cuda.h", "atomicOr(&removed[word], out)", "removed[word] |= out", "suppress"),
    ("nms/suppress_cuda.h", "inside[threadIdx.x] = i < count ?", "inside[threadIdx.x] = true ?", "suppress"),
    ("nms/suppress_cuda.h", "if (i >= count || gone[i] != 0)", "if (gone[i] != 0)", "suppress"),
    ("nms/suppress_cuda.h", "j > i && j < count", "j > i", "suppress"),
]
FEW = 1  # of the changes, in the tests that everybody runs: each compiles everything anew


BASE = EMULATED_FLAGS.replace("-Wall -Wextra", "-w")


def compiled(folder, sources, watched=WATCHED_FLAGS, others="", library=None):
    """The program of all cases, from a copy of the sources or the checkout itself.

    Args:
        library: folder of another program, whose objects of what knows no kernel are linked.
    """

    def made(source, flags):
        target = folder / f"{source.stem}.o"
        command = ["g++", *BASE.split(), f"-I{sources}", *flags.split(), "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return str(target)

    program = folder / "mutants"
    parts = {sources / "emu" / "emu.cpp": others, sources / "common" / "device_cuda.cu": f"{others} -x c++"}
    objects = [
        made(*part) if library is None else str(library / f"{part[0].stem}.o") for part in parts.items()
    ]
    objects.append(made(HERE / "mutants.cu", f"{watched} -x c++ -include algorithm -include cstdlib"))
    subprocess.run(["g++", *others.split(), *objects, "-o", str(program)], check=True)
    return program


def outcomes(program, orders, only=""):
    text = subprocess.run(
        [str(program), str(orders), only], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split(": ", 1) for line in text.splitlines())


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("mutants"), CSRC)


def test_every_mistake_is_caught_and_nothing_else(program):
    # Ascending, descending and shuffled; a mistake that shows in later orders only is no fast test's.
    found = outcomes(program, orders=10 if EVERYTHING else 4)
    assert set(found) == set(MISTAKES)
    for name, expected in MISTAKES.items():
        if expected is None:
            assert found[name] == "ok", f"{name}: {found[name]}"
        else:
            assert re.search(expected, found[name]), f"{name}: {found[name]}"


@pytest.mark.skipif(not EVERYTHING, reason="run by `nox -s cuda`")
def test_under_address_sanitizer(tmp_path):
    """Guard zones stop reads as well, and poison shows in results what no hook watches here."""
    program = compiled(tmp_path, CSRC, ADDRESS_FLAGS, ADDRESS_FLAGS)

    def outcome(case):
        command, env = [str(program), "10", case], {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        return done.stdout + done.stderr

    for case, expected in MISTAKES.items():
        if expected is None:
            assert outcome(case) == f"{case}: ok\n"
    for case in ("read behind the end", "write behind the end", "write that no hook sees"):
        assert "use-after-poison" in outcome(case), case
    for case in ("scratch nobody wrote, unseen", "shared word nobody wrote, unseen"):
        assert "depends on the order" in outcome(case), case


def test_atomics_of_floats_do_not_compile(tmp_path):
    functions = ("atomicAdd", "atomicMin", "atomicMax")
    for kind, fine in (("int", True), ("float", False)):
        source = tmp_path / f"{kind}.cpp"
        lines = [f"void f{k}({kind}* p) {{ {name}(p, {kind}(1)); }}" for k, name in enumerate(functions)]
        source.write_text("\n".join(['#include "common/device.h"', *lines, ""]))
        command = ["g++", *BASE.split(), f"-I{CSRC}", "-fsyntax-only", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == fine, done.stderr
        for line in () if fine else range(2, 2 + len(functions)):
            assert f"float.cpp:{line}:" in done.stderr, functions[line - 2]
        assert fine or done.stderr.count("no atomics of floats") >= len(functions)


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_changed_line_of_a_kernel_is_caught(number, tmp_path, program):
    if number >= FEW and not EVERYTHING:
        pytest.skip("run by `nox -s cuda`")
    name, line, becomes, case = CHANGES[number]
    sources = tmp_path / "csrc"
    shutil.copytree(CSRC, sources)
    text = (sources / name).read_text()
    assert text.count(line) == 1, f"{name} has changed: {line!r}"
    (sources / name).write_text(text.replace(line, becomes))
    changed = compiled(tmp_path, sources, library=program.parent)
    assert outcomes(changed, 6, case)[case] != "ok"
