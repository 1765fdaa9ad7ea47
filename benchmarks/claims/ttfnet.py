"""Claims of ttfnet: many weighted regression samples per object permit a larger learning rate (AAAI 2020)."""

from dataclasses import asdict

from claims.model import Claim
from ttfnet.experiment import ARMS, measure

_DATASET = "generated rectangles, ellipses and triangles, 96 x 96 (400 to train on, 150 to evaluate)"
_SOURCES = (
    "ttfnet.experiment",
    "ttfnet.targets",
    "ttfnet.losses",
    "ttfnet.decoding",
    "ttfnet.recipe",
    "ttfnet.model",
    "ttfnet.data.shapes",
    "ttfnet.data.transforms",
    "ttfnet.evaluation",
)
_TEXT = """
"many" is the paper's method with beta 0.54, "one" the same network with one regression pixel per object,
"centernet" that network with CenterNet's losses, "equal-weights" the paper's method with all sample weights 1;
"small" arms have objects of 10 to 56 pixels instead of 20 to 80. Controls: with the boxes of another picture
("shuffled") nothing may be learnt; weights times 1000 ("scaled-weights") must not matter; the labels themselves
score 100 ("oracle"), and so, nearly, do decoded targets. AP is COCO's over 150 unseen pictures, times 100.
The paper's own figures are those of full COCO and are not comparable with these.
""".strip()

CLAIMS = (
    Claim(
        name="learning-rate",
        package="ttfnet",
        title="More regression samples per object permit a larger learning rate",
        arms=(*ARMS, "oracle"),
        seeds=(0, 1, 2),
        measure=measure,
        dataset=_DATASET,
        sources=_SOURCES,
        metrics=("AP", "AP50", "AP75"),
        control="many-lr0.01",
        config=lambda arm: {} if arm == "oracle" else asdict(ARMS[arm]),
        text=_TEXT,
        digits=1,
    ),
)
