"""The command line."""

import sys

from moviescenes import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="moviescenes",
    version=__version__,
    summary="A movie in, its scenes out: multi-modal movie scene segmentation (LGSS, arXiv 2004.02678).",
    task="moviescenes.task:SceneTask",
    data="moviescenes.task:SceneData",
    aliases={"train": "fit", "eval": "test"},
    fit_examples=(
        "moviescenes fit --config tiny trainer.max_epochs=2",
        "moviescenes fit --config tiny trainer.max_epochs=15 --ckpt_path last",
        "moviescenes fit --config paper data.root=data/scene318",
    ),
    test_examples=(
        "moviescenes test --config tiny --ckpt_path last",
        "moviescenes test --config paper --ckpt_path last data.root=data/scene318 model.mode=compat",
    ),
    verbs=(
        Verb(
            "demo",
            "moviescenes.demo:demo",
            "write a film, find its scenes, train the levels of the method on generated features",
            ("moviescenes demo", "moviescenes demo --out demo --seed 1"),
        ),
        Verb(
            "segment",
            "moviescenes.commands:segment",
            "find the scenes of a movie",
            (
                "moviescenes segment movie.mp4",
                "moviescenes segment movie.mp4 --format json,edl,otio --scenes 5:12 --cache cache",
                "moviescenes segment movie.mp4 --shots shots.txt --features place=hsv-hist,aud=logmel-stats",
            ),
            aliases=("predict",),
        ),
        Verb(
            "shots",
            "moviescenes.commands:shots",
            "find the shots of a movie",
            (
                "moviescenes shots movie.mp4 --out shots.txt",
                "moviescenes shots movie.mp4 --detector adaptive",
            ),
        ),
        Verb(
            "features",
            "moviescenes.commands:features",
            "describe the shots of a movie",
            (
                "moviescenes features movie.mp4",
                "moviescenes features movie.mp4 --features place=hsv-hist,aud=stft",
            ),
        ),
        Verb(
            "convert",
            "moviescenes.commands:convert",
            "turn a result into another format",
            (
                "moviescenes convert scenes/movie.json movie.fcpxml",
                "moviescenes convert shots.csv shots.txt",
            ),
        ),
        Verb(
            "export",
            "moviescenes.exporting:export",
            "write a trained network as ONNX or torch.export program",
            ("moviescenes export last.ckpt lgss.pt2", "moviescenes export last.ckpt lgss.onnx"),
        ),
        Verb(
            "baselines",
            "moviescenes.baselines.command:baselines",
            "score published baselines on films with features and annotations",
            (
                "moviescenes baselines generated",
                "moviescenes baselines data/scene318 --methods [random,cosine-2,osg]",
            ),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
