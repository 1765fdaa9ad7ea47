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
        "tenfold lidar fit --config second_small trainer.max_epochs=25 --ckpt_path last",
        "tenfold lidar fit --config pv_rcnn_kitti data.root=data/kitti",
    ),
    test_examples=(
        "tenfold lidar test --config second_small --ckpt_path last",
        "tenfold lidar test --config second_kitti --ckpt_path last model.results=results",
    ),
    verbs=(
        Verb(
            "demo",
            "tenfold.lidar.demo:demo",
            "train a small detector on simulated scenes and show what it finds",
            ("tenfold lidar demo", "tenfold lidar demo --detector pointpillars --minutes 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "tenfold.lidar.predict:predict",
            "detect objects in a point cloud",
            (
                "tenfold lidar predict 000001.bin last.ckpt",
                "tenfold lidar predict 000001.bin last.ckpt --calib 000001.txt --image 000001.png",
                """tenfold lidar predict 000001.bin last.ckpt --tta_flips '["x"]'""",
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
            "write the object database of a data set, and the index of nuScenes",
            (
                "tenfold lidar prepare data/kitti",
                "tenfold lidar prepare data/kitti --split trainval",
                "tenfold lidar prepare data/nuscenes --dataset nuscenes",
                "tenfold lidar prepare data/nuscenes --dataset nuscenes --split val --objects false",
            ),
        ),
        Verb(
            "check-data",
            "tenfold.lidar.check:check_data",
            "read every frame of a data set, count its boxes, and name what is wrong",
            (
                "tenfold lidar check-data data/own",
                "tenfold lidar check-data data/kitti --dataset kitti --split val --out report.json",
                "tenfold lidar check-data data/nuscenes --dataset nuscenes --version v1.0-mini --split mini_val",
            ),
        ),
    ),
)
