"""The one way to run things: command lines, resumable training, schedules, averages, costs and claim records.

Importing this package loads neither Lightning nor torch; every name below resolves when it is first used.

| room | what |
|---|---|
| `tenfold.train.cli` | `App`, `Verb`: a package's whole command line from one declaration |
| `tenfold.train.lightning` | `make_trainer` and the callbacks behind it (needs the extra ``train``) |
| `tenfold.train.resume` | samplers, loaders and random states that survive a kill |
| `tenfold.train.schedules` | one-cycle, warm-up, ramps: pure functions of the step |
| `tenfold.train.ema` | moving average of weights and buffers |
| `tenfold.train.cost` | parameters, multiply-accumulates, ledgers |
| `tenfold.train.claims` | one JSON record per (package, arm, seed), and the table made from them |
| `tenfold.train.demo` | what a package's `demo` returns, prints and leaves for the report page |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.train.claims import Cell, environment_stamp, table
    from tenfold.train.cli import App, Verb
    from tenfold.train.cost import CostLedger, count_macs, count_parameters
    from tenfold.train.demo import DemoResult, print_demo, read_demo, write_demo
    from tenfold.train.ema import ModelEMA
    from tenfold.train.lightning import make_trainer
    from tenfold.train.resume import ResumableLoader, ResumableSampler, sample_generator
    from tenfold.train.schedules import (
        GroupSchedule,
        cosine_with_warmup,
        decoupled_adam,
        linear_ramp,
        one_cycle,
        one_cycle_schedule,
        sigmoid_ramp,
        smooth_ramp,
        step_with_warmup,
    )

_LAZY = {
    "App": "cli",
    "Cell": "claims",
    "CostLedger": "cost",
    "DemoResult": "demo",
    "GroupSchedule": "schedules",
    "ModelEMA": "ema",
    "ResumableLoader": "resume",
    "ResumableSampler": "resume",
    "Verb": "cli",
    "cosine_with_warmup": "schedules",
    "count_macs": "cost",
    "count_parameters": "cost",
    "decoupled_adam": "schedules",
    "environment_stamp": "claims",
    "linear_ramp": "schedules",
    "make_trainer": "lightning",
    "one_cycle": "schedules",
    "one_cycle_schedule": "schedules",
    "print_demo": "demo",
    "read_demo": "demo",
    "sample_generator": "resume",
    "sigmoid_ramp": "schedules",
    "smooth_ramp": "schedules",
    "step_with_warmup": "schedules",
    "table": "claims",
    "write_demo": "demo",
}

__all__ = [
    "App",
    "Cell",
    "CostLedger",
    "DemoResult",
    "GroupSchedule",
    "ModelEMA",
    "ResumableLoader",
    "ResumableSampler",
    "Verb",
    "cosine_with_warmup",
    "count_macs",
    "count_parameters",
    "decoupled_adam",
    "environment_stamp",
    "linear_ramp",
    "make_trainer",
    "one_cycle",
    "one_cycle_schedule",
    "print_demo",
    "read_demo",
    "sample_generator",
    "sigmoid_ramp",
    "smooth_ramp",
    "step_with_warmup",
    "table",
    "write_demo",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"tenfold.train.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
