"""The settings of a detector, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sparsepoint.classes import LABEL_SETS, LabelSet
from tenfold._errors import UserInputError

__all__ = ["PRESETS", "SparsePointConfig", "make_config"]

Size = tuple[float, float, float]


@dataclass(frozen=True)
class SparsePointConfig:
    """Everything that shapes a detector; plain values, so that a checkpoint can carry it.

    Args:
        preset: "sparsepoint" (learned proposals, one foreground embedding), "srdet" (proposals from votes, SRDet) or
            "votenet" (the dense baseline). "tiny" and "tiny_votenet" are small ones of the first and the last.
        class_names: by label.
        mean_sizes: full extents of each class, metres.
        mean_size: scale of size losses and matching cost, metres; by default the mean of ``mean_sizes``.
        heading_bins: 1 for boxes aligned with the axes.
        num_points: points a scene is sampled down (or filled up) to.
        features: columns after x, y, z: 1 for the height above the floor, 4 with colours.
        backbone: "votenet" (641,920 parameters with height) or "tiny".
        width: multiplies the channels of the VoteNet backbone.
        num_proposals: boxes that are refined and returned.
        num_stages: refinements.
        share_stages: all refinements have the same weights.
        dim: channels of proposals and pooled features.
        heads: of the attention.
        ffn: hidden channels of the feed-forward part.
        dropout: of attention and feed-forward part.
        grids: sides of the RoI grids.
        max_points: of an RoI cell.
        roi: "rotated" boxes or their yaw ignored ("aligned").
        feature_source: points that RoIs pool from: "seeds", "votes" or "seeds+votes".
        local_aggregation: a ball query before the pooling MLP.
        interaction: "gate", "dynamic" (Sparse R-CNN's) or "none".
        attention: let proposals see each other.
        pos: "none", or "box" to add an embedding of the boxes to queries and keys.
        box_coder: "relbin" (deltas and heading bins relative to the incoming yaw), "classres" (VoteNet's: size as class
            and residual, heading bins of the scene) or "direct" (log sizes, sine and cosine of the yaw).
        centre_axes: shift centres along the axes of the "scene" or of the box ("local").
        proposals: "learned", "frozen" (as initialised) or "fps" (centres by farthest point sampling).
        foreground: "shared" embedding, or "per_proposal".
        proposal_init: "sobol", "grid" or "scene" (every box is the whole scene).
        cls_prior: initial probability of every class; None starts at one half.
        assignment: "one_to_one" (Hungarian) or "one_to_many" (the ablation).
        match_iou: weight of the IoU in the matching cost.
        iou_loss: "aligned" ignores the yaw, "rotated" and "rotated_giou" (which also pulls boxes apart together) do
            not, "none" leaves the term out.
        corner_loss: whether corners are compared.
        initial_proposals: candidates of SRDet's first head.
        cluster: where VoteNet samples its candidates: "votes", "seeds", or seeds in evaluation alone ("released").
        nms: IoU of the dense baseline's suppression where `VoteNet.predict` is given no other, None for none at all;
            the sparse presets ignore it. Evaluation compares with and without at 0.25 whatever this is.
    """

    preset: str = "sparsepoint"
    class_names: tuple[str, ...] = LABEL_SETS["scannet"].names
    mean_sizes: tuple[Size, ...] = LABEL_SETS["scannet"].sizes
    mean_size: Size | None = None
    heading_bins: int = 1
    num_points: int = 40000
    features: int = 1
    backbone: Literal["votenet", "tiny"] = "votenet"
    width: float = 1.0
    num_proposals: int = 128
    num_stages: int = 6
    share_stages: bool = True
    dim: int = 128
    heads: int = 8
    ffn: int = 2048
    dropout: float = 0.1
    grids: tuple[int, ...] = (1, 3, 5)
    max_points: int = 95
    roi: Literal["rotated", "aligned"] = "rotated"
    feature_source: Literal["seeds", "votes", "seeds+votes"] = "seeds"
    local_aggregation: bool = False
    interaction: Literal["gate", "dynamic", "none"] = "gate"
    attention: bool = True
    pos: Literal["none", "box"] = "none"
    box_coder: Literal["relbin", "classres", "direct"] = "relbin"
    centre_axes: Literal["scene", "local"] = "scene"
    proposals: Literal["learned", "frozen", "fps"] = "learned"
    foreground: Literal["shared", "per_proposal"] = "shared"
    proposal_init: Literal["sobol", "grid", "scene"] = "sobol"
    cls_prior: float | None = 0.01
    assignment: Literal["one_to_one", "one_to_many"] = "one_to_one"
    match_iou: float = 4.0
    iou_loss: Literal["aligned", "rotated", "rotated_giou", "none"] = "aligned"
    corner_loss: bool = True
    initial_proposals: int = 160
    cluster: Literal["votes", "seeds", "released"] = "released"
    nms: float | None = 0.25

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "preset": tuple(PRESETS),
            "backbone": ("votenet", "tiny"),
            "roi": ("rotated", "aligned"),
            "feature_source": ("seeds", "votes", "seeds+votes"),
            "interaction": ("gate", "dynamic", "none"),
            "pos": ("none", "box"),
            "box_coder": ("relbin", "classres", "direct"),
            "centre_axes": ("scene", "local"),
            "proposals": ("learned", "frozen", "fps"),
            "foreground": ("shared", "per_proposal"),
            "proposal_init": ("sobol", "grid", "scene"),
            "assignment": ("one_to_one", "one_to_many"),
            "iou_loss": ("aligned", "rotated", "rotated_giou", "none"),
            "cluster": ("votes", "seeds", "released"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(map(str, allowed))
                raise UserInputError(f"model: {name}: got {getattr(self, name)!r}; expected one of {words}")
        for name in ("num_points", "num_proposals", "num_stages", "dim", "heads", "ffn", "heading_bins"):
            if getattr(self, name) < 1:
                raise UserInputError(f"model: {name}: got {getattr(self, name)}; expected 1 or more")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise UserInputError(f"model: nms: got {self.nms}; expected an IoU from 0 to 1, or none")
        if self.features < 0 or self.dim % self.heads:
            raise UserInputError(
                f"model: features, dim, heads: got {self.features}, {self.dim}, {self.heads}; expected no negative "
                "number, and a dim that the heads divide"
            )
        if not self.class_names or len(self.class_names) != len(self.mean_sizes):
            raise UserInputError(
                f"model: mean_sizes: got {len(self.mean_sizes)} for {len(self.class_names)} classes; expected one for "
                "each of one or more classes"
            )
        if self.preset == "srdet" and self.num_proposals > self.initial_proposals:
            raise UserInputError(
                f"model: num_proposals: got {self.num_proposals}; expected no more than the "
                f"{self.initial_proposals} initial_proposals that they are chosen from"
            )
        if not self.grids or min(self.grids) < 1:
            raise UserInputError(f"model: grids: got {self.grids}; expected one or more positive numbers")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def size_scale(self) -> Size:
        """The size that size losses and matching cost are relative to."""
        return self.mean_size or LabelSet(self.class_names, self.mean_sizes).mean_size

    @property
    def dense(self) -> bool:
        """Whether this is the dense baseline."""
        return self.preset.endswith("votenet")

    @property
    def votes(self) -> bool:
        """Whether the network votes for centres: its training then needs the votes of the scenes."""
        return self.dense or self.preset == "srdet" or self.feature_source != "seeds"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> SparsePointConfig:
        """The inverse of `to_dict`; lists stand for tuples.

        Raises:
            UserInputError: an unknown name, or a value that does not fit.
        """
        known = {f.name for f in fields(cls)}
        for name in document:
            if name not in known:
                raise UserInputError(f"model: {name}: unknown; expected some of {', '.join(sorted(known))}")
        try:
            return cls(**{name: _tuples(value) for name, value in document.items()})
        except TypeError as error:
            raise UserInputError(f"model: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


_TINY: dict[str, Any] = {
    "backbone": "tiny",
    "num_points": 2048,
    "num_proposals": 32,
    "num_stages": 3,
    "dim": 64,
    "heads": 4,
    "ffn": 128,
    "grids": (1, 3),
    "pos": "box",
}

#: Preset -> what differs from the settings' usual values.
PRESETS: dict[str, dict[str, Any]] = {
    "sparsepoint": {},
    "srdet": {"num_stages": 3, "feature_source": "seeds+votes"},
    "votenet": {"num_proposals": 256},
    "tiny": _TINY,
    "tiny_votenet": {**_TINY, "cluster": "votes"},
}


def make_config(
    preset: str = "sparsepoint", labels: str | LabelSet = "scannet", **overrides: Any
) -> SparsePointConfig:
    """The settings of a preset on a data set.

    Args:
        preset: name of a preset.
        labels: name of a data set whose classes are detected, or a `LabelSet`.
        **overrides: settings that differ.

    Raises:
        UserInputError: an unknown preset, data set or setting.

    Example:
        >>> make_config("srdet", "sunrgbd").heading_bins
        12
    """
    if preset not in PRESETS:
        raise UserInputError(f"model: preset: got {preset!r}; expected one of {', '.join(PRESETS)}")
    if isinstance(labels, str) and labels not in LABEL_SETS:
        raise UserInputError(f"model: labels: got {labels!r}; expected one of {', '.join(LABEL_SETS)}")
    found = LABEL_SETS[labels] if isinstance(labels, str) else labels
    own: dict[str, Any] = {
        "preset": preset,
        "class_names": found.names,
        "mean_sizes": found.sizes,
        "heading_bins": found.heading_bins,
        **_of_data_set(labels, preset),
        **PRESETS[preset],
    }
    return SparsePointConfig.from_dict({**own, **overrides})


def _of_data_set(labels: str | LabelSet, preset: str) -> dict[str, Any]:
    """Published settings that go with a data set rather than with a preset."""
    if labels == "scannet":
        return {"mean_size": (0.8798, 0.9072, 0.9679)}
    if labels == "sunrgbd":
        return {"mean_size": (0.8015, 1.1225, 0.8829), "num_points": 20000, "match_iou": 0.0}
    # Rooms of these hold more than a hundred chairs.
    many = {"sparsepoint": {"num_proposals": 256}, "srdet": {"num_proposals": 256, "initial_proposals": 320}}
    return many.get(preset, {}) if labels in ("s3dis", "matterport3d") else {}
