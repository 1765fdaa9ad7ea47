"""What a row, a peer and a goal are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kernels.limits import Limits

Call = Callable[[], Any]


@dataclass(frozen=True)
class Verdict:
    """Outcome of a comparison: whether it passed, and the words that the table prints."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Case:
    """Inputs of one row at one size; `size` is what the growth exponent is fitted against."""

    size: int
    text: str
    data: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]


@dataclass(frozen=True)
class Peer:
    """Someone else's way to the same result.

    Args:
        name: printed in the table.
        package: distribution whose version is printed.
        module: imported to see whether the peer is installed.
        build: makes the timed call; everything a user would prepare once (trees are not) belongs outside it.
        normal: brings its raw result into the row's comparable form.
        same: same semantics as ours; otherwise `note` says how they differ and its result is not compared.
        note: differences, and what the time includes.
        max_size: largest case size it is run at (memory or time that grows with the square).
    """

    name: str
    package: str
    module: str
    build: Callable[[Case], Call]
    normal: Callable[[Any, Case], Any] = lambda raw, _: raw
    same: bool = True
    note: str = ""
    max_size: int | None = None


@dataclass(frozen=True)
class Goal:
    """Release bar (`must`) and target (`stretch`) of a row, for one thread and float32.

    `ratio` goals are lower bounds of peer time / our time, `ms` and `bytes` goals are upper bounds of ours, `slowdown`
    goals those of our time beside a competing process / alone.
    A ratio is against the best peer with the same semantics, or against the peer named in `against`.
    """

    kind: Literal["ratio", "ms", "bytes", "slowdown"]
    must: float
    stretch: float | None = None
    against: str | None = None

    def judge(self, value: float | None) -> str:
        """The verdict: "stretch met", "must met", "missed", or "not judged" without a value."""
        if value is None:
            return "not judged"
        if self.stretch is not None and self._reached(value, self.stretch):
            return "stretch met"
        return "must met" if self._reached(value, self.must) else "missed"

    def _reached(self, value: float, bar: float) -> bool:
        return value >= bar if self.kind == "ratio" else value <= bar

    def text(self) -> str:
        """Both bars in words."""
        form = {"ratio": "×{:g}", "ms": "≤ {:g} ms", "bytes": "≤ {:.3g} MB", "slowdown": "≤ {:g}× alone"}[
            self.kind
        ]
        scale = 1e6 if self.kind == "bytes" else 1
        return " / ".join(form.format(bar / scale) for bar in (self.must, self.stretch) if bar is not None)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        key: unique, used by `--only` and in the JSON.
        op: name of our operator.
        title: words for people.
        make: inputs at a multiple of the nominal size, for a dtype name.
        ours: makes our timed call with fresh outputs.
        normal: brings our result into the form that `agree` compares.
        agree: compares (ours, other) in normal form.
        peers: see :class:`Peer`.
        oracle: an independent result in normal form, computed once and not timed.
        ours_out: makes our timed call that reuses its output (`out=`), where the op has that.
        goal: see :class:`Goal`.
        limit: (name, seconds at best) for a case, from the machine's measured limits.
        parallel: the row should gain from a second thread.
        growth: measured at a quarter and four times the size as well.
        near_linear: its growth exponent must stay within 1.15.
        measure: "time"; "bytes" of scratch memory, as the kernels count them and a peer's result says; "peak", by how
            much a call of ours and of each peer makes the process grow; or "slowdown" beside a competing process.
        dtypes: names of torch dtypes.
        same_bits: every thread count gives our result bit by bit; else, for networks with torch's own dense
            convolutions, `agree` judges.
        quick: part of the quick run.
        reason: why the goal is missed, where it is known to be (rows of kernels have theirs in `reasons`).
    """

    key: str
    op: str
    title: str
    make: Callable[[float, str], Case]
    ours: Callable[[Case], Call]
    agree: Callable[[Any, Any], Verdict]
    normal: Callable[[Any, Case], Any] = lambda raw, _: raw
    peers: tuple[Peer, ...] = ()
    oracle: Callable[[Case], Any] | None = None
    ours_out: Callable[[Case], Call] | None = None
    goal: Goal | None = None
    limit: Callable[[Case, Limits], tuple[str, float]] | None = None
    parallel: bool = False
    growth: bool = True
    near_linear: bool = True
    measure: Literal["time", "bytes", "peak", "slowdown"] = "time"
    dtypes: tuple[str, ...] = ("float32",)
    same_bits: bool = True
    quick: bool = False
    reason: str = ""


def _arrays(value: Any) -> list[np.ndarray]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return [np.asarray(part) for part in parts]


def bit_equal(ours: Any, other: Any) -> Verdict:
    """Same shapes and same numbers; index dtypes may differ."""
    for index, (a, b) in enumerate(zip(_arrays(ours), _arrays(other), strict=True)):
        if a.shape != b.shape:
            return Verdict(False, f"differs: output {index} has shape {a.shape}, the other {b.shape}")
        if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            return Verdict(False, f"differs: {int((a != b).sum())} of {a.size} values of output {index}")
    return Verdict(True, "bit-equal")


def within(tolerance: float) -> Callable[[Any, Any], Verdict]:
    """Integers equal, floats within an absolute tolerance scaled by max(1, |other|)."""

    def agree(ours: Any, other: Any) -> Verdict:
        worst = 0.0
        for index, (a, b) in enumerate(zip(_arrays(ours), _arrays(other), strict=True)):
            if a.shape != b.shape:
                return Verdict(False, f"differs: output {index} has shape {a.shape}, the other {b.shape}")
            if a.dtype.kind in "iub":
                if not np.array_equal(a, b):
                    count = int((a != b).sum())
                    return Verdict(False, f"differs: {count} of {a.size} values of output {index}")
                continue
            gap = np.abs(a.astype(np.float64) - b) / np.maximum(1.0, np.abs(b))
            if not np.isfinite(gap).all():
                return Verdict(False, f"differs: output {index} is not finite in both")
            worst = max(worst, float(gap.max(initial=0.0)))
        passed = worst <= tolerance
        return Verdict(passed, f"{'within' if passed else 'differs by'} {worst:.1e}")

    return agree


def all_but(share: float) -> Callable[[Any, Any], Verdict]:
    """Equal but for a small share of entries: points that lie on a face to within rounding."""

    def agree(ours: Any, other: Any) -> Verdict:
        (a,), (b,) = _arrays(ours), _arrays(other)
        if a.shape != b.shape:
            return Verdict(False, f"differs: shape {a.shape}, the other {b.shape}")
        count = int((a != b).sum())
        if count == 0:
            return Verdict(True, "bit-equal")
        passed = count <= share * a.size
        return Verdict(passed, f"{'' if passed else 'differs: '}{count} of {a.size} entries differ")

    return agree
