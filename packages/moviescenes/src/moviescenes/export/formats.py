"""Names of the formats, and one way to write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from moviescenes.scenes import SceneList
from moviescenes.timecode import check_drop_frame
from tenfold._errors import UserInputError
from tenfold.io import write_bytes

__all__ = ["FORMATS", "format_of", "render", "save"]

# Name -> ending of the file, and the function that makes its text.
FORMATS: Mapping[str, tuple[str, str]] = {
    "json": (".json", "moviescenes.export.tables:json_text"),
    "csv": (".csv", "moviescenes.export.tables:csv_text"),
    "edl": (".edl", "moviescenes.export.edl:edl_texts"),
    "otio": (".otio", "moviescenes.export.otio:otio_text"),
    "html": (".html", "moviescenes.export.page:html_text"),
    "fcpxml": (".fcpxml", "moviescenes.export.fcpxml:fcpxml_text"),
    "vtt": (".vtt", "moviescenes.export.chapters:vtt_text"),
    "ffmeta": (".ffmeta", "moviescenes.export.chapters:ffmeta_text"),
    "ogm": (".chapters.txt", "moviescenes.export.chapters:ogm_text"),
    "youtube": (".youtube.txt", "moviescenes.export.chapters:youtube_text"),
    "qp": (".qp", "moviescenes.export.chapters:qp_text"),
    "keyframes": (".keyframes.txt", "moviescenes.export.chapters:keyframes_text"),
}


def format_of(path: str | Path) -> str:
    """The format that the ending of a file's name means, or the ending itself.

    >>> format_of("a.EDL"), format_of("a.chapters.txt"), format_of("a.txt")
    ('edl', 'ogm', 'txt')
    """
    name = Path(path).name.lower()
    named = (key for key, (ending, _) in FORMATS.items() if name.endswith(ending))
    return next(named, Path(name).suffix.removeprefix("."))


def render(scenes: SceneList, name: str, **options: Any) -> dict[str, bytes]:
    """The files of a format: ending -> content.

    Args:
        scenes: of a video.
        name: one of `FORMATS`.
        **options: `start_timecode` and `drop_frame` for those that have time codes.

    Raises:
        UserInputError: no such format, or options that it cannot have.
    """
    if name not in FORMATS:
        raise UserInputError(f"format: got {name!r}; expected one of {', '.join(FORMATS)}")
    ending, target = FORMATS[name]
    if options.get("drop_frame"):
        check_drop_frame(scenes.video.fps)
    module, _, function = target.partition(":")
    make: Callable[..., str | dict[str, str]] = getattr(import_module(module), function)
    made = make(scenes, **(options if name in ("csv", "edl", "otio") else {}))
    texts = made if isinstance(made, dict) else {"": made}
    return {f"{key}{ending}": text.encode("utf-8") for key, text in texts.items()}


def save(scenes: SceneList, path: str | Path, format: str | None = None, **options: Any) -> list[Path]:
    """Write a format; more than 999 scenes make several EDL files.

    Args:
        scenes: of a video.
        path: of the file; its ending chooses the format where `format` does not, see `format_of`.
        format: one of `FORMATS`.
        **options: see `render`.

    Returns:
        The files written.

    Raises:
        UserInputError: no such format, or a file that cannot be written.
    """
    target = Path(path)
    name = format or format_of(target)
    files = render(scenes, name, **options)
    ending = FORMATS[name][0]
    stem = target.name.removesuffix(ending) if target.name.endswith(ending) else target.stem
    written = [target.with_name(stem + key) if len(files) > 1 else target for key in files]
    for file, data in zip(written, files.values(), strict=True):
        write_bytes(file, data)
    return written
