"""Detectors on a user's own pictures and videos: checkpoint or ONNX file in, objects out. No training extra."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tenfold._errors import MissingExtraError, UserInputError, first_line
from tenfold.io import check_folder, make_folder, read_image, write_bytes, write_json
from tenfold.train.processes import use_threads
from tenfold.train.progress import bar
from ttfnet.checkpoint import ModelInfo, load_detector
from ttfnet.data.scene import Scene
from ttfnet.data.transforms import Pipeline, Sample
from ttfnet.decoding import Detections, select
from ttfnet.model import Detector, use_standard_operators

__all__ = ["Predictor", "load", "predict", "rescale"]

Pixels = npt.NDArray[np.uint8]
Picture = str | Path | Pixels | Any  # anything: a Pillow image
Runner = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
_VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


def rescale(
    found: Detections, scale: tuple[float, float], size: tuple[int, int], info: ModelInfo
) -> Detections:
    """Boxes of the network's input in pixels of the original picture, clipped to it.

    Args:
        found: in input pixels.
        scale: input pixels per original pixel, x and y.
        size: height and width of the original.
        info: says whether 1 is added to x2 and y2.
    """
    boxes = found.boxes / found.boxes.new_tensor([*scale, *scale])
    if info.legacy_boxes:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    return replace(found, boxes=torch.minimum(boxes.clamp(min=0), limits))


class Predictor:
    """A trained detector with its preprocessing.

    Attributes:
        info: what the checkpoint says about the model.
        model: the network; None for an ONNX file.

    Args:
        info: facts of the model.
        run: maps a batch ``(B, 3, H, W)`` to padded boxes, scores and labels.
        model: the network behind ``run``.
        device: where batches go.
    """

    def __init__(
        self, info: ModelInfo, run: Runner, model: Detector | None = None, device: str = "cpu"
    ) -> None:
        self.info, self.run, self.model, self.device = info, run, model, device
        self.pipeline = Pipeline(info.size, "none", info.normalization, info.resize)

    @torch.inference_mode()
    def predict_images(
        self,
        pictures: Sequence[Picture],
        conf: float = 0.3,
        *,
        nms_iou: float | None = None,
        batch_size: int = 1,
    ) -> list[Detections]:
        """Objects in each picture, boxes in its own pixels.

        Args:
            pictures: files, uint8 RGB arrays ``(H, W, 3)``, or Pillow images; sizes may differ.
            conf: objects must have a higher score.
            nms_iou: class-wise suppression above this overlap; None does without.
            batch_size: pictures at a time.

        Raises:
            UserInputError: an unreadable file.
            ValueError: an array of another kind.
        """
        if self.info.resize == "original":  # every picture has its own size
            batch_size = 1
        found: list[Detections] = []
        for start in range(0, len(pictures), batch_size):
            samples = [self.sample(picture) for picture in pictures[start : start + batch_size]]
            found += self.detect(samples, conf, nms_iou)
        return found

    def sample(self, picture: Picture) -> Sample:
        """The network's input of one picture."""
        pixels = _pixels(picture)
        return self.pipeline(Scene(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))

    def detect(
        self, samples: Sequence[Sample], conf: float, nms_iou: float | None = None
    ) -> list[Detections]:
        """Objects of prepared samples."""
        images = torch.stack([sample.image for sample in samples]).to(self.device)
        boxes, scores, labels = self.run(images)
        found = []
        size = (images.shape[2], images.shape[3])
        for k, sample in enumerate(samples):
            own = select(boxes[k], scores[k], labels[k], conf=conf, size=size, nms_iou=nms_iou)
            found.append(rescale(own, sample.scale, sample.size, self.info))
        return found


def load(path: str | Path, device: str = "cpu", max_det: int = 100) -> Predictor:
    """A predictor of a checkpoint or of an ONNX file written by ``ttfnet export``.

    Args:
        path: ``.ckpt``, ``.pt`` or ``.onnx``.
        device: such as ``"cuda"``; ONNX files run on the CPU, with as many threads as torch.
        max_det: most objects of a picture; an ONNX file has its own number.

    Raises:
        UserInputError: unreadable, no model of ours, or a device that is not there.

    Example:
        >>> ttfnet.load("last.ckpt").predict_images(["street.jpg"])  # doctest: +SKIP
    """
    if Path(path).suffix == ".onnx":
        from ttfnet.runtime import onnx_runner

        if device != "cpu":
            raise UserInputError(f"device: got {device}; {path} is an ONNX file, which runs on the CPU")
        info, run = onnx_runner(path, torch.get_num_threads())
        return Predictor(info, run)
    kind = checked_device(device)
    model, info = load_detector(path)
    use_standard_operators(model.to(kind), kind.type == "cpu")
    return Predictor(info, lambda images: model.decode(model(images), max_det), model, device)


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserInputError: no such device here.

    Example:
        >>> checked_device("cpu")
        device(type='cpu')
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserInputError(f"device: got {name}, which cannot be used ({first_line(error)})") from error


def _pixels(picture: Picture) -> Pixels:
    if isinstance(picture, str | Path):
        return read_image(picture)
    if not isinstance(picture, np.ndarray):
        picture = np.asarray(picture.convert("RGB"))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(
            f"predict_images: pictures: got {picture.dtype} {picture.shape}; expected uint8 RGB (H, W, 3)"
        )
    return picture


def predict(
    source: str,
    checkpoint: Path,
    out: Path = Path("predictions"),
    conf: float = 0.3,
    nms_iou: float | None = None,
    batch_size: int = 1,
    draw: bool = True,
    device: str = "cpu",
    threads: int | None = None,
) -> int:
    """Detect objects in a picture, a folder, a pattern or a video; write boxes as JSON and drawn pictures.

    Writes NAME.json and NAME.png for each picture NAME.jpg, and NAME.json and NAME.mp4 for a video.

    Args:
        source: Picture, video, folder of pictures, or quoted pattern such as 'photos/*.jpg'.
        checkpoint: Checkpoint written by `ttfnet fit`, or ONNX file written by `ttfnet export`.
        out: Folder for the results.
        conf: Leave out objects with a smaller score.
        nms_iou: Class-wise suppression above this overlap; the method does without.
        batch_size: Pictures at a time.
        draw: Write pictures too, not only JSON.
        device: Device such as cuda; an ONNX file runs on the CPU.
        threads: Threads to use; all cores by default.
    """
    use_threads(threads)
    if batch_size < 1:
        raise UserInputError(f"batch_size: got {batch_size}; expected at least 1")
    check_folder(out)
    files = find_sources(source)
    predictor = load(checkpoint, device)
    names = _result_names(files)
    failed: list[str] = []
    options: dict[str, Any] = {"conf": conf, "nms_iou": nms_iou, "batch_size": batch_size}
    for chunk in bar(_groups(files, batch_size), "predict"):
        if chunk[0].suffix.lower() in _VIDEOS:
            try:
                _predict_video(predictor, chunk[0], out / names[chunk[0]], draw, options)
            except UserInputError as error:
                if len(files) == 1:
                    raise
                _leave_out(error, failed)
            continue
        pictures = _read_pictures(chunk, failed, alone=len(files) == 1)
        found = predictor.predict_images([pixels for _, pixels in pictures], **options)
        make_folder(out)  # only now: a user error leaves nothing behind
        for (file, pixels), own in zip(pictures, found, strict=True):
            _write_picture(predictor.info, file, pixels, own, out / names[file], draw)
    print(f"{len(files) - len(failed)} of {len(files)} files -> {out}")
    return 2 if failed else 0


def _leave_out(error: UserInputError, failed: list[str]) -> None:
    failed.append(str(error))
    print(f"left out: {error}", file=sys.stderr)


def _groups(files: Sequence[Path], size: int) -> list[list[Path]]:
    """Pictures, a batch at a time, and videos one by one, in order."""
    groups: list[list[Path]] = []
    for file in files:
        video = file.suffix.lower() in _VIDEOS
        if groups and not video and len(groups[-1]) < size and groups[-1][0].suffix.lower() not in _VIDEOS:
            groups[-1].append(file)
        else:
            groups.append([file])
    return groups


def _read_pictures(files: Sequence[Path], failed: list[str], *, alone: bool) -> list[tuple[Path, Pixels]]:
    """Those that can be read; a single one must."""
    pictures = []
    for file in files:
        try:
            pictures.append((file, read_image(file)))
        except UserInputError as error:
            if alone:
                raise
            _leave_out(error, failed)
    return pictures


def find_sources(source: str) -> list[Path]:
    """Files of a picture's or video's name, a folder, or a pattern, sorted.

    Raises:
        UserInputError: there is none, or one of an unknown kind.
    """
    known = _IMAGES | _VIDEOS
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in known)
        if not found:
            raise UserInputError(f"{source}: source: no pictures or videos in this folder")
        return found
    if path.exists() or not glob.has_magic(source):
        if path.suffix.lower() not in known:
            raise UserInputError(
                f"{source}: source: got the ending {path.suffix!r}; expected a picture, a video or a folder"
            )
        return [path]
    found = sorted(Path(p) for p in glob.glob(source, recursive=True) if Path(p).suffix.lower() in known)
    if not found:
        raise UserInputError(f"{source}: source: no picture or video matches this pattern")
    return found


def _result_names(files: Sequence[Path]) -> dict[Path, str]:
    """Names of results without ending; those that would collide keep their ending, then get a number."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    stems = Counter(file.stem for file in files)
    for file in files:
        name = file.stem if stems[file.stem] == 1 else file.name.replace(".", "_")
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        names[file] = unique
    return names


def _document(found: Detections, info: ModelInfo, size: tuple[int, int]) -> dict[str, Any]:
    labels = found.labels.tolist()
    return {
        "boxes": found.boxes.double().tolist(),
        "scores": found.scores.double().tolist(),
        "labels": labels,
        "names": [info.class_names[k] for k in labels],
        "columns": ["x1", "y1", "x2", "y2"],
        "width": size[1],
        "height": size[0],
    }


def _drawn(picture: Pixels, found: Detections, info: ModelInfo) -> Pixels:
    from tenfold.viz import draw_boxes_2d

    boxes, scores, labels = (t.cpu().numpy() for t in (found.boxes, found.scores, found.labels))
    width = max(2.0, max(picture.shape[:2]) / 400)
    out: Pixels = draw_boxes_2d(
        picture,
        boxes,
        labels,
        scores,
        class_names=info.class_names,
        line_width=width,
        text_size=int(6 * width),
    )
    return out


def _write_picture(
    info: ModelInfo, file: Path, picture: Pixels, found: Detections, target: Path, draw: bool
) -> None:
    drawn = None
    if draw:
        from tenfold.viz import encode_image

        drawn = encode_image(_drawn(picture, found, info))
    size = (picture.shape[0], picture.shape[1])
    write_json(target.with_name(f"{target.name}.json"), {"source": file.name, **_document(found, info, size)})
    if drawn is not None:
        write_bytes(target.with_name(f"{target.name}.png"), drawn)


# ---- video -----------------------------------------------------------------------------------------


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError('videos need PyAV: pip install "ttfnet[video]"') from error
    return av


def read_video(path: Path) -> Iterator[tuple[float, Pixels]]:
    """Time in seconds and RGB pixels of each frame, turned upright as the file says.

    Raises:
        UserInputError: unreadable, or without a picture.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserInputError(f"{path}: video: has no pictures")
            for frame in container.decode(video=0):
                turns = round(float(frame.rotation or 0) / 90) % 4
                upright = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield float(frame.time or 0.0), np.ascontiguousarray(upright)
    except (av.error.FFmpegError, OSError) as error:
        raise UserInputError(f"{path}: video: cannot be read ({error})") from error


def _frame_rate(path: Path) -> Any:
    av = _av()
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].average_rate or 25
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise UserInputError(f"{path}: video: cannot be read ({error})") from error


def _predict_video(
    predictor: Predictor, file: Path, target: Path, draw: bool, options: dict[str, Any]
) -> None:
    """JSON with the objects of every frame, and the drawn video; both appear when they are whole."""
    rate = _frame_rate(file)
    make_folder(target.parent)
    frames: list[dict[str, Any]] = []
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".mp4")
    os.close(handle)
    unfinished = Path(name)
    try:
        with _VideoWriter(unfinished, rate) as writer:
            for chunk in _chunks(read_video(file), options["batch_size"]):
                found = predictor.predict_images([picture for _, picture in chunk], **options)
                for (seconds, picture), own in zip(chunk, found, strict=True):
                    frames.append({"time": seconds, **_document(own, predictor.info, picture.shape[:2])})
                    if draw:
                        writer.add(_drawn(picture, own, predictor.info))
        if not frames:
            raise UserInputError(f"{file}: video: has no frames")
        write_json(
            target.with_name(f"{target.name}.json"),
            {"source": file.name, "fps": float(rate), "frames": frames},
        )
        if draw:
            unfinished.chmod(0o644)
            os.replace(unfinished, target.with_name(f"{target.name}.mp4"))
    finally:
        unfinished.unlink(missing_ok=True)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _VideoWriter:
    """An MP4 file that starts with its first frame."""

    def __init__(self, path: Path, rate: Any) -> None:
        self.path, self.rate = path, rate
        self.container: Any = None
        self.stream: Any = None

    def __enter__(self) -> _VideoWriter:
        return self

    def add(self, picture: Pixels) -> None:
        """One more frame; odd sides lose a pixel, which the codec demands."""
        av = _av()
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        if self.container is None:
            self.container = av.open(str(self.path), "w")
            self.stream = self.container.add_stream("mpeg4", rate=self.rate)
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
            self.stream.bit_rate = max(2_000_000, width * height * 6)
        pixels = np.ascontiguousarray(picture[: self.stream.height, : self.stream.width])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        for packet in self.stream.encode(frame):
            self.container.mux(packet)

    def __exit__(self, *problem: object) -> None:
        if self.container is None:
            return
        if problem[0] is None:
            for packet in self.stream.encode():
                self.container.mux(packet)
        self.container.close()
