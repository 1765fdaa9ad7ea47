"""Runs rows: results, checks, interleaved times, ratios, growth, goals; one plain record for each line."""

import importlib.util
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.beside import alone_and_beside
from kernels.limits import Limits, measure_limits
from kernels.machine import growth_peak, limit_cores, stamp, version_of
from kernels.model import Call, Case, Peer, Row, Verdict, bit_equal
from kernels.reasons import REASONS
from kernels.timing import Timing, interleave
from tenfold import SlowPathWarning

FORMAT = 1
GROWTH_BOUND = 1.15
PARALLEL_BAR = 1.7


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Args:
        rounds: samples for each candidate.
        least: shortest sample, seconds.
        most: seconds one candidate may take over its rounds.
        patience: a peer slower than this many seconds a call, and than three of our calls, is left out of further
            thread counts and sizes.
        threads: thread counts, the first being 1.
        scales: sizes of the growth fit besides 1.
        budget: seconds for all rows together.
        quick: marks the results.
    """

    rounds: int = 7
    least: float = 0.02
    most: float = 40.0
    patience: float = 1.0
    threads: tuple[int, ...] = (1, 2)
    scales: tuple[float, ...] = (0.25, 0.5, 4.0)
    budget: float = math.inf
    quick: bool = False


FULL = Plan()
QUICK = Plan(
    rounds=3, least=0.004, most=1.5, patience=0.3, threads=(1,), scales=(0.25,), budget=50.0, quick=True
)


@dataclass
class _Candidate:
    """Ours or a peer, after its first call: a status of "ok", or words that say why there is no number."""

    status: str
    call: Call | None = None
    result: Any = None
    seconds: float = 0.0


# Operators that run their Python reference: each says so once in a process.
_SLOW_OPS: set[str] = set()


def _is_slow(row: Row) -> bool:
    return not _SLOW_OPS.isdisjoint(row.op.split(" + "))


def _is_missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return True


def _first_call(build: Callable[[Case], Call], case: Case, missing: str) -> _Candidate:
    """Build and call once. Whatever a candidate raises becomes its status: other rows must go on."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SlowPathWarning)
            call = build(case)
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
    except ImportError as error:
        return _Candidate(f"{missing}: {_one_line(error)}")
    except Exception as error:
        return _Candidate(f"failed: {_one_line(error)}")
    _SLOW_OPS.update(str(w.message).split(":")[0] for w in caught if issubclass(w.category, SlowPathWarning))
    return _Candidate("ok", call, result, seconds)


def _one_line(error: BaseException) -> str:
    text = " ".join(re.sub(r"(?:/[^\s/()]+)+/", "", str(error)).split())  # no folders of this machine
    return f"{type(error).__name__}: {text[:160]}"


def _try_peer(peer: Peer, case: Case) -> _Candidate:
    if _is_missing(peer.module):
        return _Candidate("not installed")
    if peer.max_size is not None and case.size > peer.max_size:
        return _Candidate(f"skipped: more than {peer.max_size:,} is too much for it")
    return _first_call(peer.build, case, "not installed")


def _compare(row: Row, ours: Any, make_other: Callable[[], Any]) -> Verdict:
    try:
        return row.agree(ours, make_other())
    except Exception as error:
        return Verdict(False, f"check failed: {_one_line(error)}")


def _oracle_verdict(row: Row, case: Case, ours: Any) -> Verdict | None:
    """Verdict of the independent result; None where the row has none, or its package is not installed."""
    if row.oracle is None:
        return None
    try:
        expected = row.oracle(case)
    except ImportError:
        return None
    return _compare(row, ours, lambda: expected)


@dataclass
class _Check:
    """Whether ratios of a row may be printed."""

    passed: bool
    text: str
    against: str
    peers: dict[str, Verdict]


def _check(row: Row, case: Case, ours: _Candidate, peers: Mapping[str, _Candidate]) -> tuple[_Check, Any]:
    """Check our result; also returns it in normal form, for the later thread counts."""
    if ours.status != "ok":
        return _Check(False, ours.status, "", {}), None
    try:
        normal = row.normal(ours.result, case)
    except Exception as error:
        return _Check(False, f"check failed: {_one_line(error)}", "", {}), None
    by_name = {peer.name: peer for peer in row.peers if peer.same and peers[peer.name].status == "ok"}
    if row.measure == "bytes":
        by_name = {}  # a peer's result is its number of bytes
    verdicts = {
        name: _compare(row, normal, lambda p=peer: p.normal(peers[p.name].result, case))  # type: ignore[misc]
        for name, peer in by_name.items()
    }
    independent = _oracle_verdict(row, case, normal)
    if independent is not None:
        return _Check(independent.passed, independent.text, "oracle", verdicts), normal
    if not verdicts:
        return _Check(False, "unchecked: no oracle and no peer of the same semantics ran", "", {}), normal
    failed = {name: v for name, v in verdicts.items() if not v.passed}
    name, verdict = next(iter((failed or verdicts).items()))
    return _Check(verdict.passed, verdict.text, name, verdicts), normal


def _scratch(call: Call) -> int | None:
    """Bytes of scratch memory that one call takes, as the kernels count them."""
    try:
        from tenfold._native import scratch_peak
    except ImportError:
        return None
    scratch_peak(reset=True)
    call()
    return int(scratch_peak(reset=True))


def fit_exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of log time against log size; None with fewer than two sizes."""
    logs = [(math.log(n), math.log(t)) for n, t in points if n > 0 and t > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = (sum(p[axis] for p in logs) / len(logs) for axis in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def _growth(row: Row, plan: Plan, dtype: str, base: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """Times at the other sizes, and the exponent fitted through all of them.

    Args:
        row: what to run.
        plan: its scales.
        dtype: of the inputs.
        base: name to (size, milliseconds) at the nominal size, from which the time at others is foreseen.
    """
    points: dict[str, list[tuple[int, float]]] = {name: [point] for name, point in base.items()}
    for scale in plan.scales:
        case = row.make(scale, dtype)
        candidates = {"ours": _first_call(row.ours, case, "not built")}
        for peer in row.peers:
            # A quadratic peer at four times the size takes sixteen times as long.
            if peer.name in base and base[peer.name][1] * max(1.0, scale) ** 2 <= 1e3 * plan.patience:
                candidates[peer.name] = _try_peer(peer, case)
        good = {
            name: c
            for name, c in candidates.items()
            if c.status == "ok" and c.call is not None and name in base
        }
        timings = _time(good, plan, rounds=min(3, plan.rounds))
        for name, timing in timings.items():
            points[name].append((case.size, 1e3 * timing.score(1)))
    exponent = fit_exponent(points.get("ours", []))
    return {
        "exponent": exponent,
        "bound": GROWTH_BOUND if row.near_linear else None,
        "passed": None if exponent is None or not row.near_linear else exponent <= GROWTH_BOUND,
        "points": {name: sorted(taken) for name, taken in points.items()},
        "peer_exponents": {name: fit_exponent(taken) for name, taken in points.items() if name != "ours"},
    }


def _time(candidates: Mapping[str, _Candidate], plan: Plan, rounds: int | None = None) -> dict[str, Timing]:
    return interleave(
        {name: c.call for name, c in candidates.items() if c.call is not None},
        rounds=rounds or plan.rounds,
        least=plan.least,
        most=plan.most,
        known={name: c.seconds for name, c in candidates.items()},
    )


def run_row(row: Row, plan: Plan, limits: Mapping[int, Limits]) -> Iterator[dict[str, Any]]:
    """The records of a row: one for each dtype, thread count and memory mode."""
    if row.measure == "slowdown":
        if max(plan.threads) > 1:
            yield _run_beside(row, plan)
        return
    for dtype in row.dtypes[:1] if plan.quick else row.dtypes:
        yield from _run_dtype(row, plan, dtype, limits)


def _run_dtype(row: Row, plan: Plan, dtype: str, limits: Mapping[int, Limits]) -> Iterator[dict[str, Any]]:
    case = row.make(1.0, dtype)
    first: _Check | None = None
    reference: Any = None
    slow: dict[str, float] = {}
    one_thread: dict[str, Timing] = {}
    for threads in plan.threads if row.measure == "time" else (1,):
        torch.set_num_threads(threads)
        limit_cores(threads)
        ours = _first_call(row.ours, case, "not built")
        reuse = _first_call(row.ours_out, case, "not built") if row.ours_out is not None else None
        peers = {}
        for peer in row.peers:
            if peer.name in slow:
                peers[peer.name] = _Candidate(f"skipped: {slow[peer.name]:.1f} s a call")
            else:
                peers[peer.name] = _try_peer(peer, case)
        if first is None:
            check, reference = _check(row, case, ours, peers)
            first = check
        else:
            check = _same_bits(row, case, first, ours, reference, what="another thread count")
        common = _common(row, case, dtype, threads)
        if row.measure != "time":
            record = common | _bytes_record(row, ours, peers, check)
            record["goal"] = _goal(row, record, is_main=True)
            yield record
            continue
        everyone = {"ours": ours, **({"ours, out=": reuse} if reuse else {}), **peers}
        good = {name: c for name, c in everyone.items() if c.status == "ok"}
        timings = _time(good, plan)
        if threads == 1:
            one_thread = timings
            # Processor time, so that a busy machine leaves out no more peers than an idle one.
            typical = {name: timing.score(1) for name, timing in timings.items()}
            bar = max(plan.patience, 3 * typical.get("ours", 0.0))
            slow = {name: typical[name] for name in peers if typical.get(name, 0.0) > bar}
        growth = None
        if threads == 1 and row.growth and dtype == row.dtypes[0] and "ours" in timings:
            base = {name: (case.size, 1e3 * typical[name]) for name in typical if name != "ours, out="}
            growth = _growth(row, plan, dtype, base)
        for mode, name in (("fresh", "ours"), ("out", "ours, out=")):
            if name not in everyone:
                continue
            timing = timings.get(name)
            record = common | {"mode": mode}
            mine = check
            if mode == "out":
                mine = _same_bits(row, case, check, everyone[name], reference, what="a reused output")
            record |= _time_record(
                row, everyone[name], peers, timings, timing=timing, check=mine, threads=threads
            )
            record["limit"] = _limit(row, case, limits[threads], timing, threads)
            record["growth"] = growth if mode == "fresh" else None
            record["speedup"] = _speedup(row, one_thread.get(name), timing, threads)
            is_main = mode == ("out" if row.ours_out else "fresh") and dtype == "float32"
            record["goal"] = _goal(row, record, is_main=is_main)
            yield record
    torch.set_num_threads(1)


def _run_beside(row: Row, plan: Plan) -> dict[str, Any]:
    """Wall time of our call with several threads, alone and while another process keeps one of the cores busy."""
    threads, case = max(plan.threads), row.make(1.0, "float32")
    torch.set_num_threads(1)
    alone_result = _first_call(row.ours, case, "not built").result
    torch.set_num_threads(threads)
    limit_cores(threads)
    ours = _first_call(row.ours, case, "not built")
    check, alone, times = _Check(False, ours.status, "", {}), None, {}
    if ours.call is not None:
        verdict = _compare(
            replace(row, agree=bit_equal),
            row.normal(ours.result, case),
            lambda: row.normal(alone_result, case),
        )
        check = _Check(verdict.passed, verdict.text, "one thread", {})
        alone, beside = alone_and_beside(ours.call, rounds=plan.rounds, least=plan.least)
        times = {"beside_ms": 1e3 * min(beside.wall), "slowdown": min(beside.wall) / min(alone.wall)}
    record = _common(row, case, "float32", threads)
    record |= _time_record(row, ours, {}, {}, timing=alone, check=check, threads=threads)
    record["ours"] |= times
    torch.set_num_threads(1)
    return record | {"goal": _goal(row, record, is_main=True)}


def _same_bits(
    row: Row, case: Case, first: _Check, again: _Candidate, reference: Any, *, what: str
) -> _Check:
    """More threads, or a reused output, must give the bits of the checked result (or agree, see `Row.same_bits`)."""
    if not first.passed or again.status != "ok":
        return first
    agree = bit_equal if row.same_bits else row.agree
    verdict = _compare(replace(row, agree=agree), row.normal(again.result, case), lambda: reference)
    text = first.text if verdict.passed else f"{what} {verdict.text}"
    return _Check(verdict.passed, text, first.against, first.peers)


def _common(row: Row, case: Case, dtype: str, threads: int) -> dict[str, Any]:
    return {
        "key": row.key,
        "op": row.op,
        "title": row.title,
        "size": case.text,
        "source": case.data.get("source", "generated"),
        "dtype": dtype,
        "threads": threads,
        "measure": row.measure,
        "mode": "fresh",
        "limit": None,
        "growth": None,
        "speedup": None,
    }


def _peer_head(peer: Peer, candidate: _Candidate, check: _Check) -> dict[str, Any]:
    verdict = check.peers.get(peer.name)
    return {
        "status": candidate.status,
        "version": version_of(peer.package),
        "same": peer.same,
        "note": peer.note,
        "agreement": verdict.text if verdict else None,
        "ratio": None,
    }


def _may_print(check: _Check, peer: Peer) -> bool:
    verdict = check.peers.get(peer.name)
    return check.passed and (verdict is None or verdict.passed)


def _time_record(
    row: Row,
    ours: _Candidate,
    peers: Mapping[str, _Candidate],
    timings: Mapping[str, Timing],
    *,
    timing: Timing | None,
    check: _Check,
    threads: int,
) -> dict[str, Any]:
    table = {}
    for peer in row.peers:
        entry = _peer_head(peer, peers[peer.name], check)
        theirs = timings.get(peer.name)
        if theirs is not None:
            entry |= theirs.record(threads)
            if timing is not None and _may_print(check, peer):
                entry["ratio"] = theirs.score(threads) / timing.score(threads)
        table[peer.name] = entry
    mine: dict[str, Any] = {"status": ours.status, "slow_path": _is_slow(row)}
    if timing is not None:
        mine |= timing.record(threads)
    return {
        "ours": mine,
        "scratch_bytes": _scratch(ours.call) if ours.call is not None else None,
        "check": {"passed": check.passed, "text": check.text, "against": check.against},
        "peers": table,
        "best_same": _best(table, same=True),
        "best_weaker": _best(table, same=False),
    }


def _bytes_record(
    row: Row, ours: _Candidate, peers: Mapping[str, _Candidate], check: _Check
) -> dict[str, Any]:
    count = growth_peak if row.measure == "peak" else _scratch
    mine = count(ours.call) if ours.call is not None else None
    table = {}
    for peer in row.peers:
        entry = _peer_head(peer, peers[peer.name], check)
        theirs = peers[peer.name]
        if theirs.status == "ok" and theirs.call is not None:
            entry["bytes"] = count(theirs.call) if row.measure == "peak" else int(theirs.result)
            if mine and entry["bytes"] is not None and check.passed:
                entry["ratio"] = entry["bytes"] / mine
        table[peer.name] = entry
    return {
        "ours": {"status": ours.status, "slow_path": _is_slow(row), "bytes": mine},
        "scratch_bytes": mine,
        "check": {"passed": check.passed, "text": check.text, "against": check.against},
        "peers": table,
        "best_same": _best(table, same=True),
        "best_weaker": None,
    }


def _best(table: Mapping[str, dict[str, Any]], *, same: bool) -> dict[str, Any] | None:
    """The fastest peer of a kind that has a ratio: the one against which we look worst."""
    ratios = {name: e["ratio"] for name, e in table.items() if e["same"] == same and e["ratio"] is not None}
    if not ratios:
        return None
    name = min(ratios, key=lambda key: ratios[key])
    return {"peer": name, "ratio": ratios[name]}


def _limit(
    row: Row, case: Case, limits: Limits, timing: Timing | None, threads: int
) -> dict[str, Any] | None:
    if row.limit is None or timing is None:
        return None
    name, seconds = row.limit(case, limits)
    return {"name": name, "ms": 1e3 * seconds, "fraction": seconds / timing.score(threads)}


def _speedup(row: Row, one: Timing | None, more: Timing | None, threads: int) -> dict[str, Any] | None:
    """Wall time of one thread over that of more; judged where the row takes over 2 ms."""
    if threads == 1 or one is None or more is None:
        return None
    ratio = min(one.wall) / min(more.wall)
    judged = row.parallel and min(one.wall) > 2e-3
    return {
        "ratio": ratio,
        "bar": PARALLEL_BAR if judged else None,
        "passed": ratio >= PARALLEL_BAR if judged else None,
    }


def _goal(row: Row, record: Mapping[str, Any], *, is_main: bool) -> dict[str, Any] | None:
    """The row's goal with our value and the verdict; a missed one carries its recorded reason."""
    goal = row.goal
    if goal is None or not is_main or (record["threads"] != 1 and goal.kind != "slowdown"):
        return None
    value: float | None
    if not record["check"]["passed"]:
        value = None
    elif goal.kind == "ratio":
        best = record["best_same"]
        value = record["peers"][goal.against]["ratio"] if goal.against else best["ratio"] if best else None
    elif goal.kind == "ms":
        value = record["ours"].get("median_ms")
    elif goal.kind == "slowdown":
        value = record["ours"].get("slowdown")
    else:
        value = record["ours"].get("bytes")
    verdict = goal.judge(value)
    return {
        "kind": goal.kind,
        "must": goal.must,
        "stretch": goal.stretch,
        "against": goal.against,
        "text": goal.text(),
        "value": value,
        "verdict": verdict,
        "reason": REASONS.get(row.key, row.reason) if verdict == "missed" else "",
    }


def _not_run(row: Row, why: str) -> dict[str, Any]:
    case = Case(0, "")
    nobody = {peer.name: _Candidate(why) for peer in row.peers}
    check = _Check(False, why, "", {})
    record = _common(row, case, row.dtypes[0], 1)
    record |= _time_record(row, _Candidate(why), nobody, {}, timing=None, check=check, threads=1)
    return record | {"goal": _goal(row, record, is_main=True)}


def run(
    rows: Sequence[Row], plan: Plan = FULL, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """All rows, with what the machine is and can do.

    Args:
        rows: in the order of the table.
        plan: how long and how often.
        progress: receives one line before each row.
    """
    start = time.perf_counter()
    before = stamp()
    limits = {}
    for threads in plan.threads:
        torch.set_num_threads(threads)
        limit_cores(threads)
        limits[threads] = measure_limits()
    records = []
    for number, row in enumerate(rows, 1):
        spent = time.perf_counter() - start
        if spent > plan.budget:
            records.append(_not_run(row, f"not run: the time budget of {plan.budget:.0f} s was used up"))
            continue
        progress(f"[{number}/{len(rows)}, {spent:.0f} s] {row.title}")
        records += list(run_row(row, plan, limits))
    limit_cores(1_000_000)
    return {
        "format": FORMAT,
        "quick": plan.quick,
        "stamp": before
        | {"load_average_after": stamp()["load_average"], "seconds": time.perf_counter() - start},
        "limits": {
            str(n): {
                "memory_copy_GBps": value.dram_bytes / 1e9,
                "l2_copy_GBps": value.l2_bytes / 1e9,
                "gemm_GFLOPs": value.gemm_flops / 1e9,
                "vector_GFLOPs": value.vector_flops / 1e9,
            }
            for n, value in limits.items()
        },
        "rows": records,
    }
