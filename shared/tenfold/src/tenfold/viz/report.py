"""A report page: one HTML file without any outside resource, readable from phones to wide screens."""

import base64
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, Protocol, runtime_checkable
from xml.etree import ElementTree

from tenfold.io import write_text
from tenfold.train.claims import cpu_model
from tenfold.viz._page import CSS, SCRIPT

Status = Literal["ok", "failed"]
Tone = Literal["", "good", "bad", "weak"]

# What the page may load: nothing but the bytes inside it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_SVG_FORBIDDEN = {"script", "foreignObject", "image", "use", "a", "iframe", "animate", "set"}


@runtime_checkable
class Part(Protocol):
    """A piece of a card or section."""

    def html(self) -> str:
        """Its HTML, all text escaped."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    soft: bool = False

    def html(self) -> str:
        """Its HTML."""
        return f"<p{' class=soft' if self.soft else ''}>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Preformatted:
    """Text with its own line breaks: a log, a command."""

    text: str

    def html(self) -> str:
        """Its HTML."""
        return f"<pre>{escape(self.text)}</pre>"


@dataclass(frozen=True)
class Link:
    """A paragraph that is a link; only relative, #fragment, http and https addresses are accepted."""

    text: str
    href: str

    def __post_init__(self) -> None:
        scheme = re.match(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):", self.href)
        if scheme and scheme.group(1).lower() not in {"http", "https"}:
            raise ValueError(
                f"Link: href: {self.href!r} was received; a relative or http(s) address is expected"
            )

    def html(self) -> str:
        """Its HTML."""
        return f'<p><a href="{escape(self.href)}">{escape(self.text)}</a></p>'


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG picture from its file bytes (see :func:`tenfold.viz.encode_image`)."""

    data: bytes
    caption: str
    alt: str = ""

    def __post_init__(self) -> None:
        if self._kind() is None:
            raise ValueError("Picture: data: neither PNG nor JPEG bytes were received; use encode_image")

    def _kind(self) -> str | None:
        if self.data.startswith(b"\x89PNG\r\n\x1a\n"):
            return "png"
        return "jpeg" if self.data.startswith(b"\xff\xd8\xff") else None

    def html(self) -> str:
        """Its HTML."""
        source = f"data:image/{self._kind()};base64,{base64.b64encode(self.data).decode()}"
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure><img src="{source}" alt="{escape(self.alt or self.caption)}">{caption}</figure>'


@dataclass(frozen=True)
class Chart:
    """An inline SVG chart; markup that could run code or load something is refused."""

    svg: str
    caption: str = ""

    def __post_init__(self) -> None:
        root = ElementTree.fromstring(self.svg)
        for node in root.iter():
            name = node.tag.rpartition("}")[2]
            unsafe = [key for key in node.attrib if key.rpartition("}")[2].startswith(("on", "href"))]
            if name in _SVG_FORBIDDEN or unsafe:
                raise ValueError(
                    f"Chart: svg: <{name}> with {unsafe} was received; drawing elements alone are expected"
                )
        if root.tag.rpartition("}")[2] != "svg":
            raise ValueError(f"Chart: svg: the root <{root.tag}> was received; <svg> is expected")

    def html(self) -> str:
        """Its HTML."""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure>{self.svg}{caption}</figure>"


@dataclass(frozen=True)
class Cell:
    """A table cell whose text, sorting key and tone differ from the plain rules."""

    text: str
    sort: float | str | None = None
    tone: Tone = ""


CellLike = str | float | int | None | Cell


@dataclass(frozen=True)
class Table:
    """A table that scrolls inside its place and sorts by a click on a column's head.

    Cells are text, numbers (right-aligned, five significant digits), None (a dash) or :class:`Cell`.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[CellLike]]
    caption: str = ""
    sortable: bool = True
    wrap: Sequence[int] = ()

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table: rows: row {index} has {len(row)} cells; one for each of "
                    f"the {len(self.columns)} columns is expected"
                )

    def _cell(self, column: int, value: CellLike, right: bool) -> str:
        cell = value if isinstance(value, Cell) else _plain_cell(value)
        classes = " ".join(c for c in ("right" * right, cell.tone, "wrap" * (column in self.wrap)) if c)
        sort = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
        return f"<td{f' class={chr(34)}{classes}{chr(34)}' if classes else ''}{sort}>{escape(cell.text)}</td>"

    def _is_numeric(self, column: int) -> bool:
        keys = [
            c.sort if isinstance(c, Cell) else c for c in (row[column] for row in self.rows) if c is not None
        ]
        return bool(keys) and all(key is None or isinstance(key, int | float) for key in keys)

    def html(self) -> str:
        """Its HTML."""
        right = [self._is_numeric(i) for i in range(len(self.columns))]
        head = "".join(
            f'<th scope="col"{" class=right" if right[i] else ""}>'
            + (f'<button type="button">{escape(name)}</button>' if self.sortable else escape(name))
            + "</th>"
            for i, name in enumerate(self.columns)
        )
        body = "".join(
            "<tr>" + "".join(self._cell(i, value, right[i]) for i, value in enumerate(row)) + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(self.caption or "table")}">'
            f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def _plain_cell(value: str | float | int | None) -> Cell:
    if value is None:
        return Cell("–")
    if isinstance(value, str):
        return Cell(value, sort=value)
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.5g}", sort=value)


@dataclass(frozen=True)
class Details:
    """Parts that are folded away until the reader opens them."""

    summary: str
    parts: Sequence[Part]

    def html(self) -> str:
        """Its HTML."""
        return f"<details><summary>{escape(self.summary)}</summary>{_join(self.parts)}</details>"


def _join(parts: Iterable[Part]) -> str:
    return "".join(part.html() for part in parts)


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from: the date (ISO, UTC), CPU, seed, versions, and further facts."""

    date: str
    cpu: str
    seed: int | str | None
    versions: Mapping[str, str]
    extra: Mapping[str, str] = field(default_factory=dict)

    def items(self) -> list[tuple[str, str]]:
        """(name, value) pairs in the order printed."""
        seed = [] if self.seed is None else [("seed", str(self.seed))]
        return [("date", self.date), ("CPU", self.cpu), *seed, *self.versions.items(), *self.extra.items()]


def cpu_name() -> str:
    """The processor's name with the number of usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_model()}, {cores} cores"


def provenance(
    seed: int | str | None = None,
    packages: Sequence[str] = ("torch", "numpy"),
    **extra: str,
) -> Provenance:
    """Provenance of a run made here and now.

    Args:
        seed: of the run, when there is one.
        packages: distributions whose installed versions are named; missing ones read "not installed".
        **extra: further facts.

    Example:
        >>> from tenfold.viz import provenance
        >>> provenance(seed=3, packages=("numpy",)).seed
        3
    """
    versions = {"Python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Provenance(date=date, cpu=cpu_name(), seed=seed, versions=versions, extra=extra)


@dataclass
class _Card:
    title: str
    claim: str
    number: str
    control: str
    status: Status
    quick: bool
    wide: bool
    parts: Sequence[Part]

    def html(self, anchor: str) -> str:
        badge = f'<span class="badge {self.status}">{self.status}</span>'
        quick = '<span class="badge quick">quick run</span>' if self.quick else ""
        lines = [
            f'<article class="card{" wide" * self.wide}" id="{anchor}">',
            f'<div class="title"><h3>{escape(self.title)}</h3><span>{quick} {badge}</span></div>',
            f'<p class="claim">{escape(self.claim)}</p>' if self.claim else "",
            f'<p class="number">{escape(self.number)}</p>' if self.number else "",
            f'<p class="control"><b>Control:</b> {escape(self.control)}</p>' if self.control else "",
            _join(self.parts),
            "</article>",
        ]
        return "".join(lines)


@dataclass
class _Section:
    title: str
    intro: str
    parts: list[Part]
    cards: list[_Card] = field(default_factory=list)


class Report:
    """Cards, sections, tables, pictures and charts on one page that needs nothing but itself.

    Args:
        title: of the page.
        intro: one or two sentences below it.
        provenance: printed at the foot; made here and now when omitted.

    Example:
        >>> from tenfold.viz import Report, Table
        >>> report = Report("Kernels", "Ours against peers.")
        >>> report.card("nms", number="31x", control="same kept boxes", parts=[Table(["n"], [[1000]])])
        >>> "<h3>nms</h3>" in report.html()
        True
    """

    def __init__(self, title: str, intro: str = "", *, provenance: Provenance | None = None) -> None:
        self.title = title
        self.intro = intro
        self.provenance = provenance
        self._sections: list[_Section] = [_Section("", "", [])]

    def section(self, title: str, intro: str = "", parts: Sequence[Part] = ()) -> None:
        """Begin a section; the cards added next belong to it."""
        self._sections.append(_Section(title, intro, list(parts)))

    def card(
        self,
        title: str,
        *,
        claim: str = "",
        number: str = "",
        control: str = "",
        status: Status = "ok",
        quick: bool = False,
        wide: bool = False,
        parts: Sequence[Part] = (),
    ) -> None:
        """Add a card to the current section.

        Args:
            title: what was run.
            claim: the sentence under test.
            number: our result, large.
            control: what the number is compared with.
            status: "ok" or "failed", shown as a badge.
            quick: mark the card as a quick run, not the claim.
            wide: let the card take the whole width.
            parts: tables, pictures, charts, text, in order.
        """
        if status not in ("ok", "failed"):
            raise ValueError(f"Report.card: status: {status!r} was received; 'ok' or 'failed' is expected")
        self._sections[-1].cards.append(_Card(title, claim, number, control, status, quick, wide, parts))

    def html(self) -> str:
        """The whole page."""
        facts = self.provenance or provenance()
        anchors = _Anchors()
        body = "".join(self._section_html(section, anchors) for section in self._sections)
        facts_html = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{escape(self.title)}</title>'
            f"<style>{CSS}</style></head><body>"
            f"<header><h1>{escape(self.title)}</h1>{Text(self.intro).html() if self.intro else ''}"
            f"{self._bar(body)}</header>"
            f"<main>{body}</main>"
            f'<footer><dl aria-label="Provenance">{facts_html}</dl></footer>'
            f"<script>{SCRIPT}</script></body></html>\n"
        )

    def _bar(self, body: str) -> str:
        cards = [card for section in self._sections for card in section.cards]
        items = []
        for status in ("ok", "failed"):
            count = sum(card.status == status for card in cards)
            if count:
                items.append(f'<span class="badge {status}">{count} {status}</span>')
        anchors = _Anchors()
        for section in self._sections:
            if section.title:
                items.append(f'<a href="#{anchors(section.title)}">{escape(section.title)}</a>')
            for card in section.cards:
                anchors(card.title)
        if "<details" in body:
            items.append('<button class="tool" id="toggle-details" type="button">Show all details</button>')
        return f'<nav class="bar" aria-label="Summary">{"".join(items)}</nav>' if items else ""

    def _section_html(self, section: _Section, anchors: Callable[[str], str]) -> str:
        anchor = f' id="{anchors(section.title)}"' if section.title else ""
        head = f"<h2>{escape(section.title)}</h2>" if section.title else ""
        intro = Text(section.intro).html() if section.intro else ""
        cards = "".join(card.html(anchors(card.title)) for card in section.cards)
        grid = f'<div class="cards">{cards}</div>' if cards else ""
        content = head + intro + _join(section.parts) + grid
        return f"<section{anchor}>{content}</section>" if content else ""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page atomically: the old file stays until the new one is complete."""
        write_text(path, self.html())


class _Anchors:
    """Distinct ids made from titles, the same on every walk over the page."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __call__(self, title: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
        count = self._seen[slug] = self._seen.get(slug, 0) + 1
        return slug if count == 1 else f"{slug}-{count}"
