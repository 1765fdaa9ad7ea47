"""Writes build/report/index.html: `python -m report [--out DIR] [--skip-bench] [--skip-packages]`."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from kernels.frames import REPOSITORY
from kernels.output import card_parts, is_wrong, summary
from kernels.registry import select
from kernels.run import QUICK, run
from report.kernel_cards import CARDS, Card
from report.package_cards import demos, run_all
from tenfold import __version__
from tenfold.viz import Preformatted, Report, provenance

INTRO = (
    "Every number on this page was measured by the run that wrote it, on this machine. "
    "Cards are quick runs; recorded results lie in benchmarks/results."
)


def bench_card() -> Card:
    """A quick benchmark of the kernels against whichever peers are installed."""
    results = run(select(None, True), QUICK, progress=lambda text: print(text, file=sys.stderr, flush=True))
    return Card(
        "Ratios to the peers",
        "The kernels beside every installable peer, on one thread of this processor: what is met and what is missed.",
        summary(results),
        "every ratio's result was compared with the peer's or an oracle's in the same run",
        not is_wrong(results),
        card_parts(results),
    )


def add(page: Report, build: Callable[[], Card], name: str = "", *, wide: bool = False) -> bool:
    """Add a card; one that raises becomes a failed card and does not hide the others."""
    start = time.perf_counter()
    try:
        card = build()
    except Exception:
        trace = traceback.format_exc()
        print(trace, file=sys.stderr)
        title = name or build.__name__.replace("_", " ")
        page.card(title, number="failed", status="failed", wide=wide, parts=[Preformatted(trace)])
        return False
    status = "ok" if card.passed else "failed"
    page.card(
        card.title,
        claim=card.claim,
        number=card.number,
        control=card.control,
        status=status,
        quick=True,
        wide=wide,
        parts=card.parts,
    )
    seconds = time.perf_counter() - start if card.seconds is None else card.seconds
    print(f"{status:6} {seconds:5.1f} s  {card.title}: {card.number}", flush=True)
    return card.passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the page; the exit code is 1 when a card failed."""
    parser = argparse.ArgumentParser(prog="python -m report", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "report")
    parser.add_argument("--skip-bench", action="store_true", help="leave the timings out")
    parser.add_argument("--skip-packages", action="store_true", help="leave out the cards that train")
    options = parser.parse_args(arguments)
    page = Report(
        "tenfold", INTRO, provenance=provenance(0, ("torch", "torchvision", "numpy"), tenfold=__version__)
    )
    page.section("Kernels on LiDAR frames")
    passed = [add(page, build) for build in CARDS]
    if not options.skip_bench:
        page.section("Kernels against their peers")
        passed.append(add(page, bench_card, wide=True))
    if not options.skip_packages:
        page.section("Detectors and packages")
        passed += [add(page, build, demo.name) for demo, build in run_all(options.out, demos())]
    options.out.mkdir(parents=True, exist_ok=True)
    page.write(options.out / "index.html")
    print(f"report: {options.out / 'index.html'}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
