"""Shapes small enough to check by hand, one per feature of the architecture."""

import dataclasses
import functools

import jax

from stepladder.configs.core.spec import ModelSpec
from stepladder.model import transformer

PLAIN = ModelSpec(
    size="test",
    vocab_size=37,
    d_model=16,
    n_layers=2,
    n_heads=4,
    n_kv_heads=4,
    head_dim=4,
    d_ff=24,
    activation="gelu",
    tied=True,
    qk_norm=False,
    rope_theta=10_000.0,
    norm_eps=1e-6,
    logit_cap=0.0,
    compute_dtype="float32",
)

SHAPES = {
    "plain": PLAIN,
    "gqa": dataclasses.replace(PLAIN, n_kv_heads=2),
    "multi-query": dataclasses.replace(PLAIN, n_kv_heads=1, qk_norm=True),
    "untied": dataclasses.replace(PLAIN, tied=False, activation="swiglu"),
    "soft-cap": dataclasses.replace(PLAIN, logit_cap=0.5, activation="swiglu"),
    "all": dataclasses.replace(
        PLAIN,
        n_kv_heads=2,
        qk_norm=True,
        tied=False,
        activation="swiglu",
        logit_cap=5.0,
        n_layers=3,
    ),
}

# These programs run once on tiny arrays: LLVM's optimisation would be most of a test's time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
create = jit(lambda cfg, seed=0: transformer.init(cfg, jax.random.key(seed)), static_argnums=0)
