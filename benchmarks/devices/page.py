"""The tables of docs/kernels/cuda.md, from the committed records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from devices import resources
from devices.workloads import WORKLOADS
from tenfold.build import find_sources
from tenfold.build_cuda import families

RESOURCES = resources.RECORD
RESULTS = RESOURCES.parent
EMULATED = RESULTS / "cuda-emulated.json"
HARDWARE = RESULTS / "cuda-hardware.json"
PAGE = RESULTS.parents[1] / "docs" / "kernels" / "cuda.md"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def operators_of_files() -> dict[str, list[str]]:
    """Operators of every file of kernels, by the headers that their bindings include."""
    sources = find_sources()
    found: dict[str, list[str]] = {}
    for path in sorted(sources.glob("bind/*.cpp")):
        operators = re.findall(r'm\.impl\("(\w+)", TENFOLD_BOX', path.read_text())
        for family in families(sources, f"bind/{path.name}"):
            if (sources / f"{family}_cuda.cu").is_file():
                found.setdefault(f"{family}_cuda.cu", []).extend(operators)
    return found


def _range(ends: tuple[Any, Any] | None) -> str:
    if ends is None:
        return ""
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def operators_that_ran(record: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Calls and runs of every operator over all tests, but for operators that failed in one."""
    found: dict[str, dict[str, int]] = {}
    for operators in record.get("tests", {}).values():
        for name, entry in operators.items():
            total = found.setdefault(name, {"calls": 0, "runs": 0, "failed": 0})
            for key, value in entry.items():
                total[key] += value
    return {name: total for name, total in found.items() if total["failed"] == 0}


def _calls(ran: dict[str, dict[str, int]], operators: list[str], key: str) -> int:
    """Sum over the operators, or 0 unless every one of them ran."""
    return sum(ran[op][key] for op in operators) if all(op in ran for op in operators) else 0


def kernel_table() -> str:
    """One row for each file of kernels."""
    compiled, hardware = _read(RESOURCES), _read(HARDWARE)
    emulated, measured = operators_that_ran(_read(EMULATED)), operators_that_ran(hardware)
    lines = [
        "| kernels | operators | compiled for | registers | spilled bytes | shared bytes | emulated | on hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, operators in sorted(operators_of_files().items()):
        mine = [k for k in compiled.get("kernels", []) if k["file"] == name]
        archs = sorted({a for k in mine for a in k["architectures"]}, key=float)
        figures = [_range(resources.span(mine, key)) for key in ("registers", "spill_stores", "shared")]
        runs = _calls(emulated, operators, "runs")
        done = f"{_calls(emulated, operators, 'calls')} calls, {runs} runs" if runs else ""
        where = ""
        if agreed := _calls(measured, operators, "calls"):
            where = f"{agreed} calls on {hardware['gpu']}, {hardware['date']}, {hardware['commit'][:9]}"
        cells = [
            f"`{name}` ({len(mine)})",
            ", ".join(f"`{op}`" for op in operators),
            _range((archs[0], archs[-1]) if archs else None),
            *figures,
            done,
            where,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def prediction_table() -> str:
    """Bytes moved, the floor at 3 TB/s, what is expected, and what was measured."""
    measured = {row["workload"]: row.get("microseconds") for row in _read(HARDWARE).get("rows", [])}
    launches = _read(EMULATED).get("launches", {})
    lines = [
        "| workload | MB moved | floor, us | launches | expected, us | of the bandwidth | bound by | measured, us |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for w in WORKLOADS:
        count = launches.get(w.name)
        expected = None if count is None else w.expected(count)
        cells = [
            w.name,
            f"{w.bytes / 1e6:.2f}",
            f"{w.floor:.1f}",
            "" if count is None else str(count),
            "" if expected is None else f"{expected:.0f}",
            "" if expected is None else f"{w.floor / expected:.1%}",
            w.bound,
            "" if measured.get(w.name) is None else f"{measured[w.name]:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """The page with fresh tables between its marks."""
    for mark, table in (("kernels", kernel_table()), ("predictions", prediction_table())):
        begin, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text
