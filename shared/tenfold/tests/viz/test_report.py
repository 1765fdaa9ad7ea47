import os
from html.parser import HTMLParser

import numpy as np
import pytest

from tenfold.testing import require
from tenfold.viz import (
    Bar,
    Cell,
    Chart,
    Details,
    Link,
    Picture,
    Preformatted,
    Provenance,
    Report,
    Series,
    Table,
    Text,
    bev_image,
    encode_image,
    line_plot,
    provenance,
    ratio_bars,
)

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks nesting and collects ids and outside addresses."""

    def __init__(self):
        super().__init__()
        self.stack, self.ids, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        self.addresses += [v for k, v in given.items() if k in ("src", "href")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def sample_page():
    rng = np.random.default_rng(0)
    cloud = np.concatenate(
        [
            rng.uniform([0, -20, -1.8], [40, 20, -1.6], (4000, 3)),
            rng.normal([15, 3, -0.8], [1.2, 0.6, 0.4], (400, 3)),
            rng.normal([26, -7, -0.8], [1.2, 0.6, 0.4], (200, 3)),
        ]
    )
    picture = encode_image(
        bev_image(
            cloud,
            [[15, 3, -0.8, 4.2, 1.8, 1.6, 0.2], [26, -7, -0.8, 4, 1.7, 1.6, 2.5]],
            [0, 1],
            [0.92, 0.55],
            range=(0, -20, 40, 20),
            class_names=["Car", "Van"],
            reference=[[15.2, 3.1, -0.8, 4.2, 1.8, 1.6, 0.25]],
        )
    )
    report = Report(
        "Ten papers, one core",
        "Every card is a quick run of the code in this repository. <b>Text is escaped.</b>",
        provenance=Provenance(
            "2026-01-01 00:00 UTC",
            "a processor, 2 cores",
            7,
            {"Python": "3.11", "a-distribution-with-a-long-name": "1.2.3+local.build.identifier"},
        ),
    )
    report.section("Papers", "Claim, our number, the control.")
    report.card(
        "TTFNet",
        claim="Training on Gaussian samples reaches the same accuracy in fewer epochs.",
        number="AP 0.41 after 6 epochs",
        control="CenterNet-style targets reach 0.33 in the same time.",
        quick=True,
        parts=[
            Picture(picture, "Detections (colours) and reference (white)."),
            Link("The committed claim record", "https://example.org/record.json"),
            Details("Settings", [Preformatted("lr=0.1 " * 60), Text("Batch size 16.")]),
        ],
    )
    report.card(
        "Rotated NMS", number="0.71 ms", status="failed", parts=[Text("AssertionError: " + "x" * 300)]
    )
    report.section("Kernels", "Ratios above 1 mean that ours is faster.")
    report.card(
        "Ratios",
        wide=True,
        parts=[
            Chart(
                ratio_bars(
                    [
                        Bar("nms, 10,000 uniform boxes, t .5", 31.0, (30.0, 100.0)),
                        Bar("voxelize pillars", 0.8, (1.0, 1.3)),
                        Bar("ball_query r 1.0", 2.2, (4.0, 8.0)),
                        Bar("fps", None, note="peer not installed"),
                    ]
                )
            ),
            Chart(
                line_plot(
                    [
                        Series("nms", [(2.5e3, 0.5), (1e4, 2.2), (4e4, 9.5)]),
                        Series("peer", [(2.5e3, 18), (1e4, 280), (4e4, 4400)]),
                    ],
                    x_label="boxes",
                    y_label="ms",
                    log=True,
                    slopes=True,
                )
            ),
            Table(
                ["row", "ours, ms", "ratio", "goal", "a column with a rather long name"],
                [
                    ["nms", 9.1, 31.0, Cell("met", tone="good"), "x"],
                    ["voxelize", 1.31, 0.8, Cell("missed", tone="bad"), "y"],
                    ["ball", None, 2.2, "-", "z"],
                    ["fps", 4.4, 101.0, "-", "w"],
                ],
                caption="Measured",
            ),
        ],
    )
    return report


def test_page_nests_and_needs_nothing_outside():
    outline = Outline()
    page = sample_page().html()
    outline.feed(page)
    assert outline.stack == []
    assert len(outline.ids) == len(set(outline.ids))
    fragments = [a[1:] for a in outline.addresses if a.startswith("#")]
    assert fragments
    assert set(fragments) <= set(outline.ids)
    others = [a for a in outline.addresses if not a.startswith(("#", "data:"))]
    assert others == ["https://example.org/record.json"]
    assert "&lt;b&gt;Text is escaped.&lt;/b&gt;" in page
    assert "2026-01-01" in page


def test_same_input_gives_the_same_bytes():
    assert sample_page().html() == sample_page().html()


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style>", "&amp;"]
)
def test_text_cannot_become_markup(hostile):
    report = Report(hostile, hostile, provenance=Provenance(hostile, hostile, hostile, {hostile: hostile}))
    report.section(hostile, hostile)
    report.card(
        hostile,
        claim=hostile,
        number=hostile,
        control=hostile,
        parts=[
            Text(hostile),
            Preformatted(hostile),
            Details(hostile, []),
            Link(hostile, "#x"),
            Table([hostile], [[hostile], [Cell(hostile, sort=hostile)]], caption=hostile),
            Picture(encode_image(np.zeros((2, 2, 3), np.uint8)), hostile),
            Chart(ratio_bars([Bar(hostile, 2.0)]), hostile),
        ],
    )
    clean = Report("x", provenance=Provenance("x", "x", "x", {"x": "x"}))
    clean.section("x")
    assert report.html().count("<script") == clean.html().count("<script")
    assert "<img src=x" not in report.html()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Link("x", "javascript:alert(1)"),
        lambda: Link("x", " JavaScript:alert(1)"),
        lambda: Picture(b"GIF89a", "x"),
        lambda: Chart('<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'),
        lambda: Chart('<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>'),
        lambda: Chart('<svg xmlns="http://www.w3.org/2000/svg"><image href="http://x"/></svg>'),
        lambda: Chart("<div/>"),
        lambda: Table(["a", "b"], [["only one"]]),
        lambda: Report("x").card("x", status="maybe"),
    ],
)
def test_bad_parts_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_write_replaces_the_file_whole(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("old")
    sample_page().write(path)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert os.listdir(tmp_path) == ["index.html"]


def test_failed_page_leaves_the_old_file(tmp_path):
    class Broken:
        def html(self):
            raise RuntimeError("broken part")

    path = tmp_path / "index.html"
    path.write_text("old")
    report = Report("x")
    report.card("x", parts=[Broken()])
    with pytest.raises(RuntimeError, match="broken part"):
        report.write(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["index.html"]


def test_provenance_names_what_is_missing():
    facts = provenance(seed=3, packages=("numpy", "no-such-distribution-here"), threads="1")
    names = dict(facts.items())
    assert names["numpy"] == np.__version__
    assert names["no-such-distribution-here"] == "not installed"
    assert names["seed"] == "3"
    assert names["threads"] == "1"


@pytest.fixture(scope="module")
def browser():
    path = require("chromium")
    with require("playwright.sync_api").sync_playwright() as driver:
        instance = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_page_in_a_browser(browser, tmp_path, width, scheme):
    path = tmp_path / "index.html"
    sample_page().write(path)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")

    details = page.locator("details").first
    assert details.get_attribute("open") is None
    details.locator("summary").click()
    assert details.get_attribute("open") is not None
    page.click("#toggle-details")
    page.click("#toggle-details")
    assert details.get_attribute("open") is None

    column = "[...document.querySelectorAll('tbody tr')].map(r => r.cells[1].textContent)"
    page.click("th:nth-child(2) button")
    assert page.evaluate(column) == ["1.31", "4.4", "9.1", "–"]
    page.click("th:nth-child(2) button")
    assert page.evaluate(column) == ["9.1", "4.4", "1.31", "–"]
    assert page.get_attribute("th:nth-child(2)", "aria-sort") == "descending"

    # The page stays within its width with everything open, too.
    page.click("#toggle-details")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    page.close()
