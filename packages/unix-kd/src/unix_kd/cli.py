"""The command line: ``unix-kd <verb>``."""

import sys

from tenfold.train.cli import App, Verb
from unix_kd import __version__

__all__ = ["app", "main"]

app = App(
    name="unix-kd",
    version=__version__,
    summary="UNIX: knowledge distillation that asks the teacher about fewer, well-chosen images.",
    task=("unix_kd.task:UnixTask", "tenfold.distill.task:DistillTask", "tenfold.distill.task:ClassifierTask"),
    data="tenfold.distill.task:ImageData",
    aliases={"distill": "fit"},
    fit_examples=(
        "unix-kd fit --config small_teacher",
        "unix-kd fit --config small_distill",
        "unix-kd fit --config small_distill trainer.max_epochs=60 --ckpt_path last",
        "unix-kd fit --config teacher model.arch=wrn_40_2 data.root=data",
        "unix-kd fit --config wrn_40_2_shufflev1 data.root=data",
    ),
    test_examples=(
        "unix-kd test --config small_teacher --ckpt_path last",
        "unix-kd test --config small_distill --ckpt_path last",
        "unix-kd test --config wrn_40_2_shufflev1 --ckpt_path last",
    ),
    verbs=(
        Verb(
            "demo",
            "unix_kd.demo:demo",
            "distil a small network with fewer teacher queries, beside its controls",
            ("unix-kd demo", "unix-kd demo --out demo --seed 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "tenfold.distill.predict:predict",
            "classify an image",
            (
                "unix-kd predict photo.png runs/small_distill/checkpoints/last.ckpt",
                "unix-kd predict photo.png student.pt --out found --top 3",
            ),
        ),
        Verb(
            "export",
            "tenfold.distill.predict:export",
            "write a network as ONNX, torch.export program or plain weights",
            ("unix-kd export runs/small_distill/checkpoints/last.ckpt student.pt",),
        ),
        Verb(
            "cost",
            "unix_kd.cost:cost",
            "what UNIX would cost for a pair of networks",
            (
                "unix-kd cost --teacher resnet32x4 --student ShuffleV2",
                "unix-kd cost --teacher torchvision:resnet50 --student MobileNetV1 --classes 1000",
                "unix-kd cost --table true",
            ),
        ),
    ),
)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app())
