"""Loss after a model was changed: noise, quantisation, fine-tuning.

It is U-shaped in the tokens of pretraining.
"""

from stepladder.analysis.laws.law import Input, Law, Parameter, exp
from stepladder.analysis.laws.loss import LEVEL, N, coefficient, exponent

ushape = Law(
    name="ushape",
    formula="L = E + B / D^beta + C D^q",
    source="2503.19206, our form",
    axes=(Input("D", distinct=4, unit="tokens"),),
    params=(
        LEVEL,
        coefficient("B"),
        Parameter("C", (1e-3, 0.5), (1e-9, 50.0)),
        exponent("beta"),
        Parameter("q", (0.2, 2.0), (0.01, 6.0)),
    ),
    formula_fn=lambda xp, p, d: p.E + p.B * xp.exp(-p.beta * d) + p.C * xp.exp(p.q * d),
    rescale=lambda p, c, s: {
        "E": s * p.E,
        "B": s * p.B * exp(p.beta * c.tokens),
        "C": s * p.C * exp(-p.q * c.tokens),
    },
    linear=("E", "B", "C"),
    note="one model size and one size of the change; the minimum is the inflection budget",
)

perturbed = Law(
    name="perturbed",
    formula="L = E + A / N^alpha + B / D^beta + K gamma^p (D / N)^q",
    source="2503.19206 and 2203.15556, our form",
    axes=(N, Input("D", distinct=4, unit="tokens"), Input("gamma", distinct=3)),
    params=(
        LEVEL,
        coefficient("A"),
        coefficient("B"),
        Parameter("K", (1e-2, 0.5), (1e-9, 50.0)),
        exponent("alpha"),
        exponent("beta"),
        Parameter("p", (0.5, 2.5), (0.01, 6.0)),
        Parameter("q", (0.2, 2.0), (0.01, 6.0)),
    ),
    formula_fn=lambda xp, p, n, d, g: (
        p.E
        + p.A * xp.exp(-p.alpha * n)
        + p.B * xp.exp(-p.beta * d)
        + p.K * xp.exp(p.p * g + p.q * (d - n))
    ),
    rescale=lambda p, c, s: {
        "E": s * p.E,
        "A": s * p.A * exp(p.alpha * c.N),
        "B": s * p.B * exp(p.beta * c.tokens),
        "K": s * p.K * exp(-p.p * c.gamma - p.q * (c.tokens - c.N)),
    },
    linear=("E", "A", "B", "K"),
    note="gamma is the size of the change",
)

shannon = Law(
    name="shannon",
    formula="L = 1 / (a N^alpha log2(1 + b D^beta / (1 + c (D N)^gamma + d D^delta)))",
    source="2605.23901",
    axes=(Input("N", distinct=3), Input("D", distinct=4, unit="tokens")),
    params=(
        Parameter("a", (0.2, 2.0), (1e-4, 1e3)),
        Parameter("b", (0.3, 10.0), (1e-5, 1e6)),
        Parameter("c", (1e-3, 0.5), (1e-9, 1e4)),
        Parameter("d", (1e-3, 0.5), (1e-9, 1e4)),
        Parameter("alpha", (0.03, 0.5), (1e-3, 3.0)),
        Parameter("beta", (0.2, 1.5), (0.01, 5.0)),
        Parameter("gamma", (0.2, 2.0), (0.01, 6.0)),
        Parameter("delta", (0.2, 2.0), (0.01, 6.0)),
    ),
    formula_fn=lambda xp, p, n, d: (
        1
        / (
            p.a
            * xp.exp(p.alpha * n)
            * xp.log1p(
                p.b
                * xp.exp(p.beta * d)
                / (1 + p.c * xp.exp(p.gamma * (d + n)) + p.d * xp.exp(p.delta * d))
            )
            / 0.6931471805599453
        )
    ),
    rescale=lambda p, c, s: {
        "a": p.a / s * exp(-p.alpha * c.N),
        "b": p.b * exp(-p.beta * c.tokens),
        "c": p.c * exp(-p.gamma * (c.tokens + c.N)),
        "d": p.d * exp(-p.delta * c.tokens),
    },
    n_starts=256,
    note="the paper's e is 1 here: b, c, d and e are defined up to a common factor",
)

sensitivity = Law(
    name="sensitivity",
    formula="Delta = k gamma^p (D / N)^q",
    source="2503.19206, our form",
    axes=(Input("N"), Input("D", unit="tokens"), Input("gamma")),
    params=(
        Parameter("k", (0.2, 5.0), (1e-9, 1e9)),
        Parameter("p", (0.5, 2.5), (0.01, 8.0)),
        Parameter("q", (-0.5, 2.0), (-4.0, 6.0), positive=False),
    ),
    formula_fn=lambda xp, p, n, d, g: p.k * xp.exp(p.p * g + p.q * (d - n)),
    rescale=lambda p, c, s: {"k": s * p.k * exp(-p.p * c.gamma - p.q * (c.tokens - c.N))},
    output="delta",
    note="Delta is the loss after a change of size gamma minus the loss before",
)

LAWS = (ushape, perturbed, shannon, sensitivity)
