"""The one way to run things: command lines, resumable training, schedules, averages, costs and claim records.

Importing this package loads neither Lightning nor torch; every name below resolves when it is first used.

| room | what |
|---|---|
| `tenfold.train.cli` | `App`, `Verb`: a package's whole command line from one declaration |
| `tenfold.train.lightning` | `make_trainer` and the callbacks behind it (needs the extra ``train``) |
| `tenfold.train.resume` | samplers, loaders and random states that survive a kill |
| `tenfold.train.schedules` | one-cycle, warm-up, ramps: pure functions of the step |
| `tenfold.train.processes` | a value of every process, and the threads of each |
| `tenfold.train.progress` | bars on a terminal |
| `tenfold.train.modes` | eval mode for a while |
| `tenfold.train.ema` | moving average of weights and buffers |
| `tenfold.train.cost` | parameters, multiply-accumulates, ledgers |
| `tenfold.train.claims` | one JSON record per (package, arm, seed), and the table made from them |
| `tenfold.train.demo` | what a package's `demo` returns, prints and leaves for the report page |
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold.train.claims import Cell, environment_stamp, table
    from tenfold.train.cli import App, Verb
    from tenfold.train.cost import CostLedger, count_macs, count_parameters
    from tenfold.train.demo import DemoResult, print_demo, read_demo, write_demo
    from tenfold.train.ema import ModelEMA
    from tenfold.train.lightning import make_trainer
    from tenfold.train.processes import gather_values, use_threads
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
    "gather_values",
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
    "use_threads",
    "write_demo",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".claims": ["Cell", "environment_stamp", "table"],
        ".cli": ["App", "Verb"],
        ".cost": ["CostLedger", "count_macs", "count_parameters"],
        ".demo": ["DemoResult", "print_demo", "read_demo", "write_demo"],
        ".ema": ["ModelEMA"],
        ".lightning": ["make_trainer"],
        ".processes": ["gather_values", "use_threads"],
        ".resume": ["ResumableLoader", "ResumableSampler", "sample_generator"],
        ".schedules": [
            "GroupSchedule",
            "cosine_with_warmup",
            "decoupled_adam",
            "linear_ramp",
            "one_cycle",
            "one_cycle_schedule",
            "sigmoid_ramp",
            "smooth_ramp",
            "step_with_warmup",
        ],
    },
)
