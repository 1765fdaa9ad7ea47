"""Trained classifiers as files: ours, those of Lightning runs, and those of the published code bases."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold._errors import UserInputError
from tenfold.distill.models import MODELS, create_model
from tenfold.io import load_checkpoint, load_strict, read_json, save_checkpoint, write_json

__all__ = ["Classifier", "clean_state_dict", "load_classifier", "save_classifier"]

# torch before 0.4.1 had no such buffers; published checkpoints of that time lack them.
_OLD_TORCH = (r".*num_batches_tracked",)


@dataclass
class Classifier:
    """A network with what one must know to use it.

    Attributes:
        model: in eval mode.
        arch: its name, for `create_model`.
        num_classes: width of its logits.
        facts: everything else that the file says: ``mean``, ``std``, ``size``, ``class_names``, accuracy, seed.
    """

    model: nn.Module
    arch: str
    num_classes: int
    facts: dict[str, Any] = field(default_factory=dict)


def clean_state_dict(content: Any, source: Any = "checkpoint") -> dict[str, Tensor]:
    """Tensors by name, whatever wraps them.

    Unwraps ``model`` (RepDistiller), ``state_dict`` (SSKD, UNIX, Lightning) and prefixes (``module.`` of a parallel
    wrapper, ``backbone.`` of a self-supervision wrapper, whose head is left out, ``model.`` and
    ``step.student.`` of our runs), and renames the one layer that differs between code bases.

    Raises:
        UserInputError: no tensors in it.

    >>> clean_state_dict({"model": {"module.classifier.0.weight": torch.zeros(1)}}).keys()
    dict_keys(['classifier.weight'])
    """
    state = content
    for key in ("model", "state_dict", "net"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserInputError(f"{source}: state_dict: missing; expected tensors by name")
    found = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    for prefix in ("module.", "backbone.", "step.student.", "model.", "module.", "backbone."):
        if any(key.startswith(prefix) for key in found):
            found = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    return {key.replace("classifier.0.", "classifier."): value for key, value in found.items()}


def load_classifier(
    given: str | Path, *, arch: str | None = None, num_classes: int | None = None
) -> Classifier:
    """A trained classifier, in eval mode, from a file or by name.

    Args:
        given: a file written by `save_classifier` or by a run of ours, a state dict of RepDistiller, SSKD or
            UNIXKD (give ``arch``), ``torchvision:<name>:<weights>``, or ``untrained:<name>`` (a control).
        arch: name of the network, where the file does not say.
        num_classes: classes, where the file does not say; by default read off the last layer.

    Raises:
        UserInputError: an unreadable file, an unknown network, or keys that do not fit.
    """
    text = str(given)
    if text.startswith(("torchvision:", "untrained:")):
        name = text.removeprefix("untrained:")
        classes = num_classes or (1000 if text.startswith("torchvision:") else 100)
        return Classifier(create_model(name, classes).eval(), name, classes)
    path = Path(given)
    # RepDistiller stores its options beside the weights: a plain record, safe to rebuild.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = load_checkpoint(path)
    facts = _facts(path, content)
    arch = arch or facts.get("arch")
    if arch is None:
        raise UserInputError(
            f"{path}: arch: the file does not say which network it holds; name one of {', '.join(MODELS)}"
        )
    state = clean_state_dict(content, path)
    classes = num_classes or facts.get("num_classes") or _width_of_last(state, path)
    model = create_model(arch, int(classes))
    load_strict(model, state, allow_missing=_OLD_TORCH, source=path)
    return Classifier(model.eval(), arch, int(classes), facts)


def _facts(path: Path, content: Any) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if sidecar.is_file():
        found = read_json(sidecar)
        return dict(found) if isinstance(found, dict) else {}
    if not isinstance(content, Mapping):
        return {}
    settings = content.get("hyper_parameters")
    images = content.get("images")
    return {
        **(dict(images) if isinstance(images, Mapping) else {}),
        **(dict(settings) if isinstance(settings, Mapping) else {}),
    }


def _width_of_last(state: Mapping[str, Tensor], path: Path) -> int:
    widths = [len(v) for k, v in state.items() if v.ndim == 2 and k.endswith("weight")]
    if not widths:
        raise UserInputError(f"{path}: num_classes: holds no linear layer; give the number of classes")
    return widths[-1]


def save_classifier(path: str | Path, model: nn.Module, *, arch: str, num_classes: int, **facts: Any) -> None:
    """Write a state dict and, beside it, ``<name>.json`` with what one must know to use it.

    Args:
        path: the file, such as ``teacher.pt`` or ``teacher.safetensors``.
        model: the network.
        arch: its name, for `create_model`.
        num_classes: its classes.
        **facts: plain JSON data: ``mean``, ``std``, ``size``, ``class_names``, ``top1``, ``epoch``, ``seed``.

    Raises:
        UserInputError: a file cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.pt"
    >>> save_classifier(file, create_model("plain3", 4), arch="plain3", num_classes=4, seed=0)
    >>> load_classifier(file).facts["seed"]
    0
    """
    save_checkpoint(path, {k: v.detach().cpu().clone() for k, v in model.state_dict().items()})
    write_json(Path(path).with_suffix(".json"), {"arch": arch, "num_classes": num_classes, **facts})
