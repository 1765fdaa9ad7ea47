"""Checkpoints: safe loading, atomic saving, key conversion, and a report of what went where.

Torch is imported inside the functions, so that the other readers of this room load without it.
"""

import pickle
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tenfold._errors import MissingExtraError, UserInputError, first_line
from tenfold.io._files import StrPath, bad_file, short
from tenfold.io.atomic import atomic_write, write_bytes
from tenfold.io.pickles import refused_by_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...] | str
Rule = tuple[str, str | None] | tuple[str, str | None, "Callable[[Tensor], Tensor]"]


@dataclass
class KeyReport:
    """What became of every key when a state dict met a module.

    Attributes:
        loaded: keys copied into the module.
        missing: keys of the module that the state dict lacks.
        unexpected: keys of the state dict that the module lacks.
        reshaped: key -> (shape in the state dict, shape in the module), where the two differ.

    Example:
        >>> report = KeyReport(loaded=["a"], missing=["b"])
        >>> report.complete
        False
        >>> print(report)
        1 loaded, 1 missing, 0 unexpected, 0 of another shape
          missing: b
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every key of both sides was loaded."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected"
        lines = [f"{counts}, {len(self.reshaped)} of another shape"]
        lines += [f"  missing: {key}" for key in self.missing]
        lines += [f"  unexpected: {key}" for key in self.unexpected]
        lines += [f"  shape: {key}: {got} given, {own} expected" for key, (got, own) in self.reshaped.items()]
        return "\n".join(lines)


class CheckpointMismatchError(UserInputError):
    """A state dict does not fit a module; `report` says how.

    Attributes:
        report: the full `KeyReport`, also at the end of the message.
    """

    def __init__(self, message: str, report: KeyReport) -> None:
        super().__init__(f"{message}: {report}")
        self.report = report


def load_checkpoint(path: StrPath, *, map_location: Any = "cpu") -> Any:
    """Load a checkpoint without running code from it: safetensors by ending, else `torch.load(weights_only)`.

    Args:
        path: the file; ".safetensors" chooses that format.
        map_location: as in `torch.load`; a device for safetensors.

    Raises:
        UserInputError: unreadable, damaged, truncated, or with objects beyond tensors and plain containers.
        MissingExtraError: safetensors is not installed.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp()) / "a.pt"
        >>> save_checkpoint(file, {"step": 3, "w": torch.zeros(2)})
        >>> load_checkpoint(file)["step"]
        3
    """
    import torch

    if not Path(path).is_file():
        bad_file(path, "checkpoint", "is no file" if Path(path).exists() else "does not exist")
    if Path(path).suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        name = refused_by_torch(error)
        what = f"holds {name}, which is not loaded for safety" if name else "is damaged"
        bad_file(path, "checkpoint", what, error)
    except OSError as error:
        bad_file(path, "checkpoint", f"cannot be read ({error.strerror or short(str(error))})", error)
    except Exception as error:  # torch meets damage as any kind of exception
        bad_file(path, "checkpoint", f"is damaged or truncated ({short(first_line(error), 120)})", error)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError("a .safetensors file needs: pip install safetensors") from error
    return safetensors.torch


def _load_safetensors(path: StrPath, device: Any) -> Any:
    module = _safetensors()
    try:
        return module.load_file(path, device=str(device) if device is not None else "cpu")
    except Exception as error:  # its exception class is private
        bad_file(path, "checkpoint", f"is no sound safetensors file ({short(first_line(error), 120)})", error)


def save_checkpoint(path: StrPath, checkpoint: Any) -> None:
    """Save atomically: tensors by name as safetensors where the path ends so, else by `torch.save`.

    Raises:
        TypeError: a `.safetensors` path and something else than a dict of tensors.
        ValueError: tensors that share memory, which safetensors cannot express.
        UserInputError: the file cannot be written; an older checkpoint is untouched.

    Example: see `load_checkpoint`.
    """
    import torch

    if Path(path).suffix != ".safetensors":
        with atomic_write(path) as file:
            sink = _Sink(file)
            try:
                torch.save(checkpoint, sink)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise (sink.error or error) from error.__cause__
        return
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in checkpoint.values()
    ):
        raise TypeError(
            "save_checkpoint: checkpoint: got no dict of tensors; .safetensors holds nothing else"
        )
    try:
        data = _safetensors().save({key: value.contiguous() for key, value in checkpoint.items()})
    except RuntimeError as error:
        raise ValueError(f"save_checkpoint: checkpoint: {first_line(error)}") from error
    write_bytes(path, data)


class _Sink:
    """A file that remembers why a write failed: torch reports only that its position is not as expected."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def convert_state_dict(state_dict: Mapping[str, Any], rules: Iterable[Rule]) -> dict[str, Any]:
    r"""Rename, drop and transform the entries of a state dict.

    Args:
        state_dict: names and tensors; not changed.
        rules: (pattern, replacement) or (pattern, replacement, transform). Each entry goes to the first rule
            whose regular expression matches its whole name; `replacement` may refer to groups (``\1``),
            `None` drops the entry, `transform` maps the tensor. An entry that no rule matches keeps its name.

    Raises:
        ValueError: two entries get one name, or a rule matches nothing (a misspelt pattern must not pass).

    Example:
        >>> rules = [(r"module\.(.*)", r"\1"), (r"num_batches", None), (r"w", "weight", lambda t: t * 2)]
        >>> convert_state_dict({"module.a": 1, "num_batches": 7, "w": 3, "bias": 4}, rules)
        {'a': 1, 'weight': 6, 'bias': 4}
    """
    compiled = [(re.compile(rule[0]), rule[1], rule[2] if len(rule) > 2 else None) for rule in rules]
    unused = set(range(len(compiled)))
    converted: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, value in state_dict.items():
        name: str | None = key
        new_value = value
        for number, (pattern, replacement, transform) in enumerate(compiled):
            if match := pattern.fullmatch(key):
                unused.discard(number)
                name = None if replacement is None else match.expand(replacement)
                new_value = transform(value) if transform and name is not None else value
                break
        if name is None:
            continue
        if name in converted:
            raise ValueError(f"convert_state_dict: rules: {origin[name]!r} and {key!r} both become {name!r}")
        converted[name], origin[name] = new_value, key
    if unused:
        patterns = ", ".join(repr(compiled[number][0].pattern) for number in sorted(unused))
        raise ValueError(
            f"convert_state_dict: rules: nothing matches {patterns}; keys are like {_some(state_dict)}"
        )
    return converted


def _some(keys: Collection[str]) -> str:
    shown = ", ".join(repr(key) for key in list(keys)[:3])
    return shown or "(none)"


def load_strict(
    module: "nn.Module",
    state_dict: Mapping[str, Any],
    *,
    allow_missing: Collection[str] = (),
    allow_unexpected: Collection[str] = (),
    allow_reshaped: Collection[str] = (),
    source: StrPath = "state dict",
) -> KeyReport:
    """Copy a state dict into a module, and raise unless every key of both sides fits.

    Nothing is copied if it raises. Only an explicit permission lets a key be missing, unexpected or of
    another shape (such a key is not copied); each permission is a regular expression for whole names.

    Args:
        module: receives the tensors, in its own dtypes and on its own devices.
        state_dict: names and tensors.
        allow_missing: patterns of module keys that may be absent.
        allow_unexpected: patterns of keys that the module need not have.
        allow_reshaped: patterns of keys that may differ in shape; the module keeps its own values.
        source: what the message calls the state dict, usually the path of the checkpoint.

    Returns:
        The full report.

    Raises:
        CheckpointMismatchError: anything that no permission covers, with the full report.
        UserInputError: a tensor holds NaN, as after a diverged training or in a damaged file.

    Example:
        >>> from torch import nn
        >>> report = load_strict(nn.Linear(2, 1), nn.Linear(2, 1).state_dict())
        >>> report.loaded
        ['weight', 'bias']
    """
    own = module.state_dict()
    report = KeyReport()
    for key, target in own.items():
        if key not in state_dict:
            report.missing.append(key)
        elif _shape(state_dict[key]) != _shape(target):
            report.reshaped[key] = (_shape(state_dict[key]), _shape(target))
        else:
            report.loaded.append(key)
    report.unexpected = [key for key in state_dict if key not in own]
    refused = [
        *(key for key in report.missing if not _allowed(key, allow_missing)),
        *(key for key in report.unexpected if not _allowed(key, allow_unexpected)),
        *(key for key in report.reshaped if not _allowed(key, allow_reshaped)),
    ]
    if refused:
        name = type(module).__name__
        raise CheckpointMismatchError(f"{source}: {len(refused)} keys do not fit {name}", report)
    for key in report.loaded:
        if _holds_nan(state_dict[key]):
            raise UserInputError(f"{source}: {key}: holds NaN; the training diverged, or the file is damaged")
    module.load_state_dict({key: state_dict[key] for key in report.loaded}, strict=False)
    return report


def _holds_nan(value: Any) -> bool:
    # The extra state of a module need not be a tensor.
    return hasattr(value, "isnan") and bool(value.isnan().any())


def _shape(value: Any) -> Shape:
    """A tensor's shape; of anything else (the extra state of a module) its type's name."""
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def _allowed(key: str, patterns: Collection[str]) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)
