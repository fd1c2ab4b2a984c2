"""Losses of learning-rate sweeps whose optima are known."""

import math

import numpy as np
import pandas as pd

WIDTHS = (64, 128, 256, 512)


def ladder(slopes, *, noise=0.001, seeds=2, seed=0, recipes=("",), edge=10.0, widths=WIDTHS):
    """lr* = 4e-3 (width / 64)^slope of each parametrisation; runs above `edge` lr* diverge."""
    rng, rows = np.random.default_rng(seed), []
    for kind, slope in slopes.items():
        for recipe in recipes:
            for w in widths:
                best = 4e-3 * (w / 64) ** slope
                for k in range(-4, 6):
                    rate = float(f"{4e-3 * 2.0**k * (w / 64) ** (round(slope * 3) / 3):.6g}")
                    for s in range(seeds):
                        z = math.log(rate / best)
                        loss = (
                            math.inf
                            if z > math.log(edge)
                            else 3 + 0.03 * (math.exp(z) - 1 - z) + noise * rng.standard_normal()
                        )
                        rows.append(
                            {
                                "N": 48 * w * w,
                                "D": 960 * w * w,
                                "width": w,
                                "size": f"w{w}",
                                "parametrization": kind,
                                "recipe": recipe,
                                "lr": rate,
                                "seed": s,
                                "loss": loss,
                                "vocab_size": 512,
                            }
                        )
    return pd.DataFrame(rows)
