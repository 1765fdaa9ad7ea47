"""Speed of ttfnet: latency beside torchvision's detectors, ONNX beside eager, training, targets, data, evaluation."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import deform_conv2d

from kernels.model import Call, Case, Goal, Peer, Row, bit_equal, within
from speed.common import another_network
from ttfnet.assign import assign_targets
from ttfnet.checkpoint import describe
from ttfnet.data import CocoDataset, Pipeline, read_annotations
from ttfnet.data.shapes import draw_scene, write_shapes
from ttfnet.evaluation import evaluate
from ttfnet.export import Graph, export_detector
from ttfnet.model import CenterNet, TTFNet, use_standard_operators
from ttfnet.model.deform import deform_conv2d_decomposed
from ttfnet.predict import Predictor
from ttfnet.recipe import sgd
from ttfnet.runtime import onnx_runner
from ttfnet.targets import TargetOptions, ttf_targets, ttf_targets_loop

_SIZE = 512
_FOLDER = Path(tempfile.gettempdir()) / "ttfnet-speed"


def _network(backbone: str, neck_op: str, layout: torch.memory_format = torch.contiguous_format) -> TTFNet:
    torch.manual_seed(0)
    model = TTFNet(backbone, 80, neck_op=neck_op, wh_bias_init=1.0)
    # Scores far enough apart for a comparison row by row; the work is the same.
    torch.nn.init.normal_(model.head.heatmap[-1].weight, std=1.0)
    use_standard_operators(model)  # as `ttfnet.load` does on a CPU
    return model.eval().to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def _image(scale: float, dtype: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    return Case(
        _SIZE,
        f"one image, {_SIZE} x {_SIZE}",
        {"images": torch.randn(1, 3, _SIZE, _SIZE, generator=generator)},
    )


def _graph(graph: Graph, images: torch.Tensor) -> Call:
    @torch.inference_mode()
    def call() -> Any:
        return graph(images)

    return call


def _best_layout(backbone: str, neck_op: str, images: torch.Tensor) -> Call:
    """Eager, in the faster of the two memory layouts (by one run each, after one to warm up)."""
    import time

    calls = []
    for layout in (torch.contiguous_format, torch.channels_last):
        graph = Graph(_network(backbone, neck_op, layout)).eval()
        call = _graph(graph, images.contiguous(memory_format=layout))
        call()
        start = time.process_time()
        call()
        calls.append((time.process_time() - start, call))
    return min(calls, key=lambda pair: pair[0])[1]


def _eager(backbone: str, neck_op: str = "dcnv2") -> Callable[[Case], Call]:
    return lambda case: _best_layout(backbone, neck_op, case["images"])


def _arrays(raw: Any, case: Case) -> Any:
    """Scores: rows of nearly equal ones may change places, their sorted values may not."""
    return (raw[1].numpy(),)


# ---- torchvision's detectors -----------------------------------------------------------------------


def _torchvision(build: Callable[[], Any]) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        torch.manual_seed(0)
        model = build().eval()
        images = [case["images"][0].sigmoid()]

        @torch.inference_mode()
        def call() -> Any:
            return model(images)

        return call

    return make


def _ssdlite() -> Any:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=81)
    mean = [0.5, 0.5, 0.5]
    model.transform = GeneralizedRCNNTransform(_SIZE, _SIZE, mean, mean, fixed_size=(_SIZE, _SIZE))
    return model


def _with_pyramid(name: str) -> Callable[[], Any]:
    def build() -> Any:
        from torchvision.models import detection
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        backbone = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, trainable_layers=5, returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )  # fmt: skip
        return getattr(detection, name)(backbone, num_classes=81, min_size=_SIZE, max_size=_SIZE)

    return build


_OTHERS = tuple(
    Peer(
        name,
        "torchvision",
        "torchvision",
        _torchvision(build),
        same=False,
        note="random weights, the same input size; another network, its own post-processing included",
    )
    for name, build in (
        ("SSDLite, MobileNetV3-Large", _ssdlite),
        ("FCOS, ResNet-18-FPN", _with_pyramid("FCOS")),
        ("RetinaNet, ResNet-18-FPN", _with_pyramid("RetinaNet")),
    )
)


def _latency(backbone: str, neck_op: str, peers: tuple[Peer, ...]) -> Row:
    neck = "" if neck_op == "dcnv2" else ", plain neck"
    return Row(
        key=f"ttfnet-{backbone}-{neck_op}",
        op="predict",
        title=f"TTFNet {backbone}{neck}, model and decoding, 512 x 512",
        make=_image,
        ours=_eager(backbone, neck_op),
        agree=another_network,
        peers=peers,
        growth=False,
        quick=backbone == "resnet18" and neck_op == "dcnv2",
    )


# ---- ONNX beside eager -----------------------------------------------------------------------------


@cache
def _exported(backbone: str, neck_op: str, dcn: str) -> Path:
    _FOLDER.mkdir(exist_ok=True)
    path = _FOLDER / f"{backbone}-{neck_op}-{dcn}.onnx"
    model = _network(backbone, neck_op)
    export_detector(model, describe(model, size=(_SIZE, _SIZE)), path, dcn=dcn)
    return path


def _runtime(backbone: str, neck_op: str, dcn: str) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        run = onnx_runner(_exported(backbone, neck_op, dcn), threads=torch.get_num_threads())[1]
        return lambda: run(case["images"])

    return make


_ONNX_REASON = (
    "nearly all the time goes into the same dense convolutions (18.6 GMAC an image for ResNet-18), and the runtime's "
    "are about as fast as PyTorch's: without deformable convolution the two take the same time; on a CPU, eager "
    "networks moreover compute the deformable ones in the faster of two forms"
)


def _onnx(backbone: str, neck_op: str, dcn: str) -> Row:
    form = {"dcnv2": f"DeformConv {dcn}", "conv": "plain neck"}[neck_op]
    return Row(
        key=f"ttfnet-onnx-{backbone}-{neck_op}-{dcn}",
        op="onnx",
        title=f"onnxruntime, {backbone}, {form}, 512 x 512",
        make=_image,
        ours=_runtime(backbone, neck_op, dcn),
        normal=_arrays,
        agree=within(1e-4),
        peers=(
            Peer(
                "PyTorch eager",
                "torch",
                "torch",
                _eager(backbone, neck_op),
                normal=_arrays,
                note="the same network in inference mode, the better of NCHW and channels_last",
            ),
        ),
        goal=Goal("ratio", 1.5),
        growth=False,
        reason=_ONNX_REASON,
    )


# ---- end to end, training step, targets ------------------------------------------------------------


def _picture(scale: float, dtype: str) -> Case:
    pixels = draw_scene(np.random.default_rng(0), 640)[0][:480]
    return Case(_SIZE, "one picture, 640 x 480", {"pixels": np.ascontiguousarray(pixels)})


def _end_to_end(backbone: str) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        model = _network(backbone, "dcnv2")
        predictor = Predictor(describe(model), lambda images: model.decode(model(images)), model)
        return lambda: predictor.predict_images([case["pixels"]])

    return make


def _torchvision_pixels(case: Case) -> Call:
    torch.manual_seed(0)
    model = _ssdlite().eval()

    @torch.inference_mode()
    def call() -> Any:
        return model([torch.from_numpy(case["pixels"]).permute(2, 0, 1).float() / 255])

    return call


_SSDLITE_PIXELS = Peer(
    "SSDLite, MobileNetV3-Large",
    "torchvision",
    "torchvision",
    _torchvision_pixels,
    same=False,
    note="resized to 512 x 512 in the network; random weights",
)


def _whole(backbone: str, peers: tuple[Peer, ...]) -> Row:
    return Row(
        key=f"ttfnet-end-to-end-{backbone}",
        op="predict",
        title=f"TTFNet {backbone}, picture in memory to boxes",
        make=_picture,
        ours=_end_to_end(backbone),
        agree=another_network,
        peers=peers,
        growth=False,
    )


def _boxes(images: int, each: int, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    rng = np.random.default_rng(seed)
    boxes, labels = [], []
    for _ in range(images):
        low = rng.uniform(0, 0.8 * _SIZE, (each, 2))
        high = np.minimum(low + rng.uniform(8, 0.5 * _SIZE, (each, 2)), _SIZE)
        boxes.append(torch.from_numpy(np.concatenate([low, high], 1).astype(np.float32)))
        labels.append(torch.from_numpy(rng.integers(0, 80, each)))
    return boxes, labels


def _step_case(scale: float, dtype: str) -> Case:
    boxes, labels = _boxes(2, 7)
    images = torch.randn(2, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(0))
    return Case(
        2, "two images, 512 x 512, 7 boxes each", {"images": images, "boxes": boxes, "labels": labels}
    )


def _training(build: Callable[[], Any], standard: bool = True) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        torch.manual_seed(0)
        model = build().train()
        use_standard_operators(model, standard)  # as `ttfnet fit` does on a CPU
        optimizer = sgd(model, 1e-4)

        def call() -> float:
            loss = model.loss(model(case["images"]), case["boxes"], case["labels"])["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return call

    return make


def _ttfnet_step(case: Case) -> Call:
    return _training(lambda: TTFNet("resnet18", 80))(case)


def _target_case(each: int) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        boxes, labels = _boxes(16, each)
        return Case(each, f"16 images, 512 x 512, {each} boxes each", {"boxes": boxes, "labels": labels})

    return make


def _assign(case: Case) -> Call:
    options = TargetOptions()
    return lambda: assign_targets(case["boxes"], case["labels"], (_SIZE, _SIZE), 80, options)


def _batched(case: Case) -> Call:
    return lambda: ttf_targets(case["boxes"], case["labels"], (_SIZE, _SIZE), 80)


def _loop(case: Case) -> Call:
    def call() -> Any:
        pairs = zip(case["boxes"], case["labels"], strict=True)
        parts = [ttf_targets_loop(b, c, (_SIZE, _SIZE), 80) for b, c in pairs]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    return call


def _maps(raw: Any, case: Case) -> Any:
    return tuple(part.numpy() for part in raw)


def _targets(each: int) -> Row:
    return Row(
        key=f"ttfnet-targets-{each}",
        op="ttf_targets",
        title=f"targets of 16 images, {each} boxes each",
        make=_target_case(each),
        ours=_assign,
        normal=_maps,
        agree=bit_equal,
        peers=(
            Peer("batched torch", "torch", "torch", _batched, normal=_maps, note="ttfnet.ttf_targets"),
            Peer("loop over boxes", "torch", "torch", _loop, normal=_maps, note="the definition"),
        ),
        growth=False,
        quick=each == 10,
    )


def _targets_of_sixteen(case: Case) -> Call:
    return _assign(_target_case(7)(1.0, "float32"))


def _loop_of_sixteen(case: Case) -> Any:
    return _maps(_loop(_target_case(7)(1.0, "float32"))(), case)


# ---- deformable convolution, loader, evaluation ----------------------------------------------------


def _deform_case(scale: float, dtype: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 128, 64, 64)
    parts = {
        "x": torch.randn(shape, generator=generator),
        "offset": torch.randn(1, 18, 64, 64, generator=generator),
        "weight": torch.randn(64, 128, 3, 3, generator=generator) / 34,
        "bias": torch.zeros(64),
        "mask": torch.rand(1, 9, 64, 64, generator=generator),
    }
    return Case(64, "128 to 64 channels, 64 x 64: the last one of the neck at 512 x 512", parts)


def _native(x: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> Any:
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def _deforming(function: Callable[..., Any], backward: bool) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        inputs = [part.clone().requires_grad_(backward) for part in case.data.values()]

        def call() -> Any:
            out = function(*inputs)
            return torch.autograd.grad(out.sum(), inputs) if backward else (out,)

        return call

    return make


def _deformable(backward: bool) -> Row:
    return Row(
        key=f"ttfnet-deform-{'backward' if backward else 'forward'}",
        op="deform_conv2d",
        title=f"deformable convolution, {'forward and backward' if backward else 'forward'}",
        make=_deform_case,
        ours=_deforming(_native, backward),
        normal=lambda raw, case: tuple(part.detach().numpy() for part in raw),
        agree=within(2e-3),
        peers=(
            Peer(
                "nine grid_sample calls",
                "torch",
                "torch",
                _deforming(deform_conv2d_decomposed, backward),
                normal=lambda raw, case: tuple(part.detach().numpy() for part in raw),
                note="the standard operators of the decomposed export; ours is torchvision's operator",
            ),
        ),
        growth=False,
    )


@cache
def _generated(split: str, images: int, size: int) -> Path:
    root = _FOLDER / f"{split}-{images}-{size}"
    if not (root / "annotations").is_dir():
        write_shapes(root, {split: images}, seed=0, size=size)
    return root


def _loading(augment: str) -> Row:
    def ours(case: Case) -> Call:
        root = _generated("train", 16, 480)
        data = CocoDataset(root, "train", Pipeline((_SIZE, _SIZE), augment), train=True)  # type: ignore[arg-type]
        return lambda: [data[k] for k in range(16)]

    return Row(
        key=f"ttfnet-loader-{augment}",
        op="data",
        title=f"loading 16 images, {augment} augmentation",
        make=lambda scale, dtype: Case(16, "16 PNG files of 480 x 480 to 512 x 512", {}),
        ours=ours,
        agree=another_network,
        growth=False,
    )


def _results_case(scale: float, dtype: str) -> Case:
    """Labels and detections of a validation set's size: 7 objects and 14 detections an image."""
    rng = np.random.default_rng(0)
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 640, "height": 480} for k in range(1, 5001)]
    classes = [{"id": k, "name": str(k)} for k in range(1, 81)]
    labels, found = [], []
    for image in images:
        low, side = rng.uniform(0, 300, (7, 2)), rng.uniform(8, 180, (7, 2))
        kinds = rng.integers(1, 81, 7).tolist()
        for box, kind in zip(np.concatenate([low, side], 1), kinds, strict=True):
            row = {"image_id": image["id"], "category_id": kind}
            labels.append(
                {**row, "id": len(labels) + 1, "bbox": box.tolist(), "area": box[2] * box[3], "iscrowd": 0}
            )
            for _ in range(2):
                moved = (box + rng.normal(0, 6, 4)).clip(1).tolist()
                found.append({**row, "bbox": moved, "score": float(rng.random())})
    path = _FOLDER / "instances_5000.json"
    _FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "categories": classes, "annotations": labels}))
    return Case(5000, "5,000 images, 35,000 boxes, 70,000 detections", {"file": path, "rows": found})


def _evaluating(case: Case) -> Call:
    annotations = read_annotations(case["file"])
    return lambda: tuple(evaluate(case["rows"], annotations).numbers.values())


def _faster(case: Case) -> Call:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(str(case["file"]))

    def call() -> Any:
        run = COCOeval_faster(truth, truth.loadRes(case["rows"]), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
        return tuple(run.stats[:12])

    return call


_EVALUATION = Row(
    key="ttfnet-evaluation",
    op="coco_evaluate",
    title="COCO evaluation, 5,000 images",
    make=_results_case,
    ours=_evaluating,
    normal=lambda raw, case: (np.array(raw),),
    agree=within(1e-6),
    peers=(
        Peer(
            "faster-coco-eval",
            "faster-coco-eval",
            "faster_coco_eval",
            _faster,
            normal=lambda raw, case: (np.array(raw),),
            note="ours runs pycocotools, and adds AP by class and the curves",
        ),
    ),
    growth=False,
)


ROWS = (
    _latency("resnet18", "dcnv2", _OTHERS),
    _latency("resnet18", "conv", ()),
    _latency("resnet34", "dcnv2", ()),
    _latency("darknet53", "dcnv2", ()),
    _whole("resnet18", (_SSDLITE_PIXELS,)),
    _whole("resnet34", ()),
    _whole("darknet53", ()),
    _onnx("resnet18", "dcnv2", "native"),
    _onnx("resnet18", "dcnv2", "decomposed"),
    _onnx("resnet18", "conv", "native"),
    _onnx("resnet34", "dcnv2", "native"),
    _onnx("darknet53", "dcnv2", "native"),
    Row(
        key="ttfnet-training-step",
        op="loss",
        title="training step, resnet18, two images of 512 x 512",
        make=_step_case,
        ours=_ttfnet_step,
        agree=another_network,
        peers=(
            Peer(
                "CenterNet step",
                "ttfnet",
                "ttfnet",
                _training(lambda: CenterNet("resnet18", 80)),
                same=False,
                note="our CenterNet: its own neck, heads, circular targets and losses",
            ),
            Peer(
                "TTFNet step, torchvision's operator",
                "torchvision",
                "torchvision",
                _training(lambda: TTFNet("resnet18", 80), standard=False),
                same=False,
                note="the same network and step; deformable convolution by torchvision instead of standard operators",
            ),
        ),
        growth=False,
    ),
    _targets(1),
    _targets(10),
    _targets(100),
    Row(
        key="ttfnet-targets-of-step",
        op="ttf_targets",
        title="targets of 16 images beside a training step of two (at most a twentieth of even that)",
        make=_step_case,
        ours=_targets_of_sixteen,
        normal=_maps,
        agree=bit_equal,
        oracle=_loop_of_sixteen,
        peers=(
            Peer(
                "whole training step",
                "ttfnet",
                "ttfnet",
                _ttfnet_step,
                same=False,
                note="resnet18, two images: forward, loss, backward, update",
            ),
        ),
        goal=Goal("ratio", 20, against="whole training step"),
        growth=False,
    ),
    _deformable(backward=False),
    _deformable(backward=True),
    _loading("flip"),
    _loading("heavy"),
    _EVALUATION,
)
