"""Sampling by repeated forward passes over one fixed buffer: simple, compiled once, for looking at
small models.
"""

from functools import partial

import jax
import jax.numpy as jnp

from stepladder.model.shape import Shape
from stepladder.model.transformer import logits

_BLOCK = 64  # buffers grow in these steps, so that prompts of similar length share one compilation


@partial(jax.jit, static_argnums=0)
def _fill(
    cfg: Shape, params: dict, buffer_T: jax.Array, start, stop, temperature, key: jax.Array
) -> jax.Array:
    def step(i: jax.Array, buffer_T: jax.Array) -> jax.Array:
        # causal: what stands at and after i does not matter
        logits_V = logits(cfg, params, buffer_T[None])[0, i - 1]
        noise_V = jax.random.gumbel(jax.random.fold_in(key, i), logits_V.shape)
        return buffer_T.at[i].set(
            jnp.argmax(logits_V + temperature * noise_V).astype(buffer_T.dtype)
        )

    return jax.lax.fori_loop(start, stop, step, buffer_T)


def generate(
    cfg: Shape, params: dict, prompt_ids, steps: int, temperature: float, key: jax.Array
) -> jax.Array:
    """The prompt and `steps` sampled tokens: (P + steps,) int32. Temperature 0 is greedy.

    The prompt must not be empty (ValueError): give it the start token.
    """
    prompt_P = jnp.asarray(prompt_ids, jnp.int32)
    if prompt_P.ndim != 1 or prompt_P.size == 0:
        raise ValueError(
            f"prompt_ids: expected one non-empty sequence of token ids, got shape {prompt_P.shape}"
        )
    start, stop = prompt_P.size, prompt_P.size + steps
    buffer_T = jnp.zeros(-(-stop // _BLOCK) * _BLOCK, jnp.int32).at[:start].set(prompt_P)
    return _fill(
        cfg, params, buffer_T, jnp.int32(start), jnp.int32(stop), jnp.float32(temperature), key
    )[:stop]
