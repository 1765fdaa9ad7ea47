"""Two ranks of torch.distributed on this machine, for tests of distributed code."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tenfold.testing._child import finish_call, kill_group, pack_call, start_call
from tenfold.train.processes import rank_and_world


def averaged_gradients(module: Any) -> dict[str, Any]:
    """Gradients by parameter name, averaged over processes as DistributedDataParallel does; zeros where there is none.

    Args:
        module: an `nn.Module` after its backward pass; every process has the same parameters.
    """
    import torch

    _, size = rank_and_world()
    found = {}
    for name, parameter in module.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if size > 1:
            torch.distributed.all_reduce(gradient)
        found[name] = gradient / size
    return found


class RankError(AssertionError):
    """A rank failed; the message holds its traceback."""


def two_gloo_ranks(
    fn: Callable[..., Any], *args: Any, world_size: int = 2, timeout: float = 120
) -> list[Any]:
    """Call ``fn(*args)`` in every rank of a gloo group and return the results in the order of the ranks.

    The group is initialised before the call (a file as meeting place, the loopback interface), one torch
    thread a rank, and destroyed after it. ``torch.distributed.get_rank()`` tells the ranks apart; RANK,
    LOCAL_RANK and WORLD_SIZE are set as `torchrun` sets them.

    Args:
        fn: a function at the top level of a file; a test file is fine.
        args: its arguments; they and the results must pickle.
        world_size: number of ranks.
        timeout: seconds for everything; also of the group's collective operations.

    Raises:
        RankError: a rank raised or died; the other ranks are killed.
        TimeoutError: not all ranks ended in time; all are killed.

    Example:
        >>> two_gloo_ranks(divmod_by_rank, 7)  # doctest: +SKIP
        [(7, 0), (3, 1)]
    """
    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder) / "call"
        payload.write_bytes(pack_call(_rank, (str(Path(folder) / "store"), timeout, pack_call(fn, args))))
        return _gather([_start(payload, rank, world_size) for rank in range(world_size)], timeout)


def _start(payload: Path, rank: int, world_size: int) -> tuple[Any, int]:
    env = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return start_call(payload, env=env, needs=["torch.distributed"])


def _gather(started: list[tuple[Any, int]], timeout: float) -> list[Any]:
    """Collect all ranks at once: the first failure ends the others, which may wait for the failed rank."""
    processes = [process for process, _ in started]
    try:
        with ThreadPoolExecutor(len(started)) as pool:
            futures = [pool.submit(finish_call, process, reader, timeout) for process, reader in started]
            for future in as_completed(futures):
                if future.exception() or future.result().returncode != 0:
                    _kill(processes)
        outcomes = [future.result() for future in futures]
    finally:
        _kill(processes)
    failed = [rank for rank, outcome in enumerate(outcomes) if outcome.returncode != 0]
    # A rank that was only killed for another's failure has nothing to tell.
    telling = [rank for rank in failed if outcomes[rank].error] or failed
    if telling:
        told = (f"rank {rank}:\n{outcomes[rank].trace or outcomes[rank].stderr[-4000:]}" for rank in telling)
        raise RankError("\n".join(told))
    return [outcome.value for outcome in outcomes]


def _kill(processes: list[Any]) -> None:
    for process in processes:
        if process.poll() is None:
            kill_group(process)


def _rank(store: str, timeout: float, call: bytes) -> Any:
    """Runs in the child: join the group, call the function, leave the group."""
    import datetime
    import os
    import pickle

    import torch
    import torch.distributed as dist

    from tenfold.testing._child import call_packed

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=datetime.timedelta(seconds=timeout),
    )
    # Not destroyed after an error: the other ranks must not fail before this rank's error is on its way.
    value = call_packed(pickle.loads(call))
    dist.destroy_process_group()
    return value
