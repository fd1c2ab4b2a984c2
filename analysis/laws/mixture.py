"""Loss as a function of the weights h1..hk of k domains, which sum to 1; one law for every k."""

from typing import Any

from stepladder.analysis.laws.law import Input, Law, Parameter, exp, log
from stepladder.analysis.laws.loss import LEVEL, D, N, chinchilla_units, coefficient, exponent

DOMAINS = range(2, 9)
_WEIGHT, _CURVE = ((0.2, 5.0), (1e-5, 1e4)), ((0.1, 1.5), (0.01, 6.0))


def _weighted(xp: Any, p: Any, h: tuple[Any, ...], name: str, power: str = "") -> Any:
    """sum_i name_i h_i^power_i, h_i clipped away from 0."""
    return sum(
        getattr(p, f"{name}{i}")
        * xp.exp((getattr(p, f"{power}{i}") if power else 1.0) * xp.log(xp.maximum(v, 1e-12)))
        for i, v in enumerate(h, 1)
    )


def additive(k: int) -> Law:
    """The optimal weights do not depend on N and D; 5 + 2 k parameters."""

    def rescale(p: Any, c: Any, s: Any) -> dict[str, Any]:
        return chinchilla_units(p, c, s) | {
            f"C{i}": getattr(p, f"C{i}") / s for i in range(1, k + 1)
        }

    return Law(
        name=f"shukor_additive_{k}",
        formula="L = E + 1 / sum_i C_i h_i^g_i + A / N^alpha + B / D^beta",
        source="2507.09404",
        axes=(N, D, *(Input(f"h{i}", distinct=3, kind="share") for i in range(1, k + 1))),
        params=(
            LEVEL,
            coefficient("A"),
            coefficient("B"),
            exponent("alpha"),
            exponent("beta"),
            *(Parameter(f"C{i}", *_WEIGHT) for i in range(1, k + 1)),
            *(Parameter(f"g{i}", *_CURVE) for i in range(1, k + 1)),
        ),
        formula_fn=lambda xp, p, n, d, *h: (
            p.E
            + 1 / _weighted(xp, p, h, "C", "g")
            + p.A * xp.exp(-p.alpha * n)
            + p.B * xp.exp(-p.beta * d)
        ),
        rescale=rescale,
        linear=("E", "A", "B"),
        n_starts=128,
        note="E is identified only as far as the mixture's term is not constant",
    )


def joint(k: int) -> Law:
    """The optimal weights move with N and D; 5 + 4 k parameters."""

    def rescale(p: Any, c: Any, s: Any) -> dict[str, Any]:
        moved = {"E": s * p.E}
        for i in range(1, k + 1):
            moved[f"C{i}"] = getattr(p, f"C{i}") / s
            moved[f"A{i}"] = getattr(p, f"A{i}") * (s * exp(p.alpha * c.N)) ** (1 / p.gA)
            moved[f"B{i}"] = getattr(p, f"B{i}") * (s * exp(p.beta * c.tokens)) ** (1 / p.gB)
        return moved

    return Law(
        name=f"shukor_joint_{k}",
        formula=(
            "L = E + 1 / sum_i C_i h_i^g_i + (sum_i A_i h_i)^gA / N^alpha + (sum_i B_i h_i)^gB / "
            "D^beta"
        ),
        source="2507.09404",
        axes=(N, D, *(Input(f"h{i}", distinct=3, kind="share") for i in range(1, k + 1))),
        params=(
            LEVEL,
            exponent("alpha"),
            exponent("beta"),
            Parameter("gA", *_CURVE),
            Parameter("gB", *_CURVE),
            *(Parameter(f"{name}{i}", *_WEIGHT) for name in "CAB" for i in range(1, k + 1)),
            *(Parameter(f"g{i}", *_CURVE) for i in range(1, k + 1)),
        ),
        formula_fn=lambda xp, p, n, d, *h: (
            p.E
            + 1 / _weighted(xp, p, h, "C", "g")
            + xp.exp(p.gA * xp.log(_weighted(xp, p, h, "A")) - p.alpha * n)
            + xp.exp(p.gB * xp.log(_weighted(xp, p, h, "B")) - p.beta * d)
        ),
        rescale=rescale,
        linear=("E",),
        n_starts=256,
        note="weakly identified: many mixtures at several N and D are needed",
    )


def exponential(k: int) -> Law:
    """Loss of one domain at one N and D."""
    return Law(
        name=f"ye_{k}",
        formula="L = c + k exp(sum_j t_j h_j)",
        source="2403.16952",
        axes=tuple(Input(f"h{i}", distinct=3, kind="share") for i in range(1, k + 1)),
        params=(
            Parameter("c", (0.2, 0.95), (1e-3, 2.0)),
            *(
                Parameter(f"t{i}", (-2.0, 1.0), (-20.0, 20.0), positive=False)
                for i in range(1, k + 1)
            ),
        ),
        formula_fn=lambda xp, p, *h: (
            p.c + xp.exp(sum(getattr(p, f"t{i}") * v for i, v in enumerate(h, 1)))
        ),
        rescale=lambda p, c, s: (
            {"c": s * p.c} | {f"t{i}": getattr(p, f"t{i}") + log(s) for i in range(1, k + 1)}
        ),
        linear=("c",),
        n_starts=64,
        note="weights sum to 1, so the paper's k is one more constant in every t",
    )


LAWS = tuple(make(k) for make in (additive, joint, exponential) for k in DOMAINS)
