"""The toy of the theorem: its kernel against wide features, its SGD against a plain loop, its limit
against the textbook.
"""

import importlib.util

import numpy as np
import pytest


@pytest.fixture(scope="module")
def toy(root):
    spec = importlib.util.spec_from_file_location(
        "random_features", root / "benchmarks" / "random_features.py"
    )
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["random_features"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_kernel_is_the_limit_of_the_features(toy):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    phi = np.maximum(x @ rng.standard_normal((4, 400_000)), 0) / np.sqrt(400_000)
    assert toy.kernel(x, x) == pytest.approx(phi @ phi.T, abs=5e-3)
    assert np.diag(toy.kernel(x, x)) == pytest.approx(0.5)


def test_sgd_is_a_plain_loop(toy):
    rng = np.random.default_rng(1)
    problem, features, rate = toy.draw(1, rng), rng.standard_normal((1, 16, toy.DIMENSION)), 0.5

    def phi(x):
        return np.maximum(x @ features[0].T, 0) / 4

    theta = np.zeros(16)
    for start in range(0, toy.EXAMPLES, toy.BATCH):
        rows = phi(problem["xa"][0, start : start + toy.BATCH])
        theta -= (
            rate * rows.T @ (rows @ theta - problem["ya"][0, start : start + toy.BATCH]) / toy.BATCH
        )
    want = ((phi(problem["xv"][0]) @ theta - problem["yv"][0]) ** 2).mean()
    assert toy.sgd(problem, "a", features, np.array([rate]))[0, 0] == pytest.approx(want, rel=1e-4)


def test_orders_are_counted(toy):
    cells, facts = toy.run(4, widths=(32, 64), rates=(1e-3, 1.0, 1e3), chunk=2)
    assert [(c.width, c.rate) for c in cells] == [
        (w, r) for w in (32, 64) for r in (1e-3, 1.0, 1e3)
    ]
    assert all(c.low <= c.correct <= c.high for c in cells) and 0 <= facts["a_better"] <= 1
    # far beyond stability: never a correct order
    assert all(c.overflowed == 4 and c.correct == 0 for c in cells if c.rate == 1e3)
