"""The verb `export`."""

from __future__ import annotations

from pathlib import Path

from denfi.predict import load_detector
from tenfold.io import check_output
from tenfold.lidar.export import write_dense

__all__ = ["export"]


def export(checkpoint: Path, output: Path) -> None:
    """Write the dense part of a detector, bird's-eye map to raw outputs, as ONNX or torch.export program.

    Backbone, boundary proposals, both refinements and the head are in it; the moved sampling is the standard
    operator GridSample. Outputs are those of the head, then the proposals: distances in metres, bins, residuals,
    and the map of five numbers.

    Args:
        checkpoint: Checkpoint written by `denfi fit`.
        output: File to write: .onnx (needs the packages onnx and onnxscript) or .pt2.
    """
    check_output(output)
    write_dense(load_detector(checkpoint).detector, output, checkpoint)
    print(f"dense part of {checkpoint} -> {output}")
