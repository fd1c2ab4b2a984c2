"""What the points identify and what they do not, in plain words with numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stepladder.analysis.fit.result import Fit

# correlation of log-parameters over the simulated ladders above which two of them are called a
# trade-off
_TRADE = 0.9


def identified(
    fit: Fit,
    draws: pd.DataFrame,
    spans: Mapping[str, tuple[float, float]],
    points: pd.DataFrame,
    target: dict[str, float],
    moved: np.ndarray,
) -> tuple[str, ...]:
    """Sentences, most important first.

    `draws` are the parameters of the refits, `moved` the log change of the forecast in each.
    """
    far_n, far_d = target["N"] / points["N"].max(), target["D"] / points["D"].max()
    out = [
        f"The forecast itself: parameter error moves it by {np.std(moved):.2%} (one standard "
        f"deviation), at {far_n:.3g}x the largest N and {far_d:.3g}x the largest D of the proxies."
    ]
    if fit.unidentified:
        out.append(
            f"Not identified at all: {', '.join(fit.unidentified)} can move together without "
            "changing any prediction at the points."
        )
    for name, value in fit.params.items():
        low, high = spans[name]
        ratio = high / low if low > 0 else np.inf
        if name in fit.at_bound:
            out.append(
                f"{name} sits at a bound of the search ({value:.3g}): the points do not determine "
                "it."
            )
        elif ratio > 4:
            out.append(
                f"{name} = {value:.3g} is not identified: the interval runs from {low:.3g} to "
                f"{high:.3g}, a factor of {ratio:.3g}."
            )
        elif ratio > 1.5:
            out.append(f"{name} = {value:.3g} is known roughly: {low:.3g} to {high:.3g}.")
        else:
            out.append(f"{name} = {value:.3g} is identified: {low:.3g} to {high:.3g}.")
    logs = np.log(draws.clip(lower=1e-300).to_numpy(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        linked = np.corrcoef(logs.T)
    for i, one in enumerate(draws):
        for j in range(i + 1, len(draws.columns)):
            if abs(linked[i, j]) > _TRADE and {one, draws.columns[j]} not in (
                {"A", "alpha"},
                {"B", "beta"},
            ):
                out.append(
                    f"{one} and {draws.columns[j]} trade off (correlation {linked[i, j]:+.2f}): "
                    "quote them together or not at all."
                )
    out.append(
        "A follows alpha, and B follows beta, over a narrow range of N and D: neither coefficient "
        "means anything without its exponent."
    )
    return tuple(out)
