"""One door for all files: the format is told by the content, not by the name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from stylegan_distill.checkpoints.native import from_training, load_native
from stylegan_distill.checkpoints.nvidia import from_nvidia
from stylegan_distill.checkpoints.record import Checkpoint
from stylegan_distill.checkpoints.rosinality import from_rosinality, is_rosinality
from stylegan_distill.checkpoints.tensorflow import from_tensorflow
from stylegan_distill.checkpoints.unpickle import read_pickle
from stylegan_distill.networks import Generator
from tenfold._errors import UserInputError
from tenfold.io import load_checkpoint as read_torch

__all__ = ["Checkpoint", "load_checkpoint", "load_generator"]

#: How files of `torch.save` begin: a zip archive, or the pickled magic number of the older format.
_ZIP, _LEGACY = b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f920")


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Networks of a file: NVIDIA's pickles (PyTorch, TensorFlow), rosinality's .pt, our own, or a training checkpoint.

    Nothing in the file is executed; the networks are in evaluation mode on the CPU.

    Args:
        path: the file.

    Raises:
        UnsafePickleError: the file asks for something that is neither tensor nor plain data.
        UserInputError: missing, damaged, truncated, of another kind, or with tensors that do not fit.

    Example: see `save_checkpoint`.
    """
    file = Path(path)
    if not file.is_file():
        raise UserInputError(f"{path}: checkpoint: is no file")
    if file.suffix == ".safetensors":
        return load_native(file)
    with file.open("rb") as stream:
        start = stream.read(len(_LEGACY))
    is_torch = start.startswith(_ZIP) or start == _LEGACY
    content = read_torch(file) if is_torch else read_pickle(file)
    try:
        return (_from_torch if is_torch else _from_pickle)(content, file)
    except UserInputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        # Names and shapes are the file's; what a reader stumbles over is not there or not what it should be.
        raise UserInputError(f"{path}: checkpoint: its tensors do not fit ({error!r})") from error


def _from_torch(content: Any, path: Path) -> Checkpoint:
    if is_rosinality(content):
        return from_rosinality(content, path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        return from_training(content, path)
    raise UserInputError(f"{path}: checkpoint: expected the entries g, d, g_ema, or a training checkpoint")


def _from_pickle(content: Any, path: Path) -> Checkpoint:
    if isinstance(content, Mapping):
        return from_nvidia(content, path)
    if isinstance(content, tuple | list):
        return from_tensorflow(content, path)
    raise UserInputError(f"{path}: checkpoint: expected a dictionary or a tuple of networks")


def load_generator(path: str | Path, which: Literal["G_ema", "G"] = "G_ema") -> Generator:
    """The generator of a file, in evaluation mode.

    Args:
        path: see `load_checkpoint`.
        which: the moving average, or the network as trained; where a file has one generator only, that one.

    Raises:
        UserInputError: as `load_checkpoint`, or the file has no generator.

    Example: see `save_checkpoint`.
    """
    if which not in ("G_ema", "G"):
        raise UserInputError(f"which: got {which!r}; expected 'G_ema' or 'G'")
    found = load_checkpoint(path)
    for name in (which, "G_ema", "G"):
        generator: Generator | None = getattr(found, name)
        if generator is not None:
            return generator
    raise UserInputError(f"{path}: checkpoint: holds no generator")
