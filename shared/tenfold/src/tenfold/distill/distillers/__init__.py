"""Fourteen distillation losses behind one interface.

`build` makes any of them for the tap shapes of a student and a teacher; the loss is
``distiller.loss(student_outputs, teacher_outputs, labels, index)``. Weights, taps and extra layers are those of
the comparison of Tian et al. 2020, so that tables can be compared.

| name | what is compared | weight |
|---|---|---|
| kd, dkd | class scores | 0.9, 1 |
| fitnet, at, vid, nst | maps | 100, 1000, 1, 50 |
| sp, cc, rkd, pkt | relations between images | 3000, 0.02, 1, 30000 |
| ab, ft, fsp | maps, with an initial stage | 1, 200, 50 |
| crd | embeddings, with memory banks | 0.8 |
"""

from collections.abc import Sequence
from typing import Any

from tenfold._errors import UserInputError
from tenfold.distill.distillers._base import Distiller, InitStage, Outputs, Shape
from tenfold.distill.distillers.crd import CRD
from tenfold.distill.distillers.logits import DKD, KD, dkd_loss, kd_loss
from tenfold.distill.distillers.maps import AT, NST, VID, FitNet
from tenfold.distill.distillers.relations import CC, PKT, RKD, SP
from tenfold.distill.distillers.staged import AB, FSP, FT
from tenfold.train.cli import nearest

__all__ = [
    "AB",
    "AT",
    "CC",
    "CRD",
    "DISTILLERS",
    "DKD",
    "FSP",
    "FT",
    "KD",
    "NST",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "Distiller",
    "FitNet",
    "InitStage",
    "Outputs",
    "build",
    "dkd_loss",
    "kd_loss",
]

#: Name -> class.
DISTILLERS: dict[str, type[Distiller]] = {
    "kd": KD,
    "fitnet": FitNet,
    "at": AT,
    "sp": SP,
    "cc": CC,
    "vid": VID,
    "rkd": RKD,
    "pkt": PKT,
    "ab": AB,
    "ft": FT,
    "fsp": FSP,
    "nst": NST,
    "crd": CRD,
    "dkd": DKD,
}


def build(
    name: str,
    s_shapes: Sequence[Shape] = (),
    t_shapes: Sequence[Shape] = (),
    *,
    labels: Any = None,
    **options: Any,
) -> Distiller:
    """A distiller for networks with these taps.

    Args:
        name: a key of `DISTILLERS`.
        s_shapes: shapes of the student's taps without the batch axis, from `tap_shapes`.
        t_shapes: shapes of the teacher's taps.
        labels: ``(n,)`` classes of the training set; `CRD` needs them.
        **options: of the distiller.

    Raises:
        UserInputError: an unknown name or option, or taps that the distiller cannot compare.

    >>> shapes = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)]
    >>> build("fitnet", shapes, shapes).weight
    100.0
    """
    if name not in DISTILLERS:
        known = list(DISTILLERS)
        raise UserInputError(
            f"distiller: got {name!r}{nearest(name, known)}; expected one of {', '.join(known)}"
        )
    if name == "crd":
        if labels is None:
            raise UserInputError("distiller: crd: labels: missing; expected the classes of the training set")
        options["labels"] = labels
    try:
        return DISTILLERS[name](s_shapes, t_shapes, **options)  # type: ignore[call-arg, arg-type]
    except (TypeError, ValueError) as error:
        raise UserInputError(f"distiller: {name}: {error}") from error
