"""The two small experiments behind the claim, on scenes in which only the image tells cars from decoys.

*Detection*: a tiny PI-RCNN with its controls; *points*: what the mean over a point's neighbours in 3D tells of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pircnn.data.toy import POINT_RANGE, SEG_NAMES, ToyScene, toy_batch, toy_scene
from pircnn.losses import segmentation_loss
from pircnn.model import PIRCNN, SegUNet, neighbours
from pircnn.recipe import fusion_gradients, parameter_groups
from pircnn.sampling import sample_image_features
from pircnn.seg_metrics import average_precision, confusion, roc_auc, seg_metrics
from tenfold.lidar.evaluation import BoxEvaluated, evaluate
from tenfold.lidar.frames import Objects
from tenfold.lidar.proposals import recall
from tenfold.ops import box_iou_3d
from tenfold.train.schedules import decoupled_adam, one_cycle_schedule

__all__ = [
    "DETECTION",
    "POINTS",
    "DetectionArm",
    "evaluate_detector",
    "held_out",
    "measure_detection",
    "measure_points",
    "scenes",
    "settings",
    "train_detector",
    "train_segmentation",
]

_STEPS, _BATCH, _LR, _CLIP = 300, 4, 0.01, 10.0
_POOL, _HELD_OUT, _CHUNK = 160, 60, 10
_SEG_STEPS, _SEG_LR = 80, 0.01
_SEG_WIDTHS = (8, 16, 16, 16)
_NOISES = (2.0, 6.0)
_TURNS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class DetectionArm:
    """One arm of the detection experiment.

    Args:
        variant: row of the ablation.
        branch: of the image network; "cached" reads maps that the pretrained network made before.
        image: "own", or "other": the image of another scene.
        moved: scenes are mirrored in half of the steps, and the calibration with them ("flip"), or not.
        pretrained: whether the image network has learnt from label maps before.
        label_maps: whether it goes on learning from them ("joint").
        point_seg: weight of its loss on 3-D boxes ("joint").
        robust: evaluate under broken calibrations and images too.
    """

    variant: str = "pacf"
    branch: Literal["frozen", "cached", "joint"] = "cached"
    image: Literal["own", "other"] = "own"
    moved: Literal["flip", "flip-wrong"] = "flip"
    pretrained: bool = True
    label_maps: bool = False
    point_seg: float = 0.0
    robust: bool = False


#: Name -> arm.
DETECTION: dict[str, DetectionArm] = {
    "pointrcnn": DetectionArm("pointrcnn"),
    "pointrcnn+params": DetectionArm("pointrcnn+params"),
    "pacf": DetectionArm(robust=True),
    "pacf-shuffled": DetectionArm(image="other"),
    "pacf-frozen": DetectionArm("pacf-frozen"),
    "pacf-wrong-calibration": DetectionArm(moved="flip-wrong"),
    "paint": DetectionArm("paint", robust=True),
    "cc": DetectionArm("cc"),
    "cc+pp": DetectionArm("cc+pp"),
    "cc+aa": DetectionArm("cc+aa"),
    "paint-input": DetectionArm("paint-input"),
    "pacf-k1": DetectionArm("pacf-k1"),
    "pacf-k5": DetectionArm("pacf-k5"),
    "pacf-k9": DetectionArm("pacf-k9"),
    "pacf-linear": DetectionArm("pacf-linear"),
    "pacf-content": DetectionArm("pacf-content"),
    "seg-frozen": DetectionArm(branch="frozen"),
    "seg-joint": DetectionArm(branch="joint", label_maps=True),
    "seg-joint+pseg": DetectionArm(branch="joint", pretrained=False, point_seg=1.0),
}


def settings(arm: DetectionArm) -> dict[str, Any]:
    """What makes the detector of an arm tiny."""
    boxes_teach = arm.point_seg > 0
    return {
        "class_names": ["Car"],
        "point_range": list(POINT_RANGE),
        "points": 1024,
        "levels": [[256, [[1.6, 24, [16, 32]]]], [64, [[4.0, 16, [32, 32]]]]],
        "up_widths": [[32, 32], [32, 32]],
        "point_widths": [32],
        # Boxes of boxes have no front.
        "point_weights": {"direction": False},
        "pool_points": 64,
        "pool_enlarge": 1.0,
        "roi_channels": 32,
        "roi_levels": [[16, [[0.8, 16, [32, 32]]]], [None, [[1.0, 1, [64, 64]]]]],
        "second": {
            "train": {"pre_max": 256, "post_max": 48},
            "test": {"pre_max": 256, "iou_threshold": 0.7, "post_max": 32},
            "sampling": {"per_frame": 32},
            "fc": [32],
        },
        "post": {"score_threshold": 0.05},
        "branch": arm.branch,
        "seg_classes": 2 if boxes_teach else len(SEG_NAMES),
        "seg_widths": list(_SEG_WIDTHS),
        "seg_weight": float(arm.label_maps),
        "point_seg_weight": arm.point_seg,
        "fusion": {"features": "logits"} if boxes_teach else {},
    }


# ---- the image network ---------------------------------------------------------------------------


@lru_cache(maxsize=2)
def scenes(seed: int, kind: Literal["train", "test"], number: int) -> tuple[ToyScene, ...]:
    """Scenes of a seed, the same in all arms."""
    return tuple(toy_scene((seed, 1 if kind == "train" else 2, k)) for k in range(number))


@lru_cache(maxsize=2)
def train_segmentation(seed: int, steps: int = _SEG_STEPS, pool: int = _POOL) -> SegUNet:
    """The image network after its pretraining on label maps."""
    torch.manual_seed(seed)
    network = SegUNet(3, len(SEG_NAMES), _SEG_WIDTHS)
    optimizer = decoupled_adam(network.parameters(), lr=_SEG_LR)
    schedule = one_cycle_schedule(optimizer, steps)
    rng = np.random.default_rng((seed, 1))
    train = scenes(seed, "train", pool)
    for _ in range(steps):
        batch = toy_batch([train[k] for k in rng.choice(len(train), _BATCH, replace=False)])
        loss = segmentation_loss(network(torch.stack(batch["images"])), torch.stack(batch["label_maps"]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def _maps(network: SegUNet, many: Sequence[ToyScene]) -> list[Tensor]:
    return [network(toy_batch([s])["images"][0][None]).softmax(1)[0] for s in many]


def _iou(network: SegUNet, many: Sequence[ToyScene], classes: int) -> float:
    counts = np.zeros((classes, classes), np.int64)
    with torch.no_grad():
        for s in many:
            found = network(toy_batch([s])["images"][0][None]).argmax(1)[0].numpy()
            # A network that only knows background and car takes decoys for background.
            truth = s.labels if classes == len(SEG_NAMES) else np.where(s.labels == 1, 1, 0)
            counts += confusion(found, truth, classes)
    return seg_metrics(counts)["miou"]


# ---- detection -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Trained:
    """A trained detector, its losses, and what its fusion did.

    Attributes:
        model: in evaluation mode.
        losses: of every step.
        gradients: norm of every fusion tensor's gradient in the first step.
        change: relative change of every fusion tensor over the training.
    """

    model: PIRCNN
    losses: list[float] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    change: dict[str, float] = field(default_factory=dict)


class Source:
    """Batches of an arm: which image a scene gets, and as what."""

    def __init__(self, arm: DetectionArm, network: SegUNet | None, many: Sequence[ToyScene]) -> None:
        self.arm, self.scenes = arm, many
        cached = arm.branch == "cached" and network is not None
        self.maps = _maps(network, many) if cached and network is not None else None

    def batch(self, rows: Sequence[int], **options: Any) -> dict[str, Any]:
        batch = toy_batch([self.scenes[k] for k in rows], **options)
        shown = [(k + 1) % len(self.scenes) if self.arm.image == "other" else k for k in rows]
        if self.maps is not None:
            del batch["images"]
            batch["maps"] = [self.maps[k] for k in shown]
        elif self.arm.image == "other":
            batch["images"] = toy_batch([self.scenes[k] for k in shown])["images"]
        return batch


def held_out(arm: DetectionArm, network: SegUNet | None, many: Sequence[ToyScene]) -> Source:
    """Batches of an arm, of scenes that it has not seen; `network` makes the maps of the branch "cached"."""
    return Source(arm, network, many)


def train_detector(
    arm: DetectionArm,
    seed: int,
    steps: int = _STEPS,
    *,
    pool: int = _POOL,
    seg_steps: int = _SEG_STEPS,
    on_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Train the detector of an arm; scenes and their order are the same in all arms of a seed."""
    network = train_segmentation(seed, seg_steps, pool) if arm.pretrained else None
    torch.manual_seed(seed)
    model = PIRCNN.from_config(arm.variant, **settings(arm))
    if model.image_net is not None and network is not None:
        model.image_net.load_state_dict(network.state_dict())
    source = Source(arm, network, scenes(seed, "train", pool))
    image_lr = 0.1 if arm.pretrained else 1.0
    optimizer = decoupled_adam(parameter_groups(model, _LR, image_lr=image_lr), lr=_LR)  # type: ignore[arg-type]
    schedule = one_cycle_schedule(optimizer, steps)
    rng = np.random.default_rng((seed, 2))
    before = _fusion_weights(model)
    trained = Trained(model)
    model.train()
    for step in range(steps):
        rows = [int(k) for k in rng.choice(len(source.scenes), _BATCH, replace=False)]
        move = arm.moved if rng.random() < 0.5 else "none"
        loss = model(source.batch(rows, move=move))["loss"]
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            trained.gradients = fusion_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
        trained.losses.append(float(loss.detach()))
        on_step(step + 1)
    after = _fusion_weights(model)
    trained.change = {
        k: float((after[k] - before[k]).norm() / before[k].norm().clamp(min=1e-9)) for k in before
    }
    model.eval()
    return trained


def _fusion_weights(model: PIRCNN) -> dict[str, Tensor]:
    if model.fusion is None:
        return {}
    return {name: p.detach().clone() for name, p in model.fusion.named_parameters()}


@torch.no_grad()
def evaluate_detector(
    model: PIRCNN, source: Source, *, blind: bool = False, **options: Any
) -> dict[str, float]:
    """Average precision of cars on held-out scenes, of boxes and of the proposals' classes.

    Args:
        model: trained.
        source: held-out scenes.
        blind: without any image.
        options: of `toy_batch`.
    """
    records, scores, truth, found_objects = [], [], [], np.zeros(2)
    for start in range(0, len(source.scenes), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(source.scenes)))
        batch = source.batch(rows, rng=np.random.default_rng(start), **options)
        if blind:
            batch.pop("images", None)
            batch.pop("maps", None)
        first = model.first_stage(batch["points"], len(rows), batch)
        proposals = model.propose(first)
        outputs = model.second_stage(first, model.refine(first, batch), proposals.boxes[..., :7])
        detections = model.roi_head.detect(outputs, proposals, model.config.post)
        found_objects += np.array(recall(proposals, batch["gt_boxes"]))
        told = outputs.classes.view(len(rows), -1)
        for k, (one, own) in enumerate(zip(detections, batch["scenes"], strict=True)):
            boxes = own.boxes.copy()
            if options.get("move", "none") != "none":
                boxes[:, [1, 6]] *= -1
            cars = boxes[own.is_car].astype(np.float64)
            objects = Objects(("Car",) * len(cars), cars, np.zeros(len(cars), np.int64))
            arrays = {name: value.numpy() for name, value in one.items()}
            records.append(BoxEvaluated(f"{start + k}", objects, arrays))
            used = int(proposals.counts[k])
            overlap = box_iou_3d(proposals.boxes[k, :used, :7].contiguous(), torch.from_numpy(boxes))
            best, which = overlap.max(1)
            kept = best >= 0.3
            scores.append(told[k, :used][kept].numpy())
            truth.append(own.is_car[which[kept].numpy()])
    result: Any = evaluate(records, ("Car",))
    return {
        "car AP": result.ap("Car", "3d", table="loose"),
        "BEV AP": result.ap("Car", "bev", table="loose"),
        "class AP": average_precision(np.concatenate(scores), np.concatenate(truth)),
        "recall, %": float(100 * found_objects[0] / found_objects[1]),
        "objects": float(result.curve("Car", "3d", table="loose").n_gt),
    }


def measure_detection(name: str, seed: int) -> dict[str, float]:
    """One cell of the detection experiment."""
    arm = DETECTION[name]
    trained = train_detector(arm, seed)
    model = trained.model
    network = train_segmentation(seed, _SEG_STEPS, _POOL) if arm.pretrained else None
    source = held_out(arm, network, scenes(seed, "test", _HELD_OUT))
    numbers = evaluate_detector(model, source)
    tenth = max(1, len(trained.losses) // 10)
    numbers |= {
        "first loss": float(np.mean(trained.losses[:tenth])),
        "last loss": float(np.mean(trained.losses[-tenth:])),
        "least gradient": min(trained.gradients.values(), default=0.0),
        "least change": min(trained.change.values(), default=0.0),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    looked = model.image_net if model.image_net is not None else network
    if looked is not None:
        numbers["mIoU, %"] = _iou(looked, source.scenes, looked.num_classes)
    if arm.robust:
        numbers |= _robustness(model, source)
    return numbers


def _robustness(model: PIRCNN, source: Source) -> dict[str, float]:
    """The same detector where the camera is not what it was in training."""
    cases: dict[str, dict[str, Any]] = {
        **{f"AP, turned {turn:g}°": {"turn": turn} for turn in _TURNS},
        **{f"AP, {noise:g} px": {"pixel_noise": noise} for noise in _NOISES},
        "AP, mirrored": {"move": "flip"},
        "AP, mirrored wrongly": {"move": "flip-wrong"},
        "AP, no image": {"blind": True},
    }
    return {name: evaluate_detector(model, source, **case)["car AP"] for name, case in cases.items()}


# ---- points --------------------------------------------------------------------------------------

#: Arm -> neighbours whose image features are averaged.
POINTS: dict[str, int] = {"points-k1": 1, "points-k3": 3, "points-k5": 5, "points-k9": 9}
_POINT_SCENES, _FLIPPED = 60, 0.15


def measure_points(name: str, seed: int) -> dict[str, float]:
    """How well the mean image feature of a point's neighbours tells foreground, by the error of the calibration.

    The image is the true foreground with 15 % of its pixels flipped.
    """
    k = POINTS[name]
    rng = np.random.default_rng((seed, 5))
    numbers: dict[str, float] = {}
    for noise in (0.0, *_NOISES):
        scores, truth = [], []
        for number in range(_POINT_SCENES):
            scene = toy_scene((seed, 4, number))
            batch = toy_batch([scene], pixel_noise=noise, rng=np.random.default_rng((seed, 6, number)))
            seen = (scene.labels > 0) ^ (rng.random(scene.labels.shape) < _FLIPPED)
            told = torch.from_numpy(seen.astype(np.float32))[None, None]
            points = batch["points"][None, :, 1:]
            valid = points[..., 6] == 1
            feature = sample_image_features(told, points[..., 4:6], valid, "nearest")[0, :, 0]
            around = neighbours(points[..., :3], k)[0]
            scores.append(feature[around].mean(1).numpy())
            truth.append(scene.owner >= 0)
        told_scores, positive = np.concatenate(scores), np.concatenate(truth)
        numbers[f"AUC, {noise:g} px"] = roc_auc(told_scores, positive)
        numbers[f"AP, {noise:g} px"] = average_precision(told_scores, positive)
    return numbers
