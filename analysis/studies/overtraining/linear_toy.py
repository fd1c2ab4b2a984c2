"""The two-layer linear network, where an inflection is exact: a check of the definitions.

f = W2 W1 with W1 [h, d_in] and W2 [d_out, h] learns a map A by gradient flow on
||W2 W1 - A||^2 / 2. From a small balanced start in the singular directions of A its singular values
grow one after another, the largest first, and ||W1||^2 = ||W2||^2 = sum of the learned ones. With
independent N(0, g^2) noise on every entry of both matrices

    E[L] = ||W2 W1 - A||^2 + g^2 (d_in ||W2||^2 + d_out ||W1||^2) + g^4 h d_in d_out,

so Delta grows with every mode that is learned, and a mode is worth learning only where its singular
value is above s_c = g^2 (d_in + d_out). The setting is arXiv 2503.19206's; formula and numbers are
our derivation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SINGULAR_VALUES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.12)
D_OUT, HIDDEN, D_IN = 12, 12, 16
NOISE = 0.1
START = 1e-3  # every learned direction of W1 and W2 starts at this singular value
_LEARNED = 0.999  # of a mode's singular value
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Path:
    """A trained toy.

    Attributes:
        A: the target map [d_out, d_in].
        time: [K].
        W1, W2: weights over time [K, h, d_in], [K, d_out, h].
        modes: learned singular values over time [K, modes], in the order of `targets`.
        targets: singular values of A, descending.
    """

    A: np.ndarray
    time: np.ndarray
    W1: np.ndarray
    W2: np.ndarray
    modes: np.ndarray
    targets: tuple[float, ...]

    @property
    def loss(self) -> np.ndarray:
        """||W2 W1 - A||^2 without noise [K]."""
        return ((self.W2 @ self.W1 - self.A) ** 2).sum((1, 2))

    def learned(self, mode: int) -> int:
        """The first moment at which a mode is learned (`_LEARNED` of its singular value)."""
        return int(np.argmax(self.modes[:, mode] >= _LEARNED * self.targets[mode]))


def train(
    targets: Sequence[float] = SINGULAR_VALUES,
    *,
    d_out: int = D_OUT,
    hidden: int = HIDDEN,
    d_in: int = D_IN,
    start: float = START,
    moments: int = 400,
    seed: int = 0,
) -> Path:
    """Integrate the gradient flow until every mode is learned.

    Args:
        targets: singular values of A; its singular directions are random, as is the basis of the
            hidden layer, so that all matrices are dense.
        start: singular values of W1 and W2 at the start.
        moments: how many times are kept, evenly spaced.
        seed: of the directions.
    """
    from scipy.integrate import solve_ivp
    from scipy.stats import ortho_group

    rng = np.random.default_rng(seed)
    s = np.sort(np.asarray(targets, float))[::-1]
    left, middle, right = (
        ortho_group.rvs(n, random_state=rng)[:, : len(s)] for n in (d_out, hidden, d_in)
    )
    A = (left * s) @ right.T
    W1, W2 = start * middle @ right.T, start * left @ middle.T

    def flow(_: float, state: np.ndarray) -> np.ndarray:
        one = state[: hidden * d_in].reshape(hidden, d_in)
        two = state[hidden * d_in :].reshape(d_out, hidden)
        error = A - two @ one
        return np.concatenate([(two.T @ error).ravel(), (error @ one.T).ravel()])

    # A mode alone follows ds/dt = 2 s (s* - s): this is when the slowest has come to 1 - 1e-4.
    end = (np.log(s[-1] / start**2) + np.log(1e4)) / (2 * s[-1])
    time = np.linspace(0, end, moments)
    state = np.concatenate([W1.ravel(), W2.ravel()])
    found = solve_ivp(
        flow, (0, end), state, "DOP853", time, rtol=_TOLERANCE, atol=_TOLERANCE * start
    )
    one = found.y[: hidden * d_in].T.reshape(-1, hidden, d_in)
    two = found.y[hidden * d_in :].T.reshape(-1, d_out, hidden)
    modes = np.einsum("om,koi,im->km", left, two @ one, right)
    return Path(A, time, one, two, modes, tuple(map(float, s)))


def perturbed_loss(path: Path, noise: float = NOISE) -> np.ndarray:
    """E[L] under noise of standard deviation `noise` on every weight, in closed form [K]."""
    d_out, d_in = path.A.shape
    hidden = path.W1.shape[1]
    one, two = ((w**2).sum((1, 2)) for w in (path.W1, path.W2))
    return path.loss + noise**2 * (d_in * two + d_out * one) + noise**4 * hidden * d_in * d_out


def monte_carlo(
    path: Path, moment: int, noise: float = NOISE, *, draws: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """The mean of L over draws of the noise at one moment, and its standard error."""
    rng = np.random.default_rng(seed)
    one, two = path.W1[moment], path.W2[moment]
    noisy_one = one + noise * rng.standard_normal((draws, *one.shape))
    noisy_two = two + noise * rng.standard_normal((draws, *two.shape))
    losses = ((noisy_two @ noisy_one - path.A) ** 2).sum((1, 2))
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(draws))


def critical(path: Path, noise: float = NOISE) -> float:
    """s_c: a mode of a smaller singular value costs more under noise than it gains."""
    return noise**2 * sum(path.A.shape)
