"""Threads that a command line asks for; values of several processes are tested with the trainer."""

import pytest
import torch

from tenfold._errors import UserInputError
from tenfold.lidar.cli import app
from tenfold.testing import threads
from tenfold.train import use_threads


def test_threads_are_set_or_left():
    with threads(2):
        use_threads(1)
        assert torch.get_num_threads() == 1
        use_threads(None)
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("number", [0, -3])
def test_no_thread_at_all_is_the_user_s_error(number, capsys):
    with threads(2):
        with pytest.raises(UserInputError, match=f"threads: got {number}; expected 1 or more"):
            use_threads(number)
        assert app(["predict", "frame.bin", "last.ckpt", f"--threads={number}"]) == 2
        assert torch.get_num_threads() == 2
    assert f"threads: got {number}" in capsys.readouterr().err
