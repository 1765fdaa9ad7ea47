import numpy as np
import pytest

from tenfold.io import read_image
from tenfold.testing import open_page

GOOD = """<!DOCTYPE html><html><head><meta charset=utf-8><title>Report</title>
<style>body{margin:0;background:rgb(10,200,30)}
@media (prefers-color-scheme: dark){body{background:rgb(1,2,3)}}</style>
</head><body><p id=p>before</p><script>document.getElementById('p').textContent='after the script'</script>
<img src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"></body></html>"""


@pytest.fixture
def page(tmp_path):
    def write(html):
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        return tmp_path / "page.html"

    return write


def test_good_page(page, tmp_path):
    result = open_page(page(GOOD), width=400, height=300, screenshot=tmp_path / "shot.png")
    assert (result.title, result.text.strip()) == ("Report", "after the script")
    assert (result.errors, result.failed_requests, result.outside_requests) == ([], [], [])
    assert result.scroll_width == 400
    picture = read_image(tmp_path / "shot.png")
    assert picture.shape == (300, 400, 3)
    assert np.array_equal(picture[-1, -1], [10, 200, 30])
    open_page(page(GOOD), dark=True, screenshot=tmp_path / "dark.png")
    assert np.array_equal(read_image(tmp_path / "dark.png")[-1, -1], [1, 2, 3])


def test_bad_page(page):
    html = """<title>x</title><body><div style="width:2000px">wide</div><img src="absent.png">
    <script src="https://cdn.example.org/lib.js"></script>
    <script>console.error('printed'); setTimeout(() => {throw new Error('thrown')}, 0)</script>
    <script>let broken = ;</script>"""
    result = open_page(page(html), width=800)
    told = "\n".join(result.errors)
    for text in ("printed", "thrown", "Unexpected token"):
        assert text in told
    assert any("absent.png" in line for line in result.failed_requests)
    assert result.outside_requests == ["https://cdn.example.org/lib.js"]
    assert any("cdn.example.org" in line for line in result.failed_requests)
    assert result.scroll_width >= 2000
