"""The verb `export`: networks for other programs."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from moviescenes.model import LGSS
from moviescenes.segment import load_model
from tenfold._errors import UserInputError
from tenfold.io import write_bytes

__all__ = ["SegmentNetwork", "export"]


class SegmentNetwork(nn.Module):
    """A network with one positional input a modality, which graphs need; gives probabilities.

    Args:
        model: the network.
    """

    def __init__(self, model: LGSS) -> None:
        super().__init__()
        self.model, self.keys = model.eval(), tuple(model.config.dims)

    def forward(self, *windows: Tensor) -> Tensor:
        """Probabilities (B, S) of windows (B, S, 2w, ...) in the order of `keys`."""
        logits: Tensor = self.model(dict(zip(self.keys, windows, strict=True)))
        return logits.softmax(-1)[..., 1]


def export(checkpoint: Path, output: Path) -> None:
    """Write a trained network: windows of a segment to probabilities of its boundaries.

    One input a modality, in the order of the checkpoint's dims: (1, S, 2w, d), or (1, S, 2w, 257, 90). Windows and
    the averaging of segments are `moviescenes.windows`; the grouping is `moviescenes.group_scenes`.

    Args:
        checkpoint: Checkpoint written by `moviescenes fit`.
        output: File to write: .onnx (needs the extra export) or .pt2.
    """
    if output.suffix not in (".onnx", ".pt2"):
        raise UserInputError(f"output: got {output}; expected a name ending with .onnx or .pt2")
    model, _ = load_model(checkpoint)
    config = model.config
    inputs = tuple(
        torch.zeros(1, config.seq_len, 2 * config.half_window, *(dim if isinstance(dim, tuple) else (dim,)))
        for dim in config.dims.values()
    )
    network = SegmentNetwork(model)
    packed = io.BytesIO()
    with torch.no_grad():
        if output.suffix == ".pt2":
            torch.export.save(torch.export.export(network, inputs), packed)
        else:
            import onnxscript  # noqa: F401 - the exporter below needs it; its absence is named here

            names = list(config.dims)
            program = torch.onnx.export(
                network, inputs, input_names=names, output_names=["probability"], dynamo=True, verbose=False
            )
            assert program is not None
            packed.write(program.model_proto.SerializeToString())
    write_bytes(output, packed.getvalue())
    print(f"{checkpoint} -> {output}")
