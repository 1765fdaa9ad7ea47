"""Lists of chapters for players, and lists of keyframes for encoders and subtitle editors."""

from __future__ import annotations

from moviescenes.scenes import SceneList
from moviescenes.timecode import clock

__all__ = ["ffmeta_text", "keyframes_text", "ogm_text", "qp_text", "vtt_text", "youtube_text"]


def vtt_text(scenes: SceneList) -> str:
    """WebVTT chapters."""
    cues = [
        f"{scene.index + 1}\n{clock(scene.start_time)} --> {clock(scene.end_time)}\nScene {scene.index + 1}\n"
        for scene in scenes
    ]
    return "\n".join(["WEBVTT\n", *cues])


def ffmeta_text(scenes: SceneList) -> str:
    """Ffmpeg's metadata file: ``ffmpeg -i movie -i FILE -map_metadata 1 -codec copy out``."""
    parts = [
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={round(scene.start_time * 1000)}\n"
        f"END={round(scene.end_time * 1000)}\ntitle=Scene {scene.index + 1}"
        for scene in scenes
    ]
    return "\n".join([";FFMETADATA1", *parts]) + "\n"


def ogm_text(scenes: SceneList) -> str:
    """OGM chapters, which Matroska's tools read too."""
    lines = [
        f"CHAPTER{scene.index + 1:02d}={clock(scene.start_time)}\n"
        f"CHAPTER{scene.index + 1:02d}NAME=Scene {scene.index + 1}"
        for scene in scenes
    ]
    return "\n".join(lines) + "\n"


def youtube_text(scenes: SceneList) -> str:
    """Lines for a video's description; the first is at 0:00, and none is shorter than ten seconds."""
    lines: list[str] = []
    last = -10
    for scene in scenes:
        second = int(scene.start_time) if lines else 0
        if second - last < 10:
            continue
        hours, rest = divmod(second, 3600)
        minutes, seconds = divmod(rest, 60)
        code = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        lines.append(f"{code} Scene {scene.index + 1}")
        last = second
    return "\n".join(lines) + "\n"


def qp_text(scenes: SceneList) -> str:
    """x264's list of frames to encode as keyframes: the first of every scene."""
    return "".join(f"{scene.start_frame} I -1\n" for scene in scenes)


def keyframes_text(scenes: SceneList) -> str:
    """Aegisub's list of keyframes: the first of every shot."""
    frames = "".join(f"{shot.start_frame}\n" for shot in scenes.shots)
    return f"# keyframe format v1\nfps {float(scenes.video.fps):.6f}\n{frames}"
