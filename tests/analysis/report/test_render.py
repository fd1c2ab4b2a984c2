"""A page as data and its document: every part once, what is escaped, what is left out."""

import re

import pytest

from stepladder.analysis.figures.style import Svg
from stepladder.analysis.report.number_line import place
from stepladder.analysis.report.page_parts import (
    HUMAN,
    Bold,
    Code,
    Column,
    Figure,
    Folded,
    Heading,
    Listing,
    Missing,
    Note,
    NumberLine,
    Page,
    Pair,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Share,
    Shares,
    Summary,
    Table,
    Tick,
    Tile,
    left_out,
)
from stepladder.analysis.report.render import render

EVIL = '<b>&"'
ESCAPED = "&lt;b&gt;&amp;&#34;"


def page(*parts: Part, title: str = "t", heading: str = "h", subtitle: str = "s") -> Page:
    return Page(title, heading, subtitle, [], [Section("A section", parts)])


PARTS = {
    "Paragraph": Paragraph(EVIL),
    "Note": Note(("a ", Bold(EVIL), Code("c"))),
    "Heading": Heading(EVIL),
    "Listing": Listing([EVIL, ("b", Bold("c"))]),
    "Preformatted": Preformatted(EVIL),
    "Missing": Missing([EVIL]),
    "Table": Table(["a", Column(EVIL, ".2f")], [["x", 1.234], [None, None]]),
    "NumberLine": NumberLine(1.0, 0.9, 1.1, 1.05, [Tick(EVIL, 1.2)]),
    "Shares": Shares([Share(EVIL, 0.5, "#fff")]),
    "Pair": Pair([Heading("a"), Heading(EVIL)]),
    "Folded": Folded(EVIL, [Paragraph("inside")]),
    "Summary": Summary([Tile("1", EVIL, "good")], [Paragraph("inside")]),
}


@pytest.mark.parametrize("name", PARTS)
def test_text_of_every_part_is_escaped(name):
    html = render(page(PARTS[name]), {})
    assert html.count(ESCAPED) == 1 and EVIL not in html


def test_title_heading_and_subtitle_are_escaped():
    assert render(page(title=EVIL, heading=EVIL, subtitle=EVIL), {}).count(ESCAPED) == 3


def test_a_figure_is_drawn_as_it_is_or_left_out():
    html = render(page(Figure("one"), Figure("two")), {"one": Svg("<svg><g/></svg>")})
    assert '<figure id="figure-one"><svg><g/></svg></figure>' in html and "two" not in html


def test_only_the_writer_of_figures_makes_html():
    assert "&lt;svg&gt;" in render(page(Figure("one")), {"one": "<svg>"})  # pyright: ignore


def test_cells_follow_the_format_of_their_column():
    table = Table(
        ["name", Column("loss", ".2f"), Column("N", HUMAN), Column("error", "+.1%")],
        [["x", 1.234, 1.23e6, -0.5], ["y", "none near", None, 0.25]],
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", render(page(table), {}))
    assert cells == ["x", "1.23", "1.23M", "-50.0%", "y", "none near", "", "+25.0%"]
    assert render(page(table), {}).count('class="n"') == 3 * 3


def test_nothing_missing_shows_nothing():
    assert "Not here yet" not in render(page(Missing([])), {})


def test_everything_left_out_is_listed_with_its_reason():
    rows = [
        {"run_id": name, "step": step, "domain": None, "reason": reason}
        for name, step, reason in (("a", 5.0, "r"), ("b", None, "r"), ("c", 1, "q"))
    ]
    html = render(page(*left_out(rows)), {})
    assert '<td>r</td><td class="n">2</td>' in html and "all 3" in html
    assert "Nothing was left out" in render(page(*left_out([])), {})


def test_labels_of_a_number_line_do_not_touch():
    ticks = [Tick("a", 1.0), Tick("b", 1.001), Tick("c", 1.002), Tick("d", 2.0)]
    placed = place(NumberLine(1.5, 1.4, 1.6, 1.5001, ticks))
    assert [t.text[0] for t in placed.ticks] == list("abcd")
    assert len({t.y for t in placed.ticks[:3]}) == 3 and placed.ticks[3].y == placed.ticks[0].y
    assert placed.truth_label is not None and placed.truth is not None
    assert abs(placed.truth_label.x - placed.forecast) > 40  # beside the word "forecast"
    assert placed.height > max(t.y for t in placed.ticks)
