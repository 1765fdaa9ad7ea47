"""Compile the bundled C++ sources: ``python -m tenfold.build``.

Nothing is ever compiled at import or at a first call. This module is the one builder: ``setup.py`` uses it
for wheels and in-place builds, users run it to rebuild the kernels into their cache, which the loader prefers
over the binary of the wheel. It needs a C++17 compiler, ninja and an importable torch (headers only).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BuildError",
    "Layout",
    "Ninja",
    "build",
    "cache_folder",
    "cxx_compiler",
    "find_sources",
    "main",
    "run_ninja",
    "tool",
    "torch_folder",
    "wheel_platform",
]

# The lowest stable ABI whose symbols are used: 2.10.
TORCH_TARGET = "0x020a000000000000"
# -Wno-maybe-uninitialized: GCC 12's own _mm512_castps512_ps256, which `vtop` uses, passes an operand that its header
# leaves undefined on purpose, and the warning is given at every place that it is inlined into.
COMMON_FLAGS = (
    "-O3 -std=c++17 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -ffp-contract=off -fno-math-errno "
    "-fno-trapping-math -fno-plt -Wall -Wextra -Wno-unused-parameter -Wno-psabi -Wno-maybe-uninitialized"
)
# Bindings have nothing to optimise: calls take as long, compiling them a third less.
BINDING_FLAGS = f"{COMMON_FLAGS} -O1"
# The C++ runtime is linked dynamically: libtorch's stable ABI reports errors by exceptions, and one that is
# thrown through a second, static copy of the runtime ends the process (seen with -static-libgcc).
LINK_FLAGS = "-shared -Wl,--gc-sections -Wl,-O1 -Wl,--exclude-libs,ALL -s"
X86_LEVELS = {
    "v2": "-march=x86-64-v2",
    "v3": "-march=x86-64-v3",
    "v4": "-march=x86-64-v4 -mprefer-vector-width=512",
}
OTHER_LEVELS = {"v2": ""}
# What nearly every file includes, compiled once for each set of flags: it takes as long as the file itself.
STANDARD_HEADERS = ("algorithm", "atomic", "cmath", "cstdint", "cstring", "limits", "new", "string", "vector")
TORCH_HEADERS = (
    "torch/csrc/inductor/aoti_torch/c/shim.h",
    *(f"torch/csrc/stable/{name}.h" for name in ("library", "ops", "tensor")),
)


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says what is missing."""


@dataclass(frozen=True)
class Layout:
    """Where one build reads and writes.

    Args:
        sources: the folder with ``common/``, ``bind/`` and one folder per op family.
        work: objects and the ninja file.
        output: where the shared objects go.
    """

    sources: Path
    work: Path
    output: Path


def find_sources() -> Path:
    """Return the folder of the C++ sources, in a checkout or in an installed wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (package.parent.parent / "csrc", package / "_csrc"):
        if (candidate / "common" / "isa.h").is_file():
            return candidate
    raise BuildError("tenfold.build: the C++ sources are not part of this installation")


def cache_folder() -> Path:
    """Return the folder for binaries built by the user; one per package version and platform."""
    # By name: `tenfold.host` looks here too, and by an import would be seen to reach `tenfold.ops`.
    version = importlib.import_module("tenfold").__version__
    base = Path(os.environ.get("TENFOLD_CACHE") or Path.home() / ".cache" / "tenfold")
    return base.absolute() / f"{version}-{sysconfig.get_platform()}"  # absolute, since ninja works elsewhere


def torch_folder() -> Path:
    """Return the folder of the torch package, without importing it.

    Raises:
        BuildError: torch is not installed here.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("tenfold.build: torch is not importable here; its headers are needed")
    return Path(spec.origin).parent


def tool(names: list[str], what: str) -> str:
    """Return the first of the commands that exists.

    Raises:
        BuildError: none does.
    """
    for name in names:
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return name
    raise BuildError(f"tenfold.build: no {what} found (looked for {', '.join(filter(None, names))})")


def cxx_compiler() -> str:
    """Return the C++ compiler's command: CXX, or the first of the usual ones.

    Raises:
        BuildError: there is none.
    """
    return tool([os.environ.get("CXX", ""), "g++", "clang++", "c++"], "C++ compiler")


def _through_ccache(compiler: str) -> bool:
    """Whether a compiler's command is ccache's: ``ccache g++``, or a link to it under the compiler's name."""
    program = Path(shutil.which(shlex.split(compiler)[0]) or "")
    return "ccache" in {program.name, program.resolve().name}


def wheel_platform(platform: str, folder: Path) -> str:
    """Return a wheel's platform tag: on Linux manylinux_2_N, by the glibc that the libraries in ``folder`` ask for."""
    if not platform.startswith("linux_"):
        return platform
    found = {(2, 17)}
    for library in folder.glob("*.so"):
        found |= {(int(a), int(b)) for a, b in re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())}
    major, minor = max(found)
    return f"manylinux_{major}_{minor}_{platform.removeprefix('linux_')}"


def _ninja() -> str:
    found = shutil.which("ninja") or shutil.which("ninja", path=os.path.dirname(sys.executable))
    if found is None:
        raise BuildError("tenfold.build: ninja not found; `pip install ninja`")
    return found


def _levels() -> dict[str, str]:
    return X86_LEVELS if platform.machine().lower() in {"x86_64", "amd64"} else OTHER_LEVELS


def _escape(path: Path | str) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class Ninja:
    """The lines of one ninja file."""

    def __init__(self, compiler: str, layout: Layout) -> None:
        self.layout = layout
        self.precompiles = not _through_ccache(compiler)
        self.headers: dict[str, Path] = {}  # of each variant that has compiled ones
        self.lines = [
            "ninja_required_version = 1.8",
            f"cxx = {compiler}",
            "rule cxx",
            "  command = $cxx -MD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $in $variant",
            "rule header",
            "  command = $cxx -MD -MF $out.d $flags -x c++-header -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile headers $variant",
            "rule link",
            "  command = $cxx $in -o $out $ldflags",
            "  description = link $out",
        ]

    def rule(self, name: str, command: str) -> None:
        """Add a compiler that writes dependencies as GCC does."""
        self.lines += [f"rule {name}", f"  command = {command}", "  depfile = $out.d", "  deps = gcc"]
        self.lines += ["  description = compile $in $variant"]

    def object_of(self, source: Path, variant: str) -> Path:
        """Where the object of a source goes."""
        name = source.relative_to(self.layout.sources).with_suffix("")
        return self.layout.work / variant / f"{str(name).replace('/', '.')}.o"

    def precompile(self, variant: str, flags: str, headers: Iterable[str]) -> None:
        """Compile headers once for all objects of a variant, which are given the same flags.

        Nothing is done under ccache, which by default keeps no object that compiled headers went into.
        """
        if not self.precompiles:
            return
        header = self.layout.work / variant / "headers.h"
        text = "".join(f"#include <{name}>\n" for name in headers)
        if not header.is_file() or header.read_text() != text:
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text(text)
        self.headers[variant] = header
        self.lines += [f"build {_escape(header)}.gch: header {_escape(header)}"]
        self.lines += [f"  flags = {flags}", f"  variant = [{variant}]"]

    def compile(self, source: Path, variant: str, flags: str, rule: str = "cxx", *, log: bool = False) -> str:
        """Add one object; returns its name. ``log``: the rule keeps what the compiler said beside it."""
        target = self.object_of(source, variant)
        beside = f" | {_escape(target)}.log" if log else ""
        after = ""
        if header := self.headers.get(variant):
            flags += f" -include {shlex.quote(str(header))}"
            after = f" | {_escape(header)}.gch"
        self.lines += [
            f"build {_escape(target)}{beside}: {rule} {_escape(source)}{after}",
            f"  flags = {flags}",
            f"  variant = [{variant}]",
        ]
        return _escape(target)

    def link(self, target: Path, objects: list[str], flags: str) -> None:
        """Add a shared object."""
        self.lines += [f"build {_escape(target)}: link {' '.join(objects)}", f"  ldflags = {flags}"]


def _host_extension_suffix() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def _python_module(ninja: Ninja, include: str) -> list[str]:
    """The object of the pybind11 module, where pybind11 is."""
    source = ninja.layout.sources / "host" / "module_pybind.cpp"
    if not source.is_file() or importlib.util.find_spec("pybind11") is None:
        return []
    import pybind11

    python = shlex.quote(sysconfig.get_paths()["include"])
    flags = f"{BINDING_FLAGS} {include} -isystem {python} -isystem {shlex.quote(pybind11.get_include())}"
    return [ninja.compile(source, "pybind", flags)]


def _write_ninja(layout: Layout, *, kernels_only: bool = False) -> Ninja:
    ninja = Ninja(cxx_compiler(), layout)
    include = f"-I{shlex.quote(str(layout.sources))}"
    module = _python_module(ninja, include)  # first, for no other file takes as long
    kernels = sorted(layout.sources.glob("*/*_cpu.cpp"))
    common = f"{COMMON_FLAGS} {include}"
    base = [ninja.compile(s, "base", common) for s in sorted(layout.sources.glob("common/*.cpp"))]
    levels: list[str] = []
    for level, march in _levels().items():
        flags = f"{COMMON_FLAGS} {march} -DTENFOLD_ISA={level} {include}"
        ninja.precompile(level, flags, [*STANDARD_HEADERS, *(["immintrin.h"] if march else [])])
        levels += [ninja.compile(source, level, flags) for source in kernels]
    host = [ninja.compile(s, "host", common) for s in sorted(layout.sources.glob("host/*_capi.cpp"))]
    if kernels_only:
        return ninja
    torch = torch_folder()
    torch_flags = (
        f"{BINDING_FLAGS} {include} -isystem {shlex.quote(str(torch / 'include'))} "
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"
    )
    ninja.precompile("bind", torch_flags, [*STANDARD_HEADERS, *TORCH_HEADERS])
    bind = [ninja.compile(s, "bind", torch_flags) for s in sorted(layout.sources.glob("bind/*.cpp"))]
    torch_link = f"{LINK_FLAGS} -L{shlex.quote(str(torch / 'lib'))} -Wl,--no-as-needed -ltorch_cpu"
    # Baseline objects come first: where the C++ library's own templates meet, the linker keeps the first
    # copy, and that must be one which every processor can run.
    ninja.link(layout.output / "_tenfold_cpu.so", base + bind + levels, torch_link)
    if host:
        ninja.link(layout.output / "_libtenfold_host.so", base + host + levels, LINK_FLAGS)
    if module:
        target = layout.output / f"_tenfold_host{_host_extension_suffix()}"
        ninja.link(target, [*base, *host, *module, *levels], LINK_FLAGS)
    return ninja


def run_ninja(ninja: Ninja, layout: Layout, *, jobs: int | None = None, verbose: bool = False) -> None:
    """Write the ninja file and bring its targets up to date.

    Raises:
        BuildError: no ninja, or a file does not compile.
    """
    path = layout.work / "build.ninja"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(ninja.lines) + "\n")
    layout.output.mkdir(parents=True, exist_ok=True)
    command = [_ninja(), "-f", str(path), "-C", str(layout.work)]
    command += [f"-j{jobs}"] if jobs else []
    command += ["-v"] if verbose else []
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise BuildError(f"tenfold.build: compilation failed (ninja exit code {result.returncode})")


def build(
    layout: Layout, *, jobs: int | None = None, verbose: bool = False, kernels_only: bool = False
) -> None:
    """Compile and link everything below ``layout.sources`` into ``layout.output``.

    Args:
        layout: where to read and write.
        jobs: files at a time.
        verbose: print the compiler's command lines.
        kernels_only: compile the kernels, which takes most of the time and no torch, and link nothing; the next
            build finds their objects.

    Raises:
        BuildError: no compiler, no ninja, no torch headers, or a file does not compile.
    """
    run_ninja(_write_ninja(layout, kernels_only=kernels_only), layout, jobs=jobs, verbose=verbose)


def main(argv: list[str] | None = None) -> int:
    """Build into the user cache (default) or in place, for a checkout."""
    parser = argparse.ArgumentParser(prog="python -m tenfold.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--inplace", action="store_true", help="write beside the Python sources of a checkout"
    )
    parser.add_argument("--cuda", action="store_true", help="compile the CUDA kernels as well (needs nvcc)")
    parser.add_argument(
        "--kernels-only",
        action="store_true",
        help="compile what needs no torch, link nothing (to save time later)",
    )
    parser.add_argument("--jobs", type=int, help="compile this many files at a time")
    parser.add_argument("--verbose", action="store_true", help="print the compiler's command lines")
    options = parser.parse_args(argv)
    try:
        sources = find_sources()
        if options.inplace:
            package = Path(__file__).resolve().parent
            layout = Layout(sources, package.parents[1] / "build" / "native", package)
        else:
            cache = cache_folder()
            layout = Layout(sources, cache / "objects", cache)
        build(layout, jobs=options.jobs, verbose=options.verbose, kernels_only=options.kernels_only)
        if options.cuda:
            from tenfold.build_cuda import build_cuda

            build_cuda(Layout(sources, layout.work.with_name("cuda"), layout.output), jobs=options.jobs)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"tenfold.build: kernels written to {layout.work if options.kernels_only else layout.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
