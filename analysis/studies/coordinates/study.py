"""The numbers of a coordinate check, which train/probes/coordinates.py made.

Does what a few steps change in each activation grow with width or depth, or stay flat?
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

# A rule that is wrong by the least a rule can be, sqrt(width) or sqrt(depth), has a slope of 1/2:
# half of that separates the two.
FLAT = 0.25
_NEEDED = ("axis", "learning_rate", "base_width", "base_depth", "rows")


@dataclass(frozen=True)
class Check:
    """One coordinate check along `axis` ("width" or "depth").

    rows: parametrization, width, depth, seed, step, name, role, size and change (mean |activation|
    and mean |its change since step 0|), loss in nats a token. slopes: a row an activation,
    parametrisation and step: `slope` of log change, `size_slope` of log size against log of the
    axis, means over seeds; `se` of `slope` from the scatter about the line (NaN for two sizes).
    """

    axis: str
    learning_rate: float
    base: dict[str, int]
    rows: pd.DataFrame
    slopes: pd.DataFrame

    @property
    def last(self) -> pd.DataFrame:
        """The slopes after the last step."""
        return self.slopes[self.slopes["step"] == self.slopes["step"].max()]

    def verdict(self) -> dict[str, str]:
        """Per parametrisation: "flat", or which activation is not and by how much."""
        said = {}
        for name, rows in self.last.groupby("parametrization", sort=False):
            worst = rows.iloc[int(rows["slope"].abs().to_numpy().argmax())]
            flat = abs(worst["slope"]) <= FLAT
            said[name] = (
                f"{'flat' if flat else 'not flat'} (largest slope {worst['slope']:+.2f}, of "
                f"{worst['name']})"
            )
        return said

    def __str__(self) -> str:
        sizes = ", ".join(map(str, sorted(self.rows[self.axis].unique())))
        steps = sorted({1, int(self.slopes["step"].max())})
        lines = [
            (
                f"slope of log mean |change| against log {self.axis} ({sizes}), learning rate "
                f"{self.learning_rate:g}"
            )
        ]
        lines.append(
            f"{'':14}{'':11}"
            + "".join(f"{f'step {s}':>9}" for s in steps)
            + f"{'+-':>7}{'size':>9}"
        )
        rows = self.slopes.to_dict("records")
        table = {(r["parametrization"], r["name"], r["step"]): r for r in rows}
        for name, activation in dict.fromkeys(
            zip(self.slopes["parametrization"], self.slopes["name"])
        ):
            at = [table[name, activation, s] for s in steps]
            se = "" if np.isnan(at[-1]["se"]) else f"{at[-1]['se']:.2f}"
            lines.append(
                f"{name:14}{activation:11}"
                + "".join(f"{row['slope']:+9.2f}" for row in at)
                + f"{se:>7}{at[-1]['size_slope']:+9.2f}"
            )
        return "\n".join(
            [*lines, *(f"{name}: {verdict}" for name, verdict in self.verdict().items())]
        )


def read(workdir: str | Path, axis: str = "width") -> Check:
    """The check that `stepladder coordinates` left in `workdir`.

    Raises UserError when there is none, or when it is not one.
    """
    path = Path(workdir) / record.STUDIES / f"coordinates-{axis}.json"
    if not path.is_file():
        raise UserError(
            f"workdir={workdir}: holds no {path.name}; run `stepladder coordinates --{axis}s=... "
            f"--workdir={workdir}` first"
        )
    try:
        body = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"workdir={workdir}: {path.name} is not JSON ({error}); run `stepladder coordinates` "
            "again"
        ) from error
    missing = [name for name in _NEEDED if name not in body]
    if missing:
        raise UserError(
            f"workdir={workdir}: {path.name} lacks {', '.join(missing)}; run `stepladder "
            "coordinates` again"
        )
    rows = pd.DataFrame(body["rows"]).astype({"size": float, "change": float, "loss": float})
    base = {"width": body["base_width"], "depth": body["base_depth"]}
    return Check(body["axis"], body["learning_rate"], base, rows, slopes(rows, body["axis"]))


def slopes(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Least-squares slopes of log(change) and log(size) against log(axis), after each step.

    Check says what the columns are.
    """
    mean = (
        rows[rows["step"] > 0]
        .groupby(["parametrization", "name", "step", axis], sort=False)[["size", "change"]]
        .mean()
        .reset_index()
    )
    out = []
    for (name, activation, step), group in mean.groupby(
        ["parametrization", "name", "step"], sort=False
    ):
        x = np.log(group[axis].to_numpy(float))
        (slope, se), (size_slope, _) = (
            _line(x, np.log(group[column].to_numpy())) for column in ("change", "size")
        )
        out.append(
            {
                "parametrization": name,
                "name": activation,
                "step": step,
                "slope": slope,
                "se": se,
                "size_slope": size_slope,
            }
        )
    return pd.DataFrame(out)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(slope, its standard error) of a least-squares line; inf where an activation overflowed, NaN
    where it did not change at all.
    """
    if np.isneginf(y).any():
        return np.nan, np.nan
    if not np.isfinite(y).all():
        return np.inf, np.nan
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    left = y - y.mean() - slope * x
    return slope, float(np.sqrt(left @ left / (len(x) - 2) / (x @ x))) if len(x) > 2 else np.nan
