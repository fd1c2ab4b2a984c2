"""A report page as data: what a study says, in parts that templates/ turns into HTML.

A study writes one function from its results to a `Page`; render.py makes the document. No part
holds HTML: text is escaped by the template, and a figure is named here and drawn elsewhere.

    def page(results: Mapping[str, Any]) -> Page:
        cost = Section(
            "What a wrong choice costs",
            [
                Figure("regret"),
                Table(
                    ["proxy", Column("learning rate", ".3g"), Column("regret", ".4f")],
                    [[r["size"], r["learning_rate"], r["regret"]] for r in results["regret"]],
                ),
                Folded("by domain, 12 rows", [Table(...)]),
                Note(("Every number stands in ", Code("results.json"), ".")),
            ],
        )
        return Page(
            title="stepladder: proxy transfer",
            heading="Do small runs pick the right data?",
            subtitle=results["source"],
            top=[Summary([Tile("0.95", "rank correlation")], [Paragraph("In one sentence.")])],
            sections=[cost],
        )

A column with a format holds numbers, which stand to the right: its cells are floats, which the
format turns into text, None, which stays empty, or text for what is no number ("none near").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.analysis.tables.numbers import human

HUMAN = "human"  # the format of a column of counts: 1.23M

Cell = str | float | None


@dataclass(frozen=True)
class Bold:
    """Words in bold type."""

    text: str


@dataclass(frozen=True)
class Code:
    """Words of a file or a command."""

    text: str


Words = str | Sequence[str | Bold | Code]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of running text."""

    words: Words


@dataclass(frozen=True)
class Note:
    """A paragraph in small grey type, about what stands above it."""

    words: Words


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    title: str


@dataclass(frozen=True)
class Listing:
    """A list with bullets."""

    items: Sequence[Words]


@dataclass(frozen=True)
class Preformatted:
    """Lines as they are, for example a command."""

    text: str


@dataclass(frozen=True)
class Missing:
    """What cannot be said yet, one reason a line; not shown when there is none."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Column:
    """A column of a table; one with a `form` holds numbers and stands to the right.

    form: a format specification (".4f", "+.2%"), HUMAN, or "" for numbers that are text already.
    """

    heading: str = ""
    form: str | None = None

    @property
    def numeric(self) -> bool:
        return self.form is not None

    def show(self, cell: Cell) -> str:
        """The text of a cell."""
        if cell is None or isinstance(cell, str):
            return cell or ""
        return human(cell) if self.form == HUMAN else format(cell, self.form or "")


@dataclass(frozen=True)
class Table:
    """A table; a column given as text is a column of text."""

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]

    @property
    def heads(self) -> list[Column]:
        return [c if isinstance(c, Column) else Column(c) for c in self.columns]


@dataclass(frozen=True)
class Figure:
    """The drawing of that name; not shown when it was not drawn."""

    name: str


@dataclass(frozen=True)
class Tile:
    """One number in large type over what it is; tone: "", "good" (green) or "red"."""

    number: str
    label: str
    tone: str = ""


@dataclass(frozen=True)
class Tick:
    """A value on a number line, with its name."""

    name: str
    value: float


@dataclass(frozen=True)
class NumberLine:
    """A forecast on one scale with its interval (a bar), the truth (a dot) and others (ticks)."""

    forecast: float
    low: float
    high: float
    truth: float | None
    ticks: Sequence[Tick]


@dataclass(frozen=True)
class Share:
    """A part of a whole; colour: as CSS has it."""

    name: str
    fraction: float
    colour: str


@dataclass(frozen=True)
class Shares:
    """A bar cut into shares."""

    shares: Sequence[Share]


@dataclass(frozen=True)
class Pair:
    """Parts side by side, two a row."""

    parts: Sequence[Part]


@dataclass(frozen=True)
class Folded:
    """Parts behind a summary that the reader opens."""

    summary: str
    parts: Sequence[Part]
    open: bool = False


@dataclass(frozen=True)
class Summary:
    """The answer, in a box at the top of a page: a few tiles over more parts."""

    tiles: Sequence[Tile]
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Section:
    """A titled section of a page."""

    title: str
    parts: Sequence[Part]


Part = (
    Paragraph
    | Note
    | Heading
    | Listing
    | Preformatted
    | Missing
    | Table
    | Figure
    | NumberLine
    | Shares
    | Pair
    | Folded
    | Summary
)


@dataclass(frozen=True)
class Page:
    """A whole page. title: of the browser's tab; top: what stands before the first section."""

    title: str
    heading: str
    subtitle: str
    top: Sequence[Part]
    sections: Sequence[Section]


def left_out(rows: Sequence[Mapping[str, Any]]) -> Sequence[Part]:
    """Everything that was excluded: the reasons with their counts, and every row folded below.

    rows: each with run_id, step, domain and reason.
    """
    if not rows:
        return [Paragraph("Nothing was left out.")]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    columns = ["run", Column("step", ".0f"), "domain", "reason"]
    cells = [[row[name] for name in ("run_id", "step", "domain", "reason")] for row in rows]
    return [
        Table(["reason", Column("count", "d")], by_count),
        Folded(f"all {len(rows)}", [Table(columns, cells)]),
    ]
