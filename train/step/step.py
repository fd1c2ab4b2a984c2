"""The training step and the evaluation, as pure functions of state, hypers and batch.

state: {params, opt, step, window}, and what step/trainable.py adds. `window` sums the metrics since
the last train row, so that a resumed run logs the same means.
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
from stepladder.train.step.trainable import TRAINABLE, extended

ADAPTERS = 1  # number of the random stream of adapters, beside that of the parameters
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
    state = {"params": params, "step": jnp.int32(0), "window": _empty_window()}
    return with_moments(model, optim, hyper, extended(optim, state, _key_of_adapters(hyper)))


def adopted_state(model: ModelSpec, optim: OptimizerSpec, hyper: dict, plain: dict) -> dict:
    """A state of `optim` that starts from the plain one of a parent (step/trainable.py).

    The moments are the parent's, or anew where they are of other parameters.
    """
    state = extended(optim, plain, _key_of_adapters(hyper))
    return with_moments(model, optim, hyper, state) if optim.trainable == "lora" else state


def with_moments(model: ModelSpec, optim: OptimizerSpec, hyper: dict, state: dict) -> dict:
    """The state with its optimizer's moments as they are at first."""
    kind = TRAINABLE[optim.trainable]
    return {**state, "opt": _optimizer(model, optim, hyper, 1.0).init(kind.tuned(state))}


def _optimizer(model: ModelSpec, optim: OptimizerSpec, hyper: dict, factor):
    roles = model if TRAINABLE[optim.trainable].own_roles else None
    return optimizer.OPTIMIZERS[optim.name](hyper, factor, optim.weight_decay_mode, roles)


def _key_of_adapters(hyper: dict) -> jax.Array:
    return jax.random.fold_in(jax.random.key(hyper["seed"]), ADAPTERS)


def _empty_window() -> dict:
    return {name: jnp.float32(0) for name in WINDOW}


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
    if optim.to_start:
        grads = jax.tree.map(
            lambda slope, now, then: slope + hyper["l2_to_start"] * (now - then),
            grads,
            params,
            state["start"],
        )
    kind = TRAINABLE[optim.trainable]
    tuned, grads = kind.tuned(state), kind.pull(state, grads)
    factor = schedule.factor(optim.schedule, step, hyper)
    tx = _optimizer(model, optim, hyper, factor)
    updates, opt = tx.update(grads, state["opt"], tuned)
    new = {**aux, "grad_norm": optax.tree.norm(grads), "count": jnp.float32(1)}
    window = {name: state["window"][name] + new[name] for name in WINDOW}
    metrics = {name: window[name] / window["count"] for name in WINDOW if name != "count"}
    metrics |= {"learning_rate": factor * hyper["learning_rate"], "last_loss": aux["loss"]}
    row_ends = (step + 1) % hyper["log_every"] == 0
    window = {name: jnp.where(row_ends, 0.0, value) for name, value in window.items()}
    changed = kind.merged(state, optax.apply_updates(tuned, kind.keep(updates)))
    return {**state, **changed, "opt": opt, "step": step + 1, "window": window}, metrics


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
