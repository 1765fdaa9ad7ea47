"""Every arm of the claims trains; what it asks of the teacher is what it says."""

import pytest
import torch

from tenfold.distill import load_classifier
from tenfold.distill.small import stroke_set
from unix_kd.experiment import ARMS, TEACHER, run_arm


@pytest.fixture(scope="module")
def setting():
    return stroke_set("easy", 128), stroke_set("easy", 64, train=False), load_classifier(TEACHER).model


@pytest.mark.parametrize("name", ["kd", "unix48", "kd-at", "unix48-at", "unix48-sp", "unix48-crd"])
def test_arms_with_other_losses(setting, name):
    run = run_arm(ARMS[name], *setting, epochs=1)
    kept = 48 if name.startswith("unix") else 64
    assert run.ledger.report()["teacher_images"] == 2 * kept
    assert 0.0 <= run.top1 <= 100.0


def test_another_loss_changes_the_student(setting):
    torch.manual_seed(0)
    runs = [run_arm(ARMS[name], *setting, epochs=1) for name in ("unix48", "unix48-sp")]
    a, b = (run.student.fc.weight for run in runs)
    assert not torch.equal(a, b)


def test_stored_scores_are_asked_for_once(setting):
    train_set, *_ = setting
    for epochs in (3, 6):
        run = run_arm(ARMS["cached4"], *setting, epochs=epochs)
        report = run.ledger.report()
        assert report["teacher_images"] == min(epochs, 4) * len(train_set)
        assert report["student_backward_images"] == epochs * len(train_set)
        assert report["ratio"] < 1.0 if epochs > 4 else report["ratio"] == pytest.approx(1.0)
