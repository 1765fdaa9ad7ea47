"""Command line of the claims: `python -m claims package[:arm[:seed]] ...`."""

import argparse
import sys
from collections.abc import Sequence

from claims.run import load, modules, run, select, write_table
from tenfold._errors import UserInputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run stale cells, write the tables; exit code 1 when a cell failed, 2 when a name is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m claims",
        description="Run the small-scale experiments; fresh cells are skipped. Without names: every package.",
        epilog="examples:\n  python -m claims ttfnet\n  python -m claims ttfnet:elliptic:0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cells", nargs="*", metavar="package[:arm[:seed]]")
    parser.add_argument("--force", action="store_true", help="run fresh cells too")
    parser.add_argument("--list", action="store_true", help="print the cells and stop")
    parser.add_argument(
        "--table", action="store_true", help="only write the tables from the records there are"
    )
    options = parser.parse_args(arguments)
    try:
        chosen = [pair for word in options.cells or modules() for pair in select(word)]
        if options.list:
            print("\n".join(f"{cell.package}:{cell.arm}:{cell.seed}" for _, cell in chosen))
            return 0
        failed = [] if options.table else run(chosen, force=options.force, progress=_say)
        for package in sorted({claim.package for claim, _ in chosen}):
            print(f"table: {write_table(package)} ({len(load(package))} experiments)")
    except UserInputError as error:
        print(error, file=sys.stderr)
        return 2
    return int(bool(failed))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
