import os
import time
from dataclasses import dataclass

import pytest

from tenfold.testing import RankError, two_gloo_ranks


@dataclass
class Setting:
    factor: float


def reduce(setting):
    import torch
    import torch.distributed as dist

    value = torch.tensor([float(dist.get_rank() + 1)]) * setting.factor
    dist.all_reduce(value)
    return dist.get_rank(), value.item(), os.environ["WORLD_SIZE"], torch.get_num_threads(), setting


def fail_in_one(rank):
    import torch
    import torch.distributed as dist

    if dist.get_rank() == rank:
        raise KeyError("the cause")
    dist.all_reduce(torch.zeros(1))


def die():
    import torch.distributed as dist

    if dist.get_rank() == 1:
        os._exit(7)
    time.sleep(60)


def hang():
    time.sleep(60)


def test_results_in_order_with_classes_of_the_test_file():
    results = two_gloo_ranks(reduce, Setting(2.0), timeout=60)
    assert results == [(0, 6.0, "2", 1, Setting(2.0)), (1, 6.0, "2", 1, Setting(2.0))]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_comes_back_with_its_rank_and_traceback(rank):
    started = time.monotonic()
    with pytest.raises(RankError, match=rf"(?s)rank {rank}:\nTraceback.*fail_in_one.*KeyError: 'the cause'"):
        two_gloo_ranks(fail_in_one, rank, timeout=60)
    assert time.monotonic() - started < 50


def test_a_rank_that_dies_ends_the_others():
    started = time.monotonic()
    with pytest.raises(RankError, match="rank 1"):
        two_gloo_ranks(die, timeout=60)
    assert time.monotonic() - started < 50


def test_timeout():
    with pytest.raises(TimeoutError, match=r"did not end within 4 s"):
        two_gloo_ranks(hang, timeout=4)


def test_lambda_is_refused():
    with pytest.raises(TypeError, match="top level"):
        two_gloo_ranks(lambda: 0)
