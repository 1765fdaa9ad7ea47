import math
from xml.etree import ElementTree

import pytest

from tenfold.viz import Bar, Series, line_plot, ratio_bars, standalone
from tenfold.viz.charts import fitted_slope

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(svg, tone):
    return [r for r in ElementTree.fromstring(svg).iter(f"{SVG}rect") if r.get("class") == tone]


def percent(node, key):
    return float(node.get(key).rstrip("%"))


def test_bars_start_at_one_and_have_log_lengths():
    svg = ratio_bars([Bar("a", 10.0), Bar("b", 100.0), Bar("c", 0.1), Bar("d", None, note="not installed")])
    ten, hundred = rectangles(svg, "good")
    (tenth,) = rectangles(svg, "bad")
    assert percent(hundred, "width") == pytest.approx(2 * percent(ten, "width"), abs=0.02)
    assert percent(tenth, "width") == pytest.approx(percent(ten, "width"), abs=0.02)
    assert percent(tenth, "x") + percent(tenth, "width") == pytest.approx(percent(ten, "x"), abs=0.02)
    assert "not installed" in svg


def test_bar_tones_follow_the_first_goal():
    svg = ratio_bars([Bar("met", 31.0, goals=(30.0, 100.0)), Bar("missed", 29.0, goals=(30.0, 100.0))])
    assert len(rectangles(svg, "good")) == 1
    assert len(rectangles(svg, "weak")) == 1


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_bars_refuse_numbers_without_a_log(ratio):
    with pytest.raises(ValueError, match="positive"):
        ratio_bars([Bar("a", ratio)])


def test_markup_in_names_is_escaped():
    svg = ratio_bars([Bar("<script>x</script>", 2.0, note='"&<')])
    assert "<script>" not in svg
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))


def test_slope_is_the_exponent():
    assert fitted_slope([(n, 3 * n**1.5) for n in (10, 20, 400)]) == pytest.approx(1.5)
    assert fitted_slope([(10, 1)]) is None
    svg = line_plot([Series("q", [(1, 1), (10, 100)])], x_label="n", y_label="ms", log=True, slopes=True)
    assert "slope 2.00" in svg


def test_line_plot_is_well_formed_for_odd_data():
    svg = line_plot([Series("flat", [(0, 1), (1, 1), (2, math.nan)])], x_label="epoch", y_label="loss")
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 2
    assert ElementTree.fromstring(standalone(svg, 500)).get("width") == "500"
    with pytest.raises(ValueError, match="no point"):
        line_plot([Series("none", [(0, 0)])], x_label="n", y_label="ms", log=True)
