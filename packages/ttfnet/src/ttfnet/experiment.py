"""The small-scale experiment on the paper's claim: many regression samples permit a large learning rate.

Generated pictures of 96 x 96 pixels, the package's own neck, heads, targets, losses, loader and evaluation,
300 steps (400 on small objects) on a CPU. Every arm sees the same pictures in the same order and starts at the
same weights; an arm differs in nothing but what its entry in `ARMS` says.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.train.resume import ResumableLoader
from ttfnet.data.dataset import CocoDataset, collate
from ttfnet.data.shapes import CLASS_NAMES, write_shapes
from ttfnet.data.transforms import Pipeline
from ttfnet.decoding import Detections
from ttfnet.evaluation import CocoResult, evaluate, result_rows
from ttfnet.model import CenterNet, Detector, TTFNet, TTFOutput
from ttfnet.recipe import sgd, warmup_schedule
from ttfnet.targets import TargetOptions, Targets, ttf_targets

__all__ = ["ARMS", "Arm", "Run", "evaluate_detector", "make_data", "measure", "train_arm"]

_SIZE, _BATCH, _STEPS, _PICTURES = 96, 16, 300, {"train": 400, "val": 150}
_NETWORK: dict[str, Any] = {
    "backbone": "small",
    "num_classes": len(CLASS_NAMES),
    "neck_channels": (32, 24, 24),
    "shortcuts": (1, 2, 3),
    "head_channels": (32, 24),
    "head_layers": (1, 1),
    "kaiming_heads": True,
}


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        lr: peak learning rate.
        method: ``"ttfnet"``, or ``"centernet"`` for its losses on the same network.
        targets: how targets are made.
        neck_op: ``"conv"`` or ``"dcnv2"``.
        sides: range of the objects' mean sides in pixels.
        control: ``"shuffled"`` gives every picture the boxes of another; ``"scaled"`` multiplies all sample
            weights by 1000, which must not matter.
        steps: optimiser steps.
    """

    lr: float = 0.01
    method: str = "ttfnet"
    targets: TargetOptions = field(default_factory=TargetOptions)
    neck_op: str = "conv"
    sides: tuple[float, float] = (20.0, 80.0)
    control: str = ""
    steps: int = _STEPS


_ONE_PIXEL, _SMALL = TargetOptions(beta=0.01), (10.0, 56.0)

#: Name -> arm. "many" is the paper's method, "one" the same with one regression pixel per object.
ARMS: dict[str, Arm] = {
    "many-lr0.01": Arm(),
    "one-lr0.01": Arm(targets=_ONE_PIXEL),
    "many-lr0.004": Arm(lr=0.004),
    "one-lr0.004": Arm(lr=0.004, targets=_ONE_PIXEL),
    "centernet-lr0.01": Arm(method="centernet"),
    "equal-weights-lr0.01": Arm(targets=TargetOptions(weight="none")),
    "small-many-lr0.01": Arm(sides=_SMALL, steps=400),
    "small-one-lr0.01": Arm(sides=_SMALL, steps=400, targets=_ONE_PIXEL),
    "shuffled-lr0.01": Arm(control="shuffled"),
    "scaled-weights-lr0.01": Arm(control="scaled"),
    "dcn-neck-lr0.01": Arm(neck_op="dcnv2", steps=150),
}


class _ScaledWeights(TTFNet):
    """TTFNet whose sample weights are a thousand times as large."""

    def targets(self, out: TTFOutput, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        made = super().targets(out, boxes, labels)
        return made._replace(weight=made.weight * 1000)


@dataclass(eq=False)
class Run:
    """A trained arm.

    Attributes:
        model: in evaluation mode.
        curve: step -> COCO numbers on the validation pictures.
        losses: of every step.
        result: the evaluation at the end.
        seconds: of training, evaluation excluded.
        samples_per_object: mean number of weighted pixels for each object.
    """

    model: Detector
    curve: dict[int, dict[str, float]]
    losses: list[float]
    result: CocoResult
    seconds: float
    samples_per_object: float


def make_data(root: Path, seed: int, sides: tuple[float, float] = (20.0, 80.0)) -> dict[str, CocoDataset]:
    """Write the pictures, and open both splits as the real loader does."""
    write_shapes(root, _PICTURES, seed=seed, size=_SIZE, sides=sides)
    size = (_SIZE, _SIZE)
    return {
        "train": CocoDataset(root, "train", Pipeline(size, "flip"), train=True, seed=seed, cache=True),
        "val": CocoDataset(root, "val", Pipeline(size), cache=True),
    }


def build(arm: Arm, seed: int) -> Detector:
    """The network of an arm; backbone and neck start alike in all arms of a seed."""
    torch.manual_seed(seed)
    if arm.method == "centernet":
        return CenterNet(**_NETWORK, neck="ttfnet", neck_op=arm.neck_op, heatmap_bias=-4.59512)
    kind = _ScaledWeights if arm.control == "scaled" else TTFNet
    return kind(**_NETWORK, neck_op=arm.neck_op, targets=arm.targets)


def train_arm(
    arm: Arm,
    seed: int,
    data: dict[str, CocoDataset],
    *,
    evaluate_at: Sequence[int] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> Run:
    """Train one arm: SGD, momentum 0.9, decay 4e-4, batch 16, warm-up of 40 steps, gradient norm at most 35.

    Args:
        arm: what to train.
        seed: of weights and order.
        data: of `make_data`.
        evaluate_at: steps after which to evaluate, besides the last.
        on_step: called with the number of steps taken.
    """
    model = build(arm, seed).train()
    optimizer = sgd(model, arm.lr)
    loader = ResumableLoader(data["train"], _BATCH, seed=seed, collate_fn=collate, drop_last=True)  # type: ignore[arg-type]
    schedule = warmup_schedule(optimizer, arm.steps, len(loader), warmup_steps=40)
    curve: dict[int, dict[str, float]] = {}
    losses: list[float] = []
    step, epoch, start, paused = 0, 0, time.perf_counter(), 0.0
    result: CocoResult | None = None
    while step < arm.steps:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            losses.append(_step(model, optimizer, batch, arm))
            schedule.step()
            step += 1
            on_step(step)
            if step in evaluate_at or step == arm.steps:
                begin = time.perf_counter()
                result = evaluate_detector(model.eval(), data["val"])
                curve[step] = result.numbers
                model.train()
                paused += time.perf_counter() - begin
            if step == arm.steps:
                break
        epoch += 1
    assert result is not None
    seconds = time.perf_counter() - start - paused
    return Run(model.eval(), curve, losses, result, seconds, _samples_per_object(arm, data["train"]))


def _step(model: Detector, optimizer: torch.optim.Optimizer, batch: Any, arm: Arm) -> float:
    boxes, labels = batch.boxes, batch.labels
    if arm.control == "shuffled":
        boxes, labels = boxes[1:] + boxes[:1], labels[1:] + labels[:1]
    loss = model.loss(model(batch.images), boxes, labels)["loss"]
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
    optimizer.step()
    return float(loss.detach())


def evaluate_detector(model: Detector, data: CocoDataset, max_det: int = 50) -> CocoResult:
    """COCO numbers of a network in evaluation mode."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(data), 50):
        batch = collate([data[k] for k in range(start, min(start + 50, len(data)))])
        for k, found in enumerate(model.predict(batch.images, max_det=max_det)):
            rows += result_rows(found, batch.image_ids[k], data.annotations.category_ids)
    return evaluate(rows, data.annotations)


def _samples_per_object(arm: Arm, data: CocoDataset) -> float:
    if arm.method == "centernet":
        return 1.0
    boxes = [torch.from_numpy(record.boxes) for record in data.records]
    labels = [torch.from_numpy(record.labels) for record in data.records]
    made = ttf_targets(boxes, labels, (_SIZE, _SIZE), len(CLASS_NAMES), arm.targets)
    return float((made.weight > 0).sum()) / sum(map(len, boxes))


@torch.no_grad()
def dead_sides(model: Detector, data: CocoDataset) -> float:
    """Share of the four distance channels that are zero on more than 99 % of the pixels of 50 pictures."""
    if not isinstance(model, TTFNet):
        return 0.0
    out = model(collate([data[k] for k in range(50)]).images)
    zero = (out.distances == 0).float().mean((0, 2, 3))
    return float((zero > 0.99).float().mean())


def measure(name: str, seed: int) -> dict[str, float]:
    """One cell of the claim: train an arm, and tell its numbers (AP times 100)."""
    if name == "oracle":
        return _measure_oracle(seed)
    arm = ARMS[name]
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), seed, arm.sides)
        points = [step for step in (75, 150, 225, 300) if step <= arm.steps]
        run = train_arm(arm, seed, data, evaluate_at=points)
        numbers = {k: 100 * v for k, v in run.result.numbers.items() if k.startswith("AP") and v >= 0}
        found = {step: 100 * values["AP"] for step, values in run.curve.items()}
        more = {
            **{f"AP@{step}": value for step, value in found.items()},
            "steps to AP 10": _steps_to(found, 10),
            "steps to AP 20": _steps_to(found, 20),
            "samples per object": run.samples_per_object,
            "dead sides": dead_sides(run.model, data["val"]),
            "train seconds": run.seconds,
            "last loss": sum(run.losses[-10:]) / 10,
        }
        if arm.control == "scaled":
            more["distance to unscaled"] = _distance(arm, seed, data)
    return {**numbers, **more}


def _steps_to(found: dict[int, float], wanted: float) -> float:
    """Steps at which the curve first crosses, by linear interpolation; one more than all where it never does."""
    before_step, before = 0, 0.0
    for step, value in sorted(found.items()):
        if value >= wanted:
            return before_step + (step - before_step) * (wanted - before) / max(value - before, 1e-9)
        before_step, before = step, value
    return max(found) + 1.0


def _distance(arm: Arm, seed: int, data: dict[str, CocoDataset], steps: int = 20) -> float:
    """Relative distance of the weights to those of the unscaled arm after a few steps."""
    short = replace(arm, steps=steps)
    pair = [
        torch.cat([p.detach().flatten() for p in train_arm(each, seed, data).model.parameters()])
        for each in (short, replace(short, control=""))
    ]
    return float((pair[0] - pair[1]).norm() / pair[1].norm())


def _measure_oracle(seed: int) -> dict[str, float]:
    """AP of the labels themselves, and of what decoding makes of perfect targets."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), seed)["val"]
        rows: list[dict[str, Any]] = []
        decoded: list[dict[str, Any]] = []
        ids = data.annotations.category_ids
        for record in data.records:
            boxes, labels = torch.from_numpy(record.boxes), torch.from_numpy(record.labels)
            rows += result_rows(Detections(boxes, torch.ones(len(boxes)), labels), record.image_id, ids)
            decoded += result_rows(_decoded(boxes, labels), record.image_id, ids)
        perfect, targets = evaluate(rows, data.annotations), evaluate(decoded, data.annotations)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    numbers = {name: 100 * perfect.numbers[name] for name in names if perfect.numbers[name] >= 0}
    return {**numbers, "AP of decoded targets": 100 * targets.numbers["AP"]}


def _decoded(boxes: Tensor, labels: Tensor) -> Detections:
    """The boxes that the targets hold at their own peaks."""
    made = ttf_targets(boxes, labels, (_SIZE, _SIZE), len(CLASS_NAMES))
    classes, y, x = torch.nonzero(made.heatmap[0] == 1, as_tuple=True)
    return Detections(made.boxes[0, :, y, x].T, torch.ones(len(y)), classes)
