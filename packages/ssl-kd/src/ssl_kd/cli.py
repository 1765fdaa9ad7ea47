"""The command line: ``ssl-kd <verb>``."""

import sys

from ssl_kd import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="ssl-kd",
    version=__version__,
    summary="SSKD: knowledge distillation with self-supervision, and thirteen baselines on one bench.",
    task=(
        "ssl_kd.task:SSKDTask",
        "ssl_kd.task:HeadTask",
        "tenfold.distill.task:DistillTask",
        "tenfold.distill.task:ClassifierTask",
    ),
    data="ssl_kd.task:ViewData",
    aliases={"distill": "fit"},
    fit_examples=(
        "ssl-kd fit --config small_teacher",
        "ssl-kd fit --config small_ss_head",
        "ssl-kd fit --config small_distill",
        "ssl-kd fit --config small_distill trainer.max_epochs=150 --ckpt_path last",
        "ssl-kd fit --config teacher model.arch=wrn_40_2 data.root=data",
        "ssl-kd fit --config ss_head model.teacher=runs/teachers/wrn_40_2/checkpoints/last.ckpt",
        "ssl-kd fit --config wrn_40_2_shufflev1 data.root=data",
        "ssl-kd fit --config baseline model.method=crd model.kd_weight=1.0",
        "ssl-kd fit --config few_shot data.few_shot=0.25",
    ),
    test_examples=(
        "ssl-kd test --config small_teacher --ckpt_path last",
        "ssl-kd test --config small_distill --ckpt_path last",
        "ssl-kd test --config wrn_40_2_shufflev1 --ckpt_path last",
    ),
    verbs=(
        Verb(
            "demo",
            "ssl_kd.demo:demo",
            "distil with few labelled images, beside KD at the same and at four times the length",
            ("ssl-kd demo", "ssl-kd demo --out demo --seed 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "tenfold.distill.predict:predict",
            "classify an image",
            (
                "ssl-kd predict photo.png runs/small_distill/checkpoints/last.ckpt",
                "ssl-kd predict photo.png student.pt --out found --top 3",
            ),
        ),
        Verb(
            "export",
            "tenfold.distill.predict:export",
            "write a network as ONNX, torch.export program or plain weights",
            ("ssl-kd export runs/small_distill/checkpoints/last.ckpt student.pt",),
        ),
    ),
)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app())
