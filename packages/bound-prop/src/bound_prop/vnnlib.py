"""VNN-LIB properties: files that describe what must not happen.

Version 1.0: ``declare-const X_i/Y_j Real`` and assertions of ``<=``, ``>=``, ``<``, ``>``, ``and``, ``or`` over
linear expressions (``+``, ``-``, ``*`` by numbers) of the X_i alone or of the Y_j alone. Version 2.0 queries of one
network are read too, where they are linear: ``declare-network`` with ``declare-input`` and ``declare-output``, indexed
atoms ``X[0,2]``, also ``=``. X and Y index the flat ONNX input and output. The file describes the *unsafe* set.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from bound_prop.sets import Box
from bound_prop.specs import Conjunct
from tenfold._errors import UserInputError

__all__ = ["Property", "load_vnnlib", "parse_vnnlib"]

_MOST_PARTS = 100_000


@dataclass(frozen=True, eq=False)
class Property:
    """A property in normal form: unsafe where some part is.

    Attributes:
        parts: each a box of flat inputs ``(1, n)`` and rows ``M y <= h``, float64.
        inputs: number of inputs.
        outputs: number of outputs.
    """

    parts: tuple[Conjunct, ...]
    inputs: int
    outputs: int


@dataclass(frozen=True)
class _Linear:
    """``sum c v + constant``, v being ("X", i) or ("Y", j)."""

    terms: dict[tuple[str, int], float] = field(default_factory=dict)
    constant: float = 0.0

    def plus(self, other: _Linear, sign: float = 1.0) -> _Linear:
        terms = dict(self.terms)
        for key, value in other.terms.items():
            terms[key] = terms.get(key, 0.0) + sign * value
        return _Linear(terms, self.constant + sign * other.constant)

    def times(self, factor: float) -> _Linear:
        return _Linear({k: factor * v for k, v in self.terms.items()}, factor * self.constant)


def load_vnnlib(path: str | Path) -> Property:
    """Reads a property.

    Raises:
        UserInputError: the file is missing, is not VNN-LIB, or holds something that is not supported; with the
            line.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserInputError(f"{file}: property: does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{file}: property: cannot be read as text ({error})") from error
    return parse_vnnlib(text, str(file))


def parse_vnnlib(text: str, name: str = "<text>") -> Property:
    """Reads a property from text; see `load_vnnlib`.

    >>> unsafe = parse_vnnlib('''
    ... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ... (assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (<= Y_0 Y_1))''')
    >>> unsafe.parts[0].M, unsafe.parts[0].h
    (tensor([[ 1., -1.]], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    return _Parser(name).run(text)


_Token = tuple[str, int]


class _Parser:
    def __init__(self, name: str) -> None:
        self.name = name
        self.line = 0
        self.sizes = {"X": 0, "Y": 0}
        self.declared: set[tuple[str, int]] = set()
        self.shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        # Alternatives of one assertion, each a list of atoms ``linear <= 0``.
        self.asserted: list[list[list[_Linear]]] = []

    def fail(self, what: str, line: int | None = None) -> NoReturn:
        raise UserInputError(f"{self.name}: line {line or self.line}: {what}")

    def run(self, text: str) -> Property:
        tokens = self._tokens(text)
        place = 0
        while place < len(tokens):
            self.line = tokens[place][1]
            form, place = self._read(tokens, place)
            self._command(form)
        return self._normal_form()

    def _tokens(self, text: str) -> list[_Token]:
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            code = line.partition(";")[0]
            found += [(word, number) for word in re.findall(r"[()]|[^\s()]+", code)]
        if not found:
            self.fail("the file holds no commands", 1)
        return found

    def _read(self, tokens: list[_Token], place: int) -> tuple[Any, int]:
        """One expression; not recursive, so that depth is no attack."""
        stack: list[list[Any]] = []
        while place < len(tokens):
            word, self.line = tokens[place]
            place += 1
            if word == "(":
                stack.append([])
                continue
            if word == ")":
                if not stack:
                    self.fail("an unexpected ')'")
                item: Any = stack.pop()
            else:
                item = word
            if not stack:
                if not isinstance(item, list):
                    self.fail(f"got {word!r}; expected '('")
                return item, place
            stack[-1].append(item)
        self.fail("a '(' that is not closed")

    def _command(self, form: list[Any]) -> None:
        head = form[0] if form and isinstance(form[0], str) else ""
        if head in ("vnnlib-version", "set-logic", "check-sat", "set-info", "set-option"):
            return
        if head == "declare-const":
            self._declare(form)
        elif head == "declare-network":
            self._declare_network(form)
        elif head == "assert":
            if len(form) != 2:
                self.fail("assert: expected one expression")
            self.asserted.append(self._formula(form[1]))
            self._limit(math.prod(len(a) for a in self.asserted))
        else:
            self.fail(f"got the command {head or form!r}; expected declare-const or assert")

    def _declare(self, form: list[Any]) -> None:
        found = (
            re.fullmatch(r"([XY])_(\d+)", form[1]) if len(form) == 3 and isinstance(form[1], str) else None
        )
        if found is None or form[2] != "Real":
            self.fail("declare-const: expected X_i or Y_j of type Real")
        key = (found[1], int(found[2]))
        if key in self.declared:
            self.fail(f"{form[1]} is declared twice")
        self.declared.add(key)
        self.sizes[key[0]] = max(self.sizes[key[0]], key[1] + 1)

    def _declare_network(self, form: list[Any]) -> None:
        if self.shapes:
            self.fail("a second network; only queries of one network are supported")
        for item in form[2:]:
            kind = item[0] if isinstance(item, list) and item else ""
            if kind not in ("declare-input", "declare-output") or len(item) < 4:
                self.fail(f"declare-network: got {kind or item!r}; expected declare-input or declare-output")
            side = "X" if kind == "declare-input" else "Y"
            words = re.findall(r"\d+", " ".join(str(w) for w in item[3:]))
            shape = tuple(int(w) for w in words)
            if any(s == side for s, _ in self.shapes.values()):
                self.fail("several inputs or outputs; expected one of each")
            self.shapes[str(item[1])] = side, shape
            self.sizes[side] = math.prod(shape)
            self.declared |= {(side, k) for k in range(self.sizes[side])}

    def _limit(self, count: int) -> None:
        if count > _MOST_PARTS:
            self.fail(f"the property has more than {_MOST_PARTS:,} alternatives")

    def _formula(self, form: Any) -> list[list[_Linear]]:
        """Disjunctive normal form: alternatives of conjunctions of ``linear <= 0``."""
        if not isinstance(form, list) or not form or not isinstance(form[0], str):
            self.fail(f"got {form!r}; expected a comparison, (and ...) or (or ...)")
        head, rest = form[0], form[1:]
        if head == "or":
            options = [atoms for part in rest for atoms in self._formula(part)]
            if not options:
                self.fail("an empty (or)")
            return options
        if head == "and":
            result: list[list[_Linear]] = [[]]
            for part in rest:
                ways = self._formula(part)
                self._limit(len(result) * len(ways))
                result = [a + b for a in result for b in ways]
            return result
        if head == "not" and len(rest) == 1 and isinstance(rest[0], list):
            turned = {"<=": ">=", "<": ">=", ">=": "<=", ">": "<="}
            if rest[0] and rest[0][0] in turned:
                return self._formula([turned[rest[0][0]], *rest[0][1:]])
        if head in ("<=", "<", ">=", ">", "=", "==") and len(rest) == 2:
            left, right = (self._expression(r) for r in rest)
            gap = left.plus(right, -1.0)
            if head in ("<=", "<"):
                return [[gap]]
            if head in (">=", ">"):
                return [[gap.times(-1.0)]]
            return [[gap, gap.times(-1.0)]]
        self.fail(f"got {head!r}; expected <=, >=, and, or with two sides")

    def _expression(self, form: Any) -> _Linear:
        if isinstance(form, str):
            return self._atom(form)
        head = form[0] if form and isinstance(form[0], str) else ""
        parts = [self._expression(f) for f in form[1:]]
        if head == "+" and parts:
            total = parts[0]
            for part in parts[1:]:
                total = total.plus(part)
            return total
        if head == "-" and parts:
            if len(parts) == 1:
                return parts[0].times(-1.0)
            total = parts[0]
            for part in parts[1:]:
                total = total.plus(part, -1.0)
            return total
        if head == "*" and len(parts) == 2:
            for factor, other in (parts, parts[::-1]):
                if not factor.terms:
                    return other.times(factor.constant)
            self.fail("a product of two variables; only linear properties are supported")
        self.fail(f"got {head or form!r}; expected a number, a variable, +, - or *")

    def _atom(self, word: str) -> _Linear:
        key = self._variable(word)
        if key is not None:
            if key not in self.declared:
                self.fail(f"{word} is not declared")
            return _Linear({key: 1.0})
        try:
            value = float(word)
        except ValueError:
            self.fail(f"got {word!r}; expected a number or a declared variable")
        if not math.isfinite(value):
            self.fail(f"got {word!r}; expected a finite number")
        return _Linear({}, value)

    def _variable(self, word: str) -> tuple[str, int] | None:
        plain = re.fullmatch(r"([XY])_(\d+)", word)
        if plain is not None:
            return plain[1], int(plain[2])
        indexed = re.fullmatch(r"(\w+)\[([\d,]+)\]", word)
        if indexed is None or indexed[1] not in self.shapes:
            return None
        side, shape = self.shapes[indexed[1]]
        index = [int(k) for k in indexed[2].split(",") if k]
        if len(index) != len(shape) or any(k >= n for k, n in zip(index, shape, strict=True)):
            self.fail(f"{word}: the index does not fit the shape {shape}")
        flat = 0
        for k, n in zip(index, shape, strict=True):
            flat = flat * n + k
        return side, flat

    def _normal_form(self) -> Property:
        for side, kind in (("X", "inputs"), ("Y", "outputs")):
            missing = [k for k in range(self.sizes[side]) if (side, k) not in self.declared]
            if not self.sizes[side] or missing:
                self.fail(f"{kind}: {side}_{missing[0] if missing else 0} is not declared")
        # Most assertions have one alternative and are shared; boxes of one variable are kept apart for speed.
        shared = [atom for options in self.asserted if len(options) == 1 for atom in options[0]]
        choices = [options for options in self.asserted if len(options) > 1]
        parts = [
            self._part(shared, [atom for option in picked for atom in option])
            for picked in itertools.product(*choices)
        ]
        return Property(tuple(p for p in parts if p is not None), self.sizes["X"], self.sizes["Y"])

    def _part(self, shared: Sequence[_Linear], own: Sequence[_Linear]) -> Conjunct | None:
        low = [-math.inf] * self.sizes["X"]
        high = [math.inf] * self.sizes["X"]
        rows: list[tuple[dict[int, float], float]] = []
        for atom in (*shared, *own):
            terms = {k: v for k, v in atom.terms.items() if v != 0}
            sides = {side for side, _ in terms}
            if not terms:
                if atom.constant > 0:
                    return None  # false: this alternative cannot happen
            elif sides == {"Y"}:
                rows.append(({j: v for (_, j), v in terms.items()}, 0.0 - atom.constant))
            elif sides == {"X"} and len(terms) == 1:
                ((_, i), factor), *_ = terms.items()
                bound = -atom.constant / factor
                if factor > 0:
                    high[i] = min(high[i], bound)
                else:
                    low[i] = max(low[i], bound)
            else:
                self.fail(
                    "a constraint on several inputs, or on inputs and outputs together, is not supported"
                )
        for i, (a, b) in enumerate(zip(low, high, strict=True)):
            if math.isinf(a) or math.isinf(b):
                self.fail(f"X_{i} has no {'lower' if math.isinf(a) else 'upper'} bound")
            if a > b:
                return None
        matrix = torch.zeros(max(len(rows), 1), self.sizes["Y"], dtype=torch.float64)
        # Without a constraint on the outputs every input of the box is unsafe: 0 <= 0.
        limits = torch.zeros(max(len(rows), 1), dtype=torch.float64)
        for k, (terms_of_row, limit) in enumerate(rows):
            for j, value in terms_of_row.items():
                matrix[k, j] = value
            limits[k] = limit
        box = Box(*(torch.tensor([ends], dtype=torch.float64) for ends in (low, high)))
        return Conjunct(box, matrix, limits)
