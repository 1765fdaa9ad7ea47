"""Speed of the packages beside their peers: `python -m speed [package ...]`."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import speed
from kernels.frames import REPOSITORY
from kernels.model import Row
from kernels.output import is_wrong, line, write_records
from kernels.run import FULL, QUICK, run

#: Modules beside the packages' rows.
_OURS = ("__main__", "docs")


def modules() -> list[str]:
    """Names of the packages that have rows, as imported."""
    return sorted(m.name for m in pkgutil.iter_modules(speed.__path__) if m.name not in _OURS)


def rows(package: str) -> tuple[Row, ...]:
    """The rows of `speed/<package>.py`."""
    found: tuple[Row, ...] = importlib.import_module(f"speed.{package}").ROWS
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `speed-<package>.json` and `.md`; exit code 1 when a result was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m speed",
        description="Measure packages beside their peers. Without names: every package that has rows.",
        epilog="examples:\n  python -m speed\n  python -m speed ttfnet --quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("packages", nargs="*", metavar="package")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, rows of the quick run, into build/bench"
    )
    parser.add_argument(
        "--only", metavar="WORD", default="", help="rows whose key or title contains the word"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    options = parser.parse_args(arguments)
    names = [name.replace("-", "_") for name in options.packages] or modules()
    if strangers := sorted(set(names) - set(modules())):
        parser.error(f"no rows for {', '.join(strangers)}; there are {', '.join(modules()) or 'none'}")
    is_part = options.quick or options.only or options.threads != [1, 2]
    folder = REPOSITORY / ("build/bench" if is_part else "benchmarks/results")
    return max((_measure(name, options, folder) for name in names), default=0)


def _measure(name: str, options: argparse.Namespace, folder: Path) -> int:
    chosen = [
        row
        for row in rows(name)
        if options.only in f"{row.key} {row.title}" and (row.quick or not options.quick)
    ]
    # Whole networks take seconds a call: fewer rounds keep the session within its budget.
    plan = replace(QUICK if options.quick else replace(FULL, most=10.0), threads=tuple(options.threads))
    results = run(chosen, plan, progress=lambda text: print(text, file=sys.stderr, flush=True))
    paths = write_records(results, folder, f"speed-{name}")
    for record in results["rows"]:
        print("  ".join(line(record)[i] for i in (0, 2, 3, 4, 5, 6, 7, 10, 13)))
    print(f"results: {paths[1]}")
    return int(is_wrong(results))


if __name__ == "__main__":
    sys.exit(main())
