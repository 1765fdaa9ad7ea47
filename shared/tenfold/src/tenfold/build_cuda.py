"""Compile the CUDA kernels, for a device or for the tests' emulator: ``python -m tenfold.build --cuda``.

One source serves both: nvcc makes ``_tenfold_cuda.so``, which registers the kernels on the operators' CUDA key; a C++
compiler makes the emulated library, which executes the same sources on one thread of the processor and watches them.
Bindings are those of the CPU library, compiled a second time.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tenfold.build import (
    COMMON_FLAGS,
    TORCH_TARGET,
    BuildError,
    Layout,
    Ninja,
    cxx_compiler,
    run_ninja,
    tool,
    torch_folder,
)

__all__ = [
    "ARCHITECTURES",
    "EMULATED",
    "LIBRARY",
    "architectures_wanted",
    "build_cuda",
    "build_emulated",
    "compile_kernels",
    "cuda_home",
    "cuda_sources",
    "cuda_version",
    "families",
]

LIBRARY = "_tenfold_cuda.so"
EMULATED = "_tenfold_emulated.so"
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# Multiplications and additions are never contracted: results must not depend on the device.
NVCC_FLAGS = (
    "-O3 -std=c++17 -fmad=false --expt-relaxed-constexpr -DTENFOLD_DEVICE "
    "-Xcompiler -fPIC,-fvisibility=hidden,-fno-strict-aliasing"
)
# Hooks at every load and store, without the sanitizer's runtime: emu.cpp supplies it.
WATCHED_FLAGS = "-fsanitize=thread -fno-sanitize=vptr --param tsan-distinguish-volatile=1"
EMULATED_FLAGS = (
    "-O1 -g1 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno "
    "-Wall -Wextra -Wno-unused-parameter -Wno-psabi -Wno-tsan -fno-strict-aliasing -DTENFOLD_DEVICE -DTENFOLD_EMULATED"
)
ADDRESS_FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"


def cuda_home() -> Path:
    """Return the folder of the CUDA toolkit.

    Raises:
        BuildError: none in CUDA_HOME, beside the nvcc on the PATH or in /usr/local/cuda.
    """
    found = shutil.which("nvcc")
    for folder in (
        os.environ.get("CUDA_HOME"),
        str(Path(found).parents[1]) if found else None,
        "/usr/local/cuda",
    ):
        # The nvcc on the PATH may be a script that calls one elsewhere.
        if folder and (Path(folder) / "bin" / "nvcc").is_file() and _has_headers(Path(folder)):
            return Path(folder)
    raise BuildError(
        "tenfold.build: no CUDA toolkit (looked in CUDA_HOME, beside the nvcc on the PATH and in /usr/local/cuda)"
    )


def _has_headers(home: Path) -> bool:
    name = "cuda_runtime.h"
    return (home / "include" / name).is_file() or any(home.glob(f"targets/*/include/{name}"))


def cuda_version() -> str:
    """Return the toolkit's version, such as "13.0".

    Raises:
        BuildError: no nvcc, or it does not say.
    """
    text = subprocess.run(
        [str(cuda_home() / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    if found is None:
        raise BuildError("tenfold.build: nvcc does not state its version")
    return found[1]


def cuda_sources(sources: Path) -> list[Path]:
    """Return the kernels' files."""
    return sorted(sources.glob("*/*_cuda.cu"))


def families(sources: Path, name: str) -> set[str]:
    """Headers of kernels that a file of bindings includes, itself or through a header of bindings."""
    found = set()
    for folder, stem in re.findall(r'#include "(\w+)/(\w+)\.h"', (sources / name).read_text()):
        if folder == "bind":
            found |= families(sources, f"bind/{stem}.h")
        elif folder != "common" and "TENFOLD_KERNEL(" in (sources / folder / f"{stem}.h").read_text():
            found.add(f"{folder}/{stem}")
    return found


def _bindings(sources: Path) -> list[Path]:
    """Bindings whose kernels all have a CUDA twin: ``<op>_cuda.cu`` beside ``<op>.h``."""
    return [
        path
        for path in sorted(sources.glob("bind/*.cpp"))
        if all((sources / f"{f}_cuda.cu").is_file() for f in families(sources, f"bind/{path.name}"))
    ]


def _architecture_flags(architectures: tuple[str, ...]) -> str:
    """Binaries for each architecture, and PTX of the newest for those to come.

    Machine code is made of the oldest architecture's PTX, except the newest's: no kernel asks for what only some can
    do, and nvcc's front end runs twice instead of once for each, which was most of the time.
    """
    numbers = [a.replace(".", "") for a in architectures]
    oldest, newest = numbers[0], numbers[-1]
    flags = [f"-gencode arch=compute_{oldest},code=sm_{n}" for n in numbers[:-1]]
    return " ".join(
        [*flags, *(f"-gencode arch=compute_{newest},code={c}_{newest}" for c in ("sm", "compute"))]
    )


def _torch_flags(sources: Path, folder: Path) -> str:
    include = f"-I{shlex.quote(str(sources))} -isystem {shlex.quote(str(folder / 'include'))}"
    return f"{include} -DTORCH_TARGET_VERSION={TORCH_TARGET}"


def architectures_wanted() -> tuple[str, ...]:
    """Return TENFOLD_CUDA_ARCHS (such as "8.0;9.0") from the oldest to the newest, or all that are supported.

    Raises:
        BuildError: something else than numbers such as 8.0.
    """
    words = tuple(re.split(r"[;, ]+", os.environ.get("TENFOLD_CUDA_ARCHS", "").strip()))
    if words == ("",):
        return ARCHITECTURES
    for word in words:
        if not re.fullmatch(r"\d+\.\d", word):
            raise BuildError(
                f"tenfold.build: TENFOLD_CUDA_ARCHS: got {word!r}; expected numbers such as 8.0;9.0"
            )
    return tuple(sorted(set(words), key=float))


def _add_kernels(ninja: Ninja, layout: Layout, architectures: tuple[str, ...]) -> list[str]:
    """The kernels' objects. What ptxas says of each kernel stays beside them, for `compile_kernels`."""
    nvcc = shlex.quote(str(cuda_home() / "bin" / "nvcc"))
    command = f"{nvcc} -MD -MF $out.d -Xptxas -v $flags -c $in -o $out"
    ninja.rule("nvcc", f"{command} > $out.log 2>&1 || {{ cat $out.log >&2; exit 1; }}")
    flags = f"{NVCC_FLAGS} -I{shlex.quote(str(layout.sources))} {_architecture_flags(architectures)}"
    return [ninja.compile(s, "cuda", flags, rule="nvcc", log=True) for s in cuda_sources(layout.sources)]


def compile_kernels(
    layout: Layout, *, architectures: tuple[str, ...] | None = None, jobs: int | None = None
) -> dict[Path, str]:
    """Compile the kernels for real architectures; returns what ptxas says of each file's kernels.

    The objects are those of `build_cuda` in the same ``layout.work``: whichever runs second finds them there.

    Raises:
        BuildError: no nvcc, or a file does not compile.
    """
    ninja = Ninja(cxx_compiler(), layout)
    _add_kernels(ninja, layout, architectures or architectures_wanted())
    run_ninja(ninja, layout, jobs=jobs)
    return {s: Path(f"{ninja.object_of(s, 'cuda')}.log").read_text() for s in cuda_sources(layout.sources)}


def build_cuda(
    layout: Layout, *, architectures: tuple[str, ...] | None = None, jobs: int | None = None
) -> Path:
    """Compile the kernels with nvcc and link ``_tenfold_cuda.so`` into ``layout.output``; returns its path.

    Raises:
        BuildError: no nvcc, no torch with CUDA, or a file does not compile.
    """
    home = cuda_home()
    torch = torch_folder()
    if not (torch / "lib" / "libtorch_cuda.so").is_file():
        raise BuildError("tenfold.build: this torch has no CUDA; the kernels need libtorch_cuda")
    ninja = Ninja(cxx_compiler(), layout)
    objects = _add_kernels(ninja, layout, architectures or architectures_wanted())
    major = f"-DTENFOLD_CUDA_MAJOR={cuda_version().split('.')[0]}"
    host = f"{COMMON_FLAGS} -DTENFOLD_DEVICE -DUSE_CUDA {major} {_torch_flags(layout.sources, torch)}"
    objects += [ninja.compile(s, "cuda", host) for s in _bindings(layout.sources)]
    objects += [ninja.compile(s, "cuda", host) for s in sorted(layout.sources.glob("common/*.cpp"))]
    target = layout.output / LIBRARY
    libraries = home / "lib64" if (home / "lib64").is_dir() else home / "lib"
    link = (
        f"-shared -Wl,--gc-sections -Wl,--exclude-libs,ALL -s -L{shlex.quote(str(libraries))} "
        f"-lcudart_static -ldl -lrt -lpthread "
        f"-L{shlex.quote(str(torch / 'lib'))} -Wl,--no-as-needed -ltorch_cpu -ltorch_cuda"
    )
    ninja.link(target, objects, link)
    run_ninja(ninja, layout, jobs=jobs)
    return target


def build_emulated(layout: Layout, *, address: bool = False, jobs: int | None = None) -> Path:
    """Compile the kernels with the emulator into ``layout.output``; returns the library's path. For tests.

    Args:
        layout: where to read and write.
        address: AddressSanitizer and UndefinedBehaviorSanitizer in the place of the emulator's own hooks.
        jobs: files at a time.

    Raises:
        BuildError: no C++ compiler, or a file does not compile.
    """
    torch = torch_folder()
    ninja = Ninja(tool([os.environ.get("CXX", ""), "g++"], "C++ compiler"), layout)
    variant = "address" if address else "watched"
    base = f"{EMULATED_FLAGS} -I{shlex.quote(str(layout.sources))}"
    extra = ADDRESS_FLAGS if address else ""
    kernels = f"{base} {extra or WATCHED_FLAGS} -x c++"
    objects = [ninja.compile(s, variant, kernels) for s in cuda_sources(layout.sources)]
    objects += [
        ninja.compile(s, variant, f"{base} {extra}") for s in sorted(layout.sources.glob("emu/*.cpp"))
    ]
    objects += [
        ninja.compile(s, variant, f"{base} {extra}") for s in sorted(layout.sources.glob("common/*.cpp"))
    ]
    host = f"{base} {_torch_flags(layout.sources, torch)} {extra}"
    objects += [ninja.compile(s, variant, host) for s in _bindings(layout.sources)]
    target = layout.output / variant / EMULATED
    link = f"-shared {extra} -L{shlex.quote(str(torch / 'lib'))} -Wl,--no-as-needed -ltorch_cpu"
    ninja.link(target, objects, link)
    run_ninja(ninja, layout, jobs=jobs)
    return target
