"""What a package's `demo` returns, prints and leaves behind: one form for all of them.

A demo is a quick run and not the claim: one seed, the deciding arm and its main control. `write_demo` leaves
``demo.json`` beside the pictures, from which the report page makes the package's card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tenfold._errors import UserInputError
from tenfold.io import read_json, write_json

__all__ = ["DemoResult", "print_demo", "read_demo", "step_teller", "write_demo"]

_FILE = "demo.json"


@dataclass(frozen=True)
class DemoResult:
    """One quick run.

    Attributes:
        title: of the card.
        claim: what the run is about, in one sentence.
        number: our figure in words, such as ``"AP50 41.2 after 60 s"``.
        control: the control's figure in words.
        passed: the run did what it should; not a gate on the claim.
        pictures: PNG files, in the folder that the demo was given.
        columns: heads of the table.
        rows: the table; numbers are printed with one decimal.
        notes: sentences to print below it.
        seed: of everything random.
        seconds: duration of everything.
    """

    title: str
    claim: str
    number: str
    control: str
    passed: bool
    pictures: tuple[Path, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    notes: tuple[str, ...]
    seed: int
    seconds: float


def print_demo(result: DemoResult) -> None:
    """Print claim, table, notes and the places of the pictures.

    >>> print_demo(DemoResult("t", "It works.", "1", "0", True, (), ("arm", "AP"), (("ours", 1.25),), (), 0, 2))
    It works.
    arm   AP
    ours  1.2
    1 (control: 0)
    2 s; seed 0
    """
    print(result.claim)
    _print_table([result.columns, *result.rows])
    for note in result.notes:
        print(note)
    print(f"{result.number} (control: {result.control})")
    pictures = ", ".join(map(str, result.pictures))
    print(f"{result.seconds:.0f} s; seed {result.seed}" + (f"; pictures: {pictures}" if pictures else ""))


def _print_table(table: Sequence[Sequence[str | float]]) -> None:
    words = [[value if isinstance(value, str) else f"{value:.1f}" for value in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    for row in words:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def step_teller(title: str, steps: int, every: int, progress: bool = True) -> Callable[[int], None]:
    """A function that prints how far a training is, at every so many steps and at the last one.

    Args:
        title: of what is trained.
        steps: in all.
        every: so many of them.
        progress: False prints nothing.

    >>> tell = step_teller("ours", 5, 2)
    >>> for step in range(1, 6):
    ...     tell(step)
    ours: step 2 of 5
    ours: step 4 of 5
    ours: step 5 of 5
    """

    def tell(step: int) -> None:
        if progress and (step % every == 0 or step == steps):
            print(f"{title}: step {step} of {steps}", flush=True)

    return tell


def write_demo(result: DemoResult, out: Path) -> Path:
    """Write ``demo.json`` into ``out``, atomically, and return its path. Pictures are named, not moved.

    Raises:
        ValueError: a picture lies outside ``out``.
    """
    strays = [str(path) for path in result.pictures if path.parent.resolve() != Path(out).resolve()]
    if strays:
        raise ValueError(f"write_demo: pictures: {', '.join(strays)} is not in {out}")
    path = Path(out) / _FILE
    write_json(path, asdict(result) | {"pictures": [picture.name for picture in result.pictures]})
    return path


def read_demo(out: Path) -> DemoResult:
    """What `write_demo` left in ``out``.

    Raises:
        UserInputError: no such file, or not a demo's result.
    """
    path = Path(out) / _FILE
    document = read_json(path)
    names = {field.name for field in fields(DemoResult)}
    if not isinstance(document, dict) or set(document) != names:
        raise UserInputError(f"{path}: not a demo's result: expected the fields {', '.join(sorted(names))}")
    tuples: dict[str, Any] = {
        "pictures": tuple(Path(out) / name for name in document["pictures"]),
        "columns": tuple(document["columns"]),
        "rows": tuple(tuple(row) for row in document["rows"]),
        "notes": tuple(document["notes"]),
    }
    return DemoResult(**document | tuples)
