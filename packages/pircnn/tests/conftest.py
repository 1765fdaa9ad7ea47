import numpy as np
import pytest
import torch

from tenfold.testing import cli_fixture

cli = cli_fixture("pircnn.cli:app")

# A PI-RCNN so narrow that a step takes milliseconds.
NARROW = {
    "class_names": ["Car"],
    "point_range": [0.0, -32.0, -3.0, 40.0, 32.0, 1.0],
    "points": 256,
    "levels": [[64, [[1.6, 8, [8, 8]]]], [16, [[4.0, 8, [8, 16]]]]],
    "up_widths": [[16, 16], [16, 16]],
    "point_widths": [16],
    "pool_points": 16,
    "pool_enlarge": 1.0,
    "roi_channels": 16,
    "roi_levels": [[8, [[0.8, 8, [16]]]], [None, [[1.0, 1, [16]]]]],
    "second": {
        "train": {"pre_max": 128, "post_max": 24},
        "test": {"pre_max": 128, "iou_threshold": 0.7, "post_max": 16},
        "sampling": {"per_frame": 16},
        "fc": [16],
    },
    "post": {"score_threshold": 0.01},
    "seg_classes": 3,
    "seg_widths": [4, 4],
}


@pytest.fixture(scope="session")
def narrow():
    return NARROW


@pytest.fixture(scope="session")
def make_model():
    """A narrow detector by variant; equal seeds give equal weights of equal parts."""
    from pircnn import PIRCNN

    def make(variant="pacf", **overrides):
        torch.manual_seed(0)
        fusion = overrides.pop("fusion", {})
        return PIRCNN.from_config(variant, **{**NARROW, **overrides, "fusion": fusion})

    return make


@pytest.fixture(scope="session")
def toy():
    """Four scenes."""
    from pircnn.data import toy_scene

    return [toy_scene((9, k)) for k in range(4)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, make_model):
    """What `pircnn fit` would write of a narrow detector with an image branch."""
    path = tmp_path_factory.mktemp("checkpoint") / "narrow.ckpt"
    model = make_model(branch="joint")
    hyper = {
        "detector": "pircnn",
        "dataset": "kitti",
        "variant": "pacf",
        "branch": "joint",
        "overrides": NARROW,
    }
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"hyper_parameters": hyper, "state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def seg_checkpoint(tmp_path_factory):
    """What `fit --config seg_small` would write."""
    from pircnn import SegUNet

    path = tmp_path_factory.mktemp("seg") / "seg.ckpt"
    torch.manual_seed(1)
    network = SegUNet(3, 3, (4, 4))
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"hyper_parameters": {"num_classes": 3, "widths": [4, 4]}, "state_dict": state}, path)
    return path


@pytest.fixture
def kitti(tmp_path, toy):
    """Two toy scenes in KITTI's layout: (root, names of the frames)."""
    from tenfold.geometry import Calibration, kitti_alpha, project_boxes
    from tenfold.io import write_image
    from tenfold.lidar.kitti import KittiLabels, write_calibration, write_labels

    root, calibration = tmp_path / "kitti", Calibration.kitti_like((96, 320))
    names = ("000000", "000001")
    for kind in ("velodyne", "calib", "label_2", "image_2"):
        (root / "training" / kind).mkdir(parents=True)
    for name, scene in zip(names, toy, strict=False):
        folder = root / "training"
        scene.points.astype("<f4").tofile(folder / "velodyne" / f"{name}.bin")
        write_calibration(folder / "calib" / f"{name}.txt", calibration)
        write_image(folder / "image_2" / f"{name}.png", scene.image)
        boxes = scene.boxes[scene.is_car].astype(np.float64)
        none = np.zeros(len(boxes))
        labels = KittiLabels(
            ("Car",) * len(boxes), none.astype(np.float32), none.astype(np.int64),
            kitti_alpha(boxes).astype(np.float32), project_boxes(boxes, calibration, (96, 320))[0], boxes,
        )  # fmt: skip
        write_labels(folder / "label_2" / f"{name}.txt", labels, calibration)
    (root / "ImageSets").mkdir()
    for split in ("train", "val"):
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root, names
