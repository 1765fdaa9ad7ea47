import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest
import torch

from tenfold._errors import UserInputError
from tenfold.testing import child_environment
from tenfold.train.claims import Cell, environment_stamp, load_records, source_hash, table


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "losses.py"
    path.write_text("weight = 1\n")
    return path


class Counter:
    def __init__(self, **metrics):
        self.calls, self.metrics = 0, metrics

    def __call__(self):
        self.calls += 1
        return self.metrics


def test_fresh_cells_are_skipped_and_stale_ones_run_again(tmp_path, source):
    cell, measure = Cell("unix-kd", "entropy-48", 1), Counter(top1=95.0)
    options = {
        "sources": [source],
        "dataset": "shapes (generated)",
        "config": {"k": 48},
        "results": tmp_path / "r",
    }
    first = cell.run(measure, **options)
    assert cell.run(measure, **options) == first
    assert measure.calls == 1
    assert cell.path(tmp_path / "r") == tmp_path / "r" / "unix-kd" / "entropy-48-1.json"
    source.write_text("weight = 2\n")
    assert not cell.is_fresh(source_hash([source]), tmp_path / "r")
    second = cell.run(measure, **options)
    assert measure.calls == 2
    assert second["key"] != first["key"]
    cell.run(measure, **{**options, "config": {"k": 32}})
    cell.run(measure, **{**options, "config": {"k": 32}})
    assert measure.calls == 3
    cell.run(measure, **{**options, "config": {"k": 32}}, force=True)
    assert measure.calls == 4


def test_record_says_everything(tmp_path, source):
    before = torch.get_num_threads()
    Cell("a", "b", 7).run(Counter(x=1.5), sources=[source], dataset="D", config={"k": 1}, results=tmp_path)
    record = json.loads((tmp_path / "a" / "b-7.json").read_text())
    assert (record["package"], record["arm"], record["seed"], record["dataset"]) == ("a", "b", 7, "D")
    assert record["metrics"] == {"x": 1.5}
    assert record["config"] == {"k": 1}
    assert record["seconds"] >= 0
    stamp = record["environment"]
    assert stamp["versions"]["torch"] == metadata.version("torch")
    assert stamp["threads"] == before
    assert stamp["python"].count(".") == 2
    assert stamp["cpu"] != ""
    assert stamp["date"].endswith("+00:00")
    assert set(stamp["versions"]) == {"tenfold", "torch", "numpy", "a"}


def test_hash_depends_on_names_and_contents_not_on_places(tmp_path):
    for place in ("one", "two"):
        folder = tmp_path / place / "pkg"
        (folder / "sub").mkdir(parents=True)
        (folder / "a.py").write_text("x = 1\n")
        (folder / "sub" / "recipe.yaml").write_text("lr: 1\n")
        (folder / "notes.txt").write_text(place)
    assert source_hash([tmp_path / "one" / "pkg"]) == source_hash([tmp_path / "two" / "pkg"])
    changed = tmp_path / "two" / "pkg" / "sub" / "recipe.yaml"
    changed.write_text("lr: 2\n")
    assert source_hash([tmp_path / "one" / "pkg"]) != source_hash([tmp_path / "two" / "pkg"])
    changed.write_text("lr: 1\n")
    changed.rename(changed.with_name("renamed.yaml"))
    assert source_hash([tmp_path / "one" / "pkg"]) != source_hash([tmp_path / "two" / "pkg"])


def test_modules_are_sources_too():
    assert source_hash(["tenfold.train.claims"]) != source_hash(["tenfold.train.ema"])
    assert source_hash(["tenfold.train"]) not in {source_hash(["tenfold.train.claims"])}
    for bad in (["no.such.module"], [], ["no/such/file.py"]):
        with pytest.raises(ValueError, match=r"expected a file|got none"):
            source_hash(bad)


@pytest.mark.parametrize("metrics", [{}, {"x": float("nan")}, {"x": "1"}, {"x": True}])
def test_metrics_that_are_no_numbers_leave_no_record(tmp_path, source, metrics):
    with pytest.raises(ValueError, match="expected"):
        Cell("a", "b", 0).run(lambda: metrics, sources=[source], dataset="D", results=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("text", ["{", "[]", '{"arm": "other", "seed": 0}'])
def test_damaged_or_misplaced_record_is_named(tmp_path, source, text):
    path = Cell("a", "b", 0).path(tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserInputError, match=r"b-0\.json"):
        Cell("a", "b", 0).run(Counter(x=1), sources=[source], dataset="D", results=tmp_path)


def test_a_kill_in_the_middle_of_writing_leaves_the_old_record(tmp_path, source):
    cell = Cell("a", "b", 0)
    old = cell.run(Counter(x=1), sources=[source], dataset="D", results=tmp_path)
    # The child replaces the record for ever with a big one; it is killed while it writes.
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tenfold.train.claims import Cell\n"
            "big = {'x' * 50 + str(i): i for i in range(20000)}\n"
            "print('go', flush=True)\n"
            "while True: Cell('a', 'b', 0).run(lambda: big, sources=[sys.argv[1]], dataset='D',"
            " results=sys.argv[2], force=True)\n",
            str(source),
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    assert child.stdout is not None
    child.stdout.readline()
    deadline = time.monotonic() + 20
    while not list(tmp_path.rglob("*.tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    record = cell.load(tmp_path)
    assert record is not None
    assert record == old or len(record["metrics"]) == 20000


def records(**arms):
    return [
        {"arm": arm, "seed": seed, "metrics": {"top1": value}}
        for arm, values in arms.items()
        for seed, value in values.items()
    ]


def test_table_has_mean_spread_and_paired_differences():
    text = table(
        records(kd={0: 90.0, 1: 80.0, 2: 70.0}, ours={0: 91.0, 1: 82.0, 3: 10.0}), ["top1"], control="kd"
    )
    assert text.splitlines() == [
        "| arm | top1 | top1 − kd |",
        "|---|---:|---:|",
        "| kd | 80.00 ± 10.00 (n=3) | – |",
        "| ours | 61.00 ± 44.40 (n=3) | +1.50 ± 0.71 (n=2) |",
    ]


def test_table_shows_no_spread_for_one_seed_and_refuses_mistakes():
    assert "| a | 1.0 (n=1) |" in table(records(a={0: 1.0}), ["top1"], digits=1)
    assert "no shared seed" in table(records(a={0: 1.0}, b={1: 1.0}), ["top1"], control="a")
    with pytest.raises(ValueError, match="expected one of a"):
        table(records(a={0: 1.0}), ["top1"], control="z")
    with pytest.raises(ValueError, match="metrics: got 'ap'; expected one of top1"):
        table(records(a={0: 1.0}), ["ap"])
    with pytest.raises(ValueError, match="twice"):
        table(records(a={0: 1.0}) * 2, ["top1"])


def test_table_has_a_dash_where_an_arm_does_not_measure():
    found = records(a={0: 1.0}, b={0: 3.0})
    found[1]["metrics"]["extra"] = 2.0
    text = table(found, ["top1", "extra"], control="a", digits=1)
    assert "| a | 1.0 (n=1) | – | – | – |" in text
    assert "| b | 3.0 (n=1) | 2.0 (n=1) | +2.0 (n=1) | – |" in text


def test_load_records_reads_a_package_s_folder(tmp_path, source):
    for arm, seed in (("kd", 10), ("kd", 9), ("ours-48", 0)):
        Cell("p", arm, seed).run(Counter(x=seed), sources=[source], dataset="D", results=tmp_path)
    found = load_records("p", tmp_path)
    assert [(r["arm"], r["seed"]) for r in found] == [("kd", 9), ("kd", 10), ("ours-48", 0)]
    assert load_records("q", tmp_path) == []
    assert environment_stamp()["cpu_count"] == os.cpu_count()
