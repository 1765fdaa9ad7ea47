"""Claims of stylegan-distill: the mapping network makes the discrepancy (Xu et al. 2022), and what the LD loss adds."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from claims.gates import Gate, judge
from claims.model import Claim
from kernels.frames import REPOSITORY, sample_folder
from stylegan_distill.checkpoints import load_generator, save_checkpoint
from stylegan_distill.data import read_mnist, to_float
from stylegan_distill.data.batches import Pixels
from stylegan_distill.experiment import (
    ARMS,
    SCALES,
    TEACHER,
    load_teacher,
    run_arm,
    sprite_set,
    train_teacher,
)
from stylegan_distill.features import TinyFeatures
from stylegan_distill.metrics import compute_fid, generated_images
from stylegan_distill.networks import Generator
from tenfold.train.claims import source_hash

#: The bounds below come from a pilot of one seed. Once three seeds are recorded, re-fix them and set this to False.
PILOT_BOUNDS = True
_SEEDS = (0, 1, 2)
_TEACHER_SOURCES = (
    "stylegan_distill.gan",
    "stylegan_distill.networks",
    "stylegan_distill.config",
    "stylegan_distill.data.sprites",
    "stylegan_distill.data.batches",
)
_SOURCES = (
    "stylegan_distill.experiment",
    "stylegan_distill.distiller",
    "stylegan_distill.student",
    "stylegan_distill.losses",
    "stylegan_distill.directions",
    "stylegan_distill.features",
    "stylegan_distill.lpips",
    "stylegan_distill.metrics.discrepancy",
    "stylegan_distill.metrics.editing",
    "stylegan_distill.metrics.fid",
    "stylegan_distill.metrics.pixels",
    "stylegan_distill.metrics.sampling",
    "stylegan_distill.pruning",
    *_TEACHER_SOURCES,
)
_METRICS = ("ratio", "l1", "mismatched_l1", "perceptual", "fd_data", "edit_cosine", "ld")
_MORE = ("fd_teacher", "edit_cosine_unmoved", "edit_perceptual", "rank_agreement", "seconds")
_SPRITES = "generated sprites of 16 pixels (4096)"
_DECIDING = ("kd_mapping", "kd_random", "kd_shuffled", "kd_permuted", "gan", "copy_only")
_LD = (
    "kd_mapping+ld",
    *("kd_mapping+ld-alpha0.5", "kd_mapping+ld-alpha5", "kd_mapping+ld-weight3", "kd_mapping+ld-weight100"),
    *("kd_mapping-shared", "kd_mapping+ld-shared"),
    *("ld_only", "inherit", "inherit+ld", "kd_frozen", "kd_heter"),
)
_LONG = tuple(name for name in ARMS if name.endswith("-long"))
_REAL = "mnist-"
_REAL_ARMS = ("kd_mapping", "kd_mapping+ld", "kd_random", "kd_shuffled")
_REAL_IMAGES = 8192

_DECIDING_TEXT = """
Students of 30 % of the channels, 300 steps, batch 16; same discriminator, codes and order of images in every arm. The
ratio is L1 between teacher and student for the same codes over L1 for different ones: 0 is identical, 1 means no
correspondence. "kd_shuffled" copies the teacher's weights in another order within each layer: the same statistics and
another function. "kd_permuted" copies the mapping with W's coordinates in another order, which a random synthesis
network can absorb; its edits are permuted too, and "edit_cosine_unmoved" is what they give when they are not.
"copy_only" copies the mapping and trains without the teacher's images. Noise is off; fd is the Frechet distance on a
tiny fixed network, comparable with nothing published.
""".strip()
_LD_TEXT = """
Does the latent-direction loss improve edits at this size? Offsets of 5 were chosen for W of 512 dimensions; the arms
use 5 sqrt(64 / 512) = 1.77 unless they say otherwise. "ld" is the loss itself on held-out codes and directions. To be
read beside kd_mapping above; nothing is claimed here but that the loss lowers itself. "-shared": teacher and student,
codes and moved codes get the same noise maps.
""".strip()


def _run(arm: str, teacher: Generator, images: Pixels, scale: str, seed: int) -> Mapping[str, float]:
    torch.set_num_threads(1)
    return run_arm(ARMS[arm], teacher, images, SCALES[scale], seed=seed).numbers


def measure_sprites(arm: str, seed: int) -> Mapping[str, float]:
    """One arm with one seed, from the shipped teacher."""
    return _run(arm, load_teacher(), sprite_set(), "sprites", seed)


def measure_teacher(arm: str, seed: int) -> Mapping[str, float]:
    """The shipped teacher trained again from its recipe, and compared."""
    torch.set_num_threads(1)
    scale, images, stored = SCALES["sprites"], sprite_set(), load_teacher()
    again = train_teacher(scale, images, seed=seed)
    pairs = zip(again.state_dict().values(), stored.state_dict().values(), strict=True)
    gap = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
    tiny = TinyFeatures()
    fd = [_fd(net, images, tiny) for net in (stored, again)]
    return {"fd_data": fd[0], "fd_data_again": fd[1], "largest_difference": gap}


def _fd(net: Generator, images: Pixels, tiny: TinyFeatures) -> float:
    real = [to_float(images[k : k + 64]) for k in range(0, 2048, 64)]
    fake = [x.clamp(-1, 1) for x in generated_images(net, 2048, batch=64, seed=3)]
    return compute_fid(real, fake, tiny)["fd_tiny"]


@cache
def _digits() -> Pixels:
    return read_mnist(sample_folder("mnist"), _REAL_IMAGES)


def _digit_teacher() -> Generator:
    """Trained once and kept in build/, keyed by its sources."""
    key = source_hash((*_TEACHER_SOURCES, __file__))[:12]
    path = Path(REPOSITORY) / "build" / "claims" / f"stylegan-mnist-{key}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, train_teacher(SCALES["real"], _digits()))
    return load_generator(path).eval()


def measure_digits(arm: str, seed: int) -> Mapping[str, float]:
    """The same on MNIST at 32 pixels."""
    torch.set_num_threads(1)
    return _run(arm.removeprefix(_REAL), _digit_teacher(), _digits(), "real", seed)


def _config(arm: str) -> Mapping[str, Any]:
    how = ARMS[arm.removeprefix(_REAL)]
    return {"arm": how.title, **{key: value for key, value in vars(how).items() if value}}


def _sprite_claim(name: str, title: str, arms: tuple[str, ...], text: str, control: str | None) -> Claim:
    return Claim(
        name=name,
        package="stylegan-distill",
        title=title,
        arms=arms,
        seeds=_SEEDS,
        measure=measure_sprites,
        dataset=_SPRITES,
        sources=(*_SOURCES, str(TEACHER)),
        metrics=_METRICS,
        more=_MORE,
        control=control,
        config=_config,
        text=text,
        digits=3,
    )


CLAIMS: tuple[Claim, ...] = (
    _sprite_claim("sprites", "What makes the discrepancy", _DECIDING, _DECIDING_TEXT, "kd_random"),
    _sprite_claim(
        "latent-directions", "What the latent-direction loss adds, and variants", _LD, _LD_TEXT, None
    ),
    _sprite_claim(
        "long",
        "After 800 steps",
        _LONG,
        "The distance to the data orders the arms only after longer training.",
        "kd_mapping-long",
    ),
    Claim(
        name="mnist",
        package="stylegan-distill",
        title="The same on MNIST at 32 pixels",
        arms=tuple(_REAL + name for name in _REAL_ARMS),
        seeds=_SEEDS,
        measure=measure_digits,
        dataset=f"MNIST, {_REAL_IMAGES} training images padded to 32 pixels",
        sources=(*_SOURCES, "stylegan_distill.data.known"),
        metrics=_METRICS,
        more=_MORE,
        control="mnist-kd_random",
        config=_config,
        text="A teacher of the same recipe is trained first. Sized for two CPU cores.",
        digits=3,
    ),
    Claim(
        name="teacher",
        package="stylegan-distill",
        title="The packaged teacher, trained again",
        arms=("teacher",),
        seeds=(0,),
        measure=measure_teacher,
        dataset=_SPRITES,
        sources=(*_TEACHER_SOURCES, "stylegan_distill.experiment", str(TEACHER)),
        metrics=("fd_data", "fd_data_again", "largest_difference"),
        text="`stylegan-distill train-gan sprites sprites_teacher.safetensors` makes the file in the wheel again.",
        digits=4,
    ),
)


def gates() -> list[Gate]:
    """What must hold, from the records there are."""

    def value(arm: str, metric: str = "ratio") -> Any:
        return lambda m: m[arm][metric]

    def above(arm: str, other: str, metric: str = "ratio") -> Any:
        return lambda m: m[arm][metric] - m[other][metric]

    def minus(arm: str, metric: str = "ratio") -> Any:
        return lambda m: -m[arm][metric]

    def share(arm: str, other: str, metric: str) -> Any:
        return lambda m: m[arm][metric] / m[other][metric]

    wanted: tuple[tuple[str, Any, float, bool], ...] = (
        ("copied mapping: ratio at most 0.75 after 300 steps", minus("kd_mapping"), -0.75, True),
        ("random mapping: ratio at least 0.90", value("kd_random"), 0.90, True),
        ("control, shuffled weights: ratio at least 0.90", value("kd_shuffled"), 0.90, True),
        ("control, permuted W: ratio at most 0.75", minus("kd_permuted"), -0.75, True),
        (
            "control, permuted W: edits agree less when they are not permuted too",
            lambda m: m["kd_permuted"]["edit_cosine"] - m["kd_permuted"]["edit_cosine_unmoved"],
            0.03,
            True,
        ),
        (
            "control, other codes: a copied mapping's images differ at least 0.9 times as much as a random one's",
            share("kd_mapping", "kd_random", "mismatched_l1"),
            0.9,
            True,
        ),
        ("control, copied mapping without images: ratio at least 0.90", value("copy_only"), 0.90, True),
        ("GAN alone: ratio at least 0.95", value("gan"), 0.95, True),
        (
            "edits agree more than with a random mapping",
            above("kd_mapping", "kd_random", "edit_cosine"),
            0.05,
            True,
        ),
        (
            "800 steps: copied mapping nearer to the data",
            above("kd_random-long", "kd_mapping-long", "fd_data"),
            0.0,
            True,
        ),
        ("800 steps: the ratio has fallen further", above("kd_mapping", "kd_mapping-long"), 0.0, True),
        (
            "LD lowers its own value on held-out codes: that without it over that with it, at least 1",
            share("kd_mapping", "kd_mapping+ld", "ld"),
            1.0,
            True,
        ),
        ("LD and edits (reported)", above("kd_mapping+ld", "kd_mapping", "edit_cosine"), 0.0, False),
        (
            "800 steps: LD and edits (reported)",
            above("kd_mapping+ld-long", "kd_mapping-long", "edit_cosine"),
            0.0,
            False,
        ),
        (
            "inherited channels: LD and edits (reported)",
            above("inherit+ld", "inherit", "edit_cosine"),
            0.0,
            False,
        ),
        (
            "MNIST: copied mapping below random mapping",
            above("mnist-kd_random", "mnist-kd_mapping"),
            0.15,
            True,
        ),
        (
            "MNIST: LD and edits (reported)",
            above("mnist-kd_mapping+ld", "mnist-kd_mapping", "edit_cosine"),
            0.0,
            False,
        ),
        (
            "shared noise: change of the ratio, without LD (reported)",
            above("kd_mapping-shared", "kd_mapping"),
            0.0,
            False,
        ),
        ("MNIST: shuffled weights at least 0.9", value("mnist-kd_shuffled"), 0.90, True),
    )
    return [
        judge(text, number, least, "stylegan-distill", gates=gated, pilot=PILOT_BOUNDS)
        for text, number, least, gated in wanted
    ]
