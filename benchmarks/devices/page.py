"""The tables of docs/kernels/cuda.md, from the committed records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from devices.resources import RECORD as RESOURCES
from devices.workloads import WORKLOADS
from tenfold.build import find_sources
from tenfold.build_cuda import families

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


def kernel_table() -> str:
    """One row for each file of kernels."""
    resources, emulated, hardware = _read(RESOURCES), _read(EMULATED), _read(HARDWARE)
    ran = emulated.get("operators", {})
    measured = {op for row in hardware.get("rows", []) if row["differs"] is None for op in row["operators"]}
    where = f"{hardware['gpu']}, {hardware['date']}, {hardware['commit'][:9]}" if hardware else ""
    lines = [
        "| kernels | operators | compiled for | registers | spilled bytes | shared bytes | emulated | on hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, operators in sorted(operators_of_files().items()):
        mine = [k for k in resources.get("kernels", []) if k["file"] == name]
        values = [a for k in mine for a in k["architectures"].values()]

        def span(key: str, values: list[dict[str, int]] = values) -> str:
            numbers = sorted(v[key] for v in values)
            return (
                ""
                if not numbers
                else f"{numbers[0]} to {numbers[-1]}"
                if numbers[0] != numbers[-1]
                else str(numbers[0])
            )

        archs = sorted({a for k in mine for a in k["architectures"]}, key=float)
        calls = sum(ran[op]["calls"] for op in operators if op in ran)
        runs = sum(ran[op]["runs"] for op in operators if op in ran)
        complete = calls and all(op in ran for op in operators)
        lines.append(
            f"| `{name}` ({len(mine)}) | {', '.join(f'`{op}`' for op in operators)} "
            f"| {f'{archs[0]} to {archs[-1]}' if archs else ''} | {span('registers')} | {span('spill_stores')} "
            f"| {span('shared')} | {f'{calls} calls, {runs} runs' if complete else ''} "
            f"| {where if all(op in measured for op in operators) else ''} |"
        )
    return "\n".join(lines)


def prediction_table() -> str:
    """Bytes moved, the floor at 3 TB/s, and what was measured."""
    rows = {row["workload"]: row for row in _read(HARDWARE).get("rows", [])}
    lines = [
        "| workload | MB moved | floor, us | expected to be bound by | measured, us |",
        "|---|---|---|---|---|",
    ]
    for w in WORKLOADS:
        time = rows.get(w.name, {}).get("microseconds")
        measured = "" if time is None else f"{time:.0f}"
        lines.append(f"| {w.name} | {w.bytes / 1e6:.2f} | {w.floor:.1f} | {w.bound} | {measured} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """The page with fresh tables between its marks."""
    for mark, table in (("kernels", kernel_table()), ("predictions", prediction_table())):
        begin, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text
