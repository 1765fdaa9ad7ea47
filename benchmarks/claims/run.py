"""Runs cells, and makes the table of a package from whatever cells there are."""

import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import claims
from claims.model import Claim
from kernels.frames import REPOSITORY
from kernels.output import write_text
from tenfold._errors import UserInputError
from tenfold.train.claims import RESULTS, Cell, source_hash, table

FOLDER = REPOSITORY / RESULTS
_OWN = {"__main__", "cifar10", "distill", "docs", "gates", "lirpa", "model", "run"}


def modules() -> list[str]:
    """Names of the packages that have claims, as imported."""
    return sorted(m.name for m in pkgutil.iter_modules(claims.__path__) if m.name not in _OWN)


def load(package: str) -> tuple[Claim, ...]:
    """The claims of a package, named as installed or as imported.

    Raises:
        UserInputError: there are none.
    """
    name = package.replace("-", "_")
    if name not in modules():
        raise UserInputError(f"claims: no claims of {package!r}; there are {', '.join(modules()) or 'none'}")
    found: tuple[Claim, ...] = importlib.import_module(f"claims.{name}").CLAIMS
    return found


def select(word: str) -> list[tuple[Claim, Cell]]:
    """The cells named by ``package[:arm[:seed]]``.

    Raises:
        UserInputError: no such package, arm or seed.
    """
    package, arm, seed = (*word.split(":"), "", "")[:3]
    found = load(package)
    if seed and not seed.isdigit():
        raise UserInputError(f"claims: seed: got {seed!r}; expected a number")
    cells = [
        (claim, cell) for claim in found for cell in claim.cells(arm or None, int(seed) if seed else None)
    ]
    if not cells:
        arms = ", ".join(name for claim in found for name in claim.arms)
        raise UserInputError(f"claims: {word!r} names no cell; arms of {package} are {arms}")
    return cells


def key(claim: Claim, arm: str) -> str:
    """What a fresh record of the arm has as its key."""
    return source_hash(claim.sources, {"config": dict(claim.config(arm)), "dataset": claim.dataset})


def run_cell(claim: Claim, cell: Cell, results: Path = FOLDER, *, force: bool = False) -> bool:
    """Run the cell unless its record is fresh; whether it was run."""
    if cell.is_fresh(key(claim, cell.arm), results) and not force:
        return False
    cell.run(
        lambda: claim.measure(cell.arm, cell.seed),
        sources=claim.sources,
        dataset=claim.dataset,
        config=claim.config(cell.arm),
        results=results,
        force=force,
    )
    return True


def run(
    cells: Sequence[tuple[Claim, Cell]],
    results: Path = FOLDER,
    *,
    force: bool = False,
    progress: Callable[[str], None] = print,
) -> list[str]:
    """Run every stale cell; names of those that failed. A failed cell does not stop the others."""
    failed = []
    for number, (claim, cell) in enumerate(cells, 1):
        name = f"{cell.package}:{cell.arm}:{cell.seed}"
        start = time.perf_counter()
        try:
            word = "ran" if run_cell(claim, cell, results, force=force) else "fresh"
        except Exception as error:
            failed.append(name)
            word = f"failed: {type(error).__name__}: {error}"
        progress(f"[{number}/{len(cells)}] {name}: {word} ({time.perf_counter() - start:.0f} s)")
    return failed


def markdown(found: Sequence[Claim], results: Path = FOLDER) -> str:
    """Tables of a package's claims from the records there are; says which cells are missing or stale."""
    return "\n".join(_section(claim, results) for claim in found)


def _section(claim: Claim, results: Path) -> str:
    records, missing, stale = [], [], []
    for cell in claim.cells():
        record = cell.load(results)
        if record is None:
            missing.append(f"{cell.arm}:{cell.seed}")
            continue
        records.append(record)
        if record["key"] != key(claim, cell.arm):
            stale.append(f"{cell.arm}:{cell.seed}")
    lines = [f"## {claim.title}", ""]
    if records:
        control = claim.control if any(r["arm"] == claim.control for r in records) else None
        lines += [table(records, claim.metrics, control=control, digits=claim.digits), ""]
        if claim.more:
            lines += [table(records, claim.more, digits=claim.digits), ""]
        lines += [_provenance(claim, records), ""]
    lines += [claim.text, ""] if claim.text else []
    lines += [f"Not run yet: {', '.join(missing)}.", ""] if missing else []
    lines += [f"Older than the sources: {', '.join(stale)}.", ""] if stale else []
    return "\n".join(lines)


def _provenance(claim: Claim, records: Sequence[dict[str, Any]]) -> str:
    stamps = [record["environment"] for record in records]
    days = sorted({stamp["date"][:10] for stamp in stamps})
    torch = ", ".join(sorted({str(stamp["versions"]["torch"]) for stamp in stamps}))
    cpus = ", ".join(sorted({stamp["cpu"] for stamp in stamps}))
    seconds = sum(record["seconds"] for record in records)
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    cost = f"{seconds / 60:.0f} minutes in all"
    return f"{claim.dataset}; {when}, torch {torch}, {cpus}; {cost}. Mean ± deviation (seeds)."


def write_table(package: str, results: Path = FOLDER) -> Path:
    """Write ``<package>.md`` beside the package's records and return its path."""
    found = load(package)
    path = Path(results) / f"{found[0].package}.md"
    write_text(path, markdown(found, results))
    return path
