"""How a step on each data recipe changes the validation loss: to first and second order, along the
gradient of the recipe.

A step of rate eta along the gradient g_i of recipe i changes the validation loss by
-eta a_i + eta^2 c_i / 2, with a_i = <g_val, g_i> and c_i = g_i^T H_val g_i (arXiv:2512.24503).
The optimizer is Adam, whose first steps go along the sign of the gradient: `a_sign` and `c_sign`
are the same along sign(g_i). No parameter is updated.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from stepladder.configs.core import counting
from stepladder.configs.core.measurements import Alignment
from stepladder.configs.core.spec import ModelSpec
from stepladder.model import curvature
from stepladder.model.execution import Execution, micro_batch_within
from stepladder.train.data.read.batches import BatchSource, evaluation_windows
from stepladder.train.data.read.store import Store
from stepladder.train.hardware.machine import defaults_of
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
    spec, execution = probe.run, _execution(program)
    gradient = functools.partial(_gradient, spec.model, execution)
    product = functools.partial(_product, spec.model, execution)
    shares = dict(spec.data.evaluated)
    windows = {
        domain: evaluation_windows(store, domain, spec.data.seq_len, probe.windows)
        for domain in shares
    }
    validation = {
        domain: _chunks(program, rows_WT, 1 / len(rows_WT)) for domain, rows_WT in windows.items()
    }
    slope_P = {domain: gradient(params, *chunks)[1] for domain, chunks in validation.items()}
    recipes: dict[str, dict[str, float]] = {}
    per_domain: dict[str, dict[str, dict[str, float]]] = {domain: {} for domain in shares}
    for name, weights in probe.recipes:
        source = BatchSource(
            store, weights, spec.data.seq_len, probe.train_windows, spec.hyper.data_seed
        )
        windows_WT = source.steps(0, 1)[0]
        grad_P = gradient(params, *_chunks(program, windows_WT, 1 / probe.train_windows))[1]
        sums = {"a": 0.0, "c": 0.0, "a_sign": 0.0, "c_sign": 0.0}
        for domain, share in shares.items():
            found = {}
            for suffix, along_P in (("", grad_P), ("_sign", jnp.sign(grad_P))):
                found[f"a{suffix}"] = float(slope_P[domain] @ along_P)
                found[f"c{suffix}"] = float(along_P @ product(params, *validation[domain], along_P))
            per_domain[domain][name] = found
            sums = {key: total + share * found[key] for key, total in sums.items()}
        recipes[name] = {**sums, "grad_norm": float(jnp.linalg.norm(grad_P))}
    top = _top_eigenvalue(probe, params, windows, shares, program)
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
        "lambda_max": float(top.value),
        "lambda_iterations": int(top.iterations),
        "lambda_residual": float(top.residual * jnp.abs(top.value)),
        "data_fingerprint": store.fingerprint,
        "validation_tokens": sum(rows.shape[0] for rows in windows.values()) * spec.data.seq_len,
        "train_tokens": probe.train_windows * spec.data.seq_len,
    }


def _top_eigenvalue(
    probe: Alignment, params: dict, windows: dict, shares: dict, program: Program
) -> curvature.Eigenvalue:
    """The top eigenvalue of the Hessian of the validation loss: every domain by its share."""
    weight_W = np.concatenate(
        [np.full(len(rows), shares[domain] / len(rows)) for domain, rows in windows.items()]
    )
    chunks = _chunks(program, np.concatenate(list(windows.values())), weight_W)
    start_P = jax.random.normal(
        jax.random.key(0), (sum(leaf.size for leaf in jax.tree.leaves(params)),)
    )
    static = probe.run.model, _execution(program), probe.iterations, probe.tolerance
    return curvature.largest(lambda shift: _iterate(*static, params, *chunks, start_P, shift))


def _execution(program: Program) -> Execution:
    """That of the program's forward pass, without kernels, which have no second derivative."""
    return dataclasses.replace(program.forward, attention="xla")


# Compiled once a model, for all steps of a run.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    model: ModelSpec,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return curvature.gradient(model, execution, params, tokens_CBT, weight_CB)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _product(
    model: ModelSpec,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
    vector_P: jax.Array,
) -> jax.Array:
    return curvature.hessian_vector(model, execution, params, tokens_CBT, weight_CB, vector_P)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _iterate(
    model: ModelSpec,
    execution: Execution,
    iterations: int,
    tolerance: float,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
    start_P: jax.Array,
    shift: jax.Array,
) -> curvature.Eigenvalue:
    apply = functools.partial(
        curvature.hessian_vector, model, execution, params, tokens_CBT, weight_CB
    )
    return curvature.largest_magnitude(apply, start_P, iterations, tolerance, shift)


def _chunks(
    program: Program, rows_WT: np.ndarray, weight_W: np.ndarray | float
) -> tuple[jax.Array, np.ndarray]:
    """Windows of tokens on the mesh (C, B, T), and their weights (C, B).

    C batches of B windows, as many as the devices take at a time; the last is padded by windows of
    weight 0.
    """
    spec, devices = program.spec, program.mesh.size
    each = -(-len(rows_WT) // devices)
    floats = defaults_of(program.machine).micro_batch_floats
    rows = devices * (micro_batch_within(spec.model, each, spec.data.seq_len, floats) or each)
    padding = -len(rows_WT) % rows
    weight_W = np.pad(np.broadcast_to(np.float32(weight_W), len(rows_WT)), (0, padding))
    padded_WT = np.pad(rows_WT, ((0, padding), (0, 0)), mode="wrap").astype(np.int32)
    tokens_CBT = program.put_windows(padded_WT.reshape(-1, rows, padded_WT.shape[1]))
    return tokens_CBT, weight_W.reshape(-1, rows)
