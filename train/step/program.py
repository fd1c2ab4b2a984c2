"""What is compiled: initialisation, the training step and evaluation of one program, as pure
functions of state, hypers and batch.

state  = {params, opt, step, window}; `window` sums the metrics since the last train row, so a
resumed run logs the same means hyper  = the traced fields of configs.spec.Hyper (and log_every):
changing them never recompiles
"""

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from stepladder.configs.core import counting
from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import ModelSpec, OptimizerSpec, RunSpec
from stepladder.model import execution as executions
from stepladder.model import transformer
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient, window_losses
from stepladder.train.hardware import arrays, micro_batch
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware import mesh as meshes
from stepladder.train.hardware.machine import Machine
from stepladder.train.step import optimizer, schedule

COMPILED: Counter = Counter()  # how often each (function, program) was compiled in this process
# steps, and FLOPs, in one dispatch, at most: a notice to stop waits for two of them
DISPATCH, DISPATCH_FLOPS = 10, 1e15
EVAL_BATCH = 16  # windows a device evaluates in one forward pass, at most


def dispatched(spec: RunSpec) -> int:
    """Steps in one dispatch, at most; equal for runs of one program, whatever the hardware."""
    step = (
        counting.count(spec.model, spec.data.seq_len).flops_per_token_train * spec.tokens_per_step
    )
    return max(1, min(DISPATCH, int(DISPATCH_FLOPS / step)))


def traced(spec: RunSpec) -> dict:
    """The traced hypers of a spec as numpy scalars: int32 for lengths and seeds, float32 for the
    rest.
    """
    values = {**dataclasses.asdict(spec.hyper), "log_every": spec.log_every}
    del values["data_seed"]  # the host reads it; it orders the examples
    return {
        k: np.int32(v) if isinstance(v, int) and k not in _FLOATS else np.float32(v)
        for k, v in values.items()
    }


_FLOATS = (
    "learning_rate",
    "weight_decay",
    "beta1",
    "beta2",
    "epsilon",
    "clip_norm",
    "z_loss",
    "end_factor",
)
WINDOW = ("loss", "z_loss", "grad_norm", "count")


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
):
    """(state after one step, metrics of the window so far). tokens (B, L + 1) int32."""
    params, step = state["params"], state["step"]
    aux, grads = loss_and_gradient(model, params, tokens_BT, hyper["z_loss"], execution=execution)
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


def train_steps(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    state: dict,
    hyper: dict,
    count: jax.Array,
    tokens_SBT: jax.Array,
):
    """`train_step` over the first `count` of S batches, in one dispatch: a small model's step is
    shorter than Python's way to it.

    `count` is traced, so any number of steps up to S is the same executable, and a step's bits do
    not depend on how steps are grouped.
    """

    def body(i: jax.Array, carry: tuple) -> tuple:
        return train_step(
            model,
            optim,
            execution,
            carry[0],
            hyper,
            jax.lax.dynamic_index_in_dim(tokens_SBT, i, keepdims=False),
        )

    shapes = jax.eval_shape(
        functools.partial(train_step, model, optim, execution), state, hyper, tokens_SBT[0]
    )[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count, body, (state, nothing))


def evaluate(
    model: ModelSpec, execution: Execution, params: dict, windows_CBT: jax.Array
) -> jax.Array:
    """Mean negative log-likelihood, nats a token, of every window: (C, B) float32."""
    return jax.lax.map(
        lambda tokens_BT: window_losses(model, params, tokens_BT, execution=execution), windows_CBT
    )


@dataclass
class Program:
    """The executables of one program on one mesh, compiled when first asked for."""

    spec: RunSpec  # any spec of the program: its hypers are not read
    machine: Machine

    def __post_init__(self):
        o = self.spec.optimizer
        checks = (
            ("name", o.name, optimizer.OPTIMIZERS),
            ("weight_decay_mode", o.weight_decay_mode, optimizer.WEIGHT_DECAY_MODES),
            ("schedule", o.schedule, schedule.SCHEDULES),
        )
        for field, value, known in checks:
            if value not in known:
                raise UserError(f"optimizer.{field}={value!r}: unknown; {nearest(value, known)}")
        self.mesh = meshes.alone(self.machine, self.spec)
        self.replicated = meshes.replicated(self.mesh)
        self.backend = machines.platform(self.machine)
        table = executions.DEFAULTS[self.backend]
        runner = self.machine.layers if self.machine.layers != "auto" else table.layers
        self.forward = Execution(
            layers=runner,
            attention=machines.attention(self.machine, self.spec),
            loss_floats=table.loss_floats,
        )
        self.execution = self.execution_on(self.mesh)
        self.jaxprs: dict = {}  # name -> jaxpr of what was compiled
        self._evaluators: dict = {}  # chunks -> executable
        sharing = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        # On an accelerator at most a training step's micro-batch, which is known to fit.
        most = (
            min(EVAL_BATCH, self.execution.micro_batch or EVAL_BATCH)
            if self.backend != "cpu"
            else EVAL_BATCH
        )
        self.eval_batch = sharing * (
            executions.micro_batch(self.spec.model, most, self.spec.data.seq_len, self.backend)
            or most
        )
        self.shapes = jax.eval_shape(
            functools.partial(initial_state, self.spec.model, self.spec.optimizer),
            traced(self.spec),
        )
        self.by_state = meshes.by_state(self.mesh, self.shapes)

    def execution_on(self, mesh: Mesh, members: int = 1, mapped: bool = False) -> Execution:
        """How a step executes on a mesh whose devices train `members` runs at once; `mapped` when
        they do under vmap.
        """
        forward = dataclasses.replace(
            self.forward,
            attention=machines.attention(self.machine, self.spec, mapped),
            loss_floats=-(-self.forward.loss_floats // members),
            mesh=mesh,
        )
        return micro_batch.fitting(self.spec, self.machine, forward, members)

    @property
    def abstract_state(self) -> dict:
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            self.shapes,
            self.by_state,
        )

    def put(self, tree):
        """Move host values to the mesh, replicated."""
        return arrays.place(tree, self.replicated)

    def put_batches(self, batches: list[np.ndarray]) -> tuple[np.int32, jax.Array]:
        """(how many, the batches on the mesh, sharded by rows and padded to `dispatched`): the
        arguments of `step` after state and hypers.

        `batches` hold `batch_rows` of the whole batches.
        """
        tokens_SBT = np.zeros((dispatched(self.spec), *batches[0].shape), np.int32)
        tokens_SBT[: len(batches)] = batches
        return np.int32(len(batches)), arrays.place_rows(
            tokens_SBT, self.batch_rows, *self._batches, axis=1
        )

    @functools.cached_property
    def batch_rows(self) -> np.ndarray:
        """The rows of a batch that this process's devices hold."""
        return arrays.batch_rows(*self._batches, axis=1)

    @property
    def _batches(self) -> tuple[NamedSharding, tuple[int, ...]]:
        return meshes.by_batch(self.mesh, 1), (
            dispatched(self.spec),
            self.spec.batch_size,
            self.spec.data.seq_len + 1,
        )

    def put_windows(self, windows_CBT: np.ndarray) -> jax.Array:
        return arrays.place(windows_CBT, meshes.by_batch(self.mesh, 1))

    @functools.cached_property
    def init(self):
        fn = functools.partial(initial_state, self.spec.model, self.spec.optimizer)
        # LLVM spends half a second to optimise each random draw of a program that runs once.
        options = (
            {"xla_backend_optimization_level": 0}
            if self.mesh.devices.flat[0].platform == "cpu"
            else None
        )
        return self._compile(
            "init",
            jax.jit(fn, out_shardings=self.by_state, compiler_options=options),
            self.hyper_shapes,
        )

    @functools.cached_property
    def step(self):
        """(state, hyper, count, batches) -> (state after `count` steps, metrics of the last)."""
        fn = functools.partial(train_steps, self.spec.model, self.spec.optimizer, self.execution)
        sharding, shape = self._batches
        batches = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding)
        count = jax.ShapeDtypeStruct((), np.int32)
        jitted = jax.jit(fn, donate_argnums=0, out_shardings=(self.by_state, self.replicated))
        return self._compile("step", jitted, self.abstract_state, self.hyper_shapes, count, batches)

    def evaluator(self, chunks: int):
        """Compiled evaluation of (chunks, eval_batch, L + 1) windows."""
        if chunks not in self._evaluators:
            fn = functools.partial(
                evaluate, self.spec.model, dataclasses.replace(self.forward, mesh=self.mesh)
            )
            shape = (chunks, self.eval_batch, self.spec.data.seq_len + 1)
            windows = jax.ShapeDtypeStruct(shape, np.int32, sharding=meshes.by_batch(self.mesh, 1))
            jitted = jax.jit(fn, out_shardings=self.replicated)
            self._evaluators[chunks] = self._compile(
                "evaluate", jitted, self.abstract_state["params"], windows
            )
        return self._evaluators[chunks]

    @property
    def hyper_shapes(self) -> dict:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            traced(self.spec),
        )

    def _compile(self, name: str, jitted, *shapes):
        COMPILED[name, self.spec.program_key] += 1
        traced = jitted.trace(*shapes)
        self.jaxprs[name] = traced.jaxpr
        return traced.lower().compile()


_PROGRAMS: dict[tuple[str, Machine], Program] = {}


def program(spec: RunSpec, machine: Machine) -> Program:
    """The program of a spec, shared in this process by all specs with an equal program."""
    key = (spec.program_key, machine)
    if key not in _PROGRAMS:
        _PROGRAMS[key] = Program(spec, machine)
    return _PROGRAMS[key]
