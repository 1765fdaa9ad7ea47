"""Command line of the kernel benchmark."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kernels.frames import REPOSITORY
from kernels.output import is_wrong, line, summary, write_all
from kernels.registry import select
from kernels.run import FULL, QUICK, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kernels",
        description="Measure our kernels against every installable peer.",
        epilog="examples:\n  python -m kernels --quick\n  python -m kernels --only nms --threads 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="some rows, few rounds, about a minute")
    parser.add_argument("--only", metavar="WORD", help="rows whose key, op or title contains the word")
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", help="thread counts, the first being 1"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="samples for each candidate")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: benchmarks/results for a full run, build/bench for a part",
    )
    options = parser.parse_args(arguments)
    rows = select(options.only, options.quick)
    if not rows:
        parser.error(f"--only: no row contains {options.only!r}; see --list")
    if options.threads and (options.threads[0] != 1 or min(options.threads) < 1):
        parser.error("--threads: the first count must be 1, which the others are compared with")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1 is expected")
    if options.list:
        print("\n".join(f"{row.key:24} {row.title}" for row in rows))
        return 0
    plan = QUICK if options.quick else FULL
    plan = replace(plan, threads=tuple(options.threads or plan.threads), rounds=options.rounds or plan.rounds)
    is_part = options.quick or options.only or options.threads or options.rounds
    folder = options.out or REPOSITORY / ("build/bench" if is_part else "benchmarks/results")
    results = run(rows, plan, progress=lambda text: print(text, file=sys.stderr, flush=True))
    paths = write_all(results, folder)
    for record in results["rows"]:
        print("  ".join(line(record)[i] for i in (0, 2, 3, 4, 5, 6, 7, 10, 13)))
    print(summary(results))
    print(f"report: {paths[2]}")
    return int(is_wrong(results))


if __name__ == "__main__":
    sys.exit(main())
