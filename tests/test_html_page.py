from html_reading import Page

from lunaops.html_report.page import (
    Chart,
    Charts,
    Number,
    Numbers,
    Picture,
    PictureRow,
    Section,
    Shaded,
    Table,
    Text,
    render_page,
)

HOSTILE = """<script>alert("1")</script>'&amp;{{ 7 * 7 }}"""
PNG = b"\x89PNG no picture"


def a_page(text="words", sections=1):
    blocks = [
        Text(text),
        Numbers([Number(text, text, text)]),
        Table(text, [text, text, text], [[text, text, Shaded(text, 0.5)]], text_columns=2),
        Charts([Chart('<svg viewBox="0 0 1 1" role="img" aria-label="a"></svg>', text)]),
        PictureRow(text, [Picture(PNG, (4, 2), text, [(text, text)])]),
    ]
    return render_page(text, text, [Section(f"s{n}", text, blocks) for n in range(sections)], foot=[text])


def test_a_hostile_text_is_shown_as_it_is_and_never_run():
    page = Page(a_page(HOSTILE))
    assert page.all("script") == []
    assert page.words.count(HOSTILE) > 15 and "49" not in page.words
    assert page.all("img")[0]["alt"] == HOSTILE
    assert page.all("div")[1]["aria-label"] == HOSTILE or any(d.get("aria-label") == HOSTILE for d in page.all("div"))


def test_the_contents_lead_to_every_section_and_ids_are_given_once():
    page = Page(a_page(sections=3))
    assert [link["href"] for link in page.all("a")] == ["#s0", "#s1", "#s2"]
    assert len(page.ids) == len(set(page.ids)) and {"s0", "s1", "s2"} <= set(page.ids)


def test_nothing_lies_outside_the_file():
    text = a_page()
    assert all(address.startswith(("data:", "#")) for address in Page(text).addresses)
    assert "url(" not in text and "@import" not in text
    [policy] = [meta["content"] for meta in Page(text).all("meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_tables_headings_have_a_scope_and_its_numbers_a_side():
    page = Page(a_page())
    assert [cell.get("scope") for cell in page.all("th")] == ["col", "col", "col", "row"]
    assert [cell.get("class") for cell in page.all("th")] == [None, None, "number", None]
    assert [(cell.get("class"), cell.get("style")) for cell in page.all("td")] == [
        (None, None),
        ("number", "--share: 0.500"),
    ]


def test_an_image_says_its_size_before_it_is_read():
    [image] = Page(a_page()).all("img")
    assert (image["width"], image["height"]) == ("4", "2")
    assert image["src"].startswith("data:image/png;base64,iVBORyBubyBwaWN0dXJl")


def test_equal_arguments_give_equal_text():
    assert a_page() == a_page()
