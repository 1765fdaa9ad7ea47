"""The quick card: cars and decoys that only the image tells apart, with a scene's own image and with another's.

A quick run of the detection experiment and not the claim: one seed.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pircnn.data.toy import SEG_NAMES, ToyScene
from pircnn.experiment import (
    DETECTION,
    Trained,
    evaluate_detector,
    held_out,
    scenes,
    train_detector,
    train_segmentation,
)
from pircnn.model import SegUNet
from pircnn.pictures import projection_picture, semantics_picture, stacked
from pircnn.prepare import semantic_map
from tenfold.io import make_folder, write_bytes
from tenfold.train.demo import DemoResult, print_demo, step_teller, write_demo
from tenfold.train.processes import use_threads
from tenfold.viz import encode_image

__all__ = ["demo", "run_demo"]

_ARMS = {"PI-RCNN": "pacf", "control: another scene's image": "pacf-shuffled"}
_STEPS, _SEG_STEPS, _POOL, _HELD_OUT = 110, 60, 90, 30
_SHOWN_SCORE, _SCALE = 0.2, 3


def demo(out: Path = Path("demo"), seed: int = 0, threads: int = 1) -> None:
    """Train two tiny detectors that differ in nothing but whose image they see, and draw what they find.

    Args:
        out: Folder for the picture and demo.json.
        seed: Of scenes and networks.
        threads: Threads to use.
    """
    use_threads(threads)
    print_demo(run_demo(out, seed, progress=True))


def run_demo(
    out: Path,
    seed: int = 0,
    *,
    steps: int = _STEPS,
    pool: int = _POOL,
    number: int = _HELD_OUT,
    progress: bool = False,
) -> DemoResult:
    """The whole card.

    Args:
        out: folder for the picture and ``demo.json``; created.
        seed: of scenes and networks.
        steps: of each of the two detectors.
        pool: scenes to train on.
        number: of held-out scenes.
        progress: tell every 20th step.

    Raises:
        UserInputError: the folder cannot be written.
    """
    start = time.monotonic()
    make_folder(out)
    seg_steps = min(_SEG_STEPS, steps)
    runs = {
        title: train_detector(
            DETECTION[name],
            seed,
            steps,
            pool=pool,
            seg_steps=seg_steps,
            on_step=step_teller(title, steps, 20, progress),
        )
        for title, name in _ARMS.items()
    }
    network = train_segmentation(seed, seg_steps, pool)
    test = scenes(seed, "test", number)
    found = {
        title: evaluate_detector(run.model, held_out(DETECTION[_ARMS[title]], network, test))
        for title, run in runs.items()
    }
    picture = out / "what_the_image_tells.png"
    write_bytes(picture, encode_image(_panels(runs, network, test[0], test[1])))
    fused, control = found.values()
    gradients = next(iter(runs.values())).gradients
    result = DemoResult(
        title="PI-RCNN: fusion on the points",
        claim="Image features at a point's neighbours tell the second stage what LiDAR cannot.",
        number=f"AP {fused['car AP']:.0f} (cars, 3D, overlap 0.5)",
        control=f"{control['car AP']:.0f} with the image of another scene",
        passed=all(np.isfinite(run.losses).all() for run in runs.values()) and min(gradients.values()) > 0,
        pictures=(picture,),
        columns=(
            "detector",
            "3D AP@0.5",
            "car against decoy, AP",
            "recall of proposals, %",
            "least change of a fusion tensor",
        ),
        rows=tuple(
            (
                title,
                f"{found[title]['car AP']:.1f}",
                f"{found[title]['class AP']:.1f}",
                f"{found[title]['recall, %']:.0f}",
                f"{min(run.change.values()):.3f}",
            )
            for title, run in runs.items()
        ),
        notes=(
            f"Quick run on generated scenes, one seed: {pool} to train on, {number} unseen ones with "
            f"{fused['objects']:.0f} cars; cars and decoys have the same sizes and points.",
            "The public release trains no tensor of its fusion; here every one has a gradient after the first step: "
            f"the smallest norm is {min(gradients.values()):.1e}.",
        ),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _panels(
    runs: dict[str, Trained], network: SegUNet, scene: ToyScene, other: ToyScene
) -> npt.NDArray[np.uint8]:
    """A scene, what the image network sees of it, and what each detector finds; the control sees `other`."""
    truth = projection_picture(
        scene.image,
        scene.points,
        scene.calib,
        scene.boxes,
        (~scene.is_car).astype(int),
        class_names=("car", "decoy"),
        size=1,
    )
    semantics = semantics_picture(scene.image, semantic_map(network, scene.image), SEG_NAMES)
    panels = [("points, cars and decoys", truth), ("what the image network sees", semantics)]
    for title, run in runs.items():
        told = semantic_map(network, (other if "control" in title else scene).image)
        found = run.model.predict(scene.points, None, scene.calib, told)
        kept = (found["scores"] >= _SHOWN_SCORE).numpy()
        boxes, scores = found["boxes_3d"].numpy()[kept], found["scores"].numpy()[kept]
        drawn = projection_picture(
            scene.image,
            np.zeros((0, 3), np.float32),
            scene.calib,
            boxes,
            np.zeros(len(boxes), int),
            scores,
            class_names=("car",),
        )
        panels.append((f"{title}: cars found with a score of {_SHOWN_SCORE} or more", drawn))
    return stacked(panels, scale=_SCALE)
