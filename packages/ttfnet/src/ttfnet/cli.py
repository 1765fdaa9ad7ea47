"""The command line."""

import sys

from tenfold.train.cli import App, Verb
from ttfnet import __version__

__all__ = ["app", "main"]

app = App(
    name="ttfnet",
    version=__version__,
    summary="Object detection that trains in a fraction of the usual time (TTFNet, AAAI 2020).",
    task="ttfnet.task:DetectionTask",
    data="ttfnet.task:DetectionData",
    fit_examples=(
        "ttfnet fit --config shapes_small trainer.max_epochs=4",
        "ttfnet fit --config shapes_small trainer.max_epochs=15 --ckpt_path last",
        "ttfnet fit --config r18_1x data.root=data/coco model.pretrained=resnet18.pth",
        "ttfnet fit --config custom data.root=data/mine data.batch_size=8 model.time_budget=2h",
    ),
    test_examples=(
        "ttfnet test --config shapes_small --ckpt_path last",
        "ttfnet test --config shapes_small --ckpt_path last model.results=results",
    ),
    verbs=(
        Verb(
            "demo",
            "ttfnet.demo:demo",
            "train the method and its one-pixel control on generated pictures",
            ("ttfnet demo", "ttfnet demo --out demo --seed 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "ttfnet.predict:predict",
            "detect objects in pictures, folders and videos",
            (
                "ttfnet predict street.jpg last.ckpt",
                "ttfnet predict photos last.ckpt --out found --conf 0.4",
                "ttfnet predict 'photos/*.jpg' last.ckpt --batch_size 4",
                "ttfnet predict ride.mp4 last.ckpt",
            ),
        ),
        Verb(
            "export",
            "ttfnet.export:export",
            "write a detector as ONNX, torch.export program or TorchScript, and check it",
            (
                "ttfnet export last.ckpt model.onnx",
                "ttfnet export last.ckpt model.pt2 --dynamic true",
                "ttfnet export last.ckpt model.torchscript",
            ),
        ),
        Verb(
            "benchmark",
            "ttfnet.benchmark:benchmark",
            "measure latency, model alone and end to end",
            ("ttfnet benchmark last.ckpt --runs 5", "ttfnet benchmark resnet18 --size [64,64] --runs 3"),
        ),
        Verb(
            "check-data",
            "ttfnet.check:check_data",
            "look for mistakes in an annotation file and its images",
            (
                "ttfnet check-data data/mine/annotations/instances_train.json",
                "ttfnet check-data data/mine/annotations/instances_train.json --images data/mine/images/train",
            ),
        ),
        Verb(
            "prepare",
            "ttfnet.prepare:prepare",
            "turn a data set with YOLO text labels into COCO's layout",
            ("ttfnet prepare data/yolo",),
        ),
        Verb(
            "convert",
            "ttfnet.convert:convert",
            "turn an official TTFNet checkpoint into one of ours",
            ("ttfnet convert ttfnet_r18_1x.pth ttfnet_r18_1x.pt",),
        ),
        Verb(
            "info",
            "ttfnet.convert:info",
            "show what a checkpoint or ONNX file holds",
            ("ttfnet info last.ckpt",),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
