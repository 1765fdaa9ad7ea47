import json
import os
import re

import pytest

from kernels import output, readme
from kernels.model import Goal
from kernels.run import run
from kernels.testing import PLAN, peer, row


@pytest.fixture(scope="module")
def results():
    from dataclasses import replace

    rows = [
        row(
            [peer(), peer("weaker", same=False)],
            key="met",
            title="met | row",
            goal=Goal("ratio", 2, 1000),
            growth=True,
        ),
        row([peer()], growth=True, key="missed", title="missed row", goal=Goal("ratio", 500)),
        row([peer()], key="wrong", title="wrong row", wrong=1.0, goal=Goal("ratio", 2)),
        row([replace(peer("absent"), module="no_such_module_here")], key="alone", title="row without peers"),
    ]
    return run(rows, replace(PLAN, scales=(0.25,)))


def test_json_round_trip(results, tmp_path):
    paths = output.write_all(results, tmp_path)
    assert output.load(paths[0]) == json.loads(json.dumps(results))
    assert output.markdown(output.load(paths[0])) == output.markdown(results)
    assert sorted(p.name for p in paths) == sorted(os.listdir(tmp_path))
    assert {p.suffix for p in paths} == {".json", ".md", ".html", ".svg"}


def test_foreign_json_is_refused(tmp_path):
    path = tmp_path / "kernels.json"
    path.write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 1"):
        output.load(path)


def test_markdown_has_one_line_a_record_and_no_ratio_for_the_wrong_one(results):
    text = output.markdown(results)
    lines = [line for line in text.split("## Every peer")[0].splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(results["rows"])
    cells = {line.split(" | ")[0]: re.split(r"(?<!\\) \| ", line) for line in lines}
    assert all(len(c) == len(output.COLUMNS) for c in cells.values())
    (wrong,) = [c for c in cells.values() if "wrong row" in c[0]]
    assert "×" not in wrong[6] + wrong[7]
    assert "differs" in wrong[10]
    assert "not installed" in text
    assert "weaker *" in text


def test_report_marks_a_failed_check(results):
    page = output.report(results).html()
    assert '<span class="badge failed">failed</span>' in page
    assert "1 of 2 must goals met" in page
    assert "1 not judged" in page


def test_charts_draw_refused_rows_without_a_bar(results):
    svg = output.charts(results)["ratios"]
    assert len(re.findall(r'<rect class="(good|weak|bad)"', svg)) == 2


def test_readme_table_is_written_checked_and_seen_to_go_stale(results, tmp_path):
    folder = tmp_path / "results"
    path = output.write_all(results, folder)[0]
    page = tmp_path / "README.md"
    page.write_text(f"# Title\n\nbefore\n\n{readme.BEGIN}\nold\n{readme.END}\n\nafter\n", encoding="utf-8")
    given = ["--readme", str(page), "--results", str(path)]
    assert readme.main(["--check", *given]) == 1
    assert readme.main(["--write", *given]) == 0
    assert readme.main(["--check", *given]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\nbefore\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    newer = json.loads(path.read_text(encoding="utf-8"))
    newer["rows"][0]["ours"]["median_ms"] *= 2
    path.write_text(json.dumps(newer))
    assert readme.main(["--check", *given]) == 1


def test_readme_without_markers_is_an_error(results, tmp_path, capsys):
    path = output.write_all(results, tmp_path / "results")[0]
    page = tmp_path / "README.md"
    page.write_text("# no markers\n")
    assert readme.main(["--check", "--readme", str(page), "--results", str(path)]) == 2
    assert "needs the lines" in capsys.readouterr().err
    assert page.read_text() == "# no markers\n"


def test_committed_readme_is_in_step():
    assert readme.main(["--check"]) == 0
