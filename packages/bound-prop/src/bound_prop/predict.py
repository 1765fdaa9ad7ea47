"""The verbs `predict` and `export`: a user's own network, property or image in, a verdict out."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tenfold._errors import UserInputError
from tenfold.io import (
    check_output,
    make_folder,
    read_image,
    staged,
    write_bytes,
    write_json,
    write_text,
)
from tenfold.train.processes import use_threads

__all__ = ["export", "predict"]


def predict(
    model: Path,
    target: Path,
    timeout: float = 120.0,
    out: Path | None = None,
    labels: list[int] | None = None,
    eps: float | None = None,
    methods: list[str] | None = None,
    radius: float | None = None,
    threads: int | None = None,
    seed: int = 0,
) -> None:
    """Verify a property of an ONNX network, or certify images with a checkpoint.

    With a property: prints holds, violated or unknown and writes OUT (VNN-COMP's result file), OUT.json and, for a
    counterexample that is an image, OUT.png. With images: writes one CSV line per image and a JSON summary.

    Args:
        model: ONNX file, or a checkpoint written by `bound-prop fit`.
        target: VNN-LIB file that describes what must not happen; for a checkpoint an image, or a folder of images.
        timeout: Seconds for a property.
        out: Result file; by default the model's and the property's names in `verdicts`.
        labels: Classes of the images in the order of their names; by default what the network says.
        eps: Radius in pixel units, 0 to 1; by default the training radius.
        methods: Bounds to compute for images; the last one decides. By default ibp and crown-lbp.
        radius: Also bisect each image's certified radius up to this value.
        threads: Threads to use; all cores by default.
        seed: Of the attack.
    """
    use_threads(threads)
    if not timeout > 0:
        raise UserInputError(f"timeout: got {timeout:g}; expected seconds above 0")
    if out is not None and out.suffix in (".json", ".png"):
        raise UserInputError(f"{out}: out: got the ending {out.suffix!r}, which belongs to a file beside it")
    if target.suffix.lower() != ".vnnlib" and model.suffix.lower() != ".onnx":
        images = _pictures(target)
        _certify(
            model,
            images,
            labels,
            eps,
            methods or ["ibp", "crown-lbp"],
            radius,
            out or Path("verdicts/images.csv"),
        )
        return
    _verify(model, target, timeout, out or Path("verdicts") / f"{model.stem}-{target.stem}.txt", seed)


def _pictures(target: Path) -> list[Path]:
    if not target.is_dir():
        return [target]
    found = sorted(p for p in target.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"))
    if not found:
        raise UserInputError(f"{target}: images: the folder holds none")
    return found


def _verify(model: Path, property: Path, timeout: float, out: Path, seed: int) -> None:
    from bound_prop.attack import PGD
    from bound_prop.graph.build import UnsupportedOperationError
    from bound_prop.verification import verify_file

    def note(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)

    try:
        verdict = verify_file(
            model, property, timeout, attack=PGD(steps=60, restarts=4, seed=seed), note=note
        )
    except UnsupportedOperationError as error:
        raise UserInputError(f"{model}: {error}") from error
    if sys.stderr.isatty():
        print(file=sys.stderr)
    document = {
        "result": verdict.result,
        "vnncomp": verdict.word(),
        "reason": verdict.reason,
        "model": model.name,
        "property": property.name,
        "seconds": round(verdict.seconds, 3),
        "branches": verdict.branches,
        "inputs": None if verdict.inputs is None else verdict.inputs.tolist(),
        "outputs": None if verdict.outputs is None else verdict.outputs.tolist(),
    }
    make_folder(out.parent)
    write_text(out, verdict.text())
    write_json(out.with_suffix(".json"), document)
    picture = None if verdict.inputs is None else _as_picture(verdict.inputs.numpy())
    if picture is not None:
        from tenfold.viz import encode_image

        write_bytes(out.with_suffix(".png"), encode_image(picture))
    why = f" ({verdict.reason})" if verdict.reason else ""
    print(f"{verdict.result}{why}: {verdict.seconds:.1f} s, {verdict.branches} branches -> {out}")


def _as_picture(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
    """Pixels ``(H, W, 3)`` of an input that looks like a square picture in [0, 1], enlarged; else None."""
    for channels in (1, 3):
        side = round((x.size / channels) ** 0.5)
        if side >= 8 and channels * side * side == x.size and x.min() >= 0 and x.max() <= 1:
            planes = x.reshape(channels, side, side).transpose(1, 2, 0)
            pixels = np.repeat(planes, 3 // channels, axis=2)
            zoom = max(1, 256 // side)
            return (np.kron(pixels, np.ones((zoom, zoom, 1))) * 255).round().astype(np.uint8)
    return None


def _certify(
    model: Path,
    files: list[Path],
    labels: list[int] | None,
    eps: float | None,
    methods: list[str],
    radius: float | None,
    out: Path,
) -> None:
    from bound_prop.bounds import METHODS, BoundedModule
    from bound_prop.checkpoint import load_network
    from bound_prop.evaluation import evaluate, verified

    unknown = [m for m in methods if m not in METHODS and not re.fullmatch(r"relaxed-crown:0*[1-9]\d*", m)]
    if unknown:
        raise UserInputError(
            f"methods: got {unknown[0]!r}; expected some of {', '.join(METHODS)} or relaxed-crown:v"
        )
    if radius is not None and not 0 < radius <= 1:
        raise UserInputError(f"radius: got {radius:g}; expected pixel units above 0, up to 1")
    network, settings = load_network(model)
    radius_of_box = settings["eps"] if eps is None else eps
    if not 0 <= radius_of_box <= 1:
        raise UserInputError(
            f"eps: got {radius_of_box:g}; expected pixel units from 0 to 1, such as 0.0314 for 8/255"
        )
    x = torch.stack([_read(file, tuple(settings["shape"])) for file in files])
    with torch.no_grad():
        predicted = network(x).argmax(1)
    if labels is not None and (
        len(labels) != len(files) or not all(0 <= c < settings["classes"] for c in labels)
    ):
        raise UserInputError(f"labels: expected {len(files)} classes from 0 to {settings['classes'] - 1}")
    y = predicted if labels is None else torch.tensor(labels)
    report = evaluate(
        BoundedModule(network, x[:1]), x, y, radius_of_box, methods=methods, radius=radius,
        num_classes=settings["classes"], status=False,
    )  # fmt: skip
    columns: dict[str, list[Any]] = {name: values.tolist() for name, values in report.columns.items()}
    decided = verified(report.columns[f"margin/{methods[-1]}"][:, None]).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *columns, "certified"])
    rows = []
    for k, file in enumerate(files):
        row = {name: values[k] for name, values in columns.items()}
        certified = decided[k]
        writer.writerow([file, *(int(v) if isinstance(v, bool) else v for v in row.values()), int(certified)])
        finite = {
            name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()
        }
        rows.append({"image": str(file), **finite, "certified": certified})
        print(
            f"{file}: class {row['predicted']}, {'certified' if certified else 'not certified'} at {radius_of_box:g}"
        )
    make_folder(out.parent)
    write_text(out, text.getvalue())
    write_json(out.with_suffix(".json"), {"eps": radius_of_box, "methods": methods, "images": rows})
    print(f"{sum(r['certified'] for r in rows)} of {len(rows)} certified -> {out}")


def _read(file: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """A picture as the network's input, ``(C, H, W)`` in [0, 1]."""
    from PIL import Image

    image = Image.fromarray(np.asarray(read_image(file)))
    image = image.convert("L" if shape[0] == 1 else "RGB").resize(
        (shape[2], shape[1]), Image.Resampling.BILINEAR
    )
    pixels = torch.from_numpy(np.array(image)).float().div(255)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def export(checkpoint: Path, output: Path) -> None:
    """Write a trained network as ONNX or torch.export program; batch size free.

    Args:
        checkpoint: Checkpoint written by `bound-prop fit`.
        output: File to write: .onnx or .pt2.
    """
    from bound_prop.checkpoint import load_network

    check_output(output)
    model, settings = load_network(checkpoint)
    example = torch.zeros(2, *settings["shape"])
    shapes = ({0: torch.export.Dim("batch")},)
    with staged(output) as written:
        if output.suffix == ".onnx":
            torch.onnx.export(
                model, (example,), str(written), dynamo=True, dynamic_shapes=shapes, input_names=["image"],
                output_names=["logits"], verbose=False, external_data=False,
            )  # fmt: skip
        else:
            torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), written)
    print(f"{settings['network']} of {checkpoint} -> {output}")
