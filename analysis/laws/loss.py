"""Loss as a function of parameters N, tokens D, unique tokens U and compute C."""

from typing import Any

from stepladder.analysis.laws.law import Input, Law, Parameter, exp, log

LEVEL = Parameter("E", (0.2, 0.95), (1e-3, 2.0))
N, D = Input("N", distinct=3, falls=True), Input("D", distinct=3, falls=True, unit="tokens")


def coefficient(name: str) -> Parameter:
    """The coefficient of a term.

    It is the term's size at the centre of the points, over the typical output.
    """
    return Parameter(name, (0.03, 1.0), (1e-5, 50.0))


def exponent(name: str) -> Parameter:
    """The exponent of a term that falls."""
    return Parameter(name, (0.08, 1.3), (0.01, 4.0))


def _power(x: str) -> Law:
    return Law(
        name=f"power_{x.lower()}",
        formula=f"L = A / {x}^alpha",
        source="2001.08361",
        axes=(Input(x),),
        params=(
            Parameter("A", (0.5, 2.0), (1e-9, 1e9)),
            Parameter("alpha", (-1.0, 1.0), (-4.0, 4.0), positive=False),
        ),
        formula_fn=lambda xp, p, v: p.A * xp.exp(-p.alpha * v),
        rescale=lambda p, c, s: {"A": s * p.A * exp(p.alpha * getattr(c, x))},
        linear=("A",),
        note="no floor; alpha may have either sign",
    )


def _floor(x: str) -> Law:
    return Law(
        name=f"floor_{x.lower()}",
        formula=f"L = E + A / {x}^alpha",
        source="2010.14701",
        axes=(Input(x, distinct=3, falls=True),),
        params=(LEVEL, coefficient("A"), exponent("alpha")),
        formula_fn=lambda xp, p, v: p.E + p.A * xp.exp(-p.alpha * v),
        rescale=lambda p, c, s: {"E": s * p.E, "A": s * p.A * exp(p.alpha * getattr(c, x))},
        linear=("E", "A"),
    )


def chinchilla_units(p: Any, c: Any, s: Any) -> dict[str, Any]:
    """`Law.rescale` of every law with the terms E, A / N^alpha and B / D^beta."""
    return {"E": s * p.E, "A": s * p.A * exp(p.alpha * c.N), "B": s * p.B * exp(p.beta * c.tokens)}


chinchilla = Law(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    source="2203.15556",
    axes=(N, D),
    params=(LEVEL, coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta")),
    formula_fn=lambda xp, p, n, d: p.E + p.A * xp.exp(-p.alpha * n) + p.B * xp.exp(-p.beta * d),
    rescale=chinchilla_units,
    linear=("E", "A", "B"),
    note="decayed losses only; extrapolation to extreme D/N under-predicts (2401.00448)",
)

gadre = Law(
    name="gadre",
    formula="L = E + A / N^alpha + B / D^alpha",
    source="2403.08540",
    axes=(Input("N", falls=True), Input("D", falls=True, unit="tokens")),
    params=(LEVEL, coefficient("A"), coefficient("B"), exponent("alpha")),
    formula_fn=lambda xp, p, n, d: p.E + p.A * xp.exp(-p.alpha * n) + p.B * xp.exp(-p.alpha * d),
    rescale=lambda p, c, s: {
        "E": s * p.E,
        "A": s * p.A * exp(p.alpha * c.N),
        "B": s * p.B * exp(p.alpha * c.tokens),
    },
    linear=("E", "A", "B"),
    note=(
        "shared exponent: in C = 6 N D and M = D / N, L = E + (a M^eta + b / M^eta) / C^eta with "
        "eta = alpha / 2, a = A 6^eta, b = B 6^eta"
    ),
)

kaplan = Law(
    name="kaplan",
    formula="L = ((Nc / N)^(aN / aD) + Dc / D)^aD",
    source="2001.08361",
    axes=(Input("N", falls=True), Input("D", falls=True, unit="tokens")),
    params=(
        Parameter("Nc", (0.01, 10.0), (1e-30, 1e30)),
        Parameter("Dc", (0.01, 10.0), (1e-30, 1e30)),
        exponent("aN"),
        exponent("aD"),
    ),
    formula_fn=lambda xp, p, n, d: xp.exp(
        p.aD * xp.log(xp.exp((xp.log(p.Nc) - n) * p.aN / p.aD) + xp.exp(xp.log(p.Dc) - d))
    ),
    rescale=lambda p, c, s: {
        "Nc": p.Nc * exp(c.N) * s ** (1 / p.aN),
        "Dc": p.Dc * exp(c.tokens) * s ** (1 / p.aD),
    },
    n_starts=64,
    note="N without embeddings in the paper; no floor",
)


def _repeated(xp: Any, p: Any, n: Any, d: Any, u: Any) -> Any:
    """N and D replaced by what they are worth when U unique tokens are repeated."""
    log_g = (xp.log(p.alpha * p.A) - xp.log(p.beta * p.B)) / (p.alpha + p.beta)
    fits = (u + log_g) * p.beta / p.alpha + log_g  # ln of the compute-optimal N for U tokens

    def worth(v: Any, unique: Any, decay: Any) -> Any:
        unique = xp.minimum(v, unique)
        again = xp.exp(v - unique) - 1
        return unique + xp.log1p(decay * (1 - xp.exp(-again / decay)))

    return (
        p.E
        + p.A * xp.exp(-p.alpha * worth(n, fits, p.RN))
        + p.B * xp.exp(-p.beta * worth(d, u, p.RD))
    )


muennighoff = Law(
    name="muennighoff",
    formula=(
        "L = E + A / N'^alpha + B / D'^beta,  D' = U (1 + RD (1 - exp(-R / RD))), R = D / U - 1;  "
        "N' alike with U_N and RN"
    ),
    source="2305.16264",
    axes=(N, D, Input("U", falls=True, unit="tokens")),
    params=(
        LEVEL,
        coefficient("A"),
        coefficient("B"),
        exponent("alpha"),
        exponent("beta"),
        Parameter("RD", (1.0, 100.0), (1e-2, 1e5)),
        Parameter("RN", (1.0, 100.0), (1e-2, 1e5)),
    ),
    formula_fn=_repeated,
    rescale=chinchilla_units,
    n_starts=128,
    note=(
        "U unique tokens, U_N the compute-optimal N for U; several minima are the rule, so look at "
        "all that are reported"
    ),
)


def _farseer(xp: Any, p: Any, n: Any, d: Any) -> Any:
    floor = xp.exp(p.a3 * xp.exp(p.gamma * n) + p.b3)
    size = xp.exp(p.a2 * xp.exp(p.beta * n) + p.b2)
    return floor + size * xp.exp(-xp.exp(p.a1 * xp.exp(p.alpha * n) + p.b1) * d)


farseer = Law(
    name="farseer",
    formula="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) / D^exp(a1 N^alpha + b1)",
    source="2506.10972",
    axes=(
        Input("N", distinct=4, falls=False),
        Input("D", distinct=3, falls=True, kind="raw", unit="tokens"),
    ),
    params=tuple(
        Parameter(name, low_high, bounds, positive=False)
        for name, low_high, bounds in (
            ("a1", (-2.0, -0.3), (-50.0, 50.0)),
            ("b1", (-1.0, 0.0), (-30.0, 10.0)),
            ("alpha", (0.05, 0.4), (-1.0, 1.0)),
            ("a2", (5.0, 25.0), (-100.0, 100.0)),
            ("b2", (-18.0, -3.0), (-100.0, 100.0)),
            ("beta", (-0.15, -0.03), (-1.0, 1.0)),
            ("a3", (-0.5, -0.02), (-20.0, 20.0)),
            ("b3", (-1.0, 0.3), (-20.0, 20.0)),
            ("gamma", (0.05, 0.5), (-1.0, 1.0)),
        )
    ),
    formula_fn=_farseer,
    rescale=lambda p, c, s: {
        "a1": p.a1 * exp(-p.alpha * c.N),
        "a2": p.a2 * exp(-p.beta * c.N),
        "a3": p.a3 * exp(-p.gamma * c.N),
        "b2": p.b2 + log(s),
        "b3": p.b3 + log(s),
    },
    n_starts=512,
    note=(
        "nine parameters, weakly identified; D enters in its own unit, since D^k(N) changes form "
        "with the unit"
    ),
)


LAWS = (
    *(_power(x) for x in "CND"),
    *(_floor(x) for x in "CND"),
    chinchilla,
    gadre,
    kaplan,
    muennighoff,
    farseer,
)
