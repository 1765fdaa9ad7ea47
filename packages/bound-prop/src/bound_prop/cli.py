"""The command line: ``bound-prop <verb>``."""

import sys

from bound_prop import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="bound-prop",
    version=__version__,
    summary="Certified bounds and verifiably robust training for any PyTorch module.",
    package="bound_prop",
    distribution="bound-prop",
    task="bound_prop.task:RobustTask",
    data="bound_prop.task:ImageData",
    fit_examples=(
        "bound-prop fit --config glyphs_ramp trainer.max_epochs=2",
        "bound-prop fit --config glyphs_ramp trainer.max_epochs=50 --ckpt_path last",
        "bound-prop fit --config mnist_dm_large_ibp_ramp_decay data.root=data/mnist",
    ),
    test_examples=(
        "bound-prop test --config glyphs_ramp --ckpt_path last model.results=results",
        "bound-prop test --config mnist_dm_large_ibp_ramp_decay --ckpt_path last model.test_eps=[0.2,0.3,0.4]",
    ),
    verbs=(
        Verb(
            "demo",
            "bound_prop.demo:demo",
            "train small certified networks and show what the lines and ParamRamp do",
            ("bound-prop demo", "bound-prop demo --out demo --seed 1"),
            extra="train",
        ),
        Verb(
            "predict",
            "bound_prop.predict:predict",
            "verify a VNN-LIB property of an ONNX network, or certify images",
            (
                "bound-prop verify model.onnx property.vnnlib --timeout 60",
                "bound-prop predict last.ckpt digit.png --eps 0.1 --radius 0.3",
            ),
            aliases=("verify",),
        ),
        Verb(
            "export",
            "bound_prop.predict:export",
            "write a trained network as ONNX or torch.export program",
            ("bound-prop export last.ckpt model.onnx", "bound-prop export last.ckpt model.pt2"),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
