"""The training step and the evaluation, as pure functions of state, hypers and batch.

state: {params, opt, step, window}. `window` sums the metrics since the last train row, so that a
resumed run logs the same means.
hyper: the fields of configs.core.spec.Hyper that are traced, and log_every. Changing them never
recompiles.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stepladder.configs.core.spec import Hyper, ModelSpec, OptimizerSpec, RunSpec
from stepladder.model import transformer
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient, window_losses
from stepladder.train.step import optimizer, schedule

WINDOW = ("loss", "z_loss", "grad_norm", "count")
# Field of Hyper -> its dtype on the device, but for the order of the examples, which the host
# reads, and the penalty that few runs have
_DTYPES = {
    field.name: {int: np.int32, float: np.float32}[field.type]
    for field in dataclasses.fields(Hyper)
    if field.name not in ("data_seed", "l2_to_start")
}


def traced_hypers(spec: RunSpec) -> dict:
    """The hypers of a spec that its step takes as arguments: numpy scalars, int32 or float32."""
    hypers = {name: dtype(getattr(spec.hyper, name)) for name, dtype in _DTYPES.items()}
    if spec.optimizer.to_start:
        hypers["l2_to_start"] = np.float32(spec.hyper.l2_to_start)
    return {**hypers, "log_every": np.int32(spec.log_every)}


def initial_state(model: ModelSpec, optim: OptimizerSpec, hyper: dict) -> dict:
    """State before the first step; traceable in the seed."""
    params = transformer.init(model, jax.random.key(hyper["seed"]))
    tx = optimizer.OPTIMIZERS[optim.name](hyper, 1.0, optim.weight_decay_mode, model)
    return {
        "params": params,
        "opt": tx.init(params),
        "step": jnp.int32(0),
        "window": {name: jnp.float32(0) for name in WINDOW},
    }


def train_step(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    state: dict,
    hyper: dict,
    tokens_BT: jax.Array,
) -> tuple[dict, dict]:
    """(state after one step, metrics of the window so far), for a batch (B, L + 1) int32."""
    params, step = state["params"], state["step"]
    aux, grads = loss_and_gradient(model, params, tokens_BT, hyper["z_loss"], execution=execution)
    if model.marked:
        aux, grads = _over_counted(tokens_BT, (aux, grads))
    factor = schedule.factor(optim.schedule, step, hyper)
    tx = optimizer.OPTIMIZERS[optim.name](hyper, factor, optim.weight_decay_mode, model)
    updates, opt = tx.update(grads, state["opt"], params)
    new = {**aux, "grad_norm": optax.tree.norm(grads), "count": jnp.float32(1)}
    window = {name: state["window"][name] + new[name] for name in WINDOW}
    metrics = {name: window[name] / window["count"] for name in WINDOW if name != "count"}
    metrics |= {"learning_rate": factor * hyper["learning_rate"], "last_loss": aux["loss"]}
    row_ends = (step + 1) % hyper["log_every"] == 0
    window = {name: jnp.where(row_ends, 0.0, value) for name, value in window.items()}
    return {
        "params": optax.apply_updates(params, updates),
        "opt": opt,
        "step": step + 1,
        "window": window,
    }, metrics


def _over_counted(tokens_BT: jax.Array, means: tuple[dict, dict]) -> tuple[dict, dict]:
    """Means over all targets of a batch -> over those that count (Shape.marked)."""
    targets_BL = tokens_BT[:, 1:]
    scale = targets_BL.size / jnp.maximum((targets_BL >= 0).sum(), 1).astype(jnp.float32)
    return jax.tree.map(lambda mean: scale * mean, means)


def train_steps(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    state: dict,
    hyper: dict,
    count: jax.Array,
    tokens_SBT: jax.Array,
) -> tuple[dict, dict]:
    """`train_step` over the first `count` of S batches, in one dispatch: a small model's step takes
    less time than Python takes to start it.

    `count` is traced, so any number of steps up to S is the same executable, and the bits of a step
    do not depend on how steps are grouped.
    """
    one = functools.partial(train_step, model, optim, execution)

    def body(i: jax.Array, carry: tuple) -> tuple:
        return one(carry[0], hyper, jax.lax.dynamic_index_in_dim(tokens_SBT, i, keepdims=False))

    no_metrics = zeros_like_metrics(one, state, hyper, tokens_SBT[0])
    return jax.lax.fori_loop(0, count, body, (state, no_metrics))


def zeros_like_metrics(step, *args) -> dict:
    """Zeros in the shapes of the metrics that `step` returns for these arguments: what a loop over
    steps starts from.
    """
    shapes = jax.eval_shape(step, *args)[1]
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def chunked_window_losses(
    model: ModelSpec, execution: Execution, params: dict, windows_CBT: jax.Array
) -> jax.Array:
    """`window_losses` of C chunks of B windows, one chunk after another: (C, B) float32."""

    def chunk(tokens_BT: jax.Array) -> jax.Array:
        return window_losses(model, params, tokens_BT, execution=execution)

    return jax.lax.map(chunk, windows_CBT)
