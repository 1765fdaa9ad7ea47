"""Registers, spills and shared memory of every kernel, from the compiler."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tenfold.build import Layout, find_sources
from tenfold.build_cuda import architectures_wanted, compile_kernels, cuda_version
from tenfold.io import write_text

RECORD = Path(__file__).resolve().parents[1] / "results" / "cuda-kernels.json"

# What is kept of every kernel and architecture; sizes in bytes.
FIGURES = ("registers", "spill_stores", "spill_loads", "shared", "stack")

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


def measure(work: Path, *, jobs: int | None = None) -> dict[str, Any]:
    """Compile what is not compiled yet and return the record."""
    return record_of(compile_kernels(Layout(find_sources(), work, work), jobs=jobs))


def record_of(texts: dict[Path, str]) -> dict[str, Any]:
    """The record of the compiler's output for each file."""
    kernels: dict[tuple[str, str], dict[str, Any]] = {}
    for source, text in texts.items():
        file = f"{source.parent.name}/{source.name}"
        entries = parse(text)
        for entry, name in zip(entries, short_name([e["mangled"] for e in entries]), strict=True):
            kernel = kernels.setdefault((file, name), {"file": file, "kernel": name, "architectures": {}})
            kernel["architectures"][entry["architecture"]] = [entry.get(key, 0) for key in FIGURES]
    return {
        "date": datetime.date.today().isoformat(),
        "nvcc": cuda_version(),
        "architectures": list(architectures_wanted()),
        "figures": list(FIGURES),
        "kernels": [kernels[key] for key in sorted(kernels)],
    }


def span(kernels: list[dict[str, Any]], figure: str) -> tuple[int, int] | None:
    """Lowest and highest value over kernels and architectures; None without any."""
    at = FIGURES.index(figure)
    values = [figures[at] for kernel in kernels for figures in kernel["architectures"].values()]
    return (min(values), max(values)) if values else None


def table(record: dict[str, Any]) -> str:
    """The record as text: the largest value over the architectures."""
    lines = [f"{'file':42} {'kernel':60} regs spill stack  smem"]
    for kernel in record["kernels"]:
        most = [span([kernel], key) or (0, 0) for key in ("registers", "spill_stores", "stack", "shared")]
        figures = "{:4} {:5} {:5} {:5}".format(*(high for _, high in most))
        lines.append(f"{kernel['file']:42} {kernel['kernel'][:60]:60} {figures}")
    return "\n".join(lines)


def write(record: dict[str, Any]) -> None:
    """Write the committed record, a line for each kernel."""
    head = json.dumps({key: value for key, value in record.items() if key != "kernels"}, indent=1)
    rows = ",\n  ".join(json.dumps(kernel) for kernel in record["kernels"])
    write_text(RECORD, f'{head.removesuffix("}").rstrip()},\n "kernels": [\n  {rows}\n ]\n}}\n')
