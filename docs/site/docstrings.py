"""How the site reads our docstrings: what `Example:` introduces, or nothing at all, is a session of Python."""

import re
from typing import Any

import griffe

_HEADING = re.compile(r"^Example:$", re.MULTILINE)
# A paragraph that begins with a prompt at the margin, under no heading.
_BARE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


def with_examples(text: str) -> str:
    """The docstring with every session under a heading that the parser knows."""
    text = _HEADING.sub("Examples:", text)
    return _BARE.sub(lambda found: "Examples:\n    " + found.group().replace("\n", "\n    "), text)


class Sessions(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called for the outermost module, which is nobody's member."""
        self.on_object(obj=pkg)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every other module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)
