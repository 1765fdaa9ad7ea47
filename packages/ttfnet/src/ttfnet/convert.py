"""The verbs `convert` and `info`."""

from pathlib import Path

from tenfold._errors import UserInputError
from ttfnet.checkpoint import ModelInfo, convert_checkpoint, load_detector, save_detector

__all__ = ["convert", "info"]


def convert(source: Path, output: Path) -> None:
    """Turn an official TTFNet checkpoint (ResNet-18 or 34, DarkNet-53, DLA-34) into one of ours.

    Every key must find its place; nothing is written otherwise.

    Args:
        source: Official .pth file.
        output: File to write, .pt.
    """
    if output.suffix != ".pt":
        raise UserInputError(f"{output}: output: got the ending {output.suffix!r}; expected .pt")
    model, facts = convert_checkpoint(source)
    save_detector(output, model, facts)
    print(f"{facts.settings['backbone']}, {model.num_classes} classes -> {output}")


def info(file: Path) -> None:
    """Show what a checkpoint or an exported ONNX file holds.

    Args:
        file: Checkpoint or ONNX file.
    """
    if file.suffix == ".onnx":
        from ttfnet.runtime import onnx_runner

        _print(onnx_runner(file)[0])
        return
    from tenfold.train.cost import count_parameters

    model, facts = load_detector(file)
    _print(facts)
    print(f"parameters: {count_parameters(model):,}")


def _print(facts: ModelInfo) -> None:
    for name, value in facts.document().items():
        shown = f"{len(value)}: {', '.join(map(str, value[:8]))}" if name == "class_names" else value
        if name not in ("format", "category_ids"):
            print(f"{name}: {shown}")
