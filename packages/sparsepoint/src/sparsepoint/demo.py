"""The quick card: who needs suppression?

A quick run and not the claim: a sparse and a dense detector of one size, trained once (their weights are in the
package), look at rooms that neither has seen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sparsepoint.checkpoint import load_detector
from sparsepoint.data import Batch
from sparsepoint.evaluation import Evaluation, IndoorAP, evaluate
from sparsepoint.experiment import CLASSES, rooms_batches
from sparsepoint.shipped import SHIPPED
from tenfold.io import write_bytes
from tenfold.train.demo import DemoResult, print_demo, write_demo
from tenfold.train.processes import use_threads

__all__ = ["demo", "run_demo"]

_SCENES = 60
_SHOWN = 0.3
_SMALL = 0.02


def demo(out: Path = Path("demo"), seed: int = 0, threads: int = 1) -> None:
    """Detect furniture in generated rooms with and without suppression, sparse beside dense.

    Args:
        out: Folder for the pictures and demo.json.
        seed: Chooses the rooms.
        threads: Threads to use.
    """
    use_threads(threads)
    print_demo(run_demo(out, seed))


def run_demo(out: Path, seed: int = 0, *, scenes: int = _SCENES) -> DemoResult:
    """The whole card.

    Args:
        out: folder for the pictures and ``demo.json``; created.
        seed: chooses the rooms.
        scenes: how many.

    Raises:
        OSError: the folder cannot be written.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    sparse, dense = load_detector("tiny"), load_detector("tiny_votenet")
    batches = rooms_batches(sparse.config, scenes, first=seed * scenes)
    found = {
        "sparse, one-to-one": evaluate(sparse, batches, CLASSES),
        "dense (VoteNet)": evaluate(dense, batches, CLASSES),
    }
    ours, theirs = found.values()
    swapped = _swapped(ours)
    picture = out / "without_suppression.png"
    write_bytes(picture, _picture(found, batches))
    result = DemoResult(
        title="SparsePoint: who needs suppression?",
        claim="Do learned proposals trained one-to-one find every object once, where dense ones need suppression?",
        number=f"suppression changes sparse mAP@0.25 by {100 * ours.delta(0.25):+.1f} points",
        control=f"dense: {100 * theirs.delta(0.25):+.1f} points; another room's points: mAP {100 * swapped:.1f}",
        passed=bool(np.isfinite(ours.plain.mean_ap(0.25)) and ours.plain.mean_ap(0.25) > swapped),
        pictures=(picture,),
        columns=(
            "detector",
            "mAP@0.25, %",
            "with NMS",
            "mAP@0.5, %",
            "with NMS",
            "duplicates",
            "boxes a room",
            "ms",
        ),
        rows=tuple(_row(name, e) for name, e in found.items()),
        notes=(
            f"Quick run on {scenes} generated rooms, one training each, weights as shipped; duplicates are further "
            "detections of an object that is found already. Above: sparse, below: dense, both without suppression.",
            _verdict(ours),
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _verdict(found: Evaluation) -> str:
    """What these weights, of one seed, say of the claim, which is about three."""
    steps = " and ".join(dict.fromkeys(f"{SHIPPED[name].steps:,}" for name in ("tiny", "tiny_votenet")))
    holds = abs(found.delta(0.25)) <= _SMALL
    word = "holds" if holds else "does not hold"
    return (
        f"Trained for {steps} steps; that suppression changes little {word} of the sparse one at this length."
    )


def _row(name: str, found: Evaluation) -> tuple[str | float, ...]:
    plain, less = found.plain, found.suppressed
    percents = [100 * r.mean_ap(o) for o in (0.25, 0.5) for r in (plain, less)]
    return (name, *percents, f"{found.duplicates:.2f}", found.per_scene, found.milliseconds[0])


def _swapped(found: Evaluation) -> float:
    """The control: detections of the next room against this room's objects."""
    metric = IndoorAP(CLASSES)
    metric.truth = found.truth
    metric.found = found.plain_records[1:] + found.plain_records[:1]
    return metric.compute().mean_ap(0.25)


def _picture(found: dict[str, Evaluation], batches: Sequence[Batch]) -> bytes:
    """The fullest of the first rooms."""
    from sparsepoint.pictures import room_picture, titled
    from tenfold.viz import encode_image

    first_rooms = next(iter(found.values())).truth[: len(batches[0])]
    room = int(np.argmax([len(truth.labels) for truth in first_rooms]))
    points, reference = batches[0].points[room].numpy(), first_rooms[room].boxes
    parts = []
    for name, evaluation in found.items():
        first = evaluation.plain_records[room]
        kept = np.asarray(first.scores) > _SHOWN
        shown = replace(
            first,
            boxes=np.asarray(first.boxes)[kept],
            scores=np.asarray(first.scores)[kept],
            labels=np.asarray(first.labels)[kept],
        )
        view = room_picture(points, shown.boxes, shown.labels, None, CLASSES, reference)
        parts.append(
            titled(view, f"{name}: {len(shown.labels)} boxes above {_SHOWN} for {len(reference)} objects")
        )
    return encode_image(np.concatenate(parts))
