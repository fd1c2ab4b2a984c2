"""What a forecast must beat: three rules that need no scaling law in N and D."""

from typing import Any

import numpy as np
import pandas as pd


def baselines(points: pd.DataFrame, target: dict[str, float]) -> list[dict[str, Any]]:
    """What each rule of BASELINES predicts for `target`: a list of {name, prediction, how}.

    points: N, D, C (training FLOPs) and loss.
    """
    return [
        {"name": name, "prediction": float(value), "how": how}
        for name, value, how in (rule(points, target) for rule in BASELINES)
    ]


def _best_seen(points: pd.DataFrame, target: dict[str, float]) -> tuple[str, float, str]:
    return "best seen", points["loss"].min(), "the lowest loss of any proxy"


def _most_compute(points: pd.DataFrame, target: dict[str, float]) -> tuple[str, float, str]:
    row = points.iloc[int(points["C"].to_numpy().argmax())]
    return (
        "most compute",
        row["loss"],
        f"the loss of the proxy with the most compute ({row['C']:.3g} FLOPs)",
    )


def _power_law(points: pd.DataFrame, target: dict[str, float]) -> tuple[str, float, str]:
    """L = A / C^alpha by least squares in logs: no floor, blind to how C splits into N and D."""
    centre = np.log(points["C"]).mean()
    if points["C"].nunique() < 2:
        return "power law in compute", float("nan"), "not defined: every proxy has the same compute"
    slope, level = np.polyfit(np.log(points["C"]) - centre, np.log(points["loss"]), 1)
    value = np.exp(level + slope * (np.log(target["C"]) - centre))
    return (
        "power law in compute",
        value,
        f"L = A / C^alpha, 2 parameters, least squares in logs: alpha = {-slope:.4g}",
    )


BASELINES = (_best_seen, _most_compute, _power_law)
