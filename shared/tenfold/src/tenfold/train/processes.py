"""What the processes of one run tell each other, and the threads of each."""

from __future__ import annotations

from typing import Any

from tenfold._errors import UserInputError

__all__ = ["gather_values", "rank_and_world", "use_threads"]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; 0 and 1 outside a process group."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather_values(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks; outside a process group that of this one alone.

    Args:
        value: anything that can be pickled; the processes' may differ in size and kind.

    Example:
        >>> gather_values({"seen": 3})
        [{'seen': 3}]
    """
    from torch import distributed

    world = rank_and_world()[1]
    if world == 1:
        return [value]
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, value)
    return parts


def use_threads(threads: int | None) -> None:
    """Let torch work on so many threads from here on, as a command line's ``--threads`` asks.

    Args:
        threads: None leaves torch its own number, all cores.

    Raises:
        UserInputError: a number below 1.

    Example:
        >>> use_threads(1)
    """
    if threads is None:
        return
    if threads < 1:
        raise UserInputError(f"threads: got {threads}; expected 1 or more")
    import torch

    torch.set_num_threads(threads)
