"""Errors of a network over a test set: clean, attacked, and verified by each method; radii by bisection."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bound_prop.attack import PGD, pgd_errors
from bound_prop.bounds import BoundedModule, Bounds, LineChoice
from bound_prop.lines import Ramp
from bound_prop.sets import LpBall
from bound_prop.specs import margin_spec
from tenfold.io import write_text

__all__ = ["Report", "certified_radius", "evaluate", "neuron_status", "verified", "write_csv"]

_CLIP = (0.0, 1.0)


def verified(margins: Tensor) -> Tensor:
    """``(B,)``: all margin bounds ``(B, S)`` are finite and above 0. NaN and 0 do not count."""
    return (torch.isfinite(margins) & (margins > 0)).all(1)


@dataclass
class Report:
    """What was measured, image by image.

    Attributes:
        eps: the radius.
        columns: name -> ``(N,)``: ``label``, ``predicted``, ``clean`` and ``pgd`` (1 where wrong),
            ``margin/<method>`` (lowest margin bound), ``radius`` where asked for.
        status: layer -> shares of neuron states by interval bounds, averaged over images.
        seconds: name -> seconds for one image.
    """

    eps: float
    columns: dict[str, Tensor] = field(default_factory=dict)
    status: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """Errors in percent, and the mean of each method's lowest margin bound."""
        result: dict[str, float] = {}
        for name in ("clean", "pgd"):
            if name in self.columns:
                result[name] = 100.0 * float(self.columns[name].double().mean())
        for name, values in self.columns.items():
            if name.startswith("margin/"):
                method = name.removeprefix("margin/")
                result[f"verified/{method}"] = 100.0 * float(1 - verified(values[:, None]).double().mean())
                result[name] = float(values.double().mean())
        if "radius" in self.columns:
            result["radius"] = float(self.columns["radius"].double().mean())
        return result

    def table(self) -> str:
        """Markdown."""
        rows = ["| measure | value |", "|---|---:|"]
        return "\n".join(rows + [f"| {name} | {value:.3f} |" for name, value in self.summary().items()])


def _ordinary(values: Tensor) -> Tensor:
    """A tensor that may take part in a gradient; a trainer's test loop hands over others."""
    return values.clone() if values.is_inference() else values


@torch.inference_mode(False)
@torch.no_grad()
def evaluate(
    bounded: BoundedModule,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    methods: Sequence[str] = ("ibp", "crown-lbp"),
    lines: LineChoice = "tight",
    attack: PGD | None = None,
    batch_size: int = 100,
    num_classes: int = 10,
    status: bool = True,
    radius: float | None = None,
) -> Report:
    """Measures a network on images ``(N, *input)`` in [0, 1] with labels ``(N,)``.

    Args:
        bounded: the network; evaluated in evaluation mode.
        images: see above.
        labels: see above.
        eps: radius of the infinity-norm ball, cut with [0, 1].
        methods: methods whose lowest margin is recorded.
        lines: their lines.
        attack: PGD settings; None leaves the attack out.
        batch_size: images at a time.
        num_classes: number of classes.
        status: also count neuron states.
        radius: also bisect each image's certified radius up to this value, by the last method.
    """
    was = bounded.training
    bounded.eval()
    parts: list[dict[str, Tensor]] = []
    report = Report(eps)
    spent: dict[str, float] = {}
    counted: list[tuple[int, dict[str, dict[str, float]]]] = []
    try:
        for start in range(0, len(images), batch_size):
            x, y = (_ordinary(each[start : start + batch_size]) for each in (images, labels))
            predicted = bounded(x).argmax(1)
            part = {"label": y, "predicted": predicted, "clean": predicted != y}
            region = LpBall(x, eps, clip=_CLIP)
            spec = margin_spec(y, num_classes, x.dtype)
            for method in methods:
                begin = time.perf_counter()
                bounds = bounded.compute_bounds(region, spec, method=method, upper=False, lines=lines)
                spent[method] = spent.get(method, 0.0) + time.perf_counter() - begin
                assert bounds.lower is not None
                part[f"margin/{method}"] = bounds.lower.amin(1)
                if status and method == methods[0]:
                    counted.append((len(x), neuron_status(bounds)))
            if attack is not None:
                begin = time.perf_counter()
                with torch.enable_grad():
                    part["pgd"] = pgd_errors(bounded, region, y, attack)
                spent["pgd"] = spent.get("pgd", 0.0) + time.perf_counter() - begin
            if radius is not None:
                part["radius"] = certified_radius(bounded, x, y, methods[-1], radius, num_classes=num_classes)
            parts.append(part)
    finally:
        bounded.train(was)
    report.columns = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    report.status = _averaged(counted)
    report.seconds = {name: value / len(images) for name, value in spent.items()}
    return report


def _averaged(counted: list[tuple[int, dict[str, dict[str, float]]]]) -> dict[str, dict[str, float]]:
    total = sum(n for n, _ in counted)
    if not counted:
        return {}
    return {
        layer: {state: sum(n * c[layer][state] for n, c in counted) / total for state in shares}
        for layer, shares in counted[0][1].items()
    }


def neuron_status(bounds: Bounds) -> dict[str, dict[str, float]]:
    """Shares of neurons by state for each ReLU-like layer, over all examples.

    ``dead`` (upper bound at most 0), ``alive``, ``unstable``; with knees also ``right-dead`` (lower bound at
    least the knee). Lyu et al. 2021, section 5.
    """
    result = {}
    for name, (low, high) in bounds.layers.items():
        activation = bounds.activations.get(name)
        if not isinstance(activation, Ramp):
            continue
        dead = high <= 0
        beyond = torch.zeros_like(dead) if activation.knee is None else (low >= activation.knee) & ~dead
        top = torch.full_like(high, torch.inf) if activation.knee is None else activation.knee.expand_as(high)
        alive = (low >= 0) & (high <= top) & ~dead & ~beyond
        shares = {"dead": dead, "alive": alive, "right-dead": beyond, "unstable": ~(dead | alive | beyond)}
        result[name] = {state: float(mask.double().mean()) for state, mask in shares.items()}
    return result


@torch.no_grad()
def certified_radius(
    bounded: BoundedModule,
    images: Tensor,
    labels: Tensor,
    method: str = "crown-lbp",
    limit: float = 0.5,
    *,
    steps: int = 10,
    num_classes: int = 10,
    norm: float = float("inf"),
) -> Tensor:
    """Largest radius ``(B,)`` at which each image is verified, by bisection in ``[0, limit]``.

    The number returned was verified itself (0 where even the image is not classified rightly). With tight lines
    verification is monotone in the radius, so nothing above it by more than ``limit / 2^steps`` is.
    """
    spec = margin_spec(labels, num_classes, images.dtype)
    clip = _CLIP if norm == float("inf") else None

    def holds(radius: Tensor) -> Tensor:
        region = LpBall(images, radius, norm, clip)
        lower = bounded.compute_bounds(region, spec, method=method, upper=False).lower
        assert lower is not None
        return verified(lower)

    low = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    high = torch.full_like(low, limit)
    low = torch.where(holds(high), high, low)
    for _ in range(steps):
        middle = (low + high) / 2
        ok = holds(middle)
        low, high = torch.where(ok, middle, low), torch.where(ok, high, middle)
    return low


def write_csv(report: Report, path: Path, first: int = 0) -> None:
    """One line for each image: index, label, prediction, whether it fails, lowest margins.

    Raises:
        UserInputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *report.columns])
    columns = [values.tolist() for values in report.columns.values()]
    for index, row in enumerate(zip(*columns, strict=True), first):
        writer.writerow([index, *(int(v) if isinstance(v, bool) else v for v in row)])
    write_text(path, text.getvalue())
