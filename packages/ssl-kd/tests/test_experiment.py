"""Every kind of arm of the claims trains, with its own head, task, ratios and temperature."""

import pytest

from ssl_kd.experiment import ARMS, TEACHER, run_arm, teacher_with_head
from tenfold.distill import load_classifier
from tenfold.distill.small import stroke_set


@pytest.fixture(scope="module")
def setting():
    return stroke_set("ambiguous", 64), stroke_set("ambiguous", 64, train=False)


@pytest.mark.parametrize(
    "name",
    [
        "kd",
        "sskd",
        "sskd_no_head",
        "sskd_ss0",
        "sskd_tf25",
        "sskd_t01",
        "sskd_arxiv",
        "sskd_rotation",
        "sskd_jigsaw",
    ],
)
def test_arms(setting, name, monkeypatch):
    monkeypatch.setattr("ssl_kd.experiment.HEAD_EPOCHS", 1)
    arm = ARMS[name]
    teacher = teacher_with_head(load_classifier(TEACHER).model, setting[0], arm, seed=0)
    numbers = run_arm(arm, *setting, teacher, epochs=1).numbers
    assert 0.0 <= numbers["top1"] <= 100.0
    assert ("retrieval" in numbers) == (arm.task == "contrastive")
    assert numbers["teacher_images"] == 64 * (1 if name == "kd" else 4)


def test_the_method_itself_is_no_ablation():
    names = {name for name in ARMS if name.startswith("sskd_")}
    assert {"sskd_ss100", "sskd_tf0", "sskd_t10", "sskd_eccv", "sskd_exemplar"} <= names
    assert not {"sskd_ss75", "sskd_tf100", "sskd_t05", "sskd_code", "sskd_contrastive"} & names
