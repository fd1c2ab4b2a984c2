"""Synthetic tables for the proxy-transfer tests: losses of recipes with a known order, planted
crossovers, seeds and n-gram baselines.

Loss = floor(size) + scale(size) * [ quality_r + bend(size) * log(eta / best_r)^2 + lure_r * swing *
w(eta) ] + noise, with w rising from 0 at small rates to 1 above `onset`: below it the order is that
of `quality`, above it the lure takes over.
"""

import math

import numpy as np
import pandas as pd

RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 6e-4, 1e-3, 3e-3)
SIZES = {"4M": 4e6, "10M": 1e7, "60M": 6e7}
DOMAINS = ("books", "code", "web")
VOCABULARY = 4096


def quality(recipes: int) -> np.ndarray:
    """Tuned target loss above the floor, nats per token: evenly spaced, recipe 0 the best."""
    return 0.03 * np.arange(recipes)


def lure(recipes: int) -> np.ndarray:
    """What a large rate adds to a proxy's loss: the worst recipes look best."""
    return -0.06 * np.arange(recipes)


def onset(rate: float, at: float = 5e-5) -> float:
    """0 well below `at`, 1 well above."""
    return 1 / (1 + (at / rate) ** 3)


def table(
    recipes: int = 12,
    *,
    seeds: int = 3,
    noise: float = 0.002,
    helps: bool = True,
    rates=RATES,
    sizes=None,
    seed: int = 0,
    domains=DOMAINS,
    drop: float = 3.0,
) -> pd.DataFrame:
    """`helps`: the lure acts at large rates only; otherwise at every rate, so a smaller one changes
    nothing.
    """
    rng, rows = np.random.default_rng(seed), []
    sizes = sizes or SIZES
    largest = max(sizes.values())
    # of the target: its optimum differs across recipes
    best = 3e-4 * 3.0 ** (np.arange(recipes) % 3 - 1)
    for size, n in sizes.items():
        target = n == largest
        for r in range(recipes):
            for rate in rates:
                far = math.log(rate / (best[r] if target else 3e-4))
                pull = 0.0 if target else lure(recipes)[r] * (onset(rate) if helps else 1.0)
                shape = 0.01 * far**2 if target else 0.004 * far**2
                for s in range(seeds):
                    for v, domain in enumerate(domains):
                        loss = (
                            math.log(VOCABULARY)
                            - drop
                            - 0.1 * math.log10(n)
                            + 0.2 * v
                            + quality(recipes)[r]
                            + pull
                            + shape
                        )
                        rows.append(
                            {
                                "recipe": f"r{r:02d}",
                                "size": size,
                                "N": n,
                                "D": 20 * n,
                                "learning_rate": rate,
                                "weight_decay": 0.1,
                                "batch_size": 64,
                                "seed": s,
                                "domain": domain,
                                "loss": loss + noise * rng.standard_normal(),
                                "loss_init": math.log(VOCABULARY),
                            }
                        )
    return pd.DataFrame(rows)


def arms(
    frame: pd.DataFrame, *, sizes=("4M", "10M"), rates=(1e-5, 3e-4), shift: float = 0.0
) -> pd.DataFrame:
    """The protocol's arms of A6 and G3, copies of the main runs with a constant shift and a batch,
    weight decay or tokens of their own.
    """
    main = frame[frame["size"].isin(sizes) & frame["learning_rate"].isin(rates)]
    settings = {
        "batch/4": {"batch_size": 16},
        "batch*4": {"batch_size": 256},
        "wd0": {"weight_decay": 0.0},
        "wd0.3": {"weight_decay": 0.3},
        "tokens5": {"D": main["N"] * 5},
        "tokens40": {"D": main["N"] * 40},
        "more_steps": {"D": main["N"] * 40},
    }
    return pd.concat(
        [
            frame.assign(arm="main"),
            *(
                main.assign(arm=arm, loss=main["loss"] + shift, **change)
                for arm, change in settings.items()
            ),
        ],
        ignore_index=True,
    )


def ngrams(
    recipes: int = 12, *, above: float = 0.5, frame: pd.DataFrame | None = None, order=None
) -> dict:
    """Bigram cross-entropies `above` the best loss of the proxies, in the order `order` (default:
    that of the recipes' quality).
    """
    base = math.log(VOCABULARY) - 3.0
    order = quality(recipes) if order is None else np.asarray(order, float)
    body = {
        f"r{r:02d}": {d: base + above + 0.2 * v + order[r] for v, d in enumerate(DOMAINS)}
        for r in range(recipes)
    }
    return {
        "bigram": body,
        "unigram": {r: {d: x + 1.0 for d, x in row.items()} for r, row in body.items()},
    }


def probes(
    recipes: int = 12, *, sizes=("4M", "10M", "60M"), at: float = 5e-5, fractions=(0.0, 0.01, 0.1)
) -> list[dict]:
    """Alignments in the order of quality and curvatures that make every pair cross at the rate
    `at`.
    """
    a = 1.0 - quality(recipes)
    c = 2 * a / at
    names = [f"r{r:02d}" for r in range(recipes)]
    out = []
    for size in sizes:
        for fraction in fractions:
            values = {
                n: {"a": float(x), "c": float(y), "grad_norm": 1.0} for n, x, y in zip(names, a, c)
            }
            out.append(
                {
                    "run_id": f"{size}-x",
                    "size": size,
                    "N": SIZES[size],
                    "role": "target" if size == "60M" else "proxy",
                    "step": int(1000 * fraction),
                    "fraction": fraction,
                    "tokens": 65536,
                    "recipes": values,
                    "per_domain": {d: values for d in DOMAINS},
                    "lambda_max": 200.0,
                    "lambda_iterations": 30,
                    "lambda_residual": 2.0,
                    "warmup_end": fraction == 0.01,
                }
            )
    return out
