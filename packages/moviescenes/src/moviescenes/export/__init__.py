"""Files that other programs read: JSON, CSV, EDL, OTIO, HTML, FCPXML, and lists of chapters and keyframes.

Every writer makes texts first; nothing is written until all of them are made, and each file is written at once or
not at all.
"""

from moviescenes.export.formats import FORMATS, render, save

__all__ = ["FORMATS", "render", "save"]
