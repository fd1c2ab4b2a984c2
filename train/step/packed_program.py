"""How a pack executes: K members' states with a leading axis, one executable, sharded over the mesh
axis `run`.

`map`: every device takes its members one after another (lax.map): bit for bit the run alone on one
device. For backends that a single member already keeps busy, such as a CPU core. `vmap`: all
members of a device at once, for accelerators that a small model leaves idle.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stepladder.configs.core.spec import ModelSpec, OptimizerSpec, RunSpec
from stepladder.model.execution import Execution
from stepladder.model.parallel import collectives
from stepladder.train.hardware import arrays
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware import mesh as meshes
from stepladder.train.hardware.machine import Machine
from stepladder.train.processes import group
from stepladder.train.step.program import (
    COMPILED,
    Program,
    dispatched,
    program,
    train_step,
    train_steps,
)

RUN, WHOLE = PartitionSpec("run"), PartitionSpec()


def map_steps(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    mesh: Mesh,
    state_K,
    hyper_K,
    count_K,
    stream_K,
    tokens_USBT,
):
    """`train_steps` of every member, a device's members in turn: member k takes count[k] of the S
    batches of stream[k].
    """

    def one(state, hyper, count, stream, tokens_USBT):
        return train_steps(
            model,
            optim,
            execution,
            state,
            hyper,
            count,
            jax.lax.dynamic_index_in_dim(tokens_USBT, stream, keepdims=False),
        )

    def local(state_k, hyper_k, count_k, stream_k, tokens_USBT):
        return jax.lax.map(
            lambda member: one(*member, tokens_USBT), (state_k, hyper_k, count_k, stream_k)
        )

    split = collectives.split(local, mesh, (RUN, RUN, RUN, RUN, WHOLE), (RUN, RUN))
    return split(state_K, hyper_K, count_K, stream_K, tokens_USBT)


def vmap_steps(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    mesh: Mesh,
    state_K,
    hyper_K,
    count_K,
    stream_K,
    tokens_USBT,
):
    """The same with all members in one step; a member that has taken its count keeps its state.

    One stream is broadcast; as many streams as members are read in place (then stream[k] must be
    k); else a step gathers its batches.
    """
    (members,), streams = count_K.shape, tokens_USBT.shape[0]
    one = functools.partial(train_step, model, optim, execution)
    step_K = jax.vmap(one, in_axes=(0, 0, None if streams == 1 else 0), spmd_axis_name="run")

    def batch(i):
        tokens_UBT = jax.lax.dynamic_index_in_dim(tokens_USBT, i, axis=1, keepdims=False)
        return (
            tokens_UBT[0]
            if streams == 1
            else tokens_UBT
            if streams == members
            else tokens_UBT[stream_K]
        )

    def body(i, carry):
        active_K = i < count_K

        def keep(new, old):
            return jnp.where(active_K.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(keep, step_K(carry[0], hyper_K, batch(i)), carry)

    shapes = jax.eval_shape(step_K, state_K, hyper_K, batch(0))[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count_K.max(), body, (state_K, nothing))


MODES = {"map": map_steps, "vmap": vmap_steps}


class Alone:
    """One member, without the leading axis: the run's own executable, data-parallel over all
    devices.
    """

    def __init__(self, program: Program):
        self.program, self.mesh, self.execution = program, program.mesh, program.execution
        self.members, self.streams = 1, 1

    @property
    def batch_rows(self) -> np.ndarray:
        return self.program.batch_rows

    def compile(self):
        return self.program.step

    @property
    def jaxpr(self):
        """Of the step, once `compile` was called, even if it failed."""
        return self.program.jaxprs["step"]

    def hyper(self, values: Sequence[dict]):
        return self.program.put(values[0])

    def place(self, states: Sequence[dict]) -> dict:
        return states[0]

    def take(self, state: dict, member: int) -> dict:
        return state

    def batch(
        self, counts: Sequence[int], streams: Sequence[int], tokens: Sequence[list[np.ndarray]]
    ) -> tuple:
        return self.program.put_batches(tokens[0])

    def fetch(self, metrics: dict) -> dict[str, np.ndarray]:
        return {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}

    def step(self, state: dict, hyper: dict, *batch) -> tuple[dict, dict]:
        return self.program.step(state, hyper, *batch)


class Packed:
    """K members of one program. Members beyond those given are padding: they take no step."""

    def __init__(self, program: Program, members: int, streams: int):
        self.program, self.members, self.streams = program, members, streams
        spec, machine = program.spec, program.machine
        self.mode = machines.pack_mode(machine)
        self.mesh = meshes.of_pack(machine, spec, members, self.mode)
        each = members // self.mesh.shape["run"]
        # Members are dealt to the devices in turn: the padding, and what ends early, is then
        # shared.
        self.rows = [
            k % self.mesh.shape["run"] * each + k // self.mesh.shape["run"] for k in range(members)
        ]  # of member k
        self.by_run = NamedSharding(self.mesh, RUN)
        self.by_state, self.by_member = (
            meshes.by_state(self.mesh, program.shapes, *axes) for axes in (("run",), ())
        )
        mapped = self.mode == "vmap"
        execution = self.program.execution_on(self.mesh, each if mapped else 1, mapped)
        if self.mode == "map":  # a device's members are its own: nothing is shared within one
            execution = dataclasses.replace(execution, mesh=None)
        self.execution = execution
        self._steps = functools.partial(
            MODES[self.mode], spec.model, spec.optimizer, execution, self.mesh
        )
        self._tokens_shape = (streams, dispatched(spec), spec.batch_size, spec.data.seq_len + 1)
        self._tokens_sharding = meshes.by_batch(self.mesh, 2)

    @functools.cached_property
    def batch_rows(self) -> np.ndarray:
        """The rows of the batches that this process's devices hold."""
        return arrays.batch_rows(self._tokens_sharding, self._tokens_shape, axis=2)

    def compile(self):
        return self.executable

    @functools.cached_property
    def executable(self):
        """(state, hyper, count, stream, tokens) -> (state, metrics), all but tokens with a leading
        K; the state is donated.
        """

        def stacked(tree, at):
            return jax.tree.map(
                lambda x, at: jax.ShapeDtypeStruct((self.members, *x.shape), x.dtype, sharding=at),
                tree,
                at,
            )

        hypers = self.program.hyper_shapes
        index = jax.ShapeDtypeStruct((self.members,), np.int32, sharding=self.by_run)
        tokens = jax.ShapeDtypeStruct(self._tokens_shape, np.int32, sharding=self._tokens_sharding)
        # all processes read all metrics
        metrics = self.by_run if group.count() == 1 else meshes.replicated(self.mesh)
        jitted = jax.jit(self._steps, donate_argnums=0, out_shardings=(self.by_state, metrics))
        COMPILED["step", self.program.spec.program_key] += 1
        shapes = (
            stacked(self.program.shapes, self.by_state),
            stacked(hypers, jax.tree.map(lambda _: self.by_run, hypers)),
        )
        traced = jitted.trace(*shapes, index, index, tokens)
        self.jaxpr = traced.jaxpr
        return traced.lower().compile()

    def hyper(self, values: Sequence[dict]) -> dict:
        rows = self._by_row(values, values[0])
        return arrays.place(jax.tree.map(lambda *x: np.stack(x), *rows), self.by_run)

    def place(self, states: Sequence[dict]) -> dict:
        """Stack states of the members' own programs on the pack's mesh; padding is zeros."""

        def empty():
            return jax.tree.map(
                lambda x: jnp.zeros((self.members, *x.shape), x.dtype), self.program.shapes
            )

        stacked = jax.jit(empty, out_shardings=self.by_state)()
        for row, state in zip(self.rows, states):
            stacked = self._put(stacked, arrays.move(state, self.by_member), np.int32(row))
        return stacked

    def take(self, state: dict, member: int) -> dict:
        """The state of one member, on its own program's mesh."""
        return arrays.move(self._take(state, np.int32(self.rows[member])), self.program.by_state)

    def batch(
        self, counts: Sequence[int], streams: Sequence[int], tokens: Sequence[list[np.ndarray]]
    ) -> tuple:
        """Arguments of `step` after state and hypers: how many steps each member takes, of which
        stream, and the streams' batches.
        """
        if self.streams == self.members:  # read in place
            tokens, streams = self._by_row([tokens[u] for u in streams], []), range(self.members)
        else:
            streams = self._by_row(streams, 0)
        U, S, _, T = self._tokens_shape
        tokens_USBT = np.zeros((U, S, len(self.batch_rows), T), np.int32)
        for u, batches in enumerate(tokens):
            if len(batches):
                tokens_USBT[u, : len(batches)] = batches
        index = np.array(self._by_row(counts, 0), np.int32), np.array(streams, np.int32)
        tokens = arrays.place_rows(
            tokens_USBT, self.batch_rows, self._tokens_sharding, self._tokens_shape, axis=2
        )
        return *arrays.place(index, self.by_run), tokens

    def fetch(self, metrics: dict) -> dict[str, np.ndarray]:
        """Metrics on the host, by member."""
        return {name: values[self.rows] for name, values in jax.device_get(metrics).items()}

    def _by_row(self, values: Sequence, padding) -> list:
        rows = [padding] * self.members
        for row, value in zip(self.rows, values):
            rows[row] = value
        return rows

    def step(self, state: dict, hyper: dict, *batch) -> tuple[dict, dict]:
        return self.executable(state, hyper, *batch)

    @functools.cached_property
    def _put(self):
        def local(stacked, state, member):
            own = member - jax.lax.axis_index("run") * (self.members // self.mesh.shape["run"])
            mine = jax.lax.dynamic_update_index_in_dim
            return jax.tree.map(
                lambda xs, x: jnp.where(
                    (own >= 0) & (own < xs.shape[0]),
                    mine(xs, x, jnp.clip(own, 0, xs.shape[0] - 1), 0),
                    xs,
                ),
                stacked,
                state,
            )

        stacked, one = self._specs
        return jax.jit(
            collectives.split(local, self.mesh, (stacked, one, WHOLE), stacked), donate_argnums=0
        )

    @functools.cached_property
    def _take(self):
        def local(stacked, member):
            size = self.members // self.mesh.shape["run"]

            def pick(xs):
                return jax.lax.dynamic_index_in_dim(xs, member % size, 0, keepdims=False)

            return jax.tree.map(
                lambda xs: jax.lax.all_gather(pick(xs), "run")[member // size], stacked
            )

        stacked, one = self._specs
        return jax.jit(collectives.split(local, self.mesh, (stacked, WHOLE), one))

    @property
    def _specs(self) -> tuple[dict, dict]:
        """Partitions of a pack's state and of one member's."""
        return tuple(
            jax.tree.map(lambda at: at.spec, tree) for tree in (self.by_state, self.by_member)
        )


_PACKED: dict[tuple[str, Machine, int, int], Packed] = {}


def packed(spec: RunSpec, machine: Machine, members: int, streams: int) -> Alone | Packed:
    """What executes `members` runs of the program of `spec`, shared in this process by all packs of
    that size.
    """
    if members == 1:
        return Alone(program(spec, machine))
    key = (spec.program_key, machine, members, streams)
    if key not in _PACKED:
        _PACKED[key] = Packed(program(spec, machine), members, streams)
    return _PACKED[key]


class Fetched:
    """Metrics of one dispatch, brought to the host once for all members, when first asked for."""

    def __init__(self, pack: Alone | Packed, metrics: dict):
        self.pack, self.metrics, self._host = pack, metrics, None

    @property
    def ready(self) -> bool:
        return self.metrics["last_loss"].is_ready()

    def __call__(self, member: int) -> dict[str, float]:
        if self._host is None:
            self._host = self.pack.fetch(self.metrics)
        return {name: float(values[member]) for name, values in self._host.items()}
