"""JSON and CSV."""

from __future__ import annotations

import csv
import io
import json

from moviescenes.scenes import SceneList
from moviescenes.timecode import from_timecode, timecode

__all__ = ["csv_text", "json_text"]

_COLUMNS = (
    *("scene", "first_shot", "last_shot", "start_frame", "end_frame", "start_timecode", "end_timecode"),
    *("start_s", "end_s", "length_s", "confidence"),
)


def json_text(scenes: SceneList) -> str:
    """The whole result; frames from 0, last inclusive; seconds, ends exclusive."""
    return json.dumps(scenes.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(scenes: SceneList, *, start_timecode: str | None = None, drop_frame: bool = False) -> str:
    """A row a scene (RFC 4180); the end's time code is that of the frame after the last."""
    fps = scenes.video.fps
    offset = from_timecode(start_timecode, fps, drop=drop_frame) if start_timecode else 0
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    for scene in scenes:
        codes = (
            timecode(offset + frame, fps, drop=drop_frame)
            for frame in (scene.start_frame, scene.end_frame + 1)
        )
        seconds = (f"{value:.6f}" for value in (scene.start_time, scene.end_time, scene.duration))
        numbers = (scene.index, scene.first_shot, scene.last_shot, scene.start_frame, scene.end_frame)
        table.writerow((*numbers, *codes, *seconds, f"{scene.confidence:.6f}"))
    return text.getvalue()
