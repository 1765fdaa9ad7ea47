"""The verb `benchmark`: latency of a detector, model alone and end to end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tenfold._errors import UserInputError
from tenfold.io import write_image
from tenfold.train.processes import use_threads
from ttfnet.checkpoint import describe
from ttfnet.data.shapes import draw_scene
from ttfnet.model import BACKBONES, TTFNet, use_standard_operators
from ttfnet.predict import Predictor, checked_device, load

__all__ = ["benchmark", "percentiles"]


def benchmark(
    model: str,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    runs: int = 30,
    half: bool = False,
    device: str = "cpu",
    threads: int | None = None,
) -> None:
    """Measure latency: model and decoding alone, and end to end from a JPEG file; warm-up first.

    Args:
        model: Checkpoint, ONNX file, or the name of a backbone for a network with random weights.
        size: Height and width of the input; by default the checkpoint's, 512 x 512 for a backbone.
        batch_size: Images at a time.
        runs: Measured runs.
        half: Mixed precision (bfloat16 on a CPU, float16 on a GPU); an ONNX file has its own.
        device: Device such as cuda.
        threads: Threads to use; all cores by default.
    """
    if runs < 1 or batch_size < 1:
        raise UserInputError(f"runs, batch_size: got {runs}, {batch_size}; expected at least 1")
    use_threads(threads)
    predictor = _predictor(model, size, device)
    if half and predictor.model is None:
        raise UserInputError(f"half: got true; {model} has the precision that it was exported with")
    height, width = predictor.info.size
    print(
        f"{model}, {height} x {width}, batch {batch_size}, {device}, {torch.get_num_threads()} threads, {runs} runs"
    )
    images = torch.randn(batch_size, 3, height, width, device=device)
    kind = "cuda" if device.startswith("cuda") else "cpu"
    dtype = torch.float16 if kind == "cuda" else torch.bfloat16

    def model_only() -> None:
        with torch.inference_mode(), torch.autocast(kind, dtype, enabled=half):
            predictor.run(images)
        if kind == "cuda":
            torch.cuda.synchronize()

    def end_to_end() -> None:
        with torch.autocast(kind, dtype, enabled=half):
            predictor.predict_images(files, batch_size=batch_size)

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{k}.jpg" for k in range(batch_size)]
        for k, file in enumerate(files):
            write_image(file, draw_scene(np.random.default_rng(k), 640)[0][:480])
        print(_line("model and decoding", percentiles(model_only, runs), batch_size))
        print(_line("end to end", percentiles(end_to_end, runs), batch_size))


def _predictor(model: str, size: tuple[int, int] | None, device: str) -> Predictor:
    if model not in BACKBONES:
        predictor = load(model, device)
        if size is not None and tuple(size) != predictor.info.size:
            if predictor.model is None:
                raise UserInputError(
                    f"size: got {list(size)}; {model} is made for {list(predictor.info.size)}"
                )
            info = describe(predictor.model, predictor.info.class_names, size=tuple(size))
            return Predictor(info, predictor.run, predictor.model, device)
        return predictor
    kind = checked_device(device)
    network = TTFNet(model).eval().to(kind)
    use_standard_operators(network, kind.type == "cpu")  # as `ttfnet.load` does
    info = describe(network, size=tuple(size or (512, 512)))
    return Predictor(info, lambda images: network.decode(network(images)), network, device)


def percentiles(work: Callable[[], object], runs: int, warmup: int = 3) -> dict[str, float]:
    """Milliseconds of ``work``: median, 90th and 99th percentile, mean.

    Example:
        >>> sorted(percentiles(lambda: None, 5))
        ['mean', 'p50', 'p90', 'p99']
    """
    for _ in range(warmup):
        work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    p50, p90, p99 = (float(v) for v in np.percentile(times, (50, 90, 99)))
    return {"p50": p50, "p90": p90, "p99": p99, "mean": float(np.mean(times))}


def _line(name: str, found: dict[str, float], batch: int) -> str:
    numbers = "  ".join(f"{key} {value:.1f}" for key, value in found.items())
    return f"{name:20} ms: {numbers}  ({1000 * batch / found['mean']:.1f} images/s)"
