"""Verdicts: cheap bounds first, then dear ones, with an attack in between; and whole files of properties."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bound_prop.attack import PGD
from bound_prop.bounds import BoundedModule
from bound_prop.branch import Answer, Budget, search
from bound_prop.evaluation import verified
from bound_prop.graph.build import GraphBuilder
from bound_prop.graph.onnx import OnnxNetwork, load_onnx
from bound_prop.sets import InputSet
from bound_prop.specs import Disjunction, LinearSpec
from bound_prop.vnnlib import Property, load_vnnlib
from tenfold._errors import UserInputError

__all__ = ["FileVerdict", "Verdict", "verify", "verify_file"]


_ATTACK = PGD(steps=40, restarts=2)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is known of one example.

    Attributes:
        result: ``"verified"``, ``"falsified"`` or ``"unknown"``.
        method: the method that verified it, ``"attack"``, or "".
        margin: best lower bound of the worst row, minus its right-hand side.
        witness: ``(*input)`` that violates the specification, or None.
    """

    result: Literal["verified", "falsified", "unknown"]
    method: str
    margin: float
    witness: Tensor | None = None


def verify(
    model: nn.Module | BoundedModule,
    region: InputSet,
    spec: Tensor | LinearSpec,
    methods: Sequence[str] = ("ibp", "crown-lbp", "alpha-crown"),
    *,
    attack: PGD | None = _ATTACK,
    dtype: torch.dtype | None = None,
    timeout: float | None = None,
) -> list[Verdict]:
    """Shows ``C f(x) > rhs`` over each set of a batch, or finds an input that violates it.

    Bounds go from cheap to dear over what is still open; the attack comes after the first of them. A bound that is
    not finite verifies nothing. With ``dtype=torch.float64`` bounds are rounded outward, so that "verified" holds
    in real arithmetic.

    Args:
        model: any module, or one that is wrapped already; evaluated in evaluation mode.
        region: B sets of inputs.
        spec: rows ``(B, S, K)``, or with right-hand sides.
        methods: from cheap to dear.
        attack: settings, or None.
        dtype: of the computation; the region's by default.
        timeout: seconds; what is open then is unknown.

    >>> from bound_prop import LpBall, margin_spec
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.eye(2))
    >>> spec = margin_spec(torch.tensor([0, 0]), 2)
    >>> points = LpBall(torch.tensor([[1.0, 0.0], [0.3, 0.2]]), 0.2)
    >>> [verdict.result for verdict in verify(net, points, spec)]
    ['verified', 'falsified']
    """
    start = time.monotonic()
    region = region.to(dtype) if dtype is not None else region
    bounded = (
        model
        if isinstance(model, BoundedModule)
        else BoundedModule(model, region.center[:1].to(_dtype(model)))
    )
    outward = region.center.dtype == torch.float64 and dtype is not None
    rows, rhs = (spec.C, spec.rhs) if isinstance(spec, LinearSpec) else (spec, None)
    rows = rows.to(region.center)
    count = len(region)
    limits = torch.zeros(rows.shape[:2]).to(rows) if rhs is None else rhs.to(rows)
    best = torch.full((count,), -math.inf, dtype=rows.dtype, device=rows.device)
    results: list[Verdict | None] = [None] * count
    was = bounded.training
    bounded.eval()
    try:
        for number, method in enumerate(methods):
            open_ = torch.tensor([k for k in range(count) if results[k] is None], dtype=torch.long)
            if not len(open_) or (timeout is not None and time.monotonic() - start > timeout):
                break
            with torch.no_grad():
                bounds = bounded.compute_bounds(
                    region[open_], rows[open_], limits[open_], method, upper=False,
                    rounding="outward" if outward else "nearest",
                )  # fmt: skip
            assert bounds.lower is not None
            least = bounds.lower.amin(1)
            best[open_] = torch.fmax(best[open_], least)
            for k, ok in zip(open_.tolist(), verified(bounds.lower).tolist(), strict=True):
                if ok:
                    results[k] = Verdict("verified", method, float(best[k]))
            if number == 0 and attack is not None:
                _attack(bounded, region, rows, limits, attack, results, best)
    finally:
        bounded.train(was)
    return [r or Verdict("unknown", "", float(b)) for r, b in zip(results, best, strict=True)]


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.float32)


def _attack(
    bounded: BoundedModule,
    region: InputSet,
    rows: Tensor,
    limits: Tensor,
    attack: PGD,
    results: list[Verdict | None],
    best: Tensor,
) -> None:
    open_ = torch.tensor([k for k, r in enumerate(results) if r is None], dtype=torch.long)
    if not len(open_):
        return

    def gap(outputs: Tensor) -> Tensor:
        values = torch.einsum("bsk,bk->bs", rows[open_], outputs.flatten(1))
        return (values - limits[open_]).amin(1)

    with torch.enable_grad():
        hit, witness = attack.search(
            bounded.graph.forward, region[open_], lambda y: -gap(y), lambda y: gap(y) <= 0
        )
    for k, found, x in zip(open_.tolist(), hit.tolist(), witness, strict=True):
        if found:
            results[k] = Verdict("falsified", "attack", float(best[k]), x.detach())


@dataclass(frozen=True, eq=False)
class FileVerdict:
    """Answer on a network file and a property file.

    Attributes:
        result: ``"holds"``, ``"violated"`` or ``"unknown"``.
        reason: why it is unknown.
        inputs: the counterexample, ``(n,)`` float32, or None.
        outputs: what onnxruntime computes for it, ``(K,)``, or None.
        seconds: spent.
        branches: parts of the search space that were bounded.
    """

    result: Literal["holds", "violated", "unknown"]
    reason: str
    inputs: Tensor | None
    outputs: Tensor | None
    seconds: float
    branches: int

    def word(self) -> str:
        """The word of VNN-COMP: sat, unsat, timeout or unknown."""
        if self.result != "unknown":
            return "unsat" if self.result == "holds" else "sat"
        return "timeout" if self.reason == "timeout" else "unknown"

    def text(self) -> str:
        """VNN-COMP's result file: the word, and for sat the values of the counterexample."""
        lines = [self.word()]
        if self.inputs is not None and self.outputs is not None:
            pairs = [
                f"({side}_{k} {value!r})"
                for side, values in (("X", self.inputs), ("Y", self.outputs))
                for k, value in enumerate(values.double().tolist())
            ]
            lines += ["(" + "\n".join(pairs) + ")"]
        return "\n".join(lines) + "\n"


def verify_file(
    model: str | Path | OnnxNetwork,
    property: str | Path | Property,
    timeout: float = 120.0,
    *,
    attack: PGD | None = None,
    note: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> FileVerdict:
    """Decides a VNN-LIB property of an ONNX network: attack, bounds, splitting, within a time limit.

    "holds" rests on bounds with outward rounding; "violated" comes with an input for which onnxruntime, which
    shares no code with the search, satisfies the unsafe condition.

    Args:
        model: file, or a network read before.
        property: file, or a property read before.
        timeout: seconds.
        attack: settings of the first attack.
        note: receives progress.
        clock: measures the limit; by default wall time.

    Raises:
        UserInputError: files that cannot be read, or sizes that do not fit each other.
        UnsupportedOperationError: an operation that cannot be bounded.
    """
    budget = Budget(timeout, clock=clock)
    network = model if isinstance(model, OnnxNetwork) else load_onnx(model)
    unsafe = property if isinstance(property, Property) else load_vnnlib(property)
    name = network.path.name
    sizes = math.prod(network.input_shape), math.prod(network.graph.output_shape)
    if sizes != (unsafe.inputs, unsafe.outputs):
        raise UserInputError(
            f"{name}: model: has {sizes[0]} inputs and {sizes[1]} outputs; the property has {unsafe.inputs} and"
            f" {unsafe.outputs}"
        )

    def confirm(x: Tensor) -> bool:
        outputs = network.run(x).double()
        if not bool(torch.isfinite(outputs).all()):
            return False
        wide = x.double()
        return any(
            bool(((wide >= part.box.lower[0]) & (wide <= part.box.upper[0])).all())
            and bool((part.M @ outputs <= part.h).all())
            for part in unsafe.parts
        )

    answer = search(network.graph, unsafe.parts, confirm, budget, attack=attack, note=note)
    outputs = None if answer.witness is None else network.run(answer.witness)
    return FileVerdict(answer.result, answer.reason, answer.witness, outputs, budget.spent(), budget.branches)


def verify_property(
    model: nn.Module, example_input: Tensor, unsafe: Disjunction, timeout: float = 60.0
) -> Answer:
    """`verify_file` for a module in memory; a counterexample is confirmed by the module itself.

    >>> from bound_prop import Box, Conjunct
    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    >>> box = Box(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    >>> never = Conjunct(box, torch.tensor([[1.0]]), torch.tensor([-0.5]))
    >>> verify_property(net, torch.zeros(1, 1), Disjunction([never])).result
    'holds'
    """
    bounded = BoundedModule(model, example_input)
    shape = example_input.shape[1:]
    model.eval()

    @torch.no_grad()
    def confirm(x: Tensor) -> bool:
        out = model(x.view(1, *shape).to(example_input)).double()
        return any(bool(part.violation(out)[0] <= 0) for part in unsafe.parts)

    flat = GraphBuilder.flattened(bounded.graph)
    return search(flat, list(unsafe.parts), confirm, Budget(timeout))
