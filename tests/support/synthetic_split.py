"""Tables of split models whose law and best splits are known.

Own-domain loss = E + A / N^alpha + B / (D + d0)^beta + B2 / (D2 + d2)^beta2 (H1), E moved by
domain. A dense model of T tokens is the law at D = T, D2 = 0.
"""

import numpy as np
import pandas as pd

TRUE = {"E": 1.4, "A": 30.0, "alpha": 0.35, "B": 60.0, "beta": 0.35, "B2": 12.0, "beta2": 0.3}
OFFSETS = {"d0": 2e5, "d2": 2e4}
SIZES = (1e4, 2e4, 4e4, 8e4)
RATIOS = (15, 30, 60, 120)
SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SMALL = {"sizes": SIZES, "ratios": (15, 60, 240)}
NOISE = 0.003
FEW = {"resamples": 200, "refits": 50}  # of the study, for a test
DOMAINS = {"law": 0.2, "science": 0.0, "web": -0.2}


def loss(n, d, more, **changed):
    """Of an expert on its own domain, nats per token; more: D2."""
    p = TRUE | OFFSETS | changed
    first = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / (d + p["d0"]) ** p["beta"]
    return first + p["B2"] / (more + p["d2"]) ** p["beta2"]


def best_share(n, t, k=1.0, **changed):
    """The share D / (D + D2) of least loss with D + k D2 = t, by search."""
    x = np.linspace(0, 1, 200_001)
    d, d2 = x * t, (1 - x) * t / k
    at = int(loss(n, d, d2, **changed).argmin())
    return d[at] / (d[at] + d2[at])


def table(
    *,
    sizes=SIZES,
    ratios=RATIOS,
    shares=SHARES,
    domains=tuple(DOMAINS),
    seeds=1,
    noise=0.0,
    seed=0,
    arm="shared",
    router="oracle",
    worse=0.0,
    loss_of=loss,
    **more,
):
    """Rows of experts on their own domains, and of dense models on all.

    noise: standard deviation in nats, of every row of its own. worse: nats added to experts.
    """
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        for ratio in ratios:
            t = n * ratio
            for s in shares:
                for k in range(seeds):
                    for name in domains:
                        dense = s == 1
                        d, d2 = s * t, (1 - s) * t
                        value = loss_of(n, d, d2) + DOMAINS.get(name, 0.0)
                        rows.append(
                            {
                                "N": n,
                                "D": d,
                                "D2": 0.0 if dense else d2,
                                "domain": name,
                                "own": "" if dense else name,
                                "arm": "dense" if dense else arm,
                                "seed": k,
                                "router": "" if dense else router,
                                "K": len(domains),
                                "loss": value
                                + (0 if dense else worse)
                                + noise * rng.standard_normal(),
                                **more,
                            }
                        )
    return pd.DataFrame(rows)
