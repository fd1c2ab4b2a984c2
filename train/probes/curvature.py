"""Curvature of the validation loss of a checkpoint: what the probes share.

Windows come in chunks (C, B, T) with weights (C, B), whose weighted mean losses are the loss; the
parameters are whole on every device, the rows of a chunk are divided among them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from stepladder.configs.core.spec import ModelSpec, RunSpec
from stepladder.model import curvature, noise
from stepladder.model.execution import Execution, micro_batch_within
from stepladder.train.data.read.batches import evaluation_windows
from stepladder.train.data.read.store import Store
from stepladder.train.hardware.machine import defaults_of
from stepladder.train.step.program import Program


def validation_windows(spec: RunSpec, store: Store, count: int) -> dict[str, np.ndarray]:
    """At most `count` windows of every domain that the run is evaluated on: (W, T) each."""
    return {
        domain: evaluation_windows(store, domain, spec.data.seq_len, count)
        for domain in dict(spec.data.evaluated)
    }


def mixture_chunks(
    program: Program, shares: dict[str, float], windows: dict[str, np.ndarray]
) -> tuple[jax.Array, np.ndarray]:
    """The chunks of the loss over all domains, each by its share."""
    weight_W = np.concatenate(
        [np.full(len(rows), shares[domain] / len(rows)) for domain, rows in windows.items()]
    )
    return chunks(program, np.concatenate(list(windows.values())), weight_W)


def chunks(
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


def execution_of(program: Program) -> Execution:
    """That of the program's forward pass, without kernels, which have no second derivative."""
    return dataclasses.replace(program.forward, attention="xla")


def top_eigenvalue(
    program: Program,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: np.ndarray,
    iterations: int,
    tolerance: float,
) -> dict:
    """lambda_max of the Hessian and its lambda_iterations, in nats; an eigenvalue lies within
    lambda_residual, |H v - lambda v|, of it.
    """
    start_P = jax.random.normal(
        jax.random.key(0), (sum(leaf.size for leaf in jax.tree.leaves(params)),)
    )
    static = program.spec.model, execution_of(program), iterations, tolerance

    def iterate(shift: jax.Array | float) -> curvature.Eigenvalue:
        # A number of the host both times, so that both calls are one executable.
        return _iterate(*static, params, tokens_CBT, weight_CB, start_P, float(shift))

    top = curvature.largest(iterate)
    return {
        "lambda_max": float(top.value),
        "lambda_iterations": int(top.iterations),
        "lambda_residual": float(top.residual * jnp.abs(top.value)),
    }


# Compiled once a model, for all steps of a run.
@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(
    model: ModelSpec,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As in model/curvature.py, compiled."""
    return curvature.gradient(model, execution, params, tokens_CBT, weight_CB)


@functools.partial(jax.jit, static_argnums=(0, 1))
def product(
    model: ModelSpec,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
    vector_P: jax.Array,
) -> jax.Array:
    """The Hessian times a vector, compiled."""
    return curvature.hessian_vector(model, execution, params, tokens_CBT, weight_CB, vector_P)


@functools.partial(jax.jit, static_argnums=(0, 1))
def trace_samples(
    model: ModelSpec,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
    keys: jax.Array,
) -> dict:
    """Hutchinson's estimates of the trace of every tensor's own block of the Hessian, one a key: a
    tree of deviations (model/noise.py) with that leading axis.
    """
    apply = functools.partial(
        curvature.hessian_vector, model, execution, params, tokens_CBT, weight_CB
    )
    return curvature.hutchinson(apply, params, noise.sums, keys)


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
    shift: jax.Array | float,
) -> curvature.Eigenvalue:
    apply = functools.partial(
        curvature.hessian_vector, model, execution, params, tokens_CBT, weight_CB
    )
    return curvature.largest_magnitude(apply, start_P, iterations, tolerance, shift)
