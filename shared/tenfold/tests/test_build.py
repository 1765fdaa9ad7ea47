"""The builder's ninja file: what needs torch, and what is compiled once for all."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tenfold import build
from tenfold.build import BuildError, Layout, find_sources
from tenfold.build_cuda import architectures_wanted


@pytest.fixture
def layout(tmp_path):
    return Layout(find_sources(), tmp_path / "work", tmp_path / "out")


@pytest.fixture
def no_ccache(monkeypatch):
    monkeypatch.setattr(build, "_through_ccache", lambda compiler: False)


def no_torch():
    raise BuildError("torch")


def test_kernels_alone_need_no_torch(monkeypatch, layout):
    whole = build._write_ninja(layout).lines
    monkeypatch.setattr(build, "torch_folder", no_torch)
    with pytest.raises(BuildError, match="torch"):
        build._write_ninja(layout)
    kernels = build._write_ninja(layout, kernels_only=True).lines
    assert sum("nms.nms_cpu.o" in line for line in kernels) == len(build._levels())
    assert not [line for line in kernels if "link" in line and line.startswith("build ")]
    assert set(kernels) <= set(whole)  # the same commands: the next build finds the objects


@pytest.mark.usefixtures("no_ccache")
def test_headers_are_compiled_once_a_variant_and_written_once(layout):
    lines = build._write_ninja(layout).lines
    for variant in (*build._levels(), "bind"):
        header = layout.work / variant / "headers.h"
        assert sum(line.startswith(f"build {header}.gch:") for line in lines) == 1
        objects = [
            line for line in lines if line.startswith(f"build {layout.work / variant}/") and ".o:" in line
        ]
        assert objects
        assert all(line.endswith(f" | {header}.gch") for line in objects)
    stamp = header.stat().st_mtime_ns
    build._write_ninja(layout)
    assert header.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("command", ["ccache g++", "{bin}/ccache g++ -pipe", "{bin}/g++", "g++"])
def test_ccache_gets_no_compiled_headers(monkeypatch, layout, tmp_path, command):
    """It would keep none of the objects; what is compiled stays the same."""
    usual = build._write_ninja(layout).lines
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ccache").write_text("#!/bin/sh\n")
    (folder / "ccache").chmod(0o755)
    (folder / "g++").symlink_to("ccache")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CXX", command.format(bin=folder))
    lines = build._write_ninja(layout).lines
    assert f"cxx = {command.format(bin=folder)}" in lines
    assert not [line for line in lines if ".gch" in line or "-include " in line]

    def objects(lines):
        return [line.partition(" |")[0] for line in lines if line.startswith("build ") and ": cxx " in line]

    assert objects(lines) == objects(usual) != []


def test_the_cache_is_absolute(tmp_path, monkeypatch):
    """Ninja works in the folder of objects, where a relative path would name another place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENFOLD_CACHE", "mine")
    assert build.cache_folder().parent == tmp_path / "mine"
    monkeypatch.setenv("TENFOLD_CACHE", "")
    assert build.cache_folder().parent == Path.home() / ".cache" / "tenfold"


def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found \(looked for g\+\+, clang\+\+, c\+\+\)"):
        build.cxx_compiler()


def test_architectures_go_from_the_oldest_to_the_newest(monkeypatch):
    """The oldest one's PTX makes the machine code of the others; PTX of the newest stays for those to come."""
    monkeypatch.setenv("TENFOLD_CUDA_ARCHS", "10.0;9.0, 8.0 9.0")
    assert architectures_wanted() == ("8.0", "9.0", "10.0")
    monkeypatch.setenv("TENFOLD_CUDA_ARCHS", "9")
    with pytest.raises(BuildError, match="TENFOLD_CUDA_ARCHS: got '9'"):
        architectures_wanted()


@pytest.mark.usefixtures("no_ccache")
def test_a_path_with_a_space(tmp_path):
    spaced = Layout(find_sources(), tmp_path / "my work", tmp_path / "out")
    lines = build._write_ninja(spaced).lines
    assert any("-include '" in line and "my work/bind/headers.h'" in line for line in lines)
    assert any(line.startswith("build ") and "my$ work/bind/headers.h.gch: header" in line for line in lines)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_headers_agree_on_vectors_where_no_instruction_set_is_known(tmp_path):
    """The portable build: a vector of doubles is one type in every header."""
    source = tmp_path / "portable.cpp"
    source.write_text('#include "common/vec.h"\n#include "iou/rects.h"\n')
    march = ["-march=x86-64"] if "v3" in build._levels() else []
    command = ["g++", "-std=c++17", "-fsyntax-only", "-w", *march, f"-I{find_sources()}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
