"""Columns that look wrong: constant, or written in two units, or in another one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stepladder.configs.core.errors import UserError

# A column with values on both sides of (low, high) was probably written in two units: 70 and 7e9
# are not both numbers of parameters.
_TWO_UNITS = {"N": (1e3, 1e6), "D": (1e3, 1e6), "C": (1e6, 1e12)}
# losses in two units: two clusters this factor apart, each with this share of the rows and two of
# them at least
_GAP, _SIDE = 2.0, 0.05
_LN_VOCABULARY = 12.5  # nats a token of a uniform guess over 270,000 tokens


def refuse_constant(frame: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """Raises UserError for a column with one value; `labels` are the source's names."""
    for name, label in labels.items():
        # Equal up to one part in a million: the tokens of two runs that differ by the rounding of a
        # step are one D.
        if np.ptp(np.log(frame[name])) < 1e-6:
            what = "one size only" if name == "N" else "constant"
            fix = (
                "check that this is the column of losses"
                if name == "loss"
                else f"add runs with other {name}, or leave it out of inputs"
            )
            raise UserError(
                f"column {label!r}={frame[name].iloc[0]:g}: {what} in all {len(frame)} rows left; "
                f"{fix}"
            )


def unit_notes(frame: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Notes on columns that seem to be in another unit than N, D, C or nats.

    Raises UserError for a column that seems to mix two units.
    """
    notes = []
    override = "or --units-checked (units_checked=True) if they are right"
    for name, (low, high) in _TWO_UNITS.items():
        if name not in frame:
            continue
        values = frame[name]
        small, large = values[values < low], values[values > high]
        if len(small) and len(large):
            raise UserError(
                f"column {labels[name]!r}={small.iloc[0]:g} (row {small.index[0]}) and "
                f"{large.iloc[0]:g} (row {large.index[0]}): looks like two units ({len(small)} "
                f"rows below {low:g}, {len(large)} above {high:g}); write all of them in one, "
                f"{override}"
            )
        if len(values) and len(small) == len(values):
            notes.append(
                f"every {name} is below {low:g}: in millions or billions? then say units "
                f"{name}=billions"
            )
    # Families may each have their own unit; within one it is a mistake.
    for _, loss in (
        frame.groupby("group", sort=False)["loss"] if "group" in frame else [("", frame["loss"])]
    ):
        _refuse_two_scales(loss.sort_values(), labels["loss"], override)
    if frame["loss"].min() > _LN_VOCABULARY:
        notes.append(
            f"every loss is above {_LN_VOCABULARY} nats: perplexities? then say units "
            "loss=perplexity"
        )
    return notes


def _refuse_two_scales(loss: pd.Series, label: str, override: str) -> None:
    """`loss` is sorted: two clusters a wide gap apart, neither of them a few outliers."""
    ratio = loss.to_numpy()[1:] / loss.to_numpy()[:-1]
    cut = int(np.argmax(ratio)) + 1 if len(ratio) else 0
    if cut and ratio[cut - 1] >= _GAP and min(cut, len(loss) - cut) >= max(2, _SIDE * len(loss)):
        below, above = loss.iloc[cut - 1], loss.iloc[cut]
        raise UserError(
            f"column {label!r}={below:g} (row {loss.index[cut - 1]}) and {above:g} (row "
            f"{loss.index[cut]}): looks like two units, e.g. nats and perplexity ({cut} rows up to "
            f"{below:g}, {len(loss) - cut} from {above:g}); convert one kind, keep one by a filter "
            f"such as loss<{np.sqrt(below * above):.3g}, {override}"
        )
