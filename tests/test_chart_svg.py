import re

import numpy as np
import pytest
from html_reading import Page

from lunaops import figures
from lunaops.html_report.chart_svg import inline_svg
from lunaops.metrics import roc


def a_chart(name="roc", label="a curve", **options):
    curve = roc([False, True, False, True], [0.1, 0.4, 0.5, 0.9])
    return inline_svg(figures.roc_figure(curve, roc_auc=0.75), name=name, label=label, **options)


def test_equal_charts_give_equal_markup():
    assert a_chart() == a_chart()


def test_ids_are_those_that_are_used_and_no_other_chart_has_them():
    charts = {name: a_chart(name) for name in ("one", "two")}
    for name, text in charts.items():
        ids = Page(text).ids
        assert ids and all(own.startswith(f"{name}-") for own in ids) and len(ids) == len(set(ids))
        assert set(re.findall(r"#([\w-]+)", text)) == set(ids)


def test_it_says_what_it_shows_whatever_the_text():
    [svg] = Page(a_chart(label='<i> & "quoted"')).all("svg")
    assert svg == {"viewbox": "0 0 388.8 316.8", "role": "img", "aria-label": '<i> & "quoted"'}


def test_its_colours_are_the_pages_and_its_text_is_text():
    text = a_chart()
    assert "var(--blue)" in text and "var(--line)" in text and "var(--ink)" in text
    assert not re.findall(r"#[0-9a-f]{6}\b", text)
    assert "font-family" not in text
    assert "ROC: area 0.750" in Page(text).words


def test_it_brings_no_rule_and_no_date_for_the_page():
    text = a_chart()
    assert not {"style", "metadata", "script"} & {tag for tag, _ in Page(text).elements}
    assert "xmlns" not in text and "<!" not in text


@pytest.mark.parametrize("size", [(5.4, 4.4), (3.0, 2.0)])
def test_it_is_drawn_at_the_wanted_size(size):
    [svg] = Page(a_chart(size_inches=size)).all("svg")
    assert [float(edge) for edge in svg["viewbox"].split()[2:]] == pytest.approx(72 * np.array(size))
