"""The runner on made-up operators whose speed and mistakes are known."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.beside import competitor
from kernels.model import Goal, Peer, all_but, bit_equal, within
from kernels.output import line
from kernels.run import FULL, fit_exponent, run, run_row
from kernels.testing import LIMITS, PLAN, busy, doubled, peer, row


def one(subject, plan=PLAN):
    (record,) = run_row(subject, plan, LIMITS)
    return record


def test_ratio_is_peer_over_ours():
    record = one(row([peer()], goal=Goal("ratio", 3, 5)))
    assert record["check"] == {"passed": True, "text": "bit-equal", "against": "peer"}
    assert record["peers"]["peer"]["ratio"] == pytest.approx(4.0, rel=0.25)
    assert record["ours"]["rounds"] == record["peers"]["peer"]["rounds"] == 7
    assert record["ours"]["clock"] == "process CPU"
    assert record["goal"]["verdict"] == "must met"
    assert record["limit"] is None


def test_wrong_result_refuses_every_ratio_and_the_goal():
    record = one(row([peer(), peer("weaker", same=False)], wrong=1.0, goal=Goal("ratio", 3, 5)))
    assert not record["check"]["passed"]
    assert record["check"]["text"].startswith("differs")
    assert {p["ratio"] for p in record["peers"].values()} == {None}
    assert record["best_same"] is None
    assert record["best_weaker"] is None
    assert record["goal"]["verdict"] == "not judged"
    # The times themselves stay visible.
    assert record["peers"]["peer"]["median_ms"] > 0


def test_an_oracle_tells_which_side_is_wrong():
    subject = row([peer("wrong peer", wrong=1.0), peer("right peer")], oracle=lambda case: case["x"] * 2)
    record = one(subject)
    assert record["check"]["passed"]
    assert record["check"]["against"] == "oracle"
    assert record["peers"]["wrong peer"]["ratio"] is None
    assert record["peers"]["wrong peer"]["agreement"].startswith("differs")
    assert record["peers"]["right peer"]["ratio"] is not None


def test_one_wrong_peer_without_an_oracle_refuses_the_row():
    record = one(row([peer("right"), peer("other", wrong=1.0)]))
    assert not record["check"]["passed"]
    assert {p["ratio"] for p in record["peers"].values()} == {None}


def test_unchecked_rows_have_no_ratio():
    record = one(row([peer("weaker", same=False)]))
    assert "unchecked" in record["check"]["text"]
    assert record["peers"]["weaker"]["ratio"] is None


def test_weaker_peers_are_compared_in_time_only():
    record = one(row([peer("weaker", same=False, wrong=3.0)], oracle=lambda case: case["x"] * 2))
    assert record["best_same"] is None
    assert record["best_weaker"]["peer"] == "weaker"
    assert record["peers"]["weaker"]["agreement"] is None


def test_best_peer_is_the_fastest():
    record = one(row([peer("slow", 6.0), peer("fast", 2.0)]))
    assert record["best_same"]["peer"] == "fast"


def test_goal_against_a_named_peer():
    goal = Goal("ratio", 5, 100, against="slow")
    record = one(row([peer("slow", 8.0), peer("fast", 2.0)], goal=goal))
    assert record["goal"]["value"] == record["peers"]["slow"]["ratio"]
    assert record["goal"]["verdict"] == "must met"


def test_missing_peer_says_so_and_has_no_number():
    absent = replace(peer("absent"), module="no_such_module_here.ops", package="no-such-distribution")
    entry = one(row([peer(), absent]))["peers"]["absent"]
    assert entry["status"] == "not installed"
    assert entry["version"] is None
    assert "median_ms" not in entry
    assert entry["ratio"] is None


def test_peer_that_cannot_import_or_raises_does_not_stop_the_row():
    def broken_import(case):
        raise ImportError("needs torch 2.13 from /some/private/folder/lib.so")

    def broken_call(case):
        return lambda: 1 / 0

    peers = [peer(), Peer("a", "torch", "torch", broken_import), Peer("b", "torch", "torch", broken_call)]
    table = one(row(peers))["peers"]
    assert table["a"]["status"].startswith("not installed: ImportError")
    assert "private" not in table["a"]["status"]
    assert table["b"]["status"].startswith("failed: ZeroDivisionError")
    assert table["peer"]["ratio"] is not None


def test_op_that_is_not_built_leaves_the_peers_times():
    def absent(case):
        from tenfold import no_such_operator  # noqa: F401

    record = one(replace(row([peer()], goal=Goal("ratio", 1)), ours=absent))
    assert record["ours"]["status"].startswith("not built")
    assert record["peers"]["peer"]["median_ms"] > 0
    assert record["peers"]["peer"]["ratio"] is None
    assert record["goal"]["verdict"] == "not judged"


def test_max_size_keeps_a_peer_away():
    entry = one(row([peer(), peer("big", max_size=10)]))["peers"]["big"]
    assert entry["status"].startswith("skipped")


def test_slow_python_reference_is_marked_in_every_row_of_the_op():
    from tenfold import SlowPathWarning

    said = []

    def build(case):
        def call():
            if not said:  # an operator says it once in a process
                said.append(True)
                warnings.warn("slow_op: running the slow Python reference", SlowPathWarning, stacklevel=1)
            return case["x"] * 2

        return call

    for op in ("slow_op", "other + slow_op"):
        assert one(replace(row([peer()], op=op), ours=build))["ours"]["slow_path"]
    assert not one(row([peer()], op="other"))["ours"]["slow_path"]


def test_out_mode_is_a_record_of_its_own_and_carries_the_goal():
    subject = row([peer()], ours_out=doubled(0.5), goal=Goal("ratio", 6))
    fresh, reuse = run_row(subject, PLAN, LIMITS)
    assert (fresh["mode"], reuse["mode"]) == ("fresh", "out")
    assert fresh["goal"] is None
    assert reuse["goal"]["verdict"] == "must met"
    assert reuse["peers"]["peer"]["ratio"] > fresh["peers"]["peer"]["ratio"]


def test_wrong_out_mode_has_no_ratio():
    subject = row([peer()], ours_out=doubled(0.5, wrong=1.0))
    _, reuse = run_row(subject, PLAN, LIMITS)
    assert not reuse["check"]["passed"]
    assert reuse["peers"]["peer"]["ratio"] is None


def test_goals_are_for_float32_and_one_thread():
    subject = row([peer()], dtypes=("float32", "float64"), goal=Goal("ratio", 2))
    records = list(run_row(subject, replace(PLAN, threads=(1, 2)), LIMITS))
    assert [(r["dtype"], r["threads"]) for r in records] == [
        ("float32", 1), ("float32", 2), ("float64", 1), ("float64", 2)]  # fmt: skip
    assert [r["goal"] is not None for r in records] == [True, False, False, False]
    assert records[1]["ours"]["clock"] == "wall"
    assert records[1]["speedup"]["ratio"] == pytest.approx(1.0, rel=0.5)
    assert records[1]["speedup"]["passed"] is None


def test_result_that_changes_with_threads_is_refused():
    def build(case):
        return lambda: case["x"] * 2 + (torch.get_num_threads() > 1)

    subject = replace(row([peer()]), ours=build)
    one_thread, two = run_row(subject, replace(PLAN, threads=(1, 2)), LIMITS)
    assert one_thread["check"]["passed"]
    assert not two["check"]["passed"]
    assert two["peers"]["peer"]["ratio"] is None


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_slowdown_beside_a_process():
    subject = row(milliseconds=3.0, measure="slowdown", goal=Goal("slowdown", 3, 2))
    assert list(run_row(subject, PLAN, LIMITS)) == []  # one thread alone
    record = one(subject, replace(PLAN, threads=(1, 2)))
    ours = record["ours"]
    assert record["check"] == {"passed": True, "text": "bit-equal", "against": "one thread"}
    assert record["goal"]["value"] == ours["slowdown"] == ours["beside_ms"] / ours["min_ms"]
    assert "alone" in line(record)[5]
    assert record["goal"]["text"] == "≤ 3× alone / ≤ 2× alone"


def test_a_competitor_ends_with_its_block():
    before = _children()  # another test may have left a server for forks
    with competitor():
        assert len(_children() - before) == 1
    assert _children() == before


def _children():
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_slow_peers_are_left_out_of_further_thread_counts():
    plan = replace(PLAN, threads=(1, 2), patience=0.002)
    first, second = run_row(row([peer(milliseconds=4.0)]), plan, LIMITS)
    assert first["peers"]["peer"]["ratio"] is not None
    assert second["peers"]["peer"]["status"].startswith("skipped")


@pytest.mark.parametrize(("rounding", "passed"), [(1e-6, True), (1e-2, False)])
def test_other_thread_counts_give_the_same_bits_or_agree(rounding, passed):
    def build(case):
        return lambda: case["x"] * 2 * (1 + rounding * (torch.get_num_threads() - 1))

    subject = replace(row([peer()]), ours=build, agree=within(1e-3))
    plan = replace(PLAN, threads=(1, 2))
    _, strict = run_row(subject, plan, LIMITS)
    assert strict["check"]["text"].startswith("another thread count differs")
    _, rounded = run_row(replace(subject, same_bits=False), plan, LIMITS)
    assert rounded["check"]["passed"] is passed


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_fit_finds_the_exponent(exponent):
    assert fit_exponent([(n, 3e-9 * n**exponent) for n in (250, 1000, 4000)]) == pytest.approx(exponent)


def test_fit_needs_two_sizes():
    assert fit_exponent([(1000, 1.0)]) is None
    assert fit_exponent([(1000, 1.0), (1000, 2.0)]) is None


@pytest.mark.parametrize(("power", "passed"), [(1, True), (2, False)])
def test_growth_is_measured_and_judged(power, passed):
    def build(case):
        return lambda: busy(2e-3 * (case.size / 1000) ** power) or case["x"]

    subject = row([], growth=True, oracle=lambda case: case["x"])
    record = one(replace(subject, ours=build), replace(PLAN, scales=(0.25, 4.0)))
    assert record["growth"]["exponent"] == pytest.approx(power, abs=0.12)
    assert record["growth"]["passed"] is passed
    assert [n for n, _ in record["growth"]["points"]["ours"]] == [250, 1000, 4000]


def test_bytes_rows_compare_memory(monkeypatch):
    import sys
    import types

    native = types.ModuleType("tenfold._native")
    native.scratch_peak = lambda reset=True: 2_000_000
    monkeypatch.setitem(sys.modules, "tenfold._native", native)
    table = Peer("table", "torch", "torch", lambda case: lambda: 300_000_000)
    subject = row([table], measure="bytes", oracle=lambda case: case["x"] * 2, goal=Goal("bytes", 8e6))
    record = one(subject)
    assert record["peers"]["table"]["ratio"] == 150.0
    assert record["goal"]["verdict"] == "must met"
    assert record["goal"]["value"] == record["scratch_bytes"] == 2_000_000


def test_peak_rows_measure_ours_and_the_peer():
    def allocate(factor):
        return lambda case: lambda: (torch.ones(factor * 4_000_000), case["x"] * 2)[1]

    greedy = Peer("greedy", "torch", "torch", allocate(4))
    subject = replace(row([greedy], measure="peak", goal=Goal("bytes", 1e9)), ours=allocate(1))
    record = one(subject)
    assert record["check"]["passed"]
    assert record["ours"]["bytes"] == pytest.approx(16e6, rel=0.2)
    assert record["peers"]["greedy"]["bytes"] == pytest.approx(64e6, rel=0.2)
    assert record["peers"]["greedy"]["ratio"] == pytest.approx(4.0, rel=0.3)
    assert record["goal"]["verdict"] == "must met"


def test_limit_fraction_uses_the_measured_rate():
    subject = row([peer()], limit=lambda case, limits: limits.copy(1e7))
    record = one(subject)
    assert record["limit"]["name"] == "memory copy"
    assert record["limit"]["ms"] == pytest.approx(1.0)
    assert record["limit"]["fraction"] == pytest.approx(1.0 / record["ours"]["median_ms"])


def test_budget_ends_the_run_with_honest_lines():
    results = run(
        [row([peer()]), row([peer()], key="late", goal=Goal("ratio", 2))], replace(PLAN, budget=0.0)
    )
    assert len(results["rows"]) == 2
    for record in results["rows"]:
        assert record["ours"]["status"].startswith("not run: the time budget")
        assert record["peers"]["peer"]["ratio"] is None
    assert results["rows"][1]["goal"]["verdict"] == "not judged"


def test_run_stamps_the_machine():
    results = run([row([peer()])], PLAN)
    stamp = results["stamp"]
    assert stamp["versions"]["torch"] == torch.__version__.split("+")[0]
    assert stamp["numpy_blas"] != ""
    assert len(stamp["load_average"]) == 3
    assert results["limits"]["1"]["gemm_GFLOPs"] > 0.1
    assert torch.get_num_threads() == 1


def test_a_full_run_takes_at_least_seven_rounds():
    assert FULL.rounds >= 7
    assert (*FULL.scales, 1.0) == (0.25, 0.5, 4.0, 1.0)  # four sizes behind a growth exponent


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal("ratio", 10, 20), 20.0, "stretch met"),
        (Goal("ratio", 10, 20), 19.9, "must met"),
        (Goal("ratio", 10, 20), 9.99, "missed"),
        (Goal("ms", 45, 15), 15.0, "stretch met"),
        (Goal("ms", 45, 15), 45.1, "missed"),
        (Goal("bytes", 8e6), 8e6, "must met"),
        (Goal("bytes", 8e6), None, "not judged"),
    ],
)
def test_goals_are_judged(goal, value, verdict):
    assert goal.judge(value) == verdict


def test_missed_goal_carries_its_reason(monkeypatch):
    import kernels.run

    monkeypatch.setitem(kernels.run.REASONS, "double", "the sum is bound by memory")
    record = one(row([peer()], goal=Goal("ratio", 1000)))
    assert record["goal"]["verdict"] == "missed"
    assert record["goal"]["reason"] == "the sum is bound by memory"


def test_agreements_see_small_differences():
    a = torch.tensor([1.0, 2.0])
    assert bit_equal(a, a.clone()).passed
    assert not bit_equal(a, a + torch.tensor([0.0, 2e-7 * 2])).passed
    assert not bit_equal(a, a[:1]).passed
    assert bit_equal((a, a.int()), (a, a.long())).passed
    assert within(1e-6)(a, a + 5e-7).passed
    assert not within(1e-6)(a, a + 5e-6).passed
    assert not within(1e-6)(a, torch.tensor([1.0, float("nan")])).passed
    assert not within(1e-6)(torch.tensor([float("nan"), 2.0]), a).passed
    assert not within(1e-6)((a, torch.tensor([1])), (a, torch.tensor([2]))).passed
    assert all_but(0.5)(a, torch.tensor([1.0, 3.0])).passed
    assert not all_but(0.4)(a, torch.tensor([1.0, 3.0])).passed
