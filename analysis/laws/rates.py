"""Products of powers: how an optimum moves with the scale.

The optimum is a learning rate, batch, N, D, or number of transferred tokens.
"""

from typing import Any

from stepladder.analysis.laws.law import Input, Law, Parameter, exp

_LEVEL = (0.3, 3.0), (1e-9, 1e9)
_EXPONENT = (-1.0, 1.0), (-6.0, 6.0)


def product(
    name: str,
    output: str,
    inputs: tuple[str, ...],
    source: str,
    note: str = "",
    exponents: tuple[str, ...] = (),
) -> Law:
    """output = k x1^a x2^b ...: linear in logs, one minimum."""
    exponents = exponents or tuple("abc"[: len(inputs)])

    def formula_fn(xp: Any, p: Any, *v: Any) -> Any:
        return p.k * xp.exp(sum(getattr(p, e) * x for e, x in zip(exponents, v)))

    def rescale(p: Any, c: Any, s: Any) -> dict[str, Any]:
        return {
            "k": s
            * p.k
            * exp(-sum(getattr(p, e) * getattr(c, x) for e, x in zip(exponents, inputs)))
        }

    return Law(
        name=name,
        formula=f"{output} = k " + " ".join(f"{x}^{e}" for x, e in zip(inputs, exponents)),
        source=source,
        axes=tuple(Input(x) for x in inputs),
        params=(
            Parameter("k", *_LEVEL),
            *(Parameter(e, *_EXPONENT, positive=False) for e in exponents),
        ),
        formula_fn=formula_fn,
        rescale=rescale,
        linear=("k",),
        output=output,
        note=note,
    )


LAWS = (
    product(
        "steplaw_lr",
        "lr",
        ("N", "D"),
        "2503.04715",
        "published 1.79 N^-.713 D^.307, N without embeddings, D tokens",
    ),
    product("steplaw_batch", "batch", ("D",), "2503.04715", "published .58 D^.571 tokens"),
    product("deepseek_lr", "lr", ("C",), "2401.02954", "published .3118 C^-.1250"),
    product("deepseek_batch", "batch", ("C",), "2401.02954", "published .2920 C^.3271"),
    product(
        "porian",
        "N",
        ("C",),
        "2406.19146",
        "compute-optimal N; T^2's configuration has .00478 C^.5714",
    ),
    product(
        "critical_batch", "batch", ("loss",), "2001.08361", "tokens; published 2e8 loss^(-1/.21)"
    ),
    product(
        "hernandez",
        "DT",
        ("DF", "N"),
        "2102.01293",
        "effective data transferred; text to Python 1.9e4 DF^.18 N^.38",
    ),
    product(
        "sensitivity",
        "delta",
        ("gamma", "T", "N"),
        "2503.19206",
        "our form: loss added by a change of size gamma after T tokens",
    ),
)
