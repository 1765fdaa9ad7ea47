"""The command line."""

import sys

from pircnn import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="pircnn",
    version=__version__,
    summary="LiDAR and image fused on the points (PI-RCNN, 2020).",
    task=("pircnn.task:PircnnTask", "pircnn.task:SegTask"),
    data=("pircnn.task:PircnnData", "pircnn.task:SegData"),
    fit_examples=(
        "pircnn fit --config pircnn_small trainer.max_epochs=2",
        "pircnn fit --config pircnn_small model.variant=pointrcnn trainer.default_root_dir=runs/lidar",
        "pircnn fit --config seg_small",
        "pircnn fit --config seg_kitti data.root=data/kitti_semantics",
        "pircnn fit --config kitti_paper data.root=data/kitti model.segmentation=seg.ckpt",
        "pircnn fit --config kitti_paper --ckpt_path last",
    ),
    test_examples=(
        "pircnn test --config pircnn_small --ckpt_path last",
        "pircnn test --config pircnn_small --ckpt_path last data.turn=1.0",
        "pircnn test --config kitti_paper --ckpt_path last model.results=results",
    ),
    verbs=(
        Verb(
            "demo",
            "pircnn.demo:demo",
            "show what the image brings, beside its control",
            ("pircnn demo", "pircnn demo --out demo --seed 1"),
        ),
        Verb(
            "project",
            "pircnn.project:project",
            "draw points and boxes on the camera image",
            (
                "pircnn project 000001 --root data/kitti",
                "pircnn project 000001.bin --calib 000001.txt --image 000001.png",
            ),
        ),
        Verb(
            "predict",
            "pircnn.predict:predict",
            "detect objects in a point cloud and its image",
            ("pircnn predict 000001.bin last.ckpt --calib 000001.txt --image 000001.png",),
        ),
        Verb(
            "export",
            "pircnn.export:export",
            "write the image branch as ONNX or torch.export program",
            (
                "pircnn export last.ckpt image.pt2",
                "pircnn export seg.ckpt image.onnx --height 376 --width 1240",
            ),
        ),
        Verb(
            "prepare",
            "pircnn.prepare:prepare",
            "write the object database with stored semantics, and cached maps",
            (
                "pircnn prepare data/kitti",
                "pircnn prepare data/kitti --segmentation seg.ckpt",
                "pircnn prepare data/kitti --split val --segmentation seg.ckpt --maps true --objects false",
            ),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
