"""Our own files: safetensors, with the configurations as JSON in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stylegan_distill.checkpoints.record import Checkpoint, build
from stylegan_distill.config import config_from_dict, config_to_dict
from stylegan_distill.networks import (
    Generator,
    StyleGAN2Synthesis,
    StyleGAN3Synthesis,
    StyleGANDiscriminator,
)
from tenfold._errors import UserInputError
from tenfold.io import load_strict, write_bytes

__all__ = ["from_training", "load_native", "save_checkpoint", "training_entry"]

_HEADER = "stylegan_distill"


def save_checkpoint(path: str | Path, checkpoint: Checkpoint | Generator) -> None:
    """Write networks atomically: tensors as safetensors, configurations and notes as JSON in its header.

    Args:
        path: ends in ".safetensors".
        checkpoint: networks, or one generator, which is stored as the moving average.

    Raises:
        ValueError: another ending, or nothing to write.
        UserInputError: a foreign synthesis network (save its own state dict), or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator, load_generator
        >>> file = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> net = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4)))
        >>> save_checkpoint(file, net)
        >>> load_generator(file).cfg == net.cfg
        True
    """
    import safetensors.torch

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"save_checkpoint: path: got {path}; expected a name that ends in .safetensors")
    if isinstance(checkpoint, Generator):
        checkpoint = Checkpoint(G_ema=checkpoint)
    networks = checkpoint.networks()
    if not networks:
        raise ValueError("save_checkpoint: checkpoint: holds no network")
    tensors: dict[str, Tensor] = {}
    for name, net in networks.items():
        tensors.update(
            {f"{name}.{key}": value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
        )
    header = {"configs": network_configs(networks), "meta": checkpoint.meta}
    write_bytes(path, safetensors.torch.save(tensors, {_HEADER: json.dumps(header, sort_keys=True)}))


def network_configs(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Configurations by name; refuses networks that no configuration describes."""
    for name, net in networks.items():
        foreign = isinstance(net, Generator) and not isinstance(
            net.synthesis, StyleGAN2Synthesis | StyleGAN3Synthesis
        )
        if foreign or not isinstance(net, Generator | StyleGANDiscriminator):
            raise UserInputError(
                f"{name}: a synthesis network of its own is not described by a configuration"
            )
    return {name: config_to_dict(net.cfg) for name, net in networks.items()}


def load_native(path: str | Path) -> Checkpoint:
    """What `save_checkpoint` wrote.

    Raises:
        UserInputError: damaged, without our header, or tensors that do not fit.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:  # type: ignore[attr-defined]
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # its exception class is private
        raise UserInputError(f"{path}: checkpoint: is no sound safetensors file ({error})") from error
    try:
        header = json.loads(metadata[_HEADER])
        configs, meta = dict(header["configs"]), dict(header.get("meta", {}))
    except (KeyError, ValueError, TypeError) as error:
        raise UserInputError(f"{path}: checkpoint: its header has no configuration of ours") from error
    return _assemble(configs, tensors, meta, "native", path)


def _assemble(
    configs: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    meta: dict[str, Any],
    kind: str,
    path: str | Path,
) -> Checkpoint:
    networks: dict[str, Any] = {}
    for name, values in configs.items():
        if name not in ("G", "D", "G_ema"):
            raise UserInputError(f"{path}: configuration: unknown network {name!r}")
        try:
            networks[name] = build(config_from_dict(values))
        except (ValueError, TypeError) as error:
            raise UserInputError(f"{path}: {name}: {error}") from error
        prefix = f"{name}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        load_strict(networks[name], own, source=f"{path}: {name}")
    return Checkpoint(**networks, source_format=kind, meta=meta)


def training_entry(networks: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a training checkpoint must hold so that `from_training` can read it without the recipe."""
    return {"configs": network_configs(networks), "meta": dict(meta)}


def from_training(content: Mapping[str, Any], path: str | Path) -> Checkpoint:
    """Networks of a checkpoint that `fit` wrote.

    Raises:
        UserInputError: it was written by another package, or does not fit.
    """
    entry = content.get(_HEADER)
    if not isinstance(entry, Mapping) or "counters" not in content:
        raise UserInputError(f"{path}: checkpoint: was not written by this package's fit")
    tensors = {}
    for ours, theirs in (("G", "generator"), ("D", "discriminator")):
        prefix = f"{theirs}."
        own = {k: v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        tensors.update({f"{ours}.{k.removeprefix(prefix)}": v for k, v in own.items()})
    tensors.update({f"G_ema.{k}": v for k, v in content["counters"]["ema"]["state"].items()})
    return _assemble(entry["configs"], tensors, dict(entry.get("meta", {})), "training", path)
