"""The training step against an equivalent eager PyTorch step, interleaved in one process.

    # the table of docs/benchmarks/training_step.md
    python benchmarks/step_vs_torch.py
    python benchmarks/step_vs_torch.py --sizes 200k --seq 128 256 --rounds 9 --json
    # also scan, whole batches, one device
    python benchmarks/step_vs_torch.py --layouts

A step is forward, backward, clipping by global norm and AdamW. Both sides have the same shapes,
parameters and number of threads (jax: one host device a core); torch has a process of its own.
Rounds alternate and the ratio is between the fastest rounds of each: other load on the machine
hurts OpenMP's barriers far more than XLA, and medians would credit us with it.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import jax
import numpy as np
import optax
import step_breakdown
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stepladder.configs.core.counting import count
from stepladder.configs.core.sizes import shape
from stepladder.configs.core.spec import ModelSpec
from stepladder.model import execution
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.model.parallel import rules
from stepladder.model.transformer import init
from stepladder.train.hardware.defaults import CPU

TORCH = version("torch") if importlib.util.find_spec("torch") else None  # no dependency of ours
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.95, weight_decay=0.1)
)


class JaxStep:
    """A compiled training step and its state; call it with a number of steps."""

    def __init__(
        self, spec: ModelSpec, batch: int, seq_len: int, devices: int, layers: str, micro_batch: int
    ):
        mesh = jax.make_mesh(
            (1, devices, 1, 1),
            rules.AXES,
            devices=jax.devices()[:devices],
            axis_types=(AxisType.Auto,) * 4,
        )
        replicated = NamedSharding(mesh, PartitionSpec())
        by_batch = NamedSharding(mesh, PartitionSpec("data"))

        execution = Execution(layers=layers, micro_batch=micro_batch, mesh=mesh)

        def gradient(params: dict, tokens_BT: jax.Array) -> tuple[dict, dict]:
            return loss_and_gradient(spec, params, tokens_BT, execution=execution)

        def step(state: tuple, tokens_BT: jax.Array) -> tuple:
            params, opt = state
            aux, grads = gradient(params, tokens_BT)
            updates, opt = OPTIMIZER.update(grads, opt, params)
            return (optax.apply_updates(params, updates), opt), aux["loss"]

        params = jax.jit(lambda key: init(spec, key), out_shardings=replicated)(jax.random.key(0))
        self.state = params, jax.jit(OPTIMIZER.init, out_shardings=replicated)(params)
        tokens = np.random.default_rng(0).integers(
            0, spec.vocab_size, (batch, seq_len + 1), dtype=np.int32
        )
        self.tokens_BT = jax.device_put(tokens, by_batch)
        begin = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0, out_shardings=replicated).lower(
            self.state, self.tokens_BT
        )
        self.trace_seconds = time.perf_counter() - begin
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - begin - self.trace_seconds
        self.gradient = jax.jit(gradient, out_shardings=replicated)

    def __call__(self, n: int) -> float:
        for _ in range(n):
            self.state, loss = self.step(self.state, self.tokens_BT)
        return float(loss)


def race(
    contestants: dict[str, Callable[[int], float]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds a run of each contestant in each round; the order alternates."""
    repeats, times = {}, {name: [] for name in contestants}
    for name, run in contestants.items():
        run(2)
        begin = time.perf_counter()
        run(2)
        repeats[name] = max(1, round(seconds / ((time.perf_counter() - begin) / 2)))
    for i in range(rounds):
        for name in list(contestants)[:: 1 if i % 2 else -1]:
            begin = time.perf_counter()
            contestants[name](repeats[name])
            times[name].append((time.perf_counter() - begin) / repeats[name] * 1e3)
    return times


def measure(size: str, batch: int, seq_len: int, args: argparse.Namespace) -> dict:
    """One row of the table."""
    spec, cores = shape(size, vocab_size=257), args.threads
    best, floats = "unroll", CPU.micro_batch_floats
    micro_batch = execution.micro_batch_within(spec, batch // cores, seq_len, floats)
    jax_steps = {"jax": JaxStep(spec, batch, seq_len, cores, best, micro_batch)}
    if args.layouts:
        whole = execution.micro_batch_within(spec, batch, seq_len, floats)
        jax_steps |= {
            "jax scan": JaxStep(spec, batch, seq_len, cores, "scan", micro_batch),
            "jax whole batch": JaxStep(spec, batch, seq_len, cores, best, 0),
            "jax one device": JaxStep(spec, batch, seq_len, 1, best, whole),
            "jax one device, scan, whole batch": JaxStep(spec, batch, seq_len, 1, "scan", 0),
        }
    torch_steps = _torch_steps(spec, batch, seq_len, cores)
    times = race({**jax_steps, **torch_steps}, args.rounds, args.seconds)
    for torch_step in torch_steps.values():
        torch_step.close()
    fastest = {name: min(t) for name, t in times.items()}
    torch_best = min((fastest[name] for name in torch_steps), default=math.nan)
    numbers = count(spec, seq_len)
    step_ms = fastest["jax"]
    return {
        "size": size,
        "params": numbers.params_total,
        "batch": batch,
        "seq_len": seq_len,
        "micro_batch": micro_batch,
        "layers": best,
        "ms": {name: round(t, 2) for name, t in fastest.items()},
        "ms_median": {name: round(statistics.median(t), 2) for name, t in times.items()},
        "tokens_per_second": {
            name: round(batch * seq_len / t * 1e3) for name, t in fastest.items()
        },
        "gflops_per_second": round(
            numbers.flops_per_token_train * batch * seq_len / step_ms / 1e6, 1
        ),
        "ratio": {name: round(torch_best / fastest[name], 2) for name in jax_steps},
        "trace_seconds": {name: round(s.trace_seconds, 2) for name, s in jax_steps.items()},
        "compile_seconds": {name: round(s.compile_seconds, 2) for name, s in jax_steps.items()},
        "breakdown_ms": breakdown(
            spec, jax_steps["jax"], batch // cores, seq_len, micro_batch, best, args
        ),
    }


def _torch_steps(spec: ModelSpec, batch: int, seq_len: int, threads: int) -> dict:
    """Torch's side; nothing where torch is not installed."""
    if TORCH is None:
        return {}
    from torch_step import TorchProcess

    kinds = ("fused", "foreach")
    return {f"torch {kind}": TorchProcess(spec, batch, seq_len, kind, threads) for kind in kinds}


def breakdown(
    spec: ModelSpec,
    step: JaxStep,
    sequences: int,
    seq_len: int,
    micro_batch: int,
    layers: str,
    args: argparse.Namespace,
) -> dict:
    """Milliseconds of phases (optimizer: what is left of the step) and modules; phases on all
    devices, the rest on one device's share.
    """
    params = jax.device_put(jax.device_get(step.state[0]), jax.devices()[0])
    tokens_BT = jax.device_put(jax.device_get(step.tokens_BT)[:sequences], jax.devices()[0])
    gradient = step.gradient.lower(step.state[0], step.tokens_BT).compile()
    modules = step_breakdown.modules_of(spec, params, sequences, seq_len, micro_batch)
    times = race(
        {
            "step": lambda n: [step(1) for _ in range(n)][-1],
            "gradient": step_breakdown.repeated(lambda: gradient(step.state[0], step.tokens_BT)),
            "forward": step_breakdown.forward_of(spec, params, tokens_BT, micro_batch, layers),
            **{name: run for name, (_, run) in modules.items()},
        },
        max(3, args.rounds // 2),
        args.seconds / 3,
    )
    ms = {name: min(t) * (modules[name][0] if name in modules else 1) for name, t in times.items()}
    return {
        "forward": round(ms["forward"], 2),
        "backward": round(ms["gradient"] - ms["forward"], 2),
        "optimizer": round(ms["step"] - ms["gradient"], 2),
        **{f"{name} (both ways)": round(ms[name], 2) for name in modules},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["25k", "200k", "1m"], help="names of configs/core/sizes.py"
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[32])
    parser.add_argument("--seq", nargs="+", type=int, default=[128, 256])
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="torch threads and jax host devices; must divide the batch",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one contestant in one round")
    parser.add_argument(
        "--layouts", action="store_true", help="also the layouts that are not the default"
    )
    parser.add_argument("--tiny", action="store_true", help="one small shape, one short round")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.sizes, args.batch, args.seq, args.rounds, args.seconds = ["6k"], [4], [32], 1, 0.01
    jax.config.update("jax_num_cpu_devices", args.threads)
    versions = {
        "jax": jax.__version__,
        "torch": TORCH or "not installed: jax alone",
        "optax": optax.__version__,
        "threads": args.threads,
    }
    rows = []
    if not args.json:
        print(" ".join(f"{k} {v}" for k, v in versions.items()))
    for size in args.sizes:
        for batch in args.batch:
            for seq_len in args.seq:
                rows.append(measure(size, batch, seq_len, args))
                if not args.json:
                    show(rows[-1])
    if args.json:
        print(json.dumps({"versions": versions, "rows": rows}))


def show(row: dict) -> None:
    print(
        f"\n{row['size']}: {row['params']:,} parameters, {row['batch']} x {row['seq_len']}, "
        f"{row['layers']}, micro-batches of {row['micro_batch']}, "
        f"{row['gflops_per_second']} GFLOP/s"
    )
    for name, ms in row["ms"].items():
        extra = ""
        if name in row["ratio"]:
            extra = (
                f"  {row['ratio'][name]:5.2f}x torch  trace {row['trace_seconds'][name]} s, "
                f"compile {row['compile_seconds'][name]} s"
            )
        print(
            f"  {name:36s}{ms:9.2f} ms (median "
            f"{row['ms_median'][name]:.2f}){row['tokens_per_second'][name]:10,d} tokens/s{extra}"
        )
    print(
        "  " + ", ".join(f"{name} {ms}" for name, ms in row["breakdown_ms"].items()) + " ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
