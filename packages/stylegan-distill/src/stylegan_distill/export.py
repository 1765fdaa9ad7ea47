"""Generators for other programs: ONNX and torch.export, checked against the network they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import tenfold
from stylegan_distill.networks import Generator
from tenfold._errors import UserInputError
from tenfold.io import check_output, staged

__all__ = ["Deployed", "export_generator", "onnx_parity"]

NoiseInput = Literal["const", "none", "input"]


class Deployed(nn.Module):
    """A generator as one function of codes: truncation and the kind of noise are fixed.

    ``forward(z, *maps)``: codes ``(B, Z)`` and, for noise "input", one map ``(B, 1, r, r)`` for each convolution, to
    images ``(B, 3, R, R)``.

    Args:
        generator: without labels.
        noise: "const" (stored maps), "none", or "input".
        truncation_psi: pull towards the mean code.

    Raises:
        UserInputError: a conditional network, or noise inputs of a network that has none.
    """

    def __init__(
        self, generator: Generator, noise: NoiseInput = "const", truncation_psi: float = 1.0
    ) -> None:
        super().__init__()
        if generator.cfg.c_dim:
            raise UserInputError("export: conditional networks are not supported")
        if noise == "input" and not hasattr(generator.synthesis, "make_noise"):
            raise UserInputError("noise: got 'input'; this network reads no noise")
        self.generator, self.noise, self.truncation_psi = generator, noise, truncation_psi

    def example(self, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs of a batch."""
        rng = torch.Generator().manual_seed(seed)
        z = torch.randn(batch, self.generator.cfg.z_dim, generator=rng)
        if self.noise != "input":
            return (z,)
        return (z, *self.generator.synthesis.make_noise(batch, generator=rng))  # type: ignore[operator]

    def forward(self, z: Tensor, *maps: Tensor) -> Tensor:
        """See the class."""
        noise = list(maps) if self.noise == "input" else self.noise
        image: Tensor = self.generator(z, truncation_psi=self.truncation_psi, noise=noise)
        return image


def export_generator(
    generator: Generator,
    output: Path,
    *,
    noise: NoiseInput = "const",
    truncation_psi: float = 1.0,
) -> Deployed:
    """Write a generator as ``.onnx`` or ``.pt2``; the batch is free, the file appears whole or not at all.

    The program consists of standard operators alone: whoever runs it needs neither this package nor its kernels.

    Args:
        generator: in evaluation mode, on the CPU.
        output: file to write.
        noise: see `Deployed`.
        truncation_psi: likewise.

    Returns:
        What was exported, for comparison.

    Raises:
        UserInputError: another ending, no such folder, or a network that cannot be exported.
    """
    check_output(output)
    module = Deployed(generator.eval(), noise, truncation_psi)
    program = _program(module)
    with staged(output) as written:
        if output.suffix == ".pt2":
            torch.export.save(program, written)
        else:
            _write_onnx(program, module, written)
    return module


def _program(module: Deployed) -> Any:
    inputs = module.example()
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes: dict[str, Any] = {"z": {0: batch}}
    if inputs[1:]:
        shapes["maps"] = tuple({0: batch} for _ in inputs[1:])
    # The plain twins of our operators: what they are made of exists everywhere.
    with tenfold.reference(), torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def _write_onnx(program: Any, module: Deployed, path: Path) -> None:
    names = ["z", *(f"noise{k}" for k in range(len(module.example()) - 1))]
    torch.onnx.export(
        program, (), str(path), input_names=names, output_names=["image"], dynamo=True, verbose=False
    )


def onnx_parity(module: Deployed, path: Path, batches: tuple[int, ...] = (1, 3)) -> float:
    """Largest absolute difference between an ONNX file under onnxruntime and the network, over batches.

    Args:
        module: what `export_generator` returned.
        path: the file.
        batches: sizes to try.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    gap = 0.0
    for batch in batches:
        inputs = module.example(batch, seed=batch)
        (found,) = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
        with torch.no_grad():
            gap = max(gap, float((torch.from_numpy(found) - module(*inputs)).abs().max()))
    return gap
