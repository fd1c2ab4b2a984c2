"""Loss and accuracy with k samples a question (T^2, arXiv 2604.01411)."""

from collections.abc import Callable
from typing import Any

from stepladder.analysis.laws.law import Input, Law, Parameter, exp
from stepladder.analysis.laws.loss import D, N, chinchilla, chinchilla_units, coefficient, exponent

t2_loss = Law(
    name="t2_loss",
    formula="-log pass@k = E + A / N^alpha + B / D^beta + G / k^gamma",
    source="2604.01411",
    axes=(N, D, Input("k", distinct=3, falls=True)),
    params=(*chinchilla.params, coefficient("G"), exponent("gamma")),
    formula_fn=lambda xp, p, n, d, k: (
        p.E + p.A * xp.exp(-p.alpha * n) + p.B * xp.exp(-p.beta * d) + p.G * xp.exp(-p.gamma * k)
    ),
    rescale=lambda p, c, s: chinchilla_units(p, c, s) | {"G": s * p.G * exp(p.gamma * c.k)},
    linear=("E", "A", "B", "G"),
    n_starts=64,
    note=(
        "approach 1: no interaction of k with N or D; on hard tasks G / k^gamma must imitate -log k"
    ),
)


def _accuracy(xp: Any, p: Any, loss: Any, log_k: Any) -> Any:
    gammaln = _gammaln(xp)
    mu = p.theta2 / (1 + xp.exp(p.theta1 * (loss - p.theta0)))
    nu = xp.exp(p.theta3 + p.theta4 * loss)
    a, b, k = mu * nu, (1 - mu) * nu, xp.exp(log_k)
    return -xp.expm1(gammaln(b + k) + gammaln(a + b) - gammaln(b) - gammaln(a + b + k))


def _gammaln(xp: Any) -> Callable[[Any], Any]:
    if xp.__name__ == "numpy":
        from scipy.special import loggamma

        return loggamma  # also of complex arguments, which the complex step needs
    from jax.scipy.special import gammaln

    return gammaln


t2_accuracy = Law(
    name="t2_accuracy",
    formula=(
        "pass@k = 1 - B(a, b + k) / B(a, b),  a + b = exp(theta3 + theta4 L),  a / (a + b) = "
        "theta2 / (1 + exp(theta1 (L - theta0)))"
    ),
    source="2604.01411",
    axes=(Input("L", distinct=4, kind="raw"), Input("k", distinct=3, kind="raw")),
    params=(
        Parameter("theta0", (0.5, 4.0), (0.0, 30.0), positive=False),
        Parameter("theta1", (0.5, 5.0), (0.01, 50.0)),
        Parameter("theta2", (0.3, 0.95), (1e-3, 1.0 - 1e-6)),
        Parameter("theta3", (-1.0, 3.0), (-20.0, 20.0), positive=False),
        Parameter("theta4", (-1.0, 1.0), (-10.0, 10.0), positive=False),
    ),
    formula_fn=lambda xp, p, loss, k: _accuracy(xp, p, xp.exp(loss), k),
    rescale=lambda p, c, s: {},
    output="pass@k",
    n_starts=128,
    unitless=True,
    note="approach 2: L is the task's loss at k = 1, in nats; probabilities have no other unit",
)

LAWS = (t2_loss, t2_accuracy)
