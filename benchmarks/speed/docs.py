"""Puts short tables of the recorded speeds into docs/<package>.md, between `<!-- speed:begin -->` and `end`.

`python -m speed.docs` says whether the pages are up to date, `python -m speed.docs --write` brings them there.
"""

import re
import sys
from pathlib import Path
from typing import Any

from kernels.frames import REPOSITORY
from kernels.output import Results, load, markdown_table, milliseconds, times
from tenfold.io import write_text

_MARKED = re.compile(r"(<!-- speed:begin -->\n).*?(<!-- speed:end -->)", re.DOTALL)
_RESULTS = REPOSITORY / "benchmarks" / "results"


def pages() -> list[Path]:
    """Pages with the marks."""
    found = sorted((REPOSITORY / "docs").glob("*.md"))
    return [page for page in found if _MARKED.search(page.read_text(encoding="utf-8"))]


def _beside(record: dict[str, Any]) -> str:
    told = []
    for name, peer in record["peers"].items():
        if peer["status"] == "ok":
            ratio = f", {times(peer['ratio'])}" if peer["ratio"] is not None else ""
            told.append(f"{name}{'' if peer['same'] else ' *'} {milliseconds(peer['median_ms'])}{ratio}")
    return "; ".join(told) or "–"


def table(results: Results) -> str:
    """A line a row: our times with one thread and with two, and the peers that ran in the same minutes."""
    by_key: dict[str, dict[int, dict[str, Any]]] = {}
    for record in results["rows"]:
        if record["measure"] == "time" and record["mode"] == "fresh" and record["ours"]["status"] == "ok":
            by_key.setdefault(record["key"], {})[record["threads"]] = record
    lines = []
    for records in by_key.values():
        one = records[1]
        two = milliseconds(records[2]["ours"]["median_ms"]) if 2 in records else "–"
        lines.append([one["title"], milliseconds(one["ours"]["median_ms"]), two, _beside(one)])
    head = ("what", "ms, one thread", "ms, two threads", "beside it, one thread: ms, faster by")
    stamp = results["stamp"]
    foot = (
        f"Medians; processor time with one thread, wall time with two; {stamp['cpu']}, {stamp['date']}. \\* another "
        "network or other semantics: no ratio unless the results were compared."
    )
    return f"{markdown_table(head, lines)}\n\n{foot}\n"


def render(page: Path) -> str:
    """The page with what its record says between its marks."""
    record = _RESULTS / f"speed-{page.stem.replace('-', '_')}.json"
    body = table(load(record)) if record.is_file() else "Not recorded yet.\n"
    return _MARKED.sub(lambda match: f"{match[1]}{body}{match[2]}", page.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    """Exit code 1 when a page was out of date and not written."""
    stale = False
    for page in pages():
        wanted = render(page)
        same = page.read_text(encoding="utf-8") == wanted
        if not same and "--write" in arguments:
            write_text(page, wanted)
        stale |= not same and "--write" not in arguments
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
