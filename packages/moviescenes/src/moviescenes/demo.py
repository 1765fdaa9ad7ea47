"""The quick card: a written film whose scenes are found, and the levels of the method on generated features.

A quick run and not the claim: one seed, few films and epochs.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moviescenes.data.film import plan_film, write_film
from moviescenes.experiment import GENERATED, measure_generated
from moviescenes.scenes import SceneList
from moviescenes.segment import SceneSegmenter
from tenfold.io import write_bytes
from tenfold.train.demo import DemoResult, print_demo, write_demo

__all__ = ["demo", "run_demo"]

_ROWS = (
    ("gen-cosine-2", "untrained: cosine of two shots each side"),
    ("gen-base-all", "base: one plain filter"),
    ("gen-bnet-all", "BNet"),
    ("gen-seq-all", "BNet and sequence"),
)
_SCENES = 6
_FILMS = (16, 10)
_EPOCHS = 6


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Write a film, find its scenes, and train the levels of the method on generated features.

    Args:
        out: Folder for the film, its scenes, a picture and demo.json.
        seed: Of everything random.
    """
    print_demo(run_demo(out, seed))


def run_demo(out: Path, seed: int = 0, *, epochs: int = _EPOCHS) -> DemoResult:
    """The whole card.

    Args:
        out: folder; created.
        seed: of everything random.
        epochs: of each training.

    Raises:
        OSError: the folder cannot be written.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    plan = plan_film(seed, _SCENES)
    film = out / "film.mp4"
    write_film(film, plan, fps=Fraction(24000, 1001), size=(256, 144))
    found = SceneSegmenter().segment(film, thumbnails=True)
    for name in ("json", "html", "edl"):
        found.save(out / f"film.{name}")
    picture = out / "scenes.png"
    write_bytes(picture, _picture(found, plan.scene_cuts))
    hits = len({s.start_frame for s in found[1:]} & set(plan.scene_cuts))
    cuts = len({s.start_frame for s in found.shots[1:]} & set(plan.hard_cuts))
    rows: list[tuple[str | float, ...]] = []
    for name, words in _ROWS:
        metrics = measure_generated(name, seed, replace(GENERATED[name], films=_FILMS, epochs=epochs))
        rows.append((words, metrics["AP"], metrics["grouped AP"], metrics["grouped Miou"]))
    result = DemoResult(
        title="moviescenes: a movie in, its scenes out",
        claim="Scenes are found from local to global: clips, sequences of clips, and the grouping of the whole film.",
        number=f"AP {rows[-1][2]:.1f} with all levels on generated films",
        control=f"{rows[1][1]:.1f} with a plain filter, {rows[0][1]:.1f} untrained",
        passed=cuts == len(plan.hard_cuts) and hits >= len(plan.scene_cuts) - 1,
        pictures=(picture,),
        columns=("generated features", "AP", "AP after grouping", "Miou after grouping"),
        rows=tuple(rows),
        notes=(
            f"Quick run: {_FILMS[0]} films to train on, {_FILMS[1]} unseen ones, {epochs} epochs, one seed.",
            f"Generated video: {cuts} of {len(plan.hard_cuts)} cuts and {hits} of {len(plan.scene_cuts)} scene"
            " boundaries found from the file alone, without a trained model.",
            "scenes: the middle frame of each shot; the bar's colour is the scene found, white marks a true boundary.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _picture(found: SceneList, truth: Sequence[int]) -> bytes:
    """Thumbnails of all shots in reading order, a bar in the colour of the scene below each."""
    from PIL import Image

    from tenfold.viz import encode_image
    from tenfold.viz.colours import class_colour

    width, height, across = 128, 72, 8
    rows = -(-len(found.shots) // across)
    canvas = np.full((rows * (height + 12), across * width, 3), 24, np.uint8)
    starts = set(truth) | {0}
    for scene in found:
        for shot in found.shots_of(scene):
            row, column = divmod(shot.index, across)
            top, left = row * (height + 12), column * width
            picture = Image.open(io.BytesIO(found.thumbnails[shot.index])).convert("RGB")
            pixels: npt.NDArray[np.uint8] = np.asarray(picture.resize((width - 4, height)))
            canvas[top : top + height, left + 2 : left + width - 2] = pixels
            canvas[top + height + 1 : top + height + 9, left : left + width] = class_colour(scene.index)
            if shot.start_frame in starts:
                canvas[top : top + height + 9, left : left + 3] = 255
    return encode_image(canvas)
