"""JSON, Markdown, charts and the report page, all made from the same records."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kernels.run import GROWTH_BOUND
from tenfold.io import write_text
from tenfold.viz import (
    Bar,
    Cell,
    Chart,
    Details,
    Part,
    Provenance,
    Report,
    Series,
    Table,
    line_plot,
    ratio_bars,
    standalone,
)

Tone = Literal["", "good", "bad", "weak"]
Results = Mapping[str, Any]
Record = Mapping[str, Any]


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Results written before; a ValueError names a file of another format."""
    results = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(results, dict) or results.get("format") != 1:
        raise ValueError(f"{path}: not a benchmark result of format 1; run `python -m kernels` again")
    return results


# ------------------------------------------------------------------ words


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times(value: float | None) -> str:
    """A ratio with its sign."""
    if value is None:
        return "–"
    return f"×{value:,.0f}" if value >= 100 else f"×{value:.3g}"


def _ours(record: Record) -> str:
    ours = record["ours"]
    if ours["status"] != "ok":
        return str(ours["status"])
    if record["measure"] in ("bytes", "peak"):
        return "–" if ours["bytes"] is None else f"{ours['bytes'] / 1e6:.2f} MB"
    slow = " (Python reference)" if ours["slow_path"] else ""
    if record["measure"] == "slowdown":
        alone, beside = milliseconds(ours["min_ms"]), milliseconds(ours["beside_ms"])
        return f"{alone} alone, {beside} beside: {ours['slowdown']:.2f}×{slow}"
    return f"{milliseconds(ours['median_ms'])} ({milliseconds(ours['min_ms'])}){slow}"


def _peer(entry: Mapping[str, Any]) -> str:
    if entry["status"] != "ok":
        return str(entry["status"])
    if entry.get("bytes") is not None:
        return f"{entry['bytes'] / 1e6:.0f} MB"
    if "median_ms" not in entry:
        return "–"
    return f"{milliseconds(entry['median_ms'])} ({milliseconds(entry['min_ms'])})"


def _best(record: Record, key: str) -> str:
    best = record[key]
    return f"{times(best['ratio'])} {best['peer']}" if best else "–"


def _limit(record: Record) -> str:
    limit = record["limit"]
    return f"{limit['fraction']:.0%} of {limit['name']}" if limit else "–"


def _growth(record: Record) -> str:
    growth = record["growth"]
    if not growth or growth["exponent"] is None:
        return "–"
    return f"{growth['exponent']:.2f}" + ("" if growth["passed"] is not False else f" (> {growth['bound']})")


def _exact(record: Record) -> str:
    check = record["check"]
    if record["ours"]["status"] != "ok":
        return "–"
    if check["against"]:
        return f"{check['text']} ({check['against']})"
    return str(check["text"])


def _goal(record: Record) -> str:
    goal = record["goal"]
    if not goal:
        return "–"
    against = f" vs {goal['against']}" if goal["against"] else ""
    reason = f": {goal['reason']}" if goal["reason"] else ""
    return f"{goal['text']}{against}: {goal['verdict']}{reason}"


def _speedup(record: Record) -> str:
    speedup = record["speedup"]
    return f"{speedup['ratio']:.2f}" if speedup else "–"


def _bytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value:,} B"


COLUMNS = (
    *("row", "size", "dtype", "threads", "memory", "ours, ms: median (min)"),
    *("best peer, same semantics", "best peer, weaker semantics", "limit", "scratch", "exact", "growth"),
    *("speed-up by threads", "goal: must / stretch"),
)


def line(record: Record) -> list[str]:
    """The cells of a record under `COLUMNS`."""
    return [
        record["title"],
        record["size"],
        record["dtype"],
        str(record["threads"]),
        record["mode"],
        _ours(record),
        _best(record, "best_same"),
        _best(record, "best_weaker"),
        _limit(record),
        _bytes(record["scratch_bytes"]),
        _exact(record),
        _growth(record),
        _speedup(record),
        _goal(record),
    ]


def peer_lines(results: Results) -> list[list[str]]:
    """One line for each record and peer: times, ratio, agreement, notes."""
    return [
        [
            f"{record['title']}, {record['dtype']}, {record['threads']} thr., {record['mode']}",
            name if entry["same"] else f"{name} *",
            entry["version"] or "–",
            _peer(entry),
            times(entry["ratio"]),
            entry["agreement"] or "–",
            entry["note"] or "–",
        ]
        for record in results["rows"]
        for name, entry in record["peers"].items()
    ]


PEER_COLUMNS = ("row", "peer", "version", "ms: median (min)", "peer / ours", "agreement", "note")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; bars inside cells are escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def facts(results: Results) -> list[tuple[str, str]]:
    """The stamp as pairs of words."""
    stamp = results["stamp"]
    pairs = [
        ("date", stamp["date"]),
        ("CPU", stamp["cpu"]),
        ("our kernels", stamp["native"]),
        ("Python", stamp["python"]),
        ("versions", ", ".join(f"{k} {v}" for k, v in stamp["versions"].items())),
        ("torch's instruction set", stamp["torch_capability"]),
        ("NumPy's BLAS kernel", stamp["numpy_blas"]),
        ("environment", ", ".join(f"{k}={v}" for k, v in stamp["environment"].items() if v) or "nothing set"),
        (
            "load average before, after",
            " / ".join(f"{stamp[k][0]:.2f}" for k in ("load_average", "load_average_after")),
        ),
        ("duration", f"{stamp['seconds']:.0f} s"),
    ]
    for threads, limits in results["limits"].items():
        words = ", ".join(f"{k.replace('_', ' ')} {v:.0f}" for k, v in limits.items())
        pairs.append((f"limits, {threads} thread{'s' if threads != '1' else ''}", words))
    return pairs


READING = (
    "One-thread times are process CPU time, others wall time; ratios use medians with one thread and "
    "minima with more. A ratio is peer / ours, so more than 1 means that ours is faster; it is printed "
    "only where our result was checked in the same run. Peers marked * have weaker or other semantics. "
    "Memory: fresh makes new outputs, out reuses them."
)


def markdown(results: Results) -> str:
    """The whole result as a Markdown document."""
    kind = "Quick run: few rounds, some of the rows.\n\n" if results["quick"] else ""
    parts = [
        "# Kernels against their peers",
        "Made by `python -m kernels` from measurements; do not edit.",
        kind + READING,
        "\n".join(f"- {name}: {value}" for name, value in facts(results)),
        markdown_table(COLUMNS, [line(record) for record in results["rows"]]),
        "## Every peer",
        markdown_table(PEER_COLUMNS, peer_lines(results)),
    ]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------ charts and page


def main_records(results: Results) -> list[Record]:
    """One record a row: one thread, the first dtype, and the memory mode that its goal is about."""
    chosen: dict[str, Record] = {}
    for record in results["rows"]:
        if record["threads"] == 1 and (
            record["key"] not in chosen or (record["goal"] and record["dtype"] == "float32")
        ):
            chosen[record["key"]] = record
    return list(chosen.values())


def _bar(record: Record) -> Bar:
    goal = record["goal"]
    best = record["best_same"] or record["best_weaker"]
    ratio, peer = (best["ratio"], best["peer"]) if best else (None, "")
    bars: tuple[float, ...] = ()
    if goal and goal["kind"] == "ratio":
        bars = tuple(v for v in (goal["must"], goal["stretch"]) if v is not None)
        if goal["against"]:
            ratio, peer = goal["value"], goal["against"]
    title = record["title"] + (f", vs {peer}" if peer else "")
    if ratio is not None:
        return Bar(title, ratio, bars)
    why = record["check"]["text"] if record["ours"]["status"] == "ok" else _ours(record)
    return Bar(title, None, bars, note=str(why))


def _slug(op: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in op).split())


def charts(results: Results) -> dict[str, str]:
    """Name to SVG: ratios of all rows, and growth by operator."""
    records = main_records(results)
    drawn = {
        "ratios": ratio_bars(
            [_bar(r) for r in records], label="peer time / our time; ticks: must and stretch goals"
        )
    }
    grown: dict[str, list[Series]] = {}
    for record in results["rows"]:
        if record["growth"]:
            points = record["growth"]["points"].get("ours", [])
            grown.setdefault(record["op"], []).append(Series(record["title"], [tuple(p) for p in points]))
    for op, series in grown.items():
        if any(len(s.points) > 1 for s in series):
            drawn[f"growth-{_slug(op)}"] = line_plot(
                series, x_label="size", y_label=f"{op}, ms", log=True, slopes=True
            )
    return drawn


_JUDGED = (COLUMNS.index("growth"), COLUMNS.index("goal: must / stretch"))


def _tone(text: str) -> Cell:
    tone: Tone = "bad" if "missed" in text or "(> " in text else "good" if " met" in text else ""
    return Cell(text, sort=text, tone=tone)


def summary(results: Results) -> str:
    """How many must goals are met, in one sentence."""
    goals = [record["goal"] for record in results["rows"] if record["goal"]]
    met = sum(goal["verdict"].endswith("met") for goal in goals)
    stretch = sum(goal["verdict"] == "stretch met" for goal in goals)
    judged = sum(goal["verdict"] != "not judged" for goal in goals)
    left = f"; {len(goals) - judged} not judged" if judged < len(goals) else ""
    return f"{met} of {judged} must goals met, {stretch} of them with the stretch goal{left}"


def card_parts(results: Results) -> list[Part]:
    """Chart and tables of the ratios, for this report and for a card on another page."""
    lines = [line(record) for record in results["rows"]]
    rows = [[_tone(cell) if i in _JUDGED else cell for i, cell in enumerate(cells)] for cells in lines]
    return [
        Chart(charts(results)["ratios"], "One thread, float32."),
        Table(COLUMNS, rows, caption="All measurements"),
        Details("Every peer", [Table(PEER_COLUMNS, peer_lines(results), wrap=(6,))]),
    ]


def is_wrong(results: Results) -> bool:
    """Whether a result of ours failed its check; one with nothing to check it against is only said to be so."""
    return any(
        r["check"]["against"] and not r["check"]["passed"] and r["ours"]["status"] == "ok"
        for r in results["rows"]
    )


def report(results: Results) -> Report:
    """The report page."""
    stamp = results["stamp"]
    origin = Provenance(stamp["date"], stamp["cpu"], None, stamp["versions"], dict(facts(results)[5:]))
    page = Report("Kernels against their peers", READING, provenance=origin)
    page.card(
        "Ratios",
        number=summary(results),
        control="every ratio's result was compared with the peer's or an oracle's in the same run",
        status="failed" if is_wrong(results) else "ok",
        quick=results["quick"],
        wide=True,
        parts=card_parts(results),
    )
    page.section("Growth", f"Times at several sizes; near-linear slopes must stay within {GROWTH_BOUND}.")
    steep = {_slug(r["op"]) for r in results["rows"] if r["growth"] and r["growth"]["passed"] is False}
    for name, svg in charts(results).items():
        if name.startswith("growth-"):
            op = name.removeprefix("growth-")
            page.card(op.replace("-", " "), status="failed" if op in steep else "ok", parts=[Chart(svg)])
    page.section("Machine")
    page.card(
        "Limits and versions",
        wide=True,
        parts=[Table(["fact", "value"], facts(results), wrap=(1,))],
    )
    return page


def write_records(results: Results, folder: Path, stem: str) -> list[Path]:
    """Write `<stem>.json` and `<stem>.md`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    write_text(paths[0], json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(paths[1], markdown(results))
    return paths


def write_all(results: Results, folder: Path) -> list[Path]:
    """Write `kernels.json`, `kernels.md`, the charts and `kernels.html`; returns their paths."""
    paths = [*write_records(results, folder, "kernels"), folder / "kernels.html"]
    report(results).write(paths[2])
    for name, svg in charts(results).items():
        paths.append(folder / f"kernels-{name}.svg")
        write_text(paths[-1], standalone(svg) + "\n")
    return paths
