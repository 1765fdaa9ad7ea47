"""Checkpoints: our own, the official ones of 2019, torchvision's residual networks, DarkNet's binary weights.

Every loader names each key that is missing, left over or of another shape: weights that silently stay random
look like bad training.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold._errors import UserInputError
from tenfold.io import convert_state_dict, load_checkpoint, load_strict, save_checkpoint
from ttfnet.model import Backbone, CenterNet, DarkNet53, Detector, ResNet, build_detector

__all__ = [
    "NORMALIZATIONS",
    "ModelInfo",
    "convert_checkpoint",
    "describe",
    "load_backbone",
    "load_detector",
    "read_darknet",
    "save_detector",
]

#: Name -> mean and deviation of the three channels (RGB, 0 to 255).
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}
_FORMAT = 1
Rule = tuple[str, str | None]


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says besides its weights.

    Attributes:
        method: ``"ttfnet"`` or ``"centernet"``.
        settings: the network's arguments.
        class_names: names by label.
        category_ids: ids of the data set by label; 1, 2, 3 ... by default.
        size: height and width of the network's input.
        normalization: ``"imagenet"`` or ``"unit"``, see `NORMALIZATIONS`.
        resize: ``"squash"`` ignores the aspect ratio, as published; ``"letterbox"`` keeps it; ``"original"``
            takes pictures as they are.
        legacy_boxes: the model was trained with inclusive pixel coordinates: 1 is added to x2 and y2.
    """

    method: str
    settings: dict[str, Any]
    class_names: list[str]
    category_ids: list[int] = field(default_factory=list)
    size: tuple[int, int] = (512, 512)
    normalization: str = "imagenet"
    resize: str = "squash"
    legacy_boxes: bool = False

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {"format": _FORMAT, **asdict(self), "size": list(self.size)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], source: str | Path) -> ModelInfo:
        """Inverse of `document`.

        Raises:
            UserInputError: fields are missing, or of a newer version.
        """
        values = {k: v for k, v in document.items() if k != "format"}
        known = set(cls.__dataclass_fields__)
        if (
            document.get("format") != _FORMAT
            or not {"method", "settings", "class_names"} <= set(values) <= known
        ):
            raise UserInputError(f"{source}: ttfnet: written by another version of ttfnet")
        if "size" in values:
            values["size"] = tuple(values["size"])
        return cls(**values)


def describe(model: Detector, class_names: list[str] | None = None, **facts: Any) -> ModelInfo:
    """The facts of a model; class names default to numbers."""
    method = "centernet" if isinstance(model, CenterNet) else "ttfnet"
    names = class_names or [str(k) for k in range(model.num_classes)]
    facts.setdefault("normalization", model.backbone.normalization)
    facts.setdefault("category_ids", list(range(1, len(names) + 1)))
    return ModelInfo(method, model.settings, names, **facts)


def save_detector(path: str | Path, model: Detector, info: ModelInfo) -> None:
    """Write a checkpoint that `load_detector`, ``ttfnet predict`` and ``ttfnet test`` read; atomically.

    Raises:
        UserInputError: the file cannot be written; an older one is untouched.
    """
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_checkpoint(path, {"ttfnet": info.document(), "state_dict": state})


def load_detector(path: str | Path, *, average: bool = True) -> tuple[Detector, ModelInfo]:
    """The network of a checkpoint that `save_detector` or ``ttfnet fit`` has written, in evaluation mode.

    Args:
        path: the file.
        average: take the moving average of the weights where the run kept one.

    Raises:
        UserInputError: missing, damaged, no checkpoint of ours, or weights that do not fit.
    """
    content = load_checkpoint(path)
    if not isinstance(content, dict) or "ttfnet" not in content or "state_dict" not in content:
        hint = "; an official checkpoint is converted with `ttfnet convert`" if _is_official(content) else ""
        raise UserInputError(f"{path}: ttfnet: missing; expected a checkpoint written by `ttfnet fit`{hint}")
    info = ModelInfo.from_document(content["ttfnet"], path)
    try:
        model = build_detector(info.method, **info.settings)
    except (TypeError, ValueError) as error:
        raise UserInputError(f"{path}: ttfnet.settings: {error}") from error
    state = content["state_dict"]
    if average:
        state = _average(content) or state
    prefix = "model."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    load_strict(model, own, source=path)
    return model.eval(), info


def _average(content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    for name, state in content.get("callbacks", {}).items():
        if "EMA" in name and state:
            averaged: dict[str, Tensor] = state["state"]
            return averaged
    return None


def _is_official(content: Any) -> bool:
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return any("bbox_head" in key for key in state)


# ---- backbones -------------------------------------------------------------------------------------


def load_backbone(backbone: Backbone, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load pretrained weights of a backbone: a state dict, a checkpoint file, or DarkNet's ``.weights``.

    The classifier (``fc.*``, ``output.*``, ``classifier.*``) may be there and is left out, and layers that
    predict sampling offsets may start at zero; nothing else may be missing or left over. DarkNet's binary
    weights expect images in 0 to 1 without mean and deviation; this is noted in ``backbone.normalization``,
    which the data pipeline follows. DLA-34's own names are translated.

    Args:
        backbone: receives the weights.
        source: ``.pth``, ``.pt``, ``.safetensors``, ``.weights``, ``.conv.74``, or a state dict.

    Raises:
        UserInputError: unreadable, or keys that do not fit.
    """
    name = "state dict" if isinstance(source, Mapping) else source
    if isinstance(source, (str, Path)) and re.search(r"\.(weights|conv\.\d+)$", str(source)):
        if not isinstance(backbone, DarkNet53):
            raise UserInputError(f"{source}: backbone: DarkNet's weights fit darknet53 only")
        state: Mapping[str, Any] = read_darknet(source, backbone)
        backbone.normalization = "unit"
        print(f"note: {source}: images go in as 0 to 1, without mean and deviation", file=sys.stderr)
    else:
        content = source if isinstance(source, Mapping) else load_checkpoint(source)
        state = _backbone_state(content, name)
    if isinstance(backbone, ResNet) and not any(k.startswith(("conv1", "layer1")) for k in state):
        raise UserInputError(f"{name}: conv1.weight: missing; expected the weights of a residual network")
    load_strict(
        backbone,
        state,
        allow_missing=(r".*num_batches_tracked", r".*\.offset_mask\..*"),
        allow_unexpected=(r"(fc|output|classifier)\..*",),
        source=str(name),
    )


def _backbone_state(content: Any, source: object) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserInputError(
            f"{source}: state_dict: got no named tensors; expected the weights of a backbone"
        )
    state = {k.removeprefix("module."): v for k, v in state.items()}
    for prefix in ("model.backbone.", "backbone."):
        if any(k.startswith(prefix) for k in state):  # a whole detector
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if any(k.startswith("base_layer.") for k in state):
        return _converted(state, _dla_rules("", ""), source)
    return dict(state)


def _converted(state: Mapping[str, Any], rules: Iterable[Rule], source: object) -> dict[str, Any]:
    try:
        return convert_state_dict(state, rules)
    except ValueError as error:
        raise UserInputError(f"{source}: {error}") from error


def _dla_rules(theirs: str, ours: str) -> list[Rule]:
    """Names of DLA-34 by its authors, below a prefix each."""
    return [
        (rf"{theirs}base_layer\.(.*)", rf"{ours}base.\1"),
        (rf"{theirs}level[34]\.project\..*", None),  # their code makes these and uses them nowhere
        (rf"{theirs}(level\d\..*)", rf"{ours}\1"),
    ]


def read_darknet(path: str | Path, backbone: DarkNet53) -> dict[str, Tensor]:
    """State dict for ``backbone`` from DarkNet's binary file.

    The file holds int32 major, minor, revision, the number of images seen (int64 from version 0.2 on), then
    float32 values, for each convolution: BatchNorm shift, scale, mean, variance, kernel. What follows the
    last convolution (the classifier) is left out.

    Raises:
        UserInputError: unreadable, or too short.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserInputError(f"{path}: file: cannot be read ({error.strerror or error})") from error
    if len(data) < 20:
        raise UserInputError(f"{path}: header: got {len(data)} bytes; expected DarkNet's weights")
    major, minor, _ = np.frombuffer(data, "<i4", 3)
    start = 20 if 10 * major + minor >= 2 else 16
    values = np.frombuffer(data[start : start + (len(data) - start) // 4 * 4], "<f4")
    state: dict[str, Tensor] = {}
    place = 0
    for name, module in backbone.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        norm = name.removesuffix("conv") + "bn"
        width = module.out_channels
        parts = [(f"{norm}.{p}", (width,)) for p in ("bias", "weight", "running_mean", "running_var")]
        for key, shape in [*parts, (f"{name}.weight", tuple(module.weight.shape))]:
            count = int(np.prod(shape))
            if place + count > len(values):
                raise UserInputError(f"{path}: {key}: the file ends after {len(values):,} values")
            state[key] = torch.from_numpy(values[place : place + count].copy()).view(shape)
            place += count
    return state


# ---- official detectors ----------------------------------------------------------------------------

_RULES: tuple[Rule, ...] = (
    (r"bbox_head\.deconv_layers\.(\d)\.0\.conv_offset_mask\.(.*)", r"neck.convs.\1.offset_mask.\2"),
    (r"bbox_head\.deconv_layers\.(\d)\.0\.(.*)", r"neck.convs.\1.\2"),
    (r"bbox_head\.deconv_layers\.(\d)\.1\.(.*)", r"neck.norms.\1.\2"),
    (r"bbox_head\.shortcut_layers\.(\d)\.layers\.(.*)", r"neck.shortcuts.\1.\2"),
)
_CLASS_NAMES_80 = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign "
    "parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie "
    "suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard "
    "tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot "
    "hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard "
    "cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
# Ids that COCO's 80 categories leave out of 1 to 90.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def coco_categories() -> tuple[list[str], list[int]]:
    """Names and ids of COCO's 80 categories, by ascending id."""
    names = [name.replace("_", " ") for name in _CLASS_NAMES_80.split()]
    return names, [k for k in range(1, 91) if k not in _COCO_GAPS]


def convert_checkpoint(source: str | Path | Mapping[str, Any]) -> tuple[Detector, ModelInfo]:
    """The network of an official TTFNet checkpoint (ResNet-18 and 34, DarkNet-53, DLA-34), in evaluation mode.

    Backbone, depth of the heads and number of classes follow from the keys; every key must find its place.

    Args:
        source: ``.pth`` file, or its content.

    Returns:
        The model, and its facts with ``legacy_boxes`` set; `save_detector` writes both.

    Raises:
        UserInputError: no such checkpoint, or a key that is missing, left over or of another shape.
    """
    name = "checkpoint" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else load_checkpoint(source)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not _is_official(state):
        raise UserInputError(f"{name}: bbox_head: no such keys; expected an official TTFNet checkpoint")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    layers = (_hidden(state, "hm", name), _hidden(state, "wh", name))
    last = f"bbox_head.hm.{layers[0]}.weight"
    if last not in state:
        raise UserInputError(f"{name}: {last}: missing")
    settings = {"backbone": _backbone_name(state), "num_classes": len(state[last]), "head_layers": layers}
    model = build_detector("ttfnet", **settings)
    body = _dla_detector_rules() if settings["backbone"] == "dla34" else _RULES
    heads = (*_head_rules("hm", layers[0]), *_head_rules("wh", layers[1]))
    ours = _converted(state, (*body, *heads), name)
    load_strict(model, ours, allow_missing=(r".*num_batches_tracked",), source=name)
    classes, ids = coco_categories()
    facts: dict[str, Any] = {"legacy_boxes": True}
    if model.num_classes == len(classes):
        facts["category_ids"] = ids
    names = classes if model.num_classes == len(classes) else None
    return model.eval(), describe(model, names, **facts)


def _backbone_name(state: Mapping[str, Any]) -> str:
    if "backbone.stem.conv.weight" in state:
        return "darknet53"
    if "backbone.base.base_layer.0.weight" in state:
        return "dla34"
    return "resnet34" if "backbone.layer1.2.conv1.weight" in state else "resnet18"


def _hidden(state: Mapping[str, Any], branch: str, source: str) -> int:
    found = [k for k in state if re.fullmatch(rf"bbox_head\.{branch}\.\d+\.conv\.weight", k)]
    if not found:
        raise UserInputError(f"{source}: bbox_head.{branch}.0.conv.weight: missing")
    return len(found)


def _dla_detector_rules() -> list[Rule]:
    """Backbone and aggregation of the official DLA-34; its layers are counted from 1."""
    rules = _dla_rules(r"backbone\.base\.", "backbone.")
    places = [(rf"dla_up\.ida_{k}", f"neck.steps.{k}", k + 1) for k in range(3)]
    for theirs, ours, count in (*places, ("ida_up", "neck.final", 2)):
        for k in range(count):
            for name, own in (("proj", "project"), ("node", "node")):
                unit, target = rf"backbone\.{theirs}\.{name}_{k + 1}", f"{ours}.{own}.{k}"
                rules += [
                    (rf"{unit}\.conv\.conv_offset_mask\.(.*)", rf"{target}.0.offset_mask.\1"),
                    (rf"{unit}\.conv\.(.*)", rf"{target}.0.\1"),
                    (rf"{unit}\.actf\.0\.(.*)", rf"{target}.1.\1"),
                ]
            rules.append((rf"backbone\.{theirs}\.up_{k + 1}\.(.*)", rf"{ours}.up.{k}.\1"))
    return rules


def _head_rules(branch: str, layers: int) -> list[Rule]:
    """Hidden convolution k is our layer 2 k, the last one our layer 2 n (ReLUs lie between)."""
    ours = {"hm": "heatmap", "wh": "distances"}[branch]
    rules: list[Rule] = [
        (rf"bbox_head\.{branch}\.{k}\.conv\.(.*)", rf"head.{ours}.{2 * k}.\1") for k in range(layers)
    ]
    return [*rules, (rf"bbox_head\.{branch}\.{layers}\.(weight|bias)", rf"head.{ours}.{2 * layers}.\1")]
