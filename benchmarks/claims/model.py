"""What a claim is: arms, seeds, how one cell is measured, and what its numbers depend on."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tenfold.train.claims import Cell


@dataclass(frozen=True)
class Claim:
    """One experiment of a package.

    Args:
        name: of the experiment, unique within the package.
        package: distribution; the records lie in ``benchmarks/results/claims/<package>/``.
        title: heading of the table.
        arms: names, unique within the package over all its experiments.
        seeds: each arm is run with each.
        measure: ``(arm, seed) -> metrics``, finite numbers.
        dataset: the data set's honest name.
        sources: importable modules (or paths) that the numbers depend on; a changed file makes a cell stale.
        metrics: those shown, in order.
        more: shown in a second table, without differences.
        control: arm whose paired differences are shown beside, or None.
        config: settings of an arm, plain JSON data.
        text: sentences below the table: what is claimed, what is not.
        digits: decimals of the table.
    """

    name: str
    package: str
    title: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    measure: Callable[[str, int], Mapping[str, float]]
    dataset: str
    sources: tuple[str, ...]
    metrics: tuple[str, ...]
    _: KW_ONLY
    more: tuple[str, ...] = ()
    control: str | None = None
    config: Callable[[str], Mapping[str, Any]] = lambda arm: {}
    text: str = ""
    digits: int = 2

    def cells(self, arm: str | None = None, seed: int | None = None) -> list[Cell]:
        """Cells in the order in which they are run: all arms of a seed before the next seed."""
        return [
            Cell(self.package, name, number)
            for number in self.seeds
            if seed in (None, number)
            for name in self.arms
            if arm in (None, name)
        ]
