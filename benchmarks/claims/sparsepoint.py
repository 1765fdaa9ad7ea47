"""Claims of sparsepoint: sparse proposals trained one-to-one need no suppression (arXiv 2103.10042)."""

from typing import Any

from claims.gates import Gate, Means, judge
from claims.model import Claim
from sparsepoint.experiment import ARMS, CANDIDATES, measure

# Seed 0 is the pilot's and that of the weights in the package.
_SEEDS = (1, 2, 3)
_SOURCES = (
    *("sparsepoint.models", "sparsepoint.losses", "sparsepoint.matching", "sparsepoint.coders"),
    *("sparsepoint.config", "sparsepoint.targets", "sparsepoint.postprocess", "sparsepoint.evaluation"),
    *("sparsepoint.data.rooms", "sparsepoint.data.scenes", "sparsepoint.experiment"),
    *("tenfold.pointnet", "tenfold.eval.voc3d"),
)
_TEXT = """
Generated rooms with three to seven pieces of furniture of four classes, most with a class that stands several times;
a tiny network (280,236 parameters; the dense one 131,902), 2,000 steps of eight rooms, 200 other rooms to evaluate.
Arms of a seed see the same rooms. "mAP" is without suppression, "delta NMS" what class-wise suppression at a volume
IoU of 0.25 adds: near 0 for a detector that finds every object once. "duplicates": further detections of an object
that is found already, at the score of 90 % of the recall. "one-to-many": every proposal near an object learns it;
"dense-votenet": the dense baseline, whose own suppression is ranked by objectness, trained with 32 candidates and
evaluated with 32, 64 and 128 (no weight depends on their number; VoteNet's share of one for four seeds is 64 here, and
32, sampled far apart, are suppressed before they are made, and miss objects); "no-position": attention without
the boxes' positions, as the published code has it; "frozen-proposals": the learned boxes stay as they start.
""".strip()
_CONTROLS_TEXT = """
Controls of the same cells: "swapped clouds", detections of another room against this room's objects; "untrained",
random weights; "prior", the learned boxes as they are (0 for the dense arm, which has none); "permuted classes", the
objects' classes renamed; "same-class pairs", pairs of detections of a class with an IoU above 0.5 in a room, which
hidden suppression would have removed; "re-read", 1 where the network, written and read again, finds exactly the same.
""".strip()
_STAGES = tuple(
    f"{name} stage {stage}" for name in ("mAP@0.25", "mAP@0.5", "delta NMS@0.25") for stage in (1, 2, 3)
)
_CANDIDATES = tuple(
    f"{name}, {number} candidates"
    for number in CANDIDATES
    for name in ("mAP@0.25", "delta NMS@0.25", "duplicates", "mAR@0.25")
)
_FEW = 1e-9  # more than nothing

CLAIMS = (
    Claim(
        name="suppression",
        package="sparsepoint",
        title="Who needs suppression?",
        arms=tuple(ARMS),
        seeds=_SEEDS,
        measure=measure,
        dataset="generated rooms, 2,048 points (16,000 to train on, 200 to evaluate)",
        sources=_SOURCES,
        metrics=(
            "mAP@0.25",
            "mAP@0.5",
            "delta NMS@0.25",
            "delta NMS@0.5",
            "duplicates",
            "mAR@0.25",
            "detections",
        ),
        more=(
            *("swapped clouds", "untrained", "prior", "permuted classes", "same-class pairs", "re-read"),
            *("mAP@0.25 with NMS", "mAP@0.5 with NMS", "last loss", "ms", "ms with NMS"),
            *(*_STAGES, *_CANDIDATES),
        ),
        control="dense-votenet",
        config=lambda arm: ARMS[arm].to_dict(),
        text=f"{_TEXT}\n\n{_CONTROLS_TEXT}",
        digits=3,
    ),
)


def gates() -> list[Gate]:
    """What must hold, from the records there are; the bounds are estimates of the design until seeds are recorded."""
    sparse, dense, many, alone, frozen = (
        *("sparse", "dense-votenet", "sparse-one-to-many"),
        *("sparse-no-attention", "sparse-frozen-proposals"),
    )
    own_share = f"{CANDIDATES[0]} candidates"  # VoteNet's of the seeds

    def delta(arm: str) -> Any:
        return lambda m: m[arm]["delta NMS@0.25"]

    def at(m: Means, arm: str, name: str = "mAP@0.25") -> float:
        value: float = m[arm][name]
        return value

    def worst(m: Means, name: str, arms: Any = ARMS) -> float:
        return max(at(m, arm, name) for arm in arms)

    sparse_arms = [arm for arm in ARMS if arm != dense]  # the dense one has no learned boxes
    wanted: tuple[tuple[str, Any, float], ...] = (
        ("sparse: mAP@0.25 at least 0.55 without suppression", lambda m: at(m, sparse), 0.55),
        ("sparse: suppression changes mAP@0.25 by at most 0.02", lambda m: -abs(delta(sparse)(m)), -0.02),
        ("dense, 32 candidates: suppression adds at least 0.10 mAP@0.25", delta(dense), 0.10),
        (
            f"dense, {own_share}: suppression adds at least 0.10 mAP@0.25",
            lambda m: at(m, dense, f"delta NMS@0.25, {own_share}"),
            0.10,
        ),
        (
            "sparse − dense, 32 candidates, both without suppression, more than 0",
            lambda m: at(m, sparse) - at(m, dense),
            _FEW,
        ),
        (
            f"sparse − dense, {own_share}, both without suppression, more than 0",
            lambda m: at(m, sparse) - at(m, dense, f"mAP@0.25, {own_share}"),
            _FEW,
        ),
        ("one-to-many: suppression adds at least 0.08 mAP@0.25", delta(many), 0.08),
        (
            "one-to-many − sparse, what suppression adds to mAP@0.25, more than 0",
            lambda m: delta(many)(m) - delta(sparse)(m),
            _FEW,
        ),
        (
            "no attention: duplicates at least 1.5 times those of sparse",
            lambda m: at(m, alone, "duplicates") - 1.5 * at(m, sparse, "duplicates"),
            0.0,
        ),
        ("sparse − no attention, mAP@0.25, more than 0", lambda m: at(m, sparse) - at(m, alone), _FEW),
        (
            "sparse: the third stage at least 0.05 mAP@0.5 above the first",
            lambda m: at(m, sparse, "mAP@0.5 stage 3") - at(m, sparse, "mAP@0.5 stage 1"),
            0.05,
        ),
        (
            "sparse − frozen proposals, mAP@0.5, more than 0",
            lambda m: at(m, sparse, "mAP@0.5") - at(m, frozen, "mAP@0.5"),
            _FEW,
        ),
        (
            "control, every arm, swapped clouds: mAP@0.25 below 0.10",
            lambda m: -worst(m, "swapped clouds"),
            -0.10,
        ),
        ("control, every arm, untrained: below 0.03", lambda m: -worst(m, "untrained"), -0.03),
        (
            "control, every sparse arm, learned boxes alone: below 0.10",
            lambda m: -worst(m, "prior", sparse_arms),
            -0.10,
        ),
        (
            "control, one-to-many returns pairs that suppression would remove",
            lambda m: at(m, many, "same-class pairs"),
            0.01,
        ),
        (
            "control, every arm, permuted classes: at most half of the mAP@0.25",
            lambda m: min(at(m, arm) / 2 - at(m, arm, "permuted classes") for arm in ARMS),
            0.0,
        ),
        (
            "control, every arm, written and read again: the same table",
            lambda m: min(at(m, arm, "re-read") for arm in ARMS),
            1.0,
        ),
    )
    found = [judge(text, value, least, "sparsepoint", pilot=True) for text, value, least in wanted]
    # No bound: that a position in the attention changes nothing would be a finding too.
    position = judge(
        "sparse − no position in the attention, mAP@0.25",
        lambda m: at(m, sparse) - at(m, "sparse-no-position"),
        0.0,
        "sparsepoint",
        gates=False,
    )
    return [*found, position]
