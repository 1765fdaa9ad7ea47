"""Small charts as SVG text: ratio bars on a log scale, and line plots with fitted slopes.

Positions are percentages and text has a fixed size, so a chart stays readable at any width. Colours follow
the reader's light or dark setting.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from tenfold.viz.colours import class_colour

_STYLE = """<style>
.tf-chart{--tf-ink:#1c2330;--tf-soft:#5d687a;--tf-line:#d5dae3;--tf-good:#1a7f54;--tf-weak:#b26a00;
--tf-bad:#c0392b;
font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){.tf-chart{--tf-ink:#e6e9ef;--tf-soft:#9aa5b8;--tf-line:#353d4b;
--tf-good:#4cc38a;
--tf-weak:#e0a33e;--tf-bad:#ff7b6b}}
.tf-chart text{fill:var(--tf-ink)}.tf-chart .soft{fill:var(--tf-soft);font-size:11px}
.tf-chart .grid{stroke:var(--tf-line)}.tf-chart .one{stroke:var(--tf-ink);stroke-width:1.5}
.tf-chart .good{fill:var(--tf-good)}.tf-chart .weak{fill:var(--tf-weak)}.tf-chart .bad{fill:var(--tf-bad)}
.tf-chart .goal{stroke:var(--tf-ink);stroke-width:2}
</style>"""


@dataclass(frozen=True)
class Bar:
    """One bar: name, ratio (None: not measured, the reason is in `note`), and goals drawn as ticks."""

    name: str
    ratio: float | None
    goals: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line: its name and (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]] = field(default_factory=tuple)


def _open(height: float, label: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tf-chart" width="100%" height="{height:g}" '
        f'role="img" aria-label="{escape(label)}">',
        _STYLE,
    ]


def standalone(svg: str, width: int = 720) -> str:
    """The chart with a width in pixels, for a file of its own.

    Example:
        >>> from tenfold.viz import Bar, ratio_bars, standalone
        >>> 'width="720"' in standalone(ratio_bars([Bar("nms", 10.0)]))
        True
    """
    return svg.replace('width="100%"', f'width="{width}"', 1)


def _text(x: float, y: float, text: str, *, soft: bool = True, anchor: str = "start") -> str:
    look = ' class="soft"' if soft else ""
    return f'<text{look} x="{x:.2f}%" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _segment(look: str, x: tuple[float, float], y: tuple[float, float]) -> str:
    ends = f'x1="{x[0]:.2f}%" x2="{x[1]:.2f}%" y1="{y[0]:.1f}" y2="{y[1]:.1f}"'
    return f'<line class="{look}" {ends}/>'


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _decades(low: float, high: float) -> list[float]:
    return [
        10.0**k for k in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    ]


def ratio_bars(bars: Sequence[Bar], *, label: str = "ratio to the best peer") -> str:
    """Horizontal bars on a log scale that start at 1x: to the right is faster, to the left slower.

    A bar is green when its first goal is met, amber when it is above 1 but misses that goal, red below 1.
    Goals are ticks. A bar without a ratio shows its note.

    Args:
        bars: in the order drawn; ratios must be positive.
        label: what the axis means.

    Returns:
        SVG text, as wide as its place.

    Raises:
        ValueError: a ratio or goal that is not a positive finite number.

    Example:
        >>> from tenfold.viz import Bar, ratio_bars
        >>> ratio_bars([Bar("nms 10k", 31.0, goals=(30.0, 100.0))]).startswith("<svg")
        True
    """
    values = [v for bar in bars for v in (bar.ratio, *bar.goals) if v is not None]
    if not all(math.isfinite(v) and v > 0 for v in values):
        raise ValueError("ratio_bars: bars: ratios and goals must be positive finite numbers")
    low, high = min([0.5, *values]) / 1.15, max([2.0, *values]) * 1.15

    def at(value: float) -> float:
        return 1.0 + 84.0 * math.log(value / low) / math.log(high / low)

    row, top = 40, 22
    height = top + row * len(bars) + 22
    out = [*_open(height, label), _text(1, 12, label)]
    for value in _decades(low, high):
        x = at(value)
        out.append(_segment("grid", (x, x), (top, height - 16)))
        out.append(_text(x, height - 4, f"{_short(value)}×", anchor="middle"))
    for index, bar in enumerate(bars):
        out += _bar(bar, top + row * index, at)
    return "\n".join([*out, "</svg>"])


def _bar(bar: Bar, y: float, at: Callable[[float], float]) -> list[str]:
    out = [_text(1, y + 13, bar.name, soft=False)]
    if bar.ratio is None:
        return [*out, _text(1, y + 29, bar.note or "no ratio")]
    met = not bar.goals or bar.ratio >= bar.goals[0]
    tone = "bad" if bar.ratio < 1 else "good" if met else "weak"
    left, right = sorted((at(1.0), at(bar.ratio)))
    width = max(right - left, 0.3)
    title = f"<title>{escape(bar.name)}: {_short(bar.ratio)}×. {escape(bar.note)}</title>"
    place = f'x="{left:.2f}%" y="{y + 19}" width="{width:.2f}%" height="13"'
    out.append(f'<rect class="{tone}" {place} rx="2">{title}</rect>')
    out.append(_segment("one", (at(1.0), at(1.0)), (y + 16, y + 35)))
    out += [_segment("goal", (at(goal), at(goal)), (y + 16, y + 35)) for goal in bar.goals]
    end = max([right, *(at(goal) for goal in bar.goals)])
    return [*out, _text(end + 1, y + 30, f"{_short(bar.ratio)}×", soft=False)]


def fitted_slope(points: Iterable[tuple[float, float]]) -> float | None:
    """Least-squares slope in log-log axes; None with fewer than two different positive x.

    Example:
        >>> round(fitted_slope([(1, 3), (2, 12), (4, 48)]), 6)
        2.0
    """
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        decades = _decades(low, high)
        if len(decades) >= 2:
            return decades
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(m * power - raw))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _limits(values: list[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.25, high * 1.25
    pad = (high - low) * 0.06 or max(abs(low), 1.0) * 0.1
    return low - pad, high + pad


def line_plot(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    slopes: bool = False,
    height: int = 280,
) -> str:
    """Lines with markers; with `log`, both axes are logarithmic.

    Args:
        series: at least one with a point; points with a non-finite (with `log`, also a non-positive)
            coordinate are left out.
        x_label: below the axis.
        y_label: above the axis.
        log: logarithmic axes.
        slopes: write each line's fitted log-log slope (the growth exponent) into the legend.
        height: of the drawing area, pixels.

    Returns:
        SVG text, as wide as its place.

    Raises:
        ValueError: no point that can be drawn.

    Example:
        >>> from tenfold.viz import Series, line_plot
        >>> lines = [Series("nms", [(1e3, 0.2), (4e3, 0.8)])]
        >>> svg = line_plot(lines, x_label="boxes", y_label="ms", log=True, slopes=True)
        >>> "slope 1.00" in svg
        True
    """
    kept = [
        Series(
            s.name, [(x, y) for x, y in s.points if math.isfinite(x * y) and (not log or (x > 0 and y > 0))]
        )
        for s in series
    ]
    xs, ys = ([p[axis] for s in kept for p in s.points] for axis in (0, 1))
    if not xs:
        raise ValueError("line_plot: series: no point that can be drawn was received")
    x_range, y_range = _limits(xs, log), _limits(ys, log)

    def place(value: float, limits: tuple[float, float]) -> float:
        if log:
            return 100.0 * math.log(value / limits[0]) / math.log(limits[1] / limits[0])
        return 100.0 * (value - limits[0]) / (limits[1] - limits[0])

    left, span, top = 13.0, 84.0, 22

    def spot(x: float, y: float) -> tuple[float, float]:
        return left + span * place(x, x_range) / 100, top + height * (1 - place(y, y_range) / 100)

    legend_top = top + height + 44
    out = _open(legend_top + 18 * len(kept), f"{y_label} against {x_label}")
    out += [_text(1, 12, y_label), _text(97, top + height + 32, x_label, anchor="end")]
    for value in _ticks(*x_range, log):
        x, _ = spot(value, y_range[0])
        out.append(_segment("grid", (x, x), (top, top + height)))
        out.append(_text(x, top + height + 15, _short_tick(value), anchor="middle"))
    for value in _ticks(*y_range, log):
        _, y = spot(x_range[0], value)
        out.append(_segment("grid", (left, left + span), (y, y)))
        out.append(_text(left - 1, y + 4, _short_tick(value), anchor="end"))
    for index, line in enumerate(kept):
        slope = fitted_slope(line.points) if slopes else None
        spots = [spot(x, y) for x, y in line.points]
        out += _line(line, index, spots, slope=slope, y=legend_top + 18 * index)
    return "\n".join([*out, "</svg>"])


def _short_tick(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:.6g}"


def _line(
    line: Series, index: int, spots: list[tuple[float, float]], *, slope: float | None, y: float
) -> list[str]:
    red, green, blue = class_colour(index)
    # Darker than the class colour, so that it is seen on white as well as on black.
    colour = f"rgb({red * 4 // 5},{green * 4 // 5},{blue * 4 // 5})"
    style = f'stroke="{colour}" stroke-width="2"'
    out = [
        f'<line x1="{a[0]:.2f}%" y1="{a[1]:.1f}" x2="{b[0]:.2f}%" y2="{b[1]:.1f}" {style}/>'
        for a, b in pairwise(spots)
    ]
    for (x_percent, y_pixel), (x, value) in zip(spots, line.points, strict=True):
        title = f"<title>{escape(line.name)}: {value:.4g} at {x:g}</title>"
        place = f'cx="{x_percent:.2f}%" cy="{y_pixel:.1f}"'
        out.append(f'<circle {place} r="3.5" fill="{colour}">{title}</circle>')
    text = escape(line.name) + ("" if slope is None else f", slope {slope:.2f}")
    out.append(f'<rect x="2%" y="{y + 2}" width="12" height="12" rx="2" fill="{colour}"/>')
    return [*out, f'<text x="2%" dx="18" y="{y + 13}">{text}</text>']
