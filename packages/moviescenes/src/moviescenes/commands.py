"""The verbs that take a user's files."""

from __future__ import annotations

import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from moviescenes.export.formats import FORMATS, format_of, render
from moviescenes.timecode import check_drop_frame, from_timecode
from moviescenes.video import probe
from tenfold._errors import UserInputError
from tenfold.io import check_folder, make_folder, write_bytes
from tenfold.train.processes import use_threads

__all__ = ["convert", "features", "segment", "shots"]


def segment(
    video: Path,
    out: Path = Path("scenes"),
    format: str = "json,csv,edl,otio,html,vtt",
    shots: str = "auto",
    detector: str = "movie",
    threshold: float | None = None,
    features: str | None = None,
    model: str = "unsupervised",
    no_global: bool = False,
    scenes: str | None = None,
    passes: int = 1,
    start: float | None = None,
    end: float | None = None,
    split: bool = False,
    thumbs: bool = True,
    start_timecode: str | None = None,
    drop_frame: bool = False,
    cache: Path | None = None,
    json_stdout: bool = False,
    threads: int | None = None,
) -> None:
    """Find the scenes of a movie, and write them for people, players and editing programs.

    Shots are detected, described by what they show and sound like, and grouped into scenes. Without a trained
    model this rests on colours, skin, motion and sound alone, and says so.

    Args:
        video: The movie.
        out: Folder for the results, named as the movie.
        format: Files to write, of json, csv, edl, otio, html, fcpxml, vtt, ffmeta, ogm, youtube, qp, keyframes.
        shots: A file with first and last frame of each shot (.txt, or PySceneDetect's .csv); auto detects them.
        detector: movie, movienet-tools, adaptive, average or transnetv2.
        threshold: Cut boundaries whose score is larger into super shots; with no_global into scenes.
        features: Such as place=hsv-hist,aud=logmel-stats, or npy:FOLDER, pkl:FILE; the model's own by default.
        model: Checkpoint of `moviescenes fit`, or unsupervised.
        no_global: Without the grouping of the whole movie.
        scenes: Number of scenes, or least and largest as 20:60.
        passes: Of the grouping, at most.
        start: Leave out what comes before this second.
        end: Leave out what comes after this second.
        split: Also write each scene as a file of its own, without encoding anew: it starts at the keyframe before.
        thumbs: Pictures in the HTML page.
        start_timecode: Time code of the movie's first frame, HH:MM:SS:FF, for csv, edl and otio.
        drop_frame: Drop-frame time codes, at 29.97 and 59.94 frames a second.
        cache: Folder from which an interrupted run goes on.
        json_stdout: Print the JSON document instead of writing files.
        threads: Threads of the networks; all cores by default.
    """
    names = [name.strip() for name in format.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UserInputError(
            f"format: got {', '.join(unknown) or 'none'}; expected some of {', '.join(FORMATS)}"
        )
    if not json_stdout:
        check_folder(out)
    found = _segmenter(model, features, detector, threads)
    found.grouping, found.threshold, found.passes = not no_global, threshold, passes
    found.k_range, found.cache = _range(scenes), cache
    found.progress = True
    _check_codes(video, start_timecode, drop_frame)
    result = found.segment(
        *(video,),
        shots=None if shots == "auto" else shots,
        start=start,
        end=end,
        thumbnails=thumbs and "html" in names and not json_stdout,
    )
    if json_stdout:
        print(json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    options = {"start_timecode": start_timecode, "drop_frame": drop_frame}
    files = {key: data for name in names for key, data in render(result, name, **options).items()}
    folder = make_folder(out)
    for ending, data in files.items():
        write_bytes(folder / f"{video.stem}{ending}", data)
    if split:
        _split(video, folder, result)
    if found.model is None:
        print("no trained model: boundaries by the change of colours, skin, motion and sound (--model CKPT)")
    absent = result.params.get("absent") or []
    if "aud" in absent:
        print("this video has no sound")
    print(f"{len(result)} scenes of {len(result.shots)} shots -> {folder / (video.stem + next(iter(files)))}")


def _segmenter(model: str, features: str | None, detector: str, threads: int | None) -> Any:
    from moviescenes.segment import SceneSegmenter, load_model

    use_threads(threads)
    if model == "unsupervised":
        return SceneSegmenter(features=features, detector=detector)
    network, own = load_model(model)
    chosen: Any = features or own or None
    if chosen is None:
        raise UserInputError(f"features: {model} does not say what it was trained on; give --features")
    return SceneSegmenter(model=network, features=chosen, detector=detector)


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    low, colon, high = str(text).partition(":")
    try:
        return int(low), int(high) if colon else int(low)
    except ValueError as error:
        raise UserInputError(f"scenes: got {text!r}; expected a number, or least:largest") from error


def _check_codes(video: Path, start: str | None, drop: bool) -> None:
    """Options that do not fit the video must fail before an hour of work, not after it."""
    if start is None and not drop:
        return
    fps: Fraction = probe(video).fps
    if drop:
        check_drop_frame(fps)
    if start is not None:
        from_timecode(start, fps, drop=drop)


def _split(video: Path, folder: Path, result: Any) -> None:
    """Each scene as a file, streams copied from the keyframe before its first frame on."""
    import av

    first, width = probe(video).first, len(str(len(result)))
    for scene in result:
        name = f"{video.stem}-scene-{scene.index + 1:0{width}d}{video.suffix}"
        with tempfile.TemporaryDirectory(dir=folder) as space:
            part = Path(space) / name
            try:
                _copy(video, part, first + scene.start_time, first + scene.end_time)
            except (av.error.FFmpegError, ValueError) as error:
                raise UserInputError(f"{video}: split: cannot be copied into {name} ({error})") from error
            part.replace(folder / name)


def _copy(video: Path, target: Path, start: float, end: float) -> None:
    """Copy the packets of a span of time, in the file's own clock."""
    import av

    with av.open(f"file:{video.absolute()}") as source, av.open(f"file:{target.absolute()}", "w") as sink:
        streams = [*source.streams.video[:1], *source.streams.audio[:1]]
        copies = {stream.index: sink.add_stream_from_template(stream) for stream in streams}
        source.seek(int(start * av.time_base), backward=True)
        origin: Fraction | None = None
        open_streams = {stream.index for stream in streams}
        for packet in source.demux(streams):
            if packet.dts is None or packet.pts is None:
                continue
            stream = packet.stream
            if origin is None:
                if stream.type != "video" or not packet.is_keyframe:
                    continue
                origin = packet.dts * packet.time_base
            if float(packet.dts * packet.time_base) >= end:
                open_streams.discard(stream.index)
            if not open_streams:
                return
            if float(packet.pts * packet.time_base) >= end or packet.dts * packet.time_base < origin:
                continue
            shift = round(origin / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copies[stream.index]
            sink.mux(packet)


def shots(
    video: Path,
    out: Path | None = None,
    detector: str = "movie",
    threshold: float | None = None,
    start: float | None = None,
    end: float | None = None,
    images: Path | None = None,
) -> None:
    """Find the shots of a movie: first and last frame and three keyframes of each.

    Args:
        video: The movie.
        out: File to write, one line a shot; printed by default.
        detector: movie, movienet-tools, adaptive, average or transnetv2.
        threshold: Of the detector, in its own units.
        start: Leave out what comes before this second.
        end: Leave out what comes after this second.
        images: Folder for the first, middle and last frame of each shot, named as MovieNet's.
    """
    from moviescenes.shots import detect_shots

    if images is not None:
        check_folder(images, "images")
    if out is not None:
        check_folder(out.parent)
    options: dict[str, Any] = {}
    if threshold is not None:
        options["ratio" if detector == "adaptive" else "threshold"] = threshold
    found = detect_shots(video, detector, start=start, end=end, progress=True, **options)
    if images is not None:
        _write_images(video, found, images)
    if out is None:
        for shot in found:
            print(*(shot.start_frame, shot.end_frame, *shot.keyframes))
        return
    found.to_txt(out)
    print(f"{len(found)} shots -> {out}")


def _write_images(video: Path, found: Any, images: Path) -> None:
    from moviescenes.video import read_frames
    from tenfold.io import write_image

    folder, width = make_folder(images, "images"), max(4, len(str(len(found) - 1)))
    wanted: dict[int, list[str]] = {}
    for shot in found:
        for k, frame in enumerate(shot.images):
            wanted.setdefault(frame, []).append(f"shot_{shot.index:0{width}d}_img_{k}.jpg")
    for frame in read_frames(video):
        for name in wanted.get(frame.index, ()):
            write_image(folder / name, frame.rgb().copy())
        if frame.index >= found[-1].end_frame:
            return


def features(
    video: Path,
    out: Path = Path("features"),
    features: str | None = None,
    shots: str = "auto",
    detector: str = "movie",
    cache: Path | None = None,
) -> None:
    """Describe the shots of a movie: an array for each modality, which `segment --features npy:FOLDER` reads.

    Args:
        video: The movie.
        out: Folder for shots.txt and place.npy, cast.npy, act.npy, aud.npy.
        features: Such as place=hsv-hist,aud=stft; all built-in ones by default.
        shots: A file with first and last frame of each shot; auto detects them.
        detector: movie, movienet-tools, adaptive, average or transnetv2.
        cache: Folder from which an interrupted run goes on.
    """
    import numpy as np

    from moviescenes.features import extract_features
    from moviescenes.features.run import DEFAULT
    from moviescenes.segment import SceneSegmenter
    from tenfold.io import atomic_write

    check_folder(out)
    facts = probe(video)
    tool = SceneSegmenter(detector=detector, cache=cache, progress=True)
    found = tool._shots(facts, None if shots == "auto" else shots, None, None)
    described = extract_features(facts, found, features or DEFAULT, cache=cache, progress=True)
    folder = make_folder(out)
    found.to_txt(folder / "shots.txt")
    for key, value in described.arrays.items():
        with atomic_write(folder / f"{key}.npy") as file:
            np.save(file, value)
    sizes = ", ".join(f"{key} {' x '.join(map(str, v.shape))}" for key, v in described.arrays.items())
    print(f"{sizes} -> {folder}")


def convert(
    source: Path,
    output: Path,
    format: str | None = None,
    start_timecode: str | None = None,
    drop_frame: bool = False,
    fps: float = 24.0,
) -> None:
    """Turn a result of `segment` into another format, or a list of shots into MovieNet's.

    Args:
        source: JSON file of `segment`, or a list of shots (.txt, or PySceneDetect's .csv), which becomes shots alone.
        output: File to write.
        format: One of segment's formats, or shots; by default after the ending of the output.
        start_timecode: Time code of the movie's first frame.
        drop_frame: Drop-frame time codes.
        fps: Frame rate for lists of shots, which do not store it.
    """
    from moviescenes.scenes import SceneList
    from moviescenes.shots import ShotList

    wanted = format or format_of(output)
    if source.suffix.lower() != ".json":
        if wanted in FORMATS or format not in (None, "shots"):
            raise UserInputError(
                f"format: got {wanted}; {source} is a list of shots, which becomes shots alone"
            )
        ShotList.from_txt(source, fps).to_txt(output)
        print(f"{source} -> {output}")
        return
    result = SceneList.from_json(source)
    if wanted == "shots" or (format is None and wanted == "txt"):
        result.shots.to_txt(output)
        files = [output]
    else:
        files = result.save(output, format, start_timecode=start_timecode, drop_frame=drop_frame)
    print(f"{source} -> {', '.join(map(str, files))}")
