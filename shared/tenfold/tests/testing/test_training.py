"""A resumed training that ends elsewhere is noticed."""

import sys

import pytest

from tenfold.testing import assert_training_resumes

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch

folder, wrong, resume = Path(sys.argv[1]), sys.argv[2], "last" in sys.argv
file = folder / "checkpoints" / "last.ckpt"
file.parent.mkdir(parents=True, exist_ok=True)
state = torch.load(file, weights_only=True) if resume else {"global_step": 0, "state_dict": {"w": torch.zeros(2)}}
while state["global_step"] < 6:
    state["global_step"] += 1
    state["state_dict"]["w"] += 1.5 if resume and wrong == "weights" else 1.0
    state["optimizer_states"] = [{"lr": 0.2 if resume and wrong == "optimizer" else 0.1}]
    torch.save(state, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)
    time.sleep(0.2)
"""


@pytest.mark.parametrize(
    "wrong",
    [
        "weights",
        pytest.param("nothing", marks=pytest.mark.slow),
        pytest.param("optimizer", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_training(tmp_path, wrong):
    def command(folder, *more):
        return [sys.executable, "-c", SCRIPT, str(folder), wrong, *more]

    if wrong == "nothing":
        expected, found = assert_training_resumes(command, tmp_path, kill_at=2, steps=6)
        assert found["state_dict"]["w"].tolist() == [6.0, 6.0]
        assert expected["global_step"] == 6
        return
    with pytest.raises(AssertionError, match=r"differ|0\.1"):
        assert_training_resumes(command, tmp_path, kill_at=2, steps=6)
