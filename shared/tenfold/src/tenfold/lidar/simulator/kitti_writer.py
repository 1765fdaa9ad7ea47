"""Simulated frames in the official KITTI object layout, so that the true reader reads them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tenfold.geometry import Calibration, kitti_alpha
from tenfold.io import write_image
from tenfold.lidar.kitti import DONT_CARE, KittiLabels, write_calibration, write_labels
from tenfold.lidar.simulator.camera import CameraView, render_camera, view_objects
from tenfold.lidar.simulator.ground import Ground
from tenfold.lidar.simulator.scan import KITTI_64, Scan, Sensor, scan
from tenfold.lidar.simulator.scene import Scene, SceneConfig, sample_scene


def write_kitti(
    root: str | Path,
    scenes: Sequence[Scene],
    split: str = "train",
    *,
    sensor: Sensor = KITTI_64,
    calibration: Calibration | None = None,
    image_size: tuple[int, int] = (375, 1242),
    images: bool = True,
    planes: bool = False,
    first_id: int = 0,
    progress: Callable[[Sequence[Scene]], Iterable[Scene]] = iter,
) -> tuple[str, ...]:
    """Scan scenes and write them as one split; returns the frame ids.

    Labelled are the objects that the camera sees and that have a lidar point. What the camera sees but the
    lidar missed becomes a "DontCare" region; what neither sees is left out.

    Args:
        root: created when it does not exist; ``ImageSets/<split>.txt`` is replaced.
        scenes: one per frame; a scan's random seed is that of its scene.
        split: "test" goes to ``testing`` and gets no labels, anything else to ``training``.
        sensor: lidar preset.
        calibration: `Calibration.kitti_like` for the image size when None.
        image_size: (height, width), pixels.
        images: render image_2; without, readers must be told the image size.
        planes: write the road planes.
        first_id: number of the first frame.
        progress: wraps the scenes, such as a progress bar.
    """
    calibration = calibration or Calibration.kitti_like(image_size)
    root = Path(root)
    folder = root / ("testing" if split == "test" else "training")
    kinds = (
        ["velodyne", "calib"] + ["label_2"] * (split != "test") + ["image_2"] * images + ["planes"] * planes
    )
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    ids = tuple(f"{first_id + k:06d}" for k in range(len(scenes)))
    for frame_id, scene in zip(ids, progress(scenes), strict=True):
        frame = scan(scene, sensor, scene.seed)
        frame.points.astype("<f4").tofile(folder / "velodyne" / f"{frame_id}.bin")
        write_calibration(folder / "calib" / f"{frame_id}.txt", calibration)
        if images:
            image, view = render_camera(scene, calibration, image_size)
            write_image(folder / "image_2" / f"{frame_id}.png", image)
        else:
            view = view_objects(scene, calibration, image_size)
        if split != "test":
            write_labels(folder / "label_2" / f"{frame_id}.txt", kitti_labels(frame, view), calibration)
        if planes:
            _write_plane(folder / "planes" / f"{frame_id}.txt", scene.ground, calibration)
    (root / "ImageSets").mkdir(exist_ok=True)
    (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
    return ids


def kitti_labels(frame: Scan, view: CameraView) -> KittiLabels:
    """Labels of a scanned scene as `write_kitti` writes them."""
    seen = view.in_image & (view.visibility > 0)
    measured = seen & (frame.counts > 0)
    order = np.concatenate((np.flatnonzero(measured), np.flatnonzero(seen & ~measured)))
    number = int(measured.sum())
    names = tuple(frame.names[i] if k < number else DONT_CARE for k, i in enumerate(order))
    known = np.arange(len(order)) < number
    boxes = frame.boxes.astype(np.float64)[order]
    return KittiLabels(
        names=names,
        truncation=np.where(known, view.truncation[order], -1).astype(np.float32),
        occlusion=np.where(known, view.occlusion[order], -1),
        alpha=np.where(known, kitti_alpha(boxes), -10).astype(np.float32),
        boxes2d=view.boxes2d[order].astype(np.float32),
        boxes=boxes,
    )


def _write_plane(file: Path, ground: Ground, calibration: Calibration) -> None:
    """Plane of the ground's mean slope, in the rect frame, with its normal up."""
    lidar_plane = np.array([-ground.slope[0], -ground.slope[1], 1.0, -ground.height])
    plane = lidar_plane @ calibration.rect_to_lidar_matrix
    plane /= np.linalg.norm(plane[:3])
    numbers = " ".join(f"{v:.9e}" for v in plane)
    file.write_text(f"# Plane\nWidth 4\nHeight 1\n{numbers}\n", encoding="utf-8")


def simulate_kitti(
    root: str | Path,
    n: int | tuple[int, int],
    seed: int = 0,
    *,
    config: SceneConfig | None = None,
    sensor: Sensor = KITTI_64,
    image_size: tuple[int, int] = (375, 1242),
    images: bool = True,
    planes: bool = False,
    progress: Callable[[Sequence[Scene]], Iterable[Scene]] = iter,
) -> dict[str, tuple[str, ...]]:
    """Draw, scan and write a data set with the splits train, val and trainval.

    Args:
        root: target folder.
        n: number of frames, a quarter of which (at least one of two) becomes val; or (train, val).
        seed: frame k shows the scene of seed ``1000003 * seed + k``, so different seeds share no scene.
        config: of the scenes.
        sensor, image_size, images, planes, progress: as for `write_kitti`.

    Returns:
        Frame ids of each split.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     simulate_kitti(root, 2, images=False)["val"]
    ('000001',)
    """
    train, val = n if isinstance(n, tuple) else (n - max(n // 4, min(n - 1, 1)), max(n // 4, min(n - 1, 1)))
    if train < 0 or val < 0 or train + val < 1:
        raise ValueError(f"simulate_kitti: n: {n} was received; one frame or more is expected")
    splits: dict[str, tuple[str, ...]] = {}
    for split, first, count in (("train", 0, train), ("val", train, val)):
        scenes = [sample_scene(1000003 * seed + first + k, config) for k in range(count)]
        splits[split] = write_kitti(
            root,
            scenes,
            split,
            sensor=sensor,
            image_size=image_size,
            images=images,
            planes=planes,
            first_id=first,
            progress=progress,
        )
    splits["trainval"] = splits["train"] + splits["val"]
    listing = Path(root) / "ImageSets" / "trainval.txt"
    listing.write_text("".join(f"{i}\n" for i in splits["trainval"]), encoding="utf-8")
    return splits
