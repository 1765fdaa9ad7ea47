"""Puts the tables made from the claim records, and the verdicts on the gates, into docs/<package>.md.

Where a package's claims have a function ``pictures``, what it draws goes to docs/images.

`python -m claims.docs` says whether the documents are up to date, `python -m claims.docs --write` brings them there.
"""

import importlib
import re
import sys
from pathlib import Path

from claims.run import modules
from kernels.frames import REPOSITORY
from tenfold.io import write_text
from tenfold.train.claims import RESULTS

_MARKED = re.compile(r"(<!-- claims:begin -->\n).*?(<!-- claims:end -->)", re.DOTALL)


def render(text: str, name: str) -> str:
    """The document of a package, named as imported, with what the records say between its marks."""
    tables = REPOSITORY / RESULTS / _document(name)
    body = tables.read_text(encoding="utf-8") if tables.is_file() else "Nothing has been run yet.\n"
    gates = importlib.import_module(f"claims.{name}").gates()
    verdicts = "\n".join(f"| {gate.text} | {gate.found} | {gate.verdict} |" for gate in gates)
    body = body.replace("\n## ", "\n### ").replace("## ", "### ", 1) if body.startswith("## ") else body
    judged = (
        f"### Gates\n\n| what must hold (means over seeds) | found | verdict |\n|---|---|---|\n{verdicts}\n"
    )
    return _MARKED.sub(lambda match: f"{match[1]}{body}\n{judged}{match[2]}", text)


def _document(name: str) -> str:
    return f"{name.replace('_', '-')}.md"


def documents(name: str) -> dict[Path, str]:
    """Files that follow from the records of a package, named as imported: its page and its pictures."""
    page = REPOSITORY / "docs" / _document(name)
    module = importlib.import_module(f"claims.{name}")
    drawn = module.pictures() if hasattr(module, "pictures") else {}
    images = {REPOSITORY / "docs" / "images" / file: svg for file, svg in drawn.items()}
    return {page: render(page.read_text(encoding="utf-8"), name), **images}


def main(arguments: list[str]) -> int:
    """Exit code 1 when a document was out of date and not written."""
    stale = False
    for name in modules():
        for path, wanted in documents(name).items():
            same = path.is_file() and path.read_text(encoding="utf-8") == wanted
            if not same and "--write" in arguments:
                write_text(path, wanted)
            stale |= not same and "--write" not in arguments
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
