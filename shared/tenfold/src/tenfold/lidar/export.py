"""The verb `export`."""

from pathlib import Path

from torch import nn

from tenfold._errors import UserInputError
from tenfold.io import check_output, staged
from tenfold.lidar.predict import load_detector

__all__ = ["export", "write_dense"]


def export(checkpoint: Path, output: Path) -> None:
    """Write the dense part of a detector, bird's-eye map to raw outputs, as ONNX or torch.export program.

    What lies before it, and second stages, have no ONNX form: they stay with this package. Detectors without
    anchors (PointRCNN, Part-A2 free) have no dense part.

    Args:
        checkpoint: Checkpoint written by `tenfold lidar fit`.
        output: File to write: .onnx (needs the packages onnx and onnxscript) or .pt2.
    """
    check_output(output)
    write_dense(load_detector(checkpoint), output, checkpoint)
    print(f"dense part of {checkpoint} -> {output}")


def write_dense(model: nn.Module, output: Path, checkpoint: Path) -> None:
    """`tenfold.lidar.export_dense` into a file that appears whole or not at all.

    Args:
        model: the detector.
        output: file to write.
        checkpoint: named in messages.

    Raises:
        UserInputError: a detector without a dense part.
    """
    from tenfold.lidar import export_dense

    with staged(output) as written:
        try:
            export_dense(model, written)
        except ValueError as error:
            raise UserInputError(f"{checkpoint}: {error}") from error
