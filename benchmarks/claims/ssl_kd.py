"""SSKD learns more from few labels than KD, at KD's computation too; and what its self-supervision transfers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
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
from ssl_kd.experiment import ARMS, TEACHER, run_arm, teacher_with_head
from tenfold.distill.checkpoints import load_classifier
from tenfold.distill.data import ImageArrays, LabelledImages
from tenfold.distill.protocols import noisy_labels

EPOCHS, IMAGES = 120, 320
NOISE_EPOCHS, NOISE_IMAGES = 40, 640
CIFAR_EPOCHS, CIFAR_PER_CLASS = 40, 40
_SOURCES = (
    *(
        f"ssl_kd.{room}"
        for room in ("experiment", "heads", "losses", "metrics", "selection", "step", "views")
    ),
    *SOURCES,
    str(TEACHER),
)
_METRICS = ("top1", "retrieval", "similarity_correlation", "cka", "kl_to_teacher", "gmacs", "seconds")
_CIFAR = "cifar10-"
_DECIDING = (
    *("kd", "kd4x", "sskd", "kd_tf", "kd_ss", "kd_ss_permuted", "sskd_permuted"),
    *("labels", "labels_rotated"),
)
_RATIOS = tuple(
    f"sskd_{name}{k}" for name in ("ss", "tf") for k in (0, 25, 50, 75, 100) if f"sskd_{name}{k}" in ARMS
)
_TASKS = ("sskd_rotation", "sskd_jigsaw", "sskd_exemplar")
_NOISE = {f"{arm}-noise{k}": (arm, k / 100) for arm in ("labels", "kd", "sskd") for k in (0, 50)}


def _few_labels(arm: str, seed: int) -> Mapping[str, float]:
    how = ARMS[arm]
    train_set, test_set = stroke_sets("ambiguous", IMAGES, seed)
    teacher = teacher_with_head(load_classifier(TEACHER).model, train_set, how, seed=seed)
    return run_arm(how, train_set, test_set, teacher, seed=seed, epochs=EPOCHS).numbers


def _noisy(arm: str, seed: int) -> Mapping[str, float]:
    name, ratio = _NOISE[arm]
    clean, test_set = stroke_sets("ambiguous", NOISE_IMAGES, seed)
    labels = noisy_labels(clean.labels, ratio, 20, seed=seed)
    data = LabelledImages(clean.data.images, labels, clean.data.class_names)
    train_set = ImageArrays(data, clean.transform, seed=seed)
    teacher = teacher_with_head(load_classifier(TEACHER).model, clean, seed=seed)
    run = run_arm(ARMS[name], train_set, test_set, teacher, seed=seed, epochs=NOISE_EPOCHS)
    return {**run.numbers, "wrong_labels_percent": 100.0 * float(np.mean(labels != clean.labels))}


def _cifar(arm: str, seed: int) -> Mapping[str, float]:
    torch.set_num_threads(1)
    how = ARMS[arm.removeprefix(_CIFAR)]
    train_set, test_set = cifar10.sets(seed, CIFAR_PER_CLASS)
    teacher = teacher_with_head(cifar10.teacher(), train_set, how, seed=seed)
    return run_arm(how, train_set, test_set, teacher, seed=seed, epochs=CIFAR_EPOCHS).numbers


def _config(arm: str) -> Mapping[str, Any]:
    name = _NOISE[arm][0] if arm in _NOISE else arm.removeprefix(_CIFAR)
    epochs = CIFAR_EPOCHS if arm.startswith(_CIFAR) else NOISE_EPOCHS if arm in _NOISE else EPOCHS
    return settings(ARMS[name], epochs=epochs)


def _few_claim(
    name: str,
    title: str,
    arms: tuple[str, ...],
    text: str,
    metrics: tuple[str, ...] = _METRICS,
    control: str | None = None,
) -> Claim:
    return Claim(
        *(name, "ssl-kd", title, arms, SEEDS, _few_labels, _DATASET, _SOURCES, metrics),
        control=control,
        config=_config,
        text=text,
    )


_DATASET = "strokes-20, preset ambiguous (generated)"
CLAIMS: tuple[Claim, ...] = (
    _few_claim(
        "few-labels",
        "Few labels: 16 images of each of 20 classes",
        _DECIDING,
        f"Teacher resnet8 trained on 4000 images, student of three layers on {IMAGES} of them for {EPOCHS} epochs"
        " (kd4x: four times as many, the same multiply-accumulates as sskd), batch 64, weights 0.1, 0.9, 2.7, 10."
        " Retrieval: how often the student's own head finds the image of a rotated view among 64 test images"
        " (chance 1.6 %); the student never sees a self-supervision label, so this comes from the teacher."
        " Shuffled targets are the control. What SSKD gains in accuracy comes from the transformed views (kd_tf): with"
        " shuffled targets it is as good. Seconds are wall time on a shared machine and gate nothing.",
        control="kd4x",
    ),
    _few_claim(
        "controls",
        "Controls: a head, and a teacher, that know nothing; and no head at all",
        ("sskd_random_head", "sskd_untrained", "sskd_no_head"),
        "",
    ),
    _few_claim(
        "ratios",
        "How many of the teacher's wrong answers to pass on",
        _RATIOS,
        "To be read beside sskd, which keeps 0.75 of the wrong similarity rows and all transformed views.",
    ),
    _few_claim(
        "temperatures",
        "Temperature of the similarities, and the three published sets of weights",
        ("sskd_t01", "sskd_t10", "sskd_arxiv", "sskd_eccv"),
        "To be read beside sskd: temperature 0.5, the weights of the released code.",
    ),
    _few_claim(
        "tasks",
        "Other self-supervision tasks",
        _TASKS,
        "To be read beside sskd. The details of jigsaw and exemplar are ours; heads that do not compare images have"
        " no retrieval.",
        ("top1", "cka", "kl_to_teacher", "gmacs", "seconds"),
    ),
    Claim(
        "noise",
        "ssl-kd",
        "Wrong labels: none, and half of each class",
        tuple(_NOISE),
        SEEDS,
        _noisy,
        _DATASET,
        _SOURCES,
        ("top1", "wrong_labels_percent", "retrieval", "gmacs", "seconds"),
        config=_config,
        text=(
            f"{NOISE_IMAGES} images, {NOISE_EPOCHS} epochs. Any method with a small weight on labels is robust:"
            " compare with kd."
        ),
    ),
    teacher_claim("ssl-kd", "ambiguous", TEACHER, _DATASET),
    Claim(
        "cifar10",
        "ssl-kd",
        "Real images: 40 of each class of CIFAR-10",
        tuple(f"{_CIFAR}{name}" for name in ("kd", "kd4x", "sskd")),
        SEEDS,
        _cifar,
        "CIFAR-10 (JPEG re-encoded), 400 training images for the student, 2000 test images",
        (*_SOURCES[:-1], "claims.cifar10"),
        _METRICS,
        control=f"{_CIFAR}kd4x",
        config=_config,
        text=cifar_text(
            f"student of three layers on 400 images for {CIFAR_EPOCHS} epochs (kd4x: four times as many)"
        )
        + " Negative result: ahead of KD at equal epochs, SSKD is behind KD at its own computation here.",
    ),
)


def gates() -> list[Gate]:
    """The claim in numbers."""
    rows: tuple[GateRow, ...] = (
        ("sskd − kd at least +3 points", difference("sskd", "kd"), 3.0, "gates"),
        ("sskd − kd at the same computation at least +0.5 points", difference("sskd", "kd4x"), 0.5, "gates"),
        (
            "student's retrieval ÷ teacher's at least 0.7",
            lambda m: m["sskd"]["retrieval"] / m["sskd"]["teacher_retrieval"],
            0.7,
            "gates",
        ),
        (
            "student's retrieval ÷ that with shuffled targets at least 3",
            lambda m: m["sskd"]["retrieval"] / m["sskd_permuted"]["retrieval"],
            3.0,
            "gates",
        ),
        (
            "2 − points that sskd loses to half wrong labels",
            lambda m: 2.0 - difference("sskd-noise0", "sskd-noise50")(m),
            0.0,
            "gates",
        ),
        (
            "points that labels alone lose to half wrong labels, at least 15",
            difference("labels-noise0", "labels-noise50"),
            15.0,
            "gates",
        ),
        ("the same for kd", difference("kd-noise0", "kd-noise50"), 0.0, "reported"),
        (
            "kd_ss − kd_ss_permuted (self-supervision alone, accuracy)",
            difference("kd_ss", "kd_ss_permuted"),
            0.0,
            "reported",
        ),
        ("sskd − sskd_random_head", difference("sskd", "sskd_random_head"), 0.0, "reported"),
        ("sskd − sskd_ss100 (every similarity row kept)", difference("sskd", "sskd_ss100"), 0.0, "reported"),
        ("sskd − sskd_rotation (the task)", difference("sskd", "sskd_rotation"), 0.0, "reported"),
        (
            "CIFAR-10 part: sskd − kd at the same computation",
            difference(f"{_CIFAR}sskd", f"{_CIFAR}kd4x"),
            0.0,
            "reported",
        ),
    )
    return judged("ssl-kd", rows)
