"""From loss to what users see: accuracy, error."""

from stepladder.analysis.laws.law import Input, Law, Parameter, exp

_SHARE = (0.2, 1.2), (1e-3, 20.0)

sigmoid = Law(
    name="sigmoid",
    formula="Acc = a / (1 + exp(k (L - L0))) + b",
    source="2412.04403",
    axes=(Input("L", distinct=4, kind="linear", falls=True),),
    params=(
        Parameter("a", *_SHARE),
        Parameter("b", (0.05, 0.8), (1e-4, 5.0)),
        Parameter("k", (1.0, 40.0), (0.05, 500.0)),
        Parameter("L0", (0.5, 1.5), (0.01, 10.0)),
    ),
    formula_fn=lambda xp, p, loss: p.a / (1 + xp.exp(p.k * (loss - p.L0))) + p.b,
    rescale=lambda p, c, s: {
        "a": s * p.a,
        "b": s * p.b,
        "k": p.k / exp(c.L),
        "L0": p.L0 * exp(c.L),
    },
    linear=("a", "b"),
    output="Acc",
    note=(
        "b is chance level when the points reach it; L a loss of the task (bits per byte in the "
        "paper)"
    ),
)

gadre_error = Law(
    name="gadre_error",
    formula="Err = eps - k exp(-g L)",
    source="2403.08540",
    axes=(Input("L", distinct=3, kind="linear"),),
    params=(
        Parameter("eps", (1.0, 1.5), (1e-2, 20.0)),
        Parameter("k", (0.1, 20.0), (1e-4, 1e6)),
        Parameter("g", (0.3, 8.0), (0.01, 60.0)),
    ),
    formula_fn=lambda xp, p, loss: p.eps - p.k * xp.exp(-p.g * loss),
    rescale=lambda p, c, s: {"eps": s * p.eps, "k": s * p.k, "g": p.g / exp(c.L)},
    output="Err",
    n_starts=64,
    note="average top-1 error over tasks; single tasks are predicted badly",
)


LAWS = (sigmoid, gadre_error)
