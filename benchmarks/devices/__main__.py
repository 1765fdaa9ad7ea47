"""`python -m devices compile | link | run | page`: records of the CUDA kernels and the page made of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devices import hardware, page, resources
from tenfold.build import BuildError, Layout, find_sources
from tenfold.build_cuda import build_cuda
from tenfold.io import write_text


def main(argv: list[str] | None = None) -> int:
    """Run one of the verbs."""
    parser = argparse.ArgumentParser(prog="python -m devices", description=__doc__)
    parser.add_argument("verb", choices=("compile", "link", "run", "page"))
    parser.add_argument("--work", type=Path, help="where objects go; default: build/cuda of the core")
    parser.add_argument("--jobs", type=int, help="compile this many files at a time")
    parser.add_argument("--calls", type=Path, help="run: what the tests on the GPU wrote of themselves")
    parser.add_argument("--sanitizers", nargs="*", default=[], help="run: tools under which they passed")
    options = parser.parse_args(argv)
    sources = find_sources()
    work = options.work or sources.parent / "build" / "cuda"
    try:
        if options.verb == "compile":
            record = resources.measure(work, jobs=options.jobs)
            print(resources.table(record))
            resources.write(record)
        elif options.verb == "link":
            print(build_cuda(Layout(sources, work, work), jobs=options.jobs))
        elif options.verb == "run":
            record = hardware.run(options.calls, options.sanitizers)
            hardware.write(record)
            for row in record["rows"]:
                print(
                    row["workload"],
                    row["differs"] or f"{row['microseconds']:.0f} us, {row['fraction']:.0%} of the bandwidth",
                )
    except (BuildError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    write_text(page.PAGE, page.replaced(page.PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
