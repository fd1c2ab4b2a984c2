"""Where the marks of a number line stand, in units of its drawing (900 wide)."""

from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.analysis.report.page_parts import NumberLine, Tick

LEFT, RIGHT = 20.0, 880.0
_MARGIN = 0.08  # of the range, left empty at either end
_WORD = 75.0  # closer than this, the words "forecast" and "truth" would touch
_LABEL = 165.0  # closer than this, the labels of two ticks would touch
_FIRST_ROW, _ROW_HEIGHT = 72, 17


@dataclass(frozen=True)
class Label:
    """Text at a place; anchor: which end of it stands there, as SVG has it."""

    text: str
    x: float
    y: float
    anchor: str = "middle"


@dataclass(frozen=True)
class Placed:
    """A number line ready to be drawn: places along it, and the height of the drawing."""

    low: float
    high: float
    forecast: float
    truth: float | None
    truth_label: Label | None
    ticks: Sequence[Label]
    height: float


def place(line: NumberLine) -> Placed:
    """Place every mark, and the labels of the ticks in as many rows as they need."""
    values = [line.low, line.high, line.forecast, *(tick.value for tick in line.ticks)]
    if line.truth is not None:
        values.append(line.truth)
    least, most = min(values), max(values)
    margin = (most - least or 1) * _MARGIN

    def at(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - least + margin) / (most - least + 2 * margin)

    forecast, truth = at(line.forecast), None if line.truth is None else at(line.truth)
    ticks = _in_rows([(at(tick.value), tick) for tick in line.ticks])
    return Placed(
        low=at(line.low),
        high=at(line.high),
        forecast=forecast,
        truth=truth,
        truth_label=None if truth is None else _truth_label(truth, forecast),
        ticks=ticks,
        height=max([_FIRST_ROW, *(tick.y for tick in ticks)]) + 10,
    )


def _truth_label(truth: float, forecast: float) -> Label:
    """Above the dot; beside it where the label of the forecast is in the way."""
    aside = 0.0
    if abs(truth - forecast) < _WORD:
        aside = 46.0 if truth >= forecast else -46.0
    return Label("truth", truth + aside, 18)


def _in_rows(ticks: Sequence[tuple[float, Tick]]) -> list[Label]:
    """A label for each tick, from the left, in the first row where it touches no other."""
    placed: list[tuple[float, int]] = []
    labels = []
    for x, tick in sorted(ticks, key=lambda found: found[1].value):
        taken = {row for other, row in placed if abs(x - other) <= _LABEL}
        row = next(row for row in range(len(ticks)) if row not in taken)
        placed.append((x, row))
        anchor = "start" if x < 90 else "end" if x > 810 else "middle"
        text = f"{tick.name} {tick.value:.3f}"
        labels.append(Label(text, x, _FIRST_ROW + _ROW_HEIGHT * row, anchor))
    return labels
