"""What a run needs to go on after a kill as if nothing had happened.

The order of an epoch derives from (seed, epoch); the randomness of a sample from (seed, epoch, index); the
loader knows how many batches it has handed out; `random_states` holds the generators of Python, NumPy and
torch. With a checkpoint of these four (see `tenfold.train.lightning`) a killed and resumed run equals an
uninterrupted one bit for bit on the CPU at a fixed number of threads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from tenfold._errors import UserInputError
from tenfold.train.processes import rank_and_world

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_T = TypeVar("_T")

__all__ = [
    "ResumableLoader",
    "ResumableSampler",
    "random_states",
    "sample_generator",
    "set_random_states",
]


@overload
def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator: ...
@overload
def sample_generator(seed: int, epoch: int, index: int, kind: Literal["numpy"]) -> np.random.Generator: ...
@overload
def sample_generator(seed: int, epoch: int, index: int, kind: Literal["torch"]) -> torch.Generator: ...
def sample_generator(
    seed: int, epoch: int, index: int, kind: Literal["numpy", "torch"] = "numpy"
) -> np.random.Generator | torch.Generator:
    """Random generator of one sample in one epoch: the same whatever worker, process or resumed run draws
    from it.

    Args:
        seed: Seed of the run, at least 0.
        epoch: Epoch, at least 0.
        index: Index of the sample in its data set, at least 0.
        kind: ``"numpy"`` or ``"torch"`` (CPU); the two streams are unrelated.

    Raises:
        ValueError: a negative number, or an unknown ``kind``.

    >>> sample_generator(0, 3, 17).random() == sample_generator(0, 3, 17).random()
    True
    """
    if min(seed, epoch, index) < 0:
        raise ValueError(
            f"sample_generator: got seed {seed}, epoch {epoch}, index {index}; expected none below 0"
        )
    # SeedSequence hashes the words, so neighbouring indices give unrelated streams.
    sequence = np.random.SeedSequence([seed, epoch, index])
    if kind == "numpy":
        return np.random.default_rng(sequence)
    if kind == "torch":
        word = sequence.spawn(1)[0].generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(word) >> 1)
    raise ValueError(f"sample_generator: kind: got {kind!r}; expected 'numpy' or 'torch'")


class ResumableSampler(DistributedSampler[Any]):
    """Sampler whose order is a function of (seed, epoch), shared among processes.

    Process r of W takes positions r, r + W, r + 2W ... of the epoch's order, so that batch k of W processes
    with batch size B/W holds the samples of batch k of one process with batch size B. A length that W does
    not divide is filled up from the start of the order, or cut with ``drop_last``.

    Args:
        data: The data set, or its length.
        seed: Seed of the run.
        shuffle: False keeps the data set's order.
        rank: This process; by default torch.distributed's, or 0.
        world_size: Number of processes; by default torch.distributed's, or 1.
        drop_last: Cut instead of filling up.

    Raises:
        ValueError: an empty data set, or ``rank`` outside the world.

    >>> sampler = ResumableSampler(5, seed=0)
    >>> first = list(sampler); sampler.set_epoch(1); second = list(sampler); sampler.set_epoch(0)
    >>> first == list(sampler), first == second, sorted(first)
    (True, False, [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        data: Sized | int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        length = data if isinstance(data, int) else len(data)
        if length < 1:
            raise ValueError(f"ResumableSampler: data: got {length} samples; expected at least 1")
        rank, world_size = _rank_and_world(rank, world_size)
        super().__init__(
            range(length),  # type: ignore[arg-type]  # only its length is used
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )

    def order(self) -> list[int]:
        """This process's indices for the present epoch."""
        length = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            # Not torch.randperm(seed + epoch): there, seed 1 epoch 0 would repeat seed 0 epoch 1.
            everyone = np.random.default_rng([self.seed, self.epoch]).permutation(length).tolist()
        else:
            everyone = list(range(length))
        repeats = -(-self.total_size // length)
        mine: list[int] = (everyone * max(repeats, 1))[self.rank : self.total_size : self.num_replicas]
        return mine

    def __iter__(self) -> Iterator[int]:
        """Iterates over `order`."""
        return iter(self.order())


class ResumableLoader(DataLoader[_T]):
    """`DataLoader` that knows its position and can start in the middle of an epoch.

    It counts the batches handed out, not those that workers have prefetched, and it reads the sampler's
    epoch when the first batch is asked for. It never draws from the global generators. A data set with a
    method ``set_epoch`` gets the epoch before each pass, so that it can call `sample_generator`.

    Args:
        dataset: Map-style data set.
        batch_size: Samples per batch and process.
        seed: Seed of the order and of the workers.
        shuffle: False keeps the data set's order.
        sampler: A `ResumableSampler` of your own instead of the one made from ``seed`` and ``shuffle``.
        **kwargs: Passed to `torch.utils.data.DataLoader`.

    Raises:
        ValueError: ``persistent_workers`` with a data set that has ``set_epoch`` (its copies would never
            hear of it).

    >>> loader = ResumableLoader(list(range(6)), batch_size=2, seed=0)
    >>> whole = [batch.tolist() for batch in loader]
    >>> passing = iter(loader); _ = next(passing); state = loader.state_dict()
    >>> resumed = ResumableLoader(list(range(6)), batch_size=2, seed=0)
    >>> resumed.load_state_dict(state)
    >>> [batch.tolist() for batch in resumed] == whole[1:]
    True
    """

    def __init__(
        self,
        dataset: Dataset[_T],
        batch_size: int = 1,
        *,
        seed: int = 0,
        shuffle: bool = True,
        sampler: ResumableSampler | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("persistent_workers") and hasattr(dataset, "set_epoch"):
            raise ValueError(
                "ResumableLoader: persistent_workers: got True and a data set with set_epoch; expected False"
            )
        if sampler is None:
            sampler = ResumableSampler(dataset, seed=seed, shuffle=shuffle)  # type: ignore[arg-type]
        generator = kwargs.pop("generator", None) or torch.Generator()
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, generator=generator, **kwargs)
        self.handed_out = 0
        self._skip = 0
        self._skip_epoch = 0

    def __iter__(self) -> Iterator[_T]:  # type: ignore[override]
        """Batches from the present position to the end of the epoch."""
        epoch = self.sampler.epoch  # type: ignore[attr-defined]
        skip = self._skip if epoch == self._skip_epoch else 0
        self._skip = 0
        self.handed_out = skip
        self.generator.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        batches = super().__iter__() if skip == 0 else self._tail(skip)
        for batch in batches:
            self.handed_out += 1
            yield batch

    @property
    def seed(self) -> int:
        """Seed of the order."""
        return int(self.sampler.seed)  # type: ignore[attr-defined]

    def _tail(self, skip: int) -> Iterator[_T]:
        """The epoch without its first batches, which are skipped as indices and never loaded."""
        remaining = list(self.batch_sampler or ())[skip:]
        tail = DataLoader(
            self.dataset,
            batch_sampler=remaining,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.pin_memory,
            timeout=self.timeout,
            worker_init_fn=self.worker_init_fn,
            multiprocessing_context=self.multiprocessing_context,
            generator=self.generator,
            prefetch_factor=self.prefetch_factor,
        )
        return iter(tail)

    def _identity(self) -> dict[str, int]:
        """What must not change between a checkpoint and its continuation."""
        return {
            "seed": self.seed,
            "samples": len(self.sampler.dataset),  # type: ignore[attr-defined]
            "batch_size": int(self.batch_size or 0),
            "processes": int(self.sampler.num_replicas),  # type: ignore[attr-defined]
        }

    def _batches(self, run: dict[str, int]) -> int:
        """Batches of an epoch of a run with such an `_identity`."""
        share = _divided(run["samples"], run["processes"], down=self.sampler.drop_last)  # type: ignore[attr-defined]
        return _divided(share, max(run["batch_size"], 1), down=self.drop_last)

    def state_dict(self) -> dict[str, int]:
        """Epoch, batches handed out in it, and the numbers that make this position meaningful."""
        return {
            "epoch": int(self.sampler.epoch),  # type: ignore[attr-defined]
            "batches": self.handed_out,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues at the saved position when the saved epoch is iterated next.

        Raises:
            UserInputError: the run differs from the saved one in seed, samples, batch size or number of
                processes while the position is inside an epoch.
        """
        inside = 0 < state["batches"] < self._batches(state)
        for name, value in self._identity().items():
            if inside and state[name] != value:
                raise UserInputError(
                    f"checkpoint: {name}: stopped inside an epoch with {state[name]}, this run has {value};"
                    f" resume with the same {name}"
                )
        self.sampler.set_epoch(state["epoch"])  # type: ignore[attr-defined]
        self._skip = state["batches"] if inside else 0
        self._skip_epoch = state["epoch"]
        self.handed_out = self._skip


def random_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global generators (all CUDA devices included), as plain data.

    >>> state = random_states(); a = random.random(); set_random_states(state); a == random.random()
    True
    """
    algorithm, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        # A tensor of the words, because checkpoints are read with weights_only=True.
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_states(state: dict[str, Any]) -> None:
    """Inverse of `random_states`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def _divided(count: int, parts: int, *, down: bool) -> int:
    return count // parts if down else -(-count // parts)


def _rank_and_world(rank: int | None, world_size: int | None) -> tuple[int, int]:
    own_rank, processes = rank_and_world()
    return own_rank if rank is None else rank, processes if world_size is None else world_size
