"""A training command that is killed and resumed must end where an undisturbed one ends, bit for bit."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenfold.testing._child import child_environment
from tenfold.testing.processes import sigkill_and_resume

__all__ = ["QUIET_WORDS", "assert_training_resumes", "fit_and_resume", "quiet_fit", "quiet_trainer"]

#: For a `fit` on the command line, as `quiet_trainer` for one in this process.
QUIET_WORDS = (
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    "trainer.logger=false",
    "trainer.accelerator=cpu",
    "trainer.num_sanity_val_steps=0",
)


def assert_training_resumes(
    command: Callable[..., list[str]], folder: Path, *, kill_at: int, steps: int, timeout: float = 600
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a training whole, and again with a SIGKILL in between; weights and optimiser must be equal.

    Args:
        command: ``command(folder, *more)``, words of a `fit` that leaves ``checkpoints/last.ckpt`` in the folder
            after every step.
        folder: an empty one.
        kill_at: the step after which the process is killed.
        steps: of the whole run.
        timeout: seconds for each process.

    Returns:
        The checkpoints of the undisturbed and of the resumed run.
    """
    import torch

    from tenfold.testing.tensors import assert_bit_equal

    def checkpoint(where: Path) -> dict[str, Any]:
        file = where / "checkpoints" / "last.ckpt"
        if not file.exists():
            return {"global_step": 0}
        found: dict[str, Any] = torch.load(file, weights_only=True)
        return found

    whole, parts = folder / "whole", folder / "parts"
    subprocess.run(
        command(whole), check=True, env=child_environment(), timeout=timeout, capture_output=True, text=True
    )
    done = sigkill_and_resume(
        command(parts),
        when=lambda lines: checkpoint(parts)["global_step"] >= kill_at,
        resume_command=command(parts, "--ckpt_path", "last"),
        timeout=timeout,
    )
    assert done.killed.returncode == -9
    assert done.resumed.returncode == 0, done.resumed.stderr
    expected, found = checkpoint(whole), checkpoint(parts)
    assert found["global_step"] == expected["global_step"] == steps
    for part in ("state_dict", "optimizer_states"):
        assert_bit_equal(found[part], expected[part], part)
    return expected, found


def quiet_trainer(folder: Path, **options: Any) -> Any:
    """A Lightning trainer for two epochs on the CPU that prints and logs nothing; ``options`` win."""
    from tenfold.train.lightning import make_trainer

    usual: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return make_trainer(default_root_dir=folder, **{**usual, **options})


def quiet_fit(folder: Path, task: Any, data: Any, ckpt: str | None = None, **options: Any) -> Any:
    """Fit a task with `quiet_trainer`, which is returned."""
    trainer = quiet_trainer(folder, **options)
    trainer.fit(task, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return trainer


def fit_and_resume(
    make: Callable[[], tuple[Any, Any]], folder: Path, *, stop_at: int = 4, epochs: int = 3
) -> tuple[Any, Any]:
    """Train a task whole, and again from a checkpoint inside an epoch; all their tensors must be equal.

    Args:
        make: returns a new task and new data; the generators have been seeded before.
        folder: an empty one.
        stop_at: the step of the checkpoint.
        epochs: of the whole run.

    Returns:
        The tasks of the whole and of the resumed run.
    """
    from lightning.pytorch import seed_everything

    from tenfold.testing.tensors import assert_bit_equal
    from tenfold.train.lightning import LastCheckpoint

    def run(where: Path, ckpt: str | None = None, **options: Any) -> Any:
        seed_everything(0, verbose=False)
        task, data = make()
        quiet_fit(where, task, data, ckpt, max_epochs=epochs, **options)
        return task

    whole = run(folder / "whole")
    run(folder / "part", max_steps=stop_at, callbacks=[LastCheckpoint(every_n_steps=1)])
    resumed = run(folder / "rest", str(folder / "part" / "checkpoints" / "last.ckpt"))
    assert_bit_equal(dict(resumed.state_dict()), dict(whole.state_dict()))
    return whole, resumed
