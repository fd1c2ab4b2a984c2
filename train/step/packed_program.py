"""A pack as one executable: the states of K members with a leading axis, sharded over the mesh axis
`run`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import NamedSharding
from jax.stages import Compiled, Traced, Wrapped

from stepladder.model.parallel import collectives
from stepladder.train.hardware import arrays
from stepladder.train.hardware.machine import pack_mode_of
from stepladder.train.hardware.mesh import by_batch, by_state, mesh_of_pack, replicated
from stepladder.train.processes import group
from stepladder.train.step.once import Once
from stepladder.train.step.packed_steps import MODES, REPLICATED, RUN
from stepladder.train.step.program import Program, dispatched

_INDEX = jax.ShapeDtypeStruct((), np.int32)


class Packed:
    """K members of one program. Members beyond those given are padding: they take no step."""

    def __init__(self, program: Program, members: int, streams: int):
        self.program, self.members, self.streams = program, members, streams
        spec, machine = program.spec, program.machine
        mode = pack_mode_of(machine)
        self.mesh = mesh_of_pack(machine, spec, members, mode)
        # Members are dealt to the devices in turn: the padding, and what ends early, is then
        # shared. rows[k] is the row of member k.
        devices, each = self.mesh.shape["run"], members // self.mesh.shape["run"]
        self.rows = [k % devices * each + k // devices for k in range(members)]
        self.by_run = NamedSharding(self.mesh, RUN)
        self.by_state = by_state(self.mesh, program.shapes, "run")
        self.by_member = by_state(self.mesh, program.shapes)
        mapped = mode == "vmap"
        self.execution = program.execution_on(self.mesh, each if mapped else 1, mapped)
        if not mapped:  # a device's members are its own: nothing is shared within one
            self.execution = dataclasses.replace(self.execution, mesh=None)
        self._steps = functools.partial(
            MODES[mode], spec.model, spec.optimizer, self.execution, self.mesh
        )
        self._tokens_shape = (streams, dispatched(spec), spec.batch_size, spec.data.seq_len + 1)
        self._tokens_sharding = by_batch(self.mesh, 2)
        self._executables = Once()

    @property
    def batch_rows(self) -> np.ndarray:
        """The rows of the batches that this process's devices hold."""
        return self._batch_rows

    @functools.cached_property
    def _batch_rows(self) -> np.ndarray:
        return arrays.batch_rows(self._tokens_sharding, self._tokens_shape, axis=2)

    @property
    def jaxpr(self) -> ClosedJaxpr:
        return self._traced.jaxpr

    def compile(self) -> Compiled:
        """(state, hyper, count, stream, tokens) -> (state, metrics), all but tokens with a leading
        K; the state is donated.
        """

        def compile() -> Compiled:
            self.program.compiled["step", self.program.spec.program_key] += 1
            return self._traced.lower().compile(self.program.compiler_options)

        return self._executables("step", compile)

    @functools.cached_property
    def _traced(self) -> Traced:
        hypers = self.program.hyper_shapes
        index = jax.ShapeDtypeStruct((self.members,), np.int32, sharding=self.by_run)
        tokens = jax.ShapeDtypeStruct(self._tokens_shape, np.int32, sharding=self._tokens_sharding)
        # all processes read all metrics
        metrics = self.by_run if group.count() == 1 else replicated(self.mesh)
        jitted = jax.jit(self._steps, donate_argnums=0, out_shardings=(self.by_state, metrics))
        return jitted.trace(
            self._stacked,
            self._with_members(hypers, jax.tree.map(lambda _: self.by_run, hypers)),
            index,
            index,
            tokens,
        )

    def hyper(self, values: Sequence[dict]) -> dict:
        """The members' hypers with a leading K; padding repeats the first."""
        rows = self._by_row(values, values[0])
        return arrays.place(jax.tree.map(lambda *x: np.stack(x), *rows), self.by_run)

    def place(self, states: Sequence[dict]) -> dict:
        """Stack states of the members' own programs on the pack's mesh; padding is zeros."""
        stacked = self._empty()()
        for row, state in zip(self.rows, states):
            stacked = self._put()(stacked, arrays.move(state, self.by_member), np.int32(row))
        return stacked

    def take(self, state: dict, member: int) -> dict:
        """The state of one member, on its own program's mesh."""
        own = self._take()(state, np.int32(self.rows[member]))
        return arrays.move(own, self.program.by_state)

    def batch(
        self, counts: Sequence[int], streams: Sequence[int], tokens: Sequence[list[np.ndarray]]
    ) -> tuple:
        """Arguments of `step` after state and hypers: how many steps each member takes, of which
        stream, and the streams' batches.
        """
        if self.streams == self.members:  # one stream a member: nothing is gathered
            tokens, streams = self._by_row([tokens[u] for u in streams], []), range(self.members)
        else:
            streams = self._by_row(streams, 0)
        U, S, _, T = self._tokens_shape
        tokens_USBT = np.zeros((U, S, len(self.batch_rows), T), np.int32)
        for u, batches in enumerate(tokens):
            if len(batches):
                tokens_USBT[u, : len(batches)] = batches
        index = np.array(self._by_row(counts, 0), np.int32), np.array(streams, np.int32)
        placed = arrays.place_rows(
            tokens_USBT, self.batch_rows, self._tokens_sharding, self._tokens_shape, axis=2
        )
        return *arrays.place(index, self.by_run), placed

    def fetch(self, metrics: dict) -> dict[str, np.ndarray]:
        """Metrics on the host, by member."""
        return {name: values[self.rows] for name, values in jax.device_get(metrics).items()}

    def _by_row(self, values: Sequence, padding: Any) -> list:
        """Values of members in the order of their rows."""
        rows = [padding] * self.members
        for row, value in zip(self.rows, values):
            rows[row] = value
        return rows

    def step(self, state: dict, hyper: dict, *batch: Any) -> tuple[dict, dict]:
        return self.compile()(state, hyper, *batch)

    # Executables that bring members in and out

    def compile_moves(self) -> None:
        """Compile what `place` and `take` run; they do it themselves where it is not done yet."""
        for compiled in (self._empty, self._put, self._take):
            compiled()

    def _empty(self) -> Compiled:
        """() -> stacked states of zeros."""

        def empty() -> dict:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._stacked)

        jitted = jax.jit(empty, out_shardings=self.by_state)
        return self._executables("empty", lambda: self._compile(jitted))

    def _put(self) -> Compiled:
        """(stacked states, one member's, its row) -> the stacked states with it."""

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
        on_devices = collectives.on_devices(local, self.mesh, (stacked, one, REPLICATED), stacked)
        jitted = jax.jit(on_devices, donate_argnums=0)
        arguments = self._stacked, self._one, _INDEX
        return self._executables("put", lambda: self._compile(jitted, *arguments))

    def _take(self) -> Compiled:
        """(stacked states, a row) -> that member's state."""

        def local(stacked, member):
            size = self.members // self.mesh.shape["run"]

            def pick(xs):
                return jax.lax.dynamic_index_in_dim(xs, member % size, 0, keepdims=False)

            return jax.tree.map(
                lambda xs: jax.lax.all_gather(pick(xs), "run")[member // size], stacked
            )

        stacked, one = self._specs
        on_devices = collectives.on_devices(local, self.mesh, (stacked, REPLICATED), one)
        jitted = jax.jit(on_devices)
        return self._executables("take", lambda: self._compile(jitted, self._stacked, _INDEX))

    def _compile(self, jitted: Wrapped, *arguments: Any) -> Compiled:
        return jitted.trace(*arguments).lower().compile(self.program.compiler_options)

    @functools.cached_property
    def _stacked(self) -> dict:
        """Shapes, dtypes and shardings of the members' states together."""
        return self._with_members(self.program.shapes, self.by_state)

    @functools.cached_property
    def _one(self) -> dict:
        """The same of one member's state, on the pack's mesh."""
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            self.program.shapes,
            self.by_member,
        )

    def _with_members(self, tree: Any, at: Any) -> Any:
        """Shapes and dtypes with a leading K, and where they lie."""
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct((self.members, *x.shape), x.dtype, sharding=at),
            tree,
            at,
        )

    @property
    def _specs(self) -> tuple[dict, dict]:
        """Partitions of a pack's state and of one member's."""
        return tuple(
            jax.tree.map(lambda at: at.spec, tree) for tree in (self.by_state, self.by_member)
        )
