"""The toy check of arXiv 2512.24503's theorem.

    python benchmarks/random_features.py [--trials 200] [--figure FILE.svg] [--json]

Does a small random-feature model at a small learning rate order two training sets as the infinitely
wide one does? Features phi(x) = relu(W x) / sqrt(m), one pass of plain SGD from zero on least
squares, width m in 2^5 .. 2^12, learning rate over 7 decades. Set A has clean labels and a shifted
input distribution, B the validation's inputs and some labels of the wrong sign. Truth (ours): the
order of the validation errors of ridge regression on the same examples in the kernel limit, the
arc-cosine kernel of order 1 (m -> infinity of these features). Reported: P[order correct] over the
trials at each (m, rate) with Wilson's 95 % interval, beside the share that always naming the
commoner winner would get. Every trial draws its own problem and features; both sets share the
features. An overflow counts as wrong.

What it shows is not only the theorem's promise: the pass is of a fixed length, so at the smallest
rates a model has taken one small step along the gradient, and its order is that of the alignments,
which need not be that of the best losses of the class.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

WIDTHS = tuple(2**k for k in range(5, 13))
RATES = tuple(float(r) for r in np.logspace(-5, 2, 15))
DIMENSION, EXAMPLES, VALIDATION, BATCH = 8, 512, 256, 8
# largest shift of A's inputs, in their own SD; largest share of B's labels with the wrong sign
SHIFT, NOISE = 3.0, 0.25
RIDGE = 1e-3


@dataclass
class Cell:
    """P[order correct] at one width and rate: share of `trials`, Wilson's 95 % interval, trials
    whose SGD overflowed (counted as wrong).
    """

    width: int
    rate: float
    correct: float
    low: float
    high: float
    trials: int
    overflowed: int


def draw(trials: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`trials` problems: a smooth truth of x, inputs on the sphere; A is shifted along a direction,
    B has labels of the wrong sign.
    """
    w = rng.standard_normal((trials, DIMENSION))

    def truth(x):
        return np.tanh(np.einsum("tnd,td->tn", x, w) / 2)

    def sphere(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    away = rng.standard_normal((trials, 1, DIMENSION))
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    # How far A is shifted and how noisy B is differ between trials: the truth is A in some and B in
    # others.
    strength = rng.uniform(0, SHIFT, (trials, 1, 1)) * math.sqrt(DIMENSION)
    wrong = rng.uniform(0, NOISE, (trials, 1))
    a, b, v = rng.standard_normal((3, trials, EXAMPLES, DIMENSION))
    a, b, v = sphere(a + strength * away), sphere(b), sphere(v)[:, :VALIDATION]
    return {
        "xa": a,
        "ya": truth(a),
        "xb": b,
        "yb": truth(b) * np.where(rng.random((trials, EXAMPLES)) < wrong, -1, 1),
        "xv": v,
        "yv": truth(v),
    }


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """E[relu(w.x) relu(w.y)] for standard normal w and unit x, y: the arc-cosine kernel of order 1,
    halved.
    """
    cosine = np.clip(x @ np.swapaxes(y, -1, -2), -1, 1)
    angle = np.arccos(cosine)
    return (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi)


def limit(problem: dict[str, np.ndarray], side: str) -> np.ndarray:
    """Validation error [trials] of kernel ridge regression on one set."""
    x, y = problem[f"x{side}"], problem[f"y{side}"]
    gram = kernel(x, x) + RIDGE * EXAMPLES * np.eye(EXAMPLES)
    weights = np.linalg.solve(gram, y[..., None])
    return (((kernel(problem["xv"], x) @ weights)[..., 0] - problem["yv"]) ** 2).mean(-1)


def sgd(
    problem: dict[str, np.ndarray], side: str, features: np.ndarray, rates: np.ndarray
) -> np.ndarray:
    """Validation error [trials, rates] after one pass of SGD from zero; `features`: W [trials, m,
    d].

    Overflow is infinite.
    """

    def phi(x):
        return np.maximum(x @ np.swapaxes(features, 1, 2), 0).astype(np.float32) / np.float32(
            math.sqrt(features.shape[1])
        )

    inputs, labels = phi(problem[f"x{side}"]), problem[f"y{side}"].astype(np.float32)
    theta = np.zeros((inputs.shape[0], inputs.shape[2], len(rates)), np.float32)
    step = rates.astype(np.float32) / BATCH
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, EXAMPLES, BATCH):
            rows = inputs[:, start : start + BATCH]
            error = rows @ theta - labels[:, start : start + BATCH, None]
            theta -= step * (np.swapaxes(rows, 1, 2) @ error)
        loss = (
            (phi(problem["xv"]) @ theta - problem["yv"][..., None].astype(np.float32)) ** 2
        ).mean(1)
    return np.where(np.isfinite(loss), loss, np.inf)


def run(
    trials: int, widths=WIDTHS, rates=RATES, seed: int = 0, chunk: int = 8
) -> tuple[list[Cell], dict]:
    """All cells, and facts of the problems: share in which A is truly better, median gap of the
    truth.
    """
    rng = np.random.default_rng(seed)
    right = np.zeros((len(widths), len(rates)))
    lost = np.zeros((len(widths), len(rates)), int)
    gaps = []
    for first in range(0, trials, chunk):
        count = min(chunk, trials - first)
        problem = draw(count, rng)
        gap = limit(problem, "a") - limit(problem, "b")
        gaps += list(gap)
        whole = rng.standard_normal((count, max(widths), DIMENSION))
        for i, width in enumerate(widths):
            a, b = (sgd(problem, side, whole[:, :width], np.array(rates)) for side in "ab")
            with np.errstate(invalid="ignore"):
                right[i] += (np.sign(a - b) == np.sign(gap)[:, None]).sum(0)
            lost[i] += (np.isinf(a) | np.isinf(b)).sum(0)
    cells = [
        Cell(w, r, right[i, j] / trials, *wilson(right[i, j], trials), trials, int(lost[i, j]))
        for i, w in enumerate(widths)
        for j, r in enumerate(rates)
    ]
    return cells, {
        "trials": trials,
        "a_better": float(np.mean(np.array(gaps) < 0)),
        "median_gap": float(np.median(np.abs(gaps))),
    }


def wilson(count: float, of: int, z: float = 1.959964) -> tuple[float, float]:
    middle = (count + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(count * (of - count) / of + z * z / 4)
    # rounding at 0 and 1
    return max(0.0, min(middle - half, count / of)), min(1.0, max(middle + half, count / of))


def figure(cells: list[Cell]):
    """P[order correct] against the learning rate, a shade a width."""
    from matplotlib.figure import Figure

    from stepladder.analysis.figures.style import GRID, INK, size_colours

    drawn = Figure(figsize=(8, 4.4), layout="constrained")
    axes = drawn.add_subplot()
    widths = sorted({c.width for c in cells})
    colours = size_colours([float(w) for w in widths])
    for width in widths:
        mine = [c for c in cells if c.width == width]
        axes.fill_between(
            [c.rate for c in mine],
            [c.low for c in mine],
            [c.high for c in mine],
            color=colours[width],
            alpha=0.08,
            lw=0,
        )
        axes.plot(
            [c.rate for c in mine],
            [c.correct for c in mine],
            "o-",
            ms=3.5,
            lw=1.3,
            color=colours[width],
            label=f"m = {width}",
        )
    axes.axhline(0.5, color=INK, lw=1, ls="--")
    axes.set(
        xscale="log",
        xlabel="learning rate of one-pass SGD",
        ylabel="P[order as the kernel limit's]",
        title="Random features: which of two training sets is better",
    )
    axes.grid(color=GRID)
    axes.legend(ncols=2, fontsize=8)
    return drawn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", help="write the figure to this .svg or .png")
    parser.add_argument("--tiny", action="store_true", help="three trials")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.tiny:
        args.trials = 3
    begun = time.time()
    cells, facts = run(args.trials, seed=args.seed)
    facts["seconds"] = round(time.time() - begun, 1)
    if args.json:
        print(json.dumps({**facts, "cells": [asdict(c) for c in cells]}, indent=1))
    else:
        print(
            f"{facts['trials']} trials, A truly better in {facts['a_better']:.0%}, median gap "
            f"{facts['median_gap']:.4f}, {facts['seconds']} s"
        )
        print("P[order correct] by width (rows) and learning rate (columns)")
        print(" " * 6 + "".join(f"{r:8.0e}" for r in RATES))
        for width in WIDTHS:
            print(f"{width:6d}" + "".join(f"{c.correct:8.2f}" for c in cells if c.width == width))
    if args.figure:
        figure(cells).savefig(args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
