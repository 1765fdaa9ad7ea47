"""The quick card: a narrow detector learns to find simulated cars within minutes.

A quick run and not a claim: one seed, one short schedule. The control is the same network before training.
Where the sample frames are present (environment variable ``TENFOLD_TEST_DATA``) the network, which has seen
nothing but simulated scans, is also shown real ones; what it finds there is reported as measured.
"""

import copy
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from tenfold.eval.kitti import KittiResult
from tenfold.geometry import rotate_boxes, rotate_z
from tenfold.io import make_folder, read_json, read_point_array, write_bytes
from tenfold.lidar.data import DetectionFrames, Frame
from tenfold.lidar.kitti import FloatArray, KittiObject
from tenfold.lidar.predict import Detections, camera_matrix, detect, point_range
from tenfold.ops import box_iou_bev, points_in_boxes
from tenfold.train.demo import DemoResult, print_demo, write_demo
from tenfold.train.processes import use_threads
from tenfold.viz import bev_image, draw_boxes_3d, encode_image

__all__ = ["RealFrame", "demo", "real_frames", "run_demo", "small_overrides"]

_FRAMES = (80, 40)
_BATCH = 4
# On two cores of 2020s laptops; fixed, so that a seed gives the same numbers on a busy machine too.
_STEPS_PER_MINUTE = 220.0
_FEWEST_STEPS = 2
#: Detectors of the card, and how people write them.
DETECTORS = {
    "second": "SECOND",
    "pointpillars": "PointPillars",
    "pointrcnn": "PointRCNN",
    "parta2": "Part-A2",
    "pv_rcnn": "PV-RCNN",
}
_SHOWN_SCORE = 0.3
_FOUND_OVERLAP = 0.5
_LEAST_POINTS = 10


@dataclass(frozen=True, eq=False)
class RealFrame:
    """A real frame, brought into the frame that the detectors expect (x forward).

    Attributes:
        name: such as "KITTI 000001".
        points: ``(N, 4)`` x, y, z, intensity in [0, 1].
        boxes: ``(M, 7)`` labelled cars in the network's range that hold at least ten points.
        looks: headings, radians, in which the network looks at a quarter of the circle.
        image: camera picture, or None.
        projection: ``(3, 4)`` from the points' frame to the picture, or None.
    """

    name: str
    points: FloatArray
    boxes: FloatArray
    looks: tuple[float, ...] = (0.0,)
    image: npt.NDArray[np.uint8] | None = None
    projection: npt.NDArray[np.float64] | None = None


def demo(
    out: Path = Path("demo"),
    seed: int = 0,
    minutes: float = 2.5,
    threads: int = 2,
    detector: Literal["second", "pointpillars", "pointrcnn", "parta2", "pv_rcnn"] = "second",
) -> None:
    """Train a narrow detector on simulated scenes, evaluate it on unseen ones, and draw what it finds.

    Args:
        out: Folder for pictures and `demo.json`.
        seed: Of scenes and network.
        minutes: About how long it takes on two free cores with second; longer finds more.
        threads: Threads to use.
        detector: Which; the two-stage ones take about twice as long.
    """
    use_threads(threads)
    print_demo(run_demo(out, seed, minutes, detector))


def small_overrides(detector: str) -> dict[str, Any]:
    """What makes a detector narrow enough to train within minutes: the settings of its recipe ``*_small``."""
    import yaml

    recipe = files("tenfold.lidar") / "configs" / f"{detector}_small.yaml"
    settings: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["overrides"]
    return settings


def run_demo(out: Path, seed: int = 0, minutes: float = 2.5, detector: str = "second") -> DemoResult:
    """The whole card; `torch`'s number of threads is the caller's choice.

    Args:
        out: folder for pictures and ``demo.json``; created.
        seed: of scenes and network.
        minutes: about how long it takes on two free cores; the number of steps follows from it.
        detector: one of `DETECTORS`.

    Raises:
        UserInputError: the folder cannot be written.
    """
    from tenfold.train.lightning import quiet

    start = time.monotonic()
    make_folder(out)
    with tempfile.TemporaryDirectory() as folder, quiet():
        task, data = _task_and_data(folder, seed, detector)
        steps = max(_FEWEST_STEPS, round(_STEPS_PER_MINUTE * minutes))
        untrained, trained = _learn(task, data, steps)
        pictures = _draw_simulated(task.model.eval(), data.frames["val"], out)
    real = real_frames(point_range(task.model))
    rows = [_row("untrained network", untrained), _row(f"after {steps} steps", trained)]
    notes = [
        f"Quick run on simulated scenes, one seed: {_FRAMES[0]} frames to train on, {_FRAMES[1]} unseen ones"
        f" with {_labelled(trained)} cars to find.",
        *_show_real(task.model, real, out, pictures),
    ]
    result = DemoResult(
        title=f"{DETECTORS[detector]} on simulated LiDAR",
        claim=f"A narrow {DETECTORS[detector]} learns to find cars in simulated LiDAR scans within minutes on a CPU.",
        number=f"3D average precision {_headline(trained):.1f} (cars, overlap 0.5, moderate, R40)",
        control=f"{_headline(untrained):.1f} for the same network before training",
        passed=_headline(trained) > _headline(untrained),
        pictures=tuple(pictures),
        columns=("network", "BEV AP@0.5", "3D AP@0.5", "3D AP@0.7"),
        rows=tuple(rows),
        notes=tuple(notes),
        seed=seed,
        seconds=time.monotonic() - start,
    )
    write_demo(result, out)
    return result


def _task_and_data(folder: str, seed: int, detector: str) -> tuple[Any, Any]:
    """The network and its simulated scenes, which are written here."""
    from tenfold.lidar.task import LidarData, LidarTask
    from tenfold.train.lightning import seed_everything

    seed_everything(seed, verbose=False)
    data = LidarData(
        folder, batch_size=_BATCH, seed=seed, counts={"Car": 8}, image_size=(375, 1242), simulate=_FRAMES
    )
    data.prepare_data()
    return LidarTask(detector, "kitti", small_overrides(detector), lr=0.01), data


def _learn(task: Any, data: Any, steps: int) -> tuple[KittiResult, KittiResult]:
    """The evaluation before and after training."""
    untrained = _evaluate(_without_threshold(task), data)
    _train(task, data, steps)
    return untrained, _evaluate(task, data)


def _headline(result: KittiResult) -> float:
    return result.ap("Car", "3d", table="loose")


def _labelled(result: KittiResult) -> int:
    return result.curve("Car", "3d", table="loose").n_gt


def _row(name: str, result: KittiResult) -> tuple[str | float, ...]:
    return (name, result.ap("Car", "bev", table="loose"), _headline(result), result.ap("Car", "3d"))


def _trainer(**options: Any) -> Any:
    from tenfold.train import make_trainer

    return make_trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=10.0,
        **options,
    )


def _train(task: Any, data: Any, steps: int) -> None:
    _trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0).fit(task, datamodule=data)


def _evaluate(task: Any, data: Any) -> KittiResult:
    _trainer(enable_progress_bar=False).validate(task, datamodule=data, verbose=False)
    result: KittiResult = task.result
    return result


def _without_threshold(task: Any) -> Any:
    """A copy whose weakest boxes count too: an untrained network must not fail by its low scores alone."""
    control = copy.deepcopy(task)
    post = replace(control.model.config.post, score_threshold=0.0)
    control.model.config = replace(control.model.config, post=post)
    return control


def _draw_simulated(model: Any, frames: DetectionFrames, out: Path) -> list[Path]:
    pictures = []
    for k in range(2):
        frame: Frame = frames[k]
        found = _shown(detect(model, frame.points))
        path = out / f"simulated_{k}.png"
        _draw(path, model, frame.points, found, frame.gt_boxes[:, :7], point_range(model))
        pictures.append(path)
    return pictures


def _shown(found: Detections) -> Detections:
    kept = found["scores"] >= _SHOWN_SCORE
    return {name: values[kept] for name, values in found.items()}


def _draw(
    path: Path, model: Any, points: FloatArray, found: Detections, labels: FloatArray, limits: Sequence[float]
) -> None:
    """Bird's-eye picture: detections in colour, labels in white."""
    picture = bev_image(
        points,
        found["boxes"],
        found["labels"],
        found["scores"],
        range=limits,
        reference=labels,
        class_names=model.class_names,
        point_size=2,
    )
    write_bytes(path, encode_image(picture))


def _show_real(model: Any, frames: Sequence[RealFrame], out: Path, pictures: list[Path]) -> list[str]:
    """Draws and counts on real frames; one sentence each."""
    notes = []
    for frame in frames:
        found = _shown(detect_around(model, frame.points, frame.looks))
        stem = frame.name.lower().replace(" ", "_")
        pictures.append(out / f"{stem}.png")
        ahead = point_range(model)
        around = (-ahead[3], -ahead[3], ahead[2], ahead[3], ahead[3], ahead[5])
        _draw(
            pictures[-1], model, frame.points, found, frame.boxes, ahead if len(frame.looks) == 1 else around
        )
        if frame.image is not None and frame.projection is not None:
            drawn = draw_boxes_3d(
                frame.image,
                found["boxes"],
                frame.projection,
                found["labels"],
                found["scores"],
                class_names=model.class_names,
            )
            pictures.append(out / f"{stem}_image.png")
            write_bytes(pictures[-1], encode_image(drawn))
        hits = found_objects(frame.boxes, found["boxes"])
        notes.append(
            f"{frame.name}, never trained on: {hits} of {len(frame.boxes)} labelled cars found"
            f" (bird's-eye overlap {_FOUND_OVERLAP}), {len(found['scores']) - hits} other detections."
        )
    return notes


def detect_around(model: Any, points: FloatArray, looks: Sequence[float]) -> Detections:
    """Detections in one quarter of the circle around each heading, as a forward-looking network sees it."""
    parts: list[Detections] = []
    for heading in looks:
        turned = rotate_z(points, -heading)
        found = detect(model, turned[_ahead(turned)])
        found = {name: values[_ahead(found["boxes"])] for name, values in found.items()}
        parts.append({**found, "boxes": rotate_boxes(found["boxes"], heading)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _ahead(rows: FloatArray) -> npt.NDArray[np.bool_]:
    """``(N,)``: within 45 degrees of +x."""
    ahead: npt.NDArray[np.bool_] = np.abs(rows[:, 1]) <= rows[:, 0]
    return ahead


def found_objects(labelled: FloatArray, found: FloatArray) -> int:
    """Labelled boxes ``(M, 7)`` that some detection ``(n, 7)`` overlaps by at least one half from above."""
    if not len(labelled) or not len(found):
        return 0
    overlap = box_iou_bev(torch.from_numpy(labelled).double(), torch.from_numpy(found).double())
    return int((overlap.amax(dim=1) >= _FOUND_OVERLAP).sum())


def real_frames(limits: Sequence[float], folder: Path | None = None) -> list[RealFrame]:
    """KITTI and nuScenes sample frames, where present.

    Args:
        limits: x0, y0, z0, x1, y1, z1 in metres: where the detector looks.
        folder: holds ``kitti/`` and ``nuscenes/``; by default the environment variable TENFOLD_TEST_DATA.
    """
    named = os.environ.get("TENFOLD_TEST_DATA")
    if folder is None and not named:
        return []
    root = folder or Path(str(named))
    return [*_kitti_frames(root / "kitti", limits), *_nuscenes_frames(root / "nuscenes", limits)]


def _kitti_frames(root: Path, limits: Sequence[float]) -> list[RealFrame]:
    ids = sorted(path.stem for path in (root / "training" / "velodyne").glob("*.bin"))
    frames = []
    data = KittiObject(root, ids=ids, with_image=True)
    for frame in (data[k] for k in range(len(data))):
        assert frame.labels is not None
        cars = frame.labels.boxes[[name == "Car" for name in frame.labels.names]].astype(np.float32)
        labels = _visible(frame.points, cars, limits, (0.0,))
        if len(labels):
            projection = camera_matrix(frame.calibration)
            name = f"KITTI {frame.frame_id}"
            frames.append(RealFrame(name, frame.points, labels, (0.0,), frame.image, projection))
    return frames


def _nuscenes_frames(root: Path, limits: Sequence[float]) -> list[RealFrame]:
    """NuScenes looks along +y and counts intensity to 255; here +x and 1."""
    facts = root / "sample.json"
    if not facts.is_file():
        return []
    document = read_json(facts)
    sample = document["data_list"][0]
    car = document["metainfo"]["categories"]["car"]
    points = read_point_array(root / sample["lidar_points"]["lidar_path"], 5)[:, :4]
    points = rotate_z(points, -np.pi / 2)
    points[:, 3] /= 255
    rows = [i["bbox_3d"] for i in sample["instances"] if i["bbox_label_3d"] == car]
    boxes = rotate_boxes(np.array(rows, dtype=np.float32).reshape(-1, 7), -np.pi / 2)
    looks = tuple(k * np.pi / 2 for k in range(4))
    return [RealFrame("nuScenes", points, _visible(points, boxes, limits, looks), looks)]


def _visible(
    points: FloatArray, boxes: FloatArray, limits: Sequence[float], looks: Sequence[float]
) -> FloatArray:
    """Boxes whose centre the detector looks at and that hold a few points."""
    first, _ = points_in_boxes(
        torch.from_numpy(np.ascontiguousarray(points[:, :3])), torch.from_numpy(boxes), mode="csr"
    )
    inside = np.zeros(len(boxes), dtype=bool)
    for heading in looks:
        centre = rotate_z(boxes[:, :3], -heading)
        inside |= ((centre >= limits[:3]) & (centre <= limits[3:])).all(axis=1) & _ahead(centre)
    kept: FloatArray = boxes[inside & (first.diff().numpy() >= _LEAST_POINTS)]
    return kept
