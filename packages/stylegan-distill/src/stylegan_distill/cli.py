"""The command line."""

import sys

from stylegan_distill import __version__
from tenfold.train.cli import App, Verb

__all__ = ["app", "main"]

app = App(
    name="stylegan-distill",
    version=__version__,
    summary="Compress a StyleGAN2 or StyleGAN3 and keep its meaning (Mind the Gap in Distilling StyleGANs, 2022).",
    task=("stylegan_distill.task:DistillTask", "stylegan_distill.task:GanTask"),
    data="stylegan_distill.task:ImageData",
    aliases={"distill": "fit"},
    fit_examples=(
        "stylegan-distill distill --config sprites trainer.max_steps=20",
        "stylegan-distill distill --config sprites trainer.max_steps=1000 --ckpt_path last",
        "stylegan-distill fit --config sprites_teacher trainer.max_steps=20",
        "stylegan-distill distill --config ours_256 model.teacher=ffhq.pkl data.path=ffhq256.zip",
    ),
    test_examples=("stylegan-distill test --config sprites --ckpt_path last",),
    verbs=(
        Verb(
            "demo",
            "stylegan_distill.demo:demo",
            "distil a small generator three ways, and show all for the same codes",
            ("stylegan-distill demo", "stylegan-distill demo --out demo --seed 1"),
        ),
        Verb(
            "evaluate",
            "stylegan_distill.commands:evaluate",
            "measure a generator, alone or beside its teacher",
            (
                "stylegan-distill evaluate student.safetensors --teacher teacher.safetensors --count 256",
                "stylegan-distill evaluate student.safetensors --metrics [fid,kid,pr] --data sprites --count 512",
                "stylegan-distill evaluate ffhq.pkl --metrics [fid] --data ffhq256.zip --inception inception.pth",
            ),
        ),
        Verb(
            "generate",
            "stylegan_distill.commands:generate",
            "generate images and a grid",
            (
                "stylegan-distill generate student.safetensors --count 16",
                "stylegan-distill generate student.safetensors --beside teacher.safetensors --count 8",
            ),
            aliases=("predict",),
        ),
        Verb(
            "edit",
            "stylegan_distill.commands:edit",
            "move codes along directions of W: grids and videos",
            (
                "stylegan-distill edit student.safetensors --beside teacher.safetensors --seconds 1",
                "stylegan-distill edit student.safetensors --directions directions.npy --only [0,4] --video false",
            ),
        ),
        Verb(
            "directions",
            "stylegan_distill.commands:directions",
            "find directions of W along which images change most",
            (
                "stylegan-distill directions teacher.safetensors",
                "stylegan-distill directions teacher.safetensors --mode pca --k 3 --out pca.npy",
            ),
        ),
        Verb(
            "project",
            "stylegan_distill.commands:project",
            "find the code of an image",
            (
                "stylegan-distill project teacher.safetensors photo.png --iterations 30",
                "stylegan-distill project ffhq.pkl photo.png --vgg vgg16.pth --lpips vgg.pth",
            ),
        ),
        Verb(
            "inspect",
            "stylegan_distill.commands:inspect",
            "print what a checkpoint holds and costs; executes nothing of it",
            (
                "stylegan-distill inspect teacher.safetensors",
                "stylegan-distill inspect ffhq.pkl --out samples.png --images 4",
            ),
        ),
        Verb(
            "convert",
            "stylegan_distill.commands:convert",
            "turn a published checkpoint into safetensors; executes nothing of it",
            ("stylegan-distill convert ffhq.pkl ffhq.safetensors",),
        ),
        Verb(
            "prune",
            "stylegan_distill.commands:prune",
            "slice the least important channels out of a generator",
            (
                "stylegan-distill prune teacher.safetensors pruned.safetensors --method l1_style",
                "stylegan-distill prune ffhq.safetensors pruned.safetensors --parser 79999_iter.pth",
            ),
        ),
        Verb(
            "train-gan",
            "stylegan_distill.commands:train_gan",
            "train a small teacher from images",
            (
                "stylegan-distill train-gan sprites teacher.safetensors",
                "stylegan-distill train-gan photos.zip teacher.safetensors --augment true --mirror true",
            ),
        ),
        Verb(
            "prepare",
            "stylegan_distill.commands:prepare",
            "turn a folder of images into an archive that records its filter",
            ("stylegan-distill prepare photos photos.zip --resolution 64 --filter box",),
        ),
        Verb(
            "export",
            "stylegan_distill.commands:export",
            "write a generator as ONNX or torch.export program",
            (
                "stylegan-distill export student.safetensors student.onnx",
                "stylegan-distill export student.safetensors student.pt2 --noise none",
            ),
        ),
    ),
)


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(app())
