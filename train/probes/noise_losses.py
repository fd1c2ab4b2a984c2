"""Losses of one checkpoint under many draws of noise, as one compiled program.

Draws are divided among the devices, each of which holds the whole model. On a device, models run
together under vmap, as many as its memory has room for, or one after another, as the runs of a pack
do there (DeviceKind.pack_mode): on CPU vmap makes the matrix products slower. A draw is made once
and used by all of its variants.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stepladder.configs.core import counting
from stepladder.configs.core.spec import ModelSpec
from stepladder.model import noise
from stepladder.model.execution import Execution
from stepladder.model.parallel.collectives import on_devices
from stepladder.train.hardware import arrays, memory_model
from stepladder.train.hardware.machine import attention_of, defaults_of, memory_of, pack_mode_of
from stepladder.train.step.program import EVAL_BATCH, Program
from stepladder.train.step.step import chunked_window_losses


def noise_losses(
    program: Program, params: dict, sd_J: dict, draws: int, seed: int, windows_WT: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(loss of every window without noise (W,), and with it (Q, J, W)), float64, nats a token.

    Args:
        program: of the model.
        params: on its mesh; every device gets all of them.
        sd_J: standard deviations of every tensor, a tree like that of `noise.deviations` whose
            leaves have a leading J: the variants. Traced: other values are the same executable.
        draws: how many, Q. Draw q is a function of (seed, q) alone.
        seed: of the draws.
        windows_WT: tokens.
    """
    mesh, devices = program.mesh, program.mesh.size
    chunks_CBT = chunked(program, windows_WT)
    # The first row has no noise; what pads the rows to a multiple of the devices has none either.
    rows = -(-(draws + 1) // devices) * devices
    noisy_Q = np.zeros(rows, np.float32)
    noisy_Q[1 : draws + 1] = 1
    by_draw = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    variants = jax.tree.leaves(sd_J)[0].shape[0]
    losses_QJCB = _noise_losses(
        program.spec.model,
        mesh,
        *together(program, variants, chunks_CBT.shape[1]),
        params,
        sd_J,
        jax.random.key(seed),
        *arrays.place((np.arange(-1, rows - 1, dtype=np.int32), noisy_Q), by_draw),
        program.put(chunks_CBT),
    )
    found_QJW = np.asarray(losses_QJCB, np.float64).reshape(rows, variants, -1)
    found_QJW = found_QJW[..., : len(windows_WT)]
    return found_QJW[0, 0], found_QJW[1 : draws + 1]


def chunked(program: Program, windows_WT: np.ndarray) -> np.ndarray:
    """The windows as chunks (C, B, T) of what a device takes at a time; the last is padded."""
    spec, count = program.spec, len(windows_WT)
    floats = defaults_of(program.machine).micro_batch_floats
    fitting = floats // (spec.data.seq_len * spec.model.d_model) if floats else EVAL_BATCH
    chunks = -(-count // max(1, min(EVAL_BATCH, fitting)))
    each = -(-count // chunks)
    padded_WT = np.pad(windows_WT, ((0, chunks * each - count), (0, 0)), mode="wrap")
    return padded_WT.astype(np.int32).reshape(chunks, each, -1)


def together(program: Program, variants: int, sequences: int) -> tuple[Execution, int, int]:
    """(how a model runs, draws that a device takes at a time, variants of a draw at a time); 0: one
    after another, without vmap.
    """
    machine, spec, forward = program.machine, program.spec, program.forward
    if pack_mode_of(machine) == "map":
        return forward, 0, 0
    each = 8.0 * counting.count(spec.model, spec.data.seq_len).params_total  # noisy, and the noise
    kept = defaults_of(machine).kept(forward.layers)
    each += sequences * memory_model.activations(spec, "full", kept)
    each += memory_model.logits(spec, sequences, forward.loss_floats)
    models = max(1, int(memory_model.FILL * memory_of(machine) / 2 / each))
    execution = dataclasses.replace(
        forward,
        attention=attention_of(machine, spec, True),
        loss_floats=-(-forward.loss_floats // min(models, 64)),
    )
    return execution, max(1, models // variants), min(models, variants)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _noise_losses(
    model: ModelSpec,
    mesh: Mesh,
    execution: Execution,
    draws_together: int,
    variants_together: int,
    params: dict,
    sd_J: dict,
    key: jax.Array,
    draw_Q: jax.Array,
    noisy_Q: jax.Array,
    chunks_CBT: jax.Array,
) -> jax.Array:
    """Losses (Q, J, C, B); row q has noise where noisy_Q is 1, and none where it is 0."""

    def local(
        params: dict,
        sd_J: dict,
        key: jax.Array,
        draw_Q: jax.Array,
        noisy_Q: jax.Array,
        chunks_CBT: jax.Array,
    ) -> jax.Array:
        def of_draw(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            draw, noisy = row
            normal = noise.standard_normal(params, jax.random.fold_in(key, draw))

            def of_variant(sd: dict) -> jax.Array:
                sd = jax.tree.map(lambda s: noisy * s, sd)
                moved = noise.perturbed(params, normal, sd)
                return chunked_window_losses(model, execution, moved, chunks_CBT)

            return _mapped(of_variant, sd_J, variants_together)

        return _mapped(of_draw, (draw_Q, noisy_Q), draws_together)

    whole, by_draw = PartitionSpec(), PartitionSpec(mesh.axis_names)
    losses_QJCB = on_devices(local, mesh, (whole, whole, whole, by_draw, by_draw, whole), by_draw)(
        params, sd_J, key, draw_Q, noisy_Q, chunks_CBT
    )
    return jax.lax.with_sharding_constraint(losses_QJCB, NamedSharding(mesh, whole))


def _mapped(function: Callable, xs: tuple | dict, together: int) -> jax.Array:
    """`function` of every element of the leading axis, `together` at a time under vmap."""
    count = jax.tree.leaves(xs)[0].shape[0]
    return jax.lax.map(function, xs, batch_size=min(together, count) or None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def window_losses(
    model: ModelSpec, execution: Execution, params: dict, chunks_CBT: jax.Array
) -> jax.Array:
    """Losses (C, B) of one model, compiled: each device computes all of them."""
    return chunked_window_losses(model, execution, params, chunks_CBT)
