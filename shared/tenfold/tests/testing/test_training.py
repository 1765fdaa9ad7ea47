"""A resumed training that ends elsewhere is noticed."""

import sys

import pytest
import torch

from tenfold.testing import assert_training_resumes

SCRIPT = """
import os, shutil, sys, time
from pathlib import Path

folder, ready, resume = Path(sys.argv[1]), Path(sys.argv[2]), "last" in sys.argv
file, count = folder / "checkpoints" / "last.ckpt", folder / "step"
file.parent.mkdir(parents=True, exist_ok=True)
step = int(count.read_text()) if resume else 0
while step < 6:
    step += 1
    shutil.copy(ready / f"{'resumed' if resume else 'whole'}-{step}.ckpt", folder / "new")
    count.write_text(str(step))
    os.replace(folder / "new", file)
    time.sleep(0.2)
"""


def write_checkpoints(folder, wrong):
    """What the program leaves after each step, made here: it need not import torch."""
    for run in ("whole", "resumed"):
        for step in range(1, 7):
            weight = step + (0.5 if (run, wrong) == ("resumed", "weights") else 0)
            rate = 0.2 if (run, wrong) == ("resumed", "optimizer") else 0.1
            state = {
                "global_step": step,
                "state_dict": {"w": torch.full((2,), float(weight))},
                "optimizer_states": [{"lr": rate}],
            }
            torch.save(state, folder / f"{run}-{step}.ckpt")


@pytest.mark.parametrize(
    "wrong",
    ["weights", "nothing", "optimizer"],
)
def test_a_resumed_training(tmp_path, wrong):
    def command(folder, *more):
        return [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path), *more]

    write_checkpoints(tmp_path, wrong)
    if wrong == "nothing":
        expected, found = assert_training_resumes(command, tmp_path, kill_at=2, steps=6)
        assert found["state_dict"]["w"].tolist() == [6.0, 6.0]
        assert expected["global_step"] == 6
        return
    with pytest.raises(AssertionError, match=r"differ|0\.1"):
        assert_training_resumes(command, tmp_path, kill_at=2, steps=6)
