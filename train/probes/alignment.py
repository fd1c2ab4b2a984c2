"""How a step on each data recipe changes the validation loss: to first and second order, along the
gradient of the recipe.

A step of rate eta along the gradient g_i of recipe i changes the validation loss by
-eta a_i + eta^2 c_i / 2, with a_i = <g_val, g_i> and c_i = g_i^T H_val g_i (arXiv:2512.24503).
The optimizer is Adam, whose first steps go along the sign of the gradient: `a_sign` and `c_sign`
are the same along sign(g_i). No parameter is updated.
"""

import functools

import jax.numpy as jnp

from stepladder.configs.core import counting
from stepladder.configs.core.measurements import Alignment
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.store import Store
from stepladder.train.probes import curvature
from stepladder.train.step.program import Program


def alignment(probe: Alignment, params: dict, store: Store, program: Program) -> dict:
    """The body of a probe's file: a, c, a_sign, c_sign and grad_norm of every recipe, a and c by
    domain, and the top eigenvalue of H_val.

    a is in nats a token and unit of rate, c in nats a token and unit of rate squared. An eigenvalue
    of H_val lies within lambda_residual, |H v - lambda v|, of lambda_max.

    Args:
        probe: the run, the step, the recipes, and how many windows of each.
        params: those of the run after `probe.step` steps, on the program's mesh.
        store: its token store.
        program: of the run; it has the mesh and the shapes.
    """
    spec, execution = probe.run, curvature.execution_of(program)
    gradient = functools.partial(curvature.gradient, spec.model, execution)
    product = functools.partial(curvature.product, spec.model, execution)
    shares = dict(spec.data.evaluated)
    windows = curvature.validation_windows(spec, store, probe.windows)
    validation = {
        domain: curvature.chunks(program, rows_WT, 1 / len(rows_WT))
        for domain, rows_WT in windows.items()
    }
    slope_P = {domain: gradient(params, *chunks)[1] for domain, chunks in validation.items()}
    recipes: dict[str, dict[str, float]] = {}
    per_domain: dict[str, dict[str, dict[str, float]]] = {domain: {} for domain in shares}
    for name, weights in probe.recipes:
        source = BatchSource(
            store, weights, spec.data.seq_len, probe.train_windows, spec.hyper.data_seed
        )
        windows_WT = source.steps(0, 1)[0]
        grad_P = gradient(params, *curvature.chunks(program, windows_WT, 1 / probe.train_windows))[
            1
        ]
        sums = {"a": 0.0, "c": 0.0, "a_sign": 0.0, "c_sign": 0.0}
        for domain, share in shares.items():
            found = {}
            for suffix, along_P in (("", grad_P), ("_sign", jnp.sign(grad_P))):
                found[f"a{suffix}"] = float(slope_P[domain] @ along_P)
                found[f"c{suffix}"] = float(along_P @ product(params, *validation[domain], along_P))
            per_domain[domain][name] = found
            sums = {key: total + share * found[key] for key, total in sums.items()}
        recipes[name] = {**sums, "grad_norm": float(jnp.linalg.norm(grad_P))}
    every = curvature.mixture_chunks(program, shares, windows)
    top = curvature.top_eigenvalue(program, params, *every, probe.iterations, probe.tolerance)
    return {
        "run_id": spec.run_id,
        "size": spec.model.size,
        "N": counting.count(spec.model, spec.data.seq_len).params_total,
        "role": spec.tag.get("role", ""),
        "recipe": spec.tag.get("recipe", ""),
        "step": probe.step,
        "fraction": probe.step / spec.steps,
        "tokens": probe.step * spec.tokens_per_step,
        "warmup_end": probe.step == spec.hyper.warmup_steps,
        "recipes": recipes,
        "per_domain": per_domain,
        **top,
        "data_fingerprint": store.fingerprint,
        "validation_tokens": sum(rows.shape[0] for rows in windows.values()) * spec.data.seq_len,
        "train_tokens": probe.train_windows * spec.data.seq_len,
    }
