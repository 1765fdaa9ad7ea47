"""The quick card: tight lines against adaptive ones, and ParamRamp against ReLU, on generated digits.

A quick run and not the claim: one seed and a short schedule.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bound_prop.evaluation import Report
from bound_prop.experiment import ARMS, CHAIN, chain_violations, compare_lines, read, train_arm
from tenfold.io import make_folder, write_bytes
from tenfold.train.demo import DemoResult, print_demo, write_demo

__all__ = ["demo", "run_demo"]

_EPOCHS = 22
_IMAGES = 60


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Train a ReLU and a ParamRamp network for certified robustness on generated digits, and bound both.

    Args:
        out: Folder for the picture and demo.json.
        seed: Of images and networks.
    """
    print_demo(run_demo(out, seed, progress=True))


def run_demo(out: Path, seed: int = 0, *, epochs: int = _EPOCHS, progress: bool = False) -> DemoResult:
    """The whole card.

    Args:
        out: folder for the picture and ``demo.json``; created.
        seed: of images and networks.
        epochs: of each of the two networks.
        progress: show progress bars.

    Raises:
        UserInputError: the folder cannot be written.
    """
    start = time.monotonic()
    make_folder(out)
    reports: dict[str, dict[str, Report]] = {}
    wrong = 0.0
    for name in ("glyphs-relu", "glyphs-ramp"):
        arm = replace(ARMS[name], epochs=epochs, line_images=_IMAGES)
        bounded = train_arm(arm, seed, read(arm, "train"), progress=progress)
        test = read(arm, "test")
        reports[name] = compare_lines(bounded, test, arm, CHAIN)
        wrong = max(wrong, chain_violations(bounded, test.images[:20], arm.eps))
    picture = out / "bounds.png"
    write_bytes(picture, _draw(reports))
    rows = [_row(name, lines, report) for name, pair in reports.items() for lines, report in pair.items()]
    relu, ramp = (reports[n]["tight"].summary()["verified/ibp"] for n in ("glyphs-relu", "glyphs-ramp"))
    adaptive = reports["glyphs-relu"]["adaptive"].summary()
    result = DemoResult(
        title="bound-prop: certified bounds that are never looser than intervals",
        claim="With tight lines no method is looser than interval propagation, and ParamRamp trains better than ReLU.",
        number=f"verified error {ramp:.0f} % with ParamRamp; {wrong:.0f} % of tight bounds out of order",
        control=f"{relu:.0f} % with ReLU; adaptive lines: CROWN-LBP {adaptive['verified/crown-lbp']:.0f} %",
        passed=wrong == 0.0,
        pictures=(picture,),
        columns=("network, lines", *(f"{m} error %" for m in CHAIN), "IBP margin", "CROWN margin"),
        rows=tuple(rows),
        notes=(
            f"Quick run: 2,000 generated digits, {epochs} epochs, radius 0.2, errors of {_IMAGES} unseen images, one"
            " seed. Picture: mean margin bounds, tight lines in blue, adaptive ones in orange; higher is better.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _row(name: str, lines: str, report: Report) -> tuple[str | float, ...]:
    values = report.summary()
    errors = [values[f"verified/{method}"] for method in CHAIN]
    return (f"{name.removeprefix('glyphs-')}, {lines}", *errors, values["margin/ibp"], values["margin/crown"])


def _draw(reports: dict[str, dict[str, Report]]) -> bytes:
    """Bars of the mean margin bounds, one group for each method, one panel for each network."""
    from PIL import Image, ImageDraw, ImageFont

    from tenfold.viz import encode_image

    width, height, top = 420, 300, 46
    canvas = Image.new("RGB", (2 * width, height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    values = {
        name: {lines: [report.summary()[f"margin/{m}"] for m in CHAIN] for lines, report in pair.items()}
        for name, pair in reports.items()
    }
    tight = [v for pair in values.values() for v in pair["tight"]]
    # Adaptive bounds explode: bars below the scale end at its foot and carry their number.
    high, low = max(0.5, *tight) * 1.15, min(-0.5, 1.6 * min(tight))

    def at(value: float) -> float:
        clipped = min(max(value, low), high)
        return top + (height - top - 40) * (high - clipped) / (high - low)

    for panel, (name, pair) in enumerate(values.items()):
        left = panel * width + 16
        draw.text((left, 12), f"{name.removeprefix('glyphs-')}: mean margin bound", (28, 35, 48), font=font)
        draw.line([(left, at(0)), (left + width - 32, at(0))], (120, 130, 145))
        for k, method in enumerate(CHAIN):
            x = left + 8 + k * 76
            for shift, lines, colour in ((0, "tight", (40, 96, 190)), (32, "adaptive", (226, 120, 30))):
                value = pair[lines][k]
                ends = sorted((at(0), at(value)))
                draw.rectangle([x + shift, ends[0], x + shift + 26, max(ends[1], ends[0] + 1)], colour)
                text = f"{value:.1f}" if abs(value) < 100 else f"{value:.0e}"
                draw.text(
                    (x + shift - 2, (ends[1] + 2) if value < 0 else ends[0] - 16),
                    text,
                    (28, 35, 48),
                    font=ImageFont.load_default(size=10),
                )
            draw.text((x, height - 20), method, (28, 35, 48), font=ImageFont.load_default(size=11))
    pixels: npt.NDArray[np.uint8] = np.asarray(canvas)
    return encode_image(pixels)
