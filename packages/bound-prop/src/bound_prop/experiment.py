"""The claim at small scale: training an arm, and everything that is measured of it."""

from __future__ import annotations

import csv
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bound_prop.attack import PGD
from bound_prop.bounds import BoundedModule
from bound_prop.data import Images, load
from bound_prop.evaluation import Report, evaluate
from tenfold._errors import UserInputError

__all__ = [
    "ARMS",
    "INSTANCES",
    "Arm",
    "chain_violations",
    "measure",
    "measure_instance",
    "sample_folder",
    "train_arm",
]

CHAIN = ("ibp", "lbp", "crown-ibp", "crown-lbp", "crown")


@dataclass(frozen=True)
class Arm:
    """One trained network of the claim.

    Attributes:
        data: name of the data set.
        network: name of the network.
        activation: relu or param_ramp.
        eta: slope of the flat sides before and after its ramp (from 40 % to 70 % of the epochs).
        method: bounds of the loss.
        eps: radius of training and test.
        epochs: clean 10 %, eps ramp up to 50 %, learning rate times 0.2 at 70 % and 90 %.
        batch_size: of a step.
        lr: of Adam.
        kappa: weight of the clean loss before and after the ramp.
        train_images: from the start of the training set.
        test_images: for the clean, attacked and interval-verified error.
        line_images: for the comparison of lines.
    """

    data: Literal["mnist", "cifar10", "glyphs"]
    network: str
    activation: Literal["relu", "leaky_relu", "param_ramp"]
    eta: tuple[float, float] = (0.0, 0.0)
    method: Literal["clean", "ibp"] = "ibp"
    eps: float = 0.2
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3
    kappa: tuple[float, float] = (1.0, 0.5)
    train_images: int | None = None
    test_images: int = 1000
    line_images: int = 40


_MNIST = Arm("mnist", "dm_small", "relu", epochs=20, train_images=6000)
_CIFAR = Arm("cifar10", "dm_small", "relu", eps=2 / 255, epochs=10, train_images=10000, line_images=16)
_GLYPHS = Arm(
    "glyphs", "glyph_net", "relu", epochs=40, batch_size=64, lr=2e-3, test_images=500, line_images=100
)
_RAMP: dict[str, Any] = {"activation": "param_ramp"}
ARMS: dict[str, Arm] = {
    "glyphs-relu": _GLYPHS,
    "glyphs-leaky": replace(_GLYPHS, activation="leaky_relu", eta=(0.01, 0.01)),
    "glyphs-ramp": replace(_GLYPHS, **_RAMP),
    "glyphs-ramp-decay": replace(_GLYPHS, **_RAMP, eta=(0.01, 0.0)),
    "glyphs-relu-clean": replace(_GLYPHS, method="clean"),
    "mnist-relu": _MNIST,
    "mnist-ramp": replace(_MNIST, **_RAMP),
    "cifar-relu": _CIFAR,
    "cifar-ramp": replace(_CIFAR, **_RAMP),
}


def sample_folder() -> Path:
    """Folder of the real sample data: TENFOLD_TEST_DATA, by default ``../shared/data``."""
    return Path(os.environ.get("TENFOLD_TEST_DATA", "../shared/data"))


def read(arm: Arm, split: Literal["train", "test"]) -> Images:
    """The arm's images."""
    folder = {"mnist": "mnist", "cifar10": "cifar10-jpeg.zip", "glyphs": ""}[arm.data]
    images = load(arm.data, sample_folder() / folder, split)
    return images.head(arm.train_images if split == "train" else arm.test_images)


def train_arm(arm: Arm, seed: int, train: Images, *, progress: bool = False) -> BoundedModule:
    """Trains the arm's network on images and returns it in evaluation mode."""
    from bound_prop.task import ImageData, RobustTask
    from tenfold.train.lightning import make_trainer, quiet, seed_everything

    at = [round(share * arm.epochs) for share in (0.1, 0.5, 0.4, 0.7, 0.9)]
    clean = max(1, at[0])
    with quiet():
        seed_everything(seed, verbose=False)
        task = RobustTask(
            arm.network,
            train.shape,
            10,
            arm.activation,
            arm.method,
            arm.eps,
            clean_epochs=clean,
            ramp_epochs=max(1, at[1] - clean),
            kappa=arm.kappa,
            eta=arm.eta,
            eta_epochs=None if arm.eta[0] == arm.eta[1] else (at[2], at[3]),
            lr=arm.lr,
            lr_milestones=(at[3], at[4]),
            lr_gamma=0.2,
        )
        data = ImageData(arm.data, batch_size=arm.batch_size, seed=seed)
        data.sets = {"train": train, "test": train.head(1)}
        trainer = make_trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            max_epochs=arm.epochs,
        )
        trainer.fit(task, datamodule=data)
    return task.bounded.eval()


@torch.no_grad()
def chain_violations(
    bounded: BoundedModule, images: Tensor, eps: float, methods: tuple[str, ...] = CHAIN
) -> float:
    """Percent of (image, output) bounds where a method further down theorem 2's chain is looser than one above.

    With tight lines, up to 1e-5 of the interval's width.
    """
    from bound_prop.sets import LpBall

    region = LpBall(images, eps, clip=(0.0, 1.0))
    bounds = {m: bounded.compute_bounds(region, method=m, lines="tight") for m in methods}
    above = {"lbp": "ibp", "crown-ibp": "ibp", "crown-lbp": "lbp", "crown": "crown-lbp"}
    wrong = total = 0
    base = bounds["ibp"]
    assert base.lower is not None
    assert base.upper is not None
    slack = 1e-5 * (base.upper - base.lower).clamp(min=1)
    for method, looser in above.items():
        if method in bounds and looser in bounds:
            a, b = bounds[looser], bounds[method]
            bad = (b.lower < a.lower - slack) | (b.upper > a.upper + slack)  # type: ignore[operator]
            wrong, total = wrong + int(bad.sum()), total + bad.numel()
    return 100.0 * wrong / max(total, 1)


def compare_lines(
    bounded: BoundedModule, images: Images, arm: Arm, methods: tuple[str, ...]
) -> dict[str, Report]:
    """The same images with tight and with adaptive lines."""
    part = images.head(arm.line_images)
    return {
        lines: evaluate(
            bounded, part.images, part.labels, arm.eps, methods=methods, lines=lines, batch_size=8
        )
        for lines in ("tight", "adaptive")
    }


def measure(name: str, seed: int) -> dict[str, float]:
    """One cell of the training claims."""
    arm = ARMS[name]
    train, test = read(arm, "train"), read(arm, "test")
    start = time.perf_counter()
    bounded = train_arm(arm, seed, train)
    trained = time.perf_counter() - start
    attack = PGD(steps=20, restarts=1, seed=seed)
    whole = evaluate(bounded, test.images, test.labels, arm.eps, methods=("ibp",), attack=attack)
    result = {f"test {k}": v for k, v in whole.summary().items()}
    methods = CHAIN if arm.data == "glyphs" else CHAIN[:-1]
    for lines, report in compare_lines(bounded, test, arm, methods).items():
        for key, value in report.summary().items():
            if key.startswith(("verified", "margin")):
                result[f"{lines} {key}"] = value
    part = test.head(arm.line_images)
    result["chain violations %"] = chain_violations(bounded, part.images[:8], arm.eps, methods)
    for number, shares in enumerate(whole.status.values(), 1):
        for state, share in shares.items():
            result[f"layer {number} {state} %"] = 100.0 * share
    result["training seconds"] = trained
    return result


def _instances() -> dict[str, tuple[Path, Path, float]]:
    """Name -> network, property and seconds of every real instance in the sample data."""
    folder = sample_folder() / "vnncomp"
    found: dict[str, tuple[Path, Path, float]] = {}
    listing = folder / "acasxu" / "instances.csv"
    if listing.is_file():
        with listing.open(encoding="utf-8", newline="") as file:
            for network, unsafe, seconds in csv.reader(file):
                short = network.removeprefix("ACASXU_run2a_").removesuffix("_batch_2000.onnx")
                name = f"acasxu-{short}-{Path(unsafe).stem}"
                found[name] = folder / "acasxu" / network, folder / "acasxu" / unsafe, float(seconds)
    for unsafe_file in sorted((folder / "mnistfc").glob("*.vnnlib")):
        name = f"mnistfc-{unsafe_file.stem}".replace(".", "")
        found[name] = folder / "mnistfc" / "mnist-net_256x2.onnx", unsafe_file, 120.0
    return found


_NETWORKS = [f"1_{k}" for k in range(1, 10)] + [f"2_{k}" for k in range(1, 10)]
#: Names of the instances, present or not: the claims' arms must not depend on the machine.
INSTANCES = (
    *(f"mnistfc-prop_{k}_00{e}" for k in range(5) for e in (3, 5)),
    *(f"acasxu-{n}-prop_{p}" for p in (3, 4, 2, 1) for n in _NETWORKS),
)


def measure_instance(name: str, seed: int) -> dict[str, float]:
    """One real verification instance within its time limit, in processor seconds of one thread.

    Returns:
        ``solved``, ``holds`` and ``violated`` as 0 or 1, ``wall seconds``, ``CPU seconds``, ``branches``, and
        ``contradiction``: 1 where a longer random attack violates what was said to hold.

    Raises:
        UserInputError: the sample data is not there.
    """
    from bound_prop.graph.onnx import load_onnx
    from bound_prop.verification import verify_file
    from bound_prop.vnnlib import load_vnnlib

    instances = _instances()
    if name not in instances:
        raise UserInputError(f"{sample_folder()}: vnncomp: holds no instance {name}; set TENFOLD_TEST_DATA")
    network_file, unsafe_file, limit = instances[name]
    network, unsafe = load_onnx(network_file), load_vnnlib(unsafe_file)
    torch.set_num_threads(1)
    wall = time.perf_counter()
    attack = PGD(steps=60, restarts=4, seed=seed)
    verdict = verify_file(network, unsafe, limit, attack=attack, clock=time.process_time)
    wall = time.perf_counter() - wall
    contradiction = verdict.result == "holds" and _random_attack(network, unsafe, seed)
    return {
        "solved": float(verdict.result != "unknown" and verdict.seconds <= limit),
        "holds": float(verdict.result == "holds"),
        "violated": float(verdict.result == "violated"),
        "wall seconds": wall,
        "CPU seconds": verdict.seconds,
        "branches": float(verdict.branches),
        "contradiction": float(contradiction),
    }


@torch.no_grad()
def _random_attack(network: Any, unsafe: Any, seed: int, count: int = 20000) -> bool:
    """Whether any of many random inputs is unsafe."""
    generator = torch.Generator().manual_seed(seed + 1)
    for part in unsafe.parts:
        low, high = part.box.lower, part.box.upper
        x = low + (high - low) * torch.rand(count, low.shape[1], generator=generator, dtype=low.dtype)
        outputs = network.graph.forward(x.view(count, *network.graph.input_shape))
        if bool((part.violation(outputs) <= 0).any()):
            return True
    return False
