"""Every figure of a fitted object by its name.

`plot(fit, "contours")` draws one; `stepladder fit --figures` writes all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepladder.analysis.decide.backtest.error_map import ErrorMap
from stepladder.analysis.decide.isoflop import Isoflop
from stepladder.analysis.figures.error_map import draw
from stepladder.analysis.figures.extrapolation import extrapolation, no_line
from stepladder.analysis.figures.fit import contours, no_plane, no_points, residuals
from stepladder.analysis.figures.isoflop import isoflop
from stepladder.analysis.figures.spread import ellipses, no_pair, profile
from stepladder.analysis.figures.style import styled
from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.interval import Profile
from stepladder.analysis.fit.result import Fit
from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def error_map(found: ErrorMap, title: str = "") -> Figure:
    """The errors of a back-test as a map, with a title from its family and target."""
    family = f"{found.family}: " if found.family else ""
    return draw(found, title or f"{family}error of the forecast of {found.target}, %")


@dataclass(frozen=True)
class Plot:
    """A figure of objects of one type; `lacks` says what an object lacks for it, or nothing."""

    draw: Callable[..., Any]
    of: type
    lacks: Callable[[Any], str] = lambda thing: ""


PLOTS = {
    "residuals": Plot(residuals, Fit, no_points),
    "contours": Plot(contours, Fit, no_plane),
    "extrapolation": Plot(extrapolation, Fit, no_line),
    "ellipses": Plot(ellipses, Bootstrap, no_pair),
    "isoflop": Plot(isoflop, Isoflop),
    "profile": Plot(profile, Profile),
    "map": Plot(error_map, ErrorMap),
}


def plot(found: Any, kind: str = "", **options: Any) -> Figure:
    """Draw one figure of a fitted object.

    Args:
        found: a fit, bootstrap, profile interval, isoFLOP or error map.
        kind: the name of the figure, a key of PLOTS; by default the first of its type.
        options: of the function that draws it.

    Raises:
        UserError: for a kind that is not one of the type of `found`.
    """
    known = [name for name, entry in PLOTS.items() if isinstance(found, entry.of)]
    kind = kind or next(iter(known), kind)
    if kind not in known:
        raise UserError(
            f"kind={kind!r}: no plot of a {type(found).__name__}; "
            + (nearest(kind, known) if known else f"there are plots of: {_drawn_types()}")
        )
    return PLOTS[kind].draw(found, **options)


def save(fit: Fit, bootstrap: Bootstrap | None, folder: str | Path) -> list[Path]:
    """Write every figure that the fit and its bootstrap allow, as FOLDER/<name>.svg.

    Returns:
        The paths of the files.

    Raises:
        UserError: when the folder cannot be written.
    """
    folder = Path(folder)
    things, options = {Fit: fit, Bootstrap: bootstrap}, {"extrapolation": {"bootstrap": bootstrap}}
    paths = []
    for name, entry in PLOTS.items():
        thing = things.get(entry.of)
        if thing is None or entry.lacks(thing):
            continue
        paths.append(folder / f"{name}.svg")
        _write(entry.draw(thing, **options.get(name, {})), paths[-1])
    return paths


@styled
def _write(figure: Figure, path: Path) -> None:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_atomic(path, drawn.getvalue(), field="figures")


def _drawn_types() -> str:
    return ", ".join(sorted({entry.of.__name__ for entry in PLOTS.values()}))
