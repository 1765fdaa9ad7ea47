"""Claims of pircnn: image features fused on the points tell the second stage what LiDAR cannot (Xie et al. 2020)."""

from dataclasses import asdict
from typing import Any

from claims.gates import Gate, Means, judge
from claims.model import Claim
from pircnn.experiment import DETECTION, POINTS, measure_detection, measure_points, settings

# None of them was looked at while the experiments were written.
_SEEDS = (101, 102, 103)
_SOURCES = (
    "pircnn.experiment",
    "pircnn.calibration",
    "pircnn.sampling",
    "pircnn.losses",
    "pircnn.model",
    "pircnn.data.toy",
    "pircnn.data.columns",
    "tenfold.lidar.models.two_stage",
    "tenfold.lidar.models.pointrcnn",
    "tenfold.lidar.models.point_heads",
    "tenfold.lidar.models.roi_head",
)
_MAIN = (
    "pointrcnn",
    "pointrcnn+params",
    "pacf",
    "pacf-shuffled",
    "pacf-frozen",
    "pacf-wrong-calibration",
    "paint",
    "cc",
    "cc+pp",
    "cc+aa",
)
_MORE = tuple(name for name in DETECTION if name not in _MAIN)
_ROBUST = (
    "AP, turned 0.5°",
    "AP, turned 1°",
    "AP, turned 2°",
    "AP, 2 px",
    "AP, 6 px",
    "AP, mirrored",
    "AP, mirrored wrongly",
    "AP, no image",
)
_DATASET = "generated scenes, 1,024 points and a picture of 320 x 96 (160 to train on, 60 to evaluate)"
_DETECTION_TEXT = """
Cars and decoys have the same sizes and the same points; only the picture, noisy colours, tells them apart. A tiny
PointRCNN, 300 steps; an image network that was trained on label maps for 80 steps before. "car AP": 3D, overlap 0.5, 40
recall positions, decoys are no cars; "class AP": how well the second stage ranks the proposals on cars above those on
decoys. "pointrcnn": LiDAR alone; "pointrcnn+params": the whole fusion, image features 0; "shuffled": trained and
evaluated with the image of another scene; "frozen": the fusion stays as it was drawn, as in the public release;
"wrong-calibration": scenes are mirrored in half of the steps and the calibration is not; "paint": a linear map of a
point's own image features (PointPainting-like); "cc": continuous convolution alone (ContFuse on points), "+pp" with
point-pooling, "+aa" with attentive aggregation, "pacf" with both. "least gradient" is the smallest norm over the
fusion's tensors in the first step, "least change" the smallest relative change of one over the training. What is
claimed: the image against no image and against the wrong image. What is not: that one way of fusing beats another here;
differences within a few points are seeds.
""".strip()
_MORE_TEXT = """
Neighbourhood sizes, an attention that looks at content, a kernel network without activation (the released one),
painting the raw points, and the three ways to run the image network: "seg-frozen" in the loop without gradient,
"seg-joint" trained on with detector and label maps, "seg-joint+pseg" from scratch and from 3-D boxes alone, without any
label map. "mIoU": of the image network on held-out pictures; that of "pseg" knows background and car alone.
""".strip()
_ROBUST_TEXT = """
"turned": the calibration is off by that angle at test time; "px": each point reads a pixel that is off by that
deviation; "mirrored": scene and calibration are mirrored together, "wrongly": the scene alone; "no image": the camera
has failed.
""".strip()
_POINT_TEXT = """
Point level: does the mean image feature of a point's K nearest neighbours in 3D tell foreground from ground? The image
is the true foreground with 15 % of its pixels flipped, and a point reads a pixel that is off by the given deviation.
No training.
""".strip()


def _config(name: str) -> dict[str, Any]:
    arm = DETECTION[name]
    return {**asdict(arm), "settings": settings(arm)}


CLAIMS = (
    Claim(
        name="points",
        package="pircnn",
        title="What neighbours in 3D add at the points",
        arms=tuple(POINTS),
        seeds=_SEEDS,
        measure=measure_points,
        dataset="generated scenes, 60 a seed",
        sources=("pircnn.experiment", "pircnn.data.toy", "pircnn.sampling", "pircnn.model.pacf"),
        metrics=("AUC, 0 px", "AUC, 2 px", "AUC, 6 px", "AP, 0 px", "AP, 2 px", "AP, 6 px"),
        control="points-k1",
        config=lambda arm: {"k": POINTS[arm]},
        text=_POINT_TEXT,
        digits=3,
    ),
    Claim(
        name="detection",
        package="pircnn",
        title="What the image brings a tiny detector, and its controls",
        arms=_MAIN,
        seeds=_SEEDS,
        measure=measure_detection,
        dataset=_DATASET,
        sources=_SOURCES,
        metrics=("car AP", "class AP", "BEV AP", "recall, %"),
        more=("least gradient", "least change", "parameters", "objects", *_ROBUST),
        control="pointrcnn",
        config=_config,
        text=f"{_DETECTION_TEXT}\n\n{_ROBUST_TEXT}",
        digits=2,
    ),
    Claim(
        name="ablation",
        package="pircnn",
        title="Neighbourhoods, kernels and image branches",
        arms=_MORE,
        seeds=_SEEDS,
        measure=measure_detection,
        dataset=_DATASET,
        sources=_SOURCES,
        metrics=("car AP", "class AP", "BEV AP", "recall, %", "mIoU, %", "parameters"),
        config=_config,
        text=_MORE_TEXT,
        digits=1,
    ),
)


def _ap(found: Means, more: str, less: str) -> float:
    gap: float = found[more]["car AP"] - found[less]["car AP"]
    return gap


def gates() -> list[Gate]:
    """What must hold, from the records there are."""
    wanted: tuple[tuple[str, Any, float], ...] = (
        ("pacf − LiDAR alone: at least 15 AP", lambda m: _ap(m, "pacf", "pointrcnn"), 15.0),
        (
            "pacf − the same with zeros for an image: at least 15 AP",
            lambda m: _ap(m, "pacf", "pointrcnn+params"),
            15.0,
        ),
        ("pacf − another scene's image: at least 15 AP", lambda m: _ap(m, "pacf", "pacf-shuffled"), 15.0),
        (
            "class AP: another scene's image ranks no better than LiDAR alone, at most 5 apart",
            lambda m: -abs(m["pacf-shuffled"]["class AP"] - m["pointrcnn"]["class AP"]),
            -5.0,
        ),
        (
            "pacf, scene mirrored and calibration not: at least 10 AP lost",
            lambda m: m["pacf"]["AP, mirrored"] - m["pacf"]["AP, mirrored wrongly"],
            10.0,
        ),
        (
            "pacf − trained with the wrong calibration in half of the steps: more than 0 AP",
            lambda m: _ap(m, "pacf", "pacf-wrong-calibration"),
            0.0,
        ),
        (
            "class AP: pacf − LiDAR alone at least 15",
            lambda m: m["pacf"]["class AP"] - m["pointrcnn"]["class AP"],
            15.0,
        ),
        ("every fusion tensor has a gradient in step 1", lambda m: m["pacf"]["least gradient"], 1e-9),
        ("every fusion tensor moves", lambda m: m["pacf"]["least change"], 1e-3),
        (
            "frozen fusion does not: no gradient and no change",
            lambda m: -(m["pacf-frozen"]["least gradient"] + m["pacf-frozen"]["least change"]),
            0.0,
        ),
        (
            "points: AUC with 3 neighbours − 1, at every error of the calibration, at least 0.05",
            lambda m: min(
                m["points-k3"][f"AUC, {px} px"] - m["points-k1"][f"AUC, {px} px"] for px in (0, 2, 6)
            ),
            0.05,
        ),
    )
    found = [judge(text, value, least, "pircnn") for text, value, least in wanted]
    found.append(
        judge(
            "car AP: another scene's image and LiDAR alone at most 5 apart",
            lambda m: -abs(_ap(m, "pacf-shuffled", "pointrcnn")),
            -5.0,
            "pircnn",
            pilot=True,
        )
    )
    found.append(
        judge(
            "reported: pacf − paint, AP (nothing is claimed of it)",
            lambda m: _ap(m, "pacf", "paint"),
            0.0,
            "pircnn",
            gates=False,
        )
    )
    return found
