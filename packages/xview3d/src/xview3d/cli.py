"""The command line."""

import sys

from tenfold.train.cli import App, Verb
from xview3d import __version__

__all__ = ["app", "main"]

app = App(
    name="xview3d",
    version=__version__,
    summary="Perspective views from anywhere as a plug-in for LiDAR detectors (X-view, arXiv 2103.13001).",
    task="xview3d.task:XViewTask",
    data="xview3d.task:XViewData",
    aliases={"train": "fit"},
    fit_examples=(
        "xview3d fit --config second_small trainer.max_epochs=1",
        "xview3d fit --config second_small trainer.max_epochs=25 --ckpt_path last",
        "xview3d fit --config kitti_second_v2 data.root=data/kitti",
        "xview3d fit --config kitti_second_v2 data.root=data/kitti model.xview='{control: shuffled}'",
        "xview3d fit --config kitti_pv_rcnn_v2 data.root=data/kitti model.start_from=pv_rcnn.ckpt",
    ),
    test_examples=(
        "xview3d test --config second_small --ckpt_path last",
        "xview3d test --config second_small --ckpt_path last model.results=results",
    ),
    verbs=(
        Verb(
            "demo",
            "xview3d.demo:demo",
            "count shared cells, train a small SECOND with views, draw both",
            ("xview3d demo", "xview3d demo --out demo --seed 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "xview3d.extension:predict",
            "detect objects in a point cloud",
            (
                "xview3d predict 000001.bin last.ckpt",
                "xview3d predict 000001.bin last.ckpt --calib 000001.txt --image 000001.png",
            ),
        ),
        Verb(
            "export",
            "xview3d.extension:export",
            "write a detector's dense part as ONNX or torch.export program",
            ("xview3d export last.ckpt second.pt2",),
        ),
        Verb(
            "prepare",
            "xview3d.extension:prepare",
            "write the object database of a data set, and the index of nuScenes",
            ("xview3d prepare data/kitti",),
        ),
        Verb(
            "diagnose",
            "xview3d.commands:diagnose",
            "look at a recipe's views on a frame: hit rates, shared cells, dead branches",
            (
                "xview3d diagnose second_small",
                "xview3d diagnose second_small --frame 000001.bin --labels 000001_labels.txt --calib 000001.txt",
            ),
        ),
        Verb(
            "bench",
            "xview3d.commands:bench",
            "time a recipe's detector with and without its views, part by part",
            ("xview3d bench second_small --runs 3", "xview3d bench second_small --frame 000001.bin --runs 3"),
        ),
        Verb(
            "centers",
            "xview3d.commands:centers",
            "propose centres of views from point clouds",
            ("xview3d centers [000001.bin]", "xview3d centers [000001.bin] --number 2"),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
