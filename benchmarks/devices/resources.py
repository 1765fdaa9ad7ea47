"""Registers, spills and shared memory of every kernel, from the compiler."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tenfold.build import Layout, find_sources
from tenfold.build_cuda import architectures_wanted, cuda_sources, cuda_version, kernel_resources

RECORD = Path(__file__).resolve().parents[1] / "results" / "cuda-kernels.json"

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def short_name(mangled: list[str]) -> list[str]:
    """Readable names: a kernel that runs a function object for every index carries that object's name."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    ).stdout
    names = []
    for line in text.splitlines():
        plain = re.sub(r"\(anonymous namespace\)::|\w+::", "", line.removeprefix("void "))
        plain = plain.split("(")[0]
        names.append(re.sub(r"^each_kernel<(.*)>$", r"\1", plain.strip()).strip())
    return names


def parse(text: str) -> list[dict[str, Any]]:
    """Return one entry for each kernel and architecture of the compiler's output."""
    entries: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := _ENTRY.search(line):
            entries.append({"mangled": match[1], "architecture": f"{match[2][:-1]}.{match[2][-1]}"})
        elif (match := _SPILLS.search(line)) and entries:
            entries[-1].update(stack=int(match[1]), spill_stores=int(match[2]), spill_loads=int(match[3]))
        elif (match := _USED.search(line)) and entries:
            entries[-1].update(registers=int(match[1]), shared=int(match[2] or 0))
    return entries


def measure(work: Path, *, jobs: int = 2) -> dict[str, Any]:
    """Compile everything and return the record."""
    sources = find_sources()
    layout = Layout(sources, work, work)
    wanted = architectures_wanted()
    files = cuda_sources(sources)
    with ThreadPoolExecutor(jobs) as pool:
        texts = list(pool.map(lambda source: kernel_resources(layout, source, wanted), files))
    kernels: dict[tuple[str, str], dict[str, Any]] = {}
    for source, text in zip(files, texts, strict=True):
        entries = parse(text)
        for entry, name in zip(entries, short_name([e["mangled"] for e in entries]), strict=True):
            kernel = kernels.setdefault(
                (source.parent.name, name),
                {"file": f"{source.parent.name}/{source.name}", "kernel": name, "architectures": {}},
            )
            kernel["architectures"][entry["architecture"]] = {
                key: entry.get(key, 0)
                for key in ("registers", "spill_stores", "spill_loads", "shared", "stack")
            }
    return {
        "date": datetime.date.today().isoformat(),
        "nvcc": cuda_version(),
        "architectures": list(wanted),
        "kernels": [kernels[key] for key in sorted(kernels)],
    }


def table(record: dict[str, Any]) -> str:
    """The record as text: the largest value over the architectures."""
    lines = [f"{'file':38} {'kernel':58} regs spill  smem"]
    for kernel in record["kernels"]:
        most = {
            key: max(a[key] for a in kernel["architectures"].values())
            for key in ("registers", "spill_stores", "shared")
        }
        row = f"{kernel['file']:38} {kernel['kernel'][:58]:58} {most['registers']:4} {most['spill_stores']:5}"
        lines.append(f"{row} {most['shared']:5}")
    return "\n".join(lines)


def write(record: dict[str, Any]) -> None:
    """Write the committed record."""
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
