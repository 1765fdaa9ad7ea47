"""UNIX learns as much as KD from fewer teacher queries; and where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from claims import cifar10
from claims.distill import (
    SEEDS,
    SOURCES,
    GateRow,
    cifar_text,
    difference,
    judged,
    settings,
    stroke_sets,
    teacher_claim,
)
from claims.gates import Gate
from claims.model import Claim
from ssl_kd.experiment import TEACHER as AMBIGUOUS_TEACHER
from tenfold.distill.checkpoints import load_classifier
from unix_kd.experiment import ARMS, TEACHER, Arm, Run, kept, run_arm

EPOCHS, IMAGES = 50, 1280
_SOURCES = (
    "unix_kd.experiment",
    "unix_kd.sampling",
    "unix_kd.losses",
    "unix_kd.step",
    *SOURCES,
    str(TEACHER),
)
_METRICS = ("top1", "cost_percent", "cost_percent_backward_2", "teacher_images", "gmacs", "seconds")
_DECIDING = ("kd", "unix48", "uncertain48", "random48", "reversed48", "unix32", "uncertain32", "random32")
_FURTHER = ("mixed48", "confidence48", "margin48", "short", "cached4", "cached16", "labels", "untrained")
_LOSSES = tuple(f"{way}-{key}" for key in ("at", "sp", "crd") for way in ("kd", "unix48"))
_SWEEP = {
    **{f"unix{k}": Arm(f"UNIX, {k} of 64", kept(k, b)) for k, b in ((16, 8), (24, 12), (40, 24), (56, 40))},
    "unix64": Arm("UNIX, 64 of 64: every image, mixed", kept(64, 48)),
    **{f"unix48-b{b}": Arm(f"UNIX, 48 of 64, b {b}", kept(48, b)) for b in (8, 16, 48)},
    **{f"unix48-w{w}": Arm(f"UNIX, 48 of 64, w {w}", kept(48, 32, w=float(w))) for w in (1, 1000)},
}
_ALL = {**ARMS, **_SWEEP}
_CIFAR, _AMBIGUOUS = "cifar10-", "-ambiguous"


def _numbers(run: Run) -> dict[str, float]:
    once, twice = run.ledger.report(), run.ledger.report(2.0)
    found = {
        "top1": run.top1,
        "cost_percent": 100.0 * once["ratio"],
        "cost_percent_backward_2": 100.0 * twice["ratio"],
        "teacher_images": once["teacher_images"],
        "gmacs": once["macs"] / 1e9,
        "seconds": run.seconds,
    }
    chosen = [epoch for epoch in run.selection if "entropy_dropped" in epoch]
    if chosen:
        harder = sum(epoch["entropy_kept"] > epoch["entropy_dropped"] for epoch in chosen)
        found["entropy_kept"] = chosen[-1]["entropy_kept"]
        found["entropy_dropped"] = chosen[-1]["entropy_dropped"]
        found["epochs_kept_harder_percent"] = 100.0 * harder / len(chosen)
    return found


def _strokes(arm: str, seed: int) -> Mapping[str, float]:
    train_set, test_set = stroke_sets("easy", IMAGES, seed)
    teacher = load_classifier(TEACHER).model
    return _numbers(run_arm(_ALL[arm], train_set, test_set, teacher, seed=seed, epochs=EPOCHS))


def _ambiguous(arm: str, seed: int) -> Mapping[str, float]:
    train_set, test_set = stroke_sets("ambiguous", IMAGES, seed)
    teacher = load_classifier(AMBIGUOUS_TEACHER).model
    how = ARMS[arm.removesuffix(_AMBIGUOUS)]
    return _numbers(run_arm(how, train_set, test_set, teacher, seed=seed, epochs=EPOCHS))


def _cifar(arm: str, seed: int) -> Mapping[str, float]:
    torch.set_num_threads(1)
    train_set, test_set = cifar10.sets(seed)
    how = ARMS[arm.removeprefix(_CIFAR)]
    return _numbers(run_arm(how, train_set, test_set, cifar10.teacher(), seed=seed, epochs=cifar10.EPOCHS))


def _cifar_teacher(arm: str, seed: int) -> Mapping[str, float]:
    return cifar10.teacher_facts()


def _config(arm: str) -> Mapping[str, Any]:
    name = arm.removesuffix(_AMBIGUOUS).removeprefix(_CIFAR)
    return settings(_ALL[name], epochs=cifar10.EPOCHS if arm.startswith(_CIFAR) else EPOCHS)


def _stroke_claim(
    name: str,
    title: str,
    arms: tuple[str, ...],
    text: str,
    control: str | None = None,
    seeds: tuple[int, ...] = SEEDS,
) -> Claim:
    return Claim(
        *(name, "unix-kd", title, arms, seeds, _strokes, _EASY, _SOURCES, _METRICS),
        control=control,
        config=_config,
        text=text,
    )


_EASY = "strokes-20, preset easy (generated)"
CLAIMS: tuple[Claim, ...] = (
    _stroke_claim(
        "strokes",
        "Fewer teacher queries, generated images",
        _DECIDING,
        f"{EPOCHS} epochs of {IMAGES} images, batch 64; teacher resnet8, student of three layers; labels unused."
        " Cost counts forward and backward passes of both networks in multiply-accumulates, relative to KD, with"
        " a backward pass as dear as a forward pass (as published) and twice as dear. Seconds are wall time"
        " on a shared machine and gate nothing. Negative result: at 78 % of KD's cost UNIX is not separable from KD by"
        " five seeds, but nor is it ahead of random images, and the same uncertain images without mixing do as well or"
        " better, most clearly at 53 %. The order matters: reversed loses by far more than the spread.",
        "kd",
        # The first three seeds broke two of the pilot's bounds by less than their spread.
        (*SEEDS, 3, 4),
    ),
    _stroke_claim(
        "ablations",
        "Strategies, mixing alone, shorter KD, stored scores, and controls",
        _FURTHER,
        "Stored scores ask the teacher once about each of a few fixed crops: the strongest way to save queries where"
        " crops may repeat. The untrained teacher must leave the student near chance (5 %).",
    ),
    _stroke_claim(
        "losses",
        "Under other losses: attention transfer, similarity-preserving, contrastive",
        _LOSSES,
        "Each added to KD at its published weight, on whole batches and on what UNIX keeps. The ledger does not"
        " count what the losses themselves compute.",
        "kd-at",
    ),
    _stroke_claim(
        "sweeps",
        "How many images to keep, how many to mix lightly, and how steep the gate",
        tuple(_SWEEP),
        "To be read beside unix48 (b 32, w 10) and unix32 (b 16) above.",
    ),
    Claim(
        "ambiguous",
        "unix-kd",
        "Ambiguous images, where it is expected to lose",
        tuple(f"{name}{_AMBIGUOUS}" for name in ("kd", "unix48", "random48")),
        SEEDS,
        _ambiguous,
        "strokes-20, preset ambiguous (generated)",
        (*_SOURCES[:-1], str(AMBIGUOUS_TEACHER)),
        _METRICS,
        control=f"kd{_AMBIGUOUS}",
        config=_config,
        text=(
            "With dropped strokes and noise an uncertain image may be a noisy one rather than a hard one. The teacher"
            " is that of ssl-kd: the same recipe on this preset."
        ),
    ),
    teacher_claim("unix-kd", "easy", TEACHER, _EASY),
    Claim(
        "cifar10",
        "unix-kd",
        "Real images: a small part of CIFAR-10",
        tuple(f"{_CIFAR}{name}" for name in ("kd", "unix48", "uncertain48", "random48", "reversed48")),
        SEEDS,
        _cifar,
        cifar10.DATASET,
        (*_SOURCES[:-1], "claims.cifar10"),
        _METRICS,
        control=f"{_CIFAR}kd",
        config=_config,
        text=cifar_text(
            f"student of three layers on 1000 images for {cifar10.EPOCHS} epochs, crops and mirrors"
        ),
    ),
    Claim(
        "cifar10-teacher",
        "unix-kd",
        "The teacher of the CIFAR-10 part",
        ("cifar10-teacher",),
        (0,),
        _cifar_teacher,
        cifar10.TEACHER_DATASET,
        cifar10.TEACHER_SOURCES,
        ("top1", "train_images", "epochs", "seconds"),
        text="Trained once, kept in build/ under a name made of its sources, and shared with ssl-kd.",
    ),
)


def gates() -> list[Gate]:
    """The claim in numbers."""
    rows: tuple[GateRow, ...] = (
        ("unix48 − kd at least −0.6 points", difference("unix48", "kd"), -0.6, "pilot"),
        (
            "unix48 − kd at least −1.2 points: a tie, by one deviation of the differences of these five seeds",
            difference("unix48", "kd"),
            -1.2,
            "gates",
        ),
        ("unix48 − reversed48 at least +1.5 points", difference("unix48", "reversed48"), 1.5, "gates"),
        ("unix32 − random32 at least +0.3 points", difference("unix32", "random32"), 0.3, "pilot"),
        ("unix48 − random48", difference("unix48", "random48"), 0.0, "reported"),
        ("unix48 − uncertain48", difference("unix48", "uncertain48"), 0.0, "reported"),
        ("unix32 − uncertain32", difference("unix32", "uncertain32"), 0.0, "reported"),
        ("unix48 − cached4", difference("unix48", "cached4"), 0.0, "reported"),
        *(
            (f"unix48 + {key} − kd + {key}", difference(f"unix48-{key}", f"kd-{key}"), 0.0, "reported")
            for key in ("at", "sp", "crd")
        ),
        ("80 − cost of unix48 in percent of KD", lambda m: 80.0 - m["unix48"]["cost_percent"], 0.0, "gates"),
        (
            "epochs in which kept images have the higher entropy, percent − 100",
            lambda m: m["unix48"]["epochs_kept_harder_percent"] - 100.0,
            0.0,
            "gates",
        ),
        ("15 − top-1 from an untrained teacher", lambda m: 15.0 - m["untrained"]["top1"], 0.0, "gates"),
        (
            "ambiguous images: unix48 − kd",
            difference(f"unix48{_AMBIGUOUS}", f"kd{_AMBIGUOUS}"),
            0.0,
            "reported",
        ),
        ("CIFAR-10 part: unix48 − kd", difference(f"{_CIFAR}unix48", f"{_CIFAR}kd"), 0.0, "reported"),
    )
    return judged("unix-kd", rows)
