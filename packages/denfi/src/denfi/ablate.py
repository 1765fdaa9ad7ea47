"""The verb `ablate`: what every row of the ablation costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from denfi.model import CONFIGS, VARIANTS, DenfiDet
from tenfold._errors import UserInputError
from tenfold.io import write_json
from tenfold.train.cost import count_macs, count_parameters
from tenfold.train.processes import use_threads

__all__ = ["RowCost", "ablate", "cost_of"]


@dataclass(frozen=True)
class RowCost:
    """Cost of one row.

    Attributes:
        variant: its name.
        purpose: what it is there to tell.
        parameters: of the whole detector.
        gmacs: multiply-accumulates of the bird's-eye half (backbone, plug-in, head) for one frame, 10^9;
            bilinear reading counts nothing.
        milliseconds: median latency of that half for one frame on this machine.
    """

    variant: str
    purpose: str
    parameters: int
    gmacs: float
    milliseconds: float


class _Dense(nn.Module):
    """The bird's-eye half without the classes of the proposals."""

    def __init__(self, model: DenfiDet) -> None:
        super().__init__()
        self.backbone, self.head = model.detector.backbone_2d, model.detector.dense_head

    def forward(self, bev: Tensor) -> Any:
        return self.head(self.backbone(bev))


def cost_of(name: str, variant: str, runs: int = 5, **overrides: Any) -> RowCost:
    """Cost of a row of a reference model.

    Args:
        name: a key of `CONFIGS`.
        variant: a key of `VARIANTS`.
        runs: timed runs, after one to warm up.
        overrides: fields of the detector's configuration.

    Example:
        >>> cost_of("denfidet_tiny", "base", runs=1).parameters
        16351
    """
    model = DenfiDet.from_config(name, variant, **overrides).eval()
    dense, plug = _Dense(model).eval(), model.plug
    if plug is not None and plug.denfi.config.row.source == "oracle":
        plug.truth = ([torch.zeros(0, 5)], [torch.zeros(0, dtype=torch.int64)])
    nx, ny = (cells // model.config.feature_stride for cells in model.config.grid[:2])
    bev = torch.zeros(1, model.config.bev_input_channels, ny, nx)
    seconds = []
    with torch.inference_mode():
        for run in range(runs + 1):
            start = time.perf_counter()
            dense(bev)
            if run:
                seconds.append(time.perf_counter() - start)
    gmacs = count_macs(dense, bev).macs / 1e9
    return RowCost(
        variant, VARIANTS[variant].purpose, count_parameters(model), gmacs, 1e3 * statistics.median(seconds)
    )


def ablate(
    config: str,
    variants: Sequence[str] = tuple(VARIANTS),
    runs: int = 5,
    threads: int | None = None,
    out: Path | None = None,
) -> None:
    """Print parameters, operations and latency of every row of the ablation, for one reference model.

    Accuracy comes from training: each row is `denfi fit ... model.variant=ROW` and `denfi test`, which prints
    AP|R11 and AP|R40.

    Args:
        config: Reference model, such as denfidet_second_3class.
        variants: Rows to print; all by default.
        runs: Timed runs of each.
        threads: Threads to use; all cores by default.
        out: JSON file for the numbers.
    """
    if config not in CONFIGS:
        raise UserInputError(f"config: got {config!r}; expected one of {', '.join(CONFIGS)}")
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise UserInputError(f"variants: got {unknown[0]!r}; expected some of {', '.join(VARIANTS)}")
    if runs < 1:
        raise UserInputError(f"runs: got {runs}; expected 1 or more")
    use_threads(threads)
    print(f"{config}, one frame, bird's-eye half, {torch.get_num_threads()} threads")
    print(f"{'row':20} {'parameters':>12} {'GMACs':>8} {'ms':>8}  what for")
    rows = []
    for name in variants:
        row = cost_of(config, name, runs)
        rows.append(row)
        print(
            f"{name:20} {row.parameters:12,} {row.gmacs:8.2f} {row.milliseconds:8.1f}  {row.purpose}",
            flush=True,
        )
    if out is not None:
        write_json(
            out, {"config": config, "threads": torch.get_num_threads(), "rows": [asdict(r) for r in rows]}
        )
