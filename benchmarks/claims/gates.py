"""Gates on claims: a bound on a difference of means over seeds, judged from the records there are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from kernels.frames import REPOSITORY
from tenfold.train.claims import RESULTS, load_records

__all__ = ["Gate", "Means", "judge", "means"]

Means = Mapping[str, Mapping[str, float]]
_LEAST_SEEDS = 3


@dataclass(frozen=True)
class Gate:
    """One gate and what the records say of it."""

    text: str
    found: str
    verdict: str


def means(package: str) -> dict[str, dict[str, float]]:
    """Arm -> metric -> mean, of arms with at least three seeds."""
    by_arm: dict[str, list[Mapping[str, float]]] = {}
    for record in load_records(package, REPOSITORY / RESULTS):
        by_arm.setdefault(record["arm"], []).append(record["metrics"])
    return {
        arm: {name: fmean(m[name] for m in found) for name in found[0]}
        for arm, found in by_arm.items()
        if len(found) >= _LEAST_SEEDS
    }


def judge(
    text: str,
    value: Callable[[Means], float],
    least: float,
    package: str,
    *,
    gates: bool = True,
    pilot: bool = False,
) -> Gate:
    """A lower bound on a number made of the means; "not run" where an arm has fewer than three seeds.

    Args:
        text: what must hold.
        value: of the means; a missing arm or metric means not run.
        least: the bound.
        package: whose records.
        gates: False reports the number without judging it.
        pilot: the bound comes from pilot runs and not yet from recorded seeds: it is shown, and gates nothing.
    """
    try:
        number = value(means(package))
    except KeyError:
        return Gate(text, "–", "not run with three seeds yet")
    verdict = ("holds" if number >= least else "does not hold") if gates else "reported"
    return Gate(text, f"{number:+.2f}", f"{verdict} (pilot bound)" if gates and pilot else verdict)
