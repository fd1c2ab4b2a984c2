"""Tables of changed models whose law, inflection and tuned rates are known.

Base loss = E + A / N^alpha + B / D^beta; a change of size gamma adds K gamma^p (D / N)^q, of which
every pretraining seed and draw has its own luck.
"""

import numpy as np
import pandas as pd

TRUE = {"E": 1.5, "A": 30.0, "B": 200.0, "alpha": 0.35, "beta": 0.4, "K": 0.9, "p": 2.0, "q": 0.5}
SIZES = (2e4, 8e4, 3.2e5)
RATIOS = (20, 60, 180, 540, 1620)
GAMMAS = (0.02, 0.04, 0.08, 0.16)
RATES = tuple(1e-4 * 2.0**k for k in range(9))


def base(n, d):
    """The loss before any change, nats per token."""
    t = TRUE
    return t["E"] + t["A"] / n ** t["alpha"] + t["B"] / d ** t["beta"]


def delta(n, d, gamma, k=TRUE["K"]):
    """What a change costs, nats per token."""
    return k * gamma ** TRUE["p"] * (d / n) ** TRUE["q"]


def inflection(n, gamma):
    """The D at which base + delta is lowest."""
    t = TRUE
    top = t["beta"] * t["B"] * n ** t["q"] / (t["q"] * t["K"] * gamma ** t["p"])
    return top ** (1 / (t["beta"] + t["q"]))


def noise(
    *,
    change="noise:init:matrices",
    sizes=SIZES,
    ratios=RATIOS,
    gammas=GAMMAS,
    seeds=2,
    draws=4,
    spread=0.01,
    arm="separate",
    k=TRUE["K"],
    flat=False,
    trace=False,
    seed=0,
):
    """Rows of noise.

    spread: relative standard deviation of Delta over draws, and in nats a tenth of it of the base
    loss over seeds. flat: Delta does not depend on D. trace: with the trace that gives Delta to
    second order where p is 2.
    """
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        for ratio in ratios:
            d = n * ratio
            for s in range(seeds):
                before = base(n, d) + 0.1 * spread * rng.standard_normal()
                luck = 1 + spread * rng.standard_normal()
                for gamma in gammas:
                    for draw in range(draws):
                        add = delta(n, n * ratios[0] if flat else d, gamma, k) * luck
                        add *= 1 + spread * rng.standard_normal()
                        rows.append(
                            {
                                "N": n,
                                "D": d,
                                "seed": s,
                                "arm": arm,
                                "change": change,
                                "strength": gamma,
                                "draw": draw,
                                "base_loss": before,
                                "loss": before + add,
                                **({"trace_sigma": 2 * add / gamma**2} if trace else {}),
                            }
                        )
    return pd.DataFrame(rows)


def finetuned(
    task="add",
    *,
    slope=-0.3,
    sizes=SIZES[:1],
    ratios=RATIOS,
    rates=RATES,
    seeds=2,
    worse=0.0,
    noise=0.002,
    arm="separate",
    first=1.6e-3,
    seed=0,
):
    """Rows of fine-tuning: the loss on the task is a parabola in ln rate around eta*.

    eta* = first (D / smallest D)^slope. worse: nats that a tenfold D adds to the loss on the task.
    Forgetting is (20 rate)^1.5 (D / N)^0.3.
    """
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        for ratio in ratios:
            best = first * (ratio / ratios[0]) ** slope
            for s in range(seeds):
                for rate in rates:
                    before = base(n, n * ratio)
                    forgot = (20 * rate) ** 1.5 * ratio**0.3
                    rows.append(
                        {
                            "N": n,
                            "D": n * ratio,
                            "seed": s,
                            "arm": arm,
                            "change": f"finetune:{task}",
                            "strength": rate,
                            "base_loss": before,
                            "loss": before + forgot + noise * rng.standard_normal(),
                            "tuned_loss": 1.0
                            + 0.1 * np.log(rate / best) ** 2
                            + worse * np.log10(ratio / ratios[0])
                            + noise * rng.standard_normal(),
                        }
                    )
    return pd.DataFrame(rows)


def quantised(*, sizes=SIZES, ratios=RATIOS, seeds=2, noise=0.002, seed=0):
    """Rows of quantisation to 8 and 4 bits."""
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        for ratio in ratios:
            for s in range(seeds):
                before = base(n, n * ratio)
                for bits in (8, 4):
                    add = delta(n, n * ratio, 2.0**-bits)
                    rows.append(
                        {
                            "N": n,
                            "D": n * ratio,
                            "seed": s,
                            "arm": "separate",
                            "change": f"int{bits}",
                            "strength": bits,
                            "base_loss": before,
                            "loss": before + add + noise * rng.standard_normal(),
                        }
                    )
    return pd.DataFrame(rows)
