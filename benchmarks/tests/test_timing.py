import pytest

from kernels.timing import interleave, repeats_for


class Clock:
    """A clock that only the timed calls move forward."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def worker(log, name, clock, seconds):
    def call():
        log.append(name)
        clock.now += seconds

    return call


def test_every_round_runs_every_candidate_and_the_order_rotates():
    clock, log = Clock(), []
    calls = {name: worker(log, name, clock, 1.0) for name in "abc"}
    interleave(calls, rounds=7, least=0.5, cpu=clock, wall=clock)
    timed = log[-21:]
    rounds = [timed[i : i + 3] for i in range(0, 21, 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert [r[0] for r in rounds] == ["a", "b", "c", "a", "b", "c", "a"]


def test_short_calls_are_repeated_inside_a_round():
    clock, log = Clock(), []
    calls = {"short": worker(log, "short", clock, 0.001), "long": worker(log, "long", clock, 0.5)}
    out = interleave(calls, rounds=3, least=0.02, cpu=clock, wall=clock)
    assert out["short"].repeats == repeats_for(0.001, 0.02) == 20
    assert out["long"].repeats == 1
    assert out["short"].cpu == pytest.approx([0.001] * 3)
    assert out["long"].wall == pytest.approx([0.5] * 3)


def test_a_busy_moment_hits_all_and_the_median_forgets_it():
    clock = Clock()
    busy = {"from": 100.0, "to": 103.9}

    def call(seconds):
        def run():
            slow = busy["from"] <= clock.now < busy["to"]
            clock.now += seconds * (3 if slow else 1)

        return run

    clock.now = 95.0
    out = interleave({"ours": call(0.2), "peer": call(0.4)}, rounds=11, least=0.0, cpu=clock, wall=clock)
    assert max(out["ours"].cpu) == pytest.approx(0.6)
    assert max(out["peer"].cpu) == pytest.approx(1.2)
    assert out["peer"].score(1) / out["ours"].score(1) == pytest.approx(2.0)


def test_slow_candidates_get_fewer_rounds_but_at_least_one():
    clock, log = Clock(), []
    calls = {"slow": worker(log, "slow", clock, 3.0), "endless": worker(log, "endless", clock, 90.0)}
    out = interleave(calls, rounds=7, most=10.0, cpu=clock, wall=clock)
    assert len(out["slow"].cpu) == 3
    assert len(out["endless"].cpu) == 1


def test_a_known_duration_saves_the_warm_up_of_long_calls():
    clock, log = Clock(), []
    interleave({"a": worker(log, "a", clock, 2.0)}, rounds=2, known={"a": 2.0}, cpu=clock, wall=clock)
    assert len(log) == 2


def test_one_thread_is_judged_by_cpu_and_two_by_wall():
    clock, wall = Clock(), Clock()

    def call():
        clock.now += 2.0
        wall.now += 1.0

    timing = interleave({"a": call}, rounds=3, cpu=clock, wall=wall)["a"]
    assert timing.score(1) == 2.0
    assert timing.score(2) == 1.0
    assert timing.record(1)["clock"] == "process CPU"
    assert timing.record(2) | {"clock": "wall"} == timing.record(2)
    assert timing.record(2)["median_ms"] == 1000.0
