import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.train.resume import (
    ResumableLoader,
    ResumableSampler,
    random_states,
    sample_generator,
    set_random_states,
)


def test_sample_generator_is_a_function_of_its_three_numbers():
    seen = {
        (seed, epoch, index): sample_generator(seed, epoch, index).random(4).tobytes()
        for seed in range(4)
        for epoch in range(4)
        for index in range(4)
    }
    assert len(set(seen.values())) == 64  # (1, 2, 3) is not (2, 1, 3), nor any sum
    assert sample_generator(1, 2, 3).random(4).tobytes() == seen[1, 2, 3]
    torch_draws = {torch.rand(2, generator=sample_generator(0, 0, index, "torch")) for index in range(5)}
    assert len(torch_draws) == 5
    first = torch.rand(2, generator=sample_generator(0, 0, 1, "torch"))
    assert torch.equal(first, torch.rand(2, generator=sample_generator(0, 0, 1, "torch")))
    with pytest.raises(ValueError, match="none below 0"):
        sample_generator(0, -1, 0)
    with pytest.raises(ValueError, match="'numpy' or 'torch'"):
        sample_generator(0, 0, 0, "jax")


def test_order_is_a_permutation_that_changes_with_seed_and_epoch():
    def order(seed, epoch):
        sampler = ResumableSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    orders = {order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert order(1, 2) == order(1, 2)
    assert list(ResumableSampler(5, shuffle=False)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least 1"):
        ResumableSampler(0)


@pytest.mark.parametrize(("length", "world"), [(12, 2), (13, 4), (2, 5), (7, 7), (3, 8)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_the_order_of_one(length, world, drop_last):
    single = list(ResumableSampler(length, seed=3))
    parts = [
        list(ResumableSampler(length, seed=3, rank=rank, world_size=world, drop_last=drop_last))
        for rank in range(world)
    ]
    assert len({len(part) for part in parts}) == 1
    merged = [index for step in zip(*parts, strict=True) for index in step]
    counts = Counter(merged)
    if drop_last:
        assert merged == single[: len(merged)]
        assert length - len(merged) < world
    else:
        assert merged[:length] == single
        assert set(counts) == set(range(length))
        assert max(counts.values()) - min(counts.values()) <= 1


class Noisy(Dataset):
    def __init__(self, length):
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, self.epoch, sample_generator(5, self.epoch, index).random()


def passes(loader, epochs):
    result = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        result.append([[column.tolist() for column in batch] for batch in loader])
    return result


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_loader_continues_exactly_where_it_was(workers, stop):
    whole = passes(ResumableLoader(Noisy(22), 4, seed=1), range(4))
    loader = ResumableLoader(Noisy(22), 4, seed=1, num_workers=workers)
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    for _ in range(stop):
        next(batches)  # workers have prefetched beyond this by now
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (2, stop)
    resumed = ResumableLoader(Noisy(22), 4, seed=1, num_workers=workers)
    resumed.load_state_dict(state)
    if stop < 6:
        assert passes(resumed, [2, 3]) == [whole[2][stop:], whole[3]]
    else:  # at the end of an epoch the next one is whole
        assert passes(resumed, [3]) == [whole[3]]
    assert len(resumed) == 6


def test_a_position_belongs_to_its_epoch_only():
    loader = ResumableLoader(Noisy(22), 4, seed=1)
    loader.load_state_dict({**loader.state_dict(), "epoch": 2, "batches": 3})
    assert len(passes(loader, [1])[0]) == 6


def test_loader_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(ResumableLoader(Noisy(22), 4, seed=1, num_workers=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 2}),
        ("batch_size", {"batch_size": 2}),
        ("batch_size", {"batch_size": 11}),  # the position lies behind its end
        ("samples", {"dataset": Noisy(40)}),
        ("samples", {"dataset": Noisy(8)}),
    ],
)
def test_a_different_run_is_refused_inside_an_epoch_only(name, change):
    state = {**ResumableLoader(Noisy(22), 4, seed=1).state_dict(), "batches": 3}
    other = ResumableLoader(**{"dataset": Noisy(22), "batch_size": 4, "seed": 1, **change})
    with pytest.raises(UserInputError, match=f"checkpoint: {name}: stopped inside an epoch"):
        other.load_state_dict(state)
    for position in (0, 6):  # at either end of an epoch
        other.load_state_dict({**state, "batches": position})


def test_persistent_workers_that_would_miss_the_epoch_are_refused():
    with pytest.raises(ValueError, match="persistent_workers"):
        ResumableLoader(Noisy(22), 4, num_workers=1, persistent_workers=True)


def test_random_states_survive_a_checkpoint_file(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()

    draw()
    np.random.randn()  # leaves a second normal number waiting in NumPy's state
    torch.save(random_states(), tmp_path / "states.pt")
    expected = draw()
    draw()
    set_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == expected
