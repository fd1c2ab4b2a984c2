"""From a page as data to one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING

from stepladder.analysis.figures.style import Svg
from stepladder.analysis.report.number_line import place
from stepladder.analysis.report.page_parts import Page

if TYPE_CHECKING:
    import jinja2


def render(page: Page, drawn: Mapping[str, Svg]) -> str:
    """The document of `page`, with the figures it names from `drawn` (name -> drawing).

    A figure that was not drawn is left out.
    """
    return _templates().get_template("page.html.j2").render(page=page, drawn=drawn)


def _templates() -> jinja2.Environment:
    """Everything that a template prints is escaped, but for an `Svg`, which says that it is HTML.

    A name that a template does not know is an error.
    """
    import jinja2

    folder = resources.files("stepladder.analysis.report.templates")
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals |= {"kind": lambda part: type(part).__name__.lower(), "place": place}
    return found
