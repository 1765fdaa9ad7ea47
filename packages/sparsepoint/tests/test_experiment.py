"""The experiment behind the claim, the metric of duplicates, and the card."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsepoint.checkpoint import ASSETS, load_detector
from sparsepoint.demo import run_demo
from sparsepoint.evaluation import duplicates_per_gt, evaluate
from sparsepoint.experiment import (
    ARMS,
    CLASSES,
    _by_candidates,
    controls,
    measure,
    rooms_batches,
    train,
    weights_hash,
)
from sparsepoint.shipped import SHIPPED
from tenfold.eval.voc3d import Voc3dDetections, Voc3dTruth
from tenfold.train.demo import read_demo


def at(*xs):
    return [[10.0 * x, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0] for x in xs]


def test_duplicates_by_hand():
    truth = [Voc3dTruth(at(0, 1), [0, 0])]

    def found(boxes, scores, labels=None):
        return duplicates_per_gt([Voc3dDetections(boxes, scores, labels or [0] * len(boxes))], truth)

    assert found(at(0, 1), [0.9, 0.8]) == 0
    assert found(at(0, 0, 0, 1), [0.9, 0.8, 0.7, 0.6]) == 1.0
    assert found(at(0, 0, 1), [0.9, 0.8, 0.7], [0, 1, 0]) == 0  # another class is no duplicate
    assert found(at(0, 0, 1), [0.9, 0.5, 0.7]) == 0  # below the score that counts
    assert np.isnan(found(at(7), [0.9]))


def test_arms_differ_in_one_thing_and_see_the_same_rooms():
    base = ARMS["sparse"].config().to_dict()
    for name, arm in ARMS.items():
        own = arm.config().to_dict()
        differing = {key for key in own if own[key] != base[key]}
        assert len(differing) <= (2 if name == "dense-votenet" else 1), (name, differing)
    a, b = rooms_batches(ARMS["sparse"].config(), 2), rooms_batches(ARMS["dense-votenet"].config(), 2)
    assert torch.equal(a[0].points, b[0].points)


@pytest.mark.parametrize("name", ["sparse", "dense-votenet"])
def test_a_measurement_has_every_figure(name):
    numbers = measure(name, 0, steps=2, scenes=8)
    wanted = {
        "mAP@0.25",
        "mAP@0.25 with NMS",
        "delta NMS@0.5",
        "duplicates",
        "swapped clouds",
        "untrained",
        "re-read",
    }
    if name == "sparse":
        wanted |= {"prior", "mAP@0.5 stage 3", "delta NMS@0.25 stage 1"}
        assert numbers["mAP@0.25"] == numbers["mAP@0.25 stage 3"]
    else:
        wanted |= {"delta NMS@0.25, 64 candidates", "mAR@0.25, 128 candidates"}
    assert wanted <= set(numbers)
    first, second = numbers["loss, part 1"], numbers["loss, part 2"]  # two steps are two parts
    assert first + second == pytest.approx(2 * numbers["last loss"])
    assert 0 < numbers["weights, first 48 bits of SHA-256"] < 2**48
    assert all(np.isfinite(list(numbers.values())))
    assert numbers["re-read"] == 1.0
    assert numbers["untrained"] < 0.1


def test_training_is_reproducible():
    arm = replace(ARMS["sparse"], steps=2)
    (a, first), (b, second) = train(arm, 3), train(arm, 3)
    assert first == second
    assert weights_hash(a) == weights_hash(b)
    assert weights_hash(a) != weights_hash(train(arm, 4)[0])


@pytest.mark.parametrize("name", ["tiny", "tiny_votenet"])
def test_shipped_weights_are_those_of_their_recipe(name):
    recipe = json.loads((ASSETS / f"{name}.json").read_text())
    assert recipe["recipe"] == json.loads(json.dumps(SHIPPED[name].to_dict()))
    path = ASSETS / f"{name}.pt"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == recipe["sha256"]
    assert path.stat().st_size < 1_000_000
    model = load_detector(name)
    assert not model.training
    batches = rooms_batches(model.config, 16)
    found = evaluate(model, batches, CLASSES)
    assert found.plain.mean_ap(0.25) > 0.3
    if model.config.dense:
        # Twice the candidates find more objects, and each of them more often.
        more = _by_candidates(model, batches)
        assert more["mAR@0.25, 64 candidates"] > found.numbers()["mAR@0.25"]
        assert (
            more["delta NMS@0.25, 128 candidates"] > more["delta NMS@0.25, 64 candidates"] > found.delta(0.25)
        )
    checks = controls(model, batches, found)
    assert checks["swapped clouds"] < 0.3 * found.plain.mean_ap(0.25)
    assert checks["permuted classes"] < 0.5 * found.plain.mean_ap(0.25)
    assert checks["untrained"] < 0.1
    assert checks["re-read"] == 1.0


def test_the_card(tmp_path):
    result = run_demo(tmp_path, scenes=8)
    assert read_demo(tmp_path).rows == result.rows
    assert len(result.rows) == 2
    assert result.passed
    assert result.pictures[0].stat().st_size > 20_000
