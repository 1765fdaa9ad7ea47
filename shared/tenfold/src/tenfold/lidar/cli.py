"""The command line of the LiDAR detectors: ``tenfold lidar <verb>``."""

from tenfold import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app"]

_SMALL = "tenfold lidar fit --config second_small trainer.max_epochs=2"

app = App(
    name="tenfold lidar",
    version=__version__,
    summary="LiDAR detectors: train, evaluate and run them on your own scans.",
    package="tenfold.lidar",
    distribution="tenfold",
    task="tenfold.lidar.task:LidarTask",
    data="tenfold.lidar.task:LidarData",
    fit_examples=(
        _SMALL,
        "tenfold lidar fit --config second_small trainer.max_epochs=3 --ckpt_path last",
        "tenfold lidar fit --config second_kitti data.root=data/kitti",
    ),
    test_examples=(
        "tenfold lidar test --config second_small --ckpt_path last",
        "tenfold lidar test --config second_kitti --ckpt_path last model.results=results",
    ),
    verbs=(
        Verb(
            "demo",
            "tenfold.lidar.demo:demo",
            "train a small SECOND on simulated scenes and show what it finds",
            ("tenfold lidar demo", "tenfold lidar demo --out demo --minutes 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "tenfold.lidar.predict:predict",
            "detect objects in a point cloud",
            (
                "tenfold lidar predict 000001.bin last.ckpt",
                "tenfold lidar predict 000001.bin last.ckpt --calib 000001.txt --image 000001.png",
            ),
        ),
        Verb(
            "export",
            "tenfold.lidar.export:export",
            "write a detector's dense part as ONNX or torch.export program",
            ("tenfold lidar export last.ckpt second.pt2",),
        ),
        Verb(
            "prepare",
            "tenfold.lidar.prepare:prepare",
            "write the object database of a data set in KITTI's layout",
            ("tenfold lidar prepare data/kitti", "tenfold lidar prepare data/kitti --split trainval"),
        ),
    ),
)
