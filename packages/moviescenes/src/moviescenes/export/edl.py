"""Edit decision lists, CMX 3600."""

from __future__ import annotations

import re
import unicodedata

from moviescenes.scenes import SceneList
from moviescenes.timecode import from_timecode, timecode

__all__ = ["edl_texts"]

_MOST = 999


def edl_texts(
    scenes: SceneList, *, start_timecode: str | None = None, drop_frame: bool = False
) -> dict[str, str]:
    """An event a scene; ends are exclusive; more than 999 scenes make several lists.

    Args:
        scenes: of a video.
        start_timecode: of the video's first frame.
        drop_frame: at 29.97 and 59.94; see `moviescenes.export.render`.

    Returns:
        "" -> the list, or "_1", "_2", ... -> the lists.

    Raises:
        UserInputError: no such time code.
    """
    fps = scenes.video.fps
    offset = from_timecode(start_timecode, fps, drop=drop_frame) if start_timecode else 0
    parts = [scenes[k : k + _MOST] for k in range(0, len(scenes), _MOST)]
    title, reel = _plain(scenes.video.name, 60) or "MOVIE", _reel(scenes.video.name)
    texts = {}
    for number, part in enumerate(parts, 1):
        head = f"TITLE: {title}" + (f" {number}" if len(parts) > 1 else "")
        lines = [head, f"FCM: {'DROP FRAME' if drop_frame else 'NON-DROP FRAME'}", ""]
        for event, scene in enumerate(part, 1):
            codes = [
                timecode(offset + frame, fps, drop=drop_frame)
                for frame in (scene.start_frame, scene.end_frame + 1)
            ]
            lines.append(f"{event:03d}  {reel:<8} V     C        {' '.join(codes * 2)}")
            lines.append(f"* FROM CLIP NAME: {title}")
            lines.append(f"* COMMENT: SCENE {scene.index + 1} SCORE {scene.confidence:.3f}")
        texts[f"_{number}" if len(parts) > 1 else ""] = "\n".join(lines) + "\n"
    return texts


def _plain(text: str, longest: int) -> str:
    """ASCII on one line."""
    flat = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", flat).split())[:longest]


def _reel(name: str) -> str:
    """At most eight letters and digits."""
    return re.sub(r"[^A-Z0-9]", "", _plain(name.rpartition(".")[0] or name, 60).upper())[:8] or "AX"
