"""Synthetic records for the analysis tests: folders as the trainer writes them, from a known law,
in milliseconds.
"""

import json
import math
import time
from pathlib import Path

import numpy as np

from stepladder.configs.core import record
from stepladder.configs.core.spec import (
    CorpusSpec,
    DataSpec,
    Hyper,
    ModelSpec,
    OptimizerSpec,
    ParentSpec,
    RunSpec,
    to_dict,
)

SIZES = {
    "14k": 14_000,
    "25k": 26_000,
    "37k": 40_000,
    "84k": 90_000,
    "150k": 160_000,
    "450k": 480_000,
}
EMBEDDING = 4_000
DOMAINS = {"code": 0.15, "prose": -0.15}  # shift of the loss
TRUE = {"E": 1.2, "A": 60.0, "B": 400.0, "alpha": 0.38, "beta": 0.40}
SEQ_LEN, BATCH = 128, 16


def law(n: float, d: float) -> float:
    return TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]


def spec(
    size: str,
    steps: int,
    *,
    role: str = "proxy",
    seed: int = 0,
    rate: float = 1e-3,
    parent: ParentSpec | None = None,
    evals=(),
) -> RunSpec:
    corpus = CorpusSpec("embedded", (), tuple(DOMAINS), "bytes", 0.0, 0.05, (), "exact", 0)
    return RunSpec(
        name=f"{role}-{size}-s{seed}",
        batch_size=BATCH,
        steps=steps,
        log_every=max(1, steps // 50),
        eval_windows=64,
        model=ModelSpec(
            size, 257, 32, 2, 2, 2, 16, 88, "swiglu", True, True, 1e4, 1e-6, 0.0, "float32"
        ),
        data=DataSpec(corpus, tuple((d, 0.5) for d in DOMAINS), SEQ_LEN, 4.0),
        optimizer=OptimizerSpec(name="adamw", weight_decay_mode="independent", schedule="wsd"),
        hyper=Hyper(
            rate, 1e-3, 0.9, 0.95, 1e-8, 1.0, 0.0, 10, int(0.8 * steps), steps, 0.0, seed, seed
        ),
        eval_steps=tuple(evals) or (steps // 2, steps),
        checkpoint_steps=(steps,),
        parent=parent,
        tags=(("role", role),),
    )


def write_run(
    workdir: Path,
    run: RunSpec,
    *,
    state: str = record.DONE,
    loss=None,
    n: int | None = None,
    noise: float = 0.003,
    rng=None,
    **status,
) -> Path:
    """Write one record.

    `loss`: (N, D) -> nats per token at a decayed point; an undecayed one is 3 % worse.
    """
    rng = rng or np.random.default_rng(0)
    n = n or SIZES[run.model.size]
    folder = Path(workdir) / record.RUNS / run.run_id
    (folder / record.METRICS).mkdir(parents=True)
    per_token = 6 * n + 1000
    lineage = {
        "run_id": run.run_id,
        "spec_hash": run.hash,
        "data_fingerprint": "f",
        "parent": run.parent and {"run_id": run.parent.run_id, "step": run.parent.step},
        "tokenizer": {"name": "bytes"},
        "params_total": n,
        "params_non_embedding": n - EMBEDDING,
        "flops_per_token_train": per_token,
        "flops_per_token_6n": 6 * (n - EMBEDDING),
        "flops_per_token_inference": per_token / 3,
        "tokens_per_step": run.tokens_per_step,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {},
        "machine": {"platform": "cpu"},
    }
    (folder / record.SPEC).write_text(json.dumps(to_dict(run)))
    (folder / record.LINEAGE).write_text(json.dumps(lineage))
    (folder / record.STATUS).write_text(
        json.dumps({"state": state, "step": run.steps, "total_steps": run.steps, **status})
    )
    value = loss or law
    shock = noise * rng.standard_normal()
    lines = []

    def row(step: int, kind: str, **fields) -> None:
        lines.append({"step": step, "tokens": step * run.tokens_per_step, "kind": kind, **fields})

    start = run.start_step
    for step in range(start + run.log_every, run.steps + 1, run.log_every):
        d = step * run.tokens_per_step
        wobble = 1 + 0.004 * rng.standard_normal()
        anneal = 1.03 - 0.03 * max(
            0.0, (step - run.hyper.decay_start) / max(1, run.steps - run.hyper.decay_start)
        )
        now = min(5.6, value(n, d) * anneal) * wobble
        row(step, record.TRAIN, loss=now, z_loss=0.0, grad_norm=1.0, learning_rate=1e-3)
    for step in run.eval_steps:
        decayed = step >= run.hyper.total_steps
        base = value(n, step * run.tokens_per_step) * math.exp(shock) * (1 if decayed else 1.03)
        more = {
            "loss_se": 0.004,
            "windows": 64,
            "tokens_evaluated": 64 * SEQ_LEN,
            "decayed": decayed,
        }
        row(step, record.EVAL, domain="all", loss=base, bits_per_byte=base / math.log(2), **more)
        for domain, shift in DOMAINS.items():
            row(
                step,
                record.EVAL,
                domain=domain,
                loss=base + shift,
                bits_per_byte=(base + shift) / math.log(2),
                **more,
            )
    row(run.steps, record.TIMING, phase="window", seconds=9.0, tokens_per_second=1e5, mfu=0.2)
    for phase, seconds in {
        "compile": 1.0,
        "steps": 0.01 * run.steps,
        "eval": 0.3,
        "checkpoint": 0.1,
        "data": 0.05,
    }.items():
        row(run.steps, record.TIMING, phase=phase, seconds=seconds)
    part = record.part_name(start, run.steps)
    (folder / record.METRICS / part).write_text("".join(json.dumps(r) + "\n" for r in lines))
    return folder


def write_proxies(
    workdir: Path,
    *,
    seed: int = 0,
    noise: float = 0.003,
    sizes=("14k", "25k", "37k", "84k", "150k"),
    steps=(500, 1000, 2000),
) -> list[RunSpec]:
    """Five sizes, two seeds on the two smallest, and for each a trunk with cooldown branches at the
    shorter durations.
    """
    rng, specs = np.random.default_rng(seed), []
    for k, size in enumerate(sizes):
        for s in range(2 if k < 2 else 1):
            trunk = spec(
                size,
                steps[-1],
                role="trunk",
                seed=s,
                evals=[int(0.8 * t) for t in steps] + [steps[-1]],
            )
            branches = [
                spec(size, t, seed=s, parent=ParentSpec(trunk.run_id, int(0.8 * t)), evals=[t])
                for t in steps[:-1]
            ]
            for run in (trunk, *branches):
                write_run(workdir, run, noise=noise, rng=rng)
                specs.append(run)
    return specs


def write_sweep(
    workdir: Path,
    *,
    sizes=("14k", "37k", "150k"),
    steps=(500, 1000),
    seeds: int = 2,
    factors=range(-3, 4),
    seed: int = 7,
) -> None:
    """lr* = 0.5 N^-0.6 D^0.05, a parabola of 0.02 nats per squared natural log."""
    rng = np.random.default_rng(seed)
    for size in sizes:
        for t in steps:
            best = optimum(SIZES[size], t * SEQ_LEN * BATCH)
            for f in factors:
                rate = float(f"{best * 2.0**f * 1.1:.6g}")
                extra = 0.02 * math.log(rate / best) ** 2
                for s in range(seeds):
                    run = spec(size, t, role="sweep", seed=s, rate=rate)
                    write_run(
                        workdir,
                        run,
                        loss=lambda n, d, extra=extra: law(n, d) + extra,
                        noise=0.0005,
                        rng=rng,
                    )


def optimum(n: float, d: float) -> float:
    return 0.5 * n**-0.6 * d**0.05


def target_spec() -> RunSpec:
    return spec("450k", 4500, role="target")


def target_point() -> dict[str, float]:
    n, d = SIZES["450k"], 4500 * SEQ_LEN * BATCH
    return {"N": n, "D": d, "C": (6 * n + 1000) * d}


def write_target(workdir: Path, *, noise: float = 0.003, seed: int = 99) -> RunSpec:
    run = target_spec()
    write_run(workdir, run, noise=noise, rng=np.random.default_rng(seed))
    return run
