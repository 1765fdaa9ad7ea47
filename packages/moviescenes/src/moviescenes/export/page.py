"""One HTML file with pictures inside: scenes to look through, shots on a click, no script and no network."""

from __future__ import annotations

import base64
from html import escape

from moviescenes.scenes import Scene, SceneList
from moviescenes.shots import Shot
from moviescenes.timecode import timecode

__all__ = ["html_text"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;--paper:#f6f6f8;--card:#fff;--ink:#1d222b;--soft:#5f6978;--line:#dcdfe6;--mark:#2f6fde}
@media (prefers-color-scheme:dark){:root{--paper:#131519;--card:#1c2027;--ink:#e8eaee;--soft:#9ca5b3;--line:#323843;
--mark:#7fa9ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:1180px;margin:0 auto;padding:0 16px}
h1{font-size:1.6rem;margin:24px 0 4px}p{margin:4px 0}.soft,footer{color:var(--soft)}
nav{display:flex;height:38px;margin:16px 0;border-radius:6px;overflow:hidden}
nav a{display:block;min-width:1px;border-right:1px solid var(--paper)}
nav a:hover,nav a:focus{filter:brightness(1.25);outline:2px solid var(--ink);outline-offset:-2px}
main{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));align-items:start}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px;border-top:5px solid}
article:target{outline:3px solid var(--mark)}
h2{font-size:1.05rem;margin:0;display:flex;justify-content:space-between;gap:8px}h2 span{font-weight:400}
img{display:block;width:100%;height:auto;border-radius:5px;background:var(--line)}
.strip{display:grid;grid-template-columns:repeat(3,1fr);gap:4px;margin:8px 0}
.bar{height:6px;border-radius:3px;background:var(--line);margin:6px 0 2px;overflow:hidden}
.bar i{display:block;height:100%;background:var(--mark)}
summary{cursor:pointer;font-weight:600;padding:4px 0}
ol{list-style:none;margin:6px 0 0;padding:0;display:grid;grid-template-columns:repeat(2,1fr);gap:8px;font-size:.82rem}
code{font-size:.92em}b.thread{display:inline-block;min-width:1.5em;text-align:center;border-radius:4px;color:#fff;
padding:0 3px}
footer{padding-top:20px;padding-bottom:28px;font-size:.88rem}
@media print{article{break-inside:avoid}nav{display:none}}
"""
_SHOWN = 3


def html_text(scenes: SceneList) -> str:
    """The page."""
    video = scenes.video
    title = f"Scenes of {video.name}"
    facts = (
        f"{len(scenes)} scenes, {len(scenes.shots)} shots, {_length(video.duration)}; {video.width} × "
        f"{video.height}, {float(video.fps):.3f} frames/s{', variable' if video.vfr else ''}"
    )
    first, total = scenes.shots[0].start_time, scenes.shots[-1].end_time - scenes.shots[0].start_time
    line = "".join(
        f'<a href="#scene-{scene.index + 1}" style="width:{100 * scene.duration / max(total, 1e-9):.4f}%;'
        f'background:{_colour(scene.index)}" title="Scene {scene.index + 1}, '
        f'{_length(scene.start_time - first)}" aria-label="Scene {scene.index + 1}"></a>'
        for scene in scenes
    )
    cards = "\n".join(_card(scenes, scene) for scene in scenes)
    note = escape(str(scenes.params.get("note", "")))
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body>
<header><h1>{escape(title)}</h1><p class="soft">{escape(facts)}</p><p class="soft">{note}</p>
<nav aria-label="Time line">{line}</nav></header>
<main>
{cards}
</main>
<footer>Made by moviescenes. The bar below the pictures is the smaller score of the scene's two boundaries.</footer>
</body></html>
"""


def _colour(index: int) -> str:
    """A colour that differs from its neighbours': the golden angle around the circle of hues."""
    return f"hsl({index * 137.508 % 360:.0f} 55% 48%)"


def _length(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _image(scenes: SceneList, shot: Shot, lazy: bool) -> str:
    data = scenes.thumbnails.get(shot.index)
    if data is None:
        return ""
    text = base64.b64encode(data).decode()
    loading = ' loading="lazy"' if lazy else ""
    return f'<img{loading} alt="Shot {shot.index + 1}" src="data:image/jpeg;base64,{text}">'


def _card(scenes: SceneList, scene: Scene) -> str:
    shots, fps = scenes.shots_of(scene), scenes.video.fps
    code = f"{timecode(scene.start_frame, fps)} – {timecode(scene.end_frame + 1, fps)}"
    chosen = sorted({round(k * (len(shots) - 1) / max(1, _SHOWN - 1)) for k in range(_SHOWN)})
    strip = "".join(_image(scenes, shots[k], False) for k in chosen)
    rows = "".join(_row(scenes, scene, k, shot) for k, shot in enumerate(shots))
    score = scene.confidence
    filled = 100 * min(1.0, max(0.0, score))
    return (
        f'<article id="scene-{scene.index + 1}" style="border-top-color:{_colour(scene.index)}">'
        f"<h2>Scene {scene.index + 1}<span>{_length(scene.duration)}</span></h2>"
        f'<p class="soft"><code>{code}</code></p>'
        + (f'<div class="strip">{strip}</div>' if strip else "")
        + f'<div class="bar" title="score {score:.3f}"><i style="width:{filled:.1f}%"></i></div>'
        f'<p class="soft">score {score:.2f}</p>'
        f"<details><summary>{len(shots)} shot{'s' if len(shots) != 1 else ''}</summary><ol>{rows}</ol></details>"
        "</article>"
    )


def _row(scenes: SceneList, scene: Scene, place: int, shot: Shot) -> str:
    mark = ""
    if place < len(scene.threads):
        thread = scene.threads[place]
        colour = f"hsl({thread * 67 % 360} 45% 38%)"
        mark = f'<b class="thread" style="background:{colour}" title="thread">{_letters(thread)}</b> '
    return (
        f"<li>{_image(scenes, shot, True)}{mark}shot {shot.index + 1}<br>"
        f'<span class="soft">{shot.start_time:.2f} s, {shot.end_time - shot.start_time:.2f} s long</span></li>'
    )


def _letters(thread: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    text = ""
    number = thread + 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text
