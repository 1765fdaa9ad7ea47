"""The records of the CUDA kernels: what is read from the compiler, and what the page in the docs makes of them."""

import json

import pytest

from devices import hardware, page, resources
from devices.workloads import WORKLOADS
from tenfold.build import find_sources
from tenfold.build_cuda import ARCHITECTURES, cuda_sources
from tenfold.ops import __contract__

PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4scanIiEvPT_' for 'sm_75'
ptxas info    : Function properties for _Z4scanIiEvPT_
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 388 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4scanIiEvPT_' for 'sm_120'
ptxas info    : Function properties for _Z4scanIiEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 900 bytes cmem[0]
"""


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Empty places for the three records."""
    for name in ("RESOURCES", "EMULATED", "HARDWARE"):
        monkeypatch.setattr(page, name, tmp_path / f"{name}.json")
    return tmp_path


def test_compiler_output():
    old, new = resources.parse(PTXAS)
    assert (old["architecture"], new["architecture"]) == ("7.5", "12.0")
    assert [old[f] for f in resources.FIGURES] == [40, 16, 24, 1024, 8]
    assert [new[f] for f in resources.FIGURES] == [32, 0, 0, 0, 0]
    assert resources.short_name([old["mangled"]]) == ["scan<int>"]


def test_record_is_read_back(tmp_path, monkeypatch):
    kernels = [{"file": "a/a_cuda.cu", "kernel": "k", "architectures": {"7.5": [40, 16, 24, 1024, 8]}}] * 2
    record = {"date": "2020-01-01", "nvcc": "13.0", "architectures": ["7.5"], "kernels": kernels}
    monkeypatch.setattr(resources, "RECORD", tmp_path / "record.json")
    resources.write(record)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    assert resources.span(kernels, "shared") == (1024, 1024)
    assert resources.span([], "shared") is None
    assert "1024" in resources.table(record)


def test_a_row_is_filled_only_by_all_its_operators(records):
    operators = page.operators_of_files()["scatter/scatter_cuda.cu"]
    assert len(operators) == 2
    entry = {op: {"calls": 3, "runs": 6, "failed": 0} for op in operators}
    gpu = {"gpu": "Some GPU", "date": "2020-01-01", "commit": "0123456789abcdef", "rows": []}

    def row():
        (line,) = [line for line in page.kernel_table().splitlines() if "`scatter/" in line]
        return [cell.strip() for cell in line.split("|")][-3:-1]

    assert row() == ["", ""]
    for count, expected in (
        (1, ["", ""]),
        (2, ["6 calls, 12 runs", "6 calls on Some GPU, 2020-01-01, 012345678"]),
    ):
        some = dict(list(entry.items())[:count])
        page.EMULATED.write_text(json.dumps({"tests": {"a": some}}))
        page.HARDWARE.write_text(json.dumps({**gpu, "tests": {"a": some}}))
        assert row() == expected
    wrong = {operators[0]: {"calls": 1, "runs": 2, "failed": 1}}
    page.EMULATED.write_text(json.dumps({"tests": {"a": entry, "b": wrong}}))
    assert row()[0] == ""


def test_predictions(records):
    first = WORKLOADS[0]
    assert [line.split("|")[4].strip() for line in page.prediction_table().splitlines()[2:]] == [""] * len(
        WORKLOADS
    )
    page.EMULATED.write_text(json.dumps({"launches": {first.name: 24}}))
    page.HARDWARE.write_text(json.dumps({"rows": [{"workload": first.name, "microseconds": 123.4}]}))
    line = page.prediction_table().splitlines()[2]
    assert f"| 24 | {first.expected(24):.0f} |" in line
    assert line.endswith("| 123 |")
    assert first.floor < first.expected(24)


def test_the_committed_page_is_made_of_the_committed_records():
    text = page.PAGE.read_text()
    assert page.replaced(text) == text


def test_the_committed_records_are_of_what_there_is():
    """A file or operator that is missing from a record has an empty cell on the page, and nothing else has any."""
    compiled = json.loads(page.RESOURCES.read_text())
    files = {f"{p.parent.name}/{p.name}" for p in cuda_sources(find_sources())}
    assert {k["file"] for k in compiled["kernels"]} <= files
    for kernel in compiled["kernels"]:
        assert set(kernel["architectures"]) == set(ARCHITECTURES), kernel["kernel"]
        for figures in kernel["architectures"].values():
            registers, _, _, shared, _ = figures
            assert 0 < registers <= 255
            assert shared <= 48 * 1024
    emulated = json.loads(page.EMULATED.read_text())
    assert set(page.operators_that_ran(emulated)) <= set(__contract__)
    assert emulated["orders"] >= 10
    assert set(emulated["launches"]) <= {w.name for w in WORKLOADS}


def test_no_gpu_is_said():
    if not hardware.torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="torch sees no GPU"):
            hardware.run(None, [])
