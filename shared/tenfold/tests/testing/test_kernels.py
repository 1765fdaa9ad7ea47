import os

import pytest
import torch

from tenfold.testing import kernels


def test_a_forked_process_that_differs_or_ends_is_noticed():
    parent = os.getpid()
    kernels.check_forked(lambda: [torch.ones(2), torch.zeros(1)])
    with pytest.raises(AssertionError, match=r"a forked process\[0\]: 1 of 1 entries differ"):
        kernels.check_forked(lambda: torch.tensor([os.getpid() == parent]))
    with pytest.raises(EOFError):
        kernels.check_forked(lambda: torch.ones(1) if os.getpid() == parent else os._exit(3))
