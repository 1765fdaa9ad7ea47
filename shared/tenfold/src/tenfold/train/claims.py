"""Claim records: one JSON file per (package, arm, seed), and the table that is made from the files.

A cell is run once for a given state of its sources. Its record says what was run, on what, with which
versions, and how long it took, so that every number in a document can be traced to a file and re-made by
one command.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tenfold._errors import UserInputError
from tenfold.io import write_text

__all__ = ["RESULTS", "Cell", "cpu_model", "environment_stamp", "load_records", "source_hash", "table"]

RESULTS = Path("benchmarks/results/claims")
_SOURCE_SUFFIXES = {".py", ".yaml", ".yml", ".json", ".cpp", ".cu", ".h"}


@dataclass(frozen=True, order=True)
class Cell:
    """One arm of one package's claim, for one seed.

    >>> str(Cell("unix-kd", "entropy-48", 0).path())
    'benchmarks/results/claims/unix-kd/entropy-48-0.json'
    """

    package: str
    arm: str
    seed: int

    def path(self, results: Path = RESULTS) -> Path:
        """Where the record lies."""
        return Path(results) / self.package / f"{self.arm}-{self.seed}.json"

    def load(self, results: Path = RESULTS) -> dict[str, Any] | None:
        """The record, or None where there is none yet.

        Raises:
            UserInputError: the file is not a record of this cell.
        """
        path = self.path(results)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserInputError(f"{path}: cannot read the claim record: {error}") from error
        if not isinstance(record, dict) or record.get("arm") != self.arm or record.get("seed") != self.seed:
            raise UserInputError(f"{path}: arm, seed: not those of the record's place {self.arm}-{self.seed}")
        return record

    def is_fresh(self, key: str, results: Path = RESULTS) -> bool:
        """Whether there is a record made with this key."""
        record = self.load(results)
        return record is not None and record.get("key") == key

    def run(
        self,
        measure: Callable[[], Mapping[str, float]],
        *,
        sources: Iterable[str | Path],
        dataset: str,
        config: Mapping[str, Any] | None = None,
        results: Path = RESULTS,
        force: bool = False,
    ) -> dict[str, Any]:
        """The cell's record: the one on disk if it is fresh, else a new one from ``measure``.

        Args:
            measure: Runs the cell and returns its metrics: names to finite numbers.
            sources: Files, folders or importable module names that the numbers depend on; see `source_hash`.
            dataset: The data set's honest name, such as "CIFAR-10 (JPEG re-encoded)".
            config: Settings of the arm, plain JSON data; part of the key.
            results: Folder of all records.
            force: Run even if fresh.

        Raises:
            ValueError: ``measure`` returned nothing, or something that is not a finite number.
        """
        key = source_hash(sources, {"config": dict(config or {}), "dataset": dataset})
        old = self.load(results)
        if old is not None and old.get("key") == key and not force:
            return old
        start = time.perf_counter()
        metrics = _checked(self, measure())
        record = {
            "package": self.package,
            "arm": self.arm,
            "seed": self.seed,
            "key": key,
            "dataset": dataset,
            "seconds": round(time.perf_counter() - start, 3),
            "metrics": metrics,
            "config": dict(config or {}),
            "environment": environment_stamp(self.package),
        }
        path = self.path(results)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")
        return record


def source_hash(sources: Iterable[str | Path], extra: Mapping[str, Any] | None = None) -> str:
    """Hash of source files and settings, the same on every machine and in every folder.

    Args:
        sources: Paths (a folder means every source file below it) and names of importable modules (a
            package means its whole folder). Modules are not imported, their parent packages are.
        extra: Plain JSON data that belongs to the key.

    Raises:
        ValueError: no sources, or one that is neither a path nor a module.
    """
    files = sorted({item for source in sources for item in _files(source)})
    if not files:
        raise ValueError("source_hash: sources: got none; expected files, folders or module names")
    digest = hashlib.sha256(json.dumps(extra or {}, sort_keys=True, allow_nan=False).encode())
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def environment_stamp(*packages: str) -> dict[str, Any]:
    """Date, versions, CPU and threads: what a number needs beside it. Imports nothing that is not loaded.

    Args:
        *packages: Distributions whose version matters, besides ``tenfold``, ``torch`` and ``numpy``.

    >>> sorted(environment_stamp())[:3]
    ['cpu', 'cpu_count', 'date']
    """
    torch = sys.modules.get("torch")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: _version(name) for name in ("tenfold", "torch", "numpy", *packages)},
    }


def load_records(package: str, results: Path = RESULTS) -> list[dict[str, Any]]:
    """Every record of a package, by arm and seed."""
    paths = sorted((Path(results) / package).glob("*.json"))
    cells = [Cell(package, *_arm_and_seed(path)) for path in paths]
    records = [cell.load(results) for cell in sorted(cells)]
    return [record for record in records if record is not None]


def table(
    records: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    *,
    control: str | None = None,
    digits: int = 2,
) -> str:
    """Markdown table of arms: mean ± deviation (n) of each metric, and paired differences to a control.

    The difference is taken seed by seed over the seeds that both arms have, which removes what the seed
    does to both; with it stand its own mean, deviation and count. A single seed has no deviation and shows
    none.

    Args:
        records: Records of one package, from `Cell.run` or `load_records`.
        metrics: Names of the metrics, one column each; a dash where an arm does not measure it.
        control: Arm to compare with; adds a difference column per metric.
        digits: Decimals.

    Raises:
        ValueError: ``control`` has no records, no arm has a metric, or a cell appears twice.
    """
    arms: dict[str, dict[int, Mapping[str, float]]] = {}
    for record in records:
        by_seed = arms.setdefault(record["arm"], {})
        if record["seed"] in by_seed:
            raise ValueError(f"table: records: arm {record['arm']!r} seed {record['seed']} appears twice")
        by_seed[record["seed"]] = record["metrics"]
    if control is not None and control not in arms:
        raise ValueError(
            f"table: control: got {control!r}; expected one of {', '.join(sorted(arms)) or 'no arms'}"
        )
    known = {name for by_seed in arms.values() for values in by_seed.values() for name in values}
    for name in metrics:
        if name not in known:
            raise ValueError(f"table: metrics: got {name!r}; expected one of {', '.join(sorted(known))}")
    header = ["arm", *metrics, *(f"{name} − {control}" for name in metrics if control is not None)]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for arm, by_seed in arms.items():
        cells = [
            _summary([values[name] for values in by_seed.values() if name in values], digits)
            for name in metrics
        ]
        if control is not None:
            cells += [_paired(arm, control, arms, name, digits) for name in metrics]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return "\n".join(lines)


def _paired(
    arm: str, control: str, arms: Mapping[str, Mapping[int, Mapping[str, float]]], name: str, digits: int
) -> str:
    if arm == control:
        return "–"
    shared = sorted(set(arms[arm]) & set(arms[control]))
    if not shared:
        return "no shared seed"
    pairs = [(arms[arm][seed], arms[control][seed]) for seed in shared]
    differences = [ours[name] - other[name] for ours, other in pairs if name in ours and name in other]
    return _summary(differences, digits, signed=True)


def _summary(values: Sequence[float], digits: int, signed: bool = False) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.{digits}f}"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean}{spread} (n={len(values)})"


def _checked(cell: Cell, metrics: Mapping[str, float]) -> dict[str, float]:
    if not metrics:
        raise ValueError(f"{cell.package}: {cell.arm}: metrics: got none; expected at least one")
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{cell.package}: {cell.arm}: {name}: got {value!r}; expected a finite number")
    return dict(metrics)


def _files(source: str | Path) -> list[tuple[str, Path]]:
    """(name, path) pairs; names are relative to the source: the place of a checkout does not matter."""
    path = Path(source)
    label = path.name
    if not path.exists() and isinstance(source, str):
        path, label = _module_path(source), source
    if path.is_file():
        return [(label, path)]
    if not path.is_dir():
        raise ValueError(f"source_hash: sources: got {str(source)!r}; expected a file, a folder or a module")
    below = (p for p in path.rglob("*") if p.is_file() and p.suffix in _SOURCE_SUFFIXES)
    return [(f"{label}/{p.relative_to(path).as_posix()}", p) for p in below if "__pycache__" not in p.parts]


def _module_path(name: str) -> Path:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(f"source_hash: sources: got {name!r}; expected a file, a folder or a module")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations is not None else origin


def _arm_and_seed(path: Path) -> tuple[str, int]:
    arm, _, seed = path.stem.rpartition("-")
    if not arm or not seed.isdigit():
        raise UserInputError(f"{path}: name: expected <arm>-<seed>.json")
    return arm, int(seed)


def cpu_model() -> str:
    """The processor's name as Linux knows it; elsewhere what Python says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(distribution: str) -> str | None:
    """Version of an installed distribution, or of a loaded module run from its sources."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        module = sys.modules.get(distribution.replace("-", "_"))
        return getattr(module, "__version__", None)
