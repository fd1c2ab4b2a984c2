"""The executables of one program: initialisation, training step and evaluation on one mesh."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.stages import Compiled, Traced, Wrapped

from stepladder.configs.core import counting
from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import OptimizerSpec, RunSpec
from stepladder.model.execution import Execution, micro_batch_within
from stepladder.train.hardware import arrays, micro_batch, topology
from stepladder.train.hardware.machine import (
    Machine,
    attention_of,
    check_arithmetic,
    defaults_of,
    layers_of,
    platform_of,
)
from stepladder.train.hardware.mesh import by_batch, by_state, mesh_of_run, replicated
from stepladder.train.step.once import Once
from stepladder.train.step.optimizer import OPTIMIZERS, WEIGHT_DECAY_MODES
from stepladder.train.step.schedule import SCHEDULES
from stepladder.train.step.step import (
    adopted_state,
    chunked_window_losses,
    initial_state,
    traced_hypers,
    train_steps,
)
from stepladder.train.step.trainable import check as check_trainable

# Most steps, and FLOPs, in one dispatch: a request to stop is acted on two dispatches later at most
DISPATCH, DISPATCH_FLOPS = 10, 1e15
EVAL_BATCH = 16  # most windows that a device evaluates in one forward pass
# Field of OptimizerSpec -> the names it may have
CHOICES = {
    "name": OPTIMIZERS,
    "weight_decay_mode": WEIGHT_DECAY_MODES,
    "schedule": SCHEDULES,
}


def dispatched(spec: RunSpec) -> int:
    """Most steps in one dispatch; equal for runs of one program, whatever the hardware."""
    step = (
        counting.count(spec.model, spec.data.seq_len).flops_per_token_train * spec.tokens_per_step
    )
    return max(1, min(DISPATCH, int(DISPATCH_FLOPS / step)))


def check_names(optim: OptimizerSpec) -> None:
    """Raise UserError for a name that is in none of the tables of `CHOICES`."""
    for name, known in CHOICES.items():
        value = getattr(optim, name)
        if value not in known:
            raise UserError(f"optimizer.{name}={value!r}: unknown; {nearest(value, known)}")
    check_trainable(optim)


@dataclass(eq=False)
class Program:
    """What the runs of one program key execute on one machine. Everything compiles when first asked
    for, once.

    Raises UserError, when made, for an unknown optimizer or schedule, for an arithmetic that the
    machine does not have, for a mesh that the machine or the run cannot have, and for an attention
    implementation that cannot do what is asked.
    """

    spec: RunSpec  # any spec of the program: its hypers are not read
    machine: Machine
    # (executable, program key) -> how often it was compiled; may be shared by several programs
    compiled: Counter = field(default_factory=Counter)

    def __post_init__(self):
        check_names(self.spec.optimizer)
        check_arithmetic(self.machine, self.spec)
        self.mesh = mesh_of_run(self.machine, self.spec)
        self.backend = platform_of(self.machine)
        self.forward = self._forward()
        self.execution = self.execution_on(self.mesh)
        self._executables = Once()

    # How it executes

    def _forward(self) -> Execution:
        """A forward pass on one device of the machine."""
        row = defaults_of(self.machine)
        return Execution(
            layers=layers_of(self.machine, self.spec),
            attention=attention_of(self.machine, self.spec),
            embedding=row.embedding,
            normaliser=row.normaliser,
            loss_floats=row.loss_floats,
        )

    def execution_on(self, mesh: Mesh, members: int = 1, mapped: bool = False) -> Execution:
        """A training step on a mesh whose devices train `members` runs at once; `mapped` when they
        do under vmap.
        """
        forward = dataclasses.replace(
            self.forward,
            attention=attention_of(self.machine, self.spec, mapped),
            loss_floats=-(-self.forward.loss_floats // members),
            mesh=mesh,
        )
        return micro_batch.fitting(self.spec, self.machine, forward, members)

    @functools.cached_property
    def eval_batch(self) -> int:
        """Windows that all devices evaluate in one forward pass."""
        most = EVAL_BATCH
        if self.backend != "cpu":  # at most a training step's micro-batch, which is known to fit
            most = min(most, self.execution.micro_batch or most)
        model, seq_len = self.spec.model, self.spec.data.seq_len
        floats = defaults_of(self.machine).micro_batch_floats
        each = micro_batch_within(model, most, seq_len, floats) or most
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"] * each

    # Shapes, and where arrays lie

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        return replicated(self.mesh)

    @functools.cached_property
    def shapes(self) -> dict:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._initial_state, traced_hypers(self.spec))

    @functools.cached_property
    def by_state(self) -> dict:
        """Sharding of every leaf of the state."""
        return by_state(self.mesh, self.shapes)

    @property
    def abstract_state(self) -> dict:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            self.shapes,
            self.by_state,
        )

    @property
    def hyper_shapes(self) -> dict:
        """Shapes, dtypes and shardings of the traced hypers."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            traced_hypers(self.spec),
        )

    @functools.cached_property
    def batch_rows(self) -> np.ndarray:
        """The rows of a batch that this process's devices hold."""
        return arrays.batch_rows(*self._batches, axis=1)

    @property
    def _batches(self) -> tuple[NamedSharding, tuple[int, ...]]:
        """Sharding and shape of the batches of one dispatch, (S, B, L + 1)."""
        return by_batch(self.mesh, 1), (
            dispatched(self.spec),
            self.spec.batch_size,
            self.spec.data.seq_len + 1,
        )

    # Moving values to the mesh

    def put(self, tree):
        """Host values on the mesh, replicated."""
        return arrays.place(tree, self.replicated)

    def put_batches(self, batches: list[np.ndarray]) -> tuple[np.int32, jax.Array]:
        """(how many, the batches on the mesh, padded to `dispatched`): the arguments of `step`
        after state and hypers.

        `batches` hold the rows `batch_rows` of the whole batches.
        """
        tokens_SBT = np.zeros((dispatched(self.spec), *batches[0].shape), np.int32)
        tokens_SBT[: len(batches)] = batches
        return np.int32(len(batches)), arrays.place_rows(
            tokens_SBT, self.batch_rows, *self._batches, axis=1
        )

    def put_windows(self, windows_CBT: np.ndarray) -> jax.Array:
        """Chunks of windows on the mesh, sharded by rows."""
        return arrays.place(windows_CBT, by_batch(self.mesh, 1))

    # Executables

    def init(self, hyper: dict) -> dict:
        """State before the first step."""
        return self.compile_init()(hyper)

    def compile_init(self) -> Compiled:
        """hyper -> state."""
        # LLVM spends half a second to optimise each random draw of a program that runs once.
        options = {"xla_backend_optimization_level": 0} if self.backend == "cpu" else None
        jitted = jax.jit(self._initial_state, out_shardings=self.by_state, compiler_options=options)
        return self._once("init", lambda: jitted.trace(self.hyper_shapes))

    def adopt(self, plain: dict, hyper: dict) -> dict:
        """The state from which a run starts that goes on from another's plain one."""
        fn = functools.partial(adopted_state, self.spec.model, self.spec.optimizer)

        def trace() -> Traced:
            jitted: Wrapped = jax.jit(fn, out_shardings=self.by_state)
            return jitted.trace(self.hyper_shapes, self.plain.abstract_state)

        return self._once("adopt", trace)(hyper, plain)

    @functools.cached_property
    def plain(self) -> "Program":
        """That of the same model whose training changes all parameters: what a parent has."""
        optim = dataclasses.replace(self.spec.optimizer, trainable="all", rank=0, to_start=False)
        if optim == self.spec.optimizer:
            return self
        return Program(dataclasses.replace(self.spec, optimizer=optim), self.machine)

    def step(self, state: dict, hyper: dict, count: np.int32, batches_SBT: jax.Array) -> tuple:
        """(state after `count` steps, metrics of the last); the state given is donated."""
        return self.compile_step()(state, hyper, count, batches_SBT)

    def compile_step(self) -> Compiled:
        """(state, hyper, count, batches) -> (state, metrics)."""
        return self._once("step", lambda: self.traced_step)

    @functools.cached_property
    def traced_step(self) -> Traced:
        """The training step before it is compiled; its jaxpr is there even where compiling
        fails.
        """
        fn = functools.partial(train_steps, self.spec.model, self.spec.optimizer, self.execution)
        sharding, shape = self._batches
        batches = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding)
        count = jax.ShapeDtypeStruct((), np.int32)
        jitted = jax.jit(fn, donate_argnums=0, out_shardings=(self.by_state, self.replicated))
        return jitted.trace(self.abstract_state, self.hyper_shapes, count, batches)

    def compile_window_losses(self, chunks: int) -> Compiled:
        """(params, windows (chunks, eval_batch, L + 1)) -> losses (chunks, eval_batch)."""

        def trace() -> Traced:
            execution = dataclasses.replace(self.forward, mesh=self.mesh)
            fn = functools.partial(chunked_window_losses, self.spec.model, execution)
            shape = (chunks, self.eval_batch, self.spec.data.seq_len + 1)
            windows = jax.ShapeDtypeStruct(shape, np.int32, sharding=by_batch(self.mesh, 1))
            jitted: Wrapped = jax.jit(fn, out_shardings=self.replicated)
            return jitted.trace(self.abstract_state["params"], windows)

        return self._once(f"window losses {chunks}", trace)

    @property
    def _initial_state(self) -> Callable[[dict], dict]:
        return functools.partial(initial_state, self.spec.model, self.spec.optimizer)

    @property
    def compiler_options(self) -> dict[str, str | bool] | None:
        """Options of XLA beside those of a jit; None for its defaults."""
        return topology.compiler_options(self.machine.topology)

    def _once(self, name: str, trace: Callable[[], Traced]) -> Compiled:
        def compile() -> Compiled:
            self.compiled[name, self.spec.program_key] += 1
            return trace().lower().compile(self.compiler_options)

        return self._executables(name, compile)
