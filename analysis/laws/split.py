"""Two-stage training: loss after D general and D2 specialised tokens.

The laws split_* are our candidates, not the form of any paper; their aliases h0 to h5 are their
codes in the protocol of the split study. Its h6 is `shukor_additive_k` (mixture.py) on weights
averaged over both stages.
"""

from dataclasses import replace
from typing import Any

from stepladder.analysis.laws.law import Input, Law, Parameter, exp
from stepladder.analysis.laws.loss import LEVEL, N, coefficient, exponent

TOKENS = Input("D", distinct=3, kind="linear", unit="tokens", falls=True)
MORE = Input("D2", distinct=3, kind="linear", unit="tokens", falls=True)
_LOG_TOKENS = Input("D", distinct=3, unit="tokens")
_LOG_MORE = Input("D2", distinct=3, unit="tokens")
_OFFSET = (0.02, 0.5), (1e-6, 1e3)


def _tokens(p: Any, c: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(p, name) * exp(c.tokens) for name in names}


def _common(p: Any, c: Any, s: Any) -> dict[str, Any]:
    return {"E": s * p.E, "A": s * p.A * exp(p.alpha * c.N), "B": s * p.B * exp(p.beta * c.tokens)}


_BASE = (LEVEL, coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta"))

split_total = Law(
    name="split_total",
    alias="h0",
    formula="L = E + A / N^alpha + B / (D + D2)^beta",
    source="2203.15556, our form",
    axes=(N, TOKENS, MORE),
    params=_BASE,
    formula_fn=lambda xp, p, n, d, e: (
        p.E + p.A * xp.exp(-p.alpha * n) + p.B * xp.exp(-p.beta * xp.log(d + e))
    ),
    rescale=_common,
    linear=("E", "A", "B"),
    note="ignores the split",
)

split_separate = Law(
    name="split_separate",
    alias="h1",
    formula="L = E + A / N^alpha + B / (D + d0)^beta + B2 / (D2 + d2)^beta2",
    source="our form",
    axes=(N, TOKENS, MORE),
    params=(
        *_BASE,
        coefficient("B2"),
        exponent("beta2"),
        Parameter("d0", *_OFFSET),
        Parameter("d2", *_OFFSET),
    ),
    formula_fn=lambda xp, p, n, d, e: (
        p.E
        + p.A * xp.exp(-p.alpha * n)
        + p.B * xp.exp(-p.beta * xp.log(d + p.d0))
        + p.B2 * xp.exp(-p.beta2 * xp.log(e + p.d2))
    ),
    rescale=lambda p, c, s: (
        _common(p, c, s) | _tokens(p, c, "d0", "d2") | {"B2": s * p.B2 * exp(p.beta2 * c.tokens)}
    ),
    linear=("E", "A", "B", "B2"),
    n_starts=128,
    note="separate contributions of the stages",
)

split_effective = Law(
    name="split_effective",
    alias="h2",
    formula="L = E + A / N^alpha + B / (D2 + tau D)^beta",
    source="our form",
    axes=(N, TOKENS, MORE),
    params=(*_BASE, Parameter("tau", (0.02, 1.0), (1e-6, 10.0))),
    formula_fn=lambda xp, p, n, d, e: (
        p.E + p.A * xp.exp(-p.alpha * n) + p.B * xp.exp(-p.beta * xp.log(e + p.tau * d))
    ),
    rescale=_common,
    linear=("E", "A", "B"),
    note="effective data; under a linear token budget only corners are optimal",
)

split_transfer = Law(
    name="split_transfer",
    alias="h2b",
    formula="L = E + A / N^alpha + B / (D2 + kappa D^a N^b)^beta",
    source="2102.01293, our form",
    axes=(N, Input("D", distinct=3, unit="tokens", falls=True), MORE),
    params=(
        *_BASE,
        Parameter("kappa", (0.02, 1.0), (1e-9, 1e3)),
        Parameter("a", (0.1, 1.0), (0.01, 3.0)),
        Parameter("b", (-0.5, 0.5), (-3.0, 3.0), positive=False),
    ),
    formula_fn=lambda xp, p, n, d, e: (
        p.E
        + p.A * xp.exp(-p.alpha * n)
        + p.B * xp.exp(-p.beta * xp.log(e + p.kappa * xp.exp(p.a * d + p.b * n)))
    ),
    rescale=lambda p, c, s: (
        _common(p, c, s) | {"kappa": p.kappa * exp(c.tokens * (1 - p.a) - p.b * c.N)}
    ),
    linear=("E", "A", "B"),
    n_starts=128,
    note="transfer as in Hernandez; needs D above 0",
)

liew = Law(
    name="liew",
    formula="L = E + A D^-a1 D2^(-a2 + a3 ln D)",
    source="2510.06548",
    axes=(_LOG_TOKENS, _LOG_MORE),
    params=(
        LEVEL,
        coefficient("A"),
        Parameter("a1", (-0.2, 0.8), (-3.0, 3.0), positive=False),
        Parameter("a2", (0.0, 0.8), (-3.0, 3.0), positive=False),
        Parameter("a3", (-0.05, 0.1), (-1.0, 1.0), positive=False),
    ),
    formula_fn=lambda xp, p, d, e: p.E + p.A * xp.exp(-p.a1 * d - p.a2 * e + p.a3 * d * e),
    rescale=lambda p, c, s: {"E": s * p.E, **_crossed(p, c, s)},
    linear=("E", "A"),
    n_starts=64,
    note="the exponent of the second stage falls with ln D",
)


def _crossed(p: Any, c: Any, s: Any) -> dict[str, Any]:
    t = c.tokens
    return {
        "A": s * p.A * exp((p.a1 + p.a2) * t + p.a3 * t * t),
        "a1": p.a1 + p.a3 * t,
        "a2": p.a2 + p.a3 * t,
    }


split_log_exponent = Law(
    name="split_log_exponent",
    alias="h3",
    formula="L = E + A2 / N^alpha + A D^-a1 D2^(-a2 + a3 ln D)",
    source="2510.06548, our form",
    axes=(N, _LOG_TOKENS, _LOG_MORE),
    params=(liew.params[0], coefficient("A2"), exponent("alpha"), *liew.params[1:]),
    formula_fn=lambda xp, p, n, d, e: (
        p.E + p.A2 * xp.exp(-p.alpha * n) + p.A * xp.exp(-p.a1 * d - p.a2 * e + p.a3 * d * e)
    ),
    rescale=lambda p, c, s: {
        "E": s * p.E,
        "A2": s * p.A2 * exp(p.alpha * c.N),
        **_crossed(p, c, s),
    },
    linear=("E", "A", "A2"),
    n_starts=128,
    note="Liew's form with a term in N",
)

_DCPT = (
    *_BASE,
    Parameter("eta", (0.1, 2.0), (1e-3, 8.0)),
    coefficient("C"),
    Parameter("eps", (0.02, 0.5), (1e-4, 10.0)),
    exponent("gamma"),
)


def _dcpt(xp: Any, p: Any, n: Any, log_d: Any, r: Any) -> Any:
    share = xp.exp(p.eta * xp.log(xp.maximum(r, 1e-12)))
    return (
        p.E
        + p.A * xp.exp(-p.alpha * n)
        + p.B * share * xp.exp(-p.beta * log_d)
        + p.C * xp.exp(-p.gamma * xp.log(r + p.eps))
    )


dcpt = Law(
    name="dcpt",
    formula="L = E + A / N^alpha + B r^eta / D^beta + C / (r + eps)^gamma",
    source="2406.01375",
    axes=(
        N,
        Input("D", distinct=3, unit="tokens", falls=True),
        Input("r", distinct=4, kind="share"),
    ),
    params=_DCPT,
    formula_fn=_dcpt,
    rescale=lambda p, c, s: _common(p, c, s) | {"C": s * p.C},
    linear=("E", "A", "B", "C"),
    n_starts=256,
    note="r is the share of domain tokens; nine parameters",
)

dcpt_cross = replace(
    dcpt,
    name="dcpt_cross",
    formula="L = E + A / N^alpha + B r^eta / D^beta + C / (r + eps)^gamma + F / K^mu",
    axes=(*dcpt.axes, Input("K", distinct=3, falls=True)),
    params=(*_DCPT, coefficient("F"), exponent("mu")),
    formula_fn=lambda xp, p, n, d, r, k: _dcpt(xp, p, n, d, r) + p.F * xp.exp(-p.mu * k),
    rescale=lambda p, c, s: _common(p, c, s) | {"C": s * p.C, "F": s * p.F * exp(p.mu * c.K)},
    linear=("E", "A", "B", "C", "F"),
    note="across domains: K = w1 / k1 + w2 k2 of the domain's first loss k1 and its decline k2",
)

split_share = Law(
    name="split_share",
    alias="h4",
    formula=(
        "L = E + A / N^alpha + B r^eta / (D + D2)^beta + C / (r + eps)^gamma,  r = D2 / (D + D2)"
    ),
    source="2406.01375, our form",
    axes=(
        N,
        Input("D", distinct=3, kind="linear", unit="tokens"),
        Input("D2", distinct=3, kind="linear", unit="tokens"),
    ),
    params=_DCPT,
    formula_fn=lambda xp, p, n, d, e: _dcpt(xp, p, n, xp.log(d + e), e / (d + e)),
    rescale=lambda p, c, s: _common(p, c, s) | {"C": s * p.C},
    linear=("E", "A", "B", "C"),
    n_starts=256,
    note="D-CPT at the split's own share",
)

split_product = Law(
    name="split_product",
    alias="h5",
    formula="L = E + A N^-alpha D^-beta D2^-beta2",
    source="2402.17193, our form",
    axes=(
        Input("N", falls=True),
        Input("D", unit="tokens", falls=True),
        Input("D2", unit="tokens", falls=True),
    ),
    params=(LEVEL, coefficient("A"), exponent("alpha"), exponent("beta"), exponent("beta2")),
    formula_fn=lambda xp, p, n, d, e: p.E + p.A * xp.exp(-p.alpha * n - p.beta * d - p.beta2 * e),
    rescale=lambda p, c, s: {
        "E": s * p.E,
        "A": s * p.A * exp(p.alpha * c.N + (p.beta + p.beta2) * c.tokens),
    },
    linear=("E", "A"),
    n_starts=64,
    note="multiplicative",
)

zhang = Law(
    name="zhang",
    formula="L = E + A X^-alpha D2^-beta",
    source="2402.17193, shape unverified",
    axes=(Input("X", falls=True), Input("D2", unit="tokens", falls=True)),
    params=(LEVEL, coefficient("A"), exponent("alpha"), exponent("beta")),
    formula_fn=lambda xp, p, v, e: p.E + p.A * xp.exp(-p.alpha * v - p.beta * e),
    rescale=lambda p, c, s: {"E": s * p.E, "A": s * p.A * exp(p.alpha * c.X + p.beta * c.tokens)},
    linear=("E", "A"),
    n_starts=64,
    note="X is N, the pretraining tokens or the size of the adapter",
)

LAWS = (
    split_total,
    split_separate,
    split_effective,
    split_transfer,
    split_log_exponent,
    split_share,
    split_product,
    liew,
    dcpt,
    dcpt_cross,
    zhang,
)
