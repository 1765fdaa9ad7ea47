"""Build the torch-free kernels with a sanitizer and run their C++ drivers.

    python shared/tenfold/tests/native/run.py address --count 1000
    python shared/tenfold/tests/native/run.py thread --level v2

`address` is AddressSanitizer with UndefinedBehaviorSanitizer, `thread` is ThreadSanitizer; `none` is for speed.
Objects go to build/sanitize of the core. The exit code is 1 when something does not build, differs from its naive
loop, or a sanitizer reports.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parents[1]
SANITIZERS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer",
    "thread": "-fsanitize=thread",
    "none": "",
}
LEVELS = {
    "v2": "-march=x86-64-v2",
    "v3": "-march=x86-64-v3",
    "v4": "-march=x86-64-v4 -mprefer-vector-width=512",
}
FLAGS = (
    "-std=c++17 -g -ffp-contract=off -fno-math-errno -Wall -Wextra -Wno-unused-parameter -Wno-psabi "
    "-Wno-maybe-uninitialized"
)


def best_level() -> str:
    """The highest level that this processor runs."""
    flags = Path("/proc/cpuinfo").read_text()
    return "v4" if "avx512vl" in flags else "v3" if "avx2" in flags else "v2"


def compile_one(source: Path, target: Path, flags: str) -> str:
    """Compile unless the object is newer than every source file that it may use."""
    drivers = HERE.glob("*.*") if source.parent == HERE else []
    newest = max(p.stat().st_mtime for p in [*CORE.glob("csrc/**/*.*"), *drivers])
    if target.exists() and target.stat().st_mtime > newest:
        return ""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = (
        shlex.split(os.environ.get("CXX", "g++"))
        + shlex.split(flags)
        + ["-c", str(source), "-o", str(target)]
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def build(kind: str, level: str, jobs: int) -> Path:
    """Compile kernels and drivers and link them; returns the program."""
    folder = CORE / "build" / "sanitize" / f"{kind}-{level}"
    drivers = sorted(HERE.glob("*.cpp"))
    # Only families that a driver includes: a sanitized kernel takes long to compile.
    included = {name for d in drivers for name in re.findall(r'#include "(\w+)/', d.read_text())}
    kernels = [p for p in sorted(CORE.glob("csrc/*/*_cpu.cpp")) if p.parent.name in included]
    host = [CORE / "csrc" / "host" / f"{name}_capi.cpp" for name in ("greedy", "grouping", "precision")]
    march = f"{LEVELS[level]} -DTENFOLD_ISA={level}"
    include = f"-I{CORE / 'csrc'} -I{HERE}"
    work = []
    for source in [*kernels, *host, *drivers]:
        optimise = "-O2" if kind == "none" else "-O1"
        target = folder / f"{source.parent.name}.{source.stem}.o"
        work.append((source, target, f"{FLAGS} {optimise} {SANITIZERS[kind]} {march} {include}"))
    with ThreadPoolExecutor(jobs) as pool:
        errors = [e for e in pool.map(lambda w: compile_one(*w), work) if e]
    if errors:
        raise SystemExit("\n".join(errors))
    program = folder / "drivers"
    link = [*shlex.split(os.environ.get("CXX", "g++")), *shlex.split(SANITIZERS[kind]), "-pthread"]
    subprocess.run([*link, *(str(w[1]) for w in work), "-o", str(program)], check=True)
    return program


def main() -> int:
    """Build and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=SANITIZERS)
    parser.add_argument("--count", type=int, default=300, help="inputs for each test")
    parser.add_argument("--level", choices=LEVELS, default=None, help="default: the best of this processor")
    parser.add_argument("--only", default="", help="one test by name")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    program = build(options.kind, options.level or best_level(), options.jobs)
    arguments = [str(program), str(options.count), options.only, str(options.seed)]
    settings = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(arguments, env={**os.environ, **settings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
