"""The coordinate check (arXiv:2203.03466, appendix D.1): how much activations change in a few
steps of training, as width or depth grows.

It needs the model, so it runs here; analysis/studies/coordinates/study.py reads the files
WORKDIR/studies/coordinates-AXIS.json that it writes.
"""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from stepladder.configs.core import record, sizes
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.spec import RunSpec
from stepladder.model.activations import MADE_BY, activations
from stepladder.model.execution import Execution
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.corpora import stores
from stepladder.train.processes.progress import track
from stepladder.train.step.step import initial_state, traced_hypers, train_step

STEPS = 10


def check(spec: RunSpec, batches: Sequence[np.ndarray]) -> list[dict]:
    """Rows {step, name, role, size, change, loss} of one run: a row an activation and step.

    The learning rate is that of `spec` throughout: ten steps would not see the end of a warm-up.

    Args:
        spec: the run.
        batches: tokens (B, L + 1), one array a step.

    Returns:
        size is the mean |activation|, change its mean |difference from step 0|, both on the first
        batch. loss, in nats a token, is that before the step's update (NaN at step 0).
    """
    model, optim = spec.model, spec.optimizer
    hyper = traced_hypers(spec) | {
        "warmup_steps": np.int32(0),
        "decay_start": np.int32(len(batches)),
        "total_steps": np.int32(len(batches)),
    }
    hyper["end_factor"] = np.float32(1)
    # On CPU, LLVM's optimisation takes longer than ten steps of the program without it.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    jit = functools.partial(jax.jit, compiler_options=options)
    state = jit(functools.partial(initial_state, model, optim))(hyper)
    step = jit(functools.partial(train_step, model, optim, Execution()), donate_argnums=0)
    tokens_BL = jnp.asarray(batches[0][:, :-1])
    measure = jit(functools.partial(_measure, model))
    first = jit(functools.partial(activations, model))(state["params"], tokens_BL)
    rows = _rows(0, measure(state["params"], tokens_BL, first), np.nan)
    for i, tokens_BT in enumerate(batches, 1):
        state, metrics = step(state, hyper, jnp.asarray(tokens_BT))
        rows += _rows(i, measure(state["params"], tokens_BL, first), float(metrics["last_loss"]))
    return rows


def _measure(model, params: dict, tokens_BL: jax.Array, first: dict) -> dict:
    def mean(x):
        return jnp.abs(x.astype(jnp.float32)).mean()

    return {
        name: (mean(x), mean(x - first[name]))
        for name, x in activations(model, params, tokens_BL).items()
    }


def _rows(step: int, measured: dict, loss: float) -> list[dict]:
    return [
        {
            "step": step,
            "name": name,
            "role": MADE_BY[name],
            "size": float(size),
            "change": float(change),
            "loss": loss,
        }
        for name, (size, change) in measured.items()
    ]


def specs(
    config: ConfigDict,
    parametrizations: Sequence[str],
    axis: str,
    values: Sequence[int],
    seeds: int = 1,
) -> Iterator[RunSpec]:
    """One run for each parametrisation, value of `axis` (width or depth) and seed.

    The smallest value is the base size, unless the config has one. Raises UserError when the config
    has no learning rate (that of the rule changes with size), for less than two values or one seed,
    and when a width is no multiple of the head size.
    """
    if not config.optimizer.learning_rate:
        raise UserError(
            "optimizer.learning_rate=0: a coordinate check holds the rate while the size grows; "
            "give one"
        )
    if len(set(values)) < 2:
        raise UserError(f"{axis}s={','.join(map(str, values))}: a slope needs at least two sizes")
    width, depth, head = sizes.dimensions(config.model.size)
    if seeds < 1:
        raise UserError(f"seeds={seeds}: must be at least 1")
    base = {
        "base_width": config.model.base_width or (min(values) if axis == "width" else width),
        "base_depth": config.model.base_depth or (min(values) if axis == "depth" else depth),
    }
    for name in parametrizations:
        for value in values:
            for seed in range(seeds):
                c = config.copy_and_resolve_references()
                c.unlock()
                w, d = (value, depth) if axis == "width" else (width, value)
                c.model.size, c.model.parametrization = f"w{w}d{d}h{head}", name
                c.seed = config.seed + seed
                for field, at in base.items():
                    c.model[field] = at if field in sizes.BASES.get(name, ()) else 0
                yield rung(c)


def run(
    config: ConfigDict,
    workdir: Path,
    axis: str,
    values: Sequence[int],
    parametrizations: Sequence[str],
    seeds: int = 1,
    show: bool = True,
) -> Path:
    """Check every size and parametrisation on the config's text; returns the file written.

    Raises UserError as `specs` does.
    """
    planned = list(specs(config, parametrizations, axis, values, seeds))
    first = planned[0]
    root = Path(config.machine.store) if config.machine.store else Path(workdir) / "data"
    store, data = stores([first], root, show=show)[first.data.corpus], first.data
    source = BatchSource(store, data.weights, data.seq_len, first.batch_size, first.hyper.data_seed)
    batches = list(source.steps(0, STEPS))
    found = [(spec, check(spec, batches)) for spec in track(planned, "coordinates", show)]
    return write(workdir, axis, found)


def write(workdir: Path, axis: str, found: list[tuple[RunSpec, list[dict]]]) -> Path:
    """Write WORKDIR/studies/coordinates-AXIS.json: a row an activation, step and run."""
    spec = found[0][0]
    rows = [
        {
            "parametrization": s.model.parametrization,
            "width": s.model.d_model,
            "depth": s.model.n_layers,
            "seed": s.hyper.seed,
            **row,
        }
        for s, measured in found
        for row in measured
    ]
    body = {
        "axis": axis,
        "learning_rate": spec.hyper.learning_rate,
        "batch_size": spec.batch_size,
        "seq_len": spec.data.seq_len,
        "base_width": max(s.model.base_width for s, _ in found),
        "base_depth": max(s.model.base_depth for s, _ in found),
        "rows": [{name: _null_if_nan(value) for name, value in row.items()} for row in rows],
    }
    path = Path(workdir) / record.STUDIES / f"coordinates-{axis}.json"
    write_atomic(path, json.dumps(body, allow_nan=False) + "\n")
    return path


def _null_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
