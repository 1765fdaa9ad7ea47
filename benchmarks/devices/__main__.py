"""`python -m devices compile | run | page`: records of the CUDA kernels and the page made of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devices import hardware, page, resources
from tenfold.build import BuildError


def main(argv: list[str] | None = None) -> int:
    """Run one of the three verbs."""
    parser = argparse.ArgumentParser(prog="python -m devices", description=__doc__)
    parser.add_argument("verb", choices=("compile", "run", "page"))
    parser.add_argument("--work", type=Path, default=Path("build") / "cuda", help="where objects go")
    options = parser.parse_args(argv)
    try:
        if options.verb == "compile":
            record = resources.measure(options.work)
            print(resources.table(record))
            resources.write(record)
        elif options.verb == "run":
            record = hardware.run()
            hardware.write(record)
            for row in record["rows"]:
                print(
                    row["workload"],
                    row["differs"] or f"{row['microseconds']:.0f} us, {row['fraction']:.0%} of the floor",
                )
    except (BuildError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    page.PAGE.write_text(page.replaced(page.PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
