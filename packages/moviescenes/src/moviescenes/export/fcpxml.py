"""Final Cut Pro X XML."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

from moviescenes.scenes import SceneList

__all__ = ["fcpxml_text"]


def fcpxml_text(scenes: SceneList) -> str:
    """A project whose spine holds one clip a scene, with a marker at each shot (version 1.9)."""
    fps = scenes.video.fps
    frames = max(scenes.video.frames, scenes.shots[-1].end_frame + 1)

    def time(frame: int) -> str:
        value = Fraction(frame) / fps
        return f"{value.numerator}/{value.denominator}s" if value.denominator > 1 else f"{value.numerator}s"

    root = ElementTree.Element("fcpxml", version="1.9")
    resources = ElementTree.SubElement(root, "resources")
    ElementTree.SubElement(
        *(resources, "format"),
        {
            "id": "r1",
            "frameDuration": time(1),
            "width": str(scenes.video.width),
            "height": str(scenes.video.height),
        },
    )
    asset = ElementTree.SubElement(
        *(resources, "asset"),
        {
            "id": "r2",
            "name": scenes.video.name,
            "start": "0s",
            "duration": time(frames),
            "hasVideo": "1",
            "format": "r1",
        },
    )
    source = Path(scenes.video.path).absolute().as_uri()
    ElementTree.SubElement(asset, "media-rep", {"kind": "original-media", "src": source})
    event = ElementTree.SubElement(
        ElementTree.SubElement(root, "library"), "event", {"name": scenes.video.name}
    )
    project = ElementTree.SubElement(event, "project", {"name": f"scenes of {scenes.video.name}"})
    first = scenes[0].start_frame
    length = scenes[-1].end_frame + 1 - first
    sequence = ElementTree.SubElement(
        *(project, "sequence"), {"format": "r1", "duration": time(length), "tcStart": "0s", "tcFormat": "NDF"}
    )
    spine = ElementTree.SubElement(sequence, "spine")
    for scene in scenes:
        clip = ElementTree.SubElement(
            *(spine, "asset-clip"),
            {
                "ref": "r2",
                "name": f"scene {scene.index + 1}",
                "offset": time(scene.start_frame - first),
                "start": time(scene.start_frame),
                "duration": time(scene.end_frame + 1 - scene.start_frame),
            },
        )
        for shot in scenes.shots_of(scene):
            ElementTree.SubElement(
                *(clip, "marker"),
                {"start": time(shot.start_frame), "duration": time(1), "value": f"shot {shot.index + 1}"},
            )
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n{body}\n'
