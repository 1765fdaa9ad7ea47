"""The command line."""

import sys

from sparsepoint import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="sparsepoint",
    version=__version__,
    summary="Indoor 3D detection without suppression (SparsePoint and SRDet, arXiv 2103.10042).",
    task="sparsepoint.task:DetectionTask",
    data="sparsepoint.task:IndoorData",
    aliases={"train": "fit", "eval": "test"},
    fit_examples=(
        "sparsepoint fit --config rooms trainer.max_epochs=2",
        "sparsepoint fit --config rooms trainer.max_epochs=20 --ckpt_path last",
        "sparsepoint fit --config scannet data.root=data/scannet",
        "sparsepoint fit --config scannet_srdet data.root=data/scannet",
        "sparsepoint fit --config custom data.root=my_scenes model.labels=my_scenes/boxes.json",
    ),
    test_examples=(
        "sparsepoint test --config rooms --ckpt_path last",
        "sparsepoint test --config rooms --ckpt_path last data.eval_seeds=5 model.results=results.json",
    ),
    verbs=(
        Verb(
            "demo",
            "sparsepoint.demo:demo",
            "detect furniture with and without suppression, sparse beside dense",
            ("sparsepoint demo", "sparsepoint demo --out demo --seed 1"),
        ),
        Verb(
            "predict",
            "sparsepoint.predict:predict",
            "detect objects in a scan or a mesh",
            (
                "sparsepoint predict room.ply tiny",
                "sparsepoint predict room.ply tiny --align auto --min_score 0.5",
                "sparsepoint predict room.ply tiny --class_scores '{chair: 0.5}' --stages 2 --out early",
            ),
        ),
        Verb(
            "export",
            "sparsepoint.export:export",
            "write a detector as torch.export program, or its refinement as ONNX",
            ("sparsepoint export tiny sparsepoint.pt2", "sparsepoint export tiny refinement.onnx"),
        ),
        Verb(
            "prepare",
            "sparsepoint.prepare:prepare",
            "read a data set's official files, once",
            (
                "sparsepoint prepare scannet raw/scannet data/scannet",
                "sparsepoint prepare sunrgbd raw/sunrgbd data/sunrgbd --labels v1",
                "sparsepoint prepare s3dis raw/s3dis data/s3dis --test_area 5",
                "sparsepoint prepare matterport3d raw/matterport3d data/matterport3d --splits '[train, val, test]'",
            ),
        ),
        Verb(
            "check-data",
            "sparsepoint.prepare:check_data",
            "look whether points, boxes and frames of a data set fit each other",
            ("sparsepoint check-data data/scannet --split val", "sparsepoint check-data my_scenes"),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
