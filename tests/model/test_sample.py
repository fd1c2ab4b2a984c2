"""Sampling: the prompt is kept, greedy follows the argmax, seeds reproduce, nothing recompiles per
token.
"""

import dataclasses

import jax
import numpy as np
import pytest

from stepladder.model import transformer
from stepladder.model.generate import sample
from tests.support.model_shapes import SHAPES, create, jit

CFG = SHAPES["all"]
PARAMS = jax.tree.map(lambda p: 5 * p, create(CFG))
LOGITS = jit(lambda tokens: transformer.logits(CFG, PARAMS, tokens))
LIMITED = dataclasses.replace(CFG, window=4, document_end=4)
PROMPT = [3, 1, 4, 1, 5]


@pytest.mark.parametrize("cfg", [CFG, LIMITED], ids=["all", "window, documents"])
def test_greedy_is_the_argmax_of_each_prefix(cfg):
    got = np.asarray(sample.generate(cfg, PARAMS, PROMPT, 6, 0.0, jax.random.key(0)))
    want, logits = list(PROMPT), jit(lambda tokens: transformer.logits(cfg, PARAMS, tokens))
    for _ in range(6):
        want.append(
            int(logits(np.array([want + [0] * (11 - len(want))]))[0, len(want) - 1].argmax())
        )
    np.testing.assert_array_equal(got, want)


def test_seeds():
    def draw(seed):
        return np.asarray(sample.generate(CFG, PARAMS, PROMPT, 20, 2.0, jax.random.key(seed)))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()
    assert (draw(1)[: len(PROMPT)] == PROMPT).all() and draw(1).shape == (25,)
    assert draw(1).min() >= 0 and draw(1).max() < CFG.vocab_size


def test_temperature_follows_the_softmax():
    logits = np.asarray(LOGITS(np.array([PROMPT]))[0, -1], np.float64) / 1.5
    want = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    draws = [
        int(sample.generate(CFG, PARAMS, PROMPT, 1, 1.5, jax.random.key(s))[-1]) for s in range(400)
    ]
    top = int(want.argmax())
    assert np.mean(np.array(draws) == top) == pytest.approx(
        want[top], abs=4 * np.sqrt(want[top] * (1 - want[top]) / 400)
    )


def test_one_compilation_for_lengths_temperatures_and_seeds():
    sample._fill.clear_cache()
    for prompt, steps, temperature in (([1], 3, 0.0), ([1, 2, 3], 30, 1.0), (PROMPT, 40, 0.5)):
        sample.generate(CFG, PARAMS, prompt, steps, temperature, jax.random.key(steps))
    assert sample._fill._cache_size() == 1


@pytest.mark.parametrize("prompt", [[], [[1, 2]]])
def test_prompt_must_be_one_non_empty_sequence(prompt):
    with pytest.raises(ValueError, match="prompt_ids"):
        sample.generate(CFG, PARAMS, prompt, 3, 1.0, jax.random.key(0))
