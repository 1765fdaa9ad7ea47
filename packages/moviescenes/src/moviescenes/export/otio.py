"""OpenTimelineIO, its JSON written by hand: no dependency, and ranges that are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moviescenes.scenes import Scene, SceneList
from moviescenes.timecode import from_timecode

__all__ = ["otio_text"]


def otio_text(scenes: SceneList, *, start_timecode: str | None = None, drop_frame: bool = False) -> str:
    """A clip a scene on one video track, a marker a shot; times in frames at the video's real rate."""
    fps = float(scenes.video.fps)
    offset = from_timecode(start_timecode, scenes.video.fps, drop=drop_frame) if start_timecode else 0

    def moment(frame: int) -> dict[str, Any]:
        return {"OTIO_SCHEMA": "RationalTime.1", "rate": fps, "value": float(frame)}

    def span(start: int, length: int) -> dict[str, Any]:
        return {"OTIO_SCHEMA": "TimeRange.1", "start_time": moment(start), "duration": moment(length)}

    last = scenes.shots[-1].end_frame + 1
    media = {
        "OTIO_SCHEMA": "ExternalReference.1",
        "metadata": {},
        "name": scenes.video.name,
        "available_range": span(offset, max(last, scenes.video.frames)),
        "available_image_bounds": None,
        "target_url": _url(scenes.video.path),
    }

    def clip(scene: Scene) -> dict[str, Any]:
        start, length = offset + scene.start_frame, scene.end_frame - scene.start_frame + 1
        markers = [
            {
                "OTIO_SCHEMA": "Marker.2",
                "metadata": {},
                "name": f"shot {shot.index + 1}",
                "color": "GREEN",
                "comment": "",
                "marked_range": span(offset + shot.start_frame, shot.end_frame - shot.start_frame + 1),
            }
            for shot in scenes.shots_of(scene)
        ]
        return {
            "OTIO_SCHEMA": "Clip.2",
            "metadata": {"moviescenes": {"score": round(scene.confidence, 6)}},
            "name": f"scene {scene.index + 1}",
            "source_range": span(start, length),
            "effects": [],
            "markers": markers,
            "enabled": True,
            "media_references": {"DEFAULT_MEDIA": media},
            "active_media_reference_key": "DEFAULT_MEDIA",
        }

    common: dict[str, Any] = {
        "metadata": {},
        "source_range": None,
        "effects": [],
        "markers": [],
        "enabled": True,
    }
    track = {
        "OTIO_SCHEMA": "Track.1",
        "name": "scenes",
        "kind": "Video",
        "children": [clip(s) for s in scenes],
        **common,
    }
    document = {
        "OTIO_SCHEMA": "Timeline.1",
        "metadata": {},
        "name": scenes.video.name,
        "global_start_time": moment(offset) if offset else None,
        "tracks": {"OTIO_SCHEMA": "Stack.1", "name": "tracks", "children": [track], **common},
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _url(path: str) -> str:
    return Path(path).absolute().as_uri()
