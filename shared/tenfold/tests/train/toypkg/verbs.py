import json
from pathlib import Path
from typing import Literal

from tenfold._errors import MissingExtraError, UserInputError


def _line(weights: Path) -> tuple[float, float]:
    try:
        content = json.loads(weights.read_text())
        return content["slope"], content["offset"]
    except json.JSONDecodeError as error:
        raise UserInputError(f"{weights}: not JSON: {error}") from error
    except KeyError as error:
        raise UserInputError(f"{weights}: {error.args[0]}: missing") from error


def demo(steps: int = 3) -> None:
    """Train for a moment and print the error.

    Args:
        steps: Optimiser steps.
    """
    import torch

    from tenfold.train import make_trainer
    from toypkg.task import ToyData, ToyTask

    torch.manual_seed(0)
    trainer = make_trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(ToyTask(), datamodule=ToyData())
    print(f"demo: {trainer.global_step} steps")


def predict(weights: Path, x: float = 1.0, digits: int = 3) -> None:
    """Evaluate the line of a weights file.

    Args:
        weights: JSON file with slope and offset.
        x: Where to evaluate.
        digits: Decimals printed.
    """
    slope, offset = _line(weights)
    print(json.dumps({"y": round(slope * x + offset, digits)}))


def export(weights: Path, output: Path) -> None:
    """Write the line as text.

    Args:
        weights: JSON file with slope and offset.
        output: File to write.
    """
    slope, offset = _line(weights)
    output.write_text(f"y = {slope} x + {offset}\n")


def crash(kind: Literal["bug", "input", "interrupt", "extra", "module"]) -> None:
    """Raise an error of the given kind."""
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "input":
        raise UserInputError("a.png: width: got 0; expected more")
    if kind == "extra":
        raise MissingExtraError('plots need the extra [viz]: pip install "toypkg[viz]"')
    if kind == "module":
        import open3d  # noqa: F401
    raise RuntimeError("a real bug")


def number(value: int) -> int:
    """Return a number."""
    return value


def truth() -> bool:
    """Return True, which is no exit code."""
    return True
