"""The small experiment behind the claim: who needs suppression, and who does not.

Generated rooms in which one class usually stands several times, a tiny network, and arms that differ in one thing each.
Arms of a seed see the same rooms in the same order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from sparsepoint.config import SparsePointConfig, make_config
from sparsepoint.data.rooms import SyntheticRooms
from sparsepoint.data.scenes import Batch, SceneSamples, collate
from sparsepoint.evaluation import Evaluation, IndoorAP, evaluate, summarise
from sparsepoint.losses import make_criterion
from sparsepoint.models import Detections3D, build
from tenfold.eval.voc3d import Voc3dDetections
from tenfold.host import box_iou_3d
from tenfold.train.schedules import GroupSchedule, step_with_warmup

__all__ = [
    "ARMS",
    "CLASSES",
    "Arm",
    "controls",
    "measure",
    "rooms_batches",
    "train",
    "weights_hash",
]

CLASSES = ("table", "chair", "cabinet", "bin")
_FIRST_VAL = 1_000_000
_STEPS, _BATCH, _LR, _WARM, _SCENES = 2000, 8, 1e-3, 100, 200
_SAME = 0.5
#: Candidates that the dense arm is also evaluated with. VoteNet has one for four seeds, which are 64 here: with the
#: sparse arms' 32, sampling them far apart does already what suppression would do, and misses objects.
CANDIDATES = (64, 128)
_CURVE = 10
_HASH_DIGITS = 12  # 48 bits, which a float holds exactly


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        preset: "tiny" or "tiny_votenet".
        overrides: settings that differ.
        steps: of the optimiser.
        milestones: steps after which the rate falls to a tenth; after 75 % and 92 % by default.
    """

    preset: str = "tiny"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    steps: int = _STEPS
    milestones: tuple[int, ...] = ()

    def config(self) -> SparsePointConfig:
        """Settings of the network."""
        return make_config(self.preset, "rooms", **self.overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a record."""
        return {
            **{"steps": self.steps, "milestones": list(self.drops()), "batch": _BATCH, "lr": _LR},
            **self.config().to_dict(),
        }

    def drops(self) -> tuple[int, ...]:
        """Steps after which the rate falls to a tenth."""
        return self.milestones or (int(0.75 * self.steps), int(0.92 * self.steps))


#: Name -> arm; each differs from "sparse" in one thing.
ARMS: dict[str, Arm] = {
    "sparse": Arm(),
    "sparse-no-attention": Arm(overrides={"attention": False}),
    "sparse-one-to-many": Arm(overrides={"assignment": "one_to_many"}),
    "dense-votenet": Arm("tiny_votenet"),
    "sparse-frozen-proposals": Arm(overrides={"proposals": "frozen"}),
    "sparse-no-position": Arm(overrides={"pos": "none"}),
}


def rooms_batches(config: SparsePointConfig, number: int = _SCENES, *, first: int = 0) -> list[Batch]:
    """Rooms of the evaluation, in batches; the same ones for every detector."""
    samples = SceneSamples(SyntheticRooms(number, _FIRST_VAL + first), config)
    return [
        collate([samples[i] for i in range(start, min(start + _BATCH, number))])
        for start in range(0, number, _BATCH)
    ]


def train(
    arm: Arm,
    seed: int,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Any, list[float]]:
    """A trained network in evaluation mode, and the loss of every step.

    AdamW at 1e-3 with weight decay 0.01, 100 steps of warm-up, a tenth after each milestone, gradients clipped to 1,
    batches of eight rooms that no other step sees.

    Args:
        arm: what to train.
        seed: of weights and rooms.
        progress: called with the step and its loss.
    """
    torch.manual_seed(seed)
    config = arm.config()
    model, criterion = build(config), make_criterion(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, weight_decay=0.01, fused=True)
    milestones = arm.drops()
    warm = min(_WARM, arm.steps // 2)
    schedule = GroupSchedule(
        optimizer, {"lr": lambda step: step_with_warmup(step, milestones, warmup_steps=warm, start=0.01)}
    )
    rooms = SyntheticRooms(_STEPS * _BATCH, seed * _STEPS * _BATCH)
    samples = SceneSamples(rooms, config, seed=seed, votes=config.votes)
    losses = []
    model.train()
    for step in range(arm.steps):
        batch = collate([samples[step * _BATCH + i] for i in range(_BATCH)])
        loss = criterion(model(batch.points), batch.truth)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, losses[-1])
    return model.eval(), losses


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and statistics, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def controls(model: Any, batches: Sequence[Batch], found: Evaluation, seed: int = 0) -> dict[str, float]:
    """What would expose a fake: see the keys.

    "swapped clouds": detections of the next room against this room's objects. "permuted classes": the objects' classes
    renamed in a circle. "same-class pairs": pairs of detections of a class with an IoU above 0.5, per scene, which
    hidden suppression would have removed. "prior": the learned boxes as they are. "untrained": a network with random
    weights of ``seed``. "re-read": 1 where the network, written and read again, finds exactly the same.
    """
    truth = found.truth
    shifted = found.plain_records[1:] + found.plain_records[:1]
    numbers = {
        "swapped clouds": _ap(shifted, truth),
        "permuted classes": _ap(
            found.plain_records, [replace(t, labels=(np.asarray(t.labels) + 1) % len(CLASSES)) for t in truth]
        ),
        "same-class pairs": float(np.mean([_same_class_pairs(d) for d in found.plain_records])),
    }
    torch.manual_seed(seed)
    fresh = build(model.config).eval()
    numbers["untrained"] = evaluate(fresh, batches, CLASSES, score_thr=0.0).plain.mean_ap(0.25)
    if not model.config.dense:
        numbers["prior"] = _prior(model, batches)
    packed = io.BytesIO()
    torch.save(model.state_dict(), packed)
    packed.seek(0)
    fresh.load_state_dict(torch.load(packed, weights_only=True))
    again = evaluate(fresh, batches, CLASSES)
    numbers["re-read"] = float(again.plain == found.plain and weights_hash(fresh) == weights_hash(model))
    return numbers


def _ap(found: Sequence[Voc3dDetections], truth: Sequence[Any]) -> float:
    metric = IndoorAP(CLASSES)
    metric.found, metric.truth = list(found), list(truth)
    return metric.compute().mean_ap(0.25)


def _same_class_pairs(found: Voc3dDetections) -> float:
    boxes, labels = np.asarray(found.boxes, float), np.asarray(found.labels)
    if len(labels) < 2:
        return 0.0
    near = (box_iou_3d(boxes, boxes) > _SAME) & (labels[:, None] == labels[None])
    return float(np.triu(near, 1).sum())


def _prior(model: Any, batches: Sequence[Batch]) -> float:
    """AP of the learned boxes without any refinement, every one under every class."""
    detections, truth = [], []
    with torch.no_grad():
        for batch in batches:
            for boxes in model.prior(batch.points):
                number = len(boxes)
                labels = torch.arange(len(CLASSES)).repeat_interleave(number)
                rows = torch.arange(number).repeat(len(CLASSES))
                detections.append(Detections3D(boxes[rows], torch.full((len(rows),), 0.5), labels, rows))
            truth += list(zip(batch.truth.boxes, batch.truth.labels, strict=True))
    return summarise(detections, detections, truth, CLASSES).plain.mean_ap(0.25)


def measure(name: str, seed: int, *, steps: int | None = None, scenes: int = _SCENES) -> dict[str, float]:
    """Every figure of one arm and seed.

    Args:
        name: of the arm.
        seed: of weights and rooms.
        steps: of the optimiser; the arm's by default.
        scenes: rooms of the evaluation.
    """
    arm = ARMS[name] if steps is None else replace(ARMS[name], steps=steps)
    model, losses = train(arm, seed)
    batches = rooms_batches(model.config, scenes)
    found = evaluate(model, batches, CLASSES)
    numbers = found.numbers()
    numbers |= _by_candidates(model, batches) if model.config.dense else _by_stage(model, batches, found)
    numbers |= controls(model, batches, found, seed)
    numbers |= _loss_curve(losses)
    numbers["parameters"] = float(sum(p.numel() for p in model.parameters()))
    numbers["weights, first 48 bits of SHA-256"] = float(int(weights_hash(model)[:_HASH_DIGITS], 16))
    return {key: 0.0 if np.isnan(value) else value for key, value in numbers.items()}


def _by_stage(model: Any, batches: Sequence[Batch], found: Evaluation) -> dict[str, float]:
    """What stopping after each stage finds; the last one's is known."""
    last = model.config.num_stages
    early = [evaluate(model, batches, CLASSES, stages=stage) for stage in range(1, last)]
    return {
        f"{name} stage {stage}": whole.numbers()[name]
        for stage, whole in enumerate([*early, found], 1)
        for name in ("mAP@0.25", "mAP@0.5", "delta NMS@0.25")
    }


def _by_candidates(model: Any, batches: Sequence[Batch]) -> dict[str, float]:
    """What the same dense weights find with more candidates: no weight depends on how many there are."""
    numbers = {}
    for candidates in CANDIDATES:
        more = build(replace(model.config, num_proposals=candidates)).eval()
        more.load_state_dict(model.state_dict())
        values = evaluate(more, batches, CLASSES).numbers()
        for name in ("mAP@0.25", "mAP@0.5", "delta NMS@0.25", "delta NMS@0.5", "duplicates", "mAR@0.25"):
            numbers[f"{name}, {candidates} candidates"] = values[name]
    return numbers


def _loss_curve(losses: Sequence[float]) -> dict[str, float]:
    """Mean losses of the first and the last 20 steps, and of each tenth of the training."""
    numbers = {"first loss": float(np.mean(losses[:20])), "last loss": float(np.mean(losses[-20:]))}
    for tenth, part in enumerate(np.array_split(np.asarray(losses), min(_CURVE, len(losses))), 1):
        numbers[f"loss, part {tenth}"] = float(part.mean())
    return numbers
