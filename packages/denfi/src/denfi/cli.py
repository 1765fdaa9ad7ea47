"""The command line."""

import sys

from denfi import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="denfi",
    version=__version__,
    summary="Boundary-aware features for single-stage LiDAR detectors (DENFI, 2020).",
    task="denfi.task:DenfiTask",
    data="denfi.task:LidarData",
    fit_examples=(
        "denfi fit --config second_small trainer.max_epochs=2",
        "denfi fit --config second_small trainer.max_epochs=25 --ckpt_path last",
        "denfi fit --config second_small model.variant=dsc+dbpm trainer.default_root_dir=runs/dsc_dbpm",
        "denfi fit --config second_3class data.root=data/kitti",
    ),
    test_examples=(
        "denfi test --config second_small --ckpt_path last",
        "denfi test --config second_3class --ckpt_path last model.results=results",
    ),
    verbs=(
        Verb(
            "demo",
            "denfi.demo:demo",
            "show where the module looks, beside its control",
            ("denfi demo", "denfi demo --out demo --seed 1"),
        ),
        Verb(
            "predict",
            "denfi.predict:predict",
            "detect objects in a point cloud, and draw what the module looks at",
            (
                "denfi predict 000001.bin last.ckpt",
                "denfi predict 000001.bin last.ckpt --calib 000001.txt --image 000001.png",
            ),
        ),
        Verb(
            "export",
            "denfi.export:export",
            "write a detector's dense part as ONNX or torch.export program",
            ("denfi export last.ckpt denfi.pt2", "denfi export last.ckpt denfi.onnx"),
        ),
        Verb(
            "ablate",
            "denfi.ablate:ablate",
            "print what every row of the ablation costs: parameters, operations, latency",
            ("denfi ablate denfidet_tiny", "denfi ablate denfidet_second_3class --runs 3 --out costs.json"),
        ),
        Verb(
            "prepare",
            "tenfold.lidar.prepare:prepare",
            "write the object database of a data set",
            ("denfi prepare data/kitti", "denfi prepare data/kitti --split trainval"),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
