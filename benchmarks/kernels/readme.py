"""Keeps the README's kernel table in step with the committed results.

python -m kernels.readme --write     # make the table from benchmarks/results/kernels.json
python -m kernels.readme --check     # exit code 1 when README and results are out of step
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kernels.frames import REPOSITORY
from kernels.output import Results, load, main_records, markdown_table, milliseconds, times
from tenfold.io import write_text

BEGIN = "<!-- kernels:begin -->"
END = "<!-- kernels:end -->"


def table(results: Results) -> str:
    """The short table: one line a row, one thread, float32."""
    lines = []
    for record in main_records(results):
        ours, goal = record["ours"], record["goal"]
        best = record["best_same"] or record["best_weaker"]
        if goal and goal["against"] and goal["value"] is not None:
            best = {"peer": goal["against"], "ratio": goal["value"]}
        is_bytes = record["measure"] != "time"
        value = (
            f"{ours['bytes'] / 1e6:.2f} MB"
            if is_bytes and ours.get("bytes")
            else milliseconds(ours.get("median_ms"))
        )
        star = "" if not best or record["peers"][best["peer"]]["same"] else " *"
        lines.append(
            [
                record["title"],
                value,
                f"{best['peer']}{star}" if best else "–",
                times(best["ratio"]) if best else "–",
                record["check"]["text"] if ours["status"] == "ok" else ours["status"],
                f"{goal['text']}: {goal['verdict']}" if goal else "–",
            ]
        )
    stamp = results["stamp"]
    head = ("kernel", "ours, ms", "best peer", "faster by", "result", "must / stretch goal")
    foot = (
        f"One thread, process CPU time, {stamp['cpu']}, {stamp['date']}. "
        "\\* other semantics. Details: [benchmarks/results/kernels.md](benchmarks/results/kernels.md)."
    )
    return f"{markdown_table(head, lines)}\n\n{foot}"


def spliced(text: str, results: Results) -> str:
    """The README with its table replaced; a ValueError when the markers are not there once each, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README needs the lines {BEGIN!r} and {END!r}, once each and in this order")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.readme", description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="replace the table")
    action.add_argument("--check", action="store_true", help="exit with 1 when the table is out of step")
    parser.add_argument("--readme", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "kernels.json"
    )
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = spliced(old, load(options.results))
    except (OSError, ValueError) as error:
        print(f"kernels.readme: {error}", file=sys.stderr)
        return 2
    if options.write:
        write_text(options.readme, new)
        return 0
    if old != new:
        print(
            "kernels.readme: the table is out of step; run `python -m kernels.readme --write`",
            file=sys.stderr,
        )
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
